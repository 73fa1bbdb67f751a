"""``build --dump``: every phase is there and shows what it should, in a folder that holds nothing else."""

import os
import re
from pathlib import Path

import pytest

from tvm_mobilenet import build, frontend, passes
from tvm_mobilenet.compiler import dump as dumping
from tvm_mobilenet.compiler import pipeline
from tvm_mobilenet.compiler.dump import INDEX, PHASES, SOME, Dump
from tvm_mobilenet.compiler.kernel_text import readable
from tvm_mobilenet.compiler.network import Network
from tvm_mobilenet.compiler.plan import read_plan
from tvm_mobilenet.errors import TvmMobilenetError
from tvm_mobilenet.models.options import ModelOptions


def write_model(path: Path) -> str:
    """A network with work for every pass but row pitches: pad, batch norms, a hard-swish, a residual, a fused block."""
    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            norm = nn.BatchNorm2d
            self.stem = nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(3, 8, 3, 2), norm(8), nn.Hardswish())
            self.dw = nn.Sequential(nn.Conv2d(8, 8, 3, 1, 1, groups=8), norm(8), nn.ReLU6())
            self.pw = nn.Sequential(nn.Conv2d(8, 8, 1), norm(8))
            self.head = nn.Linear(8, 4)

        def forward(self, x):
            x = self.stem(x)
            return self.head((x + self.pw(self.dw(x))).mean((2, 3)))

    torch.manual_seed(0)
    torch.export.save(torch.export.export(Net().eval(), (torch.zeros(1, 3, 48, 48),)), path)
    return str(path)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return write_model(tmp_path_factory.mktemp("model") / "net.pt2")


@pytest.fixture(scope="module")
def folders(model, tmp_path_factory) -> tuple[Path, Path]:
    """What ``build --dump`` wrote for the Raspberry Pi 4: the dump and the build."""
    root = tmp_path_factory.mktemp("dump")
    dump, output = root / "phases", root / "out"
    flags = ["--model", model, "--target", "rpi4", "--output", str(output), "--log", str(root / "log.jsonl")]
    assert build.main([*flags, "--dump", str(dump)]) == 0
    return dump, output


@pytest.fixture
def phase(folders):
    """The text of a phase by its name."""

    def read(name: str) -> str:
        (path,) = folders[0].glob(f"[0-9][0-9]-{name}.txt")
        return path.read_text()

    return read


def kernels(folder: Path, name: str) -> dict[str, str]:
    return {path.stem: path.read_text() for path in folder.glob(f"[0-9][0-9]-{name}/*.txt")}


# ---- what is in it


def test_every_phase_is_there_numbered_in_order_and_in_the_index(folders):
    dump, output = folders
    steps = ("imported", *passes.RELAX_PASSES, passes.channels_last, *passes.LAYER_PASSES, *pipeline.CORE_PASSES)
    names = [step if isinstance(step, str) else step.__name__.rpartition(".")[2] for step in steps]
    every = [name for name in PHASES if name not in SOME]
    names = [name for name in names if name not in SOME]
    assert every == [*names, "decisions", "plan", "tir", "assembly"]
    found = sorted(path.name for path in dump.iterdir() if path.name != INDEX)
    expected = [f"{i:02d}-{name.replace('_', '-')}" for i, name in enumerate(every)]
    assert [name.removesuffix(".txt") for name in found] == expected
    index = (dump / INDEX).read_text()
    files = {path.relative_to(dump).as_posix() for path in dump.rglob("*.txt")} - {INDEX}
    assert (
        files == set(re.findall(r"^(\d\d-\S+\.txt)  \S", index, re.M)) and "net.pt2 for rpi4" in index.splitlines()[0]
    )
    assert all(PHASES[name] and PHASES[name] in index for name in every)
    symbols = {step.symbol for step in read_plan(output / "plan.json").steps}
    assert set(kernels(dump, "tir")) == set(kernels(dump, "assembly")) == symbols


def test_a_phase_of_some_builds_alone_leaves_the_numbers_of_the_others(tmp_path):
    dump = Dump(tmp_path, "net for rpi5")
    for phase in ("fuse_epilogue", "precision", "fuse_blocks", "plan"):
        dump(phase, [])
    names = [path.name for path in sorted(tmp_path.glob("[0-9]*"))]
    assert names == ["06-fuse-epilogue.txt", "06-precision.txt", "07-fuse-blocks.txt", "10-plan.txt"]


