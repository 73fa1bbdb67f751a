"""What people see: tables as golden text at 80 and 160 columns, the live display of a search on any screen, Ctrl-C."""

import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tvm_mobilenet.tune_logs.log import Journal, shipped

from tests.support import shown
from tvm_mobilenet import __main__, sweep, targets
from tvm_mobilenet.cli import entry, interrupted
from tvm_mobilenet.compiler.pipeline import for_core
from tvm_mobilenet.kinds import activation
from tvm_mobilenet.layer import Layer
from tvm_mobilenet.models.options import ModelOptions
from tvm_mobilenet.survey import estimates as estimating
from tvm_mobilenet.terminal import console, table, titles

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = Path(__file__).with_name("golden")
NAMES = [name for name, _ in shown.V1]
NUMBER = re.compile(r"(?<![\w.,])\d[\d,]*(?:\.\d+)?(?:e[-+]\d+)?(?![\w.,])")


@pytest.fixture
def printed(monkeypatch, capsys):
    """``printed(verb, width)``: what a verb prints on a terminal of that width, None for a pipe."""

    def call(verb: str, width: int | None) -> str:
        monkeypatch.setattr(console, "terminal_width", lambda stream: width)
        shown.VERBS[verb]()
        return capsys.readouterr().out

    return call


# ---- tables


