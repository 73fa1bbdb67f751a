"""Make a bundle, the files for a device, which needs only libc.

``libmobilenet.so``, ``libmobilenet.a``  the kernels and our runtime (runtime/), linked for the target
``mobilenet.h``, ``mobilenet``, ``mobilenet.py``  the C interface, the program, Python through ctypes; the last has
                    two more files, which read pictures and hold its program
``weights.bin``     the constants, mapped by the library
``selftest.bin``    inputs, their outputs and the tolerances: PyTorch's outputs in float64, or those of
                    float16 layers computed step by step, which are the same on every CPU
``labels.txt``      one class in each line, if they are known; ImageNet's names come with their licence
``manifest.json``   description, size and hash of every file; ``manifest.sha256``: all hashes, and its own
``manifest.sha256.sig``  with ``--sign``, a signature of that file (signature.py)

Equal inputs give equal bytes: a bundle contains neither the place nor the time of its making.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import struct
import tarfile
import zlib
from dataclasses import asdict, dataclass, replace
from importlib import resources
from importlib.metadata import version
from pathlib import Path

import numpy as np

from tvm_mobilenet import dtypes
from tvm_mobilenet.boards.comparison import relative
from tvm_mobilenet.bundle import received, signature
from tvm_mobilenet.bundle.place import PORTS, is_archive, refuse_others_files
from tvm_mobilenet.checking import network_steps
from tvm_mobilenet.checking.network_ends import output_tolerance
from tvm_mobilenet.checking.reference import network_outputs
from tvm_mobilenet.compiler import library, tables
from tvm_mobilenet.compiler.kept import using_its_files
from tvm_mobilenet.compiler.plan import scratch_of
from tvm_mobilenet.errors import TvmMobilenetError, VerificationError, reason
from tvm_mobilenet.files.own_files import replacing_own
from tvm_mobilenet.files.temporary import TemporaryFolder
from tvm_mobilenet.files.whole_file import write_whole
from tvm_mobilenet.models import labels as class_names
from tvm_mobilenet.models.options import FLOAT32

ROUNDED = 2.0**-20  # relative change of a value, larger than a float32 layer's rounding
BESIDE = 4.0  # tolerance over the outputs' change from that: the values that flip vary by chance
MOST = 0.5  # largest tolerance in the outputs' scale: one flip changed up to 0.37, unrelated outputs differ by 4
TRIED = 4  # inputs tried for each one packed, until enough are found whose outputs do not change
PROGRAMS = ("libmobilenet.so", "mobilenet")
INTERFACES = ("mobilenet.h", "mobilenet.py", "mobilenet_pictures.py", "mobilenet_program.py")
STARTING = 0.5  # seconds in which a starting program can open its files before they are removed


@dataclass(frozen=True)
class Bundle:
    """A bundle that was read and is complete.

    Attributes
    ----------
    manifest : dict
    files : dict of str to bytes
        Its files by name, the manifest and its hash included.
    signer : str
        The signer's name, if a signature was required.
    """

    manifest: dict
    files: dict
    signer: str = ""

    def signed(self, key: Path) -> Bundle:
        """The same bundle with a signature by a key, which replaces an existing one."""
        sums = received.sums_of(self.manifest, self.files[received.MANIFEST])  # an earlier version has the first line
        files = {**self.files, received.SUM: sums, received.SIGNATURE: signature.sign(sums, key)}
        return replace(self, files=files)

    @property
    def name(self) -> str:
        """Folder name in the archive: model and target."""
        return self.manifest["name"]

    def archive(self) -> bytes:
        """An uncompressed tar file of the files; equal files give equal bytes."""
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as tar:
            for name, data in sorted(self.files.items()):
                entry = tarfile.TarInfo(f"{self.name}/{name}")
                entry.size, entry.mode = len(data), 0o755 if name in PROGRAMS else 0o644
                tar.addfile(entry, io.BytesIO(data))
        return out.getvalue()

    def write(self, path: Path) -> None:
        """Write a ``.tar.gz``, or a folder for any other path; completely or not at all.

        Raises
        ------
        TvmMobilenetError
            It cannot be written there, or the folder holds files that are no bundle.
        """
        try:
            if not is_archive(path):
                own = refuse_others_files(path)
                with replacing_own(path, {*own, *self.files}, received.SUM, STARTING) as new:
                    for name, data in self.files.items():
                        (new / name).write_bytes(data)
                        (new / name).chmod(0o755 if name in PROGRAMS else 0o644)
                return
            write_whole(path, gzip.compress(self.archive(), 6, mtime=0), "--bundle")
        except OSError as e:
            raise TvmMobilenetError(f"cannot write the bundle {path}: {reason(e)}", "choose another --bundle") from None


def make(
    folder: Path,
    *,
    lowered,
    network,
    target,
    linker: str | None = None,
    embed_weights: bool = False,
    samples: int = 2,
    work: Path | None = None,
    whole: bool = True,
) -> Bundle:
    """The bundle of a built module.

    Parameters
    ----------
    folder : path
        The folder that `build` wrote; its machine code is first run on a board and compared with PyTorch.
    lowered : tvm.IRModule
        The module from which it was built.
    network : Network
    target : targets.Target
    linker : str, optional
        In place of zig's.
    embed_weights : bool
        Put the weights into the library, without a ``weights.bin``.
    samples : int
        Number of inputs of the self-test.
    work : path, optional
        A folder that keeps sources and objects, for a build with other compiler flags.
    whole : bool
        Whether the module's other files must be run too; not if they were already.

    Raises
    ------
    VerificationError
        The machine code does not compute what PyTorch computes.
    TvmMobilenetError
        A file cannot be linked, or needs more than libc.
    """
    from tvm_mobilenet.compiler import module as built

    how = {"lowered": lowered, "network": network, "target": target, "linker": linker}
    return _of(built.read(folder), **how, embed_weights=embed_weights, samples=samples, work=work, whole=whole)


@using_its_files
def _of(
    module, *, lowered, network, target, linker, embed_weights: bool, samples: int, work: Path | None, whole: bool
) -> Bundle:
    """The bundle of a built module; see `make`. In one piece: each file depends on those before it."""
    from tvm_mobilenet.compiler import module as built

    plan, weights = module.plan, np.asarray(module.parameters()).tobytes()
    check_ports(plan)
    checked = _checked(module, network, target, samples, whole)
    batch, (tolerance, expected) = checked.inputs, _expected(network, checked)
    units = [float(f"{o.unit:.3g}") for o in checked.outputs]  # rounded, so that every CPU gives the same
    error = _difference(network, checked.values, expected, units)  # float64 is the same on every CPU, float32 is not
    _require_found(network, error, tolerance)
    image, labels = network.image, network.labels
    assumed_labels = bool(labels) and network.options.labels is None
    weights_hash = hashlib.sha256(weights).hexdigest()
    about = tables.about_of(network, target, plan, weights_hash, embed_weights)
    name = f"mobilenet-{network.options.slug}-{target.name}"[:150]  # the limit of a tar file
    files = {
        "selftest.bin": struct.pack(f"<8sQd{len(units)}d", b"MNTESTS1", len(batch), tolerance, *units)
        + b"".join(np.ascontiguousarray(a).tobytes() for x, y in zip(batch, expected, strict=True) for a in (*x, *y))
    }
    if labels:
        files["labels.txt"] = "".join(" ".join(label.split()) + "\n" for label in labels).encode()
    if assumed_labels:
        files[class_names.LICENCE] = class_names.licence().encode()
    if not embed_weights:
        files[received.WEIGHTS] = (
            b"MNWEIGH1" + len(weights).to_bytes(8, "little") + bytes.fromhex(weights_hash).ljust(48, b"\0") + weights
        )
    source = resources.files("tvm_mobilenet.runtime")
    for file in INTERFACES:
        files[file] = (source / file).read_bytes()
    with TemporaryFolder() as temporary:
        work = work or temporary
        (work / built.OBJECT).write_bytes((module.folder / built.OBJECT).read_bytes())
        scratch, preprocess = scratch_of(lowered), image and image.preprocess
        inside = weights if embed_weights else None
        library.link_library(work, target, linker, plan, about, scratch, module.build, preprocess, inside)
        files |= library.link_rest(work, target, linker, module.build)
    manifest = {
        "format": received.FORMAT,
        "id": about["id"],
        "build": module.build,
        "name": name,
        "symbol_prefix": about["prefix"],
        "model": _model(network.options),
        "target": {
            "name": target.name,
            "title": target.title,
            "core": target.core.name,
            "llvm_cpu": target.llvm_cpu or target.core.llvm_cpu,
            "architecture": target.architecture,
            "features": about["features"],
            "cores": target.cores,
        },
        "seeded": network.seeded,
        "preprocess": image and image.to_data(),
        "inputs": [[n, t.shape, t.dtype] for n, t in plan.inputs],
        "outputs": [[n, t.shape, t.dtype] for n, t in plan.outputs],
        "encodings": _encodings(network.signature),
        "classes": network.classes,
        "scores": network.scores,
        "labels": "labels.txt" if labels else None,
        "labels_source": about["labels_source"] or None,
        "bytes": {"weights": plan.parameters_bytes, "arena": plan.arena_bytes, "scratch": plan.scratch_bytes},
        "error": {
            "allowed": tolerance,
            "found": float(f"{error:.1e}"),
            "unit": "of the scale of the outputs' last sums",
        },
        "versions": {**module.info["versions"], "tvm-mobilenet": _version(), "ziglang": version("ziglang")},
        "decisions": [vars(layer) for layer in module.layers],
        "files": {n: {"bytes": len(d), "sha256": hashlib.sha256(d).hexdigest()} for n, d in sorted(files.items())},
    }
    text = (json.dumps(manifest, indent=1) + "\n").encode()
    files[received.MANIFEST] = text
    files[received.SUM] = received.sums_of(manifest, text)
    return Bundle(json.loads(text), files)


def read(path: str | Path, signers: signature.Signers | None = None) -> Bundle:
    """The bundle of a ``.tar.gz`` or a folder.

    Parameters
    ----------
    signers : Signers, optional
        One of them must have signed it.

    Raises
    ------
    TvmMobilenetError
        It is no bundle, or a file in it is not the one that was built.
    VerificationError
        A file was not signed by one of the signers.
    """
    path = Path(path)
    try:
        files = received.files_of(path)
        manifest = received.manifest_of(files)
        known = (*manifest["files"], received.MANIFEST, received.SUM, received.SIGNATURE)
        kept = {name: files[name] for name in known if name in files}
    except (OSError, ValueError, EOFError, OverflowError, zlib.error, tarfile.TarError) as e:
        raise TvmMobilenetError(
            f"{path} is not a whole bundle: {reason(e)}",
            "python -m tvm_mobilenet.build --bundle FILE makes one",
        ) from None
    try:
        others = sorted({*files, *(p.name for p in (path.iterdir() if path.is_dir() else ()))} - set(known))
        return Bundle(manifest, kept, signature.check(kept, manifest, signers, others) if signers else "")
    except VerificationError as e:
        raise VerificationError(f"{path}: {e.message}", e.hint) from None


def _model(options) -> dict:
    """The model's description, without a path of this machine."""
    left_out = ("weights", "input", "labels", "calibrate", "quantization", "decided", "trust_file", "temporary")
    data = {k: v for k, v in asdict(replace(options, decided=None)).items() if k not in left_out}
    return {**data, "model": options.model if options.in_registry or options.package else Path(options.model).name}