def test_passes_on_relax_show_what_they_do(phase):
    imported, simplified, named = phase("imported"), phase("simplify"), phase("activations")
    assert "R.nn.batch_norm" in imported and "stem.1" in imported, "and where its operators come from"
    assert "R.nn.batch_norm" not in simplified and "R.multiply" in simplified
    assert "hardswish" not in simplified and "hardswish" in named
    assert "R.nn.pad" in named and "R.nn.pad" not in phase("fold-pad")


def test_lists_of_layers_show_what_passes_do_to_them(phase):
    norm = re.compile(r"depthwise \S+ 1x1 f32")
    assert len(norm.findall(phase("channels-last"))) > 3
    folded, fused = phase("fold-batch-norm"), phase("fuse-epilogue")
    assert not norm.search(folded) and "elementwise 24x24x8 none f32 hardswish" in folded
    assert "f32 hardswish" in fused and "elementwise" not in fused and "f32 add" in fused
    for name in ("channels-last", "fold-batch-norm", "fuse-epilogue", "fuse-blocks"):
        text = phase(name)
        assert "takes input_0: x (1, 3, 48, 48) float32" in text and "returns layer_" in text and "stem.1" in text


def test_a_fused_block_is_in_its_phase_and_not_before(phase):
    assert not any("fused" in phase(name) for name in ("channels-last", "fold-batch-norm", "fuse-epilogue"))
    text = phase("fuse-blocks")
    (block,) = re.findall(r"^layer_\d+ +fused block of (\d+):", text, re.M)
    parts = re.findall(r"^  (layer_\d+)", text, re.M)
    assert len(parts) == int(block) >= 2
    assert all(name in phase("fuse-epilogue") for name in parts)


def test_a_phase_that_changes_nothing_says_so(phase):
    assert phase("row-pitch") == "Unchanged: as in 07-fuse-blocks.txt.\n"


def test_decisions_and_plan_are_the_builds(folders, phase):
    plan = read_plan(folders[1] / "plan.json")
    decisions, text = phase("decisions"), phase("plan")
    assert all(step.layer in decisions for step in plan.steps) and "default" in decisions
    assert f"arena {plan.arena_bytes} bytes" in text
    for step in plan.steps:
        assert re.search(rf"^{step.name}  {step.symbol}  ", text, re.M)
        assert all(value in text for value in (*step.reads, step.writes, *(part.source for part in step.parts)))
    assert "1.weight" in text, "constants of the block's second layer"


def test_a_kernel_is_shown_before_and_after_lowering(folders):
    for symbol, text in kernels(folders[0], "tir").items():
        before, _, after = text.partition("---- As LLVM got it")
        assert f"def {symbol}(data: T.Buffer(" in before and f"def {symbol}(self_handle: T.handle" in after
        assert "T.parallel(" in before or "range(" in before or "T.grid(" in before, symbol


def test_assembly_names_the_fmla_loop_and_what_bounds_it(folders):
    found = kernels(folders[0], "assembly")
    convolutions = {symbol: text for symbol, text in found.items() if symbol.startswith(("block", "conv", "dense"))}
    assert len(convolutions) == 3
    hottest = []
    for symbol, text in convolutions.items():
        loops, _, assembly = text.partition("---- Assembly")
        hottest.append(re.search(r"hottest (loop|straight line): \d+% of the cycles", loops)[1])
        assert any(map(int, re.findall(r"multiply-adds: (\d+) instructions", loops))) and "bound by " in loops
        assert re.search(r"fma_q +fmla v\d+\.4s", loops) and re.search(r"\bfmla\s+v\d+\.4s", assembly)
        assert f"__tvm_ffi_{symbol}:" in assembly and ".cfi_" not in assembly and ".debug" not in assembly
    assert "loop" in hottest
    assert any("\nloop: " in text or "\nstraight line: " in text for text in found.values()), "more than the hottest"


