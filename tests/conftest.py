"""Settings of all tests: one thread, no hub, inputs that are the same in every run, and a folder of reference traces."""

from __future__ import annotations

import gc
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import browsers
import psutil
import pytest
import ray_cluster
import torch
from command_line import Bench, bench
from conformance import Conformance
from figures import Figures
from finetune_fixtures import gpt2, hub, llama, model_cache
from headless import browser
from hypothesis import HealthCheck, settings
from places import TESTS

from benchmarks.harness.interrupts import SIGNALS

if TYPE_CHECKING:
    from check_bench import CheckBench

FIGURES = pytest.StashKey[Figures]()

__all__ = ["bench", "browser", "gpt2", "hub", "llama", "model_cache"]

MEMORY = Path("/dev/shm")
ROOM = 6 * 2**30
"""Bytes that there must be, several times what the tests write."""

# What is imported and collected is no garbage: the collector would go through all of it again and again.
gc.disable()
torch.set_num_threads(1)
# For this process and for all that it starts. What speaks to the hub reads it once, when it is imported.
os.environ["HF_HUB_OFFLINE"] = "1"

# Records are written to last, and every write waits for the disk: memory does not. What passed is deleted, see pyproject.
if MEMORY.is_dir() and min(shutil.disk_usage(MEMORY).free, psutil.virtual_memory().available) > ROOM:
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(MEMORY))

settings.register_profile(
    "suite", deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("suite")


def pytest_addoption(parser: pytest.Parser) -> None:
    """``--traces DIR``: replay the traces of another folder, see traces/README.md for the format.

    ``--faults N``: damage records so often, see test_damage, and everything else in soak/ in proportion.
    """
    parser.addoption("--traces", type=Path, default=TESTS / "traces", help="folder of reference traces")
    parser.addoption("--faults", type=int, default=150, help="random faults in records")
    parser.addoption("--kills", type=int, default=3, help="signals to commands at work, see soak/test_kills.py")
    parser.addoption(
        "--minutes", type=float, default=0.0, help="how long a suite is trained in a loop, see soak/test_time.py"
    )
    parser.addoption("--conformance", type=Path, help="file for the table of replayed traces")
    parser.addoption("--figures", type=Path, help="page for what the tests in soak/ have counted")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("conformance") is not None:
        config.pluginmanager.register(ConformancePlugin(config.getoption("conformance")))
    config.stash[FIGURES] = Figures()


def pytest_sessionfinish(session: pytest.Session) -> None:
    page: Path | None = session.config.getoption("figures")
    if page is not None:
        session.config.stash[FIGURES].write(page)


@pytest.fixture
def figures(request: pytest.FixtureRequest) -> Figures:
    found: Figures = request.config.stash[FIGURES]
    return found


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Without a browser: no tests of the page, one in CI. Without Ray: none of a cluster, one where RAY_EXPECTED is set."""
    if browsers.find() is None:
        lacking = [item for item in items if "browser" in getattr(item, "fixturenames", ())]
        _leave_out(config, items, lacking[1:] if os.environ.get("CI") else lacking)
    if not ray_cluster.is_installed():
        lacking = [item for item in items if item.path.name == "test_ray.py"]
        _leave_out(config, items, lacking[1:] if os.environ.get("RAY_EXPECTED") else lacking)


def _leave_out(config: pytest.Config, items: list[pytest.Item], left_out: list[pytest.Item]) -> None:
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if not ray_cluster.is_installed() and not os.environ.get("RAY_EXPECTED"):
        terminalreporter.write_line(
            f"left out: the tests of a cluster, since Ray is not installed; to run them: {ray_cluster.HOW}"
        )
    if browsers.find() is None and not os.environ.get("CI"):
        terminalreporter.write_line(
            f"left out: the tests of report.html in a browser, since none was found; to run them: {browsers.HOW}"
        )


class ConformancePlugin:
    """Writes the table of what the replays told when the run ends."""

    def __init__(self, path: Path) -> None:
        self.path, self.table = path, Conformance()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call":
            for name, told in report.user_properties:
                if name == "conformance":
                    self.table.add(report.nodeid.partition("[")[2].rstrip("]"), report.passed, told)  # type: ignore[arg-type]

    def pytest_sessionfinish(self) -> None:
        self.table.write(self.path)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _keep_signals() -> Iterator[None]:
    """A worker sets its own handlers; in a test it is no process of its own."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(scope="session")
def recorded_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The suite of ``check_bench`` and its baseline."""
    # Imported on use, as it brings all that compares along.
    from check_bench import record

    return record(tmp_path_factory.mktemp("baseline"))


@pytest.fixture
def check_bench(recorded_once: Path, tmp_path: Path, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> CheckBench:
    from check_bench import copy

    return copy(recorded_once, tmp_path, bench, monkeypatch)


@pytest.fixture(scope="session")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tokenizers are not kept beyond the tests, and none is looked for elsewhere."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield
