"""int8: every kernel equals its definition, value for value, on every target and for every way of summing products."""

import numpy as np
import pytest
from tvm_mobilenet.schedules import integer_conv, integer_depthwise, integers, nest

from tvm_mobilenet import boards, schedules, targets
from tvm_mobilenet.checking import integers as definition
from tvm_mobilenet.compiler import codegen
from tvm_mobilenet.errors import TvmMobilenetError
from tvm_mobilenet.kinds.places import Place
from tvm_mobilenet.layer import Layer

LAYERS = (
    "pointwise m20 n32 k48 i8 group4 small relu6",
    "pointwise m9 n37 k24 i8 group4 small",
    "pointwise m10 n16 k35 i8 group2 small relu",
    "pointwise m12 n24 k40 in48 out32 i8 group4 small add relu6",
    "pointwise m12 n16 k16 i8 add_after",
    "dense m1 n101 k72 i8 writes_f32 group4",
    "dense m3 n10 k72 i8 group4 small hardswish",
    "depthwise 9x9x32 3x3 p1,1,1,1 i8 group3 small",
    "depthwise 8x9x24 3x3 s2 p0,0,1,1 in32 out32 i8 group3 small relu6",
    "depthwise 9x7x16 5x5 p2,2,2,2 i8 group3 small hardswish",
    "depthwise 9x7x20 5x5 s2 p2,2,2,2 b2 i8 group2 relu",
    "depthwise 6x6x7 3x3 p2,2,2,2 d2 i8",
    "conv 12x12x3 n16 3x3 s2 p1,1,1,1 in4 i8 group2 small relu6",
    "conv 12x12x3 n24 3x3 s2 p1,1,1,1 nchw i8 group2 small relu6",
    "conv 6x6x32 n21 3x3 p1,1,1,1 i8",
    "conv 6x6x32 n24 3x3 p1,1,1,1 i8 group2",
    "conv 6x6x20 n20 3x3 s2 p1,1,1,1 g4 b2 i8 relu6",
    "elementwise 4x4x24 add i8 small relu",
    "elementwise 4x4x24 sub i8",
    "elementwise 4x4x24 mul i8 small",
    "elementwise 4x4x24 scale i8",
    "elementwise 4x4x24 none i8 hardswish",
    "elementwise 5x19x3 none nchw out4 i8 reads_f32",
    "elementwise 4x4x24 none i8 writes_f32",
    "pool 7x7x24 avg 7x7 i8 small",
    "pool 8x8x16 max 3x3 s2 p1,1,1,1 i8",
    "pointwise m9 n12 k40 i8 group1 small",
    "pointwise m9 n37 k24 i8 weights_i16 relu6",
    "depthwise 6x7x32 3x3 p1,1,1,1 i8 group1 small",
    "depthwise 6x7x24 3x3 s2 p1,1,1,1 i8 weights_i16",
    "conv 8x8x3 n16 3x3 s2 p1,1,1,1 in4 i8 weights_i16 small",
    "depthwise 9x7x20 3x3 p1,1,1,1 i8 group3 small prelu",
    "conv 9x9x3 n12 3x3 s2 p1,1,1,1 in4 i8 group2 prelu",
    "pointwise m13 n24 k40 i8 group4 small prelu",
    "pointwise m13 n22 k40 i8 group4 small clip-1,1",
    "dense m3 n10 k72 i8 group4 small leaky0.1",
    "depthwise 9x6x16 3x3 p2,1,2,1 d2,1 i8 group3 small",
    "pointwise m12 n24 k40 in48 out32 from8of600 into5of400 i8 group4 small",
    "depthwise 8x9x24 3x3 s2 p0,0,1,1 in32 out32 from5of2400 into3of700 i8 group3 small relu6",
    "conv 6x6x32 n24 3x3 p1,1,1,1 out40 into9of1500 i8 group2",
    "pool 8x8x16 max 3x3 s2 p1,1,1,1 in24 from7of1600 i8",
    "elementwise 4x4x24 none i8 small prelu",
    "elementwise 4x5x18 rescale in24 out36 from3of600 into18of750 i8 small",
    "elementwise 5x3x7 none b2 i8 prelu",
    "pool 9x8x20 mean 3x3 s2 p1,1,1,1 b2 i8 small",
    "pool 9x8x20 avg 3x3 s2 p1,1,1,1 i8 small",
    "pool 6x7x16 mean 5x3 p2,1,3,1 d1,2 i8",
    "pointwise m13 n10 k36 i8 group4 small relu6",
    "pointwise m23 n9 k20 i8 group4 small hardswish add_after",
    "pointwise m21 n18 k8 i8 group2 small prelu add_after",
    "pointwise m21 n18 k12 in18 out20 from6of384 into2of430 i8 group4 small",
    "pointwise m9 n6 k30 i8 group2 small add",
    "pointwise m9 n12 k5 i8 group4 small",
    "dense m1 n20 k67 i8 group4",
    "depthwise 6x7x12 3x3 p1,1,1,1 i8 group3 small",
    "depthwise 5x6x6 3x3 s2 p1,1,1,1 in9 out8 from3of400 into2of90 i8 group3 small relu6",
    "depthwise 5x5x29 5x5 p2,2,2,2 i8 group2 hardswish",
    "conv 7x9x24 n18 3x3 p4,4,4,4 d4 i8 group2 small relu6",
    "conv 6x5x32 n9 3x3 s2 p1,2,1,2 i8 weights_i16",
    "conv 7x9x48 n18 3x3 p4,4,4,4 d4 in52 i8 group2 small relu6",
    "depthwise 7x11x24 5x5 p6,6,6,6 d3 i8 group3 small relu",
    "depthwise 9x10x20 3x3 s2 p4,3,2,4 d4,3 i8 group2 small",
    "conv 13x17x3 n8 3x3 s2 p1,1,1,1 in4 i8 group2 small relu6",
    "conv 7x6x12 n24 3x3 p1,1,1,1 g12 i8 group3 small",
    "conv 6x5x10 n40 3x3 s2 p1,1,1,1 g10 b2 in12 out44 i8 group2 relu6",
)
SOME = [("rpi5", name) for name in LAYERS[::2]]