@pytest.mark.full
def test_without_a_cost_model_there_is_the_assembly_and_the_reason(tmp_path, model):
    flags = [
        "--model",
        model,
        "--target",
        "host",
        "--output",
        str(tmp_path / "out"),
        "--log",
        str(tmp_path / "log.jsonl"),
    ]
    assert build.main([*flags, "--dump", str(tmp_path / "dump")]) == 0
    for symbol, text in kernels(tmp_path / "dump", "assembly").items():
        assert "not explained: " in text and "no cost model" in text and f"__tvm_ffi_{symbol}:" in text


def test_what_is_no_code_is_left_out_of_assembly():
    text = "\t.text\nf:\n\t.cfi_startproc\n\t.loc\t1 0 0\n.Ltmp0:\n\tfmla\tv0.4s, v1.4s, v2.4s\n.LBB0_1:\n\tret\n"
    text += '\t.section\t.debug_str,"MS"\n\t.asciz\t"x"\n\t.section\t".rodata"\n\t.word\t1\n'
    shown = "        .text f: fmla v0.4s, v1.4s, v2.4s .LBB0_1: ret .section .rodata .word 1"
    assert readable(text).replace('"', "").split() == shown.split()


def test_a_model_that_is_refused_leaves_the_phases_before(tmp_path):
    import torch
    from torch import nn

    class Odd(nn.Module):
        def forward(self, x):
            return torch.special.i0(x)

    torch.export.save(torch.export.export(Odd().eval(), (torch.zeros(1, 3, 8, 8),)), tmp_path / "odd.pt2")
    flags = ["--model", str(tmp_path / "odd.pt2"), "--target", "rpi4", "--output", str(tmp_path / "out")]
    assert build.main([*flags, "--dump", str(tmp_path / "dump")]) == 2
    assert {path.name for path in (tmp_path / "dump").iterdir()} == {
        INDEX, "00-imported.txt", "01-simplify.txt", "02-activations.txt", "03-fold-pad.txt",
    }  # fmt: skip
    assert "i0" in (tmp_path / "dump" / "00-imported.txt").read_text()


# ---- its folder


def files(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def small_dump(folder: Path) -> Dump:
    """A dump with a file of its own and one of a kernel."""
    dump = Dump(folder, "net for rpi4")
    dump("decisions", [])
    dump.kernels("tir", {"old_kernel": ("text\n", "a layer")})
    return dump


@pytest.mark.parametrize("where", ["new", "new/in/new", "empty"])
def test_a_new_or_empty_folder_is_taken(tmp_path, where):
    (tmp_path / "empty").mkdir()
    small_dump(tmp_path / where)
    assert set(files(tmp_path / where)) == {INDEX, "09-decisions.txt", "11-tir/old_kernel.txt"}


def test_an_earlier_dump_is_replaced_whole(tmp_path):
    small_dump(tmp_path / "d")
    Dump(tmp_path / "d", "another for rpi3").kernels("tir", {"new_kernel": ("text\n", "a layer")})
    assert set(files(tmp_path / "d")) == {INDEX, "11-tir/new_kernel.txt"}
    assert "rpi4" not in (tmp_path / "d" / INDEX).read_text()


@pytest.mark.parametrize("name", ["notes.md", "11-tir/mine.txt", "12-assembly/x.txt", ".hidden", "more/"])
def test_what_somebody_put_into_a_dump_is_not_deleted(tmp_path, name):
    small_dump(tmp_path / "d")
    path = tmp_path / "d" / name
    path.parent.mkdir(exist_ok=True)
    path.mkdir() if name.endswith("/") else path.write_text("mine")
    before = files(tmp_path / "d")
    with pytest.raises(TvmMobilenetError, match=re.escape(name.rstrip("/"))):
        Dump(tmp_path / "d", "net")
    assert files(tmp_path / "d") == before and path.exists()


def test_what_is_no_file_is_not_deleted_whatever_its_name(tmp_path):
    small_dump(tmp_path)
    (tmp_path / "09-decisions.txt").unlink()
    os.mkfifo(tmp_path / "09-decisions.txt")
    with pytest.raises(TvmMobilenetError, match="09-decisions"):
        Dump(tmp_path, "net")
    assert (tmp_path / "09-decisions.txt").is_fifo()


def test_an_interrupted_dump_is_an_earlier_dump(tmp_path, monkeypatch):
    """The index names files before they are there."""

    def stopped(path, text, **how):
        if path.name == "09-decisions.txt":
            raise KeyboardInterrupt
        return written(path, text, **how)

    written = Path.write_text
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "write_text", stopped)
        small_dump(tmp_path)
    (tmp_path / "09-decisions.txt").write_text("half")
    small_dump(tmp_path)
    assert set(files(tmp_path)) == {INDEX, "09-decisions.txt", "11-tir/old_kernel.txt"}


