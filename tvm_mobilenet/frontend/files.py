"""The kind of a model file, and the remedy for a file that cannot be read. This module reads only a file's head."""

from __future__ import annotations

import contextlib
import difflib
import zipfile
from pathlib import Path

from tvm_mobilenet.errors import TvmMobilenetError
from tvm_mobilenet.files import archives
from tvm_mobilenet.files.reading import NO_FILE, refusal
from tvm_mobilenet.models.options import FILES

_WEIGHTS = (".pt", ".pth", ".safetensors", ".bin", ".ckpt", ".tar")
_TO_ONNX = "python -m tf2onnx.convert --opset 13 --output model.onnx"
_OTHERS = {  # kinds of file that cannot be read yet, and the way to convert each
    ".lite": ("a TensorFlow Lite file by its older suffix", "rename it to .tflite"),
    ".h5": ("a Keras file", f"save it as ONNX: model.export('model.onnx', format='onnx'), or {_TO_ONNX} --keras"),
    ".hdf5": ("a Keras file", f"save it as ONNX: model.export('model.onnx', format='onnx'), or {_TO_ONNX} --keras"),
    ".keras": ("a Keras file", "save it as ONNX: keras.models.load_model(FILE).export('model.onnx', format='onnx')"),
    ".pb": ("a TensorFlow graph", f"convert it: {_TO_ONNX} --graphdef FILE --inputs NAMES --outputs NAMES, or"),
    ".mlmodel": ("a Core ML file", "export the model to ONNX from where it was trained"),
    ".param": ("an ncnn file", "export the model to ONNX from where it was trained"),
    ".mnn": ("an MNN file", "export the model to ONNX from where it was trained"),
    ".xml": ("an OpenVINO file", "export the model to ONNX from where it was trained"),
    ".engine": ("a TensorRT engine", "export the model to ONNX from where it was trained"),
    ".trt": ("a TensorRT engine", "export the model to ONNX from where it was trained"),
    ".ort": ("ONNX Runtime's own format", "give the .onnx file that it was made from"),
    ".npz": ("an archive of arrays", "give an .onnx, .tflite or .pt2 file: weights without a model"),
    ".gz": ("an archive", "unpack it and give the .onnx, .tflite or .pt2 file"),
    ".zip": ("an archive", "unpack it and give the .onnx, .tflite or .pt2 file"),
    ".py": ("a Python program", "say what makes the model in it: --model FILE.py:FUNCTION, which runs it"),
}
_HEADS = (  # kinds of file with the place and the content of their first bytes, and their suffixes
    ("a TFLite file", 4, b"TFL3", (".tflite",)),
    ("a zip archive, as torch.export.save writes them", 0, b"PK\x03\x04", (".pt2",)),
    ("a Keras file of HDF5", 0, b"\x89HDF\r\n", (".h5",)),
    ("an archive of gzip", 0, b"\x1f\x8b", (".gz",)),
)
_HEAD_BYTES = 512  # white space may precede a page's first character
_SAVE = "torch.export.save(torch.export.export(model.eval(), (example,)), 'model.pt2')"


def looks_like_a_file(text: str) -> bool:
    """Whether a user's model argument means a file: the file exists, or the text has a file's suffix or a folder."""
    path = Path(text)
    suffix = path.suffix.lower()
    return "/" in text or suffix in {*FILES, *_WEIGHTS, *_OTHERS} or path.is_symlink() or path.exists()


def kind_of(path: str | Path, flag: str = "") -> str:
    """The kind of a model file: ``onnx``, ``tflite`` or ``pt2``.

    Parameters
    ----------
    path : path
    flag : str
        The flag that gave the path, for the message: ``--model``.

    Raises
    ------
    TvmMobilenetError
        The file does not exist, cannot be read, is empty, or is of another kind.
    """
    path = Path(path)
    name, suffix = f"{flag} {path}".strip(), path.suffix.lower()
    if path.is_dir():
        raise TvmMobilenetError(f"{name} is a folder, not a model", _folder_hint(path))
    if why := refusal(path):
        hint = _near(path) if why == NO_FILE else "give the path of an .onnx, .tflite or .pt2 file"
        raise TvmMobilenetError(f"{name}: {why}", hint)
    if suffix in FILES:
        what, own = _content(readable(path, flag))
        if what and suffix not in own:
            hint = f"rename it to {own[0]}" if own else "download or export the model again"
            raise TvmMobilenetError(f"{name} is {what}, not what its name says", hint)
        return FILES[suffix]
    if suffix in _WEIGHTS and _is_torchscript(path):
        raise TvmMobilenetError(f"{name} holds a TorchScript program, which cannot be read", f"save the model: {_SAVE}")
    if suffix in _WEIGHTS:
        raise TvmMobilenetError(
            f"{name} holds weights, not a model",
            "pass it as --weights beside the --model that it is of, such as v2; for a model of your own save "
            f"{_SAVE}, or an .onnx file",
        )
    if suffix in _OTHERS:
        what, hint = _OTHERS[suffix]
        hint = f"{hint} {path}" if hint.endswith("--keras") else hint
        hint = f"{hint} {_TO_ONNX} --saved-model FOLDER" if hint.endswith(", or") else hint
        raise TvmMobilenetError(f"{name} is {what}; .onnx, .tflite and .pt2 files are read", hint)
    raise TvmMobilenetError(
        f"{name}: cannot tell what kind of model {suffix or 'a file without a suffix'} is",
        "give an .onnx, .tflite or .pt2 file" + _guess(path),
    )


