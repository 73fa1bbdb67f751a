"""Engines that run a network in a measured process: a build in its own runtime or in TVM's, or another engine with the
same weights.

An engine is made from a contender's description, the inputs and a number of threads. ``run()`` is one inference on
those inputs; ``outputs()`` returns the outputs of the last one. Only the engine's own package is imported, so that the
memory of the process is that engine's. Each is set up as its documentation advises for latency on CPUs, in float32
unless its description has another ``dtype``. Float inputs and outputs are float32 in any case. An engine that may fall
back to another dtype by itself reports the dtype of its layers in ``kernels()``.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable
from importlib import metadata

import numpy as np

import tvm_mobilenet
from tvm_mobilenet import packages
from tvm_mobilenet.files.temporary import TemporaryFolder


class Own:
    """A build in its own runtime, as it ships; ``library``, ``parameters``: paths of its files."""

    def __init__(self, contender: dict, inputs: list[np.ndarray], threads: int):
        from tvm_mobilenet.runtime.instance import Instance

        self._net = Instance(contender["library"], contender["parameters"], threads)
        self._net.set_inputs(inputs)
        self.run = self._net.run

    def outputs(self) -> list[np.ndarray]:
        """In the model's order."""
        return [output.copy() for output in self._net.outputs]

    def timed(self, passes: int) -> tuple[list[list[int]], list[list[int]]]:
        """When each kernel call of each pass began, and how long it took: nanoseconds."""
        times = self._net.timed(passes)
        return times[:, :-1].tolist(), np.diff(times, axis=1).tolist()

    def overhead(self) -> float:
        """Seconds that the timing of an empty call shows: the library reads the clock once for each call, in some 30
        ns."""
        return 0.0


def by_tvm(contender: dict, inputs: list[np.ndarray], threads: int):
    """A build in TVM's runtime: its executable, or without one its kernels by its plan."""
    if "executable" in contender:
        return Tvm(contender, inputs, threads)
    from tvm_mobilenet.boards.agent.plan_calls import PlanCalls

    return PlanCalls(contender["module"], contender["plan"], contender["parameters"], inputs)


class Tvm:
    """The module as TVM's Relax VM runs it; ``executable``: its path.

    It uses the VM's stateful interface: inputs are set once, as by an application that owns its buffer.
    """

    def __init__(self, contender: dict, inputs: list[np.ndarray], threads: int):
        import tvm
        from tvm.runtime.vm import VirtualMachine

        self.device = tvm.cpu()
        self.vm = VirtualMachine(tvm.runtime.load_module(contender["executable"]), self.device)
        self.vm.set_input("main", *(tvm.runtime.tensor(x) for x in inputs))
        self._invoke = self.vm.module["invoke_stateful"]

    def run(self) -> None:
        """One inference."""
        self._invoke("main")

    def time_evaluator(self, number: int, repeat: int):
        """TVM's own timing of the same call: a function that gives seconds a run, ``repeat`` times."""
        evaluate = self.vm.time_evaluator("invoke_stateful", self.device, number=number, repeat=repeat)
        return lambda: list(evaluate("main").results)

    def outputs(self) -> list[np.ndarray]:
        """In the model's order."""
        found = self.vm.get_outputs("main")
        return [t.numpy() for t in (found if isinstance(found, (tuple, list)) else (found,))]


def _in_float32(x: np.ndarray) -> np.ndarray:
    return x.astype(np.float32) if x.dtype == np.float16 else x


def _fitted(x: np.ndarray, asked: tuple) -> np.ndarray:
    """An input in the layout that a file takes; a user's own file may have its channels on another axis."""
    for axes in ((0, 1, 2, 3), (0, 2, 3, 1), (0, 3, 1, 2)) if x.ndim == len(asked) == 4 else ():
        shape = tuple(x.shape[axis] for axis in axes)
        if all(not isinstance(want, int) or want in (have, -1) for have, want in zip(shape, asked, strict=True)):
            return np.ascontiguousarray(x.transpose(axes))
    return x