@pytest.mark.parametrize("width", [80, 160])
@pytest.mark.parametrize("verb", shown.VERBS)
def test_a_table_is_the_golden_one(verb, width, printed):
    """``UPDATE_GOLDEN=1`` writes them anew: look at the difference before you keep it."""
    path = GOLDEN / f"{verb}-{width}.txt"
    found = printed(verb, width)
    if os.environ.get("UPDATE_GOLDEN"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(found, encoding="utf-8")
    assert found == path.read_text(encoding="utf-8")


@pytest.mark.parametrize("width", [40, 60, 80, 100, 132, 160, 240])
@pytest.mark.parametrize("verb", shown.VERBS)
def test_no_line_is_wider_than_the_terminal_and_no_number_is_cut(verb, width, printed):
    found, whole = printed(verb, width), printed(verb, None)
    commands = [line for line in found.split("\n") if "-> " in line]  # remedies of doctor: to be copied
    longest = max((line for line in found.split("\n") if line not in commands), key=len)
    words = max(map(len, whole.split()))
    assert len(longest) <= max(width, words + shown.INDENT), longest
    assert set(NUMBER.findall(found)) <= set(NUMBER.findall(whole)) | {"1"}, "a number was cut"
    if "left out" not in found:
        assert set(NUMBER.findall(whole)) <= set(NUMBER.findall(found)), "a number is missing"


@pytest.mark.parametrize("verb", ["tune", "tune-list", "build", "verify", "profile", "bench"])
def test_a_pipe_has_whole_names_on_single_lines(verb, printed):
    found = printed(verb, None)
    names = NAMES if verb != "bench" else [name for name in NAMES if name in found]
    assert names and all(sum(name in line for line in found.split("\n")) >= 1 for name in names)
    assert "…" not in found and "shortened" not in found and "left out" not in found


def test_a_table_that_fits_is_whole_on_a_terminal_too():
    rows, right = [["a", "1"], ["b", "22"]], [False, True]
    assert table.lines(("x", "n"), rows, right, 80) == table.lines(("x", "n"), rows, right)


@pytest.mark.parametrize("width", [1, 2, 5, 10, 20])
@pytest.mark.parametrize("verb", shown.VERBS)
def test_a_tiny_terminal_is_no_reason_to_fail(verb, width, printed):
    assert printed(verb, width)


def test_an_empty_table_has_its_headings():
    for width in (None, 80, 3):
        assert "layer" in "\n".join(table.lines((table.Layers("layer"), "ms"), [], [False, True], width))


# ---- names


@pytest.fixture(scope="module")
def networks():
    """The layers of every network of the registry on every kind of core, in fused blocks as they are built there."""
    found = {}
    for model in ("v1", "v1-plain", "v2", "v3-large", "v3-small"):
        network = estimating.weightless(ModelOptions(model=model))
        for target in ("rpi3", "rpi4", "rpi5"):
            found[model, target] = [c.layer.name for c in for_core(network.graph, targets.load(target).core).calls]
    return found


@pytest.mark.full
def test_layers_of_every_network_are_told_apart_at_any_width(networks):
    for where, names in networks.items():
        for width in (200, 120, 80, 60, 50, 40, 30, 25, 20, 10, 1):
            told_apart(names, width, where)
    everything = list(dict.fromkeys(name for names in networks.values() for name in names))
    assert len({titles.title(name) for name in everything}) == len(everything)
    told_apart(everything, 30, "all of them")
    fused_blocks = [name for name in everything if name.startswith("fused ")]
    assert len(fused_blocks) > 15


def test_layers_that_the_shipped_logs_know_are_told_apart():
    names = list(dict.fromkeys(r.layer for core in ("cortex-a53", "cortex-a72", "cortex-a76")
                               for r in Journal(shipped(core)).records()))  # fmt: skip
    assert len(names) > 200 and any(name.startswith("fused ") for name in names)
    assert len({titles.title(name) for name in names}) == len(names)
    for width in (60, 40, 30, 20):
        told_apart(names, width)


def told_apart(names, width, where=""):
    for texts in (titles.short_titles(names, width), titles.cut(names, width)):
        pairs = set(zip(names, texts, strict=True))
        assert len({text for _, text in pairs}) == len({name for name, _ in pairs}) == len(pairs), (where, width)
    assert max(map(len, titles.short_titles(NAMES, 30))) <= 30


@st.composite
def layers(draw):
    """Layers that differ in anything a name can say, and fused blocks of them."""
    sizes, small = st.sampled_from([7, 14, 28]), st.sampled_from([8, 16, 24])
    size, channels = draw(sizes), draw(small)
    word = draw(st.sampled_from((*activation.PLAIN, activation.PER_CHANNEL, "leaky0.1", "clip-1,1")))

    def window(size, channels, stride):
        return Layer(
            kind="depthwise",
            height=size,
            width=size,
            channels=channels,
            out_channels=channels,
            groups=channels,
            kernel=(3, 3),
            stride=(stride, stride),
            padding=draw(st.sampled_from([(1, 1, 1, 1), (0, 0, 2, 2)])),
            activation=draw(st.sampled_from(["relu", "relu6"])),
        )

    if draw(st.booleans()):
        residual = draw(st.sampled_from(["none", "before", "after"]))
        out = draw(small)
        pitch = draw(st.sampled_from([0, out + 4]))
        return Layer(
            kind="pointwise",
            height=size * size,
            channels=channels,
            out_channels=out,
            activation=word,
            residual=residual,
            output_pitch=pitch,
        )
    first = window(size, channels, draw(st.sampled_from([1, 2])))
    if draw(st.booleans()):
        return first
    middle, out = draw(small), draw(small)
    pixels = first.out_height * first.out_width
    parts = [first, Layer(kind="pointwise", height=pixels, channels=channels, out_channels=middle)]
    if draw(st.booleans()):
        parts += [
            window(first.out_height, middle, 1),
            Layer(kind="pointwise", height=pixels, channels=middle, out_channels=out),
        ]
    if draw(st.booleans()):  # parts that do not follow from one another keep all their words
        parts[-1] = parts[-1].replace(batch=2)
    return Layer.fused_block(tuple(parts))


@given(st.lists(layers(), min_size=1, max_size=12), st.integers(1, 120))
def test_two_layers_never_have_the_same_title(drawn, width):
    names = [layer.name for layer in drawn]
    assert len({titles.title(name) for name in names}) == len(set(names))
    told_apart(names, width)


def test_a_title_leaves_out_of_a_fused_blocks_parts_what_the_part_before_says():
    assert titles.title(NAMES[1]) == "fused depthwise 56x56x128 3x3 p1,1,1,1 f32 relu6 > pointwise n128 relu6"
    assert titles.title(NAMES[4]) == NAMES[4]


def test_a_step_after_which_two_layers_would_read_the_same_is_not_taken():
    two = ["pointwise m49 n64 k32 f32 relu", "pointwise m49 n64 k32 f32 relu6"]
    assert titles.short_titles(two, 20) == ["pw m49 n64 k32 relu", "pw m49 n64 k32 relu6"]
    assert titles.cut(two, 17) == ["pointwise m49…", "pointwise m49…2"]


# ---- the live display


STATUS = "tuning: 123 trials, 3 of 15 layers done, 159,919,309 predicted cycles, 88.9% of peak, at most 5:55 left"


def view(line=STATUS):
    rows = [(name, "27/64", "running" if i < 2 else "", 1234567.0, 1.234) for i, name in enumerate(NAMES * 3)]
    columns = (
        table.Layers("layer"),
        "trials",
        table.Detail("state"),
        table.Detail("best"),
        table.Detail("% of peak"),
    )
    return console._View(line, sys.stderr, columns, rows)


@pytest.mark.parametrize("width", [20, 33, 40, 60, 80, 100, 160, 300])
@pytest.mark.parametrize("height", [3, 5, 8, 10, 15, 24, 50, 100])
def test_the_status_line_is_always_there_and_the_screen_never_scrolls(width, height):
    one = view()
    found = one.lines(width, height)
    assert len(found) < height and all(len(line) <= width for line in found)
    said = table.wrapped(one.line, width)
    if len(said) < height:
        assert found[-len(said) :] == said
    if width >= 40 and height >= 15:
        assert len(found) > len(said) + 3, "there is room for layers"
        hidden = len(one.rows) - (len(found) - len(said) - 2)
        assert any(line.startswith("… and ") for line in found) == (hidden > 0 and height < 50)


def test_at_80_by_24_it_looks_like_this():
    path = GOLDEN / "live-80x24.txt"
    found = "\n".join(view().lines(80, 24)) + "\n"
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_text(found, encoding="utf-8")
    assert found == path.read_text(encoding="utf-8")


SEARCH = """
import sys, types
sys.path[:0] = [{root!r}, {root!r} + "/tests"]
from tvm_mobilenet import packages
packages.import_tvm()  # nothing here needs PyTorch
from pathlib import Path
from tests.support.fake_board import Costs
from tests.tuning.test_search import space
from tvm_mobilenet import schedules, targets, tune
from tvm_mobilenet.cli import entry
from tvm_mobilenet.compiler import pipeline
from tvm_mobilenet.layer import Layer
from tvm_mobilenet.tune_logs import keys
from tvm_mobilenet.tune_logs.log import Journal, shipped
from tvm_mobilenet.models.options import ModelOptions
schedules.space = lambda layer, core: space()
keys.code_key = lambda *_: str()  # these decisions are of no schedule
names = [f"pointwise m{{m}} n512 k{{k}} f32 relu6" for m in (196, 49, 16, 4) for k in range(64, 72)]
counts = {{Layer.parse(n): 1 for n in names}}
network = types.SimpleNamespace(graph=types.SimpleNamespace(counts=counts), options=ModelOptions())
pipeline.CORE_PASSES = ()
def run(args):
    result = tune.tune(ModelOptions(), targets.load("rpi4"), log=args.log, network=network, trials={trials},
                       evaluate=Costs(delay={delay}), finish=lambda *a: (None, None))
    tune.print_result(result)
parser = tune.parser()
sys.exit(entry.run_verb(parser, run, ["--log", {log!r}]))
"""


class Terminal:
    """A process on a terminal of its own; ``output``: all that it wrote."""

    def __init__(self, code: str, columns: int, lines: int, **environment):
        self.master, self.slave = pty.openpty()
        self.resize(columns, lines)
        kept = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "COLUMNS", "LINES", "TERM")}
        self.process = subprocess.Popen(
            [sys.executable, "-c", code],
            stdin=self.slave,
            stdout=self.slave,
            stderr=self.slave,
            env={**kept, "TERM": "xterm-256color", **environment},
            start_new_session=True,
        )
        self.output = b""

    def resize(self, columns: int, lines: int) -> None:
        fcntl.ioctl(self.slave, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def read(self, until: bytes = b"", seconds: float = 120.0) -> str:
        """Read until some text comes, or to the end."""
        end = time.monotonic() + seconds
        os.set_blocking(self.master, False)
        while time.monotonic() < end and not (until and until in self.output):
            over = self.process.poll() is not None
            try:
                self.output += os.read(self.master, 1 << 16)
            except OSError:
                if over:
                    break
                time.sleep(0.02)
        return self.output.decode(errors="replace")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self.slave)
        os.close(self.master)


