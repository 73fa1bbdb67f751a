"""Text of others as it may go to a terminal: whatever would move the cursor, colour, or hide is written out."""

from __future__ import annotations

import re

# C0 and C1 controls; marks and isolates that turn the direction of text; separators of lines; lone surrogates
_CONTROL = "\x00-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff\ufff9-\ufffb\ud800-\udfff"
_NAME = re.compile(f"[{_CONTROL}\U000e0000-\U000e007f]")
_LINES = re.compile(f"(?![\n\t])[{_CONTROL}\U000e0000-\U000e007f]")


def printable(text: str) -> str:
    """A name on one line: ``a\\x1b[2Jb`` with a backslash in place of the escape character."""
    return _NAME.sub(_written, text)


def printable_lines(text: str) -> str:
    """The same, with line breaks and tabs as they are."""
    return _LINES.sub(_written, text)


def _written(match: re.Match) -> str:
    code = ord(match[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
