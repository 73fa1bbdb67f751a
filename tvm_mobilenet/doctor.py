"""Check this machine and the way to a board, step by step; each failed check comes with its remedy.

python -m tvm_mobilenet.doctor
python -m tvm_mobilenet.doctor --target rpi4 --board tracker://shelf:9190/rpi4 --trust-network
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tvm_mobilenet.cli import entry, options
from tvm_mobilenet.diagnosis.checks import DOUBTFUL, FAILED, SKIPPED, Checks
from tvm_mobilenet.files.temporary import TemporaryFolder
from tvm_mobilenet.files.whole_file import journal_file, output_file, write_whole
from tvm_mobilenet.terminal import console
from tvm_mobilenet.terminal.printable import printable_lines


def doctor(
    target,
    *,
    board: str | None = None,
    log: Path = options.LOG,
    linker: str | None = None,
    show=lambda name: None,
    debug: bool = False,
) -> Checks:
    """Check this machine and the way to a board. The exit code is `Checks.code`, that of the first check that failed.

    Parameters
    ----------
    target : targets.Target
        The target of builds, which the board should match.
    board : str, optional
        An address for ``boards.open_board``; without one, or for the virtual board, only this machine is checked.
    log : path
        The user's tune log.
    linker : str, optional
        A linker to use instead of zig's.

    Raises
    ------
    TvmMobilenetError
        The board's address has no valid form.
    """
    from tvm_mobilenet.boards import address
    from tvm_mobilenet.diagnosis.local import check_local

    where = address.parse(board) if board else None
    checks = Checks(show, debug=debug)
    with TemporaryFolder() as folder:
        check_local(checks, target, log, linker, folder)
        if where and where.kind != "virtual":
            from tvm_mobilenet.diagnosis.board import check_board

            check_board(checks, where, target, folder)
    return checks


def print_result(checks: Checks) -> None:
    """Print a line for each check, with its remedy beneath."""
    width = max(len(c.name) for c in checks.found)
    for c in checks.found:
        console.print_text(f"{c.status:11}  {c.name:{width}}  {c.text}".rstrip(), 11 + width + 4)
        if c.remedy:  # not wrapped: it may be a command that a user copies
            print(f"{'':11}  {'':{width}}  -> {printable_lines(c.remedy)}")
    counts = {s: sum(c.status == s for c in checks.found) for s in (FAILED, SKIPPED, DOUBTFUL)}
    said = ", ".join(f"{n} {s.lower()}" for s, n in counts.items() if n)
    print(f"{len(checks.found)} checks: {said or 'all ok'}")


def parser() -> argparse.ArgumentParser:
    """The arguments of ``doctor``."""
    new = entry.parser_for("doctor", __doc__.split("\n")[0])
    options.add_target_options(new)
    new.add_argument(
        "--log",
        type=journal_file,
        metavar="FILE",
        default=str(options.LOG),
        help="your tune log (default: %(default)s)",
    )
    new.add_argument(
        "--report",
        type=output_file,
        metavar="FILE.md",
        help="also write a report for an issue, without names of people, machines or folders",
    )
    new.add_argument("--json", action="store_true", help="print one JSON document on stdout")
    return new


def _run(args: argparse.Namespace) -> int:
    target = options.load_target(args)
    if target is None:
        return 0
    checks = doctor(
        target,
        board=options.board_for(args, target) if args.board or args.trust_network else None,
        log=args.log,
        linker=args.linker,
        show=lambda name: console.say(f"{name} ...") if not console.is_plain(sys.stderr) else None,
        debug=args.debug,
    )
    if args.report:
        from tvm_mobilenet.diagnosis import report

        write_whole(args.report, report.text_of(checks.found, target, args.board), "--report")
        console.say(f"report: {args.report}; read it before you send it")
    if args.json:
        console.print_json({"target": target.name, "board": args.board, "checks": checks.found, "code": checks.code})
    else:
        print_result(checks)
    return checks.code


def main(argv: list[str] | None = None) -> int:
    return entry.run_verb(parser(), _run, argv)


if __name__ == "__main__":
    sys.exit(main())
