"""Run three passes of a peer, the second and third between the plugin's marks, in the harness's aarch64 Python.

    peer_passes.py ncnn|litert THREADS

The options are those of the harness's own runners except for the threads; its ``runners/common.py`` has the input and
compares the output with PyTorch's.
"""

import contextlib
import os
import sys

import numpy as np

PEER, THREADS = sys.argv[1], int(sys.argv[2])
sys.argv = ["common", "3"]
sys.path.insert(0, os.environ["ARMCOST_WORK"] + "/runners")
import common  # noqa: E402


def mark(k: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.getpgid(0x7E570000 + k)


def ncnn_pass():
    import ncnn

    net = ncnn.Net()
    o = net.opt
    o.num_threads = THREADS
    o.use_fp16_packed = o.use_fp16_storage = o.use_fp16_arithmetic = o.use_bf16_storage = False
    o.use_packing_layout, o.use_int8_inference, o.use_vulkan_compute = True, False, False
    net.opt = o
    net.load_param(common.M + "v1.param")
    net.load_model(common.M + "v1.bin")
    data = ncnn.Mat(common.x[0])

    def one():
        extractor = net.create_extractor()
        extractor.input("data", data)
        failed, found = extractor.extract("prob")
        assert failed == 0
        return found

    return one, np.array


def litert_pass():
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=common.M + "v1.tflite", num_threads=THREADS)
    interpreter.allocate_tensors()
    to, out = interpreter.get_input_details()[0]["index"], interpreter.get_output_details()[0]["index"]
    data = np.ascontiguousarray(common.x.transpose(0, 2, 3, 1))

    def one():
        interpreter.set_tensor(to, data)
        interpreter.invoke()

    return one, lambda _: interpreter.get_tensor(out)


one, output = {"ncnn": ncnn_pass, "litert": litert_pass}[PEER]()
one()
mark(1)
one()
mark(2)
found = one()
mark(3)
common.check(output(found))
