"""Run a number of inferences of another engine on a network's file, in the harness's aarch64 Python, which has no TVM.

    peer_inferences.py N litert|ncnn|onnxruntime FOLDER

`benchmarks.peers` writes the folder: the network for each engine, the first image as ``input.npy`` and PyTorch's
outputs for it as ``expected.npy``. It uses one thread and float32. If the outputs differ from PyTorch's, it ends with
an exit code, so that no figure comes from a wrong computation.
"""

import json
import sys
from pathlib import Path

import numpy as np

CLOSE = 1e-3  # standard deviations


def onnxruntime(files: dict, x: np.ndarray):
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # instructions of waiting must not count
    session = ort.InferenceSession(files["model"], options, providers=["CPUExecutionProvider"])
    feed = {session.get_inputs()[0].name: x}
    return lambda: session.run(None, feed)[0]


def litert(files: dict, x: np.ndarray):
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=files["model"], num_threads=1)
    interpreter.allocate_tensors()
    to, out = interpreter.get_input_details()[0]["index"], interpreter.get_output_details()[0]["index"]
    x = np.ascontiguousarray(x.transpose(0, 2, 3, 1))

    def one():
        interpreter.set_tensor(to, x)
        interpreter.invoke()
        return interpreter.get_tensor(out)

    return one


def ncnn(files: dict, x: np.ndarray):
    import ncnn as engine

    net = engine.Net()
    option = net.opt
    option.num_threads = 1
    option.use_fp16_packed = option.use_fp16_storage = option.use_fp16_arithmetic = option.use_bf16_storage = False
    option.use_vulkan_compute = False
    net.opt = option
    assert net.load_param(files["param"]) == net.load_model(files["bin"]) == 0
    data, (given,), (wanted,) = engine.Mat(x[0]).clone(), files["inputs"], files["outputs"]

    def one():
        extractor = net.create_extractor()
        extractor.input(given, data)
        failed, found = extractor.extract(wanted)
        assert failed == 0
        return found

    return one


def main(count: int, engine: str, folder: Path) -> int:
    files = json.loads((folder / "files.json").read_text(encoding="utf-8"))[engine]
    one = {"onnxruntime": onnxruntime, "litert": litert, "ncnn": ncnn}[engine](files, np.load(folder / "input.npy"))
    for _ in range(count):
        found = one()
    expected = np.load(folder / "expected.npy").astype(np.float64).ravel()
    off = np.abs(np.array(found).astype(np.float64).ravel() - expected).max() / expected.std()
    print(f"CHECK difference={off:.2e}", flush=True)
    return 0 if off < CLOSE else f"{engine}: outputs are {off:.2e} standard deviations from PyTorch's"


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2], Path(sys.argv[3])))
