"""The facts of a board (model, CPU, memory, versions) and its present state (clock, temperature, throttling).

They are read from /proc, /sys and the device tree, and from the Raspberry Pi's ``vcgencmd`` if there is one. A fact
that the system does not tell is None or empty, never guessed. The module needs only the standard library.

Throttling: a Raspberry Pi's firmware keeps a word of flags (``vcgencmd get_throttled``, documented at
raspberrypi.com/documentation/computers/os.html#get_throttled; newer kernels have it in sysfs as well). On other
machines Linux shows throttling by active cooling devices of the CPU, and on x86 by counters of events.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from importlib import metadata
from pathlib import Path

from tvm_mobilenet import __version__
from tvm_mobilenet.targets import cpu

ROOT = Path("/")  # tests set their own tree here
FLAGS = {  # bits of get_throttled; each bit plus 16 says the same "since boot"
    0: "under-voltage",
    1: "clock capped",
    2: "throttled",
    3: "soft temperature limit",
}
SINCE_BOOT = 16


def facts(request: dict | None = None) -> dict:
    """The facts of this machine.

    Returns
    -------
    dict
        ``model`` (of the device tree, else the machine's product name), ``hostname``, ``architecture``, ``cpu`` (the
        core's name), ``cores`` (number that this process may use), ``features`` (list of str), ``clock_hz`` (the
        highest allowed), ``governor``, ``memory_bytes``, ``memory_available_bytes``, ``disk_free_bytes`` (of the
        temporary folder), ``kernel``, ``system``, ``python``, ``versions`` (of packages), ``state`` (as `state` gives
        it).
    """
    memory = _memory()
    return {
        "model": _model(),
        "hostname": platform.node(),
        "architecture": platform.machine(),
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)),
        "features": features(),
        "clock_hz": _kilohertz("cpuinfo_max_freq") or _kilohertz("scaling_max_freq"),
        "governor": _cpufreq("scaling_governor"),
        "memory_bytes": memory.get("MemTotal"),
        "memory_available_bytes": memory.get("MemAvailable"),
        "disk_free_bytes": _disk_free(),
        "kernel": platform.release(),
        "system": _system(),
        "python": platform.python_version(),
        "versions": versions(),
        "state": state(),
    }


def versions() -> dict[str, str]:
    """The versions that must be the same on both sides, and others that help to explain results."""
    found = {"tvm_mobilenet": __version__}
    for package in ("apache-tvm", "apache-tvm-ffi", "numpy"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = ""
    return found


def state(request: dict | None = None) -> dict:
    """The state of this machine now, which may change during a measurement.

    Returns
    -------
    dict
        ``temperature_c``, ``clock_hz`` (the slowest core's), ``clock_limit_hz`` (the highest that the governor may
        choose), ``governor``, ``load`` (running tasks, average of a minute), ``throttled`` (list of causes that slow it
        down now), ``throttled_since_boot`` (list), ``throttle_events`` (counter, where the system counts them),
        ``throttling_from`` (the source of these, empty without one).
    """
    now, since_boot, events, source = _throttling()
    return {
        "temperature_c": _temperature(),
        "clock_hz": _kilohertz("scaling_cur_freq", min),
        "clock_limit_hz": _kilohertz("scaling_max_freq"),
        "governor": _cpufreq("scaling_governor"),
        "load": _load(),
        "throttled": now,
        "throttled_since_boot": since_boot,
        "throttle_events": events,
        "throttling_from": source,
    }


def features() -> list[str]:
    """The CPU's optional features, by the names of /proc/cpuinfo, sorted."""
    return cpu.features(ROOT)


def decode_throttled(word: int) -> tuple[list[str], list[str]]:
    """The causes in the bits of ``get_throttled``: now, and since boot."""
    return [name for bit, name in FLAGS.items() if word >> bit & 1], [
        name for bit, name in FLAGS.items() if word >> (bit + SINCE_BOOT) & 1
    ]


# ---- reading the system's files


def _read(path: str | Path) -> str:
    try:
        return (ROOT / path).read_text(encoding="utf-8", errors="replace").strip("\0\n ")
    except OSError:
        return ""


