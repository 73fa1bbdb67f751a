"""Levels of this machine: a build for more than the CPU has ends with an illegal instruction, one for less is slow."""

import contextlib
import dataclasses
import json
import os
import subprocess
import sys

import pytest
from tvm_mobilenet.targets import cpu, host, stored

from tests.support import modules
from tvm_mobilenet import bench, build, profile, schedules, targets, verify
from tvm_mobilenet.boards import needs, open_board
from tvm_mobilenet.boards.comparison import KERNEL_TOLERANCE
from tvm_mobilenet.compiler import module as built
from tvm_mobilenet.diagnosis import local as doctor_local
from tvm_mobilenet.errors import BoardError, TvmMobilenetError
from tvm_mobilenet.layer import Layer
from tvm_mobilenet.tuning.builder import Builder
from tvm_mobilenet.tuning.candidate import Candidate
from tvm_mobilenet.tuning.runner import Runner

HERE = host.LEVELS[host.architecture()]
OWN = host.machine()
LOWER = [level for level in HERE[: HERE.index(OWN)]]
KINDS = (
    "pointwise m49 n48 k32 f32 relu6",
    "depthwise 14x14x32 3x3 p1,1,1,1 f32 relu6",
    "conv 16x16x3 n16 3x3 s2 p1,1,1,1 f32 relu6",
    "pool 7x7x32 avg 7x7 f32",
    "dense m1 n10 k64 f32",
)


def this_machine_is(monkeypatch, machine: str, flags) -> None:
    """Let this be another machine."""
    monkeypatch.setattr(host.platform, "machine", lambda: machine)
    monkeypatch.setattr(cpu, "features", lambda *_: list(flags))


@pytest.mark.parametrize(
    "flags, name, nbytes, registers",
    [
        (host._V4_FP16, "x86-64-v4-fp16", 64, 32),
        (host._V4, "x86-64-v4", 64, 32),
        ((*host._V3, "avx512_fp16"), "x86-64-v3", 32, 16),
        ((*host._V3, "avx512f", "avx512cd"), "x86-64-v3", 32, 16),  # Knights Landing
        ((*host._V2, "avx", "f16c"), "x86-64-v2", 16, 16),  # Ivy Bridge: without fused multiply-add
        (("pni", "ssse3"), "x86-64", 16, 16),
        ((), "x86-64", 16, 16),
    ],
)
def test_all_of_a_level_is_found_at_once(monkeypatch, flags, name, nbytes, registers):
    this_machine_is(monkeypatch, "x86_64", flags)
    monkeypatch.delenv(host.VARIABLE, raising=False)
    core = targets.load("host").core
    cpu_of_llvm = name.removesuffix("-fp16")
    assert (core.name, core.llvm_cpu, core.vector_bytes, core.vector_registers) == (
        name,
        cpu_of_llvm,
        nbytes,
        registers,
    )
    assert targets.load("host").llvm_target()["mcpu"] == cpu_of_llvm


@pytest.mark.parametrize(
    "machine, flags, name, cpu_of_llvm",
    [
        ("aarch64", ("fp", "asimd", "crc32"), "armv8-a", "cortex-a72"),
        ("arm64", host._A76, "armv8.2-a", "cortex-a76"),
        ("aarch64", (), "armv8-a", "cortex-a72"),
        ("armv7l", ("neon",), "armv7-a", "cortex-a7"),
    ],
)
def test_arm_machines_have_levels_too(monkeypatch, machine, flags, name, cpu_of_llvm):
    this_machine_is(monkeypatch, machine, flags)
    monkeypatch.delenv(host.VARIABLE, raising=False)
    core = targets.load("host").core
    assert (core.name, core.llvm_cpu, core.vector_bytes) == (name, cpu_of_llvm, 16)
    monkeypatch.setenv(host.VARIABLE, "x86-64-v3")
    with pytest.raises(TvmMobilenetError, match=f"a level of x86_64, and this machine is {core.architecture}"):
        targets.load("host")


