"""Copy a bundle to boards, test it there, and only then switch to it.

On the board a folder holds ``versions/0001-<build>``, ``versions/0002-<build>``, … and the link ``current``. A shipment
unpacks the new version beside the others, hashes its files and runs its self-test on the board. If all of that succeeds
and the files are on the disk, it replaces the link in one step (bundle/install.sh). A failure before that step leaves
the old version in place. If a shipment is killed, the next one removes the files that it left.

    python -m tvm_mobilenet.ship --bundle out.tar.gz --to ssh://pi@pi4/srv/mobilenet --to ssh://pi@pi5/srv/mobilenet

With ``--require-signature`` this machine checks who signed the bundle; a board that has ssh-keygen checks it again.
The board needs sh, tar, sha256sum and the usual coreutils.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from urllib.parse import unquote, urlsplit

from tvm_mobilenet.bundle.signature import Signers
from tvm_mobilenet.cli import entry
from tvm_mobilenet.cli.flags import refuse
from tvm_mobilenet.errors import BoardError, MissingDependencyError, TvmMobilenetError, reason
from tvm_mobilenet.files import programs, reading
from tvm_mobilenet.terminal import console
from tvm_mobilenet.terminal.table import Words

KEEP = 3
_LOST = 255  # ssh's own exit code
_INSTALL, _ROLLBACK = "install.sh", "rollback.sh"  # scripts that the board's shell runs
_TESTED, _GO = b"tested", b"switch\n"  # install.sh writes the first, then waits for the second
_SIGNED = "signature checked"
_UNREACHED = r"Could not resolve|connect to host"  # in ssh's words
_HINTS = (
    (r"No space left", "free some space there, or ship with a smaller --keep"),
    (r"Read-only file system|Permission denied$", "choose a folder that can be written to"),
    (r"^signature: ", "the board finds the signer not allowed at this time: is its clock right?"),
    (r"Exec format error|cannot execute|not found$", "the board has another architecture: build with its --target"),
    (r"connect to host .*refused", "is sshd running there, and the port right?"),
    (_UNREACHED, "is the board on, and its name right?"),
    (r"this CPU has no", "build for this board's own --target, or with --target arm"),
    (
        r"connection broke|closed by remote|Connection (reset|refused|timed out)|Broken pipe",
        "ship again; `current` is whole, old or new",
    ),
    (r"Permission denied \(|Host key", "ssh must log in without questions: try `ssh HOST true` first"),
)


_COPY = re.compile(r"([\w.-]+@)?[\w.-]+:.*")  # an address in scp's form, such as pi@pi4:/srv, and no local folder


def _of_ssh(text: str) -> str:
    host, _, folder = text.partition(":")
    return f"ssh://{host}/{folder.lstrip('/') or 'FOLDER'}; a folder of this machine with such a name: ./{text}"


@dataclass(frozen=True)
class Shipped:
    """The outcome of shipping to one board.

    Attributes
    ----------
    version : str
        The folder to which ``current`` points now; empty if the link was not switched.
    selftest : str
        The line that the self-test printed on the board.
    signature : str
        Who signed the bundle and where that was checked; empty without ``--require-signature``.
    error : str
        Why the link was not switched; empty after success.
    """

    to: str
    version: str
    selftest: str
    error: str = ""
    signature: str = ""

    @property
    def ok(self) -> bool:
        return not self.error

    def __str__(self) -> str:
        signed = f"; signature {self.signature}" if self.signature else ""
        return f"{self.to}: {self.version}, {self.selftest}{signed}" if self.ok else f"{self.to}: {self.error}"


@dataclass(frozen=True)
class Destination:
    """A folder on this machine or behind ssh.

    Parameters
    ----------
    text : str
        As the user gave it: a path, or ``ssh://user@host:port/path``.
    command : tuple of str
        The command that runs a shell there; the script is appended.
    folder : str
        Absolute, on the board.
    """

    text: str
    command: tuple[str, ...]
    folder: str

    @classmethod
    def parse(cls, text: str, ssh: str = "ssh") -> Destination:
        """Parse a value of ``--to``.

        Raises
        ------
        TvmMobilenetError
            The value is neither a path nor an ssh address.
        """
        if "://" not in text:
            if _COPY.fullmatch(text):
                raise TvmMobilenetError(f"--to {text} is an address of scp's", _of_ssh(text))
            return cls(text, (), str(Path(text).resolve()))
        try:
            url = urlsplit(text)
            host, port = url.hostname, url.port
        except ValueError as e:
            raise TvmMobilenetError(f"--to {text}: {reason(e)}", "ssh://user@host/folder") from None
        folder = unquote(url.path).rstrip("/")
        if (
            url.scheme != "ssh"
            or not host
            or not folder
            or host.startswith("-")
            or (url.username or "").startswith("-")
        ):
            raise TvmMobilenetError(
                f"--to {text} is not a folder on a board", "ssh://user@host/folder, or a local folder"
            )
        options = (
            "-o",
            "BatchMode=yes",
            "-o",
            "ConnectTimeout=10",
            "-o",
            "ServerAliveInterval=5",
            "-o",
            "ServerAliveCountMax=3",
        )
        port = ("-p", str(port)) if port else ()
        return cls(
            text, (*shlex.split(ssh), *options, *port, f"{url.username}@{host}" if url.username else host), folder
        )

    def run(self, script: str, *arguments: str, data: bytes = b"", timeout: float = 600, reply=None) -> str:
        """Run a script there with the folder as ``$1``, and return its output; ``reply`` is as for `programs.run`.

        Raises
        ------
        BoardError
            The script failed or took too long, or the connection was lost.
        """
        words = ["sh", "-c", script, "ship", self.folder, *arguments]
        command = [*self.command, shlex.join(words)] if self.command else words
        try:
            done = programs.run(command, data, timeout, reply)
        except subprocess.TimeoutExpired:
            raise BoardError(
                f"{self.text}: no answer within {timeout:.0f} s", "ship again; `current` is whole, old or new"
            ) from None
        except OSError as e:
            raise BoardError(f"{self.text}: {reason(e)}", "ssh must be installed here") from None
        except programs.TooMuch:
            raise BoardError(f"{self.text}: its output does not end", "does `ssh HOST true` print much?") from None
        out, words = done.out.strip(), done.words.strip()
        if done.code:
            what = "\n".join(filter(None, (out, words))) or f"exit code {done.code}"
            if done.code == _LOST and self.command:
                what = f"{'no connection' if re.search(_UNREACHED, what) else 'connection lost'}: {what}"
            hint = next(
                (h for pattern, h in _HINTS if re.search(pattern, what, re.MULTILINE)),
                "`current` is unchanged: an older version, or none yet",
            )
            raise BoardError(f"{self.text}: {what[-600:]}", hint)
        return out


def _script(name: str) -> str:
    return (resources.files("tvm_mobilenet.bundle") / name).read_text(encoding="utf-8")


def ship(
    bundle,
    to: Destination,
    *,
    keep: int = KEEP,
    threads: int | None = None,
    runner: str = "",
    signers: Signers | None = None,
) -> Shipped:
    """Ship one bundle to one board.

    Parameters
    ----------
    bundle : bundle.Bundle
    to : Destination
    keep : int
        Number of versions that stay on the board, with the new one.
    threads : int, optional
        Threads of the self-test.
    runner : str
        A command that runs the program there, such as an emulator; none by default.
    signers : Signers, optional
        The allowed signers, with which ``bundle`` was read. A board that has ssh-keygen checks the signature again.

    Returns
    -------
    Shipped
        If the board fails, nothing is raised; ``error`` says why.
    """
    data, known = bundle.archive(), {name: entry["sha256"] for name, entry in bundle.manifest["files"].items()}
    others = {name: hashlib.sha256(bundle.files[name]).hexdigest() for name in bundle.files.keys() - known.keys()}
    sums = "".join(f"{digest}  {name}\n" for name, digest in sorted({**known, **others}.items()))
    about = (str(len(data)), sums, bundle.manifest["id"])
    asked = (str(keep), str(threads or ""), runner, signers.text if signers else "", bundle.signer)
    try:
        said = to.run(_script(_INSTALL), *about, *asked, data=data, reply=(_TESTED, _GO))
    except BoardError as e:
        return Shipped(to.text, "", "", str(e))
    *tested, version = (line for line in said.splitlines() if line != _TESTED.decode())
    there = _SIGNED in tested
    signature = f"of {bundle.signer}, checked here" + " and there" * there if signers else ""
    return Shipped(to.text, version, "\n".join(line for line in tested if line != _SIGNED), "", signature)


def rollback(to: Destination) -> Shipped:
    """Switch one board to the version before the current one."""
    try:
        return Shipped(to.text, to.run(_script(_ROLLBACK), timeout=60), "rolled back")
    except BoardError as e:
        return Shipped(to.text, "", "", str(e))


def require_programs(places: Iterable[Destination]) -> None:
    """Make sure that the programs that reach boards are installed.

    Raises
    ------
    MissingDependencyError
        One of them is not installed.
    """
    for place in places:
        if place.command and not shutil.which(place.command[0]):
            raise MissingDependencyError(
                f"{place.command[0]} is not installed here", "install openssh-client, or name another with --ssh"
            )


def tell_local(places: Iterable[Destination]) -> None:
    """Say which destinations are folders of this machine, since a board's name without ``ssh://`` is read as one."""
    for place in places:
        if not place.command:
            console.say(
                f"note: {place.text} is a folder of this machine: {place.folder}; a board is ssh://USER@HOST/FOLDER"
            )


