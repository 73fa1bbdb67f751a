"""MobileNet on the board, from Python: ctypes and numpy; ``mobilenet_pictures.py`` beside it reads files, with Pillow.

with Mobilenet() as net:                      # the bundle is this file's folder
    for best in net.top(net.run_image("photo.jpg")):
        print(best.index, best.label, best.score, best.probability)

python3 mobilenet.py photo.jpg
"""

from __future__ import annotations

import collections
import ctypes
import functools
import json
import os
import platform
import statistics
import sys
import time
import types
from ctypes import POINTER, Structure, byref, c_char_p, c_double, c_float, c_int, c_int64, c_size_t, c_void_p
from pathlib import Path
from typing import NamedTuple

try:
    import numpy as np
except ImportError:
    if __name__ != "__main__":
        raise
    sys.exit(
        "error: mobilenet.py needs numpy: python3 -m pip install numpy, or apt-get install python3-numpy\n"
        "  `mobilenet classify photo.ppm`, beside it, needs no Python"
    )

CLOSED = 9  # of a MobilenetError, as in mobilenet.h
_FILES: dict = {}  # from device and inode of each loaded library to a number


class _Options(Structure):
    _names = ("threads", "max_width", "max_height", "spin_microseconds", "no_affinity", "map_weights")
    _fields_ = [(n, c_int) for n in _names]


class _Tensor(Structure):
    _fields_ = [
        ("name", c_char_p),
        ("dtype", c_char_p),
        ("dimensions", c_int),
        ("shape", POINTER(c_int64)),
        ("bytes", c_size_t),
        *((n, c_int) for n in ("scales", "axis")),
        *((n, POINTER(c_double)) for n in ("scale", "zero_point")),
    ]


class _Info(Structure):
    _fields_ = [
        *((n, c_char_p) for n in ("model", "target", "id")),
        *((n, c_int) for n in ("inputs", "outputs")),
        *((n, POINTER(_Tensor)) for n in ("input", "output")),
        ("classes", c_int),
        ("labels", POINTER(c_char_p)),
        *((n, c_int) for n in ("takes_images", "threads")),
        *((n, c_size_t) for n in ("weight_bytes", "arena_bytes", "scratch_bytes")),
        ("seeded", c_int),
        *((n, c_char_p) for n in ("scores", "preprocess", "labels_source")),
    ]


class _Class(Structure):
    _fields_ = [("index", c_int), ("score", c_float), ("probability", c_float), ("label", c_char_p)]


class _Selftest(Structure):
    _fields_ = [
        ("samples", c_int),
        *((n, c_float) for n in ("difference", "allowed")),
        ("milliseconds", c_double),
        ("resident_bytes", c_size_t),
    ]


class Best(NamedTuple):
    """A class: its number, its name ("" when unknown), the model's output for it, and that as a probability, 0 to 1.

    The probability is the score's softmax, unless the model ends in one or in a sigmoid; None if it is unknown.
    """

    index: int
    label: str
    score: float
    probability: float | None


class Encoding(NamedTuple):
    """The meaning of a port's integers: ``(value - zero_point) * scale``, with one scale, or one for each channel."""

    scale: np.ndarray
    zero_point: np.ndarray
    dtype: np.dtype

    def real(self, values: np.ndarray) -> np.ndarray:
        """The real numbers of values, float32."""
        return ((values.astype(np.float64) - self.zero_point) * self.scale).astype(np.float32)

    def stored(self, values: np.ndarray) -> np.ndarray:
        """The values that are nearest to real numbers."""
        ends = np.iinfo(self.dtype)
        if np.isnan(values := np.asarray(values, np.float64)).any():
            raise MobilenetError("NaN cannot become an integer", 8)
        return np.clip(np.rint(values / self.scale + self.zero_point), ends.min, ends.max).astype(self.dtype)


class MobilenetError(Exception):
    """An error of the library; `code` as in mobilenet.h."""

    def __init__(self, message: str, code: int = 0):
        super().__init__(message)
        self.code = code


