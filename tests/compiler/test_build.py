"""A built module: an folder of few files that need little of the board, and a folder that is whole or refused."""

import json
import os
import re
import shutil
import stat
from pathlib import Path

import numpy as np
import pytest
from elftools.elf.elffile import ELFFile
from elftools.elf.gnuversions import GNUVerNeedSection
from tvm_mobilenet.tune_logs.log import Journal, Record

from tests.support import modules
from tvm_mobilenet import build, schedules, targets
from tvm_mobilenet.cli import options
from tvm_mobilenet.compiler import library, pipeline
from tvm_mobilenet.compiler import module as built
from tvm_mobilenet.compiler.decide import decide
from tvm_mobilenet.compiler.network import Network, load_network
from tvm_mobilenet.errors import MissingDependencyError, TvmMobilenetError
from tvm_mobilenet.layer import Layer
from tvm_mobilenet.models.options import ModelOptions
from tvm_mobilenet.terminal import console

CROSS_GCC = "aarch64-linux-gnu-gcc"
MODEL = ModelOptions(alpha=0.25, resolution=32)


@pytest.fixture(scope="module")
def network():
    return load_network(MODEL)


@pytest.fixture(scope="module")
def rpi4(network, tmp_path_factory):
    """A folder for the Raspberry Pi 4, built once; tests that change it take a copy."""
    folder = tmp_path_factory.mktemp("build") / "v1"
    return build.build(network.options, targets.load("rpi4"), output=folder, network=network)


@pytest.fixture
def copy(rpi4, tmp_path) -> Path:
    return Path(shutil.copytree(rpi4.folder, tmp_path / "copy"))


def small() -> Network:
    """A network of one tiny convolution, for tests of everything around the kernels."""
    import torch

    from tvm_mobilenet import frontend, passes

    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU()).eval()
    return Network(ModelOptions(), None, passes.run(frontend.from_torch(model, torch.zeros(1, 3, 8, 8))))


# ---- the shared library


def test_on_this_machine_it_is_an_ordinary_tvm_executable():
    """People load it without this project: same signature as the model, NCHW in, logits out."""
    import torch
    import tvm
    from tvm import relax

    network = load_network(modules.MODEL)
    vm = relax.VirtualMachine(tvm.runtime.load_module(str(built.read(modules.small("host")).executable)), tvm.cpu())
    outputs = []
    for (x,) in network.inputs(2):
        found = vm["main"](tvm.runtime.tensor(x))
        found = found[0] if not hasattr(found, "numpy") else found
        expected = network.model.module(torch.from_numpy(x)).numpy()
        outputs.append(found.numpy())
        assert found.numpy().shape == (1, 10)
        assert np.abs(found.numpy() - expected).max() <= 1e-4 * expected.std()
    assert np.abs(outputs[0] - outputs[1]).max() > 0.01, "the output depends on the input"


def needs(path) -> tuple[set[str], dict[str, tuple], set[str]]:
    """Libraries a shared object needs, the highest version it asks of each, and the functions it imports."""
    with open(path, "rb") as file:
        elf = ELFFile(file)
        libraries = {t.needed for t in elf.get_section_by_name(".dynamic").iter_tags("DT_NEEDED")}
        versions: dict[str, tuple] = {}
        for section in elf.iter_sections():
            if isinstance(section, GNUVerNeedSection):
                for library, wanted in section.iter_versions():
                    for one in wanted:
                        number = tuple(int(n) for n in re.findall(r"\d+", one.name))
                        versions[library.name] = max(versions.get(library.name, ()), number)
        dynamic = elf.get_section_by_name(".dynsym")
        imports = {s.name for s in dynamic.iter_symbols() if s["st_shndx"] == "SHN_UNDEF" and s.name}
    return libraries, versions, imports


def check_needs(path) -> None:
    libraries, versions, imports = needs(path)
    assert libraries <= {"libc.so.6", "libm.so.6", "ld-linux-aarch64.so.1", "libtvm_ffi.so"}
    assert all(version <= (2, 28) for version in versions.values()), versions
    ours = {name for name in imports if name.startswith("TVM")}
    assert ours <= {"TVMFFIErrorSetRaisedFromCStrParts"}
    assert not {name for name in imports - ours if name.startswith(("__tvm", "_Z"))}


def test_it_runs_on_glibc_2_28_and_needs_one_function_of_tvm(rpi4):
    path = rpi4.folder / built.KERNELS
    check_needs(path)
    with path.open("rb") as file:
        assert ELFFile(file)["e_machine"] == "EM_AARCH64"