def _encodings(signature) -> dict:
    """Encodings of integer inputs and outputs: a value stands for ``(value - zero_point) * scale``."""
    ports = ((p.name, p.encoding) for p in (*signature.inputs, *signature.outputs) if p.encoding)
    return {
        name: {"scale": e.scales, "zero_point": e.zeros} | ({"axis": e.axis} if len(e.scales) > 1 else {})
        for name, e in ports
    }


def _version() -> str:
    from tvm_mobilenet import __version__

    return __version__


def check_ports(plan) -> None:
    """Refuse inputs and outputs that the C runtime does not support."""
    for side, ports in (("input", plan.inputs), ("output", plan.outputs)):
        for name, tensor in ports:
            if tensor.dtype not in PORTS:
                raise TvmMobilenetError(
                    f"{side} {name!r} is {tensor.dtype}, a bundle's are {', '.join(PORTS)}",
                    "build a model whose inputs and outputs are, or build without --bundle",
                )


def _expected(network, checked) -> tuple[float, list[list[np.ndarray]]]:
    """The tolerance of outputs, in the scale of their last sums, and the expected outputs.

    In general these are PyTorch's outputs in float64. If a network's layers round in exactly defined steps, these are
    the outputs of the steps: a device computes the same, while PyTorch's outputs differ by float16's rounding. An
    integer network with float32 layers between also uses the steps. A CPU's own rounding in these layers moves a few
    values by a unit; the effect on the outputs is measured, and a tolerance above ``MOST`` of their scale is never
    allowed.
    """
    layers = sum(len(call.layer.parts) or 1 for call in network.layers)
    tolerance = output_tolerance(FLOAT32, layers)
    if network_steps.is_exact(network):
        return tolerance, network_steps.outputs(network, checked.inputs)
    if _is_mixed(network):
        due, off = _rounded(network, checked.inputs, [o.unit for o in checked.outputs])
        return min(tolerance + BESIDE * off, MOST), due
    return max(o.tolerance for o in checked.outputs), network_outputs(network, checked.inputs)


