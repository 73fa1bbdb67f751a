"""Read a checkpoint, and refuse one that does not fit the network with an error that lists the differences."""

from __future__ import annotations

import warnings
import zipfile
from pathlib import Path

import torch

from tvm_mobilenet import packages
from tvm_mobilenet.errors import TvmMobilenetError, reason
from tvm_mobilenet.files import archives
from tvm_mobilenet.files.limits import MOST_NAME
from tvm_mobilenet.files.reading import refusal
from tvm_mobilenet.models import pickled
from tvm_mobilenet.terminal.printable import printable

# Keys under which trainers nest weights.
_WRAPPERS = ("state_dict_ema", "state_dict", "model_state_dict", "model_ema", "model", "net")
_PREFIXES = ("module.", "_orig_mod.", "model.")  # prefixes of DataParallel, torch.compile and Lightning
HALVES = (torch.float16, torch.bfloat16)
DTYPES = {str(t).removeprefix("torch."): t for t in (
    *(torch.float32, torch.float64, *HALVES, torch.bool),
    *(torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64),
)}  # fmt: skip
_SHOWN = 3  # keys of each complaint


def widened(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor, in float32 if it is of half precision: float32 represents all of its values."""
    return tensor.float() if tensor.dtype in HALVES else tensor


def read_state_dict(path: str | Path) -> dict[str, torch.Tensor]:
    """The tensors of a ``.pth``, ``.pt`` or ``.safetensors`` file by name, unwrapped and without trainers' prefixes.

    No code of the file is executed: pickles are read with ``weights_only``.

    Raises
    ------
    TvmMobilenetError
        If the file is missing, damaged, or holds no weights.
    """
    path = Path(path)
    if why := refusal(path):
        raise TvmMobilenetError(f"weights {path}: {why}", "give a .pth, .pt or .safetensors file")
    state = _read_safetensors(path) if path.suffix.lower() == ".safetensors" else _read_pickle(path)
    return unwrap(state, path)


def unwrap(state, path: str | Path = "the file") -> dict[str, torch.Tensor]:
    """The innermost mapping of names to tensors, without the prefixes that all names share."""
    seen = set()
    while isinstance(state, dict) and (inner := next((k for k in _WRAPPERS if isinstance(state.get(k), dict)), None)):
        if id(state) in seen:
            raise TvmMobilenetError(f"{path} holds a structure that contains itself", "save model.state_dict()")
        seen.add(id(state))
        state = state[inner]
    found = {k: v for k, v in state.items() if isinstance(v, torch.Tensor)} if isinstance(state, dict) else {}
    if not found:
        raise TvmMobilenetError(f"{path} holds no weights", "it must be a state dict: names and tensors")
    if odd := [k for k in found if not isinstance(k, str)]:
        raise TvmMobilenetError(
            f"{path} has the key {odd[0]!r}"[:200] + ", which is not the name of a parameter", "save model.state_dict()"
        )
    tensors = {printable(k): v for k, v in found.items()}
    if long := next((k for k in tensors if len(k) > MOST_NAME), None):
        raise TvmMobilenetError(f"{path} has a key of {len(long):,} characters", "save model.state_dict()")
    for name, tensor in tensors.items():
        check_dense(name, tensor, f"{path}: ")
    stripped = True
    while stripped:
        stripped = False
        for prefix in _PREFIXES:
            if all(k.startswith(prefix) for k in tensors):
                tensors = {k.removeprefix(prefix): v for k, v in tensors.items()}
                stripped = True
    return tensors


def load_weights(module: torch.nn.Module, path: str | Path) -> None:
    """Load a checkpoint into a network.

    A headless network takes the checkpoint of the whole one. ``num_batches_tracked`` may be absent.

    Raises
    ------
    TvmMobilenetError
        Keys are missing, unexpected or of the wrong shape; the message names the first.
    """
    state, own = read_state_dict(path), module.state_dict()
    dropped = getattr(module, "dropped", ())
    state = {k: v for k, v in state.items() if k in own or not k.startswith(dropped or ("\0",))}
    counters = {k for k in own if k.endswith("num_batches_tracked")}
    missing = [k for k in own if k not in state and k not in counters]
    unexpected = [k for k in state if k not in own]
    shapes = [
        f"{k} is {_shape(state[k])}, must be {_shape(own[k])}"
        for k in own
        if k in state and state[k].shape != own[k].shape and k not in counters
    ]
    if missing or unexpected or shapes:
        complaints = [
            f"{len(found)} {what}: {', '.join(found[:_SHOWN])}{', ...' if len(found) > _SHOWN else ''}"
            for what, found in (("missing", missing), ("unexpected", unexpected), ("of the wrong shape", shapes))
            if found
        ]
        hint = "is it another model, or another --alpha or --classes?"
        if shapes and all(k.startswith("classifier.") for k in shapes) and not missing and not unexpected:
            classes = next(state[k].shape[0] for k in reversed(list(own)) if k in state)
            hint = f"only the classifier differs: --classes {classes}"
        raise TvmMobilenetError(f"{path} does not fit {type(module).__name__}: " + "; ".join(complaints), hint)
    odd = [k for k, v in state.items() if k not in counters and v.is_floating_point() and not torch.isfinite(v).all()]
    if odd:
        raise TvmMobilenetError(
            f"{path} holds infinities or NaN in {', '.join(odd[:_SHOWN])}",
            "take a checkpoint from before they appeared",
        )
    state = {k: v for k, v in state.items() if k not in counters}
    _require_range(state, own, path)
    _require_variances(module, state, path)
    module.load_state_dict(state, strict=False)


def _require_range(state: dict, own: dict, path: Path) -> None:
    """Refuse finite numbers of a wider dtype that become infinities in the network's own."""
    for name, values in state.items():
        cast = values.to(own[name].dtype)
        if cast.is_floating_point() and not torch.isfinite(cast).all():
            most = values[~torch.isfinite(cast)].flatten()[0]
            raise TvmMobilenetError(
                f"{path}: {name} holds {most:.6g}, which is beyond {str(cast.dtype).removeprefix('torch.')}, in which "
                f"the network computes: it ends at {torch.finfo(cast.dtype).max:.6g}",
                "look at how the checkpoint was made: no trained network has such weights",
            )


def _require_variances(module: torch.nn.Module, state: dict, path: Path) -> None:
    """Refuse negative variances of batch norms."""
    for name, layer in module.named_modules():
        variance = state.get(f"{name}.running_var")
        if variance is None:
            continue
        odd = torch.nonzero(variance.float() + getattr(layer, "eps", 0.0) < 0).flatten()
        if len(odd):
            raise TvmMobilenetError(
                f"{path}: {name}.running_var of channel {int(odd[0])}"
                + f" and {len(odd) - 1} more channels" * (len(odd) > 1)
                + f" is {float(variance[odd[0]]):.6g}: a variance is not negative",
                "look at how the checkpoint was made: averages or differences of checkpoints must leave out batch "
                "norms' statistics, which must be computed again",
            )


def _read_pickle(path: Path) -> dict:
    """Unpickle the weights of a ``.pth`` file by torch."""
    try:
        with warnings.catch_warnings(), pickled.checked(path) as file:
            warnings.simplefilter("ignore")  # such as those about sparse tensors, which get an error of their own
            return torch.load(file, map_location="cpu", weights_only=True)
    except TvmMobilenetError:
        raise
    except archives.TooMany as e:
        raise TvmMobilenetError(f"{path}: {e}", "save weights only") from None
    except MemoryError:
        raise TvmMobilenetError(f"{path} asks for more memory than there is", "save weights only") from None
    except Exception as e:  # torch raises a dozen kinds for a damaged or foreign pickle
        whole = zipfile.is_zipfile(path) or "pickle" in str(e).lower()
        raise TvmMobilenetError(
            f"{path} cannot be read as weights: "
            + ("it holds more than weights" if whole and "weights_only" in str(e) else "torch did not write it"),
            "save weights only: torch.save(model.state_dict(), path), or as .safetensors",
        ) from None


def _read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    try:
        from safetensors.torch import load_file
    except ImportError:
        raise packages.missing(f"reading {path}", ["safetensors"]) from None
    try:
        return load_file(path)
    except Exception as e:  # SafetensorError, OSError
        raise TvmMobilenetError(f"{path} cannot be read as weights: {reason(e)}", "is the download complete?") from None


def _shape(tensor: torch.Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a scalar"


def check_dense(name: str, tensor: torch.Tensor, where: str = "") -> None:
    """Refuse a parameter that is sparse, quantized or of a type that no kernel supports.

    Raises
    ------
    TvmMobilenetError
        It names parameter and type; ``where`` stands before them.
    """
    dtype = str(tensor.dtype).removeprefix("torch.")
    what = "" if dtype in DTYPES else dtype
    if tensor.layout is not torch.strided:
        what = f"sparse, {str(tensor.layout).removeprefix('torch.')}"
    elif getattr(tensor, "is_nested", False):
        what = "nested"
    elif tensor.device.type != "cpu":
        what = "without values" if tensor.device.type == "meta" else f"on {tensor.device.type}"
    if what:
        raise TvmMobilenetError(
            f"{where}{name} is {what}",
            "save dense tensors of floats or integers: model.float(), tensor.to_dense()",
        )
