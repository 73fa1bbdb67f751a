"""Files that a user asked for by a flag: written whole or not at all."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from .errors import TvmMobilenetError


def write_whole(path: str | Path, content: str | bytes, flag: str) -> None:
    """Write a text (as UTF-8) or bytes under a temporary name beside it, then rename; folders are made.

    Raises
    ------
    TvmMobilenetError
        It cannot be written there; ``flag`` is what the user may change.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)
        os.replace(temporary, path)
    except OSError as e:
        raise TvmMobilenetError(f"cannot write {path}: {e.strerror}", f"choose another {flag}") from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()
