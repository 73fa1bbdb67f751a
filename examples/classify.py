"""From a photograph to a label: python3 classify.py BUNDLE photo.jpg"""

import sys

sys.path.insert(0, sys.argv[1])
from mobilenet import Mobilenet

with Mobilenet(sys.argv[1]) as net:
    for label, score in net.classify(sys.argv[2], top=3):
        print(f"{score:.3f} {label}")