def told(engine: str, dtype: str, ran: Iterable[tuple[str, str, str]], weighted: tuple[str, ...]) -> str:
    """A text of the kernels that an engine ran: ``int8: 27 QLinearConv, 1 QGemm; float32: 1 QuantizeLinear``.

    Parameters
    ----------
    engine : str
        The engine's name, for messages.
    dtype : str
        The requested dtype; empty: the file's own.
    ran : iterable of (str, str, str)
        For each kernel: its place in the network, its name, and the dtype that it reads.
    weighted : tuple of str
        Names of the kernels with weights, which must read that dtype.

    Raises
    ------
    ValueError
        Kernels ran in another dtype, or none of them has weights.
    """
    ran = list(ran)
    multiplied = [one for one in ran if any(name in one[1] for name in weighted)]
    wrong = [one for one in multiplied if dtype and one[2] != dtype]
    if wrong:
        where, name, read = wrong[0]
        raise ValueError(
            f"{engine} ran {len(wrong)} of {len(multiplied)} layers in {read} though told {dtype}, "
            f"the first is {where} ({name})"
        )
    if dtype and not multiplied:
        raise ValueError(f"{engine} does not say which kernels it ran")
    found = Counter((read, name) for _, name, read in ran)
    return "; ".join(
        f"{dtype}: " + ", ".join(f"{n} {name}" for (read, name), n in found.items() if read == dtype)
        for dtype in dict.fromkeys(read for read, _ in found)
    )


class OnnxRuntime:
    """ONNX Runtime's CPU provider; ``model``: an ``.onnx`` file, ``dtype``: float32 (the default), int8, or empty for
    whichever the file has."""

    def __init__(self, contender: dict, inputs: list[np.ndarray], threads: int):
        self._contender, self._threads = contender, threads
        self._session = self._open()
        self._feed = {
            asked.name: _fitted(_in_float32(x), tuple(asked.shape))
            for asked, x in zip(self._session.get_inputs(), inputs, strict=True)
        }

    def _open(self, profile: str = ""):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = self._threads, 1
        options.log_severity_level = 3
        if profile:
            options.enable_profiling, options.profile_file_prefix = True, profile
        return onnxruntime.InferenceSession(self._contender["model"], options, providers=["CPUExecutionProvider"])

    def run(self) -> None:
        """One inference."""
        self._found = self._session.run(None, self._feed)

    def outputs(self) -> list[np.ndarray]:
        """In the model's order."""
        return list(self._found)

    def kernels(self) -> str:
        """The kernels of one more run, from its profiler, by name and by the dtype that each reads.

        Raises
        ------
        ValueError
            A layer with weights ran in another dtype than told.
        """
        with TemporaryFolder() as folder:
            session = self._open(os.path.join(folder, "profile"))
            session.run(None, self._feed)
            with open(session.end_profiling(), encoding="utf-8") as file:
                events = json.load(file)
        ran = []
        for event in events:
            about = event.get("args", {})
            if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
                read = next(iter(about["input_type_shape"][0]), "") if about["input_type_shape"] else ""
                where = event["name"].removesuffix("_kernel_time")
                ran.append((where, about["op_name"], {"float": "float32", "uint8": "int8"}.get(read, read)))
        return told("ONNX Runtime", self._contender.get("dtype", "float32"), ran, ("Conv", "Gemm", "MatMul"))


def _quantized(x: np.ndarray, place: dict) -> np.ndarray:
    """Floats quantized to the integers that a file's input takes."""
    dtype, (scale, zero) = np.dtype(place["dtype"]), place["quantization"]
    if dtype.kind not in "iu" or x.dtype.kind != "f" or not scale:
        return x
    ends = np.iinfo(dtype)
    return np.clip(np.rint(x / scale) + zero, ends.min, ends.max).astype(dtype)


