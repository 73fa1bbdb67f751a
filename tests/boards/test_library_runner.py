"""What is checked and measured on a real CPU is the library that ships, with its own threads and memory."""

import os
import shutil
import threading

import numpy as np
import pytest

from tests.support import bundles, modules
from tests.support.agents import Agent
from tests.support.sealing import as_earlier
from tvm_mobilenet import bench, profile, verify
from tvm_mobilenet.boards import open_board
from tvm_mobilenet.boards.library_runner import LibraryRunner, open_runner
from tvm_mobilenet.boards.plan_runner import PlanRunner
from tvm_mobilenet.compiler import module as built
from tvm_mobilenet.compiler.plan import input_values, inputs_of
from tvm_mobilenet.errors import BoardError, TvmMobilenetError
from tvm_mobilenet.runtime.instance import Instance


@pytest.fixture(scope="module")
def module():
    return built.read(modules.small("host"))


@pytest.fixture
def net(module):
    with Instance(module.runtime, module.folder / built.PARAMETERS, 2) as opened:
        yield opened


@pytest.fixture(scope="module", params=["local", "agent"])
def board(request, module):
    if request.param == "local":
        with open_board("local", module.target) as opened:
            yield opened
    else:
        with Agent() as agent, open_board(agent.url, module.target) as opened:
            yield opened


def outputs_by_plan(module, inputs) -> tuple[list, list]:
    """What each step writes, by the exported kernels and the plan."""
    found = []
    with open_board("local", module.target).load(module.library) as loaded:
        runner = PlanRunner(loaded, module.plan, module.parameters())
        run = runner.run(*inputs, cores=1, watch=lambda step, _, r: found.append(r.read(step.operands[-1])))
    return run.outputs, found


def test_each_step_writes_what_the_same_kernel_writes_by_the_plan(board, module):
    inputs = input_values(inputs_of(module.plan))
    expected, each = outputs_by_plan(module, inputs)
    found, operands = [], []

    def watch(step, run, runner):
        found.append(runner.read(step.operands[-1]))
        operands.append(runner.read(step.operands[0]))
        assert run.symbol == step.symbol and run.seconds.value > 0

    with open_runner(board, module) as runner:
        assert isinstance(runner, LibraryRunner)
        run = runner.run(*inputs, cores=2, watch=watch)
        assert all(np.array_equal(a, b) for a, b in zip(found, each, strict=True))
        assert all(np.array_equal(a, b) for a, b in zip(run.outputs, expected, strict=True))
        assert np.array_equal(operands[0].ravel(), inputs[0].ravel()), "what a step was given is there while it is seen"
        assert run.cost(2).value == pytest.approx(sum(k.seconds.value for k in run.kernels))
        again = runner.run(*[2 * x for x in inputs], cores=1)
        assert not np.array_equal(again.outputs[0], expected[0]) and again.kernels[0].outputs == []
        step, number = module.plan.steps[1], 1
        runner.write(step.operands[0], operands[number])
        runner.call(step)
        assert np.array_equal(runner.read(step.operands[-1]), each[number]), "one step alone"
        with pytest.raises(TvmMobilenetError, match="the model takes float32"):
            runner.run(*[x[..., :-1] for x in inputs])


def test_threads_are_as_many_as_asked_for(module):
    before = len(os.listdir("/proc/self/task"))
    for count in (1, 3):
        with Instance(module.runtime, module.folder / built.PARAMETERS, count):
            assert len(os.listdir("/proc/self/task")) == before + count - 1
    assert len(os.listdir("/proc/self/task")) == before and threading.active_count() >= 1


def test_times_of_steps(net, module):
    net.set_inputs(input_values(inputs_of(module.plan)))
    times = net.timed(3)
    assert times.shape == (3, len(module.plan.steps) + 1) and net.steps == len(module.plan.steps)
    assert (np.diff(times, axis=1) > 0).all() and (times[1:, 0] >= times[:-1, -1]).all()
    net.run()
    assert np.array_equal(times, times.copy()), "no run writes there any more"


def test_steps_and_operands_that_are_not_there(net):
    for first, last in ((-1, 1), (2, 1), (0, net.steps + 1)):
        with pytest.raises(BoardError, match=f"steps {first} to {last} of {net.steps}"):
            net.run(first, last)
    for step, operand in ((-1, 0), (net.steps, 0), (0, 9)):
        with pytest.raises(BoardError, match="no operand"):
            net.operand(step, operand, (1,), "float32")
    with pytest.raises(BoardError, match="the model takes float32"):
        net.set_inputs([x.astype(np.float16) for x in net.inputs])


def test_weights_of_another_model_and_no_library_are_refused(module, tmp_path):
    short = tmp_path / "parameters.bin"
    short.write_bytes(b"\0" * 64)
    with pytest.raises(BoardError, match="has 64 bytes, the model needs"):
        Instance(module.runtime, short)
    with pytest.raises(BoardError, match="cannot be loaded here"):
        Instance(module.library, module.folder / built.PARAMETERS)
    with pytest.raises(BoardError, match="cannot be loaded here"):
        Instance(modules.tiny("rpi4") / built.LIBRARY, module.folder / built.PARAMETERS)


def test_a_bundle_ships_the_library_that_was_checked():
    made = bundles.made("host")
    assert (made.folder / built.LIBRARY).read_bytes() == (made.built / built.LIBRARY).read_bytes()
    with Instance(made.folder / built.LIBRARY, made.folder / "weights.bin", 1) as one:
        one.set_inputs(made.network.inputs(1)[0])
        one.run()
        with bundles.python_interface().Mobilenet(made.folder) as other:
            assert np.array_equal(one.outputs[0], other.run(*made.network.inputs(1)[0])[0])


@pytest.mark.parametrize("runtime", ["own", pytest.param("tvm", marks=pytest.mark.full)])
def test_bench_and_profile_by_either_runtime(runtime, tmp_path):
    found = bench.bench(modules.tiny(), board="local", seconds=0.1, runtime=runtime)
    (row,) = found.rows
    assert found.options["runtime"] == runtime and row.layers and row.time.p50 > 0
    shown = profile.profile(modules.tiny(), board="local", seconds=0.1, runtime=runtime)
    assert len(shown.layers) == len(row.layers) and shown.seconds > 0


def test_tvms_runtime_needs_its_executable(tmp_path, capsys):
    folder = modules.without_executable(modules.tiny(), tmp_path / "plain")
    assert bench.main([str(folder), "--board", "local", "--runtime", "tvm"]) == 2
    assert "build it again with --tvm" in capsys.readouterr().err


@pytest.mark.full
def test_a_build_without_our_runtime_is_run_by_its_plan(module, tmp_path):
    """As an earlier version wrote it."""
    folder = tmp_path / "earlier"
    shutil.copytree(modules.tiny(), folder)
    (folder / built.EXECUTABLE).rename(folder / built.EARLIER)
    as_earlier(folder, (built.EARLIER, built.PARAMETERS))
    assert verify.verify(folder, board="local", count=2).ok
    assert bench.bench(folder, board="local", seconds=0.1).rows[0].layers
