"""Boards and cores as data: what ships loads, and what is wrong in a file is named with file, key and value."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tvm_mobilenet import targets, tune
from tvm_mobilenet.errors import TvmMobilenetError

FOLDER = Path(targets.__file__).parent
BOARDS = ("arm", "arm82", "armv7", "host", "rpi3", "rpi3bplus", "rpi4", "rpi5", "zero2w")


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
        "import sys; from tvm_mobilenet import targets, tune; tune.main(['--target', 'list']); "
        "assert 'tvm' not in sys.modules; print(targets.load('host').cores)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.splitlines()
    assert [line.split()[0] for line in out[-1 - len(targets.names()) : -1]] == targets.names() and int(out[-1]) >= 1


def test_host_target_names_the_real_cpu():
    d = targets.load("host").llvm_target()
    assert "host" not in (d["mtriple"], d["mcpu"]) and "linux" in d["mtriple"]


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


@pytest.mark.parametrize(
    "table,says",
    [
        ("float61 = 16.0", "[rates]: unknown dtype 'float61' = 16.0; did you mean 'float16'"),
        ("float32 = 8.0", "[rates]: unknown dtype 'float32' = 8.0; the rate of float32 is fma_per_cycle"),
        ("int32 = 8.0", "[rates]: unknown dtype 'int32'"),
        ("float16 = -16", "[rates]: float16 = -16: not between"),
        ("float16 = 0", "[rates]: float16 = 0: not between"),
        ("float16 = inf", "[rates]: float16 = inf: not between"),
        ("float16 = nan", "[rates]: float16 = nan: not between"),
        ("float16 = 1e-9", "[rates]: float16 = 1e-09: not between"),
        ("float16 = true", "[rates]: float16 = True is not a number"),
        ('float16 = "16"', "[rates]: float16 = '16' is not a number"),
        ("[rates.float16]\nrate = 3", "[rates]: float16 = {'rate': 3} is not a number"),
    ],
)
def test_wrong_rates_are_named(tmp_path, table, says):
    with pytest.raises(TvmMobilenetError) as e:
        targets.load(copied(tmp_path, core=lambda s: without_rates(s).replace("[l1d]", f"[rates]\n{table}\n[l1d]", 1)))
    assert says in str(e.value) and "my-core.toml" in str(e.value)


def test_missing_file():
    with pytest.raises(TvmMobilenetError, match=r"nowhere\.toml"):
        targets.load("nowhere.toml")


# ---- dtypes


def a76(tmp_path, change=lambda s: s, core=lambda s: s):
    """A Pi 5 as a user's own files, each changed by a function."""
    (tmp_path / "my-core.toml").write_text(core((FOLDER / "cores/cortex-a76.toml").read_text()))
    text = (FOLDER / "rpi5.toml").read_text().replace('core = "cortex-a76"', 'core = "my-core.toml"')
    (tmp_path / "my.toml").write_text(change(text))
    return targets.load(str(tmp_path / "my.toml"))


def without_rates(text):
    return re.sub(r"(?m)^\[rates\]\n(\w+ = .*\n)+", "", text)


def refused(target, dtype="float16"):
    assert not target.computes(dtype)
    with pytest.raises(TvmMobilenetError) as e:
        targets.require(target, dtype)
    assert e.value.exit_code == 2
    return e.value


def test_those_that_compute_float16_are_named(capsys):
    able = set(targets.computing("float16")) - {"host"}
    assert able == {"rpi5", "arm82"} and set(targets.computing("float32")) == set(targets.names())
    assert tune.main(["--target", "list"]) == 0
    listed = [line.split()[0] for line in capsys.readouterr().out.splitlines() if "float16, " in line]
    assert set(listed) - {"host"} == able
    for name in sorted(able):
        targets.require(targets.load(name), "float16")


@pytest.mark.parametrize("name", ["arm", "armv7", "rpi3", "rpi3bplus", "rpi4", "zero2w"])
def test_a_core_without_half_precision_is_refused(name):
    target = targets.load(name)
    told = refused(target)
    assert told.message == f"target {name}: {target.core.title} has no float16 arithmetic"
    assert "targets that compute float16: arm82" in told.hint and "rpi5" in told.hint


@pytest.mark.parametrize(
    "line",
    [
        'llvm_cpu = "generic"',
        'llvm_cpu = "generic"\nllvm_attributes = ["+v8.2a", "+dotprod"]',
        'llvm_cpu = "cortex-a72"',
        'llvm_attributes = ["-fullfp16"]',
        'llvm_attributes = ["+fullfp16", "-fullfp16"]',
        'llvm_attributes = ["-fp-armv8"]',  # without which LLVM has no half precision either
    ],
)
def test_code_that_may_not_use_half_precision_is_refused(tmp_path, line):
    """LLVM would convert each value to float32 and back, and say nothing."""
    target = a76(tmp_path, lambda s: s.replace("rpc_key", f"{line}\nrpc_key"))
    told = refused(target)
    assert "its code may not use float16 arithmetic: llvm_cpu = " in told.message and "fullfp16" in told.message
    assert f'add "+fullfp16" to llvm_attributes in {target.file}' in told.hint and "rpi5" in told.hint


@pytest.mark.parametrize(
    "line",
    [
        "",
        'llvm_cpu = "generic"\nllvm_attributes = ["+fullfp16"]',
        'llvm_cpu = "generic"\nllvm_attributes = ["+v8.2a", "+fp16fml"]',  # which LLVM has fullfp16 with
        'llvm_cpu = "neoverse-n1"',
        'llvm_attributes = ["-fullfp16", "+fullfp16"]',
    ],
)
def test_code_that_may_use_half_precision_is_taken(tmp_path, line):
    target = a76(tmp_path, lambda s: s.replace("rpc_key", f"{line}\nrpc_key"))
    assert target.computes("float16")
    targets.require(target, "float16")


def test_a_core_whose_file_has_no_rate_is_refused_with_what_to_add(tmp_path):
    told = refused(a76(tmp_path, core=without_rates))
    assert told.message == "target my: the file of its core, my-core, has no rate of float16"
    assert "[rates] float16 = " in told.hint and "rpi5" in told.hint


def test_llvm_agrees_with_what_is_said_of_its_cpus():
    """`--target list` does not ask LLVM; what it says must be LLVM's own answer."""
    from tvm_mobilenet.targets import features

    for name in targets.names():
        target = targets.load(name)
        if needed := features.needed(target, "float16"):
            assert features.allows(target, "float16") == features._has(target)(needed), name
