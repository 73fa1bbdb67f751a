"""Memory of this process, bounded for a while: what asks for more gets a MemoryError."""

import contextlib
import resource


@contextlib.contextmanager
def at_most(more: int):
    """So many bytes of address space beyond those that the process has."""
    with open("/proc/self/statm", encoding="ascii") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + more, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
