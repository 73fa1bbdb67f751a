"""The pages: a link, a path or a flag on them that leads nowhere costs a reader the way."""

import contextlib
import glob
import importlib
import importlib.util
import io
import json
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import types
from html import unescape
from pathlib import Path

import pytest

from benchmarks import board_times, latency, latency_chart, still
from tests.support import task_networks
from tvm_mobilenet.errors import TvmMobilenetError

ROOT = Path(__file__).resolve().parent.parent
KINDS = ("tutorials", "guides", "concepts", "reference", "results", "journal")  # what a page may be
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
SOURCES = [
    path
    for folder in ("tvm_mobilenet", "schedules", "targets", "tune_logs", "benchmarks", "tests", "examples", ".ci")
    for path in (ROOT / folder).rglob("*")
    if path.suffix in (".py", ".toml", ".c", ".h", ".sh", "")
    and path.is_file()
    and path != Path(__file__)
    and "__pycache__" not in path.parts
]
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)|!\[[^\]]*\]\(([^)\s]+)\)")
NAMED = re.compile(r"(?<![\w/.-])docs/[\w/.-]+\.(?:md|svg)\b")


def without_code(text: str) -> str:
    """The page without its code: brackets of a program are no links."""
    return re.sub(r"`[^`\n]*`", "", re.sub(r"^```.*?^```", "", text, flags=re.S | re.M))


def anchors(text: str) -> set[str]:
    """Those of a page's headings, as GitHub and MkDocs make them."""
    headings = re.findall(r"^#+ +(.*?)\s*$", re.sub(r"^```.*?^```", "", text, flags=re.S | re.M), re.M)
    plain = [re.sub(r"[^\w\- ]", "", re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading.lower())) for heading in headings]
    return {heading.strip().replace(" ", "-") for heading in plain}


def broken(page: Path, text: str) -> list[str]:
    """The links of a page that lead nowhere."""
    found = []
    for match in LINK.finditer(without_code(text)):
        link = match[1] or match[2]
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        to = (page.parent / path).resolve() if path else page
        if not to.exists() or (anchor and to.suffix == ".md" and anchor not in anchors(to.read_text())):
            found.append(f"{page.relative_to(ROOT)}: {link}")
    return found


def test_links_between_pages_lead_somewhere():
    assert [link for page in PAGES for link in broken(page, page.read_text())] == []


@pytest.mark.parametrize("link", ["[a](nowhere.md)", "[a](guides/boards.md#nowhere)", "![a](nowhere.svg)", "[a](#no)"])
def test_a_broken_link_is_found(link):
    found = broken(ROOT / "docs" / "index.md", f"{link} [b](guides/boards.md) [c](guides/boards.md#ssh) `[d](no.md)`")
    assert len(found) == 1


def test_pages_that_code_and_messages_name_are_there():
    """A hint that names a page is the last thing a user reads before giving up."""
    found = []
    for path in [*SOURCES, *PAGES, ROOT / "pyproject.toml", ROOT / "constraints.txt"]:
        for name in NAMED.findall(path.read_text(encoding="utf-8", errors="replace")):
            if not (ROOT / name).exists() and "ncnn, " + name not in path.read_text(encoding="utf-8"):
                found.append(f"{path.relative_to(ROOT)}: {name}")
    assert found == []


# ---- commands


def commands(text: str) -> list[str]:
    """Of a page: lines of its shell blocks, continued lines as one."""
    blocks = re.findall(r"^```(?:sh|bash)\n(.*?)^```", text, re.S | re.M)
    return [line for block in blocks for line in block.replace("\\\n", " ").splitlines() if line.strip()]


def called(line: str) -> list[tuple[str, list[str]]]:
    """Of a command: the modules that it runs, each with its arguments."""
    words = shlex.split(line, comments=True)
    found = []
    for at, word in enumerate(words):
        if words[at - 1] == "-m" and word.startswith(("tvm_mobilenet.", "benchmarks.")):
            until = next((k for k in range(at, len(words)) if words[k] in ("&&", "|", ";", ">", "<")), len(words))
            found.append((word, words[at + 1 : until]))
    return found


