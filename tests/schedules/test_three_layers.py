"""A schedule has three layers: the loop nest, the space of its choices, and which of them an untuned build takes.

Only the first makes code. So a better estimate expires no record, and what a record's sources cover is what matters.
"""

import ast

import pytest

from tests.test_arrows import ROOT, imports, modules
from tvm_mobilenet import kinds

SCHEDULES = ROOT / "schedules"
PACKAGE = "tvm_mobilenet.schedules"
NESTS = sorted([*SCHEDULES.glob("*.py"), *(SCHEDULES / "in_order").glob("*.py")])


def outside_of_decisions(source: str) -> list[str]:
    """Uses of a space or of defaults by anything but ``decisions``, which no kernel calls."""
    tree, names = ast.parse(source), set()
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and node.module in (f"{PACKAGE}.spaces", f"{PACKAGE}.defaults"):
            names |= {alias.asname or alias.name for alias in node.names}
    rest = [node for node in tree.body if not (isinstance(node, ast.FunctionDef) and node.name == "decisions")]
    used = (node for part in rest for node in ast.walk(part) if isinstance(node, ast.Name) and node.id in names)
    return [f"line {node.lineno}: {node.id}" for node in used]


@pytest.mark.parametrize("path", NESTS, ids=lambda path: path.stem)
def test_no_kernel_depends_on_a_default(path):
    assert not outside_of_decisions(path.read_text())


def test_a_kernel_that_depends_on_one_is_found():
    source = f"from {PACKAGE}.spaces import conv as space\ndef decisions(): space.a\ndef kernel():\n    space.b"
    assert outside_of_decisions(source) == ["line 4: space"]


@pytest.mark.parametrize("layer, may", [("spaces", set()), ("defaults", {"spaces"})])
def test_spaces_know_no_defaults_and_neither_knows_a_nest(layer, may):
    known = modules()
    nests = {f"{PACKAGE}.{kind.schedule}" for kind in kinds.every()}
    others = {f"{PACKAGE}.{name}" for name in {"spaces", "defaults"} - {layer} - may}
    for path in (SCHEDULES / layer).glob("*.py"):
        module = f"{PACKAGE}.{layer}.{path.stem}"
        found = imports(ast.parse(path.read_text()), module, known)
        assert not [name for name in found if name in nests or name.startswith(tuple(f"{o}." for o in others))], module


def test_every_figure_of_a_schedule_says_what_it_is():
    """What was measured on a core belongs into its file; what stays here has a sentence that says why."""
    missing = []
    compiler = ROOT / "tvm_mobilenet" / "compiler"
    for path in [*SCHEDULES.rglob("*.py"), compiler / "fuse_blocks.py", compiler / "row_pitch.py"]:
        lines = path.read_text().splitlines()
        for node in ast.parse("\n".join(lines)).body:
            number = isinstance(node, ast.Assign) and any(
                isinstance(part, ast.Constant) and type(part.value) in (int, float) for part in ast.walk(node.value)
            )
            if number and isinstance(node.targets[0], ast.Name) and node.targets[0].id.isupper():
                near = lines[max(0, node.lineno - 4) : node.end_lineno]
                if not any("#" in line for line in near):
                    missing.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert not missing
