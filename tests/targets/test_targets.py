"""Boards and cores as data: what ships loads, and what is wrong in a file is named with file, key and value."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tvm_mobilenet import targets
from tvm_mobilenet.errors import TvmMobilenetError

FOLDER = Path(targets.__file__).parent
BOARDS = ("arm", "armv7", "host", "rpi3", "rpi3bplus", "rpi4", "rpi5", "zero2w")


def test_every_board_ships():
    assert set(BOARDS) <= set(targets.names())


@pytest.mark.parametrize("name", targets.names())
def test_loads(name):
    target = targets.load(name)
    assert target.name == name and target.cores >= 1
    assert target.core.l1d.bytes < target.core.l2.bytes
    assert target.core.macs_per_cycle("float32") >= 4
    assert target.core.fma_accumulate_latency <= target.core.fma_latency


def test_arithmetic_floor_of_v1_is_that_of_the_papers_boards():
    v1 = 568_740_352
    assert v1 / targets.load("rpi4").core.macs_per_cycle("float32") == pytest.approx(142.2e6, rel=1e-3)
    assert v1 / targets.load("rpi5").core.macs_per_cycle("float32") == pytest.approx(71.1e6, rel=1e-3)


def test_generic_arm_has_no_optional_features():
    arm = targets.load("arm")
    assert arm.llvm_target()["mcpu"] == "generic" and "mattr" not in arm.llvm_target()
    assert arm.core.name == "cortex-a72" and arm.cores == 4


def test_host_is_this_machine_and_listing_does_not_import_tvm():
    code = (
        "import sys; from tvm_mobilenet import targets; rows = targets.table_rows(); "
        "assert 'tvm' not in sys.modules; print(len(rows), targets.load('host').cores)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert int(out[0]) == len(targets.names()) + 1 and int(out[1]) >= 1


def test_host_target_names_the_real_cpu():
    d = targets.load("host").llvm_target()
    assert "host" not in (d["mtriple"], d["mcpu"]) and "linux" in d["mtriple"]


def test_rows_are_as_wide_as_the_heading():
    rows = targets.table_rows()
    assert all(len(r) == len(rows[0]) and all(isinstance(c, str) for c in r) for r in rows)
    assert [r[0] for r in rows[1:]] == targets.names()


@pytest.mark.parametrize("wrong,right", [("rpi44", "rpi4"), ("rpi-5", "rpi5"), ("zero2", "zero2w"), ("hots", "host")])
def test_unknown_name_suggests_the_nearest(wrong, right):
    with pytest.raises(TvmMobilenetError, match=f"did you mean '{right}'"):
        targets.load(wrong)


def copied(tmp_path, change=lambda s: s, core=lambda s: s):
    """The Pi 4 as a user's own files, each changed by a function."""
    (tmp_path / "my-core.toml").write_text(core((FOLDER / "cores/cortex-a72.toml").read_text()))
    text = (FOLDER / "rpi4.toml").read_text().replace('core = "cortex-a72"', 'core = "my-core.toml"')
    path = tmp_path / "my.toml"
    path.write_text(change(text))
    return str(path)


def test_own_file_with_own_core(tmp_path):
    target = targets.load(copied(tmp_path, core=lambda s: s.replace("bytes = 1048576", "bytes = 2097152")))
    assert target.name == "my" and target.core.name == "my-core" and target.core.l2.bytes == 2 << 20


def sub(pattern, replacement):
    return lambda s: re.sub(pattern, replacement, s, count=1, flags=re.MULTILINE)


@pytest.mark.parametrize(
    "change,says",
    [
        (lambda s: "colour = 3\n" + s, "unknown key 'colour' = 3"),
        (sub("^clock_hz", "clock_khz"), "did you mean 'clock_hz'"),
        (sub(r"^clock_hz.*$", ""), "missing clock_hz"),
        (sub(r"^cores = .*", "cores = 0"), "cores = 0"),
        (sub(r"^cores = .*", "cores = 2.5"), "cores = 2.5 is not a whole number"),
        (sub(r"^cores = .*", "cores = true"), "cores = True is not a whole number"),
        (sub(r"^cores = .*", "cores = 5000"), "cores = 5000"),
        (sub(r"^clock_hz.*$", "clock_hz = 1500"), "clock_hz = 1500"),
        (sub(r"^clock_hz.*$", "clock_hz = -1.5e9"), "must be above zero"),
        (sub(r"^clock_hz.*$", "clock_hz = inf"), "finite"),
        (sub(r"^memory_bytes.*$", 'memory_bytes = "2 GB"'), "memory_bytes = '2 GB'"),
        (sub(r"^dram_bytes_per_second =.*$", "dram_bytes_per_second = 9e9"), "more than all together"),
        (sub(r"^llvm_triple.*$", 'llvm_triple = "x86_64-linux-gnu"'), "llvm_triple = 'x86_64-linux-gnu'"),
        (sub(r"^link_triple.*$", 'link_triple = "arm-linux-gnueabihf"'), "link_triple"),
        (sub(r"^rpc_key", 'llvm_attributes = "neon"\nrpc_key'), "is not a list"),
        (sub(r"^rpc_key", 'llvm_attributes = ["neon"]\nrpc_key'), "begins with neither"),
        (sub(r"^core = .*$", 'core = "cortex-a99"'), "core = 'cortex-a99' does not exist"),
        (sub(r"^rpc_key", 'llvm_float_abi = "firm"\nrpc_key'), "llvm_float_abi = 'firm'"),
        (sub(r"^core = .*$", "core = 72"), "core = 72"),
        (lambda s: s + "\nnonsense", "my.toml"),
    ],
)
def test_wrong_values_of_a_target_are_named(tmp_path, change, says):
    with pytest.raises(TvmMobilenetError) as e:
        targets.load(copied(tmp_path, change))
    assert says in str(e.value) and "my.toml" in str(e.value)


@pytest.mark.parametrize(
    "change,says",
    [
        (sub(r"^vector_bytes.*$", "vector_bytes = 24"), "vector_bytes = 24"),
        (sub(r"^architecture.*$", 'architecture = "mips"'), "architecture = 'mips'"),
        (sub(r"^fma_accumulate_latency.*$", "fma_accumulate_latency = 9"), "above fma_latency"),
        (sub(r"^fma_per_cycle.*$", "fma_per_cycle = 8.0"), "above issue_width"),
        (sub(r"^ways = 2$", "ways = 3"), "not a multiple"),
        (sub(r"^ways = 2$", "ways = 2\nline = 48"), "not a power of two"),
        (sub(r"^ways = 2$", "ways = 2\nbanks = 4"), "unknown key 'banks'"),
        (sub(r"^in_order.*$", "in_order = 1"), "in_order = 1 is not true or false"),
    ],
)
def test_wrong_values_of_a_core_are_named(tmp_path, change, says):
    with pytest.raises(TvmMobilenetError) as e:
        targets.load(copied(tmp_path, core=change))
    assert says in str(e.value) and "my-core.toml" in str(e.value)


def test_missing_file():
    with pytest.raises(TvmMobilenetError, match=r"nowhere\.toml"):
        targets.load("nowhere.toml")
