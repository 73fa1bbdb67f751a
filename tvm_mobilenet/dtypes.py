"""Element types as data, which schedules, passes, plans and checks read instead of literals.

A ``DType`` is one row of ``DTYPES``. Code passes the name, which is that of numpy, TVM and Relax, and gets the other
fields from ``of``.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class DType:
    """One element type.

    Parameters
    ----------
    name : str
        The name in numpy, TVM and Relax.
    token : str
        The name in names of layers.
    bytes : int
        Size of one element.
    accumulator, bias : str
        The dtypes in which products of such elements are summed, and in which a layer of such data has its bias.
    wide : str
        The dtype of values that need more digits: the sums of pools and softmax, exponentials and divisions.
    lowest : float
        The lowest finite value.
    rounding : float
        The largest rounding error of a value of magnitude 1: half of its last digit; 0 for integers.
    smallest : float
        Smaller values lose digits, and are often flushed to zero; 0 for integers.
    data : bool
        Whether a layer can compute in it; other dtypes are those of sums, or of values between generic layers.
    read : bool
        Whether a layer that computes in another dtype may read or write it.
    fused : bool
        Whether products are added by an explicit fused multiply-add, so that every build rounds alike; otherwise LLVM
        decides.
    chunk : int
        The number of products that a layer with wide sums first sums in its own dtype; 0 if there is no wide dtype.
    """

    name: str
    token: str
    bytes: int
    accumulator: str
    bias: str
    wide: str
    lowest: float
    rounding: float = 0.0
    smallest: float = 0.0
    data: bool = True
    read: bool = True
    fused: bool = False
    chunk: int = 0

    @property
    def input_end(self) -> float:
        """The largest magnitude of an input that layers of this dtype accept. With larger inputs their sums may
        overflow, and later layers may hide that (the maximum of NaN and 0 is 0). For float32 this leaves layers a
        factor of 1e20.
        """
        return min(-self.lowest, _FAR)

    @property
    def integer(self) -> bool:
        """Whether values are integers."""
        return not self.rounding


_FAR = 1e18

DTYPES = {
    dtype.name: dtype
    for dtype in (
        DType("float32", "f32", 4, *("float32",) * 3, -(2.0 - 2.0**-23) * 2.0**127, 2.0**-24, 2.0**-126),
        DType(
            *("float16", "f16", 2, "float16", "float16", "float32", -65504.0, 2.0**-11, 2.0**-14),
            fused=True,
            chunk=64,
        ),
        DType(
            *("float64", "f64", 8, *("float64",) * 3, -(2.0 - 2.0**-52) * 2.0**1023, 2.0**-53, 2.0**-1022),
            data=False,
            read=False,
        ),
        DType("int8", "i8", 1, *("int32",) * 3, -128),
        DType("uint8", "u8", 1, *("int32",) * 3, 0, data=False),
        DType("int16", "i16", 2, *("int32",) * 3, -(2**15), data=False, read=False),
        DType("uint16", "u16", 2, *("int32",) * 3, 0, data=False, read=False),
        DType("int32", "i32", 4, *("int32",) * 3, -(2**31), data=False, read=False),
        DType("uint32", "u32", 4, *("uint32",) * 3, 0, data=False, read=False),
        DType("int64", "i64", 8, *("int64",) * 3, -(2**63), data=False, read=False),
        DType("uint64", "u64", 8, *("uint64",) * 3, 0, data=False, read=False),
        DType("bool", "b8", 1, *("bool",) * 3, 0, data=False, read=False),
    )
}
DLPACK_CODES = {"i": 0, "u": 1, "f": 2, "b": 6}  # by numpy's kinds of numbers
OF_DATA = tuple(name for name, dtype in DTYPES.items() if dtype.data)
READ = tuple(name for name, dtype in DTYPES.items() if dtype.read)
BY_TOKEN = {dtype.token: dtype for dtype in DTYPES.values()}


def of(name: str) -> DType:
    """The facts of a dtype.

    Raises
    ------
    ValueError
        No row of ``DTYPES`` has this name.
    """
    if name not in DTYPES:
        raise ValueError(f"dtype {name!r}: known are {', '.join(DTYPES)}")
    return DTYPES[name]