def search(log: Path, trials: int = 2, delay: float = 0.0) -> str:
    return SEARCH.format(root=str(ROOT), log=str(log), trials=trials, delay=delay)


@pytest.mark.parametrize(
    "columns, lines, environment",
    [
        (5, 2, {}),
        *(
            pytest.param(*case, marks=pytest.mark.full)
            for case in (
                (80, 24, {"PYTHONIOENCODING": "ascii"}),
                (80, 24, {}),
                (40, 10, {}),
                (0, 0, {"COLUMNS": "-3", "LINES": "x"}),
                (80, 24, {"COLUMNS": "7", "LINES": "999999999999"}),
                (80, 24, {"TERM": "dumb"}),
                (80, 24, {"NO_COLOR": "1"}),
            )
        ),
    ],
)
def test_no_terminal_makes_tune_fail(columns, lines, environment, tmp_path):
    with Terminal(search(tmp_path / "log.jsonl"), columns, lines, **environment) as terminal:
        output = terminal.read()
        assert terminal.process.wait() == 0 and "Traceback" not in output, output
        assert ("\x1b[" in output) == (not environment.keys() & {"TERM", "NO_COLOR"}), "plain where it has to be"
    if columns == 80:
        assert all(len(line) <= 80 for line in output.rpartition("\x1b")[2].split("\n")[1:])


