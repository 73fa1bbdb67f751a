"""The command line: what a user types, sees, and gets back as an exit code."""

import ast
import importlib
import json
import os
import re
import subprocess
import sys
import tomllib
import types
import warnings
from pathlib import Path

import pytest
from tvm_mobilenet.tune_logs import keys
from tvm_mobilenet.tune_logs.log import Journal, trials_of

import tvm_mobilenet
from tests.support import schemas
from tests.support.fake_board import Costs, Fails, cost_of
from tvm_mobilenet import __main__, compiler, packages, schedules, targets, tune, tune_logs
from tvm_mobilenet.cli import entry, options
from tvm_mobilenet.errors import BoardError, TvmMobilenetError, VerificationError
from tvm_mobilenet.layer import Layer
from tvm_mobilenet.models.options import ModelOptions
from tvm_mobilenet.survey import tune_page
from tvm_mobilenet.terminal import console
from tvm_mobilenet.tuning import known_layers, layer_search
from tvm_mobilenet.tuning import session as tuning

ROOT = Path(__file__).resolve().parents[2]
VERBS = sorted(__main__.verbs())
LAYERS = {"pointwise m196 n512 k512 f32 relu6": 5, "dense m1 n1000 k1024 f32": 1}


def run(*command, timeout=1200, **kwargs):
    return subprocess.run([sys.executable, *command], capture_output=True, text=True, timeout=timeout, **kwargs)


# ---- help


