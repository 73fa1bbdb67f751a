"""tvm_mobilenet makes a MobileNet run as fast as the silicon allows on a Raspberry Pi.

Importing this package imports neither torch nor tvm: both cost seconds, and a board has no torch.
"""

import os
import sys
from pathlib import Path

__version__ = "0.1.0"

# ONNX Runtime would keep a device id in the user's cache and look up its maker's host: nobody asked for that.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

# In a plain checkout `schedules`, `targets` and `tune_logs` lie beside this package; installed, they lie in it.
# Extending the path makes `tvm_mobilenet.schedules` the one name under which they are ever imported.
_checkout = Path(__file__).resolve().parent.parent
if (_checkout / "schedules" / "__init__.py").is_file() and (_checkout / "pyproject.toml").is_file():
    __path__.append(str(_checkout))

if sys.argv[:1] == ["-m"]:
    from tvm_mobilenet import packages

    packages.started_as_a_verb()
