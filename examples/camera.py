"""Classify the frames of a camera and count frames a second: python3 camera.py BUNDLE [FOLDER]

Frames come from picamera2 (python3-picamera2) or OpenCV (python3-opencv), or from a FOLDER of images.
"""

import importlib.util
import sys
from pathlib import Path

sys.path.insert(0, sys.argv[1] if len(sys.argv) > 1 else sys.exit(__doc__))
try:
    from mobilenet import FrameRate, Mobilenet, MobilenetError
except ImportError as e:
    sys.exit(f"error: {e}: BUNDLE is the folder that holds mobilenet.py; tar -xf unpacks an archive")


def picamera2_frames():
    from picamera2 import Picamera2

    with Picamera2() as camera:
        camera.configure(camera.create_video_configuration(main={"format": "RGB888", "size": (640, 480)}))
        camera.start()
        while True:
            yield camera.capture_array(), True  # libcamera's RGB888 has the bytes blue, green, red


def opencv_frames():
    camera = importlib.import_module("cv2").VideoCapture(0)
    while (read := camera.read())[0]:
        yield read[1], True
    camera.release()


def folder_frames(folder):
    for path in sorted(Path(folder).iterdir()):
        try:
            yield Mobilenet.read(path), False
        except MobilenetError as e:
            print(f"skipped: {e}", file=sys.stderr)


def frames():
    if len(sys.argv) > 2:
        return folder_frames(sys.argv[2])
    cameras = {"picamera2": picamera2_frames, "cv2": opencv_frames}
    there = next(filter(importlib.util.find_spec, cameras), None)
    return cameras[there]() if there else sys.exit("no picamera2 and no OpenCV: apt-get install python3-picamera2")


begin, end = ("\r\033[K", "") if sys.stdout.isatty() else ("", "\n")  # a terminal keeps one line
try:
    with Mobilenet(sys.argv[1]) as net:
        rate = FrameRate()
        for frame, bgr in frames():
            best = net.top(net.run_image(frame, bgr), 1)[0]
            print(f"{begin}{rate.tick():6.1f} frames a second  class {best.index}  {best.label}", end=end, flush=True)
except (MobilenetError, OSError, KeyboardInterrupt) as e:
    sys.exit(f"error: {e}" if str(e) else 0)
