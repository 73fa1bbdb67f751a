"""Notices on which a network's answers depend, such as seeded weights or assumed preprocessing.

Every verb that shows classes, or makes a file that will show them, prints one sentence for each on stderr.
"""

from __future__ import annotations

from tvm_mobilenet.checking.tolerance import COLLAPSED, collapse_remedy
from tvm_mobilenet.models import labels
from tvm_mobilenet.models.preprocess import FIELDS
from tvm_mobilenet.passes.precision import lost
from tvm_mobilenet.terminal import console

SEEDED = "weights are seeded random numbers: classes mean nothing; give trained ones with --weights FILE"


def notices(network) -> list[str]:
    """The notices that apply to a ``Network``."""
    found, title = [], network.options.title
    if network.seeded:
        found.append(SEEDED)
    port, image = network.signature.inputs[0], network.image
    if image is None:
        shapes = ", ".join(f"{p.name} {p.shape}" for p in network.signature.inputs)
        several = len(network.signature.inputs) > 1
        why = f"its inputs are {shapes}" if several else f"{shapes} has neither 3 nor 1 channels"
        found.append(f"{title} takes no images but arrays: {why}")
    else:
        if network.options.layout is None and image.preprocess.layout == "NHWC" and "layout" not in image.assumed:
            found.append(f"{title} takes {port.shape}, which its graph reads as NHWC: built with --layout NHWC")
        if image.assumed:
            flags = ", ".join("--" + f.replace("_", "-") for f in FIELDS if f in image.assumed)
            found.append(
                f"preprocessing is assumed, because {title} does not state it: {image.preprocess.told(image.assumed)}; "
                f"{flags} say how the network was trained"
            )
    if network.labels and network.options.labels is None:
        found.append(f"labels are assumed for {network.classes} classes: {labels.SOURCE}; --labels FILE gives others")
    if network.quantized:
        found.append(
            f"{network.options.title} computes with the file's own quantization: {network.precision.summary()}"
        )
    elif network.precision and network.precision.dtype == "int8":
        found += _of_integers(network)
    elif network.precision:
        found += lost(network.original, network.graph)
        if network.precision.wide:
            found.append(network.precision.summary())
    return found


def _of_integers(network) -> list[str]:
    """Notices of scales without the user's calibration, and of layers that lose much by quantization."""
    options, precision = network.options, network.precision
    found = []
    if not options.calibrate and options.quantization is None and options.decided is None:
        takes = "FOLDER takes your images" if network.image is not None else "FILE.npy takes your arrays"
        found.append(f"scales are not from your data: {precision.summary()}; --calibrate {takes}")
    kept = {one.layer for one in precision.kept}  # these stay in float and lose nothing
    collapsed = [(name, one) for name, one in precision.layers.items() if one.cosine < COLLAPSED and name not in kept]
    if collapsed:
        first, one = min(collapsed, key=lambda pair: pair[1].cosine)
        several = f" and {len(collapsed) - 1} more layers" * (len(collapsed) > 1)
        found.append(
            f"int8 loses most of the signal of {first} ({one.source}){several}: cosine {one.cosine:.3f} to float32, "
            f"signal {one.signal_to_noise:.1f} dB above the noise, {one.clipped:.1%} clipped; "
            + collapse_remedy(network.seeded)
            + f"; so says {precision.file}" * bool(precision.file)
        )
    return found


def announce(network) -> None:
    """Print the notices on stderr."""
    for sentence in notices(network):
        console.say(f"note: {sentence}")
