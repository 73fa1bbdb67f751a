"""bench: what it measures is the network, and what made it doubtful is said."""

import csv
import io
import json
import math
import random
import statistics

import numpy as np
import pytest

from tests.support import schemas
from tvm_mobilenet import bench, targets
from tvm_mobilenet.boards import open_board
from tvm_mobilenet.boards.agent import facts, measure, measured_process, services
from tvm_mobilenet.compiler import module as built
from tvm_mobilenet.errors import BoardError, TvmMobilenetError
from tvm_mobilenet.measuring import benchmark, conditions
from tvm_mobilenet.measuring import statistics as timing


def steady(seconds: float, n: int = 100) -> timing.Statistics:
    return timing.Statistics.of([seconds] * n)


# ---- statistics


def test_statistics_are_numpys():
    draw = random.Random(1)
    samples = [draw.lognormvariate(0, 1) for _ in range(101)]
    found = timing.Statistics.of(samples)
    assert (found.samples, found.min, found.max) == (101, min(samples), max(samples))
    assert [found.p50, found.p90, found.p99] == pytest.approx(np.percentile(samples, [50, 90, 99]))
    assert found.mean == pytest.approx(np.mean(samples)) and found.deviation == pytest.approx(np.std(samples, ddof=1))
    assert timing.Statistics.of([2.0]).deviation is None


def test_outliers_are_what_lies_far_above_and_nothing_of_a_normal_spread():
    draw = random.Random(2)
    samples = [draw.gauss(1, 0.02) for _ in range(1000)]
    assert timing.Statistics.of(samples).outliers == 0
    assert timing.Statistics.of([*samples, *[1.5] * 20]).outliers == 20
    assert timing.Statistics.of([1.0] * 99 + [1.01]).outliers == 0, "within 5 % of a machine without any noise"


# ---- the measured process


def test_warm_up_ends_when_times_settle_and_says_when_they_did_not(monkeypatch):
    times = iter([9.0, 5, 5, 5, 3, 3, 3, 2.99, 2.99, 2.99])
    clock = [0.0]
    monkeypatch.setattr(measured_process.time, "perf_counter", lambda: clock[0])

    def each(n, times=times):
        took = [next(times) for _ in range(n)]
        clock[0] += sum(took)
        return took

    found = measured_process.warm_up(each, 1000)
    assert found == {
        "runs": 10,
        "seconds": pytest.approx(41.97),
        "first_seconds": 9.0,
        "steady": True,
        "run_seconds": pytest.approx(2.99),
    }
    rising = iter(range(1, 1000))
    assert not measured_process.warm_up(lambda n: each(n, rising), 60)["steady"]


@pytest.mark.parametrize(
    "run, seconds, number, repeat",
    [(3e-6, 1.0, 67, 4976), (3e-6, 9.0, 67, 5000), (0.01, 3.0, 1, 300), (2.0, 3.0, 1, 10)],
)
def test_number_and_repeat_follow_from_the_first_runs(run, seconds, number, repeat):
    assert measured_process.choose(run, seconds) == (number, repeat)


def test_memory_of_the_row_is_the_measured_processes_own(measured):
    for row in measured.rows:
        assert 0 < row.rss_initial <= row.rss_loaded <= row.rss_peak
        assert row.rss_peak - row.rss_initial < 200 << 20, "a small network: more is what measured it"


def test_a_contender_that_crashes_hangs_or_reports_an_error_is_a_message_and_no_process_stays(tmp_path):
    import os

    base = {"inputs": [[[1, 3, 32, 32], "float32"]], "threads": 1, "seconds": 0.1}
    wrong = tmp_path / "no.so"
    wrong.write_bytes(b"nothing")
    with pytest.raises(BoardError, match="tvm: load: "):
        services.call("measure", {**base, "contenders": [{"engine": "tvm", "executable": str(wrong)}]})
    with pytest.raises(BoardError, match=r"no answer for 0\.05 s"):
        services.call(
            "measure", {**base, "limit_seconds": 0.05, "contenders": [{"engine": "tvm", "executable": str(wrong)}]}
        )
    process = measure.Process(1, None, str(tmp_path), "tvm", 30.0)
    os.kill(process._process.pid, 9)
    with pytest.raises(BoardError, match=r"SIGKILL \(out of memory"):
        process.ask("memory")
    process.close()
    with pytest.raises(ProcessLookupError):
        os.kill(process._process.pid, 0)


