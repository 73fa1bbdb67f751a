"""Make untrusted text safe for a terminal: characters that move the cursor, colour or hide text are escaped."""

from __future__ import annotations

import re

# C0 and C1 controls; marks and isolates that turn the direction of text; separators of lines; lone surrogates
_CONTROL = "\x00-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff\ufff9-\ufffb\ud800-\udfff"
_NAME = re.compile(f"[{_CONTROL}\U000e0000-\U000e007f]")
_LINES = re.compile(f"(?![\n\t])[{_CONTROL}\U000e0000-\U000e007f]")


def printable(text: str) -> str:
    """A name on one line, with control characters escaped, such as ``a\\x1b[2Jb``."""
    return _NAME.sub(_written, text)


def printable_lines(text: str) -> str:
    """The same, but line breaks and tabs are kept."""
    return _LINES.sub(_written, text)


def _written(match: re.Match) -> str:
    code = ord(match[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
