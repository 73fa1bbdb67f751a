"""Inputs and outputs of whole numbers in bundles: what they stand for, images in one step, and the caller's settings of
floats."""

import ctypes
import functools
import platform
import subprocess
import types

import numpy as np
import pytest
import torch

from tests.support import bundles, modules
from tvm_mobilenet import build, targets
from tvm_mobilenet.bundle import pack
from tvm_mobilenet.checking import network_steps
from tvm_mobilenet.compiler.network import load_network
from tvm_mobilenet.errors import TvmMobilenetError, VerificationError
from tvm_mobilenet.models.options import ModelOptions

IMAGE = np.random.default_rng(3).integers(0, 256, (40, 60, 3), np.uint8)
FULL = pytest.mark.full
ON_HOST = [
    ("int8", "uint8"),
    pytest.param("int8", "float32", marks=FULL),
    pytest.param("int8", "int8", marks=FULL),
    pytest.param("float32", "uint8", marks=FULL),
]


@functools.cache
def made(dtype: str, io: str, target: str = "host"):
    """A bundle of the small network from a file, and the network."""
    options = ModelOptions(model=modules.tiny_options().model, dtype=dtype, io=io)
    network, root = load_network(options), modules.root() / f"ends-{dtype}-{io}-{target}"

    def make(root) -> None:
        build.build(options, targets.load(target), output=root / "built", network=network, bundle=root / "bundle")

    modules.once(root, make)
    return types.SimpleNamespace(network=network, folder=root / "bundle")


def opened(bundle, threads: int = 2):
    return bundles.python_interface().Mobilenet(bundle.folder, threads)


@pytest.mark.parametrize("dtype, io", ON_HOST)
def test_an_image_gives_what_its_input_gives(dtype, io):
    """In int8 the image becomes what the first step would make of the input; in integers to the bit."""
    bundle = made(dtype, io)
    port = bundle.network.signature.inputs[0]
    with opened(bundle) as net:
        given = net.preprocess(IMAGE)
        assert given.dtype == port.dtype == io
        wanted = bundle.network.image.preprocess
        real = wanted.normalise(wanted.pixels(IMAGE) / 255.0)
        assert np.array_equal(given, port.stored(real))
        scores = net.run_image(IMAGE)
        assert np.array_equal(scores, net.run(given)[0]) and len(np.unique(scores)) > 3
        assert {name: found.tolist() for name, found in net.run_named(given).items()} == {
            net.outputs[0][0]: scores.tolist()
        }
        assert net.selftest()["difference"] <= (0 if dtype == "int8" else 1e-4)
        if dtype == "int8":
            assert np.array_equal(scores, network_steps.outputs(bundle.network, [(given,)])[0][0])
        own = bundle.network.signature.outputs[0].real(scores)[0]
        best = net.top(scores, 2)
        assert [b.index for b in best] == list(np.argsort(-own.astype(np.float64), kind="stable")[:2])
        assert best[0].score == pytest.approx(float(own.max()))
        assert 0 < sum(b.probability for b in net.top(scores, own.size)) == pytest.approx(1)


def test_an_interface_says_what_its_numbers_stand_for():
    bundle = made("int8", "uint8")
    data, out = bundle.network.signature.inputs[0].encoding, bundle.network.signature.outputs[0].encoding
    told = pack.read(bundle.folder).manifest["encodings"]
    assert told["output0"] == {"scale": [out.step], "zero_point": [out.zero]}
    assert told["input"] == {"scale": list(data.scales), "zero_point": list(data.zeros), "axis": 1}
    done = subprocess.run([bundle.folder / "mobilenet", "info"], capture_output=True, text=True)
    assert f"uint8 1 x 16, 16 bytes, stands for (v - {out.zero}) * {out.step:.9g}\n" in done.stdout
    assert "a channel stands for (v - 127.5) * 0.00784313725; " in done.stdout
    with opened(bundle) as net:
        (given,), (found,) = net.input_encodings, net.output_encodings
        pixels = np.arange(3 * 32 * 32, dtype=np.uint8).reshape(1, 3, 32, 32)
        assert np.allclose(given.real(pixels), data.real(pixels), atol=1e-6)
        assert np.array_equal(given.stored(given.real(pixels)), pixels)
        assert np.array_equal(found.real(np.uint8([0, 255])), out.real(np.uint8([0, 255])))
        with pytest.raises(Exception, match="NaN cannot become an integer"):
            found.stored(np.float32([np.nan]))


