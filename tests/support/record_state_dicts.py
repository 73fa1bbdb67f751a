"""Write down the state-dict keys and shapes of the packages whose checkpoints people have: `tests/models/state_dicts`.

    python -m tests.support.record_state_dicts

It needs timm and torchvision, which nothing else here does; the tests read what it wrote.
"""

from __future__ import annotations

from pathlib import Path

from tests.support.torchvision_operators import define

FOLDER = Path(__file__).parents[1] / "models" / "state_dicts"
TIMM = {  # a file's name, and timm's
    "mobilenet_v1": "mobilenetv1_100",
    "mobilenet_v3_large_minimal": "tf_mobilenetv3_large_minimal_100",
    "mobilenet_v3_small_minimal": "tf_mobilenetv3_small_minimal_100",
    "mobilenet_v4_small": "mobilenetv4_conv_small",
    "mobilenet_v4_small_0.5": "mobilenetv4_conv_small_050",
    "mobilenet_v4_small_0.35": "mobilenetv4_conv_small_035",
    "mobilenet_v4_medium": "mobilenetv4_conv_medium",
    "mobilenet_v4_large": "mobilenetv4_conv_large",
}
TORCHVISION = {  # a file's name, torchvision's and its arguments
    "mobilenet_v2": ("mobilenet_v2", {}),
    "mobilenet_v2_1.3": ("mobilenet_v2", {"width_mult": 1.3}),
    "mobilenet_v2_1.4": ("mobilenet_v2", {"width_mult": 1.4}),
    "mobilenet_v3_large": ("mobilenet_v3_large", {}),
    "mobilenet_v3_large_0.75": ("mobilenet_v3_large", {"width_mult": 0.75}),
    "mobilenet_v3_small": ("mobilenet_v3_small", {}),
}


def text(module) -> str:
    """One line a key: its name and its shape."""
    shapes = ((key, "x".join(map(str, value.shape)) or "scalar") for key, value in module.state_dict().items())
    return "".join(f"{key} {shape}\n" for key, shape in shapes)


def main() -> None:
    """Write every file."""
    define()
    import timm
    import torch
    from torchvision import models

    with torch.device("meta"):
        for name, theirs in TIMM.items():
            (FOLDER / f"{name}.txt").write_text(text(timm.create_model(theirs, pretrained=False)))
        for name, (theirs, arguments) in TORCHVISION.items():
            (FOLDER / f"{name}.txt").write_text(text(getattr(models, theirs)(**arguments)))


if __name__ == "__main__":
    main()
