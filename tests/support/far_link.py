"""A link with delay and loss between two network namespaces, made in user space: no kernel module, real TCP over it.

Each namespace has a TUN device; a relay process holds both and carries packets from one to the other, late, and not all
of them. Nothing of it is seen outside the two namespaces, which are made here and taken away again. It needs root.
"""

import ctypes
import fcntl
import heapq
import json
import os
import random
import select
import struct
import subprocess
import sys
import time

_TUNSETIFF, _IFF_TUN, _IFF_NO_PI, _CLONE_NEWNET = 0x400454CA, 0x0001, 0x1000, 0x40000000  # Linux, if_tun.h, sched.h


class FarLink:
    """Two namespaces, ``here`` and ``there``; use it as a context.

    Parameters
    ----------
    delay : float
        Seconds each way.
    loss : float
        Share of packets that are lost, each way.
    """

    address = "10.203.77.2"  # of ``there``; a namespace has all addresses to itself

    def __init__(self, delay: float, loss: float):
        self.here, self.there = f"here{os.getpid()}", f"there{os.getpid()}"
        self._options = [str(delay), str(loss)]
        self._relay = None

    def __enter__(self):
        try:
            for name in (self.here, self.there):
                _ip("netns", "add", name)
            self._relay = subprocess.Popen(
                [sys.executable, __file__, self.here, self.there, *self._options],
                text=True,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
            assert self._relay.stdout.readline() == "ready\n"
            for name, own in ((self.here, "10.203.77.1"), (self.there, self.address)):
                _ip("-n", name, "link", "set", "lo", "up")
                _ip("-n", name, "addr", "add", f"{own}/24", "dev", "far")
                _ip("-n", name, "link", "set", "far", "up")
        except BaseException:
            self.__exit__()
            raise
        return self

    def inside(self, name: str) -> list[str]:
        """Words before a command that is to run in a namespace."""
        return ["ip", "netns", "exec", name]

    def cut(self) -> None:
        """From now on nothing arrives."""
        self._relay.stdin.write("cut\n")
        self._relay.stdin.flush()

    def counts(self) -> dict[str, int]:
        """Packets that were ``carried`` and ``lost`` until now."""
        self._relay.stdin.write("counts\n")
        self._relay.stdin.flush()
        return json.loads(self._relay.stdout.readline())

    def __exit__(self, *_):
        if self._relay:
            self._relay.stdin.close()
            self._relay.wait(10)
            self._relay.stdout.close()
        for name in (self.here, self.there):
            subprocess.run(["ip", "netns", "delete", name], capture_output=True)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


def _tun(namespace: str) -> int:
    """A TUN device ``far`` in a namespace, which this thread enters."""
    with open(f"/run/netns/{namespace}") as file:
        if ctypes.CDLL(None, use_errno=True).setns(file.fileno(), _CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), f"setns {namespace}")
    device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(device, _TUNSETIFF, struct.pack("16sH22x", b"far", _IFF_TUN | _IFF_NO_PI))
    return device


def relay(here: str, there: str, delay: float, loss: float) -> None:
    """Carry packets until stdin ends; obeys ``cut`` and ``counts`` there."""
    chance, counts = random.Random(0), {"carried": 0, "lost": 0}
    one, other = _tun(here), _tun(there)
    to = {one: other, other: one}
    waiting: list[tuple[float, int, int, bytes]] = []  # when due, order, device, packet
    print("ready", flush=True)
    while True:
        pause = max(0.0, waiting[0][0] - time.monotonic()) if waiting else None
        ready = select.select([0, one, other], [], [], pause)[0]
        for device in ready:
            if device == 0:
                words = os.read(0, 4096).decode()
                if not words:
                    return
                loss = 1.0 if "cut" in words else loss
                if "counts" in words:
                    print(json.dumps(counts), flush=True)
                continue
            packet = os.read(device, 65536)
            is_lost = chance.random() < loss
            counts["lost" if is_lost else "carried"] += 1
            if not is_lost:
                heapq.heappush(waiting, (time.monotonic() + delay, sum(counts.values()), to[device], packet))
        while waiting and waiting[0][0] <= time.monotonic():
            _, _, device, packet = heapq.heappop(waiting)
            try:
                os.write(device, packet)
            except OSError:  # the device is down, or full
                counts["lost"] += 1


if __name__ == "__main__":
    relay(sys.argv[1], sys.argv[2], float(sys.argv[3]), float(sys.argv[4]))