@pytest.mark.parametrize("wrong", ["float32", "int8", "int64", "bool", "complex64"])
def test_numbers_of_another_dtype_are_no_bytes(wrong):
    with opened(made("int8", "uint8")) as net:
        with pytest.raises(
            Exception, match=f"input input: {wrong} numbers, the model's are uint8: see input_encodings"
        ):
            net.run(np.zeros((1, 3, 32, 32), wrong))
        with pytest.raises(Exception, match=f"scores: {wrong} numbers, the model's are uint8"):
            net.top(np.zeros((1, 16), wrong))


def test_a_program_takes_an_input_of_its_dtype(tmp_path):
    bundle = made("int8", "uint8")
    with opened(bundle) as net:
        given = net.preprocess(IMAGE)
        best = net.top(net.run_image(IMAGE), 1)[0]
    np.save(tmp_path / "own.npy", given)
    np.save(tmp_path / "image.npy", IMAGE)
    given.tofile(tmp_path / "own.raw")
    np.save(tmp_path / "floats.npy", given.astype(np.float32))
    program = bundle.folder / "mobilenet"
    for name in ("own.npy", "image.npy", "own.raw"):
        done = subprocess.run([program, "classify", tmp_path / name, "--top", "1"], capture_output=True, text=True)
        assert done.returncode == 0 and done.stdout.split()[0] == f"{best.score:.4f}", (name, done)
    done = subprocess.run([program, "classify", tmp_path / "floats.npy"], capture_output=True, text=True)
    assert done.returncode == 1 and "it holds float32 of shape 1 x 3 x 32 x 32, the input is uint8 of" in done.stderr
    assert done.stderr.endswith("`mobilenet info` tells the meaning of its integers\n")


# ---- the caller's settings of floats


def settings():
    """This CPU's environment of floats with each rounding mode, and with small numbers taken for zero: bytes."""
    libm = ctypes.CDLL("libm.so.6")
    x86 = platform.machine() == "x86_64"
    place, flush, modes = (28, 0x8040, (0x2000, 0x4000, 0x6000)) if x86 else (0, 1 << 24, (1 << 22, 2 << 22, 3 << 22))
    plain = ctypes.create_string_buffer(64)
    assert libm.fegetenv(plain) == 0
    for bits in (*modes, flush):
        changed = ctypes.create_string_buffer(plain.raw, 64)
        own = int.from_bytes(changed.raw[place : place + 4], "little") | bits
        changed[place : place + 4] = own.to_bytes(4, "little")
        yield libm, plain, changed, place


@pytest.mark.parametrize("threads", [1, 2])
def test_the_callers_settings_of_floats_change_no_bit_and_stay(threads):
    """Rounding up changes most int8 values of a network; a thread that is started then has to round as others do."""
    bundle = made("int8", "uint8")
    with opened(bundle, threads) as net:
        given = net.preprocess(IMAGE)
        right = net.run_image(IMAGE)
    for libm, plain, changed, place in settings():
        after = ctypes.create_string_buffer(64)
        libm.fesetenv(changed)
        try:
            with opened(bundle, threads) as net:
                image, scores, found = net.preprocess(IMAGE), net.run_image(IMAGE), net.run(given)[0]
                libm.fegetenv(after)
        finally:
            libm.fesetenv(plain)
        assert np.array_equal(image, given) and np.array_equal(scores, right) and np.array_equal(found, right)
        wanted, own = (int.from_bytes(e.raw[place : place + 4], "little") & ~0x3F for e in (changed, after))
        assert own == wanted, "but for the flags of what happened"


