"""One emulated CPU with its memory: it runs functions of an image and counts executed instructions.

Memory as seen by the code: the module's image, a page of entry points for the functions it imports, a stack, and a heap
for arrays. The heap is mapped from the host's memory, so arrays are NumPy views of it. Any error of the code ends in a
``Fault`` and leaves this process and the emulator usable.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import signal
import threading
from collections.abc import Iterator

import numpy as np
import unicorn
from unicorn import arm64_const as a64
from unicorn import arm_const as a32
from unicorn import unicorn_const as uc_const
from unicorn.unicorn_py3.unicorn import uclib

from tvm_mobilenet.boards.cost import native
from tvm_mobilenet.boards.virtual.accesses import Follower, UnknownAccess
from tvm_mobilenet.boards.virtual.elf import PAGE, Image, read_image
from tvm_mobilenet.errors import BoardError

STUBS = 0x0010_0000
MODULE = 0x0040_0000
STACK_TOP = 0x0FF0_0000
STACK_BYTES = 0x0040_0000
HEAP = 0x1000_0000
HEAP_BYTES = 0x6000_0000  # reserved only: the host allocates pages on first use
ALIGNMENT = 64  # the alignment of TVM's allocator
SCRATCH_BYTES = 0x0100_0000  # scratch memory of one thread
SCRATCH_SLOTS = 16
SCRATCH = HEAP + HEAP_BYTES - SCRATCH_BYTES * SCRATCH_SLOTS  # the heap's end: scratch memory of each thread
_HEAP_FLAGS = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0x4000)
_RETURN = 0  # index of the entry point to which a called function returns
_STUB_BYTES = 16

_ACCESS = {
    uc_const.UC_MEM_READ_UNMAPPED: "reads",
    uc_const.UC_MEM_READ_PROT: "reads",
    uc_const.UC_MEM_WRITE_UNMAPPED: "writes",
    uc_const.UC_MEM_WRITE_PROT: "writes",
    uc_const.UC_MEM_FETCH_UNMAPPED: "jumps to",
    uc_const.UC_MEM_FETCH_PROT: "jumps to",
}
_REGISTERS = {
    "aarch64": {
        "pc": a64.UC_ARM64_REG_PC,
        "sp": a64.UC_ARM64_REG_SP,
        "lr": a64.UC_ARM64_REG_X30,
        **{i: a64.UC_ARM64_REG_X0 + i for i in range(8)},
        **{f"v{i}": a64.UC_ARM64_REG_S0 + i for i in range(8)},
        **{f"d{i}": a64.UC_ARM64_REG_D0 + i for i in range(8)},
    },
    "armv7": {
        "pc": a32.UC_ARM_REG_PC,
        "sp": a32.UC_ARM_REG_SP,
        "lr": a32.UC_ARM_REG_LR,
        **{i: a32.UC_ARM_REG_R0 + i for i in range(4)},
        **{f"v{i}": a32.UC_ARM_REG_S0 + i for i in range(8)},
        **{f"d{i}": a32.UC_ARM_REG_D0 + i for i in range(8)},
    },
}


class Fault(Exception):
    """The code did something that no correct kernel does, at ``address``."""

    def __init__(self, reason: str, address: int):
        super().__init__(reason)
        self.reason = reason
        self.address = address


def _cpu(constants, prefix: str, name: str) -> int:
    """Unicorn's number of a CPU, from its name in a core's ``[model] emulated_cpu``."""
    found = getattr(constants, f"{prefix}{name}", None)
    if found is None:
        known = sorted(n.removeprefix(prefix) for n in dir(constants) if n.startswith(prefix))
        raise BoardError(f"[model] emulated_cpu = {name!r}: the emulator has no such CPU", f"it has {', '.join(known)}")
    return found


class Emulator:
    """Executes functions of one shared object.

    Parameters
    ----------
    path : str or Path
        The shared object.
    provide : dict
        The names of imported functions, each with its ``handler(emulator)``: it reads the arguments, acts on memory and
        sets the result.
    architecture : str
        ``aarch64`` or ``armv7``; a shared object of the other is refused.
    cpu_model : str
        ``A53``, ``A72`` or ``MAX`` for AArch64, ``A15``, ``A7`` or ``MAX`` for 32-bit ARM: the instruction set of the
        emulated core. An instruction that the board's core lacks is a fault.
    """

    def __init__(self, path, provide: dict, architecture: str, cpu_model: str = "MAX"):
        self._handlers: list = [None]
        self._names = ["return"]
        self._provide = provide
        self._stub_of: dict[str, int] = {}
        self.image: Image = read_image(path, MODULE, self.entry_point)
        arch = self.image.architecture
        if arch != architecture:
            raise BoardError(f"{path} is for {arch}, the target is {architecture}", "build it for this target")
        self._registers = _REGISTERS[arch]
        if arch == "aarch64":
            self.uc = unicorn.Uc(unicorn.UC_ARCH_ARM64, unicorn.UC_MODE_ARM)
            self.uc.ctl_set_cpu_model(_cpu(a64, "UC_CPU_ARM64_", cpu_model))
            svc = b"\x01\x00\x00\xd4"
        else:
            self.uc = unicorn.Uc(unicorn.UC_ARCH_ARM, unicorn.UC_MODE_ARM)
            self.uc.ctl_set_cpu_model(
                _cpu(a32, "UC_CPU_ARM_" if cpu_model == "MAX" else "UC_CPU_ARM_CORTEX_", cpu_model)
            )
            svc = b"\x00\x00\x00\xef"
        self.uc.mem_map(STUBS, PAGE, unicorn.UC_PROT_READ | unicorn.UC_PROT_EXEC)
        self.uc.mem_write(STUBS, svc * (PAGE // 4))
        self.uc.mem_map(MODULE, len(self.image.memory), unicorn.UC_PROT_READ | unicorn.UC_PROT_WRITE)
        self.restore_image()
        low, high = self.image.code[0] & ~0xFFF, -(-self.image.code[1] // 0x1000) * 0x1000
        self.uc.mem_protect(low, high - low, unicorn.UC_PROT_READ | unicorn.UC_PROT_EXEC)
        self.uc.mem_map(STACK_TOP - STACK_BYTES, STACK_BYTES, unicorn.UC_PROT_READ | unicorn.UC_PROT_WRITE)
        self._heap = mmap.mmap(-1, HEAP_BYTES, flags=_HEAP_FLAGS)
        self.heap = np.frombuffer(self._heap, np.uint8)
        self.uc.mem_map_ptr(HEAP, HEAP_BYTES, unicorn.UC_PROT_READ | unicorn.UC_PROT_WRITE, self.heap.ctypes.data)
        self.heap_next = HEAP
        self.heap_peak = HEAP
        if arch == "armv7":
            self.uc.reg_write(a32.UC_ARM_REG_C1_C0_2, self.uc.reg_read(a32.UC_ARM_REG_C1_C0_2) | 0xF << 20)
            self.uc.reg_write(a32.UC_ARM_REG_FPEXC, 1 << 30)
        self._stopped_by: str | int | None = None
        self._bad_access = ""
        self.uc.hook_add(unicorn.UC_HOOK_INTR, self._interrupted)
        self.uc.hook_add(unicorn.UC_HOOK_MEM_INVALID, self._invalid_access)
        self.counter = native.Counter(self.image.code, ctypes.cast(uclib.uc_emu_stop, ctypes.c_void_p).value)
        self._hook(unicorn.UC_HOOK_BLOCK, "count_block", self.counter.struct)

        self._watching: list = []
        self._follower: Follower | None = None
        self.caches = None

    def watch_memory(self, caches, every: bool = False):
        """From now on every load and store goes through these caches; ``None`` ends that.

        If the code allows it, one call at the beginning of a block computes all its addresses (`accesses`). With
        ``every`` each access calls a hook instead; tests compare the two.
        """
        if caches is not None and not every and self.image.architecture == "aarch64" and self._follower is None:
            self._follow_blocks()
        if self._follower is not None and not every and not self._watching:
            self._follower.struct.memory = ctypes.addressof(caches.struct) if caches is not None else None
            self.caches = caches
            return
        if (caches is None) == (self.caches is None):
            self.caches = caches
            return
        for handle in self._watching:
            uclib.uc_hook_del(self.uc._uch, handle)
        self._watching = []
        if caches is not None:
            self._watching.append(
                self._hook(unicorn.UC_HOOK_MEM_READ | unicorn.UC_HOOK_MEM_WRITE, "count_access", caches.struct)
            )
        self.caches = caches
        self.uc.ctl_flush_tb()  # code that is already translated still calls the old hooks

    def _follow_blocks(self):
        try:
            self._follower = Follower(self.image, ctypes.cast(uclib.uc_reg_read, ctypes.c_void_p).value)
        except UnknownAccess:
            return  # then `watch_memory` gives every access a hook
        for address in self._follower.again:
            self._hook(unicorn.UC_HOOK_CODE, "follow_again", self._follower.struct, address, address)
        self.counter.struct.follow = ctypes.addressof(self._follower.struct)
        self.uc.ctl_flush_tb()

    def _hook(self, kind: int, function: str, user: ctypes.Structure, first: int = 1, last: int = 0):
        handle = ctypes.c_size_t()
        callback = ctypes.cast(getattr(native.library(), function), ctypes.c_void_p)
        status = uclib.uc_hook_add(
            self.uc._uch,
            ctypes.byref(handle),
            kind,
            callback,
            ctypes.byref(user),
            ctypes.c_uint64(first),
            ctypes.c_uint64(last),
        )
        if status:
            raise unicorn.UcError(status)
        return handle

    def close(self):
        """Free all memory. The emulator cannot be used afterwards."""
        if self.uc is not None:
            self.uc = None  # freed before the heap, since the emulator points into the heap
            self.heap = None
            with contextlib.suppress(BufferError):  # if the caller still holds a view, the heap lives as long as that
                self._heap.close()
            self._heap = None

    # ---- memory

    def restore_image(self):
        """Restore the module's code and data as they were linked."""
        self.uc.mem_write(MODULE, bytes(self.image.memory))

    def allocate(self, nbytes: int) -> int:
        """Address of ``nbytes`` of the heap, 64-byte aligned. Raises MemoryError."""
        start = -(-self.heap_next // ALIGNMENT) * ALIGNMENT
        if start + nbytes > SCRATCH:
            raise MemoryError(f"{nbytes} bytes do not fit into the emulated heap")
        self.heap_next = start + nbytes + ALIGNMENT  # a gap, as from malloc's header
        self.heap_peak = max(self.heap_peak, self.heap_next)
        return start

    def view(self, address: int, nbytes: int) -> np.ndarray:
        """The heap's bytes at an address, as a view: writing to it writes the emulated memory."""
        start = address - HEAP
        if start < 0 or start + nbytes > HEAP_BYTES:
            raise MemoryError(f"{address:#x} is not in the emulated heap")
        return self.heap[start : start + nbytes]

    def text(self, address: int, longest: int = 4096) -> str:
        """The zero-terminated string at an address."""
        data = bytearray()
        while len(data) < longest:
            c = self.uc.mem_read(address + len(data), 1)[0]
            if not c:
                break
            data.append(c)
        return data.decode(errors="replace")

    def pointer(self, address: int) -> int:
        return int.from_bytes(self.uc.mem_read(address, self.image.pointer_bytes), "little")

    # ---- functions the code imports

    def entry_point(self, name: str) -> int:
        """The address that calls the provided function ``name``; a call of a function that is not provided is a
        fault."""
        if name not in self._stub_of:
            self._stub_of[name] = len(self._handlers)
            self._handlers.append(self._provide.get(name))
            self._names.append(name)
        return STUBS + _STUB_BYTES * self._stub_of[name]

    def argument(self, i: int) -> int:
        """Integer argument ``i`` (0 to 7, 0 to 3 on 32-bit ARM) of the import being called."""
        return self.uc.reg_read(self._registers[i])

    def set_result(self, value: int):
        self.uc.reg_write(self._registers[0], value & (1 << 8 * self.image.pointer_bytes) - 1)

    def float_register(self, i: int, double: bool = False):
        """The bits of floating-point argument ``i``."""
        return self.uc.reg_read(self._registers[f"{'d' if double else 'v'}{i}"])

    def set_float_register(self, bits: int, double: bool = False):
        self.uc.reg_write(self._registers["d0" if double else "v0"], bits)

    # ---- running

    def call(self, address: int, arguments: list[int], budget: int) -> int:
        """Call a function and return its integer result.

        Parameters
        ----------
        address : int
        arguments : list of int
            Up to four integers or pointers.
        budget : int
            The number of instructions after which the call is taken for endless and stopped.

        Raises
        ------
        Fault
        """
        depth_sp = self.uc.reg_read(self._registers["sp"]) if self._running else STACK_TOP - 256
        self.uc.reg_write(self._registers["sp"], depth_sp & ~15)
        self.uc.reg_write(self._registers["lr"], STUBS)
        for i, value in enumerate(arguments):
            self.uc.reg_write(self._registers[i], value)
        if self._running:
            return self._call(address)
        self.counter.arm(budget)
        with self._held_signals():
            return self._call(address)

    def _call(self, pc: int) -> int:
        self._running += 1
        try:
            while True:
                self._stopped_by, self._bad_access = None, ""
                try:
                    if not self._signals:
                        self.uc.emu_start(pc, 0xFFFF_FFFC)
                except unicorn.UcError as e:
                    raise Fault(self._reason(e), self._pc()) from None
                if self._signals:
                    raise KeyboardInterrupt
                if self.counter.struct.exhausted:
                    raise Fault("it does not end within the budget of instructions", self._pc())
                if not isinstance(self._stopped_by, int):
                    raise Fault(self._stopped_by or "execution stopped", self._pc())
                if self._follower is not None and self._follower.failure is not None:
                    raise Fault(f"its memory cannot be followed: {self._follower.failure}", self._pc())
                if self._stopped_by == _RETURN:
                    return self.uc.reg_read(self._registers[0])
                pc = self._imported(self._stopped_by)
        finally:
            self._running -= 1

    _running = 0
    _signals: tuple[int, ...] = ()  # signals that came while the emulator ran

    @contextlib.contextmanager
    def _held_signals(self) -> Iterator[None]:
        """Let SIGINT and SIGTERM stop the emulator; their handlers run after it has stopped.

        Python calls the handler of a signal as soon as Python code runs again. While the emulator runs, the next Python
        code is mostly one of the emulator's callbacks, and an exception that leaves a callback is lost.
        """
        handlers = {}
        if threading.current_thread() is threading.main_thread():
            known = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
            handlers = {number: handler for number, handler in known.items() if callable(handler)}

        def note(number, _frame):
            self._signals += (number,)
            self.uc.emu_stop()

        self._signals = ()
        for number in handlers:
            signal.signal(number, note)
        try:
            yield
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
            came, self._signals = self._signals, ()
            for number in came[:1]:
                handlers[number](number, None)

    def _imported(self, index: int) -> int:
        back = self.uc.reg_read(self._registers["lr"])
        handler = self._handlers[index]
        if handler is None:
            raise Fault(f"it calls {self._names[index]}, which the virtual board does not provide", back - 4)
        try:
            handler(self)
        except (unicorn.UcError, MemoryError) as e:
            raise Fault(f"{self._names[index]}: {e}", back - 4) from None
        return back

    def saved(self):
        """The registers, which ``restore`` sets again after a nested call."""
        return self.uc.context_save()

    def restore(self, context):
        self.uc.context_restore(context)

    def _pc(self) -> int:
        return self.uc.reg_read(self._registers["pc"])

    def _interrupted(self, uc, number, _):
        pc = self._pc()
        if number == 2 and STUBS < pc <= STUBS + PAGE:
            self._stopped_by = (pc - 4 - STUBS) // _STUB_BYTES
            if self._stopped_by >= len(self._handlers):
                self._stopped_by = "it jumps among the entry points of imported functions"
        elif number == 2:
            self._stopped_by = "system call"
        else:
            self._stopped_by = f"exception {number}: breakpoint or illegal instruction"
        uc.emu_stop()

    def _invalid_access(self, uc, access, address, size, value, _):
        self._bad_access = f"{_ACCESS.get(access, 'accesses')} address {address:#x}"
        if access != uc_const.UC_MEM_FETCH_UNMAPPED:
            self._bad_access += f" ({size} bytes)"
        return False

    def _reason(self, e: unicorn.UcError) -> str:
        if self._bad_access:
            protected = e.errno in (uc_const.UC_ERR_READ_PROT, uc_const.UC_ERR_WRITE_PROT, uc_const.UC_ERR_FETCH_PROT)
            return self._bad_access + (", which is protected" if protected else ", where no memory is")
        if e.errno in (uc_const.UC_ERR_INSN_INVALID, uc_const.UC_ERR_EXCEPTION):
            return "illegal instruction, or one that this core does not have"
        return str(e)
