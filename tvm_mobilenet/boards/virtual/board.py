"""The virtual board: execute a module's machine code under an emulator, and estimate its cost.

Outputs come from the emulated memory, counts from the executed instructions, cycles from those counts and the data of
the target's core. The host computes nothing in place of the kernel.

    board = VirtualBoard(targets.load("rpi4"))
    module = board.load("model.so")
    run = module.call("fused_conv2d", [x, w, bias, y])     # y is written in place
    run.cycles, run.cycles_on(4), run.instructions

A parallel region has as many tasks as the target has cores; each task runs to its end and is counted alone. With
``tasks="sample"`` it has one task for each iteration, of which only some run: the first, the last and some between.
Bisection finds the number of iterations, with about log2 of them run, and runs more between any two that differ. An
iteration that did not run is assumed to cost as much as its neighbours, which is exact if these executed the same
instructions. A sample writes only a part of the outputs, so it serves a search, whose best candidate then runs whole.

``memory=True`` follows every load and store through the caches (``memory``), and costs include memory cycles. ``call``
begins with caches as a layer before would leave them: they hold the first operand, as written from beginning to end,
and neither weights nor output. ``call_at`` continues with the caches as the kernel before left them. In a sampled
region only the first iteration and the middle one are followed, the latter after its predecessor; all but the first are
assumed to have the traffic of the middle one.
"""

from __future__ import annotations

import itertools
import struct
from dataclasses import replace

import numpy as np

from tvm_mobilenet.boards.interface import KernelModule
from tvm_mobilenet.boards.virtual.emulator import MODULE, SCRATCH, SCRATCH_BYTES, SCRATCH_SLOTS, Emulator, Fault
from tvm_mobilenet.boards.virtual.imports import KernelError, RuntimeCall, Workspace, provided
from tvm_mobilenet.boards.virtual.kernel_run import Counts, KernelFault, KernelRun, Part
from tvm_mobilenet.boards.virtual.memory import Caches, Traffic
from tvm_mobilenet.compiler.plan import PAGE, place_in_page
from tvm_mobilenet.dtypes import DLPACK_CODES
from tvm_mobilenet.errors import BoardError

BUDGET_INSTRUCTIONS = 20_000_000_000
_TENSOR = 7  # kTVMFFIDLTensorPtr
_MAXIMUM_ITERATIONS = 1 << 20
_MOST_BOUNDARY_RUNS = 12


class VirtualBoard:
    """The virtual board of a target.

    Parameters
    ----------
    target : targets.Target
        Its core must be ``aarch64`` or ``armv7`` and have a ``[model]``.
    """

    measures = False

    def __init__(self, target):
        if target.architecture not in ("aarch64", "armv7"):
            raise BoardError(
                f"target {target.name}: the virtual board has no {target.architecture} core",
                "use the local board for this machine",
            )
        self.target, self.name = target, "virtual"

    def load(self, path, budget: int = BUDGET_INSTRUCTIONS) -> VirtualModule:
        """The module of a linked shared object. ``budget``: instructions after which a kernel is stopped."""
        return VirtualModule(path, self.target, budget)

    def close(self) -> None:
        """Do nothing: each module has its own memory."""

    def __enter__(self) -> VirtualBoard:
        return self

    def __exit__(self, *_) -> None:
        self.close()