# ---- on ARM


@FULL
@pytest.mark.parametrize("dtype", ["int8", "float16"])
def test_every_core_gives_the_same_outputs(dtype, tmp_path):
    """Bundles of three cores, each under emulators of all cores that have its instructions."""
    command = bundles.emulator("aarch64")
    if command is None:
        pytest.skip("needs apt-get install qemu-user libc6-arm64-cross")
    cores = {"rpi3": "cortex-a53", "rpi4": "cortex-a72", "rpi5": "neoverse-n1"}
    said = set()
    np.save(tmp_path / "image.npy", IMAGE)
    for target in ("rpi5",) if dtype == "float16" else cores:
        bundle = made(dtype, "float32", target)
        for cpu in ("neoverse-n1",) if target == "rpi5" else cores.values():
            program = [*command, "-cpu", cpu, str(bundle.folder / "mobilenet")]
            done = subprocess.run([*program, "selftest"], capture_output=True, text=True)
            assert done.returncode == 0 and "difference 0.00e+00" in done.stdout, done
            done = subprocess.run([*program, "classify", tmp_path / "image.npy", "--top", "16"], capture_output=True)
            said.add(done.stdout)
    assert len(said) == 1 and len(said.pop().splitlines()) == 16


@FULL
@pytest.mark.parametrize("value", [70000.0, -65520.0, np.nan, np.inf])
def test_a_value_beyond_float16_is_an_error(value, tmp_path):
    command = bundles.emulator("aarch64")
    if command is None:
        pytest.skip("needs apt-get install qemu-user libc6-arm64-cross")
    given = np.zeros((1, 3, 32, 32), np.float32)
    program = [
        *command,
        "-cpu",
        "neoverse-n1",
        str(made("float16", "float32", "rpi5").folder / "mobilenet"),
        "classify",
    ]
    given[0, 1, 2, 3] = 65504
    np.save(tmp_path / "x.npy", given)
    assert subprocess.run([*program, tmp_path / "x.npy"], capture_output=True).returncode == 0
    given[0, 1, 2, 3] = value
    np.save(tmp_path / "x.npy", given)
    done = subprocess.run([*program, tmp_path / "x.npy"], capture_output=True, text=True)
    words = (
        f"input input holds {value:g} at 1091, beyond 65504" if np.isfinite(value) else "at 1091: give finite numbers"
    )
    assert done.returncode == 1 and words in done.stderr and not done.stdout, done


# ---- other networks


class TwoEnds(torch.nn.Module):
    """Two inputs, two outputs, a batch, and a resize, which computes in float32 between layers of int8."""

    def __init__(self):
        super().__init__()
        self.a, self.b = torch.nn.Conv2d(3, 8, 3, 2, 1), torch.nn.Conv2d(3, 8, 3, 1, 1)
        self.c, self.l = torch.nn.Conv2d(8, 8, 1), torch.nn.Linear(8, 5)

    def forward(self, x, y):
        u, v = self.a(x).relu(), self.b(y).relu()
        u = self.c(torch.nn.functional.interpolate(u, scale_factor=2.0, mode="bilinear"))
        return self.l(u.mean((2, 3))), v.mean((2, 3))


class NoImage(torch.nn.Module):
    """Five channels of an odd size, and a row of numbers."""

    def __init__(self):
        super().__init__()
        self.a, self.l, self.o = torch.nn.Conv2d(5, 7, 3, 1, 1), torch.nn.Linear(11, 7), torch.nn.Linear(7, 3)

    def forward(self, x, z):
        return self.o(self.a(x).relu().mean((2, 3)) + self.l(z))


