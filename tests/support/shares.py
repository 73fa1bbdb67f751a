"""Large tables of cases: the full run takes some of their groups, always the same ones.

``TVM_MOBILENET_OPERATORS=all`` has it take all of them.
"""

import os
from collections.abc import Iterable

ALL = os.environ.get("TVM_MOBILENET_OPERATORS") == "all"


def share(groups: Iterable, every: int) -> list:
    """Each ``every``-th group from the first on, or all of them."""
    return list(groups)[:: 1 if ALL else every]
