"""The inputs for calibration: the files of ``--calibrate``, or default ones.

Images become inputs in the same way as those of ``--input``. A ``.npy`` or ``.npz`` file has one input of the network
or a batch of them: ``(N, 3, H, W)``. A network that takes images also takes bytes, ``(N, H, W, 3)`` uint8, and
normalises their pixels. For a network with several inputs, a ``.npz`` file has one array for each, by name.

A folder stands for all such files in it and in the folders below it, as ImageNet and ImageFolder have a folder for each
class. Of more than `SAMPLE` files in folders that number is taken, at even distances in the order of their names, so
that all classes take part and the next build takes the same.
"""

from __future__ import annotations

import warnings
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tvm_mobilenet.errors import TvmMobilenetError, reason
from tvm_mobilenet.files import archives
from tvm_mobilenet.files.reading import refusal
from tvm_mobilenet.models.labelled_images import evenly_spread, files_below
from tvm_mobilenet.models.preprocess import SUFFIXES, load_image
from tvm_mobilenet.runtime.mobilenet_pictures import stored_array

ARRAYS = (".npy", ".npz")
IMAGES = tuple(suffix for suffix in SUFFIXES if suffix not in ARRAYS)
SAMPLE = 128  # each takes about as long as some runs in float32, layer by layer
FAR = 10  # spans of an image's numbers beyond which an array hardly holds normalised images
MOST_BYTES = 1 << 32  # limit of the arrays in one file


def given_inputs(network, paths: Sequence[str]) -> tuple[list[tuple[np.ndarray, ...]], str]:
    """The inputs in files and folders, and a description of them, which says how many of how many were taken.

    Raises
    ------
    TvmMobilenetError
        A path does not exist, a folder has no file of a known kind, or a file does not fit the network.
    """
    suffixes = ARRAYS if network.image is None else (*IMAGES, *ARRAYS)
    named, inside = files(paths, suffixes)
    taken = [*named, *evenly_spread(inside, SAMPLE)]
    found: list[tuple[np.ndarray, ...]] = []
    for path in taken:
        if path.suffix.lower() in ARRAYS:
            found += _of_arrays(network, path)
        elif network.image is None:
            raise TvmMobilenetError(
                f"--calibrate {path}: {network.options.title} takes no images, but arrays", "give .npy or .npz files"
            )
        else:
            found += _batched(network, load_image(path, network.image.preprocess))
    ends = [(min(x.min() for x in column), max(x.max() for x in column)) for column in zip(*found, strict=True)]
    if ends and all(least == largest for least, largest in ends):
        words = (f"of {port.name} {'is ' * (not n)}{ends[n][0]:g}" for n, port in enumerate(network.signature.inputs))
        warnings.warn(
            f"--calibrate {' '.join(paths)}: every value {', and '.join(words)}; give inputs such as the network "
            "will see, since the ranges of its values are taken from them",
            stacklevel=2,
        )
    arrays = sum(path.suffix.lower() in ARRAYS for path in taken)
    images = len(taken) - arrays
    told = [f"{images} image{'s' * (images > 1)}"] if images else []
    if arrays:
        told.append(f"{len(found) - images} input{'s' * (len(found) - images > 1)} of {arrays} array files")
    there = len(named) + len(inside)
    sampled = f", evenly spread over {there:,} files" if there > len(taken) else ""
    return found, f"{' and '.join(told)} of --calibrate{sampled}"


def files(paths: Sequence[str], suffixes: Sequence[str] = (*IMAGES, *ARRAYS)) -> tuple[list[Path], list[Path]]:
    """The files among these paths, and those in the folders among them, each folder's in the order of their names.

    Raises
    ------
    TvmMobilenetError
        A path does not exist, or a folder has no such file.
    """
    named: list[Path] = []
    found: list[Path] = []
    for path in map(Path, paths):
        if not path.is_dir():
            named.append(path)
            continue
        try:
            inside = files_below(path, suffixes)
        except OSError as e:
            raise TvmMobilenetError(
                f"--calibrate {e.filename}: {reason(e)}", "give images, or folders of them"
            ) from None
        if not inside:
            kind = "image" if IMAGES[0] in suffixes else "array"
            raise TvmMobilenetError(
                f"--calibrate {path}: no {kind} is in it or in a folder below it", f"they end in {', '.join(suffixes)}"
            )
        found += inside
    return named, found


def _batched(network, images: np.ndarray) -> list[tuple[np.ndarray, ...]]:
    """Single images, repeated to the network's batch size."""
    port = network.signature.inputs[0]
    return [(np.repeat(one, port.shape[0], 0).astype(port.dtype),) for one in np.split(images, len(images))]


