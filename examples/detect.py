"""From a photograph to boxes, by an SSDLite: python3 detect.py BUNDLE photo.jpg [LEAST]

The network must have raw heads, `boxes` (1, priors, 4) and `logits` (1, priors, classes), and a build with --resize
squash. Priors are torchvision's: six shapes at each position of maps of halving size.
"""

import sys

import numpy as np

sys.path.insert(0, sys.argv[1] if len(sys.argv) > 2 else sys.exit(__doc__))
try:
    from mobilenet import Mobilenet, MobilenetError
except ImportError as e:
    sys.exit(f"error: {e}: BUNDLE is the folder that holds mobilenet.py; tar -xf unpacks an archive")


def priors(count, side=1):  # centre and size of each (count, 4); `side`: least height of the first map
    maps = [side]
    while maps[-1] > 1 and 6 * sum(side * side for side in maps) < count:
        maps.append((maps[-1] + 1) // 2)  # 20, 10, 5, 3, 2, 1 of SSDLite320
    if 6 * sum(side * side for side in maps) != count:
        return priors(count, maps[0] + 1)
    scales, found, ratios = [*np.linspace(0.2, 0.95, len(maps)), 1.0], [], np.sqrt([1, 1, 2, 1 / 2, 3, 1 / 3])
    for i, side in enumerate(maps):
        scale = np.array([scales[i], np.sqrt(scales[i] * scales[i + 1]), *[scales[i]] * 4])
        width, height = np.minimum([scale * ratios, scale / ratios], 1)
        y, x = (np.indices((side, side)).reshape(2, -1, 1) + 0.5) / side
        found += np.stack(np.broadcast_arrays(x, y, width, height), -1).reshape(-1, 4).tolist()
    return np.array(found)


def decode(boxes):  # left, top, right, bottom (priors, 4), as parts of the photograph's width and height
    middle, size = np.hsplit(priors(len(boxes)), 2)
    centre, half = middle + boxes[:, :2] / 10 * size, size * np.exp(boxes[:, 2:] / 5) / 2
    return np.clip(np.hstack([centre - half, centre + half]), 0, 1)


def suppress(boxes, scores, overlap=0.55):  # indices of the best boxes that overlap by less
    order, left, area = np.argsort(-scores), [], np.prod(boxes[:, 2:] - boxes[:, :2], 1)
    while len(order):
        left, best, order = [*left, order[0]], order[0], order[1:]
        low, high = np.maximum(boxes[best, :2], boxes[order, :2]), np.minimum(boxes[best, 2:], boxes[order, 2:])
        shared = np.prod(np.clip(high - low, 0, None), 1)
        order = order[shared <= overlap * (area[best] + area[order] - shared)]
    return left


try:
    with Mobilenet(sys.argv[1]) as net:
        found = net.run_named(net.preprocess(sys.argv[2]))
    boxes, logits, least = decode(found["boxes"][0]), found["logits"][0], float([*sys.argv, 0.5][3])
except (MobilenetError, ValueError, KeyError) as e:
    sys.exit(f"error: {e}" + " is not an output of this network" * isinstance(e, KeyError))
scores = (powers := np.exp(logits - logits.max(-1, keepdims=True))) / powers.sum(-1, keepdims=True)
for kind in range(1, scores.shape[1]):  # class 0 is the background
    likely = np.flatnonzero(scores[:, kind] >= least)
    for i in likely[suppress(boxes[likely], scores[likely, kind])]:
        print(f"{scores[i, kind]:.3f} class {kind} at " + " ".join(f"{side:.3f}" for side in boxes[i]))
