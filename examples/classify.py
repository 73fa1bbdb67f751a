"""From a photograph to a label: python3 classify.py BUNDLE photo.jpg"""

import sys

sys.path.insert(0, sys.argv[1] if len(sys.argv) > 2 else sys.exit(__doc__))
try:
    from mobilenet import Mobilenet, MobilenetError
except ImportError as e:
    sys.exit(f"error: {e}: BUNDLE is the folder that holds mobilenet.py; tar -xf unpacks an archive")

try:
    with Mobilenet(sys.argv[1]) as net:
        for best in net.top(net.run_image(sys.argv[2]), 3):
            print(f"class {best.index}  {100 * (best.probability or 0):6.2f} %  {best.label}")
except MobilenetError as e:
    sys.exit(f"error: {e}")
