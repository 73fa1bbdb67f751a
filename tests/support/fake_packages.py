"""timm and torchvision as far as `models/from_package.py` asks them, written into a folder that can be imported from.

The packages themselves are installed nowhere that tests run as a rule. What these answer is what timm 1.0.31 and
torchvision 0.29.1 answer; `tests/models/test_named_models.py` asks the real ones where they are.
"""

from pathlib import Path

NET = """
import torch
from torch import nn

def net(classes=7):
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, classes))

def trained(classes=7):
    torch.manual_seed(5)
    return net(classes)
"""
TIMM = """
import os
from timm.net import net, trained
__version__ = "1.0.31"
NAMES = ["tiny_net", "mobilenetv4_conv_small"]

def is_model(name):
    return name in NAMES

def list_models():
    return list(NAMES)

def create_model(name, pretrained=False, num_classes=7):
    print("a package may print")
    if pretrained and os.environ.get("NO_NETWORK"):
        raise OSError("We couldn't connect to the hub")
    return trained(num_classes) if pretrained else net(num_classes)
"""
TIMM_DATA = """
def resolve_model_data_config(model):
    return {"input_size": (3, 48, 64), "mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6), "crop_pct": 0.9,
            "interpolation": "bicubic", "crop_mode": "center"}

def infer_imagenet_subset(model):
    return "seven"

class ImageNetInfo:
    def __init__(self, subset):
        assert subset == "seven"

    def num_classes(self):
        return 7

    def index_to_description(self, index):
        return f"kind {index}"
"""
TORCHVISION = """
from torchvision.net import net, trained
__version__ = "0.29.1"

class Weights:
    meta = {"categories": [f"sort {i}" for i in range(7)]}

    @staticmethod
    def transforms():
        class Interpolation:
            value = "bilinear"

        class Preset:
            crop_size, resize_size, interpolation = [64], [80], Interpolation
            mean, std = [0.5, 0.4, 0.3], [0.2, 0.2, 0.2]

        return Preset()

class models:
    list_models = staticmethod(lambda: ["mobilenet_v2", "tiny_net"])

    @staticmethod
    def get_model_weights(name):
        class Enum:
            DEFAULT = Weights

        return Enum

    @staticmethod
    def get_model_builder(name):
        return models.get_model

    @staticmethod
    def get_model(name, weights=None, num_classes=7):
        return trained(num_classes) if weights else net(num_classes)
"""
FOREIGN = (
    'raise RuntimeError("operator torchvision::nms does not exist")\n'  # what torchvision says beside another torch
)


def write(folder: Path) -> Path:
    """Both packages in a folder."""
    for name, texts in {
        "timm": {"__init__": TIMM, "data": TIMM_DATA},
        "torchvision": {"__init__": TORCHVISION},
    }.items():
        (folder / name).mkdir()
        for module, text in {**texts, "net": NET}.items():
            (folder / name / f"{module}.py").write_text(text)
    return folder


def write_foreign(folder: Path) -> Path:
    """A torchvision of another torch, and a timm that imports it."""
    for name, text in {"torchvision": FOREIGN, "timm": "import torchvision\n"}.items():
        (folder / name).mkdir()
        (folder / name / "__init__.py").write_text(text)
    return folder
