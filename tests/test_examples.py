"""The examples run as they stand: each in a fresh folder, and what it prints is what it says.

With ``TVM_MOBILENET_WHEEL=FOLDER``, as in CI, they run as for a user without a checkout: by their own process, from
a copy of the one file, with the package's files in that folder. Those for a device are tested where bundles are
(tests/bundle).
"""

import os
import re
import runpy
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
WHEEL = os.environ.get("TVM_MOBILENET_WHEEL", "")
OF_WHEEL = f"import tvm_mobilenet; assert tvm_mobilenet.__file__.startswith({WHEEL!r}), tvm_mobilenet.__file__"
HERE = ("seven_classes.py", "feature_maps.py", "boards.ipynb")  # run by this file


def run(name: str, folder: Path, monkeypatch, capsys) -> str:
    """What an example prints, run by this process: importing torch and TVM takes seconds."""
    if WHEEL:
        (alone := folder / "alone").mkdir()
        shutil.copy(EXAMPLES / name, alone)
        program = f"import runpy; {OF_WHEEL}; runpy.run_path({name!r}, run_name='__main__')"
        command, environment = [sys.executable, "-c", program, str(folder)], {**os.environ, "PYTHONPATH": WHEEL}
        done = subprocess.run(command, capture_output=True, text=True, timeout=1800, cwd=alone, env=environment)
        assert done.returncode == 0, done.stderr
        return done.stdout
    monkeypatch.setattr(sys, "argv", [name, str(folder)])
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")
    return capsys.readouterr().out


def files_of(bundle: Path) -> dict[str, bytes]:
    with tarfile.open(bundle) as archive:
        return {Path(one.name).name: archive.extractfile(one).read() for one in archive if one.isfile()}


def test_every_example_is_short_and_in_the_table():
    """Newcomers read them whole; the table says what each is, its command and what it needs."""
    table = (EXAMPLES / "README.md").read_text()
    found = [path for path in EXAMPLES.iterdir() if path.suffix in (".py", ".c", ".cpp", ".sh", ".ipynb")]
    assert {path.name for path in found} >= set(HERE)
    for path in found:
        assert re.search(rf"^\| .*`[^`]*{re.escape(path.name)}", table, re.MULTILINE), (
            f"{path.name} is not in the table"
        )
        assert path.suffix == ".ipynb" or path.read_text().count("\n") < 60, f"{path.name} is long"


@pytest.mark.full
def test_a_network_is_fine_tuned_to_seven_classes_and_packed(tmp_path, monkeypatch, capsys):
    out = run("seven_classes.py", tmp_path, monkeypatch, capsys)
    right = int(
        re.search(r"^(\d) of 7 new images are right by the compiled code; [\d.]+ ms on 1 core.*predicted", out)[1]
    )
    assert right >= 5, "of seven classes chance has one right"
    files = files_of(tmp_path / "seven.tar.gz")
    assert files["labels.txt"].decode().splitlines()[:2] == ["0 degrees", "25 degrees"]
    assert (tmp_path / "checkpoint.pth").exists() and "libmobilenet.so" in files


@pytest.mark.full
def test_feature_maps_have_their_names_in_the_bundle(tmp_path, monkeypatch, capsys):
    out = run("feature_maps.py", tmp_path, monkeypatch, capsys)
    for name, shape in (("stride_4", "32, 24, 32"), ("stride_8", "64, 12, 16"), ("stride_16", "128, 6, 8")):
        assert re.search(rf"^{name} +\(1, {shape}\), mean 0\.[1-9]", out, re.MULTILINE), out
    assert "ms on 1 core" in out
    manifest = files_of(tmp_path / "backbone.tar.gz")["manifest.json"].decode()
    assert all(f'"{name}"' in manifest for name in ("stride_4", "stride_8", "stride_16"))


def notebook():
    nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed: it comes with [test]")
    return nbformat.read(EXAMPLES / "boards.ipynb", as_version=4)


def test_the_notebook_is_kept_without_outputs():
    """They would be of another machine and version, and change with every run."""
    cells = [cell for cell in notebook().cells if cell.cell_type == "code"]
    assert cells and not any(cell.outputs or cell.execution_count for cell in cells)


@pytest.mark.full
def test_the_notebook_runs_and_shows_tables(tmp_path, monkeypatch):
    nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed: it comes with [test]")
    pytest.importorskip("ipykernel", reason="ipykernel is not installed: it comes with [test]")
    made = notebook()
    if WHEEL:
        monkeypatch.setenv("PYTHONPATH", WHEEL)
        first = next(cell for cell in made.cells if cell.cell_type == "code")
        first.source = f"{OF_WHEEL}\n{first.source}"
    where = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(made, timeout=1800, kernel_name="python3", resources=where).execute()
    shown = {cell.id: cell.outputs for cell in made.cells if cell.cell_type == "code"}
    tables = {
        name: "".join(one["data"]["text/html"] for one in shown[name]) for name in ("compile", "verify", "profile")
    }
    assert "Raspberry Pi 4B" in tables["compile"] and tables["verify"].count("<tr>") > 6
    assert "predicted" in tables["profile"]
    text = {name: "".join(one["text"] for one in shown[name]) for name in ("latency", "int8")}
    assert [line.split()[-2] for line in text["latency"].splitlines()] == ["rpi3", "rpi4", "rpi5"]
    assert float(re.search(r"correlation ([\d.]+)", text["int8"])[1]) > 0.99