class Mobilenet:
    """One instance of the model in a bundle's folder; call its `close`, or use it in a ``with``.

    Any thread may call it, also while another closes it; it keeps working in forked processes.

    Parameters
    ----------
    folder : path, optional
        This file's own folder by default.
    threads : int
        0: one for each CPU.
    max_size : (int, int)
        Width and height of the largest image.
    map_weights : bool
        Weights stay in their file, and a page is read when a run needs it; the file must not change meanwhile.
    """

    def __init__(self, folder=None, threads: int = 0, max_size: tuple = (8192, 8192), map_weights: bool = False):
        self._handle = None
        if folder is not None and not os.fspath(folder):
            raise MobilenetError('an empty path names no folder: the working directory is "."', 1)
        folder = Path(__file__).resolve().parent if folder is None else Path(folder)
        options = _Options(*map(_c_int, (threads, *max_size, 0, 0, int(map_weights))))
        code, tries, handle = 2, 0, c_void_p()
        while code in (2, 3) and (tries := tries + 1) < 9:  # no files, or another build's: it may be exchanged just now
            self._lib = _library(folder)
            code = self._lib.mobilenet_open(os.fsencode(folder), byref(options), byref(handle))
        self._check(code)
        self._handle, info = handle, self._lib.mobilenet_describe(handle).contents
        self.model, self.target, self.build = (t.decode() for t in (info.model, info.target, info.id))
        self.classes, self.seeded = info.classes, bool(info.seeded)  # seeded: random weights, classes mean nothing
        self.scores = info.scores.decode()  # "logits", "softmax", "sigmoid" or "value"
        self.preprocessing, self.labels_source = info.preprocess.decode(), info.labels_source.decode()
        self.inputs = [_port(info.input[i]) for i in range(info.inputs)]  # (name, shape, dtype) each
        self.outputs = [_port(info.output[i]) for i in range(info.outputs)]
        self.input_encodings = [_encoding(info.input[i]) for i in range(info.inputs)]  # None of floats
        self.output_encodings = [_encoding(info.output[i]) for i in range(info.outputs)]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self) -> None:
        """Free all memory and threads after runs of other threads have ended; their later calls are refused."""
        handle, self._handle = self._handle, None
        if handle:
            self._lib.mobilenet_close(handle)

    def run(self, *inputs: np.ndarray) -> list[np.ndarray]:
        """The outputs for these inputs, which have the shapes and dtypes of `self.inputs`.

        For a model with one input, an array (N, ...) is run as N inputs in turn. Other numbers are converted to floats,
        but not to integers: `input_encodings` convert these. An infinity or NaN, or an input beyond the range of the
        layers' dtype, is an error with ``code`` 8.
        """
        if len(inputs) != len(self.inputs):
            raise MobilenetError(f"{len(inputs)} inputs, the model takes {len(self.inputs)}")
        given = [np.asarray(a) for a in inputs]
        n = given[0].shape[:1]
        if n > (1,) and all(s[:1] == (1,) and given[i].shape == n + s[1:] for i, (_, s, _) in enumerate(self.inputs)):
            rows = [self.run(*(a[i : i + 1] for a in given)) for i in range(len(given[0]))]
            return [np.concatenate([row[i] for row in rows]) for i in range(len(self.outputs))]
        arrays = []
        for i, (name, shape, dtype) in enumerate(self.inputs):
            if given[i].shape != shape:
                raise MobilenetError(f"input {name} has shape {given[i].shape}, the model takes {shape}")
            arrays.append(_as(dtype, given[i], f"input {name}"))
        found = [np.empty(shape, dtype) for _, shape, dtype in self.outputs]
        self._check(self._lib.mobilenet_run(self._open(), _pointers(arrays), _pointers(found)))
        return found

    def run_named(self, *inputs: np.ndarray) -> dict[str, np.ndarray]:
        """`run`'s outputs by their names, which `self.outputs` lists."""
        return {name: found for (name, *_), found in zip(self.outputs, self.run(*inputs), strict=True)}

    def run_image(self, image, bgr: bool = False) -> np.ndarray:
        """The output for an image: a file that Pillow reads, a Pillow image, or (height, width[, 3]) uint8, RGB.

        ``bgr``: blue comes first in the array, as in OpenCV's. An array (N, height, width, 3) is `run_images`.
        """
        if isinstance(image, np.ndarray) and image.ndim == 4:
            return self.run_images(image, bgr)
        pixels, scores = _pixels(image, bgr), np.empty(*self.outputs[0][1:])
        height, width = pixels.shape[:2]
        self._check(self._lib.mobilenet_run_rgb(self._open(), pixels.ctypes.data, width, height, 0, scores.ctypes.data))
        return scores

    def run_images(self, images, bgr: bool = False) -> np.ndarray:
        """The outputs for several images, one row each: images for `run_image`, or one array (N, height, width, 3)."""
        at_once, shape = self.inputs[0][1][0], self.outputs[0][1]
        if shape[:1] != (at_once,):
            raise MobilenetError(f"the output has shape {shape}: it has no row for each image")
        if at_once == 1:
            rows = [self.run_image(image, bgr) for image in images]
        else:
            made = [self.preprocess(image, bgr)[:1] for image in images]
            whole = made + made[-1:] * (-len(made) % at_once)
            rows = [self.run(np.concatenate(whole[i : i + at_once]))[0] for i in range(0, len(whole), at_once)]
            rows = [np.concatenate(rows)[: len(made)]] if rows else []
        return np.concatenate(rows) if rows else np.empty((0, *shape[1:]), self.outputs[0][2])

    @staticmethod
    def read(path) -> np.ndarray:
        """A file as an array: (height, width, 3) uint8 for a picture, the array of a ``.npy``."""
        return _read(lambda p: np.asarray(_beside("mobilenet_pictures").read(Path(p))), path)

    @property
    def threads(self) -> int:
        """The number of threads."""
        return self._lib.mobilenet_describe(self._open()).contents.threads

    def preprocess(self, image, bgr: bool = False) -> np.ndarray:
        """The input that the library makes of an image."""
        pixels, out = _pixels(image, bgr), np.empty(*self.inputs[0][1:])
        height, width = pixels.shape[:2]
        self._check(self._lib.mobilenet_preprocess(self._open(), pixels.ctypes.data, width, height, 0, out.ctypes.data))
        return out

    def measure(self, images, seconds: float = 2.0, bgr: bool = False) -> dict:
        """Measure frames a second in this process, each resized, cropped and run; files are read first.

        ``images``, as for `run_image`, run in turn for a number of seconds, after each ran once. Returns ``frames``,
        ``seconds``, ``frames_per_second``, and ``milliseconds``, the median of a frame.
        """
        frames, times = [_pixels(image, bgr) for image in images], []
        if not [self.run_image(frame) for frame in frames]:
            raise MobilenetError("no images to measure with", 1)
        began = time.perf_counter()
        while not times or time.perf_counter() - began < seconds:
            start = time.perf_counter()
            self.run_image(frames[len(times) % len(frames)])
            times.append(time.perf_counter() - start)
        n, s, middle = len(times), time.perf_counter() - began, 1e3 * statistics.median(times)
        return {"frames": n, "seconds": s, "frames_per_second": n / s, "milliseconds": middle}

    def classify(self, image, top: int = 5, bgr: bool = False) -> list[tuple[str, float]]:
        """The best classes of an image with their scores, best first: labels, or ``class 57`` without labels."""
        return [(b.label or f"class {b.index}", b.score) for b in self.top(self.run_image(image, bgr), top)]

    def top(self, scores: np.ndarray, count: int = 5) -> list[Best]:
        """The best classes of one output (the first of a batch) of the model's dtype, best first."""
        scores = _as(self.outputs[0][2], np.asarray(scores), "scores")
        if not self.classes or scores.size < self.classes:
            raise MobilenetError(f"scores of shape {scores.shape}, the model has {self.classes} classes")
        if not np.isfinite(scores.reshape(-1)[: self.classes]).all():
            raise MobilenetError("a score is an infinity or NaN: it names no class", 8)
        best = (_Class * min(max(count, 0), self.classes))()
        found = self._lib.mobilenet_top(self._open(), scores.ctypes.data, len(best), best)
        self._check(CLOSED if len(best) and not found else 0)
        known = [((c.label or b"").decode(errors="replace"), c) for c in best[:found]]
        return [Best(c.index, label, c.score, c.probability if c.probability >= 0 else None) for label, c in known]

    def set_threads(self, threads: int) -> None:
        """How many threads share the work from now on."""
        self._check(self._lib.mobilenet_set_threads(self._open(), _c_int(threads)))

    def selftest(self) -> dict:
        """Hash every file, run the self-test and compare with its outputs; raise if they differ."""
        result = _Selftest()
        self._check(self._lib.mobilenet_selftest(self._open(), byref(result)))
        return {name: getattr(result, name) for name, _ in _Selftest._fields_}

    def _open(self):
        if not self._handle:
            raise MobilenetError("this instance is closed", CLOSED)
        return self._handle

    def _check(self, code: int) -> None:
        if code:
            raise MobilenetError(self._lib.mobilenet_last_error().decode(errors="replace"), code)


def _library(folder: Path):
    library, manifest = folder / "libmobilenet.so", folder / "manifest.json"
    try:
        for path in (library, manifest):
            if path.exists() and not path.is_file():  # a pipe, for example, would be waited for
                raise ValueError(f"{path} is not a file")
        target = json.loads(manifest.read_text(encoding="utf-8"))["target"]
        wanted = f"{target['architecture']} ({target['name']})"
        built, own = _machine(library), _machine("/proc/self/exe")
        if own and built and built != own:  # else the loader would report a missing file
            here = f"this Python is one of {8 * ctypes.sizeof(c_void_p)} bits on {platform.machine()}"
            raise MobilenetError(f"{folder} is built for {wanted}, {here}: build with another --target", 4)
        real, status = library.resolve(), os.stat(library)
        dots = ["."] * _FILES.setdefault((status.st_dev, status.st_ino), len(_FILES))
        lib = ctypes.CDLL(os.path.join(real.parent, *dots, real.name))  # a known name would give the old file
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as e:  # RuntimeError: a link to itself
        raise MobilenetError(f"{folder} holds no whole bundle: {e}") from None
    lib.mobilenet_describe.restype, lib.mobilenet_describe.argtypes = POINTER(_Info), [c_void_p]
    lib.mobilenet_run.argtypes, lib.mobilenet_top.argtypes = [c_void_p] * 3, [c_void_p, c_void_p, c_int, c_void_p]
    for f in (lib.mobilenet_run_rgb, lib.mobilenet_preprocess):
        f.argtypes = [c_void_p, c_void_p, c_int, c_int, c_size_t, c_void_p]
    lib.mobilenet_set_threads.argtypes, lib.mobilenet_selftest.argtypes = [c_void_p, c_int], [c_void_p, c_void_p]
    lib.mobilenet_last_error.restype, close = c_char_p, lib.mobilenet_close
    close.restype, close.argtypes = None, [c_void_p]
    return lib