def test_cpus_that_are_not_there_are_refused(folders):
    with pytest.raises(BoardError, match=r"CPUs \[4000\] cannot be used"):
        bench.bench(folders / "host", board="local", seconds=0.1, cpus=[4000])


# ---- the record


def test_the_rows_are_of_the_network_and_of_each_layer(measured, folders):
    plan = built.read(folders / "host").plan
    assert [row.threads for row in measured.rows] == [1, 2] and not measured.predicted
    for row in measured.rows:
        assert [(t.name, t.layer) for t in row.layers] == [(s.name, s.layer) for s in plan.steps]
        assert all(0 <= t.min <= t.p50 for t in row.layers)
        assert len(row.samples) == row.repeat == row.time.samples >= measured_process.FEWEST_SAMPLES
        assert row.time == timing.Statistics.of(row.samples)
        assert len(row.states) == measure.ROUNDS + 1 and row.warm_up["runs"] > 1 and row.load_seconds > 0
    assert measured.upload is None, "nothing is sent to this machine"
    board = measured.environment["board"]
    assert board["versions"]["apache-tvm-ffi"] and board["kernel"] and board["cores"] >= 1 and board["memory_bytes"]


def test_the_document_is_read_again_as_it_was(measured, tmp_path):
    benchmark.write(measured, tmp_path / "a" / "b.json")
    again = benchmark.read(tmp_path / "a" / "b.json")
    assert again.rows == measured.rows and again.module == measured.module and again.schema == benchmark.SCHEMA
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["b.json"]


@pytest.mark.parametrize(
    "change, text",
    [
        (lambda d: d.update(schema="tvm_mobilenet.bench/0"), "its schema is 'tvm_mobilenet.bench/0', this reads"),
        (lambda d: d.pop("rows"), "no field rows"),
        (lambda d: d["rows"][0].pop("time"), r"no field rows\[0\].time"),
        (lambda d: d["rows"][0].update(colour=1), r"unknown field rows\[0\].colour"),
        (lambda d: d["rows"][1]["time"].pop("p50"), r"no field rows\[1\].time.p50"),
        (lambda d: d["rows"].__setitem__(0, 3), r"rows\[0\]. is int, not an object"),
        (lambda d: d["rows"][0]["time"].update(p50="x"), r"rows\[0\].time.p50 = 'x' is not float"),
        (lambda d: d["rows"][0]["time"].update(p50=-1.0), r"rows\[0\].time.p50 = -1.0: no run takes that long"),
        (lambda d: d["rows"][0]["time"].update(p50=0.0), r"rows\[0\].time.p50 = 0.0: no run takes that long"),
        (lambda d: d["rows"][0].update(threads=True), r"rows\[0\].threads = True is not int"),
        (lambda d: d.update(model="other"), "model = 'other' is not dict"),
    ],
)
def test_a_document_that_is_not_whole_is_refused_by_field(measured, change, text):
    data = json.loads(json.dumps(benchmark.plain_data(measured)))
    change(data)
    with pytest.raises(TvmMobilenetError, match=text):
        benchmark.from_data(data)


@pytest.mark.parametrize("data", [[], None, 3, "text"])
def test_what_is_no_object_is_no_benchmark(data):
    with pytest.raises(TvmMobilenetError, match="not a benchmark of this version: it is not a JSON object"):
        benchmark.from_data(data)


def test_predictions_are_labelled_and_sum_up(folders, capsys):
    assert bench.main([str(folders / "rpi4"), "--threads", "1,4", "--json"]) == 0
    found = benchmark.from_data(json.loads(capsys.readouterr().out))
    assert found.predicted and found.board == "virtual" and found.how == "predicted"
    one, four = found.rows
    assert one.time.p50 == pytest.approx(sum(t.p50 for t in one.layers)) and four.time.p50 < one.time.p50
    assert bench.main([str(folders / "rpi4")]) == 0
    out = capsys.readouterr().out
    assert "predicted" in out and "measured" not in out


# ---- formats