def unknown(line: str) -> list[str]:
    """What a command asks for that is not there: a verb, a flag, a value, an experiment."""
    found = []
    for module, arguments in called(line):
        if importlib.util.find_spec(module) is None:
            found.append(module)
        elif module.startswith("tvm_mobilenet."):
            said = io.StringIO()
            try:
                with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
                    importlib.import_module(module).parser().parse_args(arguments)
            except SystemExit:
                found.append(f"{line}: {said.getvalue().strip()}")
            except TvmMobilenetError as error:
                found.append(f"{line}: {error.message}")
    return found


def test_every_command_of_the_pages_is_one():
    """A flag that was renamed would stay on a page, and its reader would get a usage error."""
    seen, found = 0, []
    for page in PAGES:
        for line in commands(page.read_text()):
            seen += "tvm_mobilenet." in line
            found += [f"{page.relative_to(ROOT)}: {what}" for what in unknown(line)]
    assert found == [] and seen > 60


@pytest.mark.parametrize(
    "line",
    [
        "python -m tvm_mobilenet.make --x",
        "python -m tvm_mobilenet.build --fast",
        "python -m tvm_mobilenet.build --dtype int7",
        "python -m tvm_mobilenet.verify",
        "python -m benchmarks.nothing",
    ],
)
def test_a_command_that_is_none_is_found(line):
    assert len(unknown(line)) == 1
    assert not unknown("python -m tvm_mobilenet.build --target rpi4 --dtype=int8 && ls --colour")


# What takes seconds in place of the tutorials' own networks, and where no page says otherwise.
SMALLER = {
    "--model v2": "--model v2 --alpha 0.35 --resolution 32",
    "v2-1.0-224": "v2-0.35-32",
    "--time-limit 10m": "--time-limit 1s --trials 1",
}
SMALLER_ON = {
    "int8-step-by-step": {
        "--model v2": "--model v1 --alpha 0.25 --resolution 32",
        "v2-1.0-224": "v1-0.25-32",
        "--weights imagenet": "--weights v1.pth",
    },
    "detector": {"--resolution 320": "--resolution 64", "-320-": "-64-"},
    "faces": {
        "[(64, 2, 5, 2), (128, 4, 1, 2), (128, 2, 6, 1), (128, 4, 1, 2), (128, 2, 2, 1)]": "[(16, 1, 1, 8)]",
        "64": "16",
        "512, 7": "512, 3",
        "512": "32",
        "--resolution 112": "--resolution 48",
    },
}
ELSEWHERE = {  # commands that are not run, and why
    "ssh": "needs a board; tests/boards and tests/bundle/test_ship.py have one",
    "scp ": "needs a board",
    "pip install": "README's commands install",
    ".doctor": "says what this machine lacks, with an exit code; tests/diagnosis has it",
    "json.tool": "a pager",
    "feature_maps.py": "tests/test_examples.py runs it",
}
PROGRAM = re.compile(r'^```python title="([\w.]+)"\n(.*?)^```', re.S | re.M)  # of a page: a file of the reader's
PHOTOGRAPHS = sorted((ROOT / "tvm_mobilenet" / "models" / "data").glob("*.jpg"))


NOT_AGAIN = {  # what the first hour runs on a board
    "int8-step-by-step": (".bench", "--weights imagenet\n"),
    "detector": (" rpi4", "-rpi4"),
    "faces": (" rpi4", "-rpi4"),
}


def smaller(text: str, page: str) -> str:
    for own, small in SMALLER_ON.get(page, SMALLER).items():
        text = text.replace(own, small)
    return text


def seven_flowers() -> None:
    """A checkpoint, its labels, and labelled photographs."""
    import torch

    from tvm_mobilenet.models import registry

    torch.save(registry.create("v2", alpha=0.35, resolution=32, num_classes=7).module.state_dict(), "flowers.pth")
    names = ["daisy", "dandelion", "iris", "lily", "rose", "sunflower", "tulip"]
    Path("flowers.txt").write_text("\n".join(names))
    for name in names:
        Path("photos", name).mkdir(parents=True)
        shutil.copy(PHOTOGRAPHS[0], Path("photos", name))


