"""What `doctor --report` writes for an issue."""

import getpass
import os
import platform
from pathlib import Path

from tvm_mobilenet import __version__, doctor, targets
from tvm_mobilenet.diagnosis import report
from tvm_mobilenet.diagnosis.checks import FAILED, OK, Check


def test_it_tells_versions_and_checks_and_nothing_private(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path / "jane"))
    monkeypatch.setattr(getpass, "getuser", lambda: "jane")
    monkeypatch.setattr(platform, "node", lambda: "janes-laptop")
    home, here = Path.home(), Path.cwd()
    checks = [
        Check("tune log", OK, f"{home}/work/tune_log.jsonl can be written"),
        Check(
            "build",
            FAILED,
            f"{here}/out: by jane on janes-laptop",
            f"ssh://jane@10.0.0.7:22/srv; see {os.sep}srv/secret/x.txt",
        ),
    ]
    text = report.text_of(checks, targets.load("rpi4"), "ssh://jane@pi.home/srv")
    assert f"| tvm_mobilenet | {__version__} |" in text and "| apache-tvm | " in text
    assert "**FAILED** build" in text and "~/work/tune_log.jsonl" in text and "| board | ssh |" in text
    for private in ("jane", str(here), str(home), "10.0.0.7", "pi.home", "secret"):
        assert private not in text, private


def test_names_addresses_and_folders_go_wherever_they_stand(monkeypatch):
    monkeypatch.setenv("HOME", "/home/Jane Doe")
    monkeypatch.setattr(getpass, "getuser", lambda: "jdoe")
    monkeypatch.setattr(platform, "node", lambda: "Tower.fritz.box")
    given = {
        "/home/Jane Doe/out/plan.json is gone": "~/out/plan.json is gone",
        "/home/Jane Doe-old/a": ".../a",
        "no file '/media/My Disk/Secret Plans/x y.onnx' there": "no file '.../x y.onnx' there",
        "TOWER: asked by JDOE_2, and tower": "HOST: asked by USER_2, and HOST",
        "10.0.0.7:9190 and fe80::1%eth0, [2001:db8::7]:22": "ADDRESS:9190 and ADDRESS, [ADDRESS]:22",
        "ann@pi4 at printer.lan; attic answers": "USER@HOST at ADDRESS; HOST answers",
        "https://bob:pw@pypi.corp/simple and tracker://h:1/k": "https://... and tracker://...",
        "torchvision::nms of 0.27.0.post1, 1.26.4; step 3/4": "torchvision::nms of 0.27.0.post1, 1.26.4; step 3/4",
    }
    for text, told in given.items():
        assert report.anonymous(text, "rpc://attic:9090") == told


def test_the_verb_writes_it(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(doctor, "doctor", lambda target, **how: _Found())
    assert doctor.main(["--target", "rpi4", "--report", str(tmp_path / "report.md")]) == 0
    assert "- **ok** tvm: there" in (tmp_path / "report.md").read_text()
    assert "report.md" in capsys.readouterr().err


class _Found:
    found, code = [Check("tvm", OK, "there")], 0
