"""A bundle: what goes to a device, which needs nothing there but libc.

``libmobilenet.so``, ``libmobilenet.a``  the kernels and our runtime (runtime/), linked for the target
``mobilenet.h``, ``mobilenet``, ``mobilenet.py``  the C interface, the program, Python through ctypes
``weights.bin``     the constants, mapped by the library
``selftest.bin``    inputs, and the outputs of PyTorch in float64 for them
``labels.txt``      one class a line, where they are known
``manifest.json``   what it is, and size and hash of every file; ``manifest.sha256`` its own hash

Equal inputs give equal bytes: nothing in a bundle says where or when it was made.
"""

from __future__ import annotations

import copy
import gzip
import hashlib
import io
import json
import math
import os
import re
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import dataclass
from importlib import resources
from importlib.metadata import version
from pathlib import Path

import numpy as np

from . import codegen
from .errors import TvmMobilenetError, VerificationError
from .plan import Plan
from .runtime import symbols, tables

FORMAT = 1
SOURCES = ("pool.c", "instance.c", "folder.c", "sha256.c", "image.c", "check.c")
FLAGS = ("-std=gnu11", "-O2", "-g0", "-fPIC", "-fvisibility=hidden", "-ffunction-sections", "-fdata-sections")
PROGRAMS = ("libmobilenet.so", "mobilenet")
_GLIBC = (2, 28)
_NEEDED = re.compile(r"lib(c|m)\.so\.6|libpthread\.so\.0|ld-linux.*\.so\.\d")
# LLVM's name of a feature, and what the kernel calls it (for x86 they are the same, but with dots for dashes)
_FEATURES = {
    "aarch64": {
        "neon": ("asimd",),
        "fullfp16": ("fphp", "asimdhp"),
        "dotprod": ("asimddp",),
        "sve": ("sve",),
        "i8mm": ("i8mm",),
        "bf16": ("bf16",),
    },
    "armv7": {"neon": ("neon",), "vfp4": ("vfpv4",), "hwdiv-arm": ("idiva",)},
    "x86_64": {
        n: (n,)
        for n in ("avx", "avx2", "fma", "f16c", "bmi2", "avx512f", "avx512dq", "avx512bw", "avx512vl", "avx512vnni")
    },
}


