"""Sparse weights are unpacked when a file is read; what does not fit is refused, and nothing grows without end."""

import numpy as np
import pytest

from tests.support.tflite_files import Net
from tvm_mobilenet.checking import network_steps
from tvm_mobilenet.compiler.network import load_network
from tvm_mobilenet.errors import TvmMobilenetError
from tvm_mobilenet.frontend import tflite_graph, tflite_run
from tvm_mobilenet.models.options import ModelOptions

SIZE, OUT = 16, 12


def packed(s, dense, order, blocks=(), compressed=(), vector="Int32"):
    """A tensor's values and their places: levels in an order, of which some are compressed."""
    rank, sizes = dense.ndim, dict(blocks)
    parts = [(d // sizes.get(a, 1), sizes.get(a, 1)) for a, d in enumerate(dense.shape)]
    split = dense.reshape([n for part in parts for n in part])
    axes = [2 * a for a in range(rank)] + [2 * a + 1 for a, _ in blocks]
    whole = split.transpose([axes[o] for o in order] + [2 * a + 1 for a in range(rank) if a not in sizes])
    whole = whole.reshape([split.shape[axes[o]] for o in order])
    given = s.SparsityParametersT()
    given.traversalOrder, given.blockMap, given.dimMetadata = list(order), [a for a, _ in blocks] or None, []
    paths = [()]
    for level, size in enumerate(whole.shape):
        one = s.DimensionMetadataT()
        if order[level] in compressed:
            kept = [[i for i in range(size) if np.any(whole[(*path, i)])] for path in paths]
            one.format, number = s.DimensionType.SPARSE_CSR, getattr(s.SparseIndexVector, f"{vector}Vector")
            one.arraySegmentsType = one.arrayIndicesType = number
            one.arraySegments, one.arrayIndices = (getattr(s, f"{vector}VectorT")() for _ in range(2))
            one.arraySegments.values = [0, *np.cumsum([len(k) for k in kept])]
            one.arrayIndices.values = [i for k in kept for i in k]
        else:
            one.format, one.denseSize = s.DimensionType.DENSE, size
            kept = [range(size)] * len(paths)
        given.dimMetadata.append(one)
        paths = [(*path, i) for path, row in zip(paths, kept, strict=True) for i in row]
    return given, np.array([whole[path] for path in paths], dense.dtype)


def weight(net, dtype, **form):
    dense = np.random.default_rng(0).standard_normal((OUT, SIZE)).astype(np.float32)
    dense[np.abs(dense) < 1] = 0
    dense[4:8, 4:12] = 0
    sparsity, values = packed(net.s, dense.astype(dtype), **form)
    made = net.value((OUT, SIZE), dtype, data=values)
    net.graph.tensors[made].sparsity = sparsity
    return made, dense.astype(dtype)


FORMS = {
    "rows": {"order": (0, 1), "compressed": (1,)},
    "columns": {"order": (1, 0), "compressed": (0,), "vector": "Uint8"},
    "blocks": {"order": (0, 1, 2, 3), "blocks": ((0, 4), (1, 2)), "compressed": (1,), "vector": "Uint16"},
    "both compressed": {"order": (0, 1), "compressed": (0, 1)},
    "blocks of a row": {"order": (0, 1, 2), "blocks": ((1, 4),), "compressed": (1,)},
}


def saved(path, form, dtype="float32"):
    net = Net()
    x = net.input((1, SIZE))
    made, dense = weight(net, dtype, **form)
    made = net.op("DENSIFY", [made], net.value((OUT, SIZE), dtype), "Densify")
    if dtype != "float32":
        made = net.op("DEQUANTIZE", [made], net.value((OUT, SIZE)), "Dequantize")
    y = net.op("FULLY_CONNECTED", [x, made], net.value((1, OUT)), "FullyConnected")
    return net.save(path, y), dense


@pytest.mark.parametrize("name", FORMS)
def test_a_sparse_weight_is_the_dense_one(name, tmp_path):
    path, dense = saved(tmp_path / "net.tflite", FORMS[name])
    (one,) = tflite_graph.read(path).operators
    assert np.array_equal(tflite_graph.read(path).tensors[one.inputs[1]].data, dense)


@pytest.mark.full
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_network_with_one_computes_what_litert_does(dtype, tmp_path):
    path, _ = saved(tmp_path / "net.tflite", FORMS["blocks" if dtype == "float32" else "rows"], dtype)
    x = np.random.default_rng(1).standard_normal((1, SIZE)).astype(np.float32)
    ((ours,),) = network_steps.outputs(load_network(ModelOptions(model=str(path))), [(x,)])
    (((due,),), _, _) = tflite_run.outputs(path, [(x,)])
    assert due.std() > 0 and np.abs(ours - due).max() <= 1e-5


def change(sparsity, level, what, value):
    one = sparsity.dimMetadata[level]
    target = one if what in ("format", "denseSize") else getattr(one, what)
    setattr(target, what if target is one else "values", value)


@pytest.mark.parametrize(
    "change",
    [
        lambda s: setattr(s, "traversalOrder", [0, 0]),
        lambda s: setattr(s, "traversalOrder", [0, 1, 2]),
        lambda s: setattr(s, "blockMap", [5]),
        lambda s: setattr(s, "dimMetadata", s.dimMetadata[:1]),
        lambda s: change(s, 0, "denseSize", 7),
        lambda s: change(s, 1, "format", 9),
        lambda s: change(s, 1, "arraySegments", [0, 3]),
        lambda s: change(s, 1, "arraySegments", [0] * OUT + [10**9]),
        lambda s: change(s, 1, "arrayIndices", [-1] * len(s.dimMetadata[1].arrayIndices.values)),
        lambda s: change(s, 1, "arrayIndices", s.dimMetadata[1].arrayIndices.values[:-1]),
        lambda s: setattr(s.dimMetadata[1], "arrayIndices", None),
    ],
)
def test_places_that_do_not_fit_are_refused(change, tmp_path):
    net = Net()
    made, _ = weight(net, "float32", **FORMS["rows"])
    change(net.graph.tensors[made].sparsity)
    y = net.op("FULLY_CONNECTED", [net.input((1, SIZE)), made], net.value((1, OUT)), "FullyConnected")
    with pytest.raises(TvmMobilenetError, match="not a whole TFLite file"):
        tflite_graph.read(net.save(tmp_path / "net.tflite", y))


def test_a_small_file_cannot_become_a_large_tensor(tmp_path):
    net = Net()
    made = net.value((16_000, 16_000), data=np.zeros(1, np.float32))
    net.graph.tensors[made].sparsity, _ = packed(net.s, np.eye(2, dtype=np.float32), (0, 1), compressed=(1,))
    y = net.op("FULLY_CONNECTED", [net.input((1, 16_000)), made], net.value((1, 16_000)), "FullyConnected")
    with pytest.raises(TvmMobilenetError, match="constants are many times as large"):
        tflite_graph.read(net.save(tmp_path / "net.tflite", y))
