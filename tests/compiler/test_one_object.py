"""Kernels are compiled once: what is verified, measured and shipped is the same code. They check nothing themselves, so
whoever calls one does."""

import shutil
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks.machine_code import sections_of
from tests.support import bundles, modules
from tests.support.sealing import as_earlier
from tvm_mobilenet import build, schedules, targets
from tvm_mobilenet.boards import open_board
from tvm_mobilenet.boards.plan_runner import PlanRunner
from tvm_mobilenet.bundle import pack
from tvm_mobilenet.compiler import codegen
from tvm_mobilenet.compiler import module as built
from tvm_mobilenet.compiler.network import load_network
from tvm_mobilenet.errors import BoardError, TvmMobilenetError
from tvm_mobilenet.layer import Layer
from tvm_mobilenet.tuning.builder import Builder, operands_of
from tvm_mobilenet.tuning.candidate import Candidate


def sections(folder) -> list:
    return [s for s in sections_of(folder / built.OBJECT, relaxed=True) if s.kernels]


def same_code(folder, libraries) -> None:
    module = built.read(folder)
    found = sections(folder)
    assert {name for s in found for name in s.kernels} == {step.symbol for step in module.plan.steps}
    for library in libraries:
        for section in found:
            differ = [name for name, same in section.in_library(library).items() if not same]
            assert not differ, (library, differ)


@pytest.mark.parametrize("target", ["host", "rpi4"])
def test_tvms_executable_has_the_code_that_boards_run(target):
    module = built.read(modules.tiny(target))
    same_code(module.folder, [module.library, module.runtime, module.executable])


@pytest.mark.parametrize("target", ["host", pytest.param("armv7", marks=pytest.mark.full)])
def test_a_bundle_has_the_code_that_was_verified(target):
    made = bundles.made(target)
    same_code(made.built, [made.built / built.KERNELS, made.folder / "libmobilenet.so"])


def test_a_changed_instruction_is_seen(tmp_path):
    folder = modules.small("rpi4")
    section = sections(folder)[0]
    name, (_, (start, end)) = next(iter(section.regions().items()))  # its wrapper, and its own code
    at = next(i for i in range(start, end - 32, 4) if all(section.fixed[i : i + 32]))
    library = bytearray((folder / built.KERNELS).read_bytes())
    where = library.find(section.data[at : at + 32])
    assert where > 0
    library[where] ^= 1
    (tmp_path / "changed.so").write_bytes(library)
    found = section.in_library(tmp_path / "changed.so")
    assert [other for other, same in found.items() if not same] == [name]


@pytest.mark.parametrize("name", ["pointwise m16 n16 k32 f32 relu6", "depthwise 8x8x16 3x3 p1,1,1,1 f32"])
def test_a_candidate_has_the_code_of_a_built_kernel(name, tmp_path):
    """What is tuned is what is built: the same instructions, whatever the kernel is called."""
    target, layer = targets.load("rpi4"), Layer.parse(name)
    decisions = schedules.space(layer, target.core).default
    Builder(target, fresh=True).build(Candidate(name, decisions), tmp_path / "candidate.so")
    kernels = {"another_name": schedules.kernel(layer, decisions)}
    made = codegen.compile_object(kernels, target, tmp_path / "k.o", kept=None)
    (section,) = [s for s in sections_of(made, relaxed=True) if s.kernels]
    found = section.in_library(tmp_path / "candidate.so")
    assert found["another_name"] and all(found.values())


def test_kernels_have_no_checks_of_arguments():
    for target in ("host", "rpi4"):
        text = (modules.small(target) / built.OBJECT).read_bytes()
        assert b"Mismatched" not in text and b"Expect" not in text and b"TypeError" not in text


# ---- the folder


def test_weights_lie_once_in_a_build(tmp_path):
    network = load_network(modules.tiny_options())
    made = build.build(network.options, targets.load("rpi4"), output=tmp_path, network=network)
    assert {p.name for p in tmp_path.iterdir()} >= {built.OBJECT, built.KERNELS, built.PARAMETERS, built.PLAN}
    assert not (tmp_path / built.EXECUTABLE).exists() and made.module_bytes > made.parameters_bytes
    weights = (tmp_path / built.PARAMETERS).read_bytes()
    piece = weights[4096 : 4096 + 64]
    assert [p.name for p in tmp_path.iterdir() if piece in p.read_bytes()] == [built.PARAMETERS]
    with pytest.raises(TvmMobilenetError, match="no TVM executable"):
        _ = built.read(tmp_path).executable


