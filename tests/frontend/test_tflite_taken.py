"""Each operator that TVM's front end for TFLite converts is compared in a test here, or named with the reason."""

import ast
import importlib.util
from pathlib import Path

from tests.frontend import (
    test_tflite_detection,
    test_tflite_operators,
    test_tflite_quantized,
    test_tflite_recurrent,
    test_tflite_stablehlo,
)
from tests.support.tflite_files import Net
from tvm_mobilenet.frontend import tflite_graph, tflite_operators

FLOW = "control flow"
STATE = "it keeps a state between runs; TVM does not convert a variable tensor either"
RANDOM = "random numbers: TVM calls its own runtime, which no device has"
SHAPE = "the shape of its output depends on data"
REASONS = {
    **dict.fromkeys(("IF", "WHILE", "STABLEHLO_WHILE"), FLOW),
    **dict.fromkeys(("LSTM", "SVDF"), STATE),
    **dict.fromkeys(("MULTINOMIAL", "RANDOM_STANDARD_NORMAL", "RANDOM_UNIFORM"), RANDOM),
    "STABLEHLO_RNG_BIT_GENERATOR": "random numbers in uint64, which no layer has",
    **dict.fromkeys(("UNIQUE", "WHERE"), SHAPE),  # TVM's WHERE has three operands, which no file of TFLite has
    **dict.fromkeys(("HASHTABLE", "HASHTABLE_FIND", "HASHTABLE_IMPORT", "HASHTABLE_SIZE"), "tables of texts"),
    **dict.fromkeys(("DELEGATE", "PLACEHOLDER_FOR_GREATER_OP_CODES"), "a mark, which TVM refuses too"),
    "TAN": "no operator of TFLite's schema",
    "DETECTION_POSTPROCESS": "a custom operator: CUSTOM_TFLite_Detection_PostProcess",
    "QUANTIZE": "compared by test_tflite_quantized",
    "DENSIFY": "unpacked when the file is read: test_tflite_sparse",
}


def taken() -> set[str]:
    """The keys of the table of TVM's converter, from its source: it imports a package that we do not need."""
    package = importlib.util.find_spec("tvm").submodule_search_locations[0]
    source = (Path(package) / "relax/frontend/tflite/tflite_frontend.py").read_text()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "self.convert_map":
            return {key.value for key in node.value.keys}
    raise AssertionError("TVM has no such table any more")


def compared(tmp_path) -> set[str]:
    """The names of all operators in the tables of the tests, also of graphs that others run."""
    path, found = tmp_path / "net.tflite", set()

    def add(graph):
        for operator in graph.operators:
            found.add(operator.name)
            if operator.body is not None:
                add(operator.body)

    add(tflite_graph.read(test_tflite_operators.saved(path, test_tflite_operators.CASES.values())))
    add(tflite_graph.read(test_tflite_stablehlo.saved(path, test_tflite_stablehlo.ALL.values())))
    for table in (test_tflite_detection.CASES, test_tflite_recurrent.CASES):
        for make in table.values():
            net = Net()
            add(tflite_graph.read(net.save(path, *make(net))))
    return found


def test_what_tvm_takes_is_taken_or_named(tmp_path):
    assert test_tflite_quantized and len(keys := taken()) > 200
    found = compared(tmp_path)
    assert keys - found == set(REASONS), sorted((keys - found) ^ set(REASONS))
    assert set(tflite_operators.CONVERTERS) <= found | {"QUANTIZE"}