class LiteRt:
    """LiteRT with its default delegate, XNNPACK; ``model``: a ``.tflite`` file, ``dtype``: float32 (the default), int8,
    or empty for whichever the file has.

    ``nhwc_inputs``, ``nhwc_outputs``: for each, whether the network has it channels-last, as the file does; without
    them inputs are laid out as the file requires.
    """

    def __init__(self, contender: dict, inputs: list[np.ndarray], threads: int):
        from ai_edge_litert.interpreter import Interpreter

        self._dtype = contender.get("dtype", "float32")
        self._interpreter = Interpreter(model_path=contender["model"], num_threads=threads)
        self._interpreter.allocate_tensors()
        places = self._interpreter.get_input_details()
        images = contender.get("nhwc_inputs", [None] * len(places))
        for place, x, channels_last in zip(places, inputs, images, strict=True):
            x = x.transpose(0, 2, 3, 1) if channels_last is False and x.ndim == 4 else x
            x = _quantized(_fitted(_in_float32(x), tuple(map(int, place["shape"]))), place)
            self._interpreter.set_tensor(place["index"], np.ascontiguousarray(x))
        self._images = contender.get("nhwc_outputs", [])

    def run(self) -> None:
        """One inference; inputs stay set."""
        self._interpreter.invoke()

    def outputs(self) -> list[np.ndarray]:
        """In the model's order."""
        found = [self._interpreter.get_tensor(o["index"]) for o in self._interpreter.get_output_details()]
        return [
            y.transpose(0, 3, 1, 2) if channels_last is False and y.ndim == 4 else y
            for y, channels_last in zip(found, self._images or [None] * len(found), strict=True)
        ]

    def kernels(self) -> str:
        """The operators that it ran, by the dtype that each reads, and how many of them XNNPACK ran.

        A kernel reads the dtype of its operator's tensors, both in XNNPACK and in TFLite's own kernels.

        Raises
        ------
        ValueError
            A layer with weights ran in another dtype than told.
        """
        operators = self._interpreter._get_ops_details()  # no public name tells the operators of a delegate
        makers = {int(out): op for op in operators if op["op_name"] != "DELEGATE" for out in op["outputs"]}
        taken: set[int] = set()
        for delegate in (op for op in operators if op["op_name"] == "DELEGATE"):
            given, open_values = {int(v) for v in delegate["inputs"]}, [int(v) for v in delegate["outputs"]]
            while open_values:
                maker = makers.get(open_values.pop())
                if maker and maker["index"] not in taken:
                    taken.add(maker["index"])
                    open_values += [int(v) for v in maker["inputs"] if int(v) not in given]
        ran = []
        for op in operators:
            if op["op_name"] != "DELEGATE":
                by = "" if op["index"] in taken else " of TFLite's own kernels"
                ran.append((f"operator {op['index']}", op["op_name"] + by, np.dtype(op["operand_types"][0]).name))
        text = told("LiteRT", self._dtype, ran, ("CONV_2D", "FULLY_CONNECTED"))
        return f"{text}; {len(taken)} of {len(ran)} by XNNPACK"


