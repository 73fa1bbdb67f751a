"""What runs a network in a measured process: our own module in its own runtime or in TVM's, or another engine on the
same weights.

An engine is made with a contender's description, the inputs and a number of threads; ``run()`` is one inference on
those inputs, ``outputs()`` what the last one gave. Only an engine's own package is imported, so that the memory a
process takes is that engine's. Each is set up as its documentation says for latency on CPUs in float32.
"""

from __future__ import annotations

from importlib import metadata

import numpy as np

import tvm_mobilenet
from tvm_mobilenet import packages


class Own:
    """The module in its own runtime, as it ships; ``library``, ``parameters``: paths of a build's."""

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
        """Seconds that timing a call of nothing shows: the library reads the clock once a call, in some 30 ns."""
        return 0.0


def by_tvm(contender: dict, inputs: list[np.ndarray], threads: int):
    """Our module in TVM's runtime: its executable, or where there is none its kernels by its plan."""
    if "executable" in contender:
        return Tvm(contender, inputs, threads)
    from tvm_mobilenet.boards.agent.plan_calls import PlanCalls

    return PlanCalls(contender["module"], contender["plan"], contender["parameters"], inputs)


class Tvm:
    """The module as TVM's Relax VM runs it; ``executable``: its path.

    The VM's stateful interface is used: inputs are set once, as an application that owns its buffer does.
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


class OnnxRuntime:
    """ONNX Runtime's CPU provider; ``model``: an ``.onnx`` file."""

    def __init__(self, contender: dict, inputs: list[np.ndarray], threads: int):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(contender["model"], options, providers=["CPUExecutionProvider"])
        names = [i.name for i in self._session.get_inputs()]
        self._feed = dict(zip(names, inputs, strict=True))

    def run(self) -> None:
        """One inference."""
        self._found = self._session.run(None, self._feed)

    def outputs(self) -> list[np.ndarray]:
        """In the model's order."""
        return list(self._found)


class LiteRt:
    """LiteRT with its default delegate, XNNPACK; ``model``: a ``.tflite`` file that takes images channels-last."""

    def __init__(self, contender: dict, inputs: list[np.ndarray], threads: int):
        from ai_edge_litert.interpreter import Interpreter

        self._interpreter = Interpreter(model_path=contender["model"], num_threads=threads)
        self._interpreter.allocate_tensors()
        nhwc = contender.get("nhwc_inputs", [])
        for place, x, channels_last in zip(self._interpreter.get_input_details(), inputs, nhwc, strict=True):
            x = x if channels_last or x.ndim != 4 else x.transpose(0, 2, 3, 1)
            self._interpreter.set_tensor(place["index"], np.ascontiguousarray(x))

    def run(self) -> None:
        """One inference; inputs stay set."""
        self._interpreter.invoke()

    def outputs(self) -> list[np.ndarray]:
        """In the model's order."""
        return [self._interpreter.get_tensor(o["index"]) for o in self._interpreter.get_output_details()]


class Ncnn:
    """ncnn in float32; ``param`` and ``bin``: its two files, ``inputs`` and ``outputs``: names of its blobs."""

    def __init__(self, contender: dict, inputs: list[np.ndarray], threads: int):
        import ncnn

        if any(x.shape[0] != 1 for x in inputs):
            raise ValueError("ncnn runs one image at a time: use --batch 1")
        self._net = ncnn.Net()
        option = self._net.opt
        option.num_threads = threads
        option.use_fp16_packed = option.use_fp16_storage = option.use_fp16_arithmetic = False
        option.use_bf16_storage = option.use_vulkan_compute = False
        self._net.opt = option
        if self._net.load_param(contender["param"]) or self._net.load_model(contender["bin"]):
            raise ValueError(f"ncnn cannot read {contender['param']}")
        self._feed = [
            (name, ncnn.Mat(np.ascontiguousarray(x[0]))) for name, x in zip(contender["inputs"], inputs, strict=True)
        ]
        self._names = contender["outputs"]

    def run(self) -> None:
        """One inference."""
        extractor = self._net.create_extractor()
        for name, x in self._feed:
            extractor.input(name, x)
        self._found = []
        for name in self._names:
            code, y = extractor.extract(name)
            if code:
                raise RuntimeError(f"ncnn: extract {name}: {code}")
            self._found.append(y)

    def outputs(self) -> list[np.ndarray]:
        """In the model's order, with the batch of one."""
        return [np.array(y)[None] for y in self._found]


ENGINES = {"tvm_mobilenet": Own, "tvm": by_tvm, "onnxruntime": OnnxRuntime, "litert": LiteRt, "ncnn": Ncnn}


def version(engine: str) -> str:
    """Of an engine's package, empty when it is not installed."""
    if engine == "tvm_mobilenet":
        return tvm_mobilenet.__version__
    try:
        return metadata.version(packages.MODULES[packages.ENGINES[engine]].distribution)
    except metadata.PackageNotFoundError:
        return ""