def test_help_lists_the_verbs_at_once():
    """No second of a computer's time is the same as another's: what counts is that nothing large is imported."""
    done = run("-X", "importtime", "-m", "tvm_mobilenet", "--help")
    imported = {line.split("|")[-1].strip().split(".")[0] for line in done.stderr.splitlines()}
    assert done.returncode == 0 and "tvm_mobilenet" in imported
    assert not {"numpy", "torch", "tvm", "optuna", "rich", "onnx"} & imported
    assert {"tune", "build", "verify"} <= set(VERBS)
    assert all(f"\n  {verb} " in done.stdout for verb in VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_a_verb_imports_neither_torch_nor_tvm(verb):
    code = (
        f"import sys, tvm_mobilenet.{verb} as v\n"
        "try: v.main(['--help'])\n"
        "except SystemExit as e: assert not e.code, e\n"
        "slow = {'torch', 'tvm', 'optuna', 'unicorn', 'onnx'} & set(sys.modules); assert not slow, slow"
    )
    done = run("-c", code)
    assert done.returncode == 0, done.stderr
    assert "--debug" in done.stdout and f"tvm_mobilenet.{verb}" in done.stdout


def test_the_summary_of_a_verb_is_the_first_line_of_its_docstring():
    folder = Path(tvm_mobilenet.__file__).parent
    docstrings = {verb: ast.get_docstring(ast.parse((folder / f"{verb}.py").read_text())) for verb in VERBS}
    assert __main__.verbs() == {verb: text.partition("\n")[0] for verb, text in docstrings.items()}


def test_who_mistypes_a_folder_does_not_wait_for_torch(tmp_path):
    code = "import sys; from tvm_mobilenet import verify; verify.main(['nowhere']); print('torch' in sys.modules)"
    done = run("-c", code, cwd=tmp_path)
    assert "nowhere holds no built module" in done.stderr and done.stdout == "False\n"


def test_a_verb_is_the_same_both_ways():
    first, second = run("-m", "tvm_mobilenet", "tune", "--help"), run("-m", "tvm_mobilenet.tune", "--help")
    assert first.stdout == second.stdout and first.returncode == second.returncode == 0


def test_an_unknown_verb_suggests_the_nearest():
    done = run("-m", "tvm_mobilenet", "tunne")
    assert done.returncode == 2 and "did you mean 'tune'?" in done.stderr and not done.stdout


OWN = {  # of the shared flags, those that mean something else on purpose: factors of v1-plain's kernels, in one file
    ("tvm_mobilenet.factorize", "--model"),
    ("tvm_mobilenet.factorize", "--output"),
}


def test_the_shared_flags_are_the_same_in_every_verb_that_has_them():
    parsers = [importlib.import_module(f"tvm_mobilenet.{verb}") for verb in VERBS]
    seen: dict[str, tuple] = {}
    for module in parsers:
        for action in module.parser()._actions:
            for flag in action.option_strings:
                if flag in (
                    "--model",
                    "--alpha",
                    "--resolution",
                    "--target",
                    "--log",
                    "--output",
                    "--linker",
                ):
                    now = action.metavar, action.choices, str(action.default)
                    if (module.__name__, flag) in OWN:
                        continue
                    assert seen.setdefault(flag, now) == now, f"{module.__name__} {flag}"
    assert "--model" in seen


# ---- errors


@pytest.fixture
def verb(monkeypatch):
    """A verb that does what the test says: ``verb(error)`` gives the exit code."""

    def call(error, *argv):
        def work(args):
            if isinstance(error, BaseException):
                raise error
            return error

        return entry.run_verb(entry.parser_for("test", "A test."), work, argv)

    return call


@pytest.mark.parametrize("package", [tvm_mobilenet, tune_logs, schedules, targets, compiler])
def test_a_warning_of_any_room_is_a_line_for_the_user(package, capsys):
    """Wherever in a checkout its code lies; else the user reads a path, a line of code and the name of a class."""
    place = package.__file__

    def work(args):
        warnings.warn_explicit("a line is not a record", UserWarning, place, 1)

    assert entry.run_verb(entry.parser_for("test", "A test."), work, []) == 0
    assert capsys.readouterr().err == "warning: a line is not a record\n"


@pytest.mark.parametrize(
    "error, code, text",
    [
        (None, 0, ""),
        (5, 5, ""),
        (TvmMobilenetError("what", "do this"), 2, "error: what\n  do this\n"),
        (BoardError("lost"), 4, "error: lost\n"),
        (VerificationError("off"), 5, "error: off\n"),
        (ModuleNotFoundError("No module named 'torch'", name="torch"), 3, "needs torch, which is not installed here\n"),
        (
            ModuleNotFoundError("No module named 'tvm'", name="tvm"),
            3,
            "needs apache-tvm, which is not installed here\n",
        ),
        (ModuleNotFoundError("No module named 'tornado'", name="tornado.web"), 3, "-m pip install "),
        (ModuleNotFoundError("No module named 'tvm_mobilenet.x'", name="tvm_mobilenet.x"), 1, "--debug"),
        (ValueError("odd\nthing"), 1, "error: ValueError: odd thing\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
    ],
)
def test_errors_become_messages_and_exit_codes(verb, capsys, error, code, text):
    assert verb(error) == code
    out, err = capsys.readouterr()
    assert text in err and not out and "Traceback" not in err


def test_the_documented_exit_codes_are_those_of_the_errors():
    page = (Path(__file__).parents[2] / "docs" / "reference" / "terminal.md").read_text()
    documented = {int(code) for code in re.findall(r"^\| (\d+) \|", page.partition("## Exit codes")[2], re.M)}
    known = {one.exit_code for one in (TvmMobilenetError, *TvmMobilenetError.__subclasses__())}
    assert documented == {0, 1, entry.INTERRUPTED} | known


def test_debug_shows_the_traceback(verb):
    with pytest.raises(ValueError, match="odd"):
        verb(ValueError("odd"), "--debug")


@pytest.mark.parametrize(
    "argv, text",
    [
        (["--target", "rpi44"], "did you mean 'rpi4'?"),
        (["--target", "rpi4", "--weights", "nowhere.pth"], "--weights nowhere.pth: no such file"),
        (["--target", "rpi4", "--model", "nowhere.onnx"], "--model nowhere.onnx: no such file"),
        (["--target", "rpi4", "--resolution", "100"], "100 is not a multiple of 32\n  the nearest are 96 or 128"),
    ],
)
def test_a_users_mistake_is_named_before_anything_slow(argv, text, capsys, monkeypatch):
    from tvm_mobilenet.compiler import network

    monkeypatch.setattr(network, "load_network", lambda options: pytest.fail("a network is loaded first"))
    assert tune.main(argv) == 2
    assert text in capsys.readouterr().err


@pytest.mark.parametrize(
    "argv, text",
    [
        (["--resolution", "1x2x3"], "try 224, or 192x256"),
        (["--resolution", "0"], "try 224, or 192x256"),
        (["--alpha", "-1"], "--alpha"),
        (["--alpha", "nan"], "--alpha"),
        (["--trials", "0"], "--trials"),
        (["--time-limit", "soon"], "try 90s, 7m or 2h"),
        (["--mean", "1,2"], "neither one number nor three"),
    ],
)
def test_impossible_values_are_usage_errors(argv, text, capsys):
    with pytest.raises(SystemExit) as exit:
        tune.main(argv)
    assert exit.value.code == 2 and text in capsys.readouterr().err


def test_options_become_a_model():
    argv = ["--model", "v2", "--alpha", "0.5", "--resolution", "160", "--mean", "0.5", "--std", ".1,.2,.3"]
    args = tune.parser().parse_args(argv)
    model = options.model_options(args)
    assert (model.title, model.slug) == ("v2 0.5-160", "v2-0.5-160")
    assert model.mean == (0.5,) and model.std == (0.1, 0.2, 0.3)
    assert (
        ModelOptions(model="my net.onnx").slug == "my-net" != ModelOptions(model="my net.pt2").slug
        and ModelOptions(classes=10).slug == "v1-1.0-224-c10"
    )
    assert [options.time_span(t) for t in ("90", "90s", "7m", "0.5h")] == [90, 90, 420, 1800]


# ---- output


def test_a_plain_table(capsys):
    console.print_table(("layer", "cycles", "x"), [("a", 1234567, 1.5), ("bcd", None, 1234.5)], "title")
    assert capsys.readouterr().out == (
        "title\nlayer     cycles      x\na      1,234,567    1.5\nbcd            -  1,234\n"
    )


def test_json_is_one_document(capsys):
    assert tune.main(["--target", "list", "--json"]) == 0
    out = json.loads(capsys.readouterr().out)
    assert {"arm", "rpi3", "rpi4", "rpi5", "zero2w", "armv7", "host"} <= {one["name"] for one in out}
    assert schemas.refused("targets", out) == "" and schemas.refused("targets", [{**out[0], "colour": 1}])
    console.print_json({"a": float("nan"), "b": Path("c"), "d": (1, 2)})
    assert json.loads(capsys.readouterr().out) == {"a": None, "b": "c", "d": [1, 2]}


def test_the_list_of_targets_says_which_dtypes_they_compute(capsys):
    assert tune.main(["--target", "list"]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert " computes " in lines["target"]
    for name, half in {"rpi5": True, "arm82": True, "rpi4": False, "armv7": False}.items():
        assert "float32" in lines[name] and ("float32, float16" in lines[name]) is half, lines[name]


def test_progress_off_a_terminal_is_plain_lines_on_stderr(capsys):
    with console.Progress(every=0) as progress:
        progress.update(lambda: "half", ("layer",), lambda: [("a",)])
    assert capsys.readouterr() == ("", "half\n")


# ---- tune, on a fake board


@pytest.fixture
def network(monkeypatch):
    """Two layers with the space of the search's tests, so that nothing here needs TVM."""
    from tests.tuning.test_search import space
    from tvm_mobilenet import schedules
    from tvm_mobilenet.compiler import pipeline

    monkeypatch.setattr(schedules, "space", lambda layer, core: space())
    counts = {Layer.parse(name): count for name, count in LAYERS.items()}
    monkeypatch.setattr(pipeline, "CORE_PASSES", ())
    return types.SimpleNamespace(graph=types.SimpleNamespace(counts=counts), options=ModelOptions())


def tuned(network, tmp_path, evaluate=None, finish=lambda *a: (None, None), **fields):
    from tvm_mobilenet import targets

    return tune.tune(
        ModelOptions(),
        targets.load("rpi4"),
        log=tmp_path / "log.jsonl",
        network=network,
        evaluate=evaluate or Costs(tmp_path),
        finish=finish,
        **{"trials": 30, **fields},
    )


def test_tune_beats_a_bad_default_and_logs_what_won(network, tmp_path, capsys):
    result = tuned(network, tmp_path)
    assert result.ended == "done" and result.new_trials == 60
    for layer in result.layers:
        assert layer.tuned < 0.7 * layer.untuned and layer.tuned == cost_of(layer.layer, layer.decisions)
    assert result.tuned == sum(cost_of(one.layer, one.decisions) * LAYERS[one.layer] for one in result.layers)
    lines = {record.layer: record for record in Journal(tmp_path / "log.jsonl").records()}
    assert len((tmp_path / "log.jsonl").read_text().splitlines()) == 2
    for layer in result.layers:
        record = lines[layer.layer]
        assert (record.cost, record.decisions, record.default_cost) == (layer.tuned, layer.decisions, layer.untuned)
        assert record.whole and record.predicted and record.unit == "cycles"
    tune.print_result(result)
    out = capsys.readouterr().out
    assert "predicted on 1 core" in out and "pointwise m196 n512 k512 f32 relu6" in out and "% of peak" in out


def test_tune_again_does_nothing_twice(network, tmp_path, monkeypatch, capsys):
    tuned(network, tmp_path)
    before = (tmp_path / "evaluated").read_text(), (tmp_path / "log.jsonl").read_text()
    with monkeypatch.context() as patch:
        patch.setattr(tuning, "Workers", lambda *_: pytest.fail("workers are started for nothing"))
        again = tuned(network, tmp_path)
    assert again.new_trials == 0 and again.ended == "done"
    assert before == ((tmp_path / "evaluated").read_text(), (tmp_path / "log.jsonl").read_text())
    counts = network.graph.counts
    known_layers.print_known(tuning.prepare(counts, targets.load("rpi4"), "virtual", tmp_path / "log.jsonl", 30), True)
    rows = json.loads(capsys.readouterr().out)
    assert [(row["trials"], row["cost"]) for row in rows] == [(30, layer.tuned) for layer in again.layers]
    schemas.require("tune-list", rows, "0")
    more = tuned(network, tmp_path, trials=40)
    assert more.new_trials == 20


@pytest.mark.parametrize("mult_adds", [pytest.param(0, marks=pytest.mark.full), 1e9])
def test_a_candidate_that_is_wrong_as_a_whole_does_not_win(network, tmp_path, monkeypatch, mult_adds):
    from tvm_mobilenet.tuning import session as tuning

    monkeypatch.setattr(tuning, "WHOLE_MULT_ADDS", mult_adds)
    best = {"tile_m": 7, "tile_n": 8, "unroll": 4, "order": "m"}
    result = tuned(network, tmp_path, Costs(wrong_as_a_whole=[best]), trials=104)
    assert all(layer.decisions != best and layer.tuned for layer in result.layers)
    failed = [r for r in trials_of(tmp_path / "log.jsonl").records() if r.decisions == best and r.whole]
    assert len(failed) == 2 and all(r.cost is None for r in failed)
    logged = list(Journal(tmp_path / "log.jsonl").records())
    assert len(logged) == 2 and all(r.whole and r.decisions != best for r in logged)


def test_a_board_on_which_nothing_runs_ends_the_search(network, tmp_path):
    with pytest.raises(TvmMobilenetError, match=r"each of the first 8 candidates failed.*the board is broken"):
        tuned(network, tmp_path, Fails())


def test_a_layer_of_which_nothing_runs_is_named(network, tmp_path):
    with pytest.warns(UserWarning, match="no candidate of dense .* ran; the first: ValueError: the board is broken"):
        result = tuned(network, tmp_path, Fails("dense"))
    assert [layer.tuned is None for layer in result.layers] == [False, True] and result.tuned is None


def test_another_target_or_schedule_starts_anew(network, tmp_path, monkeypatch):
    tuned(network, tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(keys, "sources_key", lambda: "changed")
        patched.setattr(keys, "code_key", lambda *_: "changed")
        assert tuned(network, tmp_path).new_trials == 60


def test_the_key_of_a_candidate_that_ran_is_its_builders_own(network, tmp_path, monkeypatch):
    """The process that searches makes no kernels: one takes as long as a small candidate does."""
    made = []
    monkeypatch.setattr(keys, "code_key", lambda layer, decisions, target: made.append(decisions) or "here")
    tuned(network, tmp_path, Costs(tmp_path, code="built"))
    trials = list(trials_of(tmp_path / "log.jsonl").records())
    assert {r.code for r in trials if r.cost is not None} == {"built"}
    assert len(made) == sum(r.cost is None for r in trials) < len(trials) / 2


def test_another_cost_model_estimates_the_best_again_and_searches_nothing(network, tmp_path, monkeypatch):
    first = tuned(network, tmp_path)
    monkeypatch.setattr(keys, "estimate_key", lambda target: "changed")
    again = tuned(network, tmp_path)
    assert 0 < again.new_trials <= len(first.layers) * (1 + layer_search.AGAIN)
    assert [a.decisions for a in again.layers] == [f.decisions for f in first.layers]
    assert tuned(network, tmp_path).new_trials == 0


def test_ctrl_c_leaves_a_usable_log(network, tmp_path):
    def interrupt(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tuned(network, tmp_path, finish=interrupt)
    assert tuned(network, tmp_path).new_trials == 0


def test_the_page_shows_every_layer_with_its_search(network, tmp_path, monkeypatch, capsys):
    result = tuned(network, tmp_path)
    charts = {part.title: part for part in tune_page.page(result, (), (), ()).parts if hasattr(part, "spec")}
    names = ["5 x pointwise m196 n512 k512 f32 relu6", "dense m1 n1000 k1024 f32"]
    layers, searches = charts["Where the time goes"], charts["The searches"]
    assert [row[0] for row in layers.rows] == names == list(dict.fromkeys(row[0] for row in searches.rows))
    for one, row in zip(result.layers, layers.rows, strict=True):
        value = dict(zip(layers.columns, row, strict=True))
        assert value["tuned_ms"] == pytest.approx(result.milliseconds(one.tuned * one.count))
        ends = [above for name, _, above in searches.rows if name == row[0]]
        assert ends == sorted(ends, reverse=True) and ends[-1] == 0
    monkeypatch.setitem(packages.MODULES, "no_such_module", packages.MODULES["vl_convert"])
    monkeypatch.setattr(packages, "for_pages", lambda wanted: ("no_such_module",))
    page = tune.write_page(result, tmp_path / "out").read_text()
    assert "Charts need the extra [report]" in page and "pointwise m196 n512 k512 f32 relu6" in page
    assert "vl-convert-python" in capsys.readouterr().err


# ---- the console script


def console_script(*words, **env):
    """The script of an installed wheel: the same entry point, by the name that it has there."""
    code = "import sys; from tvm_mobilenet.__main__ import main; sys.argv[0] = 'tvm-mobilenet'; sys.exit(main())"
    return run("-c", code, *words, env={**os.environ, **env})


def test_the_console_script_is_the_entry_point_and_calls_itself_so():
    data = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert data["project"]["scripts"] == {"tvm-mobilenet": "tvm_mobilenet.__main__:main"}
    listed = console_script("help").stdout
    assert listed.startswith("usage: tvm-mobilenet VERB") and "python -m" not in listed
    assert listed.index("  tune ") < listed.index("for those who maintain") < listed.index("  rebuild_logs ")
    shown = console_script("help", "verify")
    assert shown.returncode == 0 and shown.stdout.startswith("usage: tvm-mobilenet verify ")
    assert console_script("rebuild-logs", "--help").returncode == 0
    wrong = console_script("verify", "--boart", "x")
    assert wrong.returncode == 2 and "did you mean --board" in wrong.stderr


@pytest.mark.parametrize("words", [("--version",), ("build", "--version")])
def test_the_version_is_told_by_all_and_by_each(words):
    assert console_script(*words).stdout == f"{tvm_mobilenet.__version__}\n"


@pytest.mark.parametrize(
    "words", [["tvm_mobilenet", "-h"], ["tvm_mobilenet.build", "--version"], ["tvm_mobilenet", "help", "tune"]]
)
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_who_reads_the_first_lines_alone_sees_no_traceback(words, unbuffered):
    """As `head` does, which leaves; a full disk is told."""
    reader, writer = os.pipe()
    os.close(reader)
    env = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    done = subprocess.run([sys.executable, "-m", *words], stdout=writer, stderr=subprocess.PIPE, text=True, env=env)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")
    for to in (">/dev/full", ">&-"):
        command = f'exec "$0" -m "$@" {to}'
        done = subprocess.run(["sh", "-c", command, sys.executable, *words], capture_output=True, text=True, env=env)
        assert (done.returncode, done.stdout) == (2, "") and "Traceback" not in done.stderr
        assert "error: the result cannot be written" in done.stderr, done


def test_flags_of_all_verbs_may_stand_before_the_verb(monkeypatch, capsys):
    from tvm_mobilenet import ship

    monkeypatch.setattr(ship, "main", lambda argv: print(*argv) or 0)
    assert __main__.main(["-q", "--debug", "ship", "--to", "-v"]) == 0
    assert capsys.readouterr().out == "-q --debug --to -v\n"
    for words, said in ((["-v"], "a verb is missing after -v"), (["--json", "ship"], "--json does not stand")):
        assert __main__.main(words) == 2 and said in capsys.readouterr().err


def test_quiet_leaves_errors_and_verbose_tells_more(capsys):
    def run_lines(argv):
        def lines(args):
            console.say("building")
            console.detail("phase plan")
            console.say("warning: odd")

        parser = entry.parser_for("build", "x")
        assert entry.run_verb(parser, lines, argv) == 0
        return capsys.readouterr().err.splitlines()

    assert run_lines([]) == ["building", "warning: odd"]
    assert run_lines(["-q"]) == ["warning: odd"]
    told = run_lines(["-v"])
    assert [line.partition(" s  ")[2] for line in told] == ["building", "phase plan", "warning: odd"]


@pytest.mark.parametrize(
    "verb, words, said",
    [
        ("build", "--labels three.txt", "three.txt"),
        ("build", "--labels nowhere.txt", "--labels nowhere.txt: no such file"),
        ("build", "--weights nowhere.pth", "--weights nowhere.pth: no such file"),
        ("build", "--input nowhere.jpg", "--input nowhere.jpg: no such file"),
        ("build", "--linker no-such-cc", "linker 'no-such-cc' is not on the PATH"),
        ("build", "--target rpi5 --dtype int8 --calibrate empty", "--calibrate empty: no image is in it"),
        (
            "build",
            "--target rpi5 --dtype int8 --quantization nowhere.json",
            "--quantization nowhere.json: no such file",
        ),
        ("build", "--target rpi5 --dtype int8 --max-drop 1 --data nowhere", "--data nowhere"),
        ("build", "--min-accuracy 0.7 --data empty --truth nowhere.csv", "--truth nowhere.csv: no such file"),
        ("tune", "--board vritual", "vritual"),
        ("sweep", "--families v9", "v9"),
        ("ship", "--bundle nowhere.tar.gz --to device", "nowhere.tar.gz is not a whole bundle: no such file"),
    ],
)
def test_mistakes_are_told_before_torch_and_tvm_are_imported(verb, words, said, tmp_path, monkeypatch, capsys):
    """They take seconds to import, networks take minutes: a wrong path is told at once."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "three.txt").write_text("cat\ndog\nbird\n")
    for name in ("torch", "tvm"):
        for loaded in [m for m in sys.modules if m.split(".")[0] == name]:
            monkeypatch.delitem(sys.modules, loaded)
        monkeypatch.setitem(sys.modules, name, None)
    code = importlib.import_module(f"tvm_mobilenet.{verb}").main(words.split())
    assert code in (2, 3) and said in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    "line, wanted",
    [
        ("tvm-mobilenet ver", "verify"),
        ("tvm-mobilenet build --quantiz", "--quantization"),
        ("tvm-mobilenet he", "help"),
        ("tvm-mobilenet -q build --quantiz", "--quantization"),
    ],
)
def test_the_shell_completes_verbs_and_flags(line, wanted, tmp_path):
    pytest.importorskip("argcomplete", reason="argcomplete is not installed")
    found = tmp_path / "found"
    console_script(
        _ARGCOMPLETE="1",
        _ARGCOMPLETE_IFS="\n",
        _ARGCOMPLETE_STDOUT_FILENAME=str(found),
        COMP_LINE=line,
        COMP_POINT=str(len(line)),
    )
    assert wanted in [word.strip() for word in found.read_text().split("\n")]
