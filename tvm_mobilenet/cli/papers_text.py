"""The text of ``complexity --paper``: the papers' figures beside ours, and the papers' errata."""

from __future__ import annotations

from tvm_mobilenet.terminal.console import print_json, print_table, print_text


def show(paper: str | None, as_json: bool) -> int:
    """Print the figures of one paper or all beside ours. The exit code is 1 if a figure differs without a known
    reason."""
    from tvm_mobilenet.models import papers

    chosen = papers.figures(paper)
    shown = {f.paper for f in chosen}
    wrong = [f for f in chosen if not f.reproduced and not f.reason]
    if as_json:
        print_json(
            {
                "figures": [{**f.__dict__, "reproduced": f.reproduced} for f in chosen],
                "errata": [e for e in papers.errata() if e["paper"] in shown],
            }
        )
        return 1 if wrong else 0
    for paper in dict.fromkeys(f.paper for f in chosen):
        rows = [(f.table, f.row, _quantity(f.quantity), f.printed, *_judgement(f)) for f in chosen if f.paper == paper]
        title = f"\n{'arXiv ' + paper if paper[0].isdigit() else paper}"
        print_table(("table", "row", "quantity", "printed", "ours", ""), rows, title)
    print("\nerrata")
    for e in papers.errata():
        if e["paper"] in shown:
            place = f"{e['paper']} table {e['table']}, {e['row']}, {_quantity(e['quantity'])}"
            print_text(f"  {place}: {e['printed']}, ours {e['ours']}: {e['reason']}", 4)
    good = sum(f.reproduced for f in chosen)
    errata = len(chosen) - good - len(wrong)
    print(f"\n{good} of {len(chosen)} figures reproduced, {errata} errata, {len(wrong)} unexplained")
    return 1 if wrong else 0


def _judgement(f) -> tuple[str, str]:
    from tvm_mobilenet.models.papers import rounded

    if f.reproduced:
        return f.printed, ""
    return rounded(f.ours, "0.000"), "erratum" if f.reason else "DIFFERS"


def _quantity(name: str) -> str:
    in_millions = name in ("mult_adds", "parameters", "all_parameters")
    unit = ", M" if in_millions else ", %" if name.startswith("share_") else ""
    return name.removeprefix("share_").replace("_", "-") + unit