def print_result(results: list[Shipped]) -> None:
    """Print a table with a row for each board."""
    signed = any(r.signature for r in results)
    console.print_table(
        ("board", "current", *((Words("signature"),) * signed), Words("self-test")),
        [
            (
                r.to,
                r.version or "unchanged",
                *((r.signature or "-",) * signed),
                r.selftest or "FAILED: " + r.error.replace("\n", " "),
            )
            for r in results
        ],
    )


def parser() -> argparse.ArgumentParser:
    """The arguments of ``ship``."""
    new = entry.parser_for("ship", __doc__.split("\n")[0])
    new.add_argument("--bundle", type=Path, metavar="FILE", help="file that `build --bundle` wrote")
    new.add_argument(
        "--to",
        action="append",
        required=True,
        metavar="ssh://USER@HOST/FOLDER|FOLDER",
        help="where to copy it; give the flag again for more boards",
    )
    new.add_argument("--rollback", action="store_true", help="return to the version before")
    new.add_argument(
        "--keep", type=int, default=KEEP, metavar="N", help="number of versions that stay there (default: %(default)s)"
    )
    new.add_argument(
        "--require-signature",
        type=Path,
        metavar="KEY",
        help="ship only a bundle that `build --sign` signed with this public key, or with a key of a file of allowed "
        "signers",
    )
    new.add_argument("--threads", type=int, metavar="N", help="threads of the self-test (default: one for each CPU)")
    new.add_argument(
        "--ssh", default="ssh", metavar="COMMAND", help="ssh command with options of your own (default: %(default)s)"
    )
    new.add_argument(
        "--runner", default="", metavar="COMMAND", help="command that runs the program there, such as an emulator"
    )
    new.add_argument("--json", action="store_true", help="print one JSON document on stdout")
    return new