def _of_arrays(network, path: Path) -> list[tuple[np.ndarray, ...]]:
    """The inputs in a file of arrays."""
    arrays, ports = _arrays(path), network.signature.inputs
    if network.image is not None:
        return [one for name, array in arrays.items() for one in _images(network, array, _where(path, name))]
    if len(ports) == 1:
        columns = [[one for name, a in arrays.items() for one in _inputs(ports[0], a, _where(path, name))]]
    else:
        names = [port.name for port in ports]
        if set(arrays) != set(names):
            raise TvmMobilenetError(
                f"--calibrate {path}: it has {', '.join(arrays) or 'nothing'}, the network takes {', '.join(names)}",
                "save one array for each input with numpy.savez, by its name",
            )
        columns = [_inputs(port, arrays[port.name], _where(path, port.name)) for port in ports]
        if len({len(column) for column in columns}) > 1:
            counts = ", ".join(f"{len(c)} of {name}" for c, name in zip(columns, names, strict=True))
            raise TvmMobilenetError(f"--calibrate {path}: {counts}", "save as many of each input")
    return list(zip(*columns, strict=True))


def _where(path: Path, name: str) -> str:
    return f"--calibrate {path}" + (f": {name}" if path.suffix.lower() == ".npz" else "")


def _inputs(port, array: np.ndarray, where: str) -> list[np.ndarray]:
    """Arrays of a port's shape: one, or several along a first axis or along the batch axis."""
    shape = port.shape
    if array.shape == shape:
        array = array[None]
    elif array.ndim == len(shape) and array.shape[1:] == shape[1:] and len(array) and len(array) % shape[0] == 0:
        array = array.reshape(-1, *shape)
    if array.shape[1:] != shape or not len(array):
        raise TvmMobilenetError(
            f"{where} holds {array.dtype} {array.shape}, the network takes {port.dtype} {shape}",
            f"save inputs of that shape, or several along a first axis: (N, {', '.join(map(str, shape))})",
        )
    return [np.ascontiguousarray(one, port.dtype) for one in array]


def _images(network, array: np.ndarray, where: str) -> list[tuple[np.ndarray, ...]]:
    """The inputs from an array of images, bytes or already normalised."""
    preprocess = network.image.preprocess
    shape = preprocess.input_shape[1:]
    images = array[None] if array.ndim == 3 else array
    if array.dtype == np.uint8:
        if array.ndim == 2 or (array.ndim == 3 and array.shape[-1] not in (1, 3)):
            images = array.reshape(-1, *array.shape[-2:], 1)
        if images.ndim == 4 and images.shape[-1] in (1, 3) and images.size:
            colours = np.broadcast_to(images, (*images.shape[:3], 3))
            made = [preprocess.normalise(preprocess.pixels(one) / 255.0) for one in colours]
            return _batched(network, np.concatenate(made))
    elif images.ndim == 4 and images.shape[1:] == shape and len(images):
        _warn_of_pixels(images, preprocess.bounds, where)
        return _batched(network, np.ascontiguousarray(images, np.float32))
    raise TvmMobilenetError(
        f"{where} holds {array.dtype} {array.shape}, the network takes float32 (N, {', '.join(map(str, shape))})",
        "save inputs of that shape, or images of bytes: (N, height, width, 3) uint8",
    )


def _warn_of_pixels(images: np.ndarray, bounds: tuple[float, float], where: str) -> None:
    """Warn of images whose numbers lie far outside of those that preprocessing makes, such as 0 to 255."""
    least, largest = float(images.min()), float(images.max())
    span = FAR * (bounds[1] - bounds[0])
    if least <= bounds[0] - span or largest >= bounds[1] + span:
        warnings.warn(
            f"{where} holds numbers from {least:g} to {largest:g}; images have {bounds[0]:.3g} to {bounds[1]:.3g} when "
            "they are normalised. Bytes are normalised here: (N, height, width, 3) uint8",
            stacklevel=2,
        )


def _arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a file of numpy, by name.

    Raises
    ------
    TvmMobilenetError
        The file cannot be read, or holds no numbers.
    """
    where = f"--calibrate {path}"
    if why := refusal(path):
        raise TvmMobilenetError(f"{where}: {why}", "give images, or a .npy or .npz file")
    try:
        if zipfile.is_zipfile(path):
            with path.open("rb") as stored, archives.opened(stored) as file:
                size = sum(info.file_size for info in file.infolist())
                if size > MOST_BYTES:
                    raise ValueError(f"its arrays have {size:,} bytes; the limit is {MOST_BYTES:,}")
            with np.load(path, allow_pickle=False) as file:
                found = {name: file[name] for name in file.files}
        else:
            if path.stat().st_size > MOST_BYTES:
                raise ValueError(f"it has {path.stat().st_size:,} bytes; the limit is {MOST_BYTES:,}")
            found = {path.name: stored_array(path)}
    except Exception as e:  # numpy, zipfile and zlib raise a dozen kinds of errors
        raise TvmMobilenetError(
            f"{where} cannot be read as arrays: {reason(e)}", "write numbers with numpy.save or numpy.savez"
        ) from None
    for name, array in found.items():
        if array.dtype.kind not in "fiu":
            raise TvmMobilenetError(f"{where}: {name} holds {array.dtype}, not numbers", "save numbers")
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise TvmMobilenetError(f"{where}: {name} holds infinities or NaN", "save finite numbers")
    if not found:
        raise TvmMobilenetError(f"{where} holds no arrays", "write them with numpy.savez")
    return found
