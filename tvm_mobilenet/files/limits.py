"""How large the parts of a model's file may be. A file is refused before memory or time is spent on it.

The files of the largest MobileNets need at most a tenth of each: v3-large as ONNX 350 nodes, v1 at width 4 has weights
of 260 MB.
"""

from __future__ import annotations

from tvm_mobilenet.errors import TvmMobilenetError

MOST_NODES = 5_000
MOST_NAME = 1_000  # characters of a name
MOST_MEMBERS = 20_000  # members of an archive
MOST_JSON_BYTES = 64 << 20
MOST_CONSTANT_BYTES = 64 << 20  # bytes of a constant that is computed or broadcast, not stored
MOST_TENSOR_BYTES = 1 << 30  # bytes of any value between layers
MOST_RANK = 16
MOST_EXPANSION = 8  # bytes unpacked for each byte of an archive
_FREE = 16 << 20  # size to which any archive may unpack


def check_unpacked(unpacked: int, packed: int, path) -> None:
    """Refuse an archive that unpacks to far more than its size.

    Raises
    ------
    TvmMobilenetError
        The archive would; the message has both sizes.
    """
    if unpacked > MOST_EXPANSION * packed + _FREE:
        raise TvmMobilenetError(
            f"{path} has {packed:,} bytes and would unpack to {unpacked:,}",
            "models and weights are hardly compressible",
        )


def check_tensor(elements: int, item_bytes: int, what: str) -> None:
    """Refuse a value of a graph that is too large for any board's memory.

    Raises
    ------
    TvmMobilenetError
        It is too large; the message names ``what``.
    """
    if elements * item_bytes > MOST_TENSOR_BYTES:
        raise TvmMobilenetError(
            f"{what} would take {elements * item_bytes / 2**20:,.0f} MiB; the limit is {MOST_TENSOR_BYTES >> 20:,} MiB",
            "give a smaller --batch or --resolution, or export the model for smaller images",
        )


def check_constant(size: int, stored: int, what: str) -> None:
    """Refuse a computed constant that is many times as large as the constants from which it follows.

    Parameters
    ----------
    size, stored : int
        Bytes of the value, and of the largest constant from which it is made.
    what : str
        The value, for the message.

    Raises
    ------
    TvmMobilenetError
        It is large and not stored.
    """
    if size > max(4 * stored, MOST_CONSTANT_BYTES):
        raise TvmMobilenetError(
            f"{what} would be a constant of {size / 2**20:,.0f} MiB, made of {stored / 2**20:,.1f} MiB",
            "export the model again: no exporter writes such a constant",
        )