def _run(args: argparse.Namespace) -> int:
    if bool(args.bundle) == args.rollback:
        raise TvmMobilenetError(
            "either --bundle FILE or --rollback", "python -m tvm_mobilenet.build --bundle FILE makes one"
        )
    if args.rollback:
        copying = ("--keep", "--threads", "--runner", "--require-signature")
        refuse(args, copying, "--rollback copies and tests nothing", "leave it out")
    if args.keep < 1:
        raise TvmMobilenetError(f"--keep {args.keep}: at least the new version stays", "give 1 or more")
    if not any(text.startswith("ssh://") for text in args.to):
        refuse(args, ("--ssh",), "no --to is behind ssh", "leave it out, or --to ssh://USER@HOST/FOLDER")
    places = [Destination.parse(text, args.ssh) for text in args.to]
    require_programs(places)
    tell_local(places)
    if args.rollback:
        one = rollback
    else:
        if not args.bundle.is_dir() and (why := reading.refusal(args.bundle)):
            hint = "python -m tvm_mobilenet.build --bundle FILE makes one"
            raise TvmMobilenetError(f"{args.bundle} is not a whole bundle: {why}", hint)
        from tvm_mobilenet.bundle import pack as bundle

        signers = Signers.read(args.require_signature) if args.require_signature else None
        whole = bundle.read(args.bundle, signers)

        def one(to: Destination) -> Shipped:
            return ship(whole, to, keep=args.keep, threads=args.threads, runner=args.runner, signers=signers)

    with ThreadPoolExecutor(min(16, len(places))) as pool:
        results = list(pool.map(one, places))
    console.print_json(results) if args.json else print_result(results)
    return 0 if all(r.ok for r in results) else BoardError.exit_code


def main(argv: list[str] | None = None) -> int:
    return entry.run_verb(parser(), _run, argv)


if __name__ == "__main__":
    sys.exit(main())
