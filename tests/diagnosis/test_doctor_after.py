"""doctor after each verb that writes: what the verb left is nothing that keeps this machine from working."""

import contextlib
import json

import pytest
from tvm_mobilenet.tune_logs.log import Journal, trials_of

from tests.support import modules
from tvm_mobilenet import bench, build, complexity, doctor, factorize, profile, ship, sweep, tune
from tvm_mobilenet import verify as verify_verb
from tvm_mobilenet.diagnosis import checks
from tvm_mobilenet.diagnosis import local as doctor_local
from tvm_mobilenet.errors import BoardError, MissingDependencyError, TvmMobilenetError

OUT = "out/net-host"


@pytest.fixture
def healthy(tmp_path, monkeypatch, capsys):
    """In a folder of its own: ``healthy()`` runs doctor there, with the arguments a user would give: none."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(doctor_local, "ROUND_TRIP", "")  # what takes seconds, and does not look at any file
    monkeypatch.setattr(doctor_local, "_host", lambda folder: "")

    def call() -> dict:
        capsys.readouterr()
        code = doctor.main(["--target", "host", "--json"])
        found = json.loads(capsys.readouterr().out)
        wrong = [c for c in found["checks"] if c["status"] not in ("ok", "doubtful")]
        assert code == found["code"] == 0 and not wrong, wrong
        return {c["name"]: c["text"] for c in found["checks"]}

    return call


@pytest.mark.full
def test_after_each_verb_that_writes(healthy, tmp_path):
    assert "there is none yet" in healthy()["your tune log"]
    model = ["--model", modules.tiny_options().model]
    verbs = {
        "tune": (tune, [*model, "--target", "host", "--trials", "1", "--output", OUT]),
        "build": (build, [*model, "--target", "host", "--output", OUT, "--bundle", "net.tar.gz"]),
        "verify": (verify_verb, [OUT, "--inputs", "1"]),
        "bench": (bench, [OUT, "--threads", "1", "--seconds", "0.1", "--record", "bench.json"]),
        "profile": (profile, [OUT, "--seconds", "0.1", "--trace", "trace.json"]),
        "ship": (ship, ["--bundle", "net.tar.gz", "--to", str(tmp_path / "board"), "--threads", "1"]),
        "sweep": (
            sweep,
            ["--target", "host", "--alphas", "0.25", "--resolutions", "32", "--workers", "1", "--csv", "s.csv"],
        ),
        "factorize": (factorize, [*model, "--output", "factors.npz"]),
        "complexity": (complexity, model),
    }
    for name, (verb, argv) in verbs.items():
        assert verb.main(argv) == 0, name
        said = healthy()["your tune log"]
        layers = len(list(Journal("out/tune_log.jsonl").records()))
        assert layers >= 4 and said == f"out/tune_log.jsonl: {layers} records", name
    written = ("bench.json", "trace.json", "s.csv", "factors.npz", "out/sweep.jsonl", "board/current")
    assert all((tmp_path / name).exists() for name in written)


def test_a_log_of_any_length_is_counted(healthy, tmp_path):
    log = tmp_path / "out" / "tune_log.jsonl"
    log.parent.mkdir()
    line = next(Journal(doctor_local_shipped()).records()).to_json()
    for lines in (0, 1, 500):
        log.write_text(f"{line}\n" * lines)
        assert healthy()["your tune log"] == f"out/tune_log.jsonl: {lines} records"
    trials_of(log).path.write_text(f"{line}\n")
    assert healthy()


def doctor_local_shipped():
    from tvm_mobilenet.tune_logs.log import shipped

    return shipped("cortex-a72")


# ---- exit codes


def found_by(monkeypatch, name: str, error: Exception) -> int:
    """The exit code of doctor when one check of this side fails with an error."""

    def broken(*_):
        raise error

    monkeypatch.setattr(doctor_local, name, broken)
    return doctor.main(["--target", "host"])


@pytest.mark.parametrize(
    "name, error, code",
    [
        ("_pinned", MissingDependencyError("apache-tvm is not installed", "pip install"), 3),
        ("_installed", MissingDependencyError("not installed: torch", "pip install"), 3),
        ("_tvm", ModuleNotFoundError("No module named 'tvm'", name="tvm"), 3),
        ("_link", MissingDependencyError("linker", "leave out"), 3),
        ("_writable", TvmMobilenetError("cannot be written", "another --log"), 2),
        ("_shipped", ValueError("what nobody foresaw"), 1),
    ],
)
def test_the_exit_code_is_that_of_the_first_failure(name, error, code, monkeypatch, capsys):
    monkeypatch.setattr(doctor_local, "_ffi", lambda: "")
    monkeypatch.setattr(doctor_local, "_host", lambda folder: "")
    assert found_by(monkeypatch, name, error) == code
    out = capsys.readouterr().out
    assert "FAILED" in out and "Error" not in out and "Traceback" not in out, "no names of Python's classes"


def test_what_nobody_foresaw_is_a_bug_here_and_a_boards_there(capsys):
    def broken():
        raise ValueError("odd")

    for unforeseen, code in ((checks.BUG, 1), (BoardError.exit_code, 4)):
        run = checks.Checks(unforeseen=unforeseen)
        run.run("x", broken)
        assert run.code == code and run.found[0].text == "odd" and "--debug" in run.found[0].remedy
    assert "ValueError" not in capsys.readouterr().err
    checks.Checks(debug=True).run("x", broken)
    assert "ValueError: odd" in capsys.readouterr().err


def test_a_tvm_that_does_not_load_and_a_linker_that_does_not_run_are_tools_that_are_missing(tmp_path, monkeypatch):
    import subprocess

    from tvm_mobilenet import targets

    linker = tmp_path / "cc"
    linker.write_bytes(b"\x7fELF no program")
    linker.chmod(0o755)
    for command in (str(linker), "/bin/false", "no-such-cc"):
        run = checks.Checks()
        run.run("linker", lambda command=command: doctor_local._link(targets.load("rpi4"), command, tmp_path))
        assert run.code == 3, run.found

    def endless(*_, **__):
        raise subprocess.TimeoutExpired("python", 120)

    monkeypatch.setattr(subprocess, "run", endless)
    run = checks.Checks()
    run.run("ffi", doctor_local._ffi)
    assert run.code == 3 and "does not end" in run.found[0].text


def test_no_temporary_folder_is_said_and_how_to_get_one(monkeypatch, capsys):
    import tempfile

    def none(*_, **__):
        raise FileNotFoundError(2, "No usable temporary directory found")

    monkeypatch.setattr(tempfile, "gettempdir", none)
    with contextlib.suppress(SystemExit):
        assert doctor.main(["--target", "host"]) == 2
    assert "TMPDIR" in capsys.readouterr().err
