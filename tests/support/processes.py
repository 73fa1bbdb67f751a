"""Code that must not depend on the process that makes it."""

import subprocess
import sys


def printed_everywhere(code: str) -> set[str]:
    """What some code prints in processes that hash differently, without torch: one thing, if it is the same in all."""
    alone = "from tvm_mobilenet import packages; packages.import_tvm(); "
    return {
        subprocess.run(
            [sys.executable, "-c", alone + code],
            capture_output=True,
            text=True,
            check=True,
            env={"PYTHONHASHSEED": seed, "PATH": ""},
        ).stdout
        for seed in ("1", "2")
    }