def _number(text: str) -> int | None:
    try:
        return int(text, 0)
    except ValueError:
        return None


def _model() -> str:
    for path in ("proc/device-tree/model", "sys/firmware/devicetree/base/model", "sys/class/dmi/id/product_name"):
        if text := _read(path):
            return text
    return ""


def _cpu() -> str:
    """The core's name: of the device tree's ``cpu@0`` on Arm, of /proc/cpuinfo elsewhere."""
    for path in sorted(ROOT.glob("proc/device-tree/cpus/cpu@0/compatible")):
        return path.read_text(errors="replace").split("\0")[0]
    found = re.search(r"^model name\s*:\s*(.+)$", _read("proc/cpuinfo"), re.MULTILINE)
    return found[1] if found else ""


def _cpufreq(name: str) -> str:
    """A setting of the CPUs; several values when they differ."""
    values = [_read(path) for path in sorted(ROOT.glob(f"sys/devices/system/cpu/cpu[0-9]*/cpufreq/{name}"))]
    return ", ".join(dict.fromkeys(filter(None, values)))


def _kilohertz(name: str, choose=max) -> int | None:
    values = [int(v) for v in _cpufreq(name).split(", ") if v.isdigit()]
    return choose(values) * 1000 if values else None


def _temperature() -> float | None:
    """The temperature of the CPU's thermal zone, or of the hottest zone."""
    zones = {}
    for zone in ROOT.glob("sys/class/thermal/thermal_zone*"):
        value = _number(_read(zone / "temp"))
        if value is not None:
            zones[_read(zone / "type")] = value / 1000
    cpu = [t for name, t in zones.items() if "cpu" in name or name == "x86_pkg_temp"]
    return max(cpu or zones.values(), default=None)


def _throttling() -> tuple[list[str], list[str], int | None, str]:
    word, source = _firmware_word()
    if word is not None:
        return *decode_throttled(word), None, source
    now, source = [], ""
    for device in sorted(ROOT.glob("sys/class/thermal/cooling_device*")):
        kind = _read(device / "type")
        if "cpufreq" in kind or kind == "Processor":
            source = "cooling devices"
            if (_number(_read(device / "cur_state")) or 0) > 0:
                now = ["clock capped by the kernel's thermal governor"]
    for monitor in sorted(ROOT.glob("sys/class/hwmon/hwmon*")):
        if _read(monitor / "name") == "rpi_volt":
            source = source or "hwmon"
            if _read(monitor / "in0_lcrit_alarm") == "1":
                now.append("under-voltage")
    counts = [
        _number(_read(p)) for p in ROOT.glob("sys/devices/system/cpu/cpu[0-9]*/thermal_throttle/core_throttle_count")
    ]
    counted = [c for c in counts if c is not None]
    return now, [], sum(counted) if counted else None, source or ("event counters" if counted else "")


def _firmware_word() -> tuple[int | None, str]:
    for path in sorted(ROOT.glob("sys/devices/platform/soc/soc:firmware/get_throttled")):
        if (word := _number("0x" + _read(path).removeprefix("0x"))) is not None:
            return word, "sysfs"
    if Path("/") == ROOT and (command := shutil.which("vcgencmd")):
        try:
            done = subprocess.run([command, "get_throttled"], capture_output=True, text=True, timeout=5)
        except (OSError, subprocess.TimeoutExpired):
            return None, ""
        if found := re.search(r"throttled=(0x[0-9a-fA-F]+)", done.stdout):
            return int(found[1], 16), "vcgencmd"
    return None, ""


def _memory() -> dict[str, int]:
    found = re.findall(r"^(\w+):\s+(\d+) kB$", _read("proc/meminfo"), re.MULTILINE)
    return {name: int(kib) * 1024 for name, kib in found}


def _load() -> float | None:
    try:
        return float(_read("proc/loadavg").split()[0])
    except (IndexError, ValueError):
        return None


def _disk_free() -> int:
    import tempfile

    return shutil.disk_usage(tempfile.gettempdir()).free


def _system() -> str:
    found = re.search(r'^PRETTY_NAME="?([^"\n]+)', _read("etc/os-release"), re.MULTILINE)
    return found[1] if found else platform.system()