@pytest.mark.full
def test_a_terminal_that_is_resized_while_tune_runs(tmp_path):
    with Terminal(search(tmp_path / "log.jsonl", 3, 0.05), 100, 30) as terminal:
        terminal.read(b"tuning: 1")
        for columns, lines in ((40, 10), (200, 50), (1, 1), (80, 24)):
            terminal.resize(columns, lines)
            os.kill(terminal.process.pid, signal.SIGWINCH)
            time.sleep(0.4)
        output = terminal.read()
        assert terminal.process.wait() == 0 and "Traceback" not in output, output


# ---- Ctrl-C


def test_ctrl_c_says_that_trials_are_kept_and_how_to_go_on(tmp_path):
    log = tmp_path / "log.jsonl"
    with Terminal(search(log, 2000, 0.05), 80, 24) as terminal:
        terminal.read(b"tuning: 1")
        os.kill(terminal.process.pid, signal.SIGINT)
        output = terminal.read()
        assert terminal.process.wait() == entry.INTERRUPTED and "Traceback" not in output
    trials = log.with_suffix(".trials.jsonl")
    said = re.sub(r"\s+", " ", output[output.index("interrupted: ") :])
    assert said.startswith(
        f"interrupted: all trials so far are kept in {trials}; the same command continues from there"
    )
    assert trials.read_text().count("\n") >= 1


@pytest.mark.parametrize("verb", __main__.verbs())
def test_every_verb_says_what_is_kept(verb):
    import importlib

    module = importlib.import_module(f"tvm_mobilenet.{verb}")
    if not hasattr(module, "parser"):
        assert interrupted.KEPT[verb] == interrupted.UNCHANGED
        return
    required = {
        "accuracy": ["x", "--data", "y"],
        "verify": ["x"],
        "bench": ["x"],
        "profile": ["x"],
        "ship": ["--to", "x"],
    }.get(verb, [])
    said = interrupted.words(verb, module.parser().parse_args(required))
    assert said.startswith("interrupted: ") and "{" not in said


def test_a_sweep_that_has_estimated_nothing_says_so(tmp_path):
    args = sweep.parser().parse_args(["--estimates", str(tmp_path / "e.jsonl")])
    assert (
        interrupted.words("sweep", args) == "interrupted: no estimate was complete yet; the same command starts again"
    )
    (tmp_path / "e.jsonl").touch()
    assert str(tmp_path / "e.jsonl") in interrupted.words("sweep", args)


# ---- one latency, or why there are two


def test_where_two_latencies_differ_the_line_says_why(printed):
    found = printed("tune", None)
    line = next(line for line in found.split("\n") if line.startswith("latency "))
    after = found[found.index(line) + len(line) + 1 :].split("\n")[0]
    assert "109.1 ms on 1 core" in line and "`tuned` above is the sum of the layers" in after and "54.73 ms" in after


def test_where_they_agree_nothing_is_said():
    import dataclasses

    from tvm_mobilenet.cli import tune_text

    one = shown.tune_result()
    same = dataclasses.replace(
        one.verification,
        milliseconds=one.milliseconds(one.tuned),
        milliseconds_all_cores=one.milliseconds(one.tuned_all_cores),
    )
    assert tune_text.why_they_differ(dataclasses.replace(one, verification=same)) == []
    assert tune_text.why_they_differ(dataclasses.replace(one, verification=None)) == []
