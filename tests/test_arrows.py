"""The picture of docs/concepts/architecture.md, held against the imports: nothing runs against its arrows."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
# From the left to the right. A room imports from itself and from rooms of earlier lines; rooms of one line, only from
# themselves. What is imported for annotations alone does not count.
ORDER = (
    ("errors", "dtypes", "old_words"),
    ("kinds",),
    ("layer", "system"),
    ("packages", "terminal", "files"),
    ("targets", "report", "runtime"),
    ("schedules", "models"),
    ("tune_logs",),
    ("frontend",),
    ("passes",),
    ("compiler",),
    ("boards",),
    ("checking",),
    ("peers", "bundle", "tuning"),
    ("measuring", "cluster"),
    ("diagnosis", "survey"),
    ("evaluation",),
    ("cli",),
    ("verbs",),
)
RANK = {room: rank for rank, rooms in enumerate(ORDER) for room in rooms}
TOP = ("tvm_mobilenet", "schedules", "targets", "tune_logs")


def modules() -> dict[str, Path]:
    found = {}
    for path in sorted(path for folder in TOP for path in (ROOT / folder).rglob("*.py")):
        parts = list(path.relative_to(ROOT).with_suffix("").parts)
        parts = parts if parts[0] == "tvm_mobilenet" else ["tvm_mobilenet", *parts]
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def room(module: str, known: dict[str, Path]) -> str:
    """The folder of a module; of those at the top their own name, or ``verbs``."""
    parts = module.split(".")
    if len(parts) == 1:
        return "packages"  # the package itself: its version, and what it needs to start
    if len(parts) > 2 or known[module].name == "__init__.py":
        return parts[1]
    return "verbs" if parts[1] not in RANK else parts[1]


def imports(tree: ast.AST, module: str, known: dict[str, Path]) -> set[str]:
    """The modules of this package that a source imports when it runs."""
    found = set()
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "tvm_mobilenet":
            names = (f"{node.module}.{alias.name}" for alias in node.names)
            found |= {name if name in known else node.module for name in names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name in known}
        found |= imports(node, module, known)
    return found


def against(sources: dict[str, str], known: dict[str, Path]) -> list[str]:
    """The imports that run against an arrow."""
    found = []
    for module, source in sources.items():
        here = room(module, known)
        for other in sorted(imports(ast.parse(source), module, known)):
            there = room(other, known)
            if here != there and RANK[there] >= RANK[here]:
                found.append(f"{module} ({here}) imports {other} ({there})")
    return found


def test_nothing_is_imported_against_the_arrows():
    known = modules()
    assert not against({module: path.read_text() for module, path in known.items()}, known)


def test_every_room_is_in_the_picture():
    known = modules()
    assert {room(module, known) for module in known} == set(RANK)


@pytest.mark.parametrize(
    "module, source",
    [
        ("tvm_mobilenet.schedules.pool", "from tvm_mobilenet.compiler import plan"),
        ("tvm_mobilenet.boards.comparison", "def f():\n    from tvm_mobilenet.checking import tolerance"),
        ("tvm_mobilenet.compiler.plan", "import tvm_mobilenet.tune"),
        ("tvm_mobilenet.terminal.table", "from tvm_mobilenet.files import whole_file"),
    ],
)
def test_an_import_against_them_is_found(module, source):
    assert against({module: source}, modules())


def test_imports_for_annotations_do_not_count():
    source = "if TYPE_CHECKING:\n    from tvm_mobilenet import tune"
    assert not against({"tvm_mobilenet.schedules.pool": source}, modules())