@dataclass(frozen=True)
class Bundle:
    """A bundle that was read and found whole.

    Attributes
    ----------
    manifest : dict
    files : dict of str to bytes
        Its files by name, the manifest and its hash included.
    """

    manifest: dict
    files: dict

    @property
    def name(self) -> str:
        """Folder name in the archive: model and target."""
        return self.manifest["name"]

    def archive(self) -> bytes:
        """As an uncompressed tar file of the files alone; the same bytes for the same files."""
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as tar:
            for name, data in sorted(self.files.items()):
                entry = tarfile.TarInfo(f"{self.name}/{name}")
                entry.size, entry.mode = len(data), 0o755 if name in PROGRAMS else 0o644
                tar.addfile(entry, io.BytesIO(data))
        return out.getvalue()

    def write(self, path: Path) -> None:
        """A ``.tar.gz``, or a folder when the path does not end so."""
        try:
            if not path.name.endswith((".tar.gz", ".tgz")):
                path.mkdir(parents=True, exist_ok=True)
                for name, data in self.files.items():
                    (path / name).write_bytes(data)
                    (path / name).chmod(0o755 if name in PROGRAMS else 0o644)
                return
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
            temporary.write_bytes(gzip.compress(self.archive(), 6, mtime=0))
            os.replace(temporary, path)
        except OSError as e:
            raise TvmMobilenetError(f"cannot write the bundle {path}: {e}", "choose another --bundle") from None


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
) -> Bundle:
    """The bundle of a built module.

    Parameters
    ----------
    folder : path
        What `build` wrote; its very machine code is run on a board and compared with PyTorch first.
    lowered : tvm.IRModule
        What it was built from.
    network : Network
    target : targets.Target
    linker : str, optional
        In place of zig's.
    embed_weights : bool
        The weights become part of the library; there is no ``weights.bin``.
    samples : int
        Inputs that travel for the self-test.
    work : path, optional
        A folder that keeps sources and objects, for a build with other compiler flags.

    Raises
    ------
    VerificationError
        The machine code does not compute what PyTorch computes.
    TvmMobilenetError
        A file cannot be linked, or needs more than libc.
    """
    from . import built

    module = built.read(folder)
    plan, weights = module.plan, np.asarray(module.parameters()).tobytes()
    batch = network.inputs(samples)
    expected = _reference(network, batch)
    tolerance, error = _check(module, target, batch, expected)
    preprocess = network._preprocess() if len(plan.inputs) == 1 else None
    classes = plan.outputs[0][1].shape[-1] if _classifies(plan) and not network.options.features else 0
    labels = network.labels if classes else ()
    weights_hash = hashlib.sha256(weights).hexdigest()
    about = {
        "model": network.options.title,
        "target": target.name,
        "architecture": target.architecture,
        "features": _features(target),
        "classes": classes,
        "labels": bool(labels),
        "samples": len(batch),
        "tolerance": tolerance,
        "embedded": embed_weights,
        "weights_sha256": weights_hash,
    }
    name = f"mobilenet-{network.options.slug}-{target.name}"
    prefix = re.sub(r"\W", "_", f"{network.options.slug}_{target.name}_")
    prefix = prefix if prefix[0].isalpha() else f"m{prefix}"
    files = {
        "selftest.bin": b"".join(
            np.ascontiguousarray(a).tobytes() for x, y in zip(batch, expected, strict=True) for a in (*x, *y)
        )
    }
    if labels:
        files["labels.txt"] = "".join(" ".join(label.split()) + "\n" for label in labels).encode()
    if not embed_weights:
        files["weights.bin"] = (
            b"MNWEIGH1" + len(weights).to_bytes(8, "little") + bytes.fromhex(weights_hash).ljust(48, b"\0") + weights
        )
    source = resources.files(f"{__package__}.runtime")
    for file in ("mobilenet.h", "mobilenet.py"):
        files[file] = (source / file).read_bytes()
    with tempfile.TemporaryDirectory(prefix="tvm_mobilenet_") as temporary:
        work = work or Path(temporary)
        _kernels(lowered, target, work / "kernels.o")
        digest = hashlib.sha256((work / "kernels.o").read_bytes() + weights_hash.encode())
        for file in (*SOURCES, "internal.h", "mobilenet.h", "main.c"):
            digest.update((source / file).read_bytes())
        digest.update(json.dumps([plan.to_data(), about], sort_keys=True).encode())
        about["id"] = digest.hexdigest()[:16]
        files |= _link(
            work, target, linker, tables.source(plan, about, preprocess), prefix, weights if embed_weights else None
        )
    manifest = {
        "format": FORMAT,
        "id": about["id"],
        "name": name,
        "symbol_prefix": prefix,
        "model": {k: v for k, v in module.info["model"].items() if k not in ("weights", "input", "labels")},
        "target": {
            "name": target.name,
            "title": target.title,
            "architecture": target.architecture,
            "features": about["features"],
            "cores": target.cores,
        },
        "preprocess": None
        if preprocess is None
        else {k: getattr(preprocess, k) for k in ("size", "mean", "std", "crop", "interpolation", "layout")},
        "inputs": [[n, t.shape, t.dtype] for n, t in plan.inputs],
        "outputs": [[n, t.shape, t.dtype] for n, t in plan.outputs],
        "classes": classes,
        "bytes": {"weights": plan.parameters_bytes, "arena": plan.arena_bytes, "scratch": plan.scratch_bytes},
        "error": {"allowed": tolerance, "found": float(f"{error:.1e}"), "unit": "of the spread of the outputs"},
        "versions": {**module.info["versions"], "tvm-mobilenet": _version(), "ziglang": version("ziglang")},
        "decisions": [vars(layer) for layer in module.layers],
        "files": {n: {"bytes": len(d), "sha256": hashlib.sha256(d).hexdigest()} for n, d in sorted(files.items())},
    }
    text = (json.dumps(manifest, indent=1) + "\n").encode()
    files["manifest.json"] = text
    files["manifest.sha256"] = f"{hashlib.sha256(text).hexdigest()}  manifest.json\n".encode()
    return Bundle(json.loads(text), files)


