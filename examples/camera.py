"""What a camera sees, and how many frames a second: python3 camera.py BUNDLE [FOLDER]

By picamera2 (python3-picamera2) or OpenCV (python3-opencv), whichever is installed; a FOLDER of pictures stands in for
a camera.
"""

import importlib.util
import sys
from pathlib import Path

sys.path.insert(0, sys.argv[1])
from mobilenet import FrameRate, Mobilenet

SIZE = (640, 480)


def picamera2_frames():
    from picamera2 import Picamera2

    with Picamera2() as camera:
        camera.configure(camera.create_video_configuration(main={"format": "RGB888", "size": SIZE}))
        camera.start()
        while True:
            yield camera.capture_array(), True  # libcamera's RGB888 lies in memory as blue, green, red


def opencv_frames():
    import cv2

    camera = cv2.VideoCapture(0)
    while (read := camera.read())[0]:
        yield read[1], True
    camera.release()


def folder_frames(folder):
    for path in sorted(Path(folder).iterdir()):
        yield Mobilenet.read(path), False


def frames():
    if len(sys.argv) > 2:
        return folder_frames(sys.argv[2])
    for module, source in (("picamera2", picamera2_frames), ("cv2", opencv_frames)):
        if importlib.util.find_spec(module):
            return source()
    sys.exit("no picamera2 and no OpenCV: apt-get install python3-picamera2, or name a folder of pictures")


begin, end = ("\r\033[K", "") if sys.stdout.isatty() else ("", "\n")  # one line of a terminal, else one a frame
rate = FrameRate()
with Mobilenet(sys.argv[1]) as net:
    try:
        for frame, bgr in frames():
            best = net.top(net.run_image(frame, bgr), 1)[0]
            print(f"{begin}{rate.tick():6.1f} frames a second  class {best.index}  {best.label}", end=end, flush=True)
    except KeyboardInterrupt:
        pass
