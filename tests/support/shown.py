"""Something for every verb that prints a table: what it prints at a width is compared with ``tests/cli/golden``.

The layers are those of MobileNet v1 1.0-224 on a Raspberry Pi 4, the figures are made up and look like real ones.
"""

import math
from pathlib import Path
from types import SimpleNamespace

from tvm_mobilenet import build, complexity, doctor, factorize, ship, sweep, tune, verify
from tvm_mobilenet import profile as profile_verb
from tvm_mobilenet.checking.network_ends import OutputCheck
from tvm_mobilenet.cli import tune_text
from tvm_mobilenet.compiler.module import BuiltLayer
from tvm_mobilenet.diagnosis.checks import Check, Checks
from tvm_mobilenet.layer import Layer
from tvm_mobilenet.measuring import benchmark, benchmark_text, layer_profile
from tvm_mobilenet.measuring.benchmark import LayerTime, Row
from tvm_mobilenet.measuring.conditions import Mark
from tvm_mobilenet.measuring.roofline import Roofline
from tvm_mobilenet.measuring.statistics import Statistics
from tvm_mobilenet.models.labels import BestClass
from tvm_mobilenet.models.options import ModelOptions
from tvm_mobilenet.survey import sweep_text
from tvm_mobilenet.tuning import known_layers

V1 = (  # each distinct layer, and how often v1 1.0-224 has it
    ("fused conv 224x224x3 n32 3x3 s2 p1,1,1,1 nchw f32 relu6 > depthwise 112x112x32 3x3 p1,1,1,1 f32 relu6 > "
     "pointwise m12544 n64 k32 f32 relu6 > depthwise 112x112x64 3x3 s2 p1,1,1,1 f32 relu6 > "
     "pointwise m3136 n128 k64 f32 relu6", 1),
    ("fused depthwise 56x56x128 3x3 p1,1,1,1 f32 relu6 > pointwise m3136 n128 k128 f32 relu6", 1),
    ("fused depthwise 56x56x128 3x3 s2 p1,1,1,1 f32 relu6 > pointwise m784 n256 k128 out272 f32 relu6", 1),
    ("depthwise 28x28x256 3x3 p1,1,1,1 in272 out272 f32 relu6", 1),
    ("pointwise m784 n256 k256 in272 out272 f32 relu6", 1),
    ("depthwise 28x28x256 3x3 s2 p1,1,1,1 in272 out272 f32 relu6", 1),
    ("pointwise m196 n512 k256 in272 out544 f32 relu6", 1),
    ("depthwise 14x14x512 3x3 p1,1,1,1 in544 out544 f32 relu6", 5),
    ("pointwise m196 n512 k512 in544 out544 f32 relu6", 5),
    ("depthwise 14x14x512 3x3 s2 p1,1,1,1 in544 out544 f32 relu6", 1),
    ("pointwise m49 n1024 k512 in544 out1088 f32 relu6", 1),
    ("depthwise 7x7x1024 3x3 p1,1,1,1 in1088 out1088 f32 relu6", 1),
    ("pointwise m49 n1024 k1024 in1088 out1088 f32 relu6", 1),
    ("pool 7x7x1024 avg 7x7 in1088 f32", 1),
    ("dense m1 n1000 k1024 f32", 1),
)  # fmt: skip
FUSED_BLOCK = {
    "row_tiles": 2,
    "column_tiles": 2,
    "tile_m": 7,
    "tile_n": 8,
    "rows": 4,
    "columns": 28,
    "unroll": 4,
    "order": "rows",
}
INDENT = 40  # at most, of what follows a label
TILES = {"tile_m": 7, "tile_n": 8, "k_block": 128, "m_block": 98, "unroll": 4, "order": "m"}


def _cycles(name: str) -> float:
    return 37_003.0 + Layer.parse(name).mult_adds / 7.0


def _decisions(name: str) -> dict:
    return FUSED_BLOCK if name.startswith("fused") else TILES


def tune_result() -> tune.TuneResult:
    layers = [
        tune.LayerResult(
            name,
            count,
            _decisions(name),
            "tuned",
            240,
            27,
            Layer.parse(name).mult_adds / 8,
            1.01 * _cycles(name),
            _cycles(name),
            _cycles(name) / 3.2,
            [],
            0.9 * _cycles(name),
        )
        for name, count in V1
    ]

    def total(field: str) -> float:
        return sum(getattr(layer, field) * layer.count for layer in layers)

    return tune.TuneResult(
        "v1 1-224",
        "rpi4",
        "cortex-a72",
        4,
        "virtual",
        "time",
        "cycles",
        True,
        layers,
        total("untuned"),
        total("tuned"),
        total("tuned_all_cores"),
        total("floor"),
        1.5e9,
        Path("out/tune_log.jsonl"),
        405,
        verification=verify_result(),
        compute=total("compute"),
    )