@pytest.mark.parametrize(
    "wrong, says", [("x86-64-v5", "did you mean"), ("haswell", "not a level"), ("v3", "not a"), ("host", "")]
)
def test_an_unknown_level_is_refused_with_those_there_are(monkeypatch, wrong, says):
    this_machine_is(monkeypatch, "x86_64", host._V3)
    monkeypatch.setenv(host.VARIABLE, wrong)
    with pytest.raises(TvmMobilenetError) as e:
        targets.load("host")
    assert says in str(e.value) and f"{host.VARIABLE}={wrong}" in str(e.value) and e.value.exit_code == 2
    assert "x86-64, x86-64-v2, x86-64-v3, x86-64-v4" in str(e.value) and "machine has x86-64-v3" in str(e.value)


def test_a_level_that_the_machine_lacks_is_refused_and_a_lower_one_taken(monkeypatch):
    this_machine_is(monkeypatch, "x86_64", host._V3)
    monkeypatch.setenv(host.VARIABLE, "x86-64-v4")
    with pytest.raises(TvmMobilenetError) as e:
        targets.load("host")
    assert "this machine has x86-64-v3; it lacks avx512f, avx512bw, avx512cd, avx512dq, avx512vl" in str(e.value)
    assert "set it to one of x86-64, x86-64-v2, x86-64-v3, or unset it" in str(e.value)
    targets.load("rpi4")  # no matter what the host is
    monkeypatch.setenv(host.VARIABLE, "x86-64-v2")
    assert targets.load("host").core.name == "x86-64-v2"
    monkeypatch.setenv(host.VARIABLE, "")
    assert targets.load("host").core.name == "x86-64-v3"


def test_levels_are_llvms_own():
    """What a level has by our table is what LLVM uses at its CPU."""
    import tvm

    has = tvm.get_global_func("target.target_has_feature")
    other = {"lahf_lm": "sahf", "pni": "sse3", "bmi1": "bmi", "abm": "lzcnt", "sse4_1": "sse4.1", "sse4_2": "sse4.2"}
    other["avx512_fp16"] = "avx512fp16"
    for level in host.LEVELS["x86_64"]:
        facts = {"kind": "llvm", "mtriple": "x86_64-linux-gnu", "mcpu": level.llvm_cpu}
        target = tvm.target.Target({**facts, **({"mattr": list(level.attributes)} if level.attributes else {})})
        found = [flag for flag in host._V4_FP16 if has(other.get(flag, flag), target)]
        assert set(found) == set(level.flags), level.name


@pytest.mark.parametrize(
    "machine, flags, rate",
    [
        ("x86_64", host._V4_FP16, 64.0),
        ("x86_64", host._V4, None),
        ("aarch64", host._A76, 16.0),
        ("aarch64", [flag for flag in host._A76 if flag != "asimdhp"], None),
        ("aarch64", [flag for flag in host._A76 if flag != "fphp"], None),
        ("aarch64", ["asimd"], None),
        ("armv7l", ["neon"], None),
    ],
)
def test_a_host_computes_float16_where_its_cpu_does(monkeypatch, machine, flags, rate):
    this_machine_is(monkeypatch, machine, flags)
    monkeypatch.delenv(host.VARIABLE, raising=False)
    target = targets.load("host")
    assert target.computes("float16") == (rate is not None) == ("host" in targets.computing("float16"))
    if rate is None:
        with pytest.raises(TvmMobilenetError, match=f"at {target.core.name} has no float16") as e:
            targets.require(target, "float16")
        assert "arm82, rpi5" in e.value.hint
        return
    assert target.core.macs_per_cycle("float16") == rate == 2 * target.core.macs_per_cycle("float32")
    assert stored.from_data(json.loads(json.dumps(stored.to_data(target))), "plan.json") == target
    assert not needs.missing(target, flags) and needs.missing(
        target, [f for f in flags if "hp" not in f and "_fp16" not in f]
    )
    monkeypatch.setenv(host.VARIABLE, host.LEVELS[host.architecture()][0].name)
    with pytest.raises(TvmMobilenetError) as e:
        targets.require(targets.load("host"), "float16")
    assert f"this machine has it: set {host.VARIABLE}={target.core.name}" in e.value.hint