def _c_int(value: int) -> int:
    if not 0 <= value < 1 << 31:  # ctypes would truncate it
        raise MobilenetError(f"{value}: threads are 1 to 64, image sizes up to 65535", 1)
    return value


def _machine(path) -> bytes:
    """Word size and machine of an ELF file; empty for others."""
    try:
        with open(path, "rb") as f:
            header = f.read(20)
    except OSError:
        return b""
    return header[4:5] + header[18:20] if header.startswith(b"\x7fELF") else b""


def _port(t) -> tuple:
    return t.name.decode(), tuple(t.shape[: t.dimensions]), np.dtype(t.dtype.decode())


def _as(dtype: np.dtype, values: np.ndarray, what: str) -> np.ndarray:
    """Values of a dtype in C's layout: other numbers are converted to floats, but not to integers."""
    if values.dtype != dtype and (dtype.kind != "f" or values.dtype.kind not in "fiub"):
        see = ": see input_encodings and output_encodings" * (dtype.kind != "f")
        raise MobilenetError(f"{what}: {values.dtype} numbers, the model's are {dtype}{see}", 1)
    with np.errstate(over="ignore"):  # a value beyond the dtype becomes an infinity
        return np.ascontiguousarray(values, dtype)


def _encoding(t) -> Encoding | None:
    along = [-1 if d == t.axis else 1 for d in range(t.dimensions)] if t.scales > 1 else ()
    each = (np.reshape(values[: t.scales], along) for values in (t.scale, t.zero_point) if t.scales)
    return Encoding(*each, np.dtype(t.dtype.decode())) if t.scales else None


def _pointers(arrays):
    return ctypes.cast((c_void_p * len(arrays))(*(a.ctypes.data for a in arrays)), c_void_p)


class FrameRate:
    """Frames a second of a loop over the last ``seconds``: call `tick` once for each frame."""

    def __init__(self, seconds: float = 1.0):
        self._seconds, self._times = seconds, collections.deque()

    def tick(self) -> float:
        """Frames a second now; 0 at the first."""
        self._times.append(now := time.monotonic())
        while len(self._times) > 2 and now - self._times[0] > self._seconds:
            self._times.popleft()
        return (len(self._times) - 1) / passed if (passed := now - self._times[0]) else 0.0


@functools.cache
def _beside(name: str):
    """Load a module from this one's folder, without leaving a ``__pycache__`` in a bundle."""
    path, module = Path(__file__).resolve().with_name(f"{name}.py"), types.ModuleType(name)
    exec(compile(_read(Path.read_bytes, path), path, "exec"), module.__dict__)
    return module


def _pixels(image, bgr: bool = False) -> np.ndarray:
    return _read(_beside("mobilenet_pictures").pixels, image, bgr)


def _read(reader, what, *options):
    try:
        return reader(what, *options)
    except OSError as e:
        raise MobilenetError(f"{what}: {e.strerror or e}", 2) from None
    except Exception as e:  # Pillow and numpy raise a dozen kinds for damaged files
        told = str(e) if isinstance(what, np.ndarray) else f"{what} cannot be read as an image: {e}"
        raise MobilenetError(told, 2) from None


if __name__ == "__main__":
    _beside("mobilenet_program").main(sys.modules[__name__], sys.argv[1:])
