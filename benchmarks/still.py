"""Draw README's still, a verb's terminal output as SVG.

    python -m benchmarks.still            # draws docs/assets/tune.svg from benchmarks/data/tune.txt
    python -m benchmarks.still --again    # first runs the command in a terminal of 80 columns and records its output

Only the result on stdout is recorded; progress goes to this terminal's stderr. The first line of the record is the
command.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import pty
import re
import shlex
import struct
import subprocess
import sys
import tempfile
import termios
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import TerminalTheme
from rich.text import Text

ROOT = Path(__file__).resolve().parents[1]
KEPT = Path(__file__).parent / "data" / "tune.txt"
STILL = ROOT / "docs" / "assets" / "tune.svg"
COLUMNS = 80
COMMAND = "python -m tvm_mobilenet.tune --target rpi4 --trials 3"
THEME = TerminalTheme(
    (13, 17, 23),
    (230, 237, 243),
    [
        (72, 79, 88),
        (255, 123, 114),
        (63, 185, 80),
        (210, 153, 34),
        (88, 166, 255),
        (188, 140, 255),
        (57, 197, 207),
        (177, 186, 196),
    ],
)


def record(command: str) -> str:
    """Standard output of a command on a terminal, with colours; the exit code must be 0."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 60, COLUMNS, 0, 0))
    environment = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "COLUMNS", "LINES")}
    environment |= {"TERM": "xterm-256color", "PYTHONPATH": str(ROOT)}
    with tempfile.TemporaryDirectory(prefix="still-") as folder:  # a new place for `out`, without earlier records
        words = [sys.executable, *shlex.split(command)[1:]]
        process = subprocess.Popen(words, stdout=slave, cwd=folder, env=environment)
        os.close(slave)
        found = b""
        while True:
            try:
                piece = os.read(master, 65536)
            except OSError:  # the last process of the terminal has ended
                break
            if not piece:
                break
            found += piece
        os.close(master)
        if process.wait():
            raise SystemExit(f"{command}: exit code {process.returncode}")
    return found.decode().replace("\r\n", "\n")


def draw(kept: str) -> str:
    """The picture: the command and its output, in the reader's own fonts."""
    command, _, printed = kept.partition("\n")
    console = Console(record=True, width=COLUMNS, file=open(os.devnull, "w"), force_terminal=True)  # noqa: SIM115
    with console.file:
        console.print(Text(f"$ {command}", style="bold"))
        console.print(Text.from_ansi(printed.rstrip("\n")), end="\n\n")  # the last line would be cut by its frame
        svg = console.export_svg(title="tvm_mobilenet", theme=THEME, unique_id="still")
    svg = re.sub(r"@font-face \{.*?\}\s*|<!--.*?-->\s*", "", svg, flags=re.S)
    return svg.replace("Fira Code, monospace", "monospace")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.still", description=__doc__.split("\n")[0])
    parser.add_argument("--again", action="store_true", help=f"run `{COMMAND}` first")
    if parser.parse_args(argv).again:
        KEPT.write_text(f"{COMMAND}\n{record(COMMAND)}", encoding="utf-8")
    STILL.write_text(draw(KEPT.read_text(encoding="utf-8")), encoding="utf-8")
    print(STILL.relative_to(ROOT))
    return 0


if __name__ == "__main__":
    sys.exit(main())