def test_a_linker_of_ones_own_links_the_same_kernels(tmp_path):
    if not shutil.which(CROSS_GCC):
        pytest.skip(f"{CROSS_GCC} is not installed: apt-get install gcc-aarch64-linux-gnu")
    zigs, target = modules.tiny("rpi4"), targets.load("rpi4")
    network = load_network(modules.tiny_options())
    result = build.build(network.options, target, output=tmp_path / "gcc", network=network, linker=CROSS_GCC)
    check_needs(result.folder / built.KERNELS)
    assert result.folder.joinpath(built.PARAMETERS).read_bytes() == zigs.joinpath(built.PARAMETERS).read_bytes()

    from tvm_mobilenet.verify import verify

    verify(result.folder, network=network, count=2).require()


@pytest.mark.parametrize("large", [False, pytest.param(True, marks=pytest.mark.full)])
def test_building_twice_gives_the_same_bytes(network, large, tmp_path):
    net = network if large else small()
    one, two = (build.build(net.options, targets.load("rpi4"), output=tmp_path / n, network=net) for n in ("1", "2"))
    for name in (built.OBJECT, built.KERNELS, built.PARAMETERS, built.PLAN):
        assert (one.folder / name).read_bytes() == (two.folder / name).read_bytes(), name


# ---- decisions and where they come from


def test_a_log_changes_the_code_and_the_table_says_so(network, rpi4, tmp_path, capsys):
    target = targets.load("rpi4")
    layer = next(one for one in pipeline.for_core(network.graph, target.core).counts if one.kind == "pointwise")
    space = schedules.space(layer, target.core)
    default = schedules.kernel(layer, space.default).script()
    other = next(d for d in space.neighbours(space.default) if schedules.kernel(layer, d).script() != default)
    log = tmp_path / "mine.jsonl"
    Journal(log).append(Record(layer=layer.name, core=target.core.name, decisions=other, cost=1.0))
    result = build.build(network.options, target, log=log, output=tmp_path / "logged", network=network)
    assert (result.folder / built.KERNELS).read_bytes() != (rpi4.folder / built.KERNELS).read_bytes()
    by_layer = {one.layer: one for one in result.layers}
    assert by_layer[layer.name].decisions == other and by_layer[layer.name].source == "mine.jsonl"
    assert {one.source for one in result.layers if one.layer != layer.name} == {one.source for one in rpi4.layers}
    build.print_result(result)
    shown = capsys.readouterr().out
    assert "mine.jsonl" in shown and layer.name in shown and "arena" in shown
    assert built.read(result.folder).layers == tuple(result.layers)


def test_a_record_that_fits_no_more_is_not_built(network, tmp_path):
    """Schedules change; what an old log says of them must not stop a build."""
    target = targets.load("rpi4")
    layer = next(one for one in network.graph.counts if one.kind == "dense")
    log = tmp_path / "old.jsonl"
    Journal(log).append(Record(layer=layer.name, core=target.core.name, decisions={"tile": 3}, cost=1.0))
    with pytest.warns(UserWarning, match=r"old\.jsonl.*skipped"):
        (one,) = decide([layer], target, log)
    assert one.source != "old.jsonl" and schedules.space(layer, target.core).valid(one.decisions) == ""


def test_every_kernel_is_there_once(rpi4):
    """Layers that are equal share code; every step of the plan finds its kernel."""
    module = built.read(rpi4.folder)
    with module.library.open("rb") as file:
        names = [s.name for s in ELFFile(file).get_section_by_name(".dynsym").iter_symbols()]
    for step in module.plan.steps:
        assert names.count(f"__tvm_ffi_{step.symbol}") == 1, step.symbol
    assert len({s.symbol for s in module.plan.steps}) == len(module.layers) < len(module.plan.steps) <= 29


# ---- a folder is whole or refused