def read(path: str | Path) -> Bundle:
    """The bundle of a ``.tar.gz`` or a folder.

    Raises
    ------
    TvmMobilenetError
        It is none, or a file in it is not the one that was built.
    """
    path = Path(path)
    try:
        if path.is_dir():
            files = {p.name: p.read_bytes() for p in path.iterdir() if p.is_file()}
        else:
            with tarfile.open(path) as tar:
                files = {Path(m.name).name: tar.extractfile(m).read() for m in tar if m.isfile()}
        text = files["manifest.json"]
        if hashlib.sha256(text).hexdigest() != files["manifest.sha256"][:64].decode():
            raise ValueError("the manifest's hash differs")
        manifest = json.loads(text)
        if manifest["format"] != FORMAT:
            raise ValueError(f"format {manifest['format']!r}, this reads {FORMAT}")
        for name, entry in manifest["files"].items():
            if hashlib.sha256(files[name]).hexdigest() != entry["sha256"]:
                raise ValueError(f"{name} is not the file that was built: its hash differs")
        kept = {name: files[name] for name in (*manifest["files"], "manifest.json", "manifest.sha256")}
    except (OSError, ValueError, KeyError, TypeError, EOFError, tarfile.TarError) as e:
        raise TvmMobilenetError(
            f"{path} is no whole bundle: {type(e).__name__}: {e}",
            "python -m tvm_mobilenet.build --bundle FILE makes one",
        ) from None
    return Bundle(manifest, kept)


def _version() -> str:
    from . import __version__

    return __version__


def _classifies(plan: Plan) -> bool:
    return len(plan.outputs) == 1 and len(plan.outputs[0][1].shape) == 2


def _reference(network, batch: list) -> list[list[np.ndarray]]:
    """PyTorch's outputs, computed in float64 and rounded, so that they are the same on every machine."""
    if network.model is None:
        return network.reference(batch)[0]
    import torch

    model = copy.deepcopy(network.model.module).double()
    with torch.no_grad():
        found = [model(*(torch.from_numpy(a).double() for a in x)) for x in batch]
    return [[t.float().numpy() for t in (y if isinstance(y, (tuple, list)) else (y,))] for y in found]


def _check(module, target, batch: list, expected: list) -> tuple[float, float]:
    """Runs the module on a board; the difference that is allowed and the one that was found, of the spread."""
    from .boards import open_board
    from .boards.plan_runner import PlanRunner
    from .verify import OUTPUT_TOLERANCE

    allowed = OUTPUT_TOLERANCE * math.sqrt(max(1, len(module.plan.steps)))
    with open_board("virtual" if not target.is_host else "local", target).load(module.library) as loaded:
        found = PlanRunner(loaded, module.plan, module.parameters()).run(*batch[0]).outputs
    error = max(
        float(np.abs(f.astype(np.float64) - e).max() / (e.std() or 1.0))
        for f, e in zip(found, expected[0], strict=True)
    )
    if not error <= allowed:
        raise VerificationError(
            f"the machine code differs from PyTorch by {error:.2e} of the spread, {allowed:.2e} is allowed",
            f"python -m tvm_mobilenet.verify {module.folder} names the layer",
        )
    return allowed, error


def _features(target) -> list[str]:
    """What a CPU must have, as the device's kernel names it."""
    import tvm

    has = tvm.get_global_func("target.target_has_feature")
    llvm = codegen.tvm_target(target)
    return [n for feature, names in _FEATURES[target.architecture].items() if has(feature, llvm) for n in names]


