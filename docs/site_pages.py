"""Hooks of MkDocs: the navigation follows the folders, and the pages of verbs and of the API are generated.

Each page lies in the folder of its kind, and its title is its first heading: a new page needs no entry anywhere.
Generated pages are one for each verb, with its ``--help``, and the public API from its docstrings.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import os
from pathlib import Path

from mkdocs.structure.files import File

KINDS = {
    "tutorials": "Tutorials",
    "guides": "Guides",
    "concepts": "Concepts",
    "reference": "Reference",
    "results": "Results",
    "journal": "Journal",
}
FIRST = (
    "first-hour",
    "your-own-network",
    "camera",
    "int8-step-by-step",
    "detector",
    "faces",
    "installing",
    "boards",
    "bundle",
    "architecture",
    "api",
    "speed",
)


def on_config(config):
    """Order the pages by kind; in each kind the ones in ``FIRST`` come first, then the rest by name."""
    docs = Path(config.docs_dir)
    nav: list = ["index.md"]
    for folder, title in KINDS.items():
        pages = sorted(docs.glob(f"{folder}/*.md"), key=_place)
        entries: list = [str(page.relative_to(docs)) for page in pages]
        if folder == "reference":
            entries += ["reference/python.md", {"Verbs": [f"reference/verbs/{verb}.md" for verb in _verbs()]}]
        nav.append({title: entries})
    nav += [str(page.relative_to(docs)) for page in sorted(docs.glob("*.md")) if page.name != "index.md"]
    config.nav = nav
    return config


def on_files(files, config):
    """Add the generated pages."""
    made = {f"reference/verbs/{verb}.md": _verb(verb, summary) for verb, summary in _verbs().items()}
    made["reference/python.md"] = _python()
    for path, content in made.items():
        files.append(File.generated(config, path, content=content))
    return files


def _place(page: Path) -> tuple[int, str]:
    return (FIRST.index(page.stem) if page.stem in FIRST else len(FIRST)), page.stem


def _verbs() -> dict[str, str]:
    from tvm_mobilenet.cli.verbs import verbs

    return verbs()


def _verb(verb: str, summary: str) -> str:
    """A verb's page, from its ``--help`` in 100 columns."""
    module = importlib.import_module(f"tvm_mobilenet.{verb}")
    columns, os.environ["COLUMNS"] = os.environ.get("COLUMNS"), "100"
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
            module.main(["--help"])
    finally:
        os.environ.pop("COLUMNS")
        if columns is not None:
            os.environ["COLUMNS"] = columns
    return f"# {verb}\n\n{summary}\n\n```text\n{printed.getvalue().rstrip()}\n```\n"


def _python() -> str:
    """The public names of the package, each from its docstring."""
    import tvm_mobilenet

    lines = ["# Python, name by name", "", "[Python](api.md) describes their use.", ""]
    for name in tvm_mobilenet.__all__:
        if name.startswith("__"):
            continue
        value = getattr(tvm_mobilenet, name)
        where = getattr(value, "__qualname__", None)
        # Without a qualified name it is a verb's module that is also a function.
        path = f"{value.__module__}.{where}" if where else f"tvm_mobilenet.api.{name}"
        lines += [f"::: {path}", ""]
    return "\n".join(lines)