def operands_of(name: str, seed: int = 0):
    """Layer, data, constants and second operand, all of it drawn."""
    layer, rng = Layer.parse(name), np.random.default_rng(seed)
    assert layer.name == name

    def draw(shape):
        return rng.integers(-128, 128, shape).astype(np.int8)

    real = layer.input_dtype == "float32"
    data = rng.standard_normal(layer.input_shape).astype(np.float32) * 2 if real else draw(layer.input_shape)
    second = None if layer.second_shape is None else draw(layer.second_shape)
    return layer, data, definition.random_constants(layer, data, rng), second


def in_buffer(array: np.ndarray, place: Place) -> np.ndarray:
    """An array in memory, what lies between its rows drawn: nothing may depend on it."""
    buffer = np.random.default_rng(9).integers(-128, 128, place.buffer).astype(array.dtype)
    place.view(buffer)[...] = array
    return buffer


def run(target, layer: Layer, data, constants, second, path, decisions=None) -> np.ndarray:
    decisions = decisions or schedules.space(layer, target.core).default
    others = [] if second is None else [in_buffer(second, layer.second_place)]
    packed = schedules.pack(layer, decisions, constants)
    output = np.zeros(layer.output_buffer, layer.output_dtype)
    arguments = [in_buffer(data, layer.input_place), *packed, *others, output]
    library = codegen.compile_kernels({nest.SYMBOL: schedules.kernel(layer, decisions)}, target, path)
    where = "local" if target.is_host else "virtual"
    with boards.open_board(where, target) as board, board.load(library) as module:
        found = module.call(nest.SYMBOL, arguments).outputs[-1]
    return layer.output_place.view(found)