def test_without_proc_the_cpu_is_asked_itself(monkeypatch):
    if cpu.platform.machine() != "x86_64" or not cpu._cpuid():
        pytest.skip("glibc tells the CPU's features on x86-64 from 2.33 on")
    monkeypatch.delenv(host.VARIABLE, raising=False)
    before = host.machine(), set(cpu.features())
    monkeypatch.setattr(cpu, "_text", lambda path: "")
    assert host.machine() == before[0] and set(cpu.features()) <= before[1]
    monkeypatch.setattr(cpu, "_cpuid", list)
    assert host.machine() == HERE[0]
    if len(HERE) > 1:
        monkeypatch.setenv(host.VARIABLE, HERE[-1].name)
        with pytest.raises(TvmMobilenetError, match="nothing tells the flags"):
            targets.load("host")


def test_odd_caches_of_virtual_machines_do_not_stop_it(monkeypatch, tmp_path):
    odd = (("1", "0K", "0", "0"), ("2", "1000K", "7", "64"), ("3", "x", "1", "1"))
    for i, (level, size, ways, line) in enumerate(odd):
        folder = tmp_path / f"index{i}"
        folder.mkdir()
        values = {"level": level, "type": "Unified", "size": size, "ways_of_associativity": ways}
        values |= {"coherency_line_size": line, "shared_cpu_list": "0"}
        for name, text in values.items():
            (folder / name).write_text(text)
    monkeypatch.setattr(host, "_CACHES", tmp_path)
    core = targets.load("host").core
    assert (core.l1d.bytes, core.l2.bytes, core.l3) == (32768, 524288, None)


# ---- code


@pytest.mark.parametrize("level", [*LOWER, OWN], ids=lambda level: level.name)
@pytest.mark.parametrize("name", KINDS, ids=lambda name: name.split()[0])
def test_each_kind_of_layer_is_right_at_each_level_of_this_machine(monkeypatch, tmp_path, level, name):
    monkeypatch.setenv(host.VARIABLE, level.name)
    target, layer = targets.load("host"), Layer.parse(name)
    decisions = schedules.space(layer, target.core).default
    built = Builder(target).build(Candidate(name, decisions, whole=True), tmp_path / "k.so")
    assert Runner(one_thread=True).run(built, open_board("local", target)).difference <= KERNEL_TOLERANCE


@pytest.fixture(scope="module")
def lower(tmp_path_factory):
    """A small network built for a lower level than the machine's."""
    if not LOWER:
        pytest.skip(f"this machine has the lowest level alone, {OWN.name}")
    folder = tmp_path_factory.mktemp("lower")
    os.environ[host.VARIABLE] = LOWER[-1].name
    try:
        build.build(modules.tiny_options(), targets.load("host"), output=folder / "built", bundle=folder / "b.tar.gz")
    finally:
        del os.environ[host.VARIABLE]
    return folder