def published_weights() -> None:
    """Weights in place of those that would be downloaded, images of calibration and labelled ones."""
    import torch

    from tvm_mobilenet.models import registry

    torch.save(registry.create("v1", alpha=0.25, resolution=32).module.state_dict(), "v1.pth")
    for folder, photograph in zip(("calibration", "photos/daisy", "photos/castle"), 2 * PHOTOGRAPHS, strict=False):
        Path(folder).mkdir(parents=True)
        shutil.copy(photograph, folder)


def torchvisions_detector(monkeypatch) -> None:
    """A narrow SSDLite in place of torchvision's, of the same parts, and a photograph."""
    detection = types.ModuleType("torchvision.models.detection")
    detection.ssdlite320_mobilenet_v3_large = lambda weights: task_networks.make("ssdlite")
    for name in ("torchvision", "torchvision.models"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, detection.__name__, detection)
    shutil.copy(PHOTOGRAPHS[0], "photo.jpg")


def two_faces() -> None:
    """The weights that the page's own program has at first, and two photographs."""
    import torch

    torch.save(runpy.run_path("faces.py")["MobileFaceNet"]().state_dict(), "faces.pth")
    for name, photograph in zip(("a.jpg", "b.jpg"), PHOTOGRAPHS, strict=False):
        shutil.copy(photograph, name)


TUTORIALS = {
    "first-hour": lambda _: None,
    "your-own-network": lambda _: seven_flowers(),
    "int8-step-by-step": lambda _: published_weights(),
    "detector": torchvisions_detector,
    "faces": lambda _: two_faces(),
}


@pytest.mark.full
@pytest.mark.parametrize("page", TUTORIALS)
def test_the_commands_of_a_tutorial_run(page, tmp_path, monkeypatch):
    """Word for word but for the size of the network: a tutorial that stops in its middle is worse than none."""
    monkeypatch.chdir(tmp_path)
    text, ran = (ROOT / "docs" / "tutorials" / f"{page}.md").read_text(), 0
    for file, program in PROGRAM.findall(text):
        Path(file).write_text(smaller(program, page))
    TUTORIALS[page](monkeypatch)
    for line in commands(text):
        if any(words in f"{line}\n" for words in (*ELSEWHERE, *NOT_AGAIN.get(page, ()))):
            continue
        line = smaller(line, page)
        if line.startswith("python3 examples/"):
            words = [str(ROOT / word) if word.startswith("examples/") else word for word in shlex.split(line)[1:]]
            done = subprocess.run([sys.executable, *words], capture_output=True, text=True, timeout=600)
            assert done.returncode == 0, done
            ran += 1
        for module, words in called(line):
            arguments = [w for word in words for w in (sorted(glob.glob(word)) if "*" in word else [word])]
            assert importlib.import_module(module).main(arguments) == 0, line
            ran += 1
    assert ran >= 2


# ---- README


def test_the_readme_is_short():
    assert (ROOT / "README.md").read_text().count("\n") < 150


def test_the_chart_is_drawn_from_its_data():
    """`python -m benchmarks.latency` draws it again."""
    found = latency.rows()
    assert latency.CHART.read_text() == latency_chart.draw(found, latency.board_over_predicted())
    page = latency.PAGE.read_text()
    assert page == latency.page(page, latency.table(found)) and latency.table(found) in page
    readme = latency.README.read_text()
    assert readme == latency.page(readme, latency.own_table()) and latency.own_table() in readme
    kept = json.loads(latency.TABLE.read_text())["ours"]
    own = {(r["board"], r["dtype"]): r["ms"] for r in kept if (r["model"], r["cores"]) == ("v1", 4)}
    told = [float(ms) for ms in re.findall(r"([\d.]+) ms", readme[: readme.index("![Bars")])]
    boards = ("rpi4", "rpi5")
    assert told == [pytest.approx(own[board, dtype], rel=0.05) for board in boards for dtype in ("float32", "int8")]
    ours = {(row.board, row.dtype, row.cores) for row in found if row.engine == latency.OURS}
    assert ours == {(b, d, n) for b, dtypes in latency.BOARDS.items() for d in dtypes for n in latency.CORES}