def _kernels(lowered, target, path: Path) -> None:
    import tvm

    kernels = {g.name_hint: f for g, f in lowered.functions.items() if g.name_hint != "main"}
    module = tvm.IRModule({s: f.with_attr("global_symbol", s) for s, f in sorted(kernels.items())})
    tvm.compile(module, target=codegen.tvm_target(target)).mod.write_to_file(str(path))


def _link(work: Path, target, linker, model: str, prefix: str, weights: bytes | None) -> dict[str, bytes]:
    """Compiles runtime and tables, and links all three: library, archive and program."""
    compiler = codegen.linker_command(target, linker)
    source = resources.files(f"{__package__}.runtime")
    for name in (*SOURCES, "main.c", "internal.h", "mobilenet.h"):
        (work / name).write_bytes((source / name).read_bytes())
    (work / "model.c").write_text(model)
    units = [*SOURCES, "model.c"]
    if weights is not None:
        (work / "weights.raw").write_bytes(weights)
        (work / "weights.S").write_text(
            '.section .rodata.mn_weights,"a",%progbits\n.balign 64\n.globl mn_weights\n'
            '.hidden mn_weights\nmn_weights:\n.incbin "weights.raw"\n'
            '.section .note.GNU-stack,"",%progbits\n'
        )
        units.append("weights.S")
    for unit in (*units, "main.c"):
        _run(work, target, compiler, *FLAGS, "-c", unit, "-o", f"{unit}.o")
    _run(work, target, compiler, "-r", "-nostdlib", "-o", "model.o", "kernels.o", *(f"{u}.o" for u in units))
    symbols.own_names(work / "model.o", prefix)
    (work / "exports").write_text(f"{{ global: mobilenet_*; {prefix}mobilenet_*; local: *; }};\n")
    libraries = ("-lm", "-lpthread")
    _run(
        work,
        target,
        compiler,
        "-shared",
        "-s",
        "-Wl,--gc-sections",
        "-Wl,-z,defs",
        "-Wl,--version-script=exports",
        "-Wl,-soname,libmobilenet.so",
        "-o",
        "libmobilenet.so",
        "model.o",
        *libraries,
    )
    _run(
        work, target, compiler, "-s", "-Wl,-rpath,$ORIGIN", "-o", "mobilenet", "main.c.o", "libmobilenet.so", *libraries
    )
    _run(work, target, [sys.executable, "-m", "ziglang", "ar"], "rcsD", "libmobilenet.a", "model.o")
    _check_needs(work / "libmobilenet.so")
    return {name: (work / name).read_bytes() for name in ("libmobilenet.so", "libmobilenet.a", "mobilenet")}


def _run(work: Path, target, command: list[str], *arguments: str) -> None:
    done = subprocess.run([*command, *arguments], cwd=work, capture_output=True, text=True)
    if done.returncode:
        raise TvmMobilenetError(
            f"{arguments[-1]} for {target.name}: exit code {done.returncode}: {done.stderr.strip()[-800:]}",
            "command: " + " ".join((*command, *arguments)),
        )


def _check_needs(path: Path) -> None:
    """Reads the dynamic section: libc, libm and pthreads, of no later glibc than boards have."""
    from elftools.elf.elffile import ELFFile

    with path.open("rb") as f:
        elf = ELFFile(f)
        needed = [t.needed for t in elf.get_section_by_name(".dynamic").iter_tags() if t.entry.d_tag == "DT_NEEDED"]
        versions = elf.get_section_by_name(".gnu.version_r")
        wanted = [a.name for _, auxiliaries in (versions.iter_versions() if versions else ()) for a in auxiliaries]
    late = [
        v for v in wanted if (m := re.fullmatch(r"GLIBC_(\d+)\.(\d+).*", v)) and tuple(map(int, m.groups())) > _GLIBC
    ]
    foreign = [n for n in needed if not _NEEDED.fullmatch(n)]
    if late or foreign:
        raise TvmMobilenetError(
            f"{path.name} needs {', '.join(foreign + late)}, which a board may not have",
            "leave out --linker: zig links against glibc 2.28",
        )
