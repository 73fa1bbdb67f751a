"""What an issue needs: versions, the system, and what `doctor` found; without names of people, machines or folders."""

from __future__ import annotations

import getpass
import os
import platform
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tvm_mobilenet import __version__, packages
from tvm_mobilenet.diagnosis.checks import Check
from tvm_mobilenet.diagnosis.local import installed_version


def text_of(checks: Sequence[Check], target, board: str | None) -> str:
    """The report as Markdown.

    Parameters
    ----------
    checks : sequence of Check
    target : targets.Target
    board : str, optional
        As the user gave it: its kind is told, its address is not.
    """
    kind = (board or "none").partition("://")[0]
    about = [
        ("tvm_mobilenet", __version__),
        ("Python", platform.python_version()),
        ("system", platform.platform()),
        ("CPUs", os.cpu_count()),
        ("target", f"{target.name}, {target.core.name}"),
        ("board", kind),
        *(
            (name, found)
            for name in dict.fromkeys(p.distribution for p in packages.MODULES.values())
            if (found := installed_version(name))
        ),
    ]
    lines = [
        "### What this machine is",
        "",
        "| | |",
        "|---|---|",
        *(f"| {name} | {value} |" for name, value in about),
        "",
        "### What doctor found",
        "",
        *(
            f"- **{check.status}** {check.name}: {check.text}" + f" → {check.remedy}" * bool(check.remedy)
            for check in checks
        ),
    ]
    return anonymous("\n".join(lines)) + "\n"


def anonymous(text: str) -> str:
    """A text without the user's name, the host's, and the paths of their folders."""
    folders = {
        str(Path.home()): "~",
        str(Path.cwd()): ".",
        tempfile.gettempdir(): "TMP",
        os.sep.join(Path(__file__).parts[:-3]).replace("//", "/"): "PACKAGE",
    }
    for folder, name in sorted(folders.items(), key=lambda pair: -len(pair[0])):
        if len(folder) > 1:
            text = text.replace(folder, name)
    text = re.sub(r"(?<![\w.~/])/(?:[\w.+-]+/)+", ".../", text)
    text = re.sub(r"\b(ssh|rpc|tracker|dask)://\S+", r"\1://...", text)
    for word, name in ((_user(), "USER"), (platform.node(), "HOST")):
        if len(word) > 2:
            text = re.sub(rf"\b{re.escape(word)}\b", name, text)
    return text


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):
        return ""