def test_the_chart_shows_what_its_data_say(monkeypatch):
    """Another time moves its bar; the ends of the error bars are those of the published times."""
    found = latency.rows()
    low, high = latency.board_over_predicted()
    kept = json.loads(board_times.TABLE.read_text())
    over = [row["ms"] / board_times.estimated(row, board_times.run_of(row, kept["runs"]))[0] for row in kept["rows"]]
    assert low == pytest.approx(min(over)) and high == pytest.approx(max(over))
    drawn = latency_chart.draw(found[:1], (low, high))
    twice = latency_chart.draw([latency.Row(*[*vars(found[0]).values()][:4], found[0].predicted * 2)], (low, high))
    assert f">{found[0].predicted:.1f}<" in drawn and f">{found[0].predicted * 2:.1f}<" in twice


def test_predicting_again_replaces_the_rows_of_that_board_alone(tmp_path, monkeypatch, capsys):
    """`--again rpi4` must not lose another board's figures, nor keep old ones of its own."""
    for name in ("TABLE", "CHART", "PAGE", "README"):
        copy = shutil.copy(getattr(latency, name), tmp_path)
        monkeypatch.setattr(latency, name, Path(copy))
    told = {"float32": 222.25, "int8": 111.5}

    def predict(model, board, dtype):
        row = {"model": model, "board": board, "dtype": dtype}
        return [{**row, "cores": cores, "ms": told[dtype] / cores} for cores in (1, 4)]

    monkeypatch.setattr(latency, "predict", predict)
    before = [row for row in latency.rows() if row.board != "rpi4" or row.engine != latency.OURS]
    assert latency.main(["--again", "rpi4"]) == 0
    rows = latency.rows()
    ours = {(r.dtype, r.cores): r.predicted for r in rows if (r.board, r.engine) == ("rpi4", latency.OURS)}
    assert ours == {(dtype, cores): ms / cores for dtype, ms in told.items() for cores in (1, 4)}
    assert [row for row in rows if row.board != "rpi4" or row.engine != latency.OURS] == before
    assert "| 222.2 |" in latency.PAGE.read_text() and ">222.2<" in latency.CHART.read_text()
    assert "| Pi 4B | 1 | 222.2 |  | 111.5 | 222.2 | 111.5 |" in latency.README.read_text()
    with pytest.raises(SystemExit):
        latency.main(["--again", "rpi6"])
    assert "rpi6" in capsys.readouterr().err


def words(svg: str) -> str:
    """The letters of a picture, without blanks: where a line is cut may change with rich."""
    return re.sub(r"\s", "", unescape(re.sub(r"<style>.*?</style>|<[^>]*>", "", svg, flags=re.S)))


def test_the_still_is_drawn_from_what_the_verb_printed():
    """`python -m benchmarks.still` draws it again. It asks no other host for a font."""
    picture = still.STILL.read_text()
    kept = still.KEPT.read_text()
    assert words(picture) == words(still.draw(kept)) and "http" not in picture.replace("http://www.w3.org/", "")
    assert kept.splitlines()[0] == still.COMMAND and "predicted" in kept and "verified" in kept
    assert not unknown(still.COMMAND)


# ---- the site


def site(folder: Path, cwd: Path = ROOT):
    """Builds the site, with warnings as errors."""
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=600)


@pytest.mark.full
def test_the_site_builds_without_a_warning(tmp_path):
    """A broken link, a page in no folder of a kind, or a docstring that cannot be shown ends the build."""
    pytest.importorskip("mkdocs", reason="the extra [docs]")
    done = site(tmp_path / "site")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "--calibrate" in (tmp_path / "site" / "reference" / "verbs" / "build.html").read_text()
    api = (tmp_path / "site" / "reference" / "python.html").read_text()
    assert "tvm_mobilenet.api.compile" in api and "tvm_mobilenet.compiled.Compiled.latency" in api


@pytest.mark.full
def test_the_site_refuses_a_broken_link(tmp_path):
    """Planted: one link, in a copy of the pages."""
    pytest.importorskip("mkdocs", reason="the extra [docs]")
    shutil.copytree(ROOT / "docs", tmp_path / "docs", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "mkdocs.yml", tmp_path)
    page = tmp_path / "docs" / "guides" / "boards.md"
    page.write_text(page.read_text() + "\n[nowhere](no-such-page.md)\n")
    done = site(tmp_path / "site", tmp_path)
    assert done.returncode != 0 and "no-such-page.md" in done.stdout + done.stderr