def test_table_markdown_and_csv_have_the_same_figures(measured, capsys):
    from tvm_mobilenet.measuring import benchmark_text

    p50 = f"{measured.rows[0].time.p50 * 1e3:.4g}"
    benchmark_text.show(measured, "table")
    assert p50 in capsys.readouterr().out
    benchmark_text.show(measured, "markdown")
    lines = capsys.readouterr().out.splitlines()
    head = next(line for line in lines if line.startswith("| threads"))
    row = lines[lines.index(head) + 2]
    assert p50 in row and head.count("|") == row.count("|") == lines[lines.index(head) + 1].count("|")
    rows = list(csv.DictReader(io.StringIO(benchmark_text.as_csv(measured))))
    assert len(rows) == 2 + 2 * len(measured.rows[0].layers)
    assert float(rows[0]["p50_s"]) == measured.rows[0].time.p50 and int(rows[1]["threads"]) == 2
    assert all(None not in r and None not in r.values() for r in rows)


# ---- doubts


@pytest.fixture
def board_files(tmp_path, monkeypatch):
    """A tree like a Raspberry Pi's, to read facts from: ``write(path, text)``."""
    monkeypatch.setattr(facts, "ROOT", tmp_path)

    def write(path, text):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)

    write("proc/device-tree/model", "Raspberry Pi 4 Model B Rev 1.4\0")
    write("proc/device-tree/cpus/cpu@0/compatible", "arm,cortex-a72\0")
    write("proc/cpuinfo", "processor\t: 0\nFeatures\t: fp asimd evtstrm crc32 cpuid\n")
    write("proc/meminfo", "MemTotal:        3884452 kB\nMemAvailable:    3500000 kB\n")
    write("proc/loadavg", "0.10 0.2 0.3 1/200 999\n")
    for cpu in range(4):
        for name in ("cpuinfo_max_freq", "scaling_max_freq", "scaling_cur_freq"):
            write(f"sys/devices/system/cpu/cpu{cpu}/cpufreq/{name}", "1500000\n")
        write(f"sys/devices/system/cpu/cpu{cpu}/cpufreq/scaling_governor", "ondemand\n")
    write("sys/class/thermal/thermal_zone0/type", "cpu-thermal\n")
    write("sys/class/thermal/thermal_zone0/temp", "51540\n")
    write("sys/devices/platform/soc/soc:firmware/get_throttled", "0\n")
    return write


def test_facts_of_a_raspberry_pi(board_files):
    found = services.call("facts", {})
    assert (found["model"], found["cpu"]) == ("Raspberry Pi 4 Model B Rev 1.4", "arm,cortex-a72")
    assert found["features"] == ["asimd", "cpuid", "crc32", "evtstrm", "fp"] and found["governor"] == "ondemand"
    assert (found["clock_hz"], found["memory_bytes"]) == (1_500_000_000, 3884452 * 1024)
    state = found["state"]
    assert (state["temperature_c"], state["clock_hz"], state["load"]) == (51.54, 1_500_000_000, 0.1)
    assert (state["throttled"], state["throttling_from"]) == ([], "sysfs")
    assert json.loads(json.dumps(found)) == found


def test_what_the_system_does_not_tell_is_none(tmp_path, monkeypatch):
    monkeypatch.setattr(facts, "ROOT", tmp_path)
    found = facts.state()
    assert found["temperature_c"] is None and found["clock_hz"] is None and found["load"] is None
    assert found["throttled"] == [] and found["throttling_from"] == ""


def test_the_firmwares_flags_by_its_documentation():
    assert facts.decode_throttled(0x50005) == (["under-voltage", "throttled"], ["under-voltage", "throttled"])
    assert facts.decode_throttled(0xE0008) == (
        ["soft temperature limit"],
        ["clock capped", "throttled", "soft temperature limit"],
    )


@pytest.mark.parametrize(
    "changes, kind, text, remedy",
    [
        ({"sys/devices/platform/soc/soc:firmware/get_throttled": "4"}, "throttled", "throttled while", "heat sink"),
        ({"sys/devices/platform/soc/soc:firmware/get_throttled": "50005"}, "throttled", "under-voltage", "supply"),
        ({"sys/devices/platform/soc/soc:firmware/get_throttled": "20000"}, "throttled", "for a moment", "cable|cool"),
        ({"sys/class/thermal/thermal_zone0/temp": "72000"}, "temperature", "from 52 to 72", "cool-down"),
        (
            {"sys/devices/system/cpu/cpu2/cpufreq/scaling_cur_freq": "600000"},
            "clock",
            "600 and 1500 MHz",
            "governor is ondemand.*performance",
        ),
    ],
)
def test_a_board_that_slows_down_while_measuring_marks_the_row(board_files, changes, kind, text, remedy):
    before = facts.state()
    assert not conditions.marks_of([before, facts.state()], steady(0.01), True, 1_500_000_000)
    for path, value in changes.items():
        board_files(path, value)
    marks = conditions.marks_of([before, facts.state()], steady(0.01), True, 1_500_000_000)
    mark = next(m for m in marks if m.kind == kind and text in m.text)
    import re

    assert re.search(remedy, mark.remedy)


