"""Files of TensorFlow's own converter build, verify against LiteRT and are bundled; a change of one is found."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.frontend.keras_files import make
from tvm_mobilenet import build, targets, verify
from tvm_mobilenet.checking import given_layers, network_steps
from tvm_mobilenet.compiler.network import load_network
from tvm_mobilenet.errors import VerificationError
from tvm_mobilenet.frontend import tflite_graph, tflite_run
from tvm_mobilenet.models.options import ModelOptions

HERE = Path(make.__file__).parent
pytest.importorskip("ai_edge_litert")


def batch():
    return [(x[None],) for x in make.images()[:4]]


@pytest.mark.parametrize("name", ["float32", "float16", "int8"])
def test_kerass_networks_compute_what_litert_does(name):
    path = HERE / f"{name}.tflite"
    made = load_network(ModelOptions(model=str(path), layout="NHWC"))
    assert made.image.preprocess.layout == "NHWC" and made.scores == "softmax"
    assert not [c for c in made.layers if c.layer.body], "a layer of our own for each operator"
    ours, theirs = network_steps.outputs(made, batch()), tflite_run.outputs(path, batch())[0]
    unit = 1 / 256 if name == "int8" else 0
    for (a,), (b,) in zip(ours, theirs, strict=True):
        assert b.std() > 0 and np.abs(a - b).max() <= 1e-5 + 1.01 * unit
    if name == "int8":
        found = given_layers.differences(made, made.whole_numbers(batch()))
        given_layers.require(found)
        assert sum(one.count for one in found) <= 1e-3 * sum(one.size for one in found)


def test_a_file_builds_verifies_and_is_found_to_have_changed(tmp_path):
    """On the machine code of a Raspberry Pi 5; a weight of the file that changes by a unit names its layer.

    Nothing is said of the images: the file takes bytes, which are their own values (without that its output is the same
    for each photograph, and the bundle is refused).
    """
    path = shutil.copy(HERE / "int8.tflite", tmp_path / "net.tflite")
    options = ModelOptions(model=str(path))
    target = targets.load("rpi5")
    build.build(options, target, output=tmp_path / "out", bundle=tmp_path / "net.tar.gz")
    assert (tmp_path / "net.tar.gz").stat().st_size > 0
    found = verify.verify(tmp_path / "out", inputs=batch()[:2])
    found.require()
    assert found.reference.startswith("LiteRT") and len(found.layers) > 12

    graph, data = tflite_graph.read(path), bytearray(path.read_bytes())
    weight = next(graph.tensors[o.inputs[1]].data for o in graph.operators if o.name == "DEPTHWISE_CONV_2D")
    at = bytes(data).index(weight.tobytes()) + weight.size // 2
    data[at] = (data[at] + 1) % 256
    path.write_bytes(data)
    with pytest.warns(UserWarning, match="has changed"), pytest.raises(VerificationError, match="depthwise"):
        verify.verify(tmp_path / "out", inputs=batch()[:2]).require()


@pytest.mark.full
@pytest.mark.parametrize("name, alpha, size", [("v1", 0.5, 128), ("v2", 0.5, 96)])
def test_whole_mobilenets_compute_what_litert_does(name, alpha, size, tmp_path):
    """As `bench --against litert` writes them, in float32 and in int8."""
    from tests.support import quantized_files
    from tvm_mobilenet.peers import contents, tflite

    xs = [(np.ascontiguousarray(x[None].transpose(0, 2, 3, 1)),) for x in quantized_files.images(2, size, seed=7)]
    for dtype in ("float32", "int8"):
        network = load_network(ModelOptions(model=name, alpha=alpha, resolution=size, dtype=dtype))
        path = tmp_path / f"{dtype}.tflite"
        path.write_bytes(tflite.write(contents.contents(network, dtype)))
        made = load_network(ModelOptions(model=str(path)))
        assert made.quantized == (dtype == "int8")
        ours = np.array([y[0] for y in network_steps.outputs(made, xs)])
        theirs = np.array([y[0] for y in tflite_run.outputs(path, xs)[0]])
        if dtype == "float32":
            assert np.abs(ours - theirs).max() <= 1e-4 * theirs.std()
            assert (ours.argmax(-1) == theirs.argmax(-1)).all()
            continue
        found = given_layers.differences(made, made.whole_numbers(xs))
        given_layers.require(found)
        # Of all layers together: XNNPACK adds residuals in fixed point, and of some pairs of scales 0.3 % are ties.
        exact = [one for one in found if not one.averages]
        assert sum(one.count for one in exact) <= 1e-3 * sum(one.size for one in exact)
        other = np.array([y[0] for y in tflite_run.outputs(path, xs, "BUILTIN_REF")[0]])
        assert np.abs(ours - theirs).mean() <= 1.5 * np.abs(other - theirs).mean()
