"""Import TVM without PyTorch, as on a board.

TVM's FFI imports PyTorch if it is installed, to pass its tensors a little faster. That takes three quarters of the time
of importing TVM, and 200 MB. Code that runs, measures or serves kernels does not need it.
"""

from __future__ import annotations

import sys


def import_tvm() -> None:
    """Import TVM and its RPC without PyTorch, which can still be imported later.

    Call it before there are threads that import.
    """
    hidden = not {"torch", "tvm_ffi"} & set(sys.modules)
    if hidden:
        sys.modules["torch"] = None  # an import of it fails as if it were not installed
    try:
        import tvm.rpc  # noqa: F401
    finally:
        if hidden:
            del sys.modules["torch"]
