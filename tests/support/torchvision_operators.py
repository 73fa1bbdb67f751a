"""torchvision's two operators that its import asks for, so that it can be imported beside a torch of another build.

torchvision's wheels are compiled against torch with CUDA. Beside the build without it their library does not load, and
`import torchvision` stops at the first operator that is not there. Networks and weights need none of them.
"""

import functools
import sys

import torch


@functools.cache
def define() -> torch.library.Library | None:
    """Declare them, unless torchvision is of this torch's build; they compute nothing. The library must live as long
    as they are wanted."""
    try:
        import torchvision  # noqa: F401
    except ModuleNotFoundError:
        pass
    except (RuntimeError, ImportError):
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]  # half of it
    else:
        return None
    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor boxes, Tensor scores, float iou_threshold) -> Tensor")
    return library