@pytest.mark.parametrize(
    "variable", ["", *(pytest.param(v, marks=pytest.mark.full) for v in (HERE[0].name, HERE[-1].name, "nonsense"))]
)
def test_a_build_keeps_its_level_whatever_the_variable_says_later(lower, monkeypatch, variable, capsys):
    monkeypatch.setenv(host.VARIABLE, variable)
    now = {"": OWN.name, "nonsense": "", HERE[-1].name: OWN.name if OWN is HERE[-1] else ""}.get(variable, variable)
    told = pytest.warns(UserWarning, match=f"core.name was '{LOWER[-1].name}', is '{now}'")
    with told if now not in ("", LOWER[-1].name) else contextlib.nullcontext():
        target = built.read(lower / "built").target
    assert target.core.name == target.core.llvm_cpu == LOWER[-1].name or HERE is not host.LEVELS["x86_64"]
    assert target.core.vector_bytes == LOWER[-1].vector_bytes and target.cores == host.cores()
    assert verify.main([str(lower / "built"), "--inputs", "1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["ok"]


def test_bench_profile_and_bundle_use_the_stored_level(lower, monkeypatch, capsys):
    from tvm_mobilenet.bundle import pack as bundle

    monkeypatch.setenv(host.VARIABLE, "nonsense")
    assert bench.main([str(lower / "built"), "--seconds", "0.1", "--no-layers"]) == 0
    assert profile.main([str(lower / "built"), "--seconds", "0.1"]) == 0
    assert f"vectors of {LOWER[-1].vector_bytes} bytes" in capsys.readouterr().out
    manifest = bundle.read(lower / "b.tar.gz").manifest
    assert manifest["target"]["core"] == LOWER[-1].name and manifest["target"]["llvm_cpu"] == LOWER[-1].llvm_cpu
    assert set(manifest["target"]["features"]) <= {*LOWER[-1].flags, "asimd"}


def test_a_build_of_a_higher_level_is_refused_by_name(monkeypatch, capsys):
    """On the machine that lacks it, which is this one with flags left out."""
    folder = modules.tiny()
    at = next(i for i, level in enumerate(HERE) if level.name == built.read(folder).target.core.name)
    if not HERE[at].flags:
        pytest.skip(f"nothing is lower than {HERE[at].name}")
    less = [flag for flag in cpu.features() if flag not in set(OWN.flags) - set(HERE[at - 1].flags)]
    monkeypatch.setattr(cpu, "features", lambda *_: less)
    monkeypatch.delenv(host.VARIABLE, raising=False)
    for verb in (verify, bench, profile):
        assert verb.main([str(folder)]) == 4
        told = capsys.readouterr().err
        assert f"the code is built for {HERE[at].name}; this machine has {HERE[at - 1].name}, it lacks" in told, told
        assert f"{host.VARIABLE}={HERE[at - 1].name}" in told


def test_a_board_that_tells_its_features_is_asked_as_well():
    v4 = dataclasses.replace(targets.load("host"), llvm_cpu="x86-64-v4", llvm_attributes=())
    assert needs.missing(v4, host._V3) == list(host._V4[len(host._V3) :]) and not needs.missing(v4, host._V4)
    rpi5 = targets.load("rpi5")
    assert "asimddp" in needs.missing(rpi5, ["asimd"]) and not needs.missing(rpi5, [*host._A76])
    assert not needs.missing(targets.load("rpi4"), ["asimd"]) and not needs.missing(targets.load("arm"), ["asimd"])
    named = dataclasses.replace(v4, llvm_cpu="znver5")  # none of our levels: LLVM is asked
    assert "avx512f" in needs.missing(named, host._V3)
    with pytest.raises(BoardError, match="board:9090 has armv8-a, it lacks crc32"):
        needs.check(rpi5, ["asimd"], "board:9090")
    needs.check(rpi5, [], "a board that tells nothing")


@pytest.mark.full
def test_doctor_builds_and_runs_a_layer_for_the_host(monkeypatch, tmp_path):
    monkeypatch.setenv(host.VARIABLE, (LOWER[-1] if LOWER else OWN).name)
    assert (LOWER[-1] if LOWER else OWN).name in (text := doctor_local._host(tmp_path)) and "runs a layer right" in text
    monkeypatch.setattr(doctor_local, "RunProbe", Killed)
    with pytest.raises(BoardError, match="SIGILL") as e:
        doctor_local._host(tmp_path)
    assert host.VARIABLE in e.value.hint


class Killed:
    """A layer whose code the CPU does not have."""

    def __init__(self, target):
        pass

    def __call__(self, folder):
        os.kill(os.getpid(), 4)


def test_a_refused_level_is_exit_code_2():
    done = subprocess.run(
        [sys.executable, "-m", "tvm_mobilenet.build", "--target", "host"],
        env={**os.environ, host.VARIABLE: "x86-64-v9"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2 and "x86-64-v9" in done.stderr and "accepted are" in done.stderr and not done.stdout
    assert "Traceback" not in done.stderr