def test_names_of_any_bytes_are_written(tmp_path):
    dump = Dump(tmp_path, "caf\udce9\nnet for rpi4")
    dump.kernels("tir", {"kernel": ("from caf\udce9\n", "a layer")})
    assert set(files(tmp_path)) == {INDEX, "11-tir/kernel.txt"}
    Dump(tmp_path, "net")
    assert set(files(tmp_path)) == {INDEX}


@pytest.mark.parametrize("index", [None, "my index\n", "Written by hand\n\n00-imported.txt  x\n"])
def test_a_folder_of_somebody_elses_is_not_touched(tmp_path, index):
    (tmp_path / "00-imported.txt").write_text("mine")
    if index is not None:
        (tmp_path / INDEX).write_text(index)
    before = files(tmp_path)
    with pytest.raises(TvmMobilenetError, match="not an earlier dump"):
        Dump(tmp_path, "net")
    assert files(tmp_path) == before


def test_links_and_names_that_lead_elsewhere_are_not_followed(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "old_kernel.txt").write_text("mine")
    for linked in ("11-tir", "11-tir/old_kernel.txt"):
        folder = tmp_path / linked.replace("/", "-")
        small_dump(folder)
        (folder / "11-tir" / "old_kernel.txt").unlink()
        if linked == "11-tir":
            (folder / linked).rmdir()
        target = tmp_path / "elsewhere" / ("" if linked == "11-tir" else "old_kernel.txt")
        (folder / linked).symlink_to(target)
        with pytest.raises(TvmMobilenetError, match=re.escape(linked)):
            Dump(folder, "net")
    small_dump(tmp_path / "forged")
    with (tmp_path / "forged" / INDEX).open("a") as index:
        index.write(f"../elsewhere/old_kernel.txt  x\n{tmp_path}/elsewhere/old_kernel.txt  x\n")
    Dump(tmp_path / "forged", "net")
    assert (tmp_path / "elsewhere" / "old_kernel.txt").read_text() == "mine"


@pytest.mark.parametrize("dump", ["file", "file/below", "out", "in/dump"])
def test_a_dump_that_cannot_be_is_refused_before_anything_is_loaded(tmp_path, capsys, monkeypatch, dump):
    from tvm_mobilenet.compiler import network

    monkeypatch.setattr(network, "load_network", lambda *_: pytest.fail("a network is loaded first"))
    (tmp_path / "file").write_text("mine")
    output = {"in/dump": "in/dump/out"}.get(dump, "out")
    flags = ["--target", "rpi4", "--output", str(tmp_path / output), "--dump", str(tmp_path / dump)]
    assert build.main(flags) == 2
    assert (tmp_path / "file").read_text() == "mine" and "dump" in capsys.readouterr().err
    assert not (tmp_path / "out").exists() and not (tmp_path / "in").exists()


@pytest.mark.parametrize("folder", ["/proc/dump", "/dev/null/dump"])
def test_a_folder_that_cannot_be_written_is_said(folder):
    with pytest.raises(TvmMobilenetError, match="cannot write the dump /") as error:
        Dump(Path(folder), "net")
    assert error.value.exit_code == 2 and "--dump" in error.value.hint


# ---- texts


def test_a_table_shows_constants_that_change_and_equal_lists_as_equal():
    import torch
    from torch import nn

    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).eval()
    graph = passes.run(frontend.from_torch(model, torch.zeros(1, 3, 8, 8)))
    network = Network(ModelOptions(), None, graph)
    call = network.layers[0]
    changed = graph.with_calls([call.replace(weight=call.weight + 1), *network.layers[1:]])
    texts = [dumping.layers_text(g) for g in (graph, graph.with_calls(graph.calls), changed)]
    assert texts[0] == texts[1] != texts[2]