class VirtualModule(KernelModule):
    """A shared object in emulated memory; call its ``close``, or use it in a ``with``."""

    def __init__(self, path, target, budget: int):
        self.target = target
        self.budget = budget
        self._workspace = Workspace()
        self._calls: dict[str, list[int]] = {}
        self._caches: Caches | None = None
        handlers = provided(self._workspace, self._launch, self._record)
        self._emulator = Emulator(path, handlers, target.architecture, target.core.model.get("emulated_cpu", "MAX"))
        image = self._emulator.image
        for name in handlers:
            if name in image.symbols and name.startswith("__TVM"):  # a pointer that TVM's loader fills in
                entry = self._emulator.entry_point(name)
                at = image.symbols[name] - MODULE
                image.memory[at : at + image.pointer_bytes] = entry.to_bytes(image.pointer_bytes, "little")
        self._emulator.restore_image()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        """Free the emulated memory."""
        self._emulator.close()

    @property
    def image(self):
        """The loaded object: symbols, functions, relocated bytes."""
        return self._emulator.image

    @property
    def kernels(self) -> list[str]:
        """Names that ``call`` accepts."""
        prefix = "__tvm_ffi_"
        return sorted(
            s.removeprefix(prefix)
            for s in self.image.symbols
            if s.startswith(prefix) and s not in ("__tvm_ffi_main", "__tvm_ffi__library_bin")
        )

    # ---- arrays that stay in emulated memory

    def alloc(self, nbytes: int) -> int:
        """Address of ``nbytes`` of emulated memory, 64-byte aligned, until ``close``."""
        return self._emulator.allocate(nbytes)

    def write(self, address: int, array: np.ndarray):
        """Copies an array to an address."""
        data = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        self._emulator.view(address, data.size)[:] = data

    def read(self, address: int, shape, dtype) -> np.ndarray:
        """A copy of the array at an address."""
        dtype = np.dtype(dtype)
        n = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        return self._emulator.view(address, n).copy().view(dtype).reshape(shape)

    # ---- calls

    def call(
        self, symbol: str, args: list[np.ndarray], tasks: str = "all", cores: int | None = None, memory: bool = False
    ) -> KernelRun:
        """Runs a kernel on arrays of this process.

        Parameters
        ----------
        symbol : str
            The kernel's name; ``__tvm_ffi_<symbol>`` is called.
        args : list of ndarray
            In the kernel's order, outputs last. Those that the kernel wrote are copied back in place; an array given
            twice is one array for the kernel too.
        tasks : str
            ``all``: everything runs, outputs are right. ``sample``: see the module's docstring.
        cores : int, optional
            The number of tasks of a parallel region; the target's number of cores by default.
        memory : bool
            Simulate the caches; see the module's docstring. It makes a run up to twice as slow on AArch64, 5 times as
            slow on 32-bit ARM.

        Raises
        ------
        KernelFault
            The kernel failed, or reported an error.
        """
        e = self._emulator
        mark = e.heap_next
        try:
            placed: dict[tuple, int] = {}
            operands = []
            for a in args:
                key = (a.__array_interface__["data"][0], a.nbytes)
                if not a.flags.c_contiguous:
                    raise BoardError(
                        f"kernel {symbol}: an argument of shape {a.shape} is not contiguous",
                        "pass numpy.ascontiguousarray of it",
                    )
                if key not in placed:
                    if a is args[0] or a is args[-1]:  # constants lie anywhere
                        place = place_in_page(int(a is args[-1]))  # as in a plan of two steps
                        e.heap_next += (place - e.heap_next) % PAGE
                    placed[key] = self.alloc(max(a.nbytes, 1))
                    self.write(placed[key], a)
                operands.append((placed[key], a.shape, a.dtype))
            if memory:
                caches = self._caches_for(cores or self.target.cores)
                caches.forget()
                caches.touch(operands[0][0], args[0].nbytes, True)
                caches.share([caches.take()[2]])
            run = self.call_at(symbol, operands, tasks, cores, memory)
            for a, (address, shape, dtype) in zip(args, operands, strict=True):
                if a.flags.writeable:
                    now = self.read(address, shape, dtype)
                    if not np.array_equal(now.view(np.uint8), a.view(np.uint8)) if a.ndim else now != a:
                        a[...] = now
            run.outputs = list(args[-1:])
            return run
        finally:
            e.heap_next = mark

    def _caches_for(self, cores: int) -> Caches:
        if self._caches is None or self._caches.cores != cores:
            self._caches = Caches(self.target.core, cores, (SCRATCH, SCRATCH_BYTES, SCRATCH_SLOTS))
        return self._caches

    def call_at(
        self, symbol: str, operands, tasks: str = "all", cores: int | None = None, memory: bool = False
    ) -> KernelRun:
        """As ``call``, on arrays in emulated memory; each is ``(address, shape, dtype)``."""
        if tasks not in ("all", "sample"):
            raise ValueError(f"tasks = {tasks!r}: all or sample")
        e = self._emulator
        address = self.image.symbols.get(f"__tvm_ffi_{symbol}")
        if address is None:
            raise BoardError(
                f"{self.image.path} has no kernel {symbol!r}", "it has " + (", ".join(self.kernels[:8]) or "none")
            )
        self.check(symbol, ((shape, np.dtype(dtype)) for _, shape, dtype in operands))
        self._tasks, self._cores = tasks, cores or self.target.cores
        self._parts: list[Part] = []
        self._in_task = False
        self._logs: list[np.ndarray] = []
        self._workspace.reset()
        e.watch_memory(self._caches_for(self._cores) if memory else None)
        self._take()
        mark = e.heap_next
        try:
            arguments, result = self._marshal(operands)
            code = e.call(address, [0, arguments, len(operands), result], self.budget)
            if code & 0xFFFFFFFF:
                raise KernelFault(symbol, f"returned {code & 0xFFFFFFFF:#x}")
            self._serial()
        except KernelError as error:
            e.restore_image()
            raise KernelFault(symbol, str(error)) from None
        except Fault as fault:
            e.restore_image()
            raise self._described(symbol, fault) from None
        finally:
            self._take()
            e.heap_next = mark
        return KernelRun(symbol, self._parts, self.image, self.target, sampled=tasks == "sample")

    def _marshal(self, operands) -> tuple[int, int]:
        """Write the argument list in TVM's calling convention; return its address and the result's."""
        e, wide = self._emulator, self.image.pointer_bytes == 8
        values = b""
        for address, shape, dtype in operands:
            dtype = np.dtype(dtype)
            n = len(shape)
            dims = e.allocate(max(16 * n, 8))
            strides = [int(np.prod(shape[i + 1 :], dtype=np.int64)) for i in range(n)]
            self.write(dims, np.array([*shape, *strides], np.int64))
            form = "<QiiiBBHQQQ" if wide else "<IiiiBBHIIxxxxQ"
            tensor = struct.pack(
                form, address, 1, 0, n, DLPACK_CODES[dtype.kind], 8 * dtype.itemsize, 1, dims, dims + 8 * n, 0
            )
            at = e.allocate(len(tensor))
            self.write(at, np.frombuffer(tensor, np.uint8))
            values += struct.pack("<iIQ", _TENSOR, 0, at)
        arguments, result = e.allocate(max(len(values), 16)), e.allocate(16)
        self.write(arguments, np.frombuffer(values or bytes(16), np.uint8))
        self.write(result, np.zeros(16, np.uint8))
        return arguments, result

    # ---- parallel regions

    def _launch(self, e: Emulator, function: int, data: int, tasks: int) -> int:
        if self._in_task:
            return self._task(function, data, 0, 1)  # as in TVM, a region within a task is not split again
        self._serial()
        context = e.saved()
        self._in_task = True
        try:
            part = self._sampled(function, data) if self._tasks == "sample" else self._split(function, data, tasks)
        finally:
            self._in_task = False
        e.restore(context)
        self._parts.append(part)
        return 0

    def _serial(self):
        counts = self._take()
        self._parts.append(Part("serial", [counts], 1, shared=self._share()))

    def _split(self, function: int, data: int, tasks: int) -> Part:
        n = tasks or self._cores
        ran = [self._counted(function, data, i, n, i) for i in range(n)]
        return Part("parallel", ran, n, shared=self._share())

    def _share(self) -> Traffic | None:
        """The traffic of the shared caches by all tasks since the last call."""
        logs, self._logs = self._logs, []
        return self._emulator.caches.share(logs) if self._emulator.caches else None

    def _sampled(self, function: int, data: int) -> Part:
        """Run one task for each sampled iteration. Bisection finds the number of iterations, since a task beyond the
        last does nothing."""
        caches = self._emulator.caches
        self._emulator.watch_memory(None)  # memory is followed at the end, for a few iterations
        ran: dict[int, Counts] = {0: self._counted(function, data, 0, _MAXIMUM_ITERATIONS)}
        idle = self._counted(function, data, _MAXIMUM_ITERATIONS - 1, _MAXIMUM_ITERATIONS).instructions

        def beyond(i: int) -> bool:
            counts = self._counted(function, data, i, _MAXIMUM_ITERATIONS)
            if counts.instructions > idle:
                ran[i] = counts
            return counts.instructions <= idle

        if ran[0].instructions <= idle:
            self._emulator.watch_memory(caches)
            return self._split(function, data, 0)
        last, after = 0, 1
        while not beyond(after):
            last, after = after, 2 * after
        while after - last > 1:
            middle = (last + after) // 2
            last, after = (last, middle) if beyond(middle) else (middle, after)
        if last // 2 not in ran:
            beyond(last // 2)
        for _ in range(_MOST_BOUNDARY_RUNS):  # if iterations differ, find the first that does
            known = sorted(ran)
            gap = next(((a, b) for a, b in itertools.pairwise(known) if b - a > 1 and not ran[a].same(ran[b])), None)
            if gap is None:
                break
            beyond(sum(gap) // 2)
        # This number of tasks gives each two iterations.
        pair = self._counted(function, data, 0, last // 2 + 1) if last else None
        if caches:
            self._emulator.watch_memory(caches)
            cold = self._counted(function, data, 0, _MAXIMUM_ITERATIONS)
            self._counted(function, data, max(last // 2 - 1, 0), _MAXIMUM_ITERATIONS)
            warm = self._counted(function, data, last // 2, _MAXIMUM_ITERATIONS) if last else cold
            ran = {
                i: replace(c, traffic=(warm if i else cold).traffic, private=(warm if i else cold).private)
                for i, c in ran.items()
            }
            self._share()
        return Part("parallel", [ran[i] for i in sorted(ran)], last + 1, tuple(sorted(ran)), pair)

    def _counted(self, function: int, data: int, task: int, tasks: int, thread: int = 0) -> Counts:
        e = self._emulator
        mark, live = e.heap_next, self._workspace
        live.reset(thread)
        if e.caches:
            e.caches.on(thread)
        code = self._task(function, data, task, tasks)
        if code & 0xFFFFFFFF:
            raise Fault(f"task {task} of {tasks} returned {code & 0xFFFFFFFF:#x}", function)
        counts = self._take(live.peak)
        live.reset()
        if e.caches:
            e.caches.on(0)
        e.heap_next = mark
        return counts

    def _task(self, function: int, data: int, task: int, tasks: int) -> int:
        e = self._emulator
        mark = e.heap_next
        group = e.allocate(16)
        self.write(
            group, np.frombuffer(struct.pack("<Qi4x" if self.image.pointer_bytes == 8 else "<Ii8x", 0, tasks), np.uint8)
        )
        code = e.call(function, [task, group, data], self.budget)
        if not self._in_task:
            e.heap_next = mark
        return code

    def _record(self, name: str, nbytes: int):
        entry = self._calls.setdefault(name, [0, 0])
        entry[0] += 1
        entry[1] += nbytes

    def _take(self, workspace: int | None = None) -> Counts:
        first, executed, taken = self._emulator.counter.take()
        calls = tuple(RuntimeCall(name, n, nbytes) for name, (n, nbytes) in self._calls.items())
        self._calls.clear()
        one = private = None
        if self._emulator.caches:
            one, private, log = self._emulator.caches.take()
            self._logs.append(log)
        return Counts(
            first, executed, taken, calls, self._workspace.peak if workspace is None else workspace, one, private
        )

    def _described(self, symbol: str, fault: Fault) -> KernelFault:
        image = self.image
        name, offset = image.function_at(fault.address)
        where = f"{name}+{offset:#x}" if name else "outside of all functions"
        text = ""
        at = fault.address - image.base
        if 0 <= at < len(image.memory) - 4:
            from tvm_mobilenet.boards.cost.instructions import disassemble

            text = disassemble(image.architecture, bytes(image.memory[at : at + 4]), at)[0].text
        return KernelFault(symbol, fault.reason, at if at >= 0 else fault.address, where, text)
