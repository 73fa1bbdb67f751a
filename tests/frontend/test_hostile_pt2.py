"""A saved program comes from anybody: nothing in it runs in this process, nothing that it asks for happens."""

import contextlib
import errno
import json
import os
import pickle
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.export import Dim

from tests.support.memory import at_most
from tvm_mobilenet import frontend, passes
from tvm_mobilenet.errors import TvmMobilenetError
from tvm_mobilenet.files import confinement, syscalls
from tvm_mobilenet.frontend import pt2_reader
from tvm_mobilenet.models.options import ModelOptions


class Evil:
    """Pickled, it makes a file when it is read."""

    def __init__(self, mark):
        self.mark = str(mark)

    def __reduce__(self):
        return os.mkdir, (self.mark,)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.register_buffer("scale", torch.ones(1, 8, 1, 1))

    def forward(self, x):
        return (self.conv(x).relu() * self.scale).mean((2, 3))


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """Parts of a whole archive by name, in its folder ``p``."""
    path = tmp_path_factory.mktemp("good") / "p.pt2"
    torch.manual_seed(0)
    dynamic = ({0: Dim("n"), 2: Dim("h", min=8), 3: Dim("w", min=8)},)
    torch.export.save(torch.export.export(Net().eval(), (torch.zeros(2, 3, 8, 8),), dynamic_shapes=dynamic), path)
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


GRAPH, WEIGHTS, CONSTANTS = (
    "p/models/model.json",
    "p/data/weights/model_weights_config.json",
    "p/data/constants/model_constants_config.json",
)