def failing_linker(folder: Path) -> str:
    path = folder / "broken-linker"
    path.write_text("#!/bin/sh\necho 'crt1.o: not today' >&2\nexit 7\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def snapshot(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir()}


def test_a_linker_that_fails_is_told_by_what_it_made(tmp_path):
    """And not by its last flag, such as `-lpthread`."""
    with pytest.raises(TvmMobilenetError, match=r"^libmobilenet\.so for rpi4: exit code 7: crt1\.o: not today") as told:
        library._run(
            *(tmp_path, targets.load("rpi4"), [failing_linker(tmp_path)]),
            *("-shared", "-o", "libmobilenet.so", "model.o", "-lm", "-lpthread"),
        )
    assert told.value.hint.endswith("-lm -lpthread")


def test_a_linker_that_fails_leaves_what_was_there(copy, tmp_path):
    before = snapshot(copy)
    with pytest.raises(TvmMobilenetError, match=r"(?s)exit code 7.*not today"):
        build.build(ModelOptions(), targets.load("rpi4"), output=copy, network=small(), linker=failing_linker(tmp_path))
    assert snapshot(copy) == before
    built.read(copy)


def test_a_linker_that_fails_leaves_nothing_half_written(tmp_path):
    with pytest.raises(TvmMobilenetError, match="not today"):
        build.build(
            ModelOptions(),
            targets.load("rpi4"),
            output=tmp_path / "out",
            network=small(),
            linker=failing_linker(tmp_path),
        )
    assert not list((tmp_path / "out").glob("*")) and not list((tmp_path / "out").glob(".*"))


def test_a_linker_that_is_not_there_is_named(tmp_path):
    with pytest.raises(MissingDependencyError, match="no-such-linker"):
        build.build(
            ModelOptions(), targets.load("rpi4"), output=tmp_path / "out", network=small(), linker="no-such-linker"
        )


def test_an_output_that_cannot_be_written_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(TvmMobilenetError, match="cannot write"):
        build.build(ModelOptions(), targets.load("rpi4"), output=tmp_path / "file" / "out", network=small())


def test_what_was_built_reads_back(rpi4):
    module = built.read(rpi4.folder)
    assert module.info["target"] == "rpi4" and module.info["model"]["alpha"] == 0.25
    assert options.ModelOptions.from_data(module.info["model"]) == MODEL
    assert module.parameters().nbytes == module.plan.parameters_bytes == rpi4.parameters_bytes
    assert module.module_bytes == rpi4.module_bytes > rpi4.parameters_bytes


@pytest.mark.parametrize("name", [built.OBJECT, built.KERNELS, built.PARAMETERS])
@pytest.mark.parametrize("how", ["missing", "truncated", "changed"])
def test_files_that_are_not_those_built_together_are_refused(copy, name, how):
    path = copy / name
    if how == "missing":
        path.unlink()
    elif how == "truncated":
        os.truncate(path, path.stat().st_size - 1)
    else:
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    with pytest.raises(TvmMobilenetError, match="missing" if how == "missing" else "hash differs") as error:
        built.read(copy)
    assert name in str(error.value)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"plan": {"version": 1}, "layers": [], "info": {}, "files": {}}']
)
def test_a_plan_that_is_none_is_refused(copy, text):
    (copy / built.PLAN).write_text(text)
    with pytest.raises(TvmMobilenetError):
        built.read(copy)


def test_a_plan_of_another_version_is_refused(copy):
    data = json.loads((copy / built.PLAN).read_text())
    data["plan"]["version"] += 1
    (copy / built.PLAN).write_text(json.dumps(data))
    with pytest.raises(TvmMobilenetError, match="version"):
        built.read(copy)


def test_a_folder_without_a_module_is_refused(tmp_path):
    with pytest.raises(TvmMobilenetError, match="no built module"):
        built.read(tmp_path)


def test_build_from_the_command_line(tmp_path, capsys):
    code = build.main(
        [
            "--alpha",
            "0.25",
            "--resolution",
            "32",
            "--target",
            "rpi3",
            "--json",
            "--output",
            str(tmp_path / "out"),
            "--log",
            str(tmp_path / "none.jsonl"),
        ]
    )
    shown = capsys.readouterr()
    data = json.loads(shown.out)
    assert code == 0 and data["kernels"] <= 29 and data["target"] == "rpi3"
    assert all(Layer.parse(one["layer"]).name == one["layer"] for one in data["layers"])
    assert f"warning: --log {tmp_path / 'none.jsonl'}: no such file; the tune log that ships decides" in shown.err
    assert "build v1 0.25-32" in shown.err and console.plain_data(data) == data


def test_a_plan_of_somebody_else_is_not_replaced(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "plan.json").write_text('{"plan": "go on holiday"}')
    assert build.main(["--alpha", "0.25", "--resolution", "32", "--output", "."]) == 2
    assert "--output .: the plan.json there would be replaced, and it is none of a build" in capsys.readouterr().err
    assert [p.read_text() for p in tmp_path.iterdir()] == ['{"plan": "go on holiday"}']


def test_a_plan_that_was_changed_is_said_to_be(tmp_path):
    """Whatever a changed byte brings about later: the file that has it is named."""
    folder = shutil.copytree(modules.tiny("rpi4"), tmp_path / "built")
    built.read(folder)
    data = json.loads((folder / built.PLAN).read_text())
    data["target"]["clock_hz"] += 1
    (folder / built.PLAN).write_text(json.dumps(data))
    with pytest.raises(TvmMobilenetError, match="has changed since `build` wrote it: its own hash differs"):
        built.read(folder)
    (folder / built.PLAN).write_text("[]")
    with pytest.raises(TvmMobilenetError, match="cannot be read: the plan is not an object"):
        built.read(folder)