def test_throttling_is_seen_in_a_whole_run(board_files, folders, monkeypatch, capsys):
    """The throttling begins with the third time that the board is asked how it stands."""
    asked = []

    def state(request=None):
        asked.append(1)
        if len(asked) == 3:
            board_files("sys/devices/platform/soc/soc:firmware/get_throttled", "40004")
            board_files("sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq", "600000")
        return facts.state()

    monkeypatch.setattr(measure, "state", state)
    found = bench.bench(folders / "host", board="local", seconds=0.1, layers=False)
    assert {"throttled", "clock"} <= {m.kind for m in found.rows[0].marks}
    from tvm_mobilenet.measuring import benchmark_text

    benchmark_text.show(found, "table")
    out = capsys.readouterr().out
    assert "\n1! " in out and "throttled while measuring" in out and "heat sink" in out and "1500-600" in out


def test_unsteady_warm_up_outliers_and_load_are_marked():
    noisy = timing.Statistics.of([1.0] * 95 + [3.0] * 5)
    kinds = [m.kind for m in conditions.marks_of([{}, {}], noisy, False)]
    assert kinds == ["warm-up", "outliers"]
    assert conditions.load_mark({"cores": 4, "state": {"load": 3.9}}).kind == "load"
    assert conditions.load_mark({"cores": 4, "state": {"load": 0.4}}) is None


def test_rows_wait_until_the_board_is_as_cool_as_before(folders, monkeypatch):
    from tvm_mobilenet.measuring import measured_rows

    warmth, slept, said = iter([70.0, 60.0, 52.0]), [], []
    monkeypatch.setattr(measured_rows.time, "sleep", slept.append)

    class Board:
        def service(self, name, request):
            return {"temperature_c": next(warmth)}

    measured_rows._cool_down(Board(), {"temperature_c": 50.0}, 2.0, said.append)
    assert slept == [2.0] * 3 and said == ["cooling down: 70 °C, 50 °C before the first row"]


# ---- timing as TVM has it


def test_the_comparison_with_time_evaluator_takes_turns_in_one_process(folders):
    with open_board("local", targets.load("host")) as board:
        from tvm_mobilenet.measuring import measured_rows

        found = measured_rows.check_timing(board, built.read(folders / "host"), 1, 0.5, rounds=6)
    assert len(found["ratios"]) == 6 and found["median"] == statistics.median(found["ratios"])
    assert all(math.isfinite(r) and r > 0 for r in found["ratios"])
    schemas.require("check-timing", schemas.printed(found), "")


# ---- mistakes


@pytest.mark.parametrize(
    "argv, text",
    [
        (["--threads", "0"], "at least one is needed"),
        (["--threads", "1,1"], "different"),
        (["--threads", "two"], "--threads"),
        (["--seconds", "0"], "--seconds"),
        (["--max-regress", "-5%"], "--max-regress needs a value"),
        (["--json", "--csv"], "not allowed with"),
    ],
)
def test_impossible_options_are_usage_errors(argv, text, capsys):
    import re

    with pytest.raises(SystemExit) as exit:
        bench.main(["somewhere", *argv])
    assert exit.value.code == 2 and re.search(text, capsys.readouterr().err)


def test_mistakes_are_told_before_anything_runs(folders, tmp_path, capsys):
    assert bench.main([str(tmp_path)]) == 2 and "no built module" in capsys.readouterr().err
    other = tmp_path / "other.json"
    other.write_text("{}")
    assert bench.main([str(folders / "host"), "--compare", str(other)]) == 2
    assert "its schema is None" in capsys.readouterr().err
    assert bench.main([str(folders / "rpi4"), "--threads", "5"]) == 2
    assert "rpi4 has 4 cores" in capsys.readouterr().err
    assert bench.main([str(folders / "rpi4"), "--board", "local"]) == 4
    assert "aarch64" in capsys.readouterr().err
    assert bench.main([str(folders / "rpi4"), "--check-timing"]) == 2
    assert "measures no time" in capsys.readouterr().err