def test_what_another_build_left_is_removed_and_no_file_runs_twice(tmp_path, monkeypatch):
    """TVM's executable is run before the folder is replaced; the bundle of that build need not run it again."""
    network, target = load_network(modules.tiny_options()), targets.load("rpi4")
    folder, bundle, again = tmp_path / "build", tmp_path / "bundle.tar.gz", []

    def make(_folder, *, whole, **_):
        again.append(whole)
        return SimpleNamespace(write=lambda path: path.write_bytes(b""))

    monkeypatch.setattr(pack, "make", make)
    folder.mkdir()
    (folder / built.EARLIER).write_bytes(b"of an earlier version")
    build.build(network.options, target, output=folder, network=network, bundle=bundle, tvm_executable=True)
    assert (folder / built.EXECUTABLE).exists() and not (folder / built.EARLIER).exists()
    build.build(network.options, target, output=folder, network=network, bundle=bundle)
    assert not (folder / built.EXECUTABLE).exists() and again == [False, True]


# ---- what a kernel takes


def loaded(kind: str, request):
    """An open module of the small network on a board, and its plan."""
    target = "rpi4" if kind == "virtual" else "host"
    module = built.read(modules.small(target))
    address = request.getfixturevalue("server") if kind == "remote" else kind
    board = open_board(address, module.target)
    return board, board.load(module.library), module


@pytest.fixture(scope="module")
def server():
    from tests.support.agents import server_of_tvm

    with server_of_tvm("rpc_server") as port:
        yield f"rpc://127.0.0.1:{port}"


@pytest.mark.parametrize("kind", ["virtual", "local", "remote"])
def test_wrong_operands_are_refused_before_the_call(kind, request):
    board, module_there, module = loaded(kind, request)
    with board, module_there:
        runner = PlanRunner(module_there, module.plan, module.parameters())
        step = next(s for s in module.plan.steps if len(s.operands) == 4)
        right = [(runner._address(t), t.shape, t.dtype) for t in step.operands]
        arrays = [np.zeros(t.shape, t.dtype) for t in step.operands]
        for i, (address, shape, dtype) in enumerate(right):
            for changed in ((address, (*shape[:-1], shape[-1] + 1), dtype), (address, shape, "float16")):
                said = rf"kernel {step.symbol}: operand {i + 1} of 4 is {changed[2]} .*, it takes {dtype} "
                with pytest.raises(BoardError, match=said):
                    module_there.call_at(step.symbol, [*right[:i], changed, *right[i + 1 :]])
                with pytest.raises(BoardError, match=said):
                    module_there.call(step.symbol, [*arrays[:i], np.zeros(changed[1], changed[2]), *arrays[i + 1 :]])
        with pytest.raises(BoardError, match=f"kernel {step.symbol}: 3 operands, it takes 4"):
            module_there.call_at(step.symbol, right[:-1])
        module_there.call_at(step.symbol, right)


@pytest.mark.parametrize("target", ["rpi4", *(pytest.param(t, marks=pytest.mark.full) for t in ("host", "rpi5"))])
def test_a_plan_says_of_every_kernel_what_it_takes(target):
    """The plan's operands are those of the PrimFuncs, for the kernels themselves check nothing any more."""
    module = built.read(modules.small(target) if target != "rpi5" else modules.tiny(target))
    decisions = {b.layer: b.decisions for b in module.layers}
    for step in module.plan.steps:
        kernel = schedules.kernel(Layer.parse(step.layer), decisions[step.layer])
        assert operands_of(kernel) == tuple((t.shape, t.dtype) for t in step.operands), step


def test_a_candidates_operands_are_checked(tmp_path, monkeypatch):
    from tvm_mobilenet.checking import reference
    from tvm_mobilenet.tuning.runner import Runner

    target, layer = targets.load("rpi4"), "pointwise m16 n16 k32 f32 relu6"
    candidate = Candidate(layer, schedules.space(Layer.parse(layer), target.core).default)
    made = Builder(target).build(candidate, tmp_path / "k.so")
    real = reference.kernel_arguments
    monkeypatch.setattr(reference, "kernel_arguments", lambda *a: [x[:, :-1] for x in real(*a)[:1]] + real(*a)[1:])
    with open_board("virtual", target) as board, pytest.raises(BoardError, match="kernel kernel: operand 1 of 4"):
        Runner().run(made, board)


def test_a_build_of_an_earlier_version_is_read_and_run(tmp_path):
    """Kernels and TVM's executable in ``module.so``, as it was before they were compiled once."""
    new = built.read(modules.tiny("rpi4"))
    folder = tmp_path / "earlier"
    shutil.copytree(new.folder, folder)
    (folder / built.EXECUTABLE).rename(folder / built.EARLIER)
    for name in (built.OBJECT, built.KERNELS):
        (folder / name).unlink()
    as_earlier(folder, (built.EARLIER, built.PARAMETERS))
    module = built.read(folder)
    assert module.is_earlier and module.library == module.executable == folder / built.EARLIER
    x = np.random.default_rng(0).standard_normal(module.plan.inputs[0][1].shape).astype(np.float32)
    outputs = []
    for one in (new, module):
        with open_board("virtual", module.target).load(one.library) as there:
            outputs.append(PlanRunner(there, one.plan, one.parameters()).run(x).outputs[0])
    assert np.array_equal(*outputs)