# The same instructions in both: a Cortex-A72's order of them, or a Cortex-A53's.
WITHOUT_DOT = [("rpi3" if i % 2 else "rpi4", name) for i, name in enumerate(LAYERS)]
OTHERS = [
    *(("rpi5", name) for name in LAYERS[1::2]),
    *WITHOUT_DOT,
    *((target, name) for target in ("armv7", "host") for name in LAYERS),
]


def test_a_few_columns_beyond_a_vector_share_one_with_other_rows():
    """Two columns of eight rows took two vectors of sixteen lanes, and one column a tile of twelve."""
    core, name = targets.load("rpi5").core, "pointwise m784 n{} k40 i8 group4 small"
    layer = Layer.parse(name.format(10))
    chosen = schedules.space(layer, core).default
    text = str(schedules.kernel(layer, chosen))
    rows = chosen["tile_m"] * chosen["tile_n"]
    assert chosen["tile_n"] == 8 and text.count('"float32x16", "llvm.fma"') == (rows + 2 * chosen["tile_m"]) // 16
    assert schedules.space(Layer.parse(name.format(21)), core).default["tile_n"] == 16
    assert schedules.space(layer, targets.load("rpi4").core).default["few"] == "padded"
    assert "few" not in schedules.space(Layer.parse(name.format(11)), core).default


@pytest.mark.parametrize("target", ["rpi4", "rpi5"])
def test_a_dilated_filter_has_the_code_of_a_plain_one_on_each_residue(target):
    """It took 1.7 times as long on a Cortex-A76 when neighbouring positions, which share no data, made a tile."""
    core = targets.load(target).core

    def code(name: str) -> list[int]:
        layer = Layer.parse(name)
        text = str(schedules.kernel(layer, schedules.space(layer, core).default))
        return [text.count(word) for word in ("Shuffle", "sdot", '"data"', "int16x8", "for ")]

    few = Layer.parse("depthwise 4x4x16 3x3 p2,2,2,2 d2 i8 group3 small")
    assert target == "rpi4" or schedules.space(few, core).default["tile_w"] == 1, "whose bytes of weights count"
    assert code("depthwise 24x24x16 3x3 p3,3,3,3 d3 i8 group3 small") == code(
        "depthwise 8x8x16 3x3 p1,1,1,1 i8 group3 small"
    )


@pytest.mark.parametrize(
    "target, name",
    [*SOME, *(pytest.param(*other, marks=pytest.mark.full) for other in OTHERS)],
)
def test_a_kernel_equals_its_definition(target, name, tmp_path):
    layer, data, constants, second = operands_of(name)
    expected = definition.run(layer, data, constants, second)
    assert len(np.unique(expected)) > 8, "an output that depends on its input"
    found = run(targets.load(target), layer, data, constants, second, tmp_path / "k.so")
    assert np.array_equal(found, expected)


@pytest.mark.parametrize(
    "name",
    [LAYERS[0], LAYERS[12], *(pytest.param(LAYERS[i], marks=pytest.mark.full) for i in (3, 7, 9))],
)
def test_every_way_of_summing_gives_the_same_bits(name, tmp_path):
    """Also what a core would not choose, and other tiles."""
    target = targets.load("rpi5")
    layer, data, constants, second = operands_of(name)
    expected = definition.run(layer, data, constants, second)
    default = schedules.space(layer, target.core).default
    ways = {
        "depthwise": ("dot", "taps", "wide"),
        "pointwise": ("dot", "long", "wide"),
        "conv": ("dot", "long", "wide"),
    }[layer.kind]
    for i, way in enumerate(ways):
        tile = {"tile_n": 8 if layer.kind == "conv" else 4, "tile_m": 2, "tile_w": 1, "tile_h": 1} if i else {}
        decisions = {**default, **{k: v for k, v in tile.items() if k in default}, "products": way}
        if layer.kind == "conv" and i:
            decisions["n_block"] = 1
        elif i and "n_block" in default:
            decisions |= {"n_block": 1, "m_block": 1}
        found = run(target, layer, data, constants, second, tmp_path / f"{way}.so", decisions)
        assert np.array_equal(found, expected), way


