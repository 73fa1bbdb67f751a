"""Compare two faces by an embedding network: python3 same_face.py BUNDLE a.jpg b.jpg [LEAST]

The network's first output is an embedding. If the cosine of two embeddings is at least LEAST (0.4), the photographs
show the same person. The right threshold depends on the network. Photographs must be cropped as in its training.
"""

import sys

import numpy as np

sys.path.insert(0, sys.argv[1] if len(sys.argv) > 3 else sys.exit(__doc__))
try:
    from mobilenet import Mobilenet, MobilenetError
except ImportError as e:
    sys.exit(f"error: {e}: BUNDLE is the folder that holds mobilenet.py; tar -xf unpacks an archive")


def embedding(net, photo):
    """The embedding with length 1, (values,)."""
    found = net.run(net.preprocess(photo))[0].ravel()
    return found / np.linalg.norm(found)


try:
    with Mobilenet(sys.argv[1]) as net:
        cosine = float(embedding(net, sys.argv[2]) @ embedding(net, sys.argv[3]))
    same = cosine >= float([*sys.argv, 0.4][4])
except (MobilenetError, ValueError) as e:
    sys.exit(f"error: {e}")
print(f"cosine {cosine:.4f}: {'one person' if same else 'two persons'}")
