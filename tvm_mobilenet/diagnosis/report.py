"""A report for an issue: versions, the system, and the results of `doctor`, without names of people, machines or
folders."""

from __future__ import annotations

import contextlib
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

_PART = r"[^/\s:;,'\"|()`]+(?: [^/\s:;,'\"|()`]+)*"  # a part of a path, which may contain blanks
_PATH = re.compile(rf"(?<![\w.~/])/(?:{_PART}/)+")
_IPV4 = re.compile(r"(?<![\w.])\d{1,3}(?:\.\d{1,3}){3}(?![\w.]*\w)")
_IPV6 = re.compile(r"(?<![\w:])(?:[0-9a-fA-F]{0,4}:){2,7}[0-9a-fA-F.]*(?:%\w+)?(?![\w:])")
_LOCAL_NAME = re.compile(r"\b[\w-]+(?:\.[\w-]+)*\.(?:local|lan|home|internal|localdomain|intranet|corp)\b")


def text_of(checks: Sequence[Check], target, board: str | None) -> str:
    """The report as Markdown.

    Parameters
    ----------
    checks : sequence of Check
    target : targets.Target
    board : str, optional
        The user's address; the report has its kind only.
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
        "### This machine",
        "",
        "| | |",
        "|---|---|",
        *(f"| {name} | {value} |" for name, value in about),
        "",
        "### Results of doctor",
        "",
        *(
            f"- **{check.status}** {check.name}: {check.text}" + f" → {check.remedy}" * bool(check.remedy)
            for check in checks
        ),
    ]
    return anonymous("\n".join(lines), board) + "\n"


def anonymous(text: str, board: str | None = None) -> str:
    """A text without names of users and machines, addresses, and folders; the last part of a path stays.

    Parameters
    ----------
    board : str, optional
        The user's address, whose host is a machine's name.
    """
    for folder, name in _folders():
        text = re.sub(rf"{re.escape(folder)}(?![\w-])", name, text)
    text = re.sub(r"\b([a-z][a-z0-9+]*)://[^\s|]+", r"\1://...", text)
    text = _PATH.sub(".../", text)
    text = re.sub(r"[\w.+-]+@[\w.-]+", "USER@HOST", text)
    for address in (_IPV6, _IPV4, _LOCAL_NAME):
        text = address.sub("ADDRESS", text)
    for word, name in _names(board):
        text = re.sub(rf"(?<![A-Za-z0-9]){re.escape(word)}(?![A-Za-z0-9])", name, text, flags=re.IGNORECASE)
    return text


def _folders() -> list[tuple[str, str]]:
    """Folders whose names could identify a user or machine, the longest first."""
    package = os.sep.join(Path(__file__).parts[:-3]).replace("//", "/")
    known = {package: "PACKAGE", tempfile.gettempdir(): "TMP", str(Path.cwd()): ".", **dict.fromkeys(_homes(), "~")}
    known |= {os.path.realpath(folder): name for folder, name in known.items()}
    return sorted(((f, name) for f, name in known.items() if len(f) > 1), key=lambda pair: -len(pair[0]))


def _homes() -> list[str]:
    found = [os.path.expanduser("~")]
    with contextlib.suppress(ImportError, KeyError):
        import pwd

        found.append(pwd.getpwuid(os.getuid()).pw_dir)
    return found


def _names(board: str | None) -> list[tuple[str, str]]:
    """Names of users and machines, the longest first."""
    users = {_user(), *(os.environ.get(name, "") for name in ("USER", "LOGNAME", "SUDO_USER"))}
    users |= {os.path.basename(home) for home in _homes()}
    place = (board or "").partition("://")[2]
    hosts = {platform.node(), platform.node().partition(".")[0], *re.split(r"[@:/\[\]]", place.partition("/")[0])}
    known = {**dict.fromkeys(hosts, "HOST"), **dict.fromkeys(users - {"root"}, "USER")}
    return sorted(((word, name) for word, name in known.items() if len(word) > 1), key=lambda pair: -len(pair[0]))


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):
        return ""