@FULL
@pytest.mark.parametrize("io", ["float32", "int8", "uint8"])
@pytest.mark.parametrize("net, shapes", [(TwoEnds, [(2, 3, 16, 16), (2, 3, 9, 7)]), (NoImage, [(2, 5, 9, 7), (2, 11)])])
def test_a_device_finds_its_expected_outputs(net, shapes, io, tmp_path):
    """Those of its own layers, with some of them in float32: PyTorch's would be off by what quantizing does."""
    torch.manual_seed(0)
    given = tuple(torch.zeros(shape) for shape in shapes)
    torch.export.save(torch.export.export(net().eval(), given), tmp_path / "net.pt2")
    options = ModelOptions(model=str(tmp_path / "net.pt2"), dtype="int8", io=io)
    network = load_network(options)
    build.build(options, targets.load("host"), output=tmp_path / "built", network=network, bundle=tmp_path / "bundle")
    assert pack.read(tmp_path / "bundle").manifest["error"]["found"] < 1e-4
    ports = (*network.signature.inputs, *network.signature.outputs)
    assert {port.dtype for port in ports} == {io} and all(
        (port.encoding is None) == (io == "float32") for port in ports
    )
    with bundles.python_interface().Mobilenet(tmp_path / "bundle") as on_device:
        assert on_device.selftest()["difference"] < 1e-4
        inputs = tuple(
            port.stored(np.random.default_rng(5).standard_normal(port.shape)) for port in ports[: len(shapes)]
        )
        found, due = on_device.run(*inputs), network_steps.outputs(network, [inputs])[0]
        for port, one, right in zip(network.signature.outputs, found, due, strict=True):
            assert np.abs(port.real(one) - port.real(right)).max() < 0.02 * port.real(right).std()


@functools.cache
def mixed():
    """A network in integers with layers in float32, whose outputs move where a value is rounded otherwise."""
    return load_network(ModelOptions(model="v1", alpha=0.25, resolution=64, dtype="int8", keep_float="layer_00[3-6]"))


def checked(network, batch: list):
    """What a check of the network on a right device finds, which rounds in float32 in its own way."""
    values = network_steps.outputs(network, batch, 2.0**-22)
    units = [float(np.std([one[j] for one in values])) for j in range(len(network.signature.outputs))]
    return types.SimpleNamespace(
        inputs=batch, values=values, outputs=[types.SimpleNamespace(unit=unit, tolerance=1.0) for unit in units]
    )


def test_a_self_test_of_integers_and_floats_finds_outputs_that_are_wrong(monkeypatch):
    """Inputs travel whose outputs rounding leaves as they are; no others make the self-test accept what is wrong."""
    network = mixed()
    tried = network.inputs(8)
    unsteady = next((x for x in tried[::-1] if pack._rounded(network, [x])[1] > 0.1), None)
    assert unsteady is not None, "each input tells wrong outputs: this shows nothing"
    steady = [x for x in tried if x is not unsteady]
    monkeypatch.setattr(type(network), "inputs", lambda self, count=2: [unsteady, *steady][:count])
    chosen = pack._inputs(network, 2)
    assert len(chosen) == 2 and not any(x is unsteady[0] for (x,) in chosen)
    for batch, most in ((chosen[:1], 0.01), ([unsteady], pack.MOST)):
        found = checked(network, batch)
        allowed, due = pack._expected(network, found)
        units = [o.unit for o in found.outputs]
        assert 0 < allowed <= most
        wrong = [[one + 1.01 * most * unit for one, unit in zip(outputs, units, strict=True)] for outputs in due]
        assert pack._difference(network, wrong, due, units) > allowed, "a planted shift is found"
        with pytest.raises(VerificationError, match="of their scale off what the layers compute"):
            pack._require_found(network, pack._difference(network, wrong, due, units), allowed)


def test_bytes_of_no_image_are_refused_by_layers_of_floats(tmp_path):
    torch.export.save(
        torch.export.export(NoImage().eval(), (torch.zeros(2, 5, 9, 7), torch.zeros(2, 11))), tmp_path / "net.pt2"
    )
    with pytest.raises(
        TvmMobilenetError, match=r"--io uint8: input x \(2, 5, 9, 7\) is not an image, and the layers compute"
    ):
        load_network(ModelOptions(model=str(tmp_path / "net.pt2"), io="uint8"))
