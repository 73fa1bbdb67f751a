"""TVM without PyTorch, as a board has it.

TVM's FFI imports PyTorch wherever it finds it, and hands tensors over a little faster then. That takes three quarters
of the time in which TVM is imported, and 200 MB; what runs, measures or serves kernels has no use for it.
"""

from __future__ import annotations

import sys


def import_tvm() -> None:
    """Import TVM and its RPC, and PyTorch not with it; who needs PyTorch later imports it then.

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
