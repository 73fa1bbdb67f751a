"""What moving data costs is said once, in a core's file; a file that leaves figures out gets what its board says."""

import dataclasses

import pytest
from tvm_mobilenet.targets import memory

from tvm_mobilenet import targets
from tvm_mobilenet.errors import TvmMobilenetError

CORE = """
title = "core"
architecture = "aarch64"
llvm_cpu = "cortex-a72"
in_order = false
issue_width = 3
vector_registers = 32
vector_bytes = 16
fma_per_cycle = 1.0
fma_latency = 7
fma_accumulate_latency = 3
{keys}
[l1d]
bytes = 32768
ways = 2
line = {line}
[l2]
bytes = 1048576
ways = 16
{tables}
"""
BOARD = """
title = "board"
core = "core.toml"
cores = 4
clock_hz = 2.0e9
memory_bytes = 2147483648
dram_bytes_per_second = 4.0e9
dram_bytes_per_second_all = 6.0e9
llvm_triple = "aarch64-linux-gnu"
"""


@pytest.fixture
def load(tmp_path):
    def made(keys="", tables="", line=64):
        (tmp_path / "core.toml").write_text(CORE.format(keys=keys, tables=tables, line=line))
        (tmp_path / "board.toml").write_text(BOARD)
        return targets.load(str(tmp_path / "board.toml"))

    return made


@pytest.mark.parametrize("line", [32, 64, 128])
def test_what_a_file_leaves_out_follows_from_the_rest(load, line):
    """64 bytes at 2 bytes a cycle, and four times what they take from the L2."""
    found = memory.lines(load(line=line).core)
    assert [cycles * 64 / line for cycles in (found.l2, found.dram, found.again, found.strip)] == [5, 32, 20, 2]


def test_what_a_file_says_counts(load):
    target = load("l2_line_cycles = 3.0\ndram_line_cycles = 9.0", "[limits]\nagain_line_cycles = 7.0\ntask_cycles = 5")
    found = memory.lines(target.core)
    assert (found.l2, found.dram, found.again) == (3, 9, 7) and target.core.limits.task_cycles == 5


@pytest.mark.parametrize(
    "table, message",
    [
        ("task_cycle = 5", r"core\.toml: \[limits\]: unknown key 'task_cycle' = 5; did you mean 'task_cycles'"),
        ("task_cycles = -5", r"core\.toml: \[limits\]: task_cycles = -5 must be above zero"),
        ("panel_bytes = 1.5", r"core\.toml: \[limits\]: panel_bytes = 1.5 is not a whole number"),
    ],
)
def test_a_limit_that_is_wrong_is_named(load, table, message):
    with pytest.raises(TvmMobilenetError, match=message):
        load(tables="[limits]\n" + table)


def test_cycles_of_a_line_are_a_boards_bandwidth():
    """``dram_line_cycles`` of a core that ships is what one of its boards streams."""
    boards = [target for target in map(targets.load, targets.names()) if not target.is_host]
    for name in {board.core.name for board in boards}:
        own = [board for board in boards if board.core.name == name]
        assert any(memory.streamed_line_cycles(b) == pytest.approx(b.core.dram_line_cycles, rel=0.03) for b in own), (
            name
        )


def test_cpus_share_a_way_up_to_what_it_gives_to_all(load):
    assert [memory.way_to_dram(load()).of(cpus) for cpus in (1, 2, 4)] == [4e9, 6e9, 6e9]
    assert memory.way_to_l1(load().core) is None
    with pytest.raises(TvmMobilenetError, match="missing l1_fill_bytes_per_cycle"):
        memory.rates(load().core, load())
    a76 = targets.load("rpi5")
    one = memory.rates(a76.core, a76).one
    assert (
        len(one) == 3
        and one[0] == memory.way_to_l1(a76.core).one
        and one[-1] == a76.dram_bytes_per_second / a76.clock_hz
    )


def test_a_build_carries_the_limits_of_its_core(load):
    from tvm_mobilenet.targets import stored

    target = load(tables="[limits]\ntask_cycles = 5")
    assert stored.from_data(stored.to_data(target), "plan").core == target.core
    told = stored.to_data(target)
    del told["core"]["limits"]
    assert stored.from_data(told, "plan").core == dataclasses.replace(target.core, limits=targets.Limits())
