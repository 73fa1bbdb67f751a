"""What all tests share: one thread a process, the checkout on the path of every process that a test starts, random
examples that are the same in every run, who runs which file when, and a folder for modules that several files need."""

import contextlib
import gc
import importlib
import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.support import patches
from tests.support.cpu_time import CpuTimes
from tvm_mobilenet import packages

# Containers often forbid compiled files; some hundred processes would each compile all modules again.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("NO_COLOR", "1")
# A shell ignores SIGINT for what it starts in the background, nohup ignores SIGHUP, and that is inherited: Ctrl-C would
# interrupt no test, and a terminal that is closed would end no agent.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

ROOT = Path(__file__).resolve().parent.parent
# pytest's own path is set in pyproject.toml; processes that tests start need the checkout too.
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))

# `pytest --hypothesis-profile search` draws new examples: for looking for bugs, not for judging a change.
_EVERY_RUN = {
    "deadline": None,
    "suppress_health_check": [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
}
settings.register_profile("fixed", derandomize=True, database=None, **_EVERY_RUN)
settings.register_profile("search", **_EVERY_RUN)
settings.load_profile("fixed")

# Files that took most CPU time in CI come first, so that no worker is left with one of them at the end: those of the
# full run in its order, then those of README's command.
LONGEST = (
    "test_matrix",
    "test_board_faults",
    "test_bundle_bytes",
    "test_any_core",
    "test_quantization",
    "test_flipped_bits",
    "test_int8",
    "test_docs",
    "test_bundle_arm",
    "test_fused_block",
    "test_packages",
    "test_fleet",
    "test_faults",
    "test_bench_arm64",
    "test_verify",
    "test_tflite_keras",
    "test_tune_rpc",
    "test_sweep",
    "test_cluster_faults",
    "test_api",
    "test_abuse",
    "test_tasks",
    "test_output_check",
    "test_operators",
    "test_pictures",
    "test_scarcity",
    "test_integers",
    "test_agent_under_attack",
    "test_hostile_pt2",
    "test_schedules",
    "test_same_outputs",
    "test_cli",
    "test_remote",
    "test_bundle_c",
    "test_complexity",
    "test_messages",
    "test_plain_server",
    "test_inorder_depthwise",
    "test_integer_fused_block",
    "test_house",
    "test_terminal",
    "test_one_object",
    "test_ship",
    "test_passes",
    "test_sure_networks",
    "test_models_weights",
    "test_plan",
    "test_file_sizes",
    "test_doctor",
    "test_half_precision",
    "test_generic",
    "test_search",
    "test_cluster",
    "test_host_levels",
    "test_rebuild_logs",
    "test_build",
    "test_peers",
    "test_keys",
    "test_signature",
    "test_instruction_sets",
    "test_float16",
    "test_bundle",
    "test_bundle_ends",
    "test_bundle_written",
    "test_hostile_board",
    "test_flags",
    "test_far_link",
    "test_balance",
    "test_temporary",
    "test_remote_ssh",
    "test_known_orderings",
    "test_bench",
    "test_named_models",
    "test_models",
    "test_quantization_file",
    "test_device_examples",
)


def pytest_collection(session):
    """Each worker begins with other files: in a fresh checkout one rewrites a file's assertions for all."""
    worker = getattr(session.config, "workerinput", None)
    if worker is None:
        return
    given = [Path(arg.partition("::")[0]) for arg in session.config.args]
    files = [file for path in given for file in ([path] if path.is_file() else sorted(path.rglob("test_*.py")))]
    first = len(files) * int(worker["workerid"].removeprefix("gw")) // worker["workercount"]
    for file in files[first:] + files[:first]:
        if str(file.parent.resolve()) not in sys.path:
            sys.path.insert(0, str(file.parent.resolve()))  # as pytest does
        with contextlib.suppress(Exception, pytest.skip.Exception):  # pytest imports it again, and tells
            importlib.import_module(file.stem)


def pytest_collection_modifyitems(items):
    patches.record()
    order = {name: i for i, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path.stem, len(order)))


def pytest_collection_finish():
    gc.freeze()  # modules and tests stay: a collection, and the two of pytest at the end, need not look at them


def pytest_sessionfinish():
    gc.freeze()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers():
    """One more than CPUs: tests of boards wait most of their time, and each worker imports everything.

    xdist's own variable says otherwise if it is set.
    """
    return None if os.environ.get("PYTEST_XDIST_AUTO_NUM_WORKERS") else len(os.sched_getaffinity(0)) + 1


SHARED = "TVM_MOBILENET_TEST_MODULES"  # where all workers of a run find modules that one of them built


@pytest.fixture(scope="session")
def folders():
    """The folder that has the small network for this machine and for the Pi 4."""
    from tests.support import modules

    return modules.small_of("host", "rpi4")


@pytest.fixture(scope="session")
def measured():
    """A benchmark of the small network on this machine."""
    from tests.support import modules

    return modules.measured()


def pytest_addoption(parser):
    parser.addoption("--cpu-times", action="store_true", help="print CPU-seconds by test file, and the dearest tests")


def pytest_configure(config):
    gc.set_threshold(*packages.COLLECTED)  # as in a verb's process
    if hasattr(config, "workerinput"):
        packages.import_tvm()
    config.pluginmanager.register(CpuTimes(), "tvm_mobilenet_cpu_times")
    if not hasattr(config, "workerinput"):
        os.environ[SHARED] = tempfile.mkdtemp(prefix="tvm_mobilenet_test_")
        os.environ["TVM_MOBILENET_TOKEN"] = os.path.join(os.environ[SHARED], "token")  # the user's own is not touched


def pytest_unconfigure(config):
    if not hasattr(config, "workerinput"):
        shutil.rmtree(os.environ.pop(SHARED, ""), ignore_errors=True)