def _is_mixed(network) -> bool:
    """Whether a network has both integer layers and layers whose rounding depends on the CPU."""
    return bool(dtypes.of(network.options.dtype).integer) and not network_steps.is_exact(network)


def _rounded(network, batch: list, units: list | None = None) -> tuple[list[list[np.ndarray]], float]:
    """The outputs step by step, and their largest change, in units, by float32 rounding up or down."""
    due = network_steps.outputs(network, batch)
    units = units or [None] * len(network.signature.outputs)
    beside = (network_steps.outputs(network, batch, off) for off in (ROUNDED, -ROUNDED))
    return due, max(_difference(network, values, due, units) for values in beside)


def _inputs(network, samples: int) -> list[tuple[np.ndarray, ...]]:
    """Inputs for the self-test. For an integer network with float32 layers these are inputs whose outputs do not change
    with rounding: only they distinguish a wrong output from a value rounded to the other side. One is enough; if none
    is found, those that change least are taken."""
    usual = network.inputs(samples)
    if not _is_mixed(network):
        return usual
    steady = output_tolerance(FLOAT32, len(network.layers))
    found: list[tuple[float, int]] = []
    tried = network.inputs(TRIED * samples)
    for i, given in enumerate(tried):
        found.append((_rounded(network, [given])[1], i))
        if sum(off <= steady for off, _ in found) == len(usual):
            break
    chosen = [i for off, i in found if off <= steady] or sorted(i for _, i in sorted(found)[: len(usual)])
    return [tried[i] for i in chosen]


