"""The pages: a link, a path or a flag on them that leads nowhere costs a reader the way."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
KINDS = ("tutorials", "guides", "concepts", "reference", "results", "journal")  # what a page may be
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
SOURCES = [
    path
    for folder in ("tvm_mobilenet", "schedules", "targets", "tune_logs", "benchmarks", "tests", "examples", ".ci")
    for path in (ROOT / folder).rglob("*")
    if path.suffix in (".py", ".toml", ".c", ".h", ".sh", "")
    and path.is_file()
    and path != Path(__file__)
    and "__pycache__" not in path.parts
]
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)|!\[[^\]]*\]\(([^)\s]+)\)")
NAMED = re.compile(r"(?<![\w/.-])docs/[\w/.-]+\.(?:md|svg)\b")


def without_code(text: str) -> str:
    """The page without its code: brackets of a program are no links."""
    return re.sub(r"`[^`\n]*`", "", re.sub(r"^```.*?^```", "", text, flags=re.S | re.M))


def anchors(text: str) -> set[str]:
    """Those of a page's headings, as GitHub and MkDocs make them."""
    headings = re.findall(r"^#+ +(.*?)\s*$", re.sub(r"^```.*?^```", "", text, flags=re.S | re.M), re.M)
    plain = [re.sub(r"[^\w\- ]", "", re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading.lower())) for heading in headings]
    return {heading.strip().replace(" ", "-") for heading in plain}


def broken(page: Path, text: str) -> list[str]:
    """The links of a page that lead nowhere."""
    found = []
    for match in LINK.finditer(without_code(text)):
        link = match[1] or match[2]
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        to = (page.parent / path).resolve() if path else page
        if not to.exists() or (anchor and to.suffix == ".md" and anchor not in anchors(to.read_text())):
            found.append(f"{page.relative_to(ROOT)}: {link}")
    return found


def test_links_between_pages_lead_somewhere():
    assert [link for page in PAGES for link in broken(page, page.read_text())] == []


@pytest.mark.parametrize("link", ["[a](nowhere.md)", "[a](guides/boards.md#nowhere)", "![a](nowhere.svg)", "[a](#no)"])
def test_a_broken_link_is_found(link):
    found = broken(ROOT / "docs" / "index.md", f"{link} [b](guides/boards.md) [c](guides/boards.md#ssh) `[d](no.md)`")
    assert len(found) == 1


def test_pages_that_code_and_messages_name_are_there():
    """A hint that names a page is the last thing a user reads before giving up."""
    found = []
    for path in [*SOURCES, *PAGES, ROOT / "pyproject.toml", ROOT / "constraints.txt"]:
        for name in NAMED.findall(path.read_text(encoding="utf-8", errors="replace")):
            if not (ROOT / name).exists() and "ncnn, " + name not in path.read_text(encoding="utf-8"):
                found.append(f"{path.relative_to(ROOT)}: {name}")
    assert found == []