def _content(head: bytes) -> tuple[str, tuple[str, ...]]:
    """What a file's first bytes say that it is, with the suffixes of that kind; ``("", ())`` if they do not say it, as
    in an ONNX file.
    """
    for kind, at, first, own in _HEADS:
        if head[at : at + len(first)] == first:
            return kind, own
    return ("a page of HTML or XML", ()) if head.lstrip()[:1] == b"<" else ("", ())


def readable(path: Path, flag: str = "") -> bytes:
    """The first bytes of a file, which must not be empty.

    Raises
    ------
    TvmMobilenetError
        The file cannot be opened or is empty; the message has the system's reason.
    """
    name = f"{flag} {path}".strip()
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
    except OSError as e:
        reason = (e.strerror or "it cannot be opened").lower()
        raise TvmMobilenetError(f"{name} cannot be read: {reason}", "check its owner and mode with ls -l") from None
    if not head:
        raise TvmMobilenetError(f"{name} is empty", "export or copy it again")
    return head


def check_model(model: str, flag: str = "--model") -> None:
    """Refuse a model argument that names neither a network of the registry or a package, nor a readable file, nor a
    program.

    Raises
    ------
    TvmMobilenetError
        The message lists the known names, or gives the remedy for the file.
    """
    from tvm_mobilenet.models import from_package, from_program, registry
    from tvm_mobilenet.models.options import ModelOptions

    if not model.strip():
        raise TvmMobilenetError(
            f"{flag} is empty", "give a name such as v2, or the path of an .onnx, .tflite or .pt2 file"
        )
    if registry.is_known(model):
        return
    options = ModelOptions(model=model)
    if options.package:
        from_package.check_name(options)
        return
    if options.program:
        from_program.check(options, flag)
        return
    if looks_like_a_file(model) or Path(model).is_dir():
        kind_of(model, flag)
    else:
        registry.find(model)


def check_file(flag: str, path: Path | None) -> None:
    """Refuse a flag's path that is not a readable file; None is accepted.

    Raises
    ------
    TvmMobilenetError
        The message names flag, path and reason.
    """
    if path is None:
        return
    if path.is_dir():
        raise TvmMobilenetError(f"{flag} {path} is a folder", "give the path of a file")
    if why := refusal(path):
        raise TvmMobilenetError(f"{flag} {path}: {why}", "give the path of a file that exists")
    readable(path, flag)


def _folder_hint(path: Path) -> str:
    if (path / "plan.json").is_file():
        return "it holds a module that is built already: verify, bench and profile take it"
    if (path / "saved_model.pb").is_file():
        return f"convert the SavedModel: {_TO_ONNX} --saved-model {path}"
    if inside := sorted(p for suffix in FILES for p in path.glob(f"*{suffix}")):
        return f"give the file: {inside[0]}"
    return "give the path of an .onnx, .tflite or .pt2 file"


def _near(path: Path) -> str:
    if not path.parent.is_dir():
        return f"there is no folder {path.parent}; paths begin at {Path.cwd()}"
    names = [p.name for p in path.parent.iterdir()]
    near = [n for n in names if n.lower() == path.name.lower()]
    if not near:
        stems = {Path(n).stem: n for n in names if Path(n).suffix == path.suffix}
        near = [stems[s] for s in difflib.get_close_matches(path.stem, stems, 1, 0.7)]
    return f"did you mean {path.parent / near[0]}?" if near else "give the path of a file that exists"


def _is_torchscript(path: Path) -> bool:
    try:
        with path.open("rb") as file, archives.opened(file) as archive:
            return any("/code/" in name for name in archive.namelist())
    except (zipfile.BadZipFile, OSError, ValueError):
        return False


def _guess(path: Path) -> str:
    """A guess of the content of a file without a known suffix."""
    failing = contextlib.suppress(zipfile.BadZipFile, OSError, ValueError)
    with failing, path.open("rb") as file, archives.opened(file) as archive:
        if any(name.endswith("models/model.json") for name in archive.namelist()):
            return "; this one looks like an ExportedProgram: rename it to .pt2"
    return ""