@pytest.mark.parametrize("name", [n for n in LAYERS if n.startswith(("conv 7x9x48", "conv 6x6x32 n24 3x3 p1,1,1,1 o"))])
def test_taps_with_many_channels_are_summed_as_a_product(name, tmp_path):
    """A Cortex-A72 takes 1.2 to 1.6 times as long when it broadcasts each channel; for a Cortex-A53 that is the faster
    way.
    """
    layer, data, constants, second = operands_of(name)
    rpi4, rpi3 = targets.load("rpi4"), targets.load("rpi3")
    assert integer_conv.ways(layer, rpi4.core)[0] == "deep" and "deep" not in integer_conv.ways(layer, rpi3.core)
    assert schedules.space(layer, rpi4.core).default["products"] == "deep"
    found = run(rpi4, layer, data, constants, second, tmp_path / "k.so")
    assert np.array_equal(found, definition.run(layer, data, constants))


@pytest.mark.parametrize("target", ["rpi4", pytest.param("rpi5", marks=pytest.mark.full)])
@pytest.mark.parametrize(
    "name",
    [
        "pointwise m9 n24 k16 i8 group4 small hardswish",
        pytest.param("dense m3 n10 k72 i8 group4 hardswish", marks=pytest.mark.full),
    ],
)
def test_tables_are_read_from_where_they_begin_to_differ(name, target, tmp_path):
    """Three quarters of a table are read where the first is one value: hard-swish below -3. One entry may forbid it,
    and a value that is clamped before it is looked up ends where the clamp says. Else activations would be wrong."""
    layer, data, constants, _ = operands_of(name)
    target, ends = targets.load(target), constants["ends"]
    decisions = schedules.space(layer, target.core).default
    names = [argument for argument, *_ in schedules.of(layer).constants(layer, decisions)]
    library = codegen.compile_kernels({nest.SYMBOL: schedules.kernel(layer, decisions)}, target, tmp_path / "k.so")
    full = np.random.default_rng(1).permutation(np.arange(-128, 128)).astype(np.int8)
    constant = np.concatenate([np.full(64, full[64]), full[64:]])
    odd = np.concatenate([full[:1], constant[1:]])
    constants["scale"] = constants["scale"] * np.float32(2)  # often at the ends
    cases = [(table, ends[2:4]) for table in (full, constant, odd)] + [(full, (-61, 90)), (odd, (-70, 127))]
    with boards.open_board("virtual", target) as board, board.load(library) as module:

        def of(packed) -> np.ndarray:
            arguments = [in_buffer(data, layer.input_place), *packed, np.zeros(layer.output_buffer, np.int8)]
            return module.call(nest.SYMBOL, arguments).outputs[-1][..., : layer.output_shape[-1]]

        for (table, bounds), starts in zip(cases, (-128, -64, -128, -64, -64), strict=True):
            given = {**constants, "table": table, "ends": np.array([*ends[:2], *bounds], np.int32)}
            packed = schedules.pack(layer, decisions, given)
            assert (packed[names.index("lowest")] == starts).all()
            assert np.array_equal(of(packed), definition.run(layer, data, given))
        wrong = schedules.pack(layer, decisions, {**constants, "table": full})
        wrong[names.index("lowest")] = np.full(16, -64, np.int8)
        assert not np.array_equal(of(wrong), definition.run(layer, data, {**constants, "table": full}))