def verify_result() -> verify.VerifyResult:
    checks = [
        verify.LayerCheck(f"layer_{i:03}", name, f"features.{i}.0", 1e-6 * (i + 1)) for i, (name, _) in enumerate(V1)
    ]
    output = OutputCheck("output0", 1.3e-4, 3.1e-5, 1e-4, 1.0, 1.0, 1.0, 5.4e-4)
    return verify.VerifyResult(
        Path("out/v1-1.0-224-rpi4"),
        "rpi4",
        "virtual",
        "PyTorch 2.13.0",
        2,
        [output],
        checks,
        1.64e8,
        4.98e7,
        109.1,
        33.2,
        4,
        [BestClass(281, "tabby cat", 3.47, 0.214), BestClass(282, "tiger cat", 3.17, 0.159)],
        1.48e8,
    )


def bench_result() -> benchmark.Benchmark:
    seconds = (0.1063, 0.1069, 0.1071, 0.1094, 0.1312)
    state = {"temperature_c": 51.0, "clock_hz": 1.5e9, "throttled": [], "throttling_from": "the firmware"}
    later = {**state, "temperature_c": 63.0, "clock_hz": 1.8e9}
    layers = [LayerTime(f"layer_{i:03}", n, _cycles(n) / 1.5e9, _cycles(n) / 1.6e9) for i, (n, _) in enumerate(V1)]
    warm = {"runs": 8, "seconds": 0.9, "first_seconds": 0.21, "steady": True}
    rows = [
        Row(n, Statistics.of([s / n for s in seconds]), 2, 30, warm, 0.21, 31 << 20, 60 << 20, 72 << 20, layers,
            [], [state, later], [Mark("load", "another process takes 40 % of a core", "end it")] if n == 4 else [])
        for n in (1, 4)
    ]  # fmt: skip
    peers = [
        benchmark.Peer(e, 1, v, Statistics.of([f * s for s in seconds]), f, f - 0.02, f + 0.03, 3e-7, 80 << 20)
        for e, v, f in (("onnxruntime", "1.32.0", 1.21), ("litert", "2.3.0", 1.06))
    ]
    facts = {
        "model": "Raspberry Pi 4 Model B Rev 1.5",
        "cpu": "Cortex-A72",
        "cores": 4,
        "system": "Debian GNU/Linux 13",
    }
    return benchmark.Benchmark(
        {"model": "v1"},
        "rpi4",
        "rpc://127.0.0.1:9090",
        False,
        "2026-11-28T09:00:00+00:00",
        {},
        {"board": facts},
        rows,
        peers,
        {"bytes": 17 << 20, "seconds": 1.4},
        {},
    )


def profile_result(beside: bool) -> layer_profile.Profile:
    whole = sum(_cycles(name) for name, _ in V1)
    layers = [
        layer_profile.LayerProfile(
            i,
            f"layer_{i:03}",
            name.split()[0],
            "",
            name,
            _cycles(name) / 1.5e9,
            _cycles(name) / whole,
            Layer.parse(name).mult_adds,
            12.34,
            Roofline(_cycles(name) / 1.7e9, None, _cycles(name) / (1.6e9 if i % 5 else 1.8e9)),
            1.133,
            _decisions(name),
            "cortex-a72.jsonl",
            _cycles(name) / 1.55e9 if beside else None,
        )
        for i, (name, _) in enumerate(V1)
    ]
    return layer_profile.Profile(
        {"model": "v1"},
        "rpi4",
        "rpc://127.0.0.1:9090" if beside else "virtual",
        1,
        not beside,
        layers,
        layer_profile.kinds_of(layers),
        whole / 1.5e9,
        {},
    )


def complexity_result() -> complexity.Complexity:
    layers = tuple(
        complexity.LayerComplexity(
            f"features.{i}.0",
            name,
            name.split()[0],
            Layer.parse(name).mult_adds,
            Layer.parse(name).mult_adds,
            Layer.parse(name).channels * Layer.parse(name).out_channels,
            4 * Layer.parse(name).channels * Layer.parse(name).out_channels,
            4 * math.prod(Layer.parse(name).input_shape),
        )
        for i, (name, _) in enumerate(V1[3:])
    )
    blocks = (complexity.Block("features.3.0", 54_000_000, 463_000_000, 0.115, 54_000_000.0),)
    sums = (sum(getattr(c, f) for c in layers) for f in ("mult_adds", "formula", "parameters", "weight_bytes"))
    return complexity.Complexity("v1 1-224", layers, blocks, *sums, sum(c.activation_bytes for c in layers))