def _require_found(network, error: float, tolerance: float) -> None:
    """Refuse a bundle whose self-test would fail on this machine.

    Raises
    ------
    VerificationError
        Rounding in float32 layers changes the outputs by more than the allowed tolerance.
    """
    if _is_mixed(network) and not error <= tolerance:
        raise VerificationError(
            f"the outputs are {error:.2e} of their scale off what the layers compute step by step, {tolerance:.2e} is "
            "allowed: rounding in its layers of float32 moves values of int8 behind them",
            "keep other layers in float, or build for a target with float16, whose rounding is known",
        )


def _difference(network, values: list, expected: list, units: list) -> float:
    """The largest difference of outputs, in the unit of each."""
    return max(
        relative(port.real(found), port.real(right), unit)
        for one, wanted in zip(values, expected, strict=True)
        for port, found, right, unit in zip(network.signature.outputs, one, wanted, units, strict=True)
    )


def _checked(module, network, target, samples: int, whole: bool):
    """Run the module on a board and check it by the rule of `verify`; return a ``checking.machine_check.Found``.

    Its inputs become the self-test: photographs (see `_inputs`), and noise if photographs do not change the outputs.
    """
    from tvm_mobilenet.boards import open_board, own
    from tvm_mobilenet.checking.machine_check import check

    whole = whole and not target.is_host
    with open_board(own(target), target) as board:
        found = check(module, network, board, _inputs(network, samples), visible=True, whole=whole)
    found.require()
    return found
