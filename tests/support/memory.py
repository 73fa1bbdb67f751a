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


@contextlib.contextmanager
def peak_below(more: int):
    """This process has so many bytes of memory more at most meanwhile: also where what asked for them was refused."""
    with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
        file.write("5")  # the peak is what there is now
    before = _status("VmRSS")
    yield
    assert _status("VmHWM") - before < more, f"{(_status('VmHWM') - before) >> 20:,} MiB more at the peak"


def _status(name: str) -> int:
    with open("/proc/self/status", encoding="ascii") as file:
        return next(int(line.split()[1]) << 10 for line in file if line.startswith(name))