def doctor_result() -> Checks:
    return Checks(
        found=[
            Check("python", "ok", "3.11.7, tvm_mobilenet 0.1.0"),
            Check("packages to compile", "ok", "torch 2.13.0, onnx 1.23.2, safetensors 0.8.0, pillow 13.0.0, ziglang "
                  "0.17.1, unicorn 2.1.4, capstone 5.0.9, pyelftools 0.33, optuna 5.0.0"),
            Check("tvm", "FAILED", "TVM here has no LLVM", "pip install 'apache-tvm==0.27.0.post1'", 3),
            Check("ffi", "not reached", "needs: tvm"),
            Check("temporary folder", "doubtful", "/tmp: 211 MiB are free", "make room, or set TMPDIR to a folder that "
                  "has some"),
        ]
    )  # fmt: skip


def _known() -> None:
    searches = {
        name: SimpleNamespace(
            name=name, count=count, size=240, tried={}, floor=Layer.parse(name).mult_adds / 8, space=None, done=True
        )
        for name, count in V1
    }
    found = {
        name: SimpleNamespace(
            record=SimpleNamespace(cost=_cycles(name), predicted=True, decisions=_decisions(name)),
            source=Path("tune_logs/cortex-a72.jsonl"),
        )
        for name, _ in V1
    }
    rows = [known_layers.row_of(s, found[name]) for name, s in searches.items()]
    known_layers.print_rows(rows, 31)


def _sweep() -> None:
    networks = [
        sweep.Variant("v1", a, r, 109.3 * a, 33.1 * a, True, int(5.6e8 * a), int(4.2e6 * a), int(17e6 * a),
                      int(21e6 * a), top, "paper")
        for a, r, top in ((1.0, 224, 0.709), (0.5, 224, 0.633), (0.25, 128, None))
    ]  # fmt: skip
    twins = [sweep.Twin("v1 1-224", 8.55, 12.04, 14.28)]
    board = "Raspberry Pi 4 Model B"
    sweep_text.print_result(sweep.SweepResult("rpi4", board, "cortex-a72", 4, "virtual", networks, twins))


def _factorize() -> None:
    names = ("conv 112x112x32 n64 3x3 p1,1,1,1 f32 relu6", "conv 7x7x1024 n1024 3x3 p1,1,1,1 f32 relu6")
    shares = tuple(0.9 - 0.1 * i for i in range(9))
    factorize._print(ModelOptions(model="v1-plain"), [
        factorize.Factorisation(f"features.{i}.0", name, shares, shares, shares) for i, name in enumerate(names)
    ])  # fmt: skip


def _build() -> None:
    layers = [BuiltLayer(name, _decisions(name), "cortex-a72.jsonl") for name, _ in V1]
    folder = Path("out/v1-1.0-224-rpi4")
    build.print_result(build.BuildResult(folder, "v1 1-224", "rpi4", layers, 23, 17 << 20, 16 << 20, 3 << 20, 1 << 16))


def _ship() -> None:
    ship.print_result(
        [
            ship.Shipped("ssh://pi@kitchen.local/srv/mobilenet", "2f0c91d1a3", "ok: 2 inputs, largest difference 1e-6"),
            ship.Shipped("ssh://pi@cellar.local/srv/mobilenet", "", "", "ssh: connect to host cellar.local port 22: No "
                         "route to host\nis it switched on?"),
        ]
    )  # fmt: skip


VERBS = {
    "tune": lambda: tune_text.print_result(tune_result()),
    "tune-list": _known,
    "build": _build,
    "verify": lambda: verify.print_result(verify_result()),
    "bench": lambda: benchmark_text.show(bench_result(), "table"),
    "profile": lambda: profile_verb.print_result(profile_result(False), "order"),
    "profile-board": lambda: profile_verb.print_result(profile_result(True), "slowest"),
    "profile-kind": lambda: profile_verb.print_result(profile_result(True), "kind"),
    "complexity": lambda: complexity._print_layers(complexity_result()),
    "sweep": _sweep,
    "factorize": _factorize,
    "doctor": lambda: doctor.print_result(doctor_result()),
    "ship": _ship,
}
