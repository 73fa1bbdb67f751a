"""What all tests share: one thread a process, the checkout on the path of every process that a test starts, and random
examples that are the same in every run."""

import os
import sys
from pathlib import Path

from hypothesis import HealthCheck, settings

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("NO_COLOR", "1")

ROOT = Path(__file__).resolve().parent.parent
# `python -m pytest` has the checkout on its path already, `pytest` has not; and processes that tests start need it too.
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))

# `pytest --hypothesis-profile search` draws new examples: for looking for bugs, not for judging a change.
_EVERY_RUN = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow, HealthCheck.filter_too_much,
                                                          HealthCheck.data_too_large]}
settings.register_profile("fixed", derandomize=True, database=None, **_EVERY_RUN)
settings.register_profile("search", **_EVERY_RUN)
settings.load_profile("fixed")