def written(path, parts: dict, more: dict | None = None, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in {**parts, **(more or {})}.items():
            archive.writestr(name, data)
    return path


def changed(parts: dict, name: str, change) -> dict:
    """The parts with one JSON file changed in place."""
    data = json.loads(parts[name])
    change(data)
    return {**parts, name: json.dumps(data)}


def refused(path, words: str = ".") -> str:
    with pytest.raises(TvmMobilenetError, match=words) as e:
        frontend.load(path, size=(8, 8))
    assert e.value.exit_code == 2 and path.name in str(e.value)
    return str(e.value)


def load(path):
    return passes.run(frontend.load(path, size=(8, 8)))


def test_an_ordinary_file_is_read_also_from_other_zip_tools(tmp_path, good):
    shapes = [load(written(tmp_path / f"{c}.pt2", good, compression=c)).signature.inputs[0].shape for c in (0, 8)]
    assert shapes == [(1, 3, 8, 8)] * 2


# ---- pickles


def test_sample_inputs_are_never_unpickled(tmp_path, good):
    """Every archive has them; nothing here needs them."""
    mark = tmp_path / "ran"
    path = written(tmp_path / "m.pt2", good, {"p/data/sample_inputs/model.pt": pickle.dumps(Evil(mark))})
    assert load(path).calls and not mark.exists()


PLACES = ("opaque_obj_0", "custom_obj_0", "tensor_0", "weight_99", "../weights/weight_0")


@pytest.mark.parametrize(
    "place, config, flag",
    [  # every two values meet; every three where all tests are run
        pytest.param(place, config, flag, marks=[] if (i + k) % 2 == j else pytest.mark.full)
        for i, place in enumerate(PLACES)
        for j, config in enumerate((WEIGHTS, CONSTANTS))
        for k, flag in enumerate((True, False, None))
    ],
)
def test_objects_are_refused(tmp_path, good, place, config, flag):
    mark = tmp_path / "ran"
    meta = next(iter(json.loads(good[WEIGHTS])["config"].values()))
    parts = changed(good, config, lambda c: c["config"].update(evil={**meta, "path_name": place, "use_pickle": flag}))
    folder = config.rpartition("/")[0]
    path = written(tmp_path / "m.pt2", parts, {f"{folder}/{place}": pickle.dumps(Evil(mark)) + bytes(10_000)})
    if flag is False and place in ("tensor_0", "weight_99"):
        with contextlib.suppress(TvmMobilenetError):
            load(path)  # these bytes are numbers, whatever they mean to others
    else:
        refused(path, "pickle|not a file of the archive")
    assert not mark.exists()


@pytest.mark.parametrize("name", ["p/data/weights/model.pt", "p/data/constants/model.pt"])
def test_pickled_weights_of_older_versions_are_refused(tmp_path, good, name):
    mark = tmp_path / "ran"
    config = WEIGHTS if "weights" in name else CONSTANTS
    parts = {k: v for k, v in good.items() if k != config}
    refused(written(tmp_path / "m.pt2", parts, {name: pickle.dumps(Evil(mark))}), "pickle")
    path = written(tmp_path / "both.pt2", good, {name: pickle.dumps(Evil(mark))})
    assert load(path).calls and not mark.exists(), "the pickle beside good weights is left out"


def old_format(good: dict, state: bytes) -> dict:
    return {
        "version": "8.20",
        "serialized_exported_program.json": good[GRAPH],
        "serialized_state_dict.pt": state,
        "serialized_constants.pt": b"",
        "serialized_example_inputs.pt": pickle.dumps(Evil("/tmp/never")),
    }


def test_files_of_older_versions_are_read_as_weights_alone(tmp_path, good):
    mark = tmp_path / "ran"
    net = Net()
    state = {**dict(net.named_parameters()), **dict(net.named_buffers())}
    torch.save(state, tmp_path / "state.pt")
    path = written(tmp_path / "old.pt2", old_format(good, (tmp_path / "state.pt").read_bytes()))
    assert load(path).calls
    newer = {k: v for k, v in good.items() if k != WEIGHTS}
    newer["p/data/weights/model.pt"] = (tmp_path / "state.pt").read_bytes()
    assert load(written(tmp_path / "newer.pt2", newer)).calls, "as torch 2.8 wrote it"
    torch.save({**state, "evil": Evil(mark)}, tmp_path / "state.pt")
    refused(written(tmp_path / "bad.pt2", old_format(good, (tmp_path / "state.pt").read_bytes())))
    refused(written(tmp_path / "raw.pt2", old_format(good, pickle.dumps(Evil(mark)))))
    assert not mark.exists()


def test_compiled_code_is_refused(tmp_path, good):
    path = written(tmp_path / "m.pt2", good, {"p/data/aotinductor/model/m.so": b"\x7fELF"})
    refused(path, "compiled code")


# ---- what torch would evaluate, import or call

EXPRESSIONS = (
    "__import__('os').mkdir('{mark}')",
    "exec('import os; os.mkdir(\"{mark}\")')",
    "Symbol('s0').__class__.__base__",
    "[c for c in ().__class__.__base__.__subclasses__()]",
    "(lambda: 1)()",
    "Add(1, eval('1'))",
    "Symbol('s77', positive=True, integer=open('{mark}', 'w'))",
    "Symbol(print)",
    "9**9**9**9",
    "Pow(Integer(9), Pow(Integer(9), Integer(99)))",
    "Pow(Pow(Pow(2, 8), 8), 8)",
    "factorial(10**9)",
    "LShift(1, 10**12)",
    "Float('1e99999999')",
    "1" * 5000,
    "(" * 3000 + "1" + ")" * 3000,
    "-" * 3000 + "1",
    "S('1')",
    "sympify('1')",
    "parse_expr('1')",
    "s0; import os",
    "x\n",
    "",
    "s0 if s0 else s1",
    "'a'",
    "Symbol('s77', **{{}})",
    "Max(*[1]*10**9)",
)


def set_everywhere(value: object, key: str, new: object) -> int:
    """Set a key of every object that has it; how many there were."""
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    found = sum(set_everywhere(part, key, new) for part in parts)
    if isinstance(value, dict) and key in value:
        value[key], found = new, found + 1
    return found


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_expressions_that_are_more_than_arithmetic_are_refused(tmp_path, good, expression):
    mark = tmp_path / "ran"
    text = expression.format(mark=mark)
    parts = changed(good, GRAPH, lambda p: set_everywhere(p, "expr_str", text))
    assert parts[GRAPH] != good[GRAPH]
    refused(written(tmp_path / "m.pt2", parts), "symbolic shape")
    parts = changed(good, GRAPH, lambda p: p["range_constraints"].update({text: {"min_val": 1, "max_val": 2}}))
    refused(written(tmp_path / "n.pt2", parts), "symbolic shape")
    assert not mark.exists()


@pytest.mark.parametrize(
    "target",
    [
        *("torch.os.system", "torch.ops.aten.from_file.default", "torch.ops.aten.save.default", "math.sys.exit"),
        *("_operator.attrgetter", "_operator.methodcaller", "torch.hub.load", "torch.load", "torch.serialization.load"),
        *("torch.ops.load_library", "torch.ops.own.op.default", "torch.ops.aten.relu.default.__class__", "#own:op"),
        *("torch.ops.higher_order.triton_kernel_wrapper_functional", "torch.classes.load_library", "builtins.eval", ""),
        *("torch.utils.cpp_extension.load", "torch.ops.aten.conv2d", "torch.ops.aten.conv2d.default\n"),
    ],
)
def test_what_is_no_operator_is_not_called(tmp_path, good, target):
    parts = changed(good, GRAPH, lambda p: p["graph_module"]["graph"]["nodes"][-1].update(target=target))
    refused(written(tmp_path / "m.pt2", parts), "not an operator of a network")


def spec(kind: str, context: str = "null") -> str:
    leaf = '{"type": null, "context": null, "children_spec": []}'
    return f'[1, {{"type": "{kind}", "context": {json.dumps(context)}, "children_spec": [{leaf}]}}]'


@pytest.mark.parametrize(
    "text",
    [
        spec("collections.defaultdict", '{"default_factory_module": "os", "default_factory_name": "getcwd"}'),
        spec("builtins.dict", '[{"__enum__": true, "fqn": "os:path"}]'),
        spec("torch.return_types.max"),
        "not JSON",
        "[" * 100_000,
        "null",
    ],
)
def test_containers_that_torch_imports_modules_for_are_refused(tmp_path, good, text):
    parts = changed(good, GRAPH, lambda p: set_everywhere(p, "out_spec", text))
    refused(written(tmp_path / "m.pt2", parts))


@pytest.mark.parametrize(
    "name", ["x\n    import os", "x y", "a;b", "__import__('os')", "é", "n" * 5000, "\x1b[2J", "1a"]
)
def test_names_that_would_become_python_are_refused(tmp_path, good, name):
    """PyTorch writes the graph as Python text and runs that."""
    for old in ("relu", "p_conv_weight", "x"):
        text = good[GRAPH].decode().replace(f'"name": "{old}"', f'"name": {json.dumps(name)}')
        text = text.replace(f'"{old}": {{', f"{json.dumps(name)}: {{")
        assert text != good[GRAPH].decode()
        refused(written(tmp_path / "m.pt2", {**good, GRAPH: text}))


def test_python_in_guards_and_metadata_is_left_out(tmp_path, good):
    mark = tmp_path / "ran"

    def change(program):
        program["guards_code"] = [f"__import__('os').mkdir('{mark}')"]
        for node in program["graph_module"]["graph"]["nodes"]:
            node["metadata"].update(source_fn_stack="a,torch.os.system", custom="{}", from_node="[]")

    assert load(written(tmp_path / "m.pt2", changed(good, GRAPH, change))).calls and not mark.exists()


# ---- sizes


def test_bombs_are_refused(tmp_path, good):
    zeros = bytes(300 << 20)
    with at_most(2 << 30):
        refused(written(tmp_path / "a.pt2", good, {"p/data/weights/zeros": zeros}, zipfile.ZIP_DEFLATED), "unpack")
        many = {f"p/extra/{i}": b"" for i in range(30_000)}
        refused(written(tmp_path / "b.pt2", good, many), "members")
        deep = b'{"a":' + b"[" * 200_000 + b"]" * 200_000 + b"}"
        refused(written(tmp_path / "c.pt2", {**good, GRAPH: deep}), "nested too deeply")
        node = json.loads(good[GRAPH])["graph_module"]["graph"]["nodes"][-1]
        grown = changed(good, GRAPH, lambda p: p["graph_module"]["graph"]["nodes"].extend([node] * 20_000))
        refused(written(tmp_path / "d.pt2", grown), "20,0.. nodes")


@pytest.mark.parametrize(
    ("sizes", "strides", "offset"),
    [
        ([1 << 20, 1 << 20], [0, 0], 0),
        ([8, 3, 3, 3], [27, 9, 3, 1], 10**12),
        ([8, 3, 3, 3], [10**9, 9, 3, 1], 0),
        ([1 << 40], [1], 0),
        ([-1], [1], 0),
        ([1.5], [1], 0),
    ],
)
def test_weights_that_are_larger_than_their_bytes_are_refused(tmp_path, good, sizes, strides, offset):
    def change(config):
        meta = config["config"]["conv.weight"]["tensor_meta"]
        meta["sizes"], meta["strides"] = [{"as_int": s} for s in sizes], [{"as_int": s} for s in strides]
        meta["storage_offset"] = {"as_int": offset}

    refused(written(tmp_path / "m.pt2", changed(good, WEIGHTS, change)))


def test_a_program_that_makes_gigabytes_is_refused(tmp_path):
    class Makes(nn.Module):
        def forward(self, x):
            return x.mean((2, 3)) + torch.full((40_000, 40_000), 2.0).mean() + torch.arange(3_000_000_000).sum()

    class Grows(nn.Module):
        def forward(self, x):
            return nn.functional.pad(x, (50_000,) * 4).mean((2, 3))

    for i, model in enumerate((Makes(), Grows())):
        with torch.device("meta"):
            program = torch.export.export(model, (torch.zeros(1, 3, 8, 8, device="meta"),))
        path = tmp_path / f"{i}.pt2"
        torch.export.save(program, path)
        with zipfile.ZipFile(path) as archive:
            parts = {n: archive.read(n).replace(b'"type": "meta"', b'"type": "cpu"') for n in archive.namelist()}
        with at_most(3 << 30), pytest.raises(TvmMobilenetError):
            frontend.load(written(path, parts))


# ---- the process that reads

_TRIES = """
import ctypes, fcntl, json, os, resource, socket, subprocess, sys, threading
from pathlib import Path
from tvm_mobilenet.files.confinement import confine, own_packages
mark, parent = sys.argv[1], os.getppid()

def odd_limits():  # the lower half of the address of the new limits is zero, as if there were none
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    place = libc.mmap(ctypes.c_void_p(0x6_0000_0000), ctypes.c_size_t(4096), 3, 0x100032, -1, ctypes.c_long(0))
    assert place == 0x6_0000_0000
    ctypes.memmove(place, (2**64 - 1).to_bytes(8, "little") * 2, 16)
    if libc.prlimit(0, resource.RLIMIT_FSIZE, ctypes.c_void_p(place), None):
        raise OSError(ctypes.get_errno(), "limits")

tries = {
    "socket": lambda: socket.socket(), "datagram": lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM),
    "pair": lambda: socket.socketpair(), "program": lambda: subprocess.run(["/bin/true"]),
    "exec": lambda: os.execv("/bin/true", ["true"]), "fork": lambda: os.fork(),
    "write": lambda: open(mark, "w"), "append": lambda: open(__file__, "a"), "mkdir": lambda: os.mkdir(mark),
    "unlink": lambda: os.unlink(sys.argv[2]), "rename": lambda: os.rename(sys.argv[2], mark),
    "link": lambda: os.symlink("/", mark), "mode": lambda: os.chmod(sys.argv[2], 0o777),
    "times": lambda: os.utime(sys.argv[2]), "truncate": lambda: os.truncate(sys.argv[2], 0),
    "other files": lambda: open("/etc/passwd").read(),
    "environment": lambda: open(f"/proc/{parent}/environ").read(),
    "signal": lambda: os.kill(parent, 0), "limits": lambda: resource.setrlimit(resource.RLIMIT_AS, (-1, -1)),
    "memory": lambda: bytearray(3 << 30), "priority": lambda: os.setpriority(os.PRIO_PROCESS, parent, 19),
    "CPUs": lambda: os.sched_setaffinity(parent, {0}), "owner": lambda: fcntl.fcntl(0, fcntl.F_SETOWN, parent),
    "terminal": lambda: fcntl.ioctl(0, 0x5412, b"x"), "limits at an odd place": odd_limits,
}
own = {"modules": lambda: __import__("wave"), "thread": lambda: threading.Thread(target=int).start()}
found = {"in force": confine(own_packages(), 1 << 30, 60)}
for name, attempt in {**tries, **own}.items():
    try:
        attempt()
        found[name] = "done"
    except (OSError, ValueError, MemoryError) as e:
        found[name] = "refused"
print(json.dumps(found))
"""


def test_a_confined_process_can_do_nothing_but_compute(tmp_path):
    (tmp_path / "precious").write_text("precious")
    done = subprocess.run(
        [sys.executable, "-c", _TRIES.replace("__file__", "sys.argv[2]"), tmp_path / "mark", tmp_path / "precious"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    found = json.loads(done.stdout)
    in_force = found.pop("in force")
    if "seccomp" not in in_force or "landlock" not in in_force:
        pytest.skip(f"this kernel has {in_force} alone")
    assert {k for k, v in found.items() if v == "done"} == {"modules", "thread"}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["precious"]


def test_files_are_read_confined(good, tmp_path):
    data, _ = pt2_reader.graph(written(tmp_path / "m.pt2", good), None, (8, 8), "NCHW")
    assert "limits" in data["confined"]


def test_system_calls_have_the_numbers_of_the_headers():
    import re

    import ziglang

    headers = Path(ziglang.__file__).parent / "lib/libc/include"
    for architecture, folder in (("x86_64", "x86-linux-any"), ("aarch64", "aarch64-linux-any")):
        text = (headers / folder / "asm/unistd_64.h").read_text()
        known = {m[1]: int(m[2]) for m in re.finditer(r"#define __NR_(\w+)\s+(\d+)\b", text)}
        table = syscalls.NUMBERS[architecture]
        assert {n: known[n] for n in table} == table
        asked = {*syscalls.NETWORK, *syscalls.PROGRAMS, *syscalls.WRITES, *syscalls.KERNEL}
        assert asked & set(known) <= set(table), "a call that the architecture has is in its table"


def verdict(code: list, architecture: int, number: int, *arguments: int) -> int:
    """What a seccomp filter says of a system call, as the kernel reads it: 0 where it is allowed, else an errno."""
    data = struct.pack("<IIQ6Q", number, architecture, 0, *arguments, *[0] * (6 - len(arguments)))
    at, found = 0, 0
    while True:
        kind, yes, no, value = code[at]
        at += 1
        if kind == 0x20:  # a load of 32 bits
            (found,) = struct.unpack_from("<I", data, value)
        elif kind == 0x06:
            return {0x7FFF0000: 0, 0x00050000: value & 0xFFFF, 0x80000000: -1}[value & 0xFFFF0000]
        else:
            holds = {0x15: found == value, 0x35: found >= value, 0x45: bool(found & value)}[kind]
            at += yes if holds else no


@pytest.mark.parametrize(("architecture", "audit"), [("x86_64", 0xC000003E), ("aarch64", 0xC00000B7)])
def test_what_the_filter_says_of_each_system_call(architecture, audit):
    """Of the table of each architecture, also of the one that this machine does not run."""
    pid, thread, high = 4321, 0x10F00, 1 << 32
    code, numbers = confinement._filter(architecture, pid), syscalls.NUMBERS[architecture]
    assert len(code) < 4096 and all(0 <= yes < 256 and 0 <= no < 256 for _, yes, no, _ in code)

    def say(name: str, *arguments: int) -> int:
        return verdict(code, audit, numbers[name], *arguments)

    for name in (*syscalls.NETWORK, *syscalls.PROGRAMS, *syscalls.WRITES, *syscalls.KERNEL):
        assert name not in numbers or say(name) == errno.EPERM, name
    assert say("clone3") == say("openat2") == errno.ENOSYS and say("ioctl", 0, 0x5412) == errno.ENOTTY
    assert say("clone", thread) == 0 and say("clone", 17) == say("clone", 17 | high) == errno.EPERM
    for flags in (1, 2, 3, 0o100, 0o1000, 0o2000, 0o20200000 | 2, 1 | high):
        assert say("openat", 0, 0, flags) == errno.EPERM
    assert say("openat", 0, 0, 0o2000000) == 0
    assert say("tgkill", pid) == 0 and say("tgkill", 1) == errno.EPERM
    assert say("prlimit64", 0, 1, 0) == 0
    assert all(say("prlimit64", 0, 1, place) == errno.EPERM for place in (1, high, 7 * high, (1 << 63) | 8))
    assert all(say("fcntl", 0, command) == errno.EPERM for command in (8, 10, 15)) and say("fcntl", 0, 3) == 0
    assert say("prctl", 1) == errno.EPERM and say("prctl", 15) == 0
    known = set(numbers.values())
    assert all(verdict(code, audit, number) == 0 for number in range(500) if number not in known)
    assert verdict(code, audit ^ 1, 0) == -1, "system calls of another architecture end the process"
    if architecture == "x86_64":
        assert verdict(code, audit, 0x40000000) == errno.EPERM


# ---- what the reader answers is not trusted either


@pytest.mark.parametrize(
    "answer",
    [b"", b"short", b"\xff" * 100, b"\x02\0\0\0\0\0\0\0[]", b"\x02\0\0\0\0\0\0\0{}garbage", b"\x02\0\0\0\0\0\0\0{}"],
)
def test_a_damaged_answer_is_refused(monkeypatch, tmp_path, good, answer):
    path = written(tmp_path / "m.pt2", good)
    monkeypatch.setattr(pt2_reader, "_read", lambda descriptor, most: (os.read(descriptor, 1 << 26), answer)[1])
    refused(path, "cannot be read")


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.pop("nodes"),
        lambda d: d.update(outputs=["no such value"]),
        lambda d: d["nodes"][0].update(name="x y"),
        lambda d: d["nodes"][0].update(target=["aten", "__class__", "default"], args=[{"node": "later"}]),
        lambda d: d["nodes"][0].update(values=[[1 << 40, 1 << 40], "float32"]),
        lambda d: d["nodes"][0].update(values=[[-1], "float32"]),
        lambda d: d["nodes"][0].update(values=[[1], "evil"]),
        lambda d: d["nodes"][0].update(args=[[[[[[[[]]]]]]]]),
        lambda d: d["inputs"][0].update(tensor="no such tensor"),
        lambda d: d["inputs"][0].update(kind="CUSTOM_OBJ"),
        lambda d: d.update(nodes=d["nodes"] * 10_000),
        lambda d: d.update(names=["\x1b[2J"] * 7),
        lambda d: d.update(inputs=5),
    ],
)
def test_a_graph_that_is_none_is_refused(monkeypatch, tmp_path, good, change):
    path = written(tmp_path / "m.pt2", good)
    data, tensors = pt2_reader.graph(path, None, (8, 8), "NCHW")
    change(data)
    monkeypatch.setattr(pt2_reader, "graph", lambda *args: (data, tensors))
    with pytest.raises(TvmMobilenetError):
        frontend.load(path, size=(8, 8))


def test_the_reader_is_started_again_when_it_is_gone(tmp_path, good):
    path = written(tmp_path / "m.pt2", good)
    assert load(path).calls
    pt2_reader._running[0].process.kill()
    pt2_reader._running[0].process.wait()
    assert load(path).calls


# ---- the way around


def test_trust_is_not_kept_in_a_build():
    assert not ModelOptions.from_data({"model": "m.pt2", "trust_file": True}).trust_file


def test_trusted_files_are_read_in_this_process(tmp_path, good):
    mark = tmp_path / "ran"
    path = written(tmp_path / "m.pt2", good)
    assert passes.run(frontend.load(path, size=(8, 8), trusted=True)).calls
    meta = next(iter(json.loads(good[WEIGHTS])["config"].values()))
    entry = {**meta, "path_name": "opaque_obj_0", "use_pickle": True}
    parts = changed(good, CONSTANTS, lambda c: c["config"].update(evil=entry))
    evil = written(tmp_path / "e.pt2", parts, {"p/data/constants/opaque_obj_0": pickle.dumps(Evil(mark))})
    assert "--trust-file" in refused(evil) and not mark.exists()
    with contextlib.suppress(TvmMobilenetError):  # what was unpickled is no constant of a program
        frontend.load(evil, size=(8, 8), trusted=True)
    assert mark.exists(), "torch's loader still runs pickles: when it does not, this way around can go"


def test_torchs_loader_is_the_one_that_was_looked_at():
    """A canary: where torch unpickles and evaluates. If this fails, read its loader again, then change the counts."""
    import inspect

    from torch._export.serde import serialize
    from torch.export.pt2_archive import _package

    text = inspect.getsource(serialize) + inspect.getsource(_package)
    known = {"torch.load(": 5, "pickle.loads(": 1, "pickle.load(": 0, "_pickle_load_obj(": 1, "sympify(": 1}
    known |= {"eval(": 0, "exec(": 1, "import_module(": 0}  # the one exec( stands in a comment
    assert {word: text.count(word) for word in known} == known