@pytest.mark.parametrize("name", ["pointwise m200 n16 k48 i8 group4 small", LAYERS[7], LAYERS[12]])
@pytest.mark.parametrize("planted", ["weight", "scale", "zero", "bias"])
def test_one_unit_is_found(name, planted, tmp_path):
    layer, data, constants, second = operands_of(name)
    expected = definition.run(layer, data, constants, second)
    wrong = {key: array.copy() for key, array in constants.items()}
    if planted == "weight":
        wrong["weight"].flat[5] += 1
    elif planted == "scale":
        wrong["scale"][1] *= 1.01
    elif planted == "bias":
        wrong["bias"][2] += int(2 / wrong["scale"][2])
    else:
        wrong["ends"][1] += 1
    assert not np.array_equal(run(targets.load("rpi5"), layer, data, wrong, second, tmp_path / "k.so"), expected)


# ---- requantization


EVERY = [pytest.param(name, 1 << 24, marks=pytest.mark.full) for name in ("rpi4", "rpi5", "armv7", "host")]


@pytest.mark.parametrize("small", [True, False])
@pytest.mark.parametrize("target, count", [("rpi4", 1 << 12), *EVERY])
def test_a_sum_is_rounded_once_ties_to_even(small, target, count, tmp_path):
    """Sums and factors whose products lie at and around halves; a product that is rounded first would fail here."""
    target = targets.load(target)
    rng = np.random.default_rng(0)
    factor = np.exp2(rng.uniform(-12, -6, 16)).astype(np.float32)
    factor[:4] = 0.5, 0.25, 0.375, 0.125
    wanted = rng.integers(-200, 200, count) + 0.5
    total = np.rint(wanted / np.tile(factor, count // 16)).astype(np.int32) + rng.integers(-1, 2, count).astype(
        np.int32
    )
    total = np.clip(total, -(2**21), 2**21).astype(np.int32)
    ends = np.array([-3, -100, 90], np.int32)

    with (
        nest.Kernel(
            [
                ("sums", (count,), "int32"),
                ("factor", (16,), "float32"),
                ("ends", (3,), "int32"),
                ("output", (count,), "int8"),
            ],
            {},
        ) as f,
        nest.serial(count // 16) as i,
    ):
        lanes, own = nest.Lanes(i * 16, 16), integers.Ends(*(f["ends"][n] for n in range(3)), True)
        factors = f["factor"][nest.Lanes(0, 16)]
        f["output"][lanes] = integers.requantize(f["sums"][lanes], factors, own, small, 16)
    library = codegen.compile_kernels({nest.SYMBOL: f.prim_func}, target, tmp_path / "k.so")
    given = (total + (integers.BITS if small else 0)).astype(np.int32)
    where = "local" if target.is_host else "virtual"
    with boards.open_board(where, target) as board, board.load(library) as module:
        found = module.call(nest.SYMBOL, [given, factor, ends, np.zeros(count, np.int8)]).outputs[-1]
    expected = definition.requantized(total, np.tile(factor, count // 16), -3, -100, 90)
    assert np.array_equal(found, expected)
    twice = np.rint(total.astype(np.float32) * np.tile(factor, count // 16)) - 3
    assert (np.clip(twice, -100, 90) != expected).any() or small, "the draw holds sums that tell the two apart"


def test_adversarial_sums_stay_in_their_integers(tmp_path):
    """All data at the ends and weights at the most that the groups allow: int16 sums reach 32,640, and no further."""
    target = targets.load("rpi4")
    for name, most in (
        ("pointwise m4 n8 k64 i8 group4", 63),
        ("pointwise m4 n8 k64 i8 group2", 127),
        ("conv 3x3x32 n4 3x3 p1,1,1,1 i8 group2", 127),
    ):
        layer, data, constants, _ = operands_of(name)
        for value in (-128, 127):
            for sign in (-1, 1):
                data[:] = value
                constants["weight"][:] = sign * most
                constants["scale"][:] = 1e-5
                expected = definition.run(layer, data, constants)
                assert np.array_equal(run(target, layer, data, constants, None, tmp_path / "k.so"), expected)
    layer, data, constants, _ = operands_of("depthwise 5x5x16 3x3 p1,1,1,1 i8 group3")
    data[:], constants["weight"][:], constants["scale"][:] = -128, 85, 1e-4
    assert np.array_equal(
        run(target, layer, data, constants, None, tmp_path / "d.so"), definition.run(layer, data, constants)
    )


@pytest.mark.parametrize("target", ["rpi4", pytest.param("rpi5", marks=pytest.mark.full)])
@pytest.mark.parametrize(
    "name",
    [
        "pointwise m4 n8 k64 i8 group1",
        "depthwise 5x5x16 3x3 p1,1,1,1 i8 group1",
        "conv 6x6x4 n8 3x3 p1,1,1,1 i8",
        "dense m1 n8 k64 i8 weights_i16",
        "depthwise 5x5x16 3x3 p1,1,1,1 i8 weights_i16",
    ],
)
def test_weights_that_come_with_a_network_may_be_the_lowest(name, target, tmp_path):
    """Data and weights of -128: two of their products overflow an int16. Less their zero points weights reach 255."""
    layer, data, constants, _ = operands_of(name)
    for value, weight in ((-128, -128), (127, -128), (-128, 255 if layer.weights else 127)):
        data[:], constants["weight"][:], constants["scale"][:] = value, weight, 1e-5
        expected = definition.run(layer, data, constants)
        assert np.array_equal(run(targets.load(target), layer, data, constants, None, tmp_path / "k.so"), expected)


def test_quads_of_columns_hold_all_taps_of_their_outputs():
    for kernel, stride in ((3, 1), (3, 2), (5, 1), (5, 2), (7, 1)):
        layer = Layer.parse(f"depthwise 16x16x16 {kernel}x{kernel} s{stride} i8".replace(" s1 ", " "))
        last = (integer_depthwise.outputs(layer) - 1) * stride + kernel
        assert last <= integer_depthwise.quads(layer) * 4 < last + stride


@pytest.mark.parametrize("target", ["rpi5", "host", pytest.param("rpi3", marks=pytest.mark.full)])
def test_images_are_divided_by_their_scale_as_rounding_says(target, tmp_path):
    """Without a division: quotients beside halves, whose last unit decides, infinities, numbers that are not normal."""
    layer, data, constants, second = operands_of("elementwise 8x64x3 none nchw out4 i8 reads_f32")
    few = (2 - 2**-13, 1 + 2**-13, 3277 * 2**-18)  # at most 14 significant bits: one step
    for seed, step in enumerate((0.0187, 1 / 3, 1.9999999, 1.0000001, 3e-20, *few)):
        rng, scale = np.random.default_rng(seed), np.float32(step)
        halves = ((rng.integers(-300, 300, data.size) + 0.5).astype(np.float32) * scale).astype(np.float32)
        beside = (halves.view(np.int32) + rng.integers(-3, 4, data.size).astype(np.int32)).view(np.float32)
        beside[:8] = np.inf, -np.inf, 0.0, -0.0, 1e-45, -1e-40, 3e38, -3e38
        constants["scale"] = np.array([scale], np.float32)
        with np.errstate(over="ignore"):
            expected = definition.run(layer, beside.reshape(data.shape), constants, second)
        found = run(targets.load(target), layer, beside.reshape(data.shape), constants, second, tmp_path / "k.so")
        np.testing.assert_array_equal(found, expected)


def test_a_scale_whose_quotients_could_be_off_is_refused():
    layer, _, constants, _ = operands_of("elementwise 8x64x3 none nchw out4 i8 reads_f32")
    constants["scale"] = np.array([1e-33], np.float32)
    with pytest.raises(TvmMobilenetError, match=r"a scale of 1e-33"):
        schedules.pack(layer, {}, constants)