class Ncnn:
    """ncnn; ``param`` and ``bin``: its two files, ``inputs`` and ``outputs``: names of its blobs, ``dtype``: float32
    (the default) or float16, which is half precision in storage and arithmetic.

    On a CPU without half-precision arithmetic ncnn accepts and keeps its options for float16, but runs in float32.
    """

    def __init__(self, contender: dict, inputs: list[np.ndarray], threads: int):
        import ncnn

        if any(x.shape[0] != 1 for x in inputs):
            raise ValueError("ncnn runs one image at a time: use --batch 1")
        self._half = contender.get("dtype", "float32") == "float16"
        if self._half and not ncnn.cpu_support_arm_asimdhp():
            raise ValueError(
                "ncnn computes in float16 only on Arm CPUs with asimdhp, and this CPU has none: "
                "--against ncnn:float32 compares with float32"
            )
        self._contender, self._threads = contender, threads
        self._net = self._load(self._half)
        self._feed = [
            (name, ncnn.Mat(np.ascontiguousarray(x[0], np.float32)).clone())  # a Mat does not keep its array alive
            for name, x in zip(contender["inputs"], inputs, strict=True)
        ]
        self._names = contender["outputs"]

    def _load(self, arithmetic: bool):
        import ncnn

        net = ncnn.Net()
        option = net.opt
        option.num_threads = self._threads
        option.use_fp16_packed = option.use_fp16_storage = self._half
        option.use_fp16_arithmetic = arithmetic
        option.use_bf16_storage = option.use_vulkan_compute = False
        net.opt = option
        if net.load_param(self._contender["param"]) or net.load_model(self._contender["bin"]):
            raise ValueError(f"ncnn cannot read {self._contender['param']}")
        return net

    def run(self) -> None:
        """One inference."""
        self._found = self._extract(self._net)

    def _extract(self, net) -> list:
        extractor = net.create_extractor()
        for name, x in self._feed:
            extractor.input(name, x)
        found = []
        for name in self._names:
            code, y = extractor.extract(name)
            if code:
                raise RuntimeError(f"ncnn: extract {name}: {code}")
            found.append(y)
        return found

    def outputs(self) -> list[np.ndarray]:
        """In the model's order, with the batch of one."""
        return [np.array(y)[None] for y in self._found]

    def kernels(self) -> str:
        """The dtype of its layers, seen from their outputs: ``float16: 27 layers, 26 of them packed by 8; ...``.

        In float16 two things must hold. Each layer with weights leaves values of 16 bits. And the outputs differ from
        those of the same network with half precision in storage alone, whose sums are float32.

        Raises
        ------
        ValueError
            It ran in float32, in whole or in part.
        """
        extractor = self._net.create_extractor()
        extractor.set_light_mode(False)  # values are kept, so that each layer runs once
        for name, x in self._feed:
            extractor.input(name, x)
        blobs, found, wide = self._net.blobs(), Counter(), []
        for layer in self._net.layers():
            if layer.type == "Input":
                continue
            code, y = extractor.extract(blobs[layer.tops[0]].name, 1)  # as the layer left them
            if code:
                raise RuntimeError(f"ncnn: extract {layer.name}: {code}")
            found[y.elembits(), y.elempack] += 1
            if y.elembits() != 16 and layer.type.startswith(("Convolution", "InnerProduct")):
                wide.append(layer.name)
        if self._half and wide:
            raise ValueError(f"ncnn ran {len(wide)} layers in float32 though told float16, the first is {wide[0]}")
        if self._half:
            in_storage, whole = ([np.array(y) for y in self._extract(net)] for net in (self._load(False), self._net))
            if all(np.array_equal(a, b) for a, b in zip(in_storage, whole, strict=True)):
                raise ValueError(
                    "ncnn stored float16 and computed in float32: its outputs are those of float16 storage only"
                )
        return "; ".join(
            f"float{bits}: {sum(n for (b, _), n in found.items() if b == bits)} layers, "
            + ", ".join(f"{n} packed by {pack}" for (b, pack), n in sorted(found.items(), reverse=True) if b == bits)
            for bits in sorted({bits for bits, _ in found})
        )


ENGINES = {"tvm_mobilenet": Own, "tvm": by_tvm, "onnxruntime": OnnxRuntime, "litert": LiteRt, "ncnn": Ncnn}


def version(engine: str) -> str:
    """The version of an engine's package; empty if it is not installed."""
    if engine == "tvm_mobilenet":
        return tvm_mobilenet.__version__
    try:
        return metadata.version(packages.MODULES[packages.ENGINES[engine]].distribution)
    except metadata.PackageNotFoundError:
        return ""
