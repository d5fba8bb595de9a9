"""Runs on a Ray cluster of two machines in this one: the same numbers whatever dies, and none by code that is not ours."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import ray_cluster
from commands_at_work import LEARNERS, LONG, assert_same_numbers, checkpoints, in_process, jobs_of, own, runs_of
from ray_cluster import Machines
from suites import TINY, suite_file

from benchmarks.errors import UserError
from benchmarks.harness.devices import Devices
from benchmarks.harness.dispatcher import PlanResult, execute
from benchmarks.harness.executor import Cluster
from benchmarks.harness.worker import Job
from benchmarks.records import provenance
from benchmarks.records.schema import Run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200), pytest.mark.filterwarnings("default")]

TWO = ("gradnorm", "coba")


@pytest.fixture(scope="module")
def machines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machines]:
    found = Machines(tmp_path_factory.mktemp("machines"))
    yield found
    found.close()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    """Two long runs, trained here at a stretch."""
    suite = suite_file(tmp_path_factory.mktemp("undisturbed"), training=LONG, weighters=LEARNERS)
    for job in jobs_of(suite, *TWO):
        in_process(job)
    return runs_of(suite.parent / "out")


def on_ray(jobs: list[Job], machines: Machines, **how: Any) -> PlanResult:
    cluster = Cluster(machines.address, **how)
    specs = [job.spec for job in jobs]
    return execute(jobs[0].folder, "mine", specs, jobs=None, devices=Devices(), executor="ray", cluster=cluster)


def long_jobs(folder: Path) -> list[Job]:
    return jobs_of(suite_file(folder, training=LONG, weighters=LEARNERS), *TWO)


def unseen(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the machines did not see the folder of results."""
    from benchmarks.harness.ray_machines import ask_all

    told = "benchmarks.harness.ray_executor.ask_all"
    monkeypatch.setattr(told, lambda *asked: ask_all(*asked) and False)


@contextlib.contextmanager
def once(condition: Callable[[], bool], act: Callable[[], object]) -> Iterator[None]:
    """Act when the condition holds, beside what is done within."""
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.02):
            if condition():
                act()
                return

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def both_saved(out: Path) -> Callable[[], bool]:
    return lambda: len(checkpoints(out)) == 2


def both_train(machines: Machines) -> Callable[[], bool]:
    """Whether two runs more have begun than at this moment."""
    before = machines.begun()
    return lambda: machines.begun() >= before + 2


@pytest.mark.parametrize("new_processes", [False, True], ids=["reused processes", "new processes"])
@pytest.mark.parametrize("seen", [True, False], ids=["shared folder", "no shared folder"])
def test_numbers_are_those_of_this_machine(
    seen: bool,
    new_processes: bool,
    machines: Machines,
    undisturbed: dict[str, Run],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if not seen:
        unseen(monkeypatch)
    found = on_ray(long_jobs(tmp_path), machines, new_processes=new_processes)
    assert found.complete and not found.failures
    runs = runs_of(tmp_path / "out")
    assert_same_numbers(runs, undisturbed)
    facts = [run.record.machine for run in runs.values()]
    assert {fact["process"] for fact in facts} == {"own" if new_processes else "shared"}
    assert {fact["executor"].partition(" ")[0] for fact in facts} == {"ray"}
    assert {fact["host"] for fact in facts} == {provenance.host()}
    assert not list((tmp_path / "out" / "mine" / "unfinished").glob("*.command"))


@pytest.mark.parametrize(
    ("seen", "lose"),
    [(True, Machines.lose_one), (False, Machines.lose_one), (True, Machines.lose_a_raylet)],
    ids=["shared folder", "no shared folder", "Ray's part of it alone"],
)
def test_a_machine_is_lost_while_runs_train_and_nothing_else_is(
    seen: bool,
    lose: Callable[[Machines], None],
    machines: Machines,
    undisturbed: dict[str, Run],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if not seen:
        unseen(monkeypatch)
    jobs = long_jobs(tmp_path)
    before = machines.begun()
    with once(both_saved(tmp_path / "out") if seen else both_train(machines), lambda: lose(machines)):
        found = on_ray(jobs, machines)
    machines.replace_the_lost()
    assert found.complete and not found.failures
    assert_same_numbers(runs_of(tmp_path / "out"), undisturbed)
    assert [warning.rpartition(": ")[2] for warning in found.warnings] == ["its machine was lost; tried again"]
    assert machines.begun() - before == 3
    resumed = sorted(run.record.resumed for run in runs_of(tmp_path / "out").values())
    assert resumed == [0, 1 if seen else 0]


def test_a_run_whose_process_is_killed_is_a_row_and_the_next_command_trains_it(
    machines: Machines, undisturbed: dict[str, Run], tmp_path: Path
) -> None:
    jobs = long_jobs(tmp_path)
    with once(both_saved(tmp_path / "out"), machines.kill_a_run):
        found = on_ray(jobs, machines)
    assert found.complete and not found.warnings
    assert sorted((row.state, (row.reason or "").partition(";")[0]) for row in found.recorded) == [
        ("crashed", "its process died"),
        ("finished", ""),
    ]
    found = on_ray(jobs, machines)
    assert found.complete and not found.failures
    assert_same_numbers(runs_of(tmp_path / "out"), undisturbed)


@pytest.mark.parametrize("seen", [True, False], ids=["shared folder", "no shared folder"])
def test_ctrl_c_leaves_checkpoints_and_the_same_command_goes_on(
    seen: bool, machines: Machines, undisturbed: dict[str, Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not seen:
        unseen(monkeypatch)
    jobs = long_jobs(tmp_path)
    # Whoever started the tests may have had it ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    with once(both_train(machines), lambda: os.kill(os.getpid(), signal.SIGINT)):
        found = on_ray(jobs, machines)
    signal.signal(signal.SIGINT, before)
    assert (found.signal, found.unfinished, found.exit_code) == (signal.SIGINT, 2, 130)
    assert len(checkpoints(tmp_path / "out")) == 2
    assert on_ray(jobs, machines).complete
    runs = runs_of(tmp_path / "out")
    assert_same_numbers(runs, undisturbed)
    assert {run.record.resumed for run in runs.values()} == {1}


def test_a_run_that_dies_or_raises_is_a_row_with_the_end_of_its_log(machines: Machines, tmp_path: Path) -> None:
    killed = {"name": TINY, "options": {"spoil": "killed"}, "weighters": ["uniform"]}
    suite = suite_file(tmp_path, problems=[TINY, killed], weighters=["uniform", own("Raises")])
    found = on_ray(jobs_of(suite, "uniform", own("Raises")["name"]), machines)
    assert found.complete
    states = sorted((row.state, row.spec.weighter.label, (row.reason or "").partition(";")[0]) for row in found.recorded)
    assert states == [
        ("crashed", "Raises", "ArithmeticError: no weights today nor tomorrow"),
        ("crashed", "uniform", "its process died"),
        ("finished", "uniform", ""),
    ]


def test_other_code_ends_the_command_before_anything_trains(
    machines: Machines, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs, before = jobs_of(suite_file(tmp_path), "uniform"), machines.begun()
    monkeypatch.setattr(provenance, "code", lambda: "0123456789abcdef")
    with pytest.raises(UserError, match=r"expected the code that runs were planned with \(0123456789abcdef\), found other"):
        on_ray(jobs, machines)
    assert machines.begun() == before
    assert runs_of(tmp_path / "out") == {}


def test_code_that_a_machine_cannot_load_ends_the_command(
    machines: Machines, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from benchmarks.harness import ray_executor

    only_here = types.ModuleType("only_here")
    exec("def train(*_): pass", vars(only_here))
    monkeypatch.setitem(sys.modules, "only_here", only_here)
    monkeypatch.setattr(ray_executor, "train", only_here.train)
    jobs = jobs_of(suite_file(tmp_path), "uniform", "random")
    with pytest.raises(UserError, match=r"a machine cannot load what trains runs: .*No module named 'only_here'"):
        on_ray(jobs, machines)
    assert runs_of(tmp_path / "out") == {}


def test_what_no_machine_can_do_is_refused_before_the_start(machines: Machines, tmp_path: Path) -> None:
    jobs, before = jobs_of(suite_file(tmp_path, training={"threads": 64}), "uniform"), machines.begun()
    with pytest.raises(UserError, match=r"expected a machine with 64 processors and 0 GPUs, found machines with .*1 and 0"):
        on_ray(jobs, machines)
    assert machines.begun() == before


def test_where_nobody_listens_is_told_in_one_line(tmp_path: Path) -> None:
    if not ray_cluster.is_installed():
        pytest.fail(f"expected Ray, found none: {ray_cluster.HOW}")
    jobs = jobs_of(suite_file(tmp_path), "uniform")
    with pytest.raises(UserError, match=r"--address: expected a Ray cluster at 127.0.0.1:1, found nobody there"):
        execute(
            jobs[0].folder,
            "mine",
            [job.spec for job in jobs],
            jobs=1,
            devices=Devices(),
            executor="ray",
            cluster=Cluster("127.0.0.1:1"),
        )


def test_no_cluster_is_joined_that_was_not_named(machines: Machines, monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    from benchmarks.harness import ray_machines

    asked: list[Any] = []

    def init(address: str, **_: Any) -> None:
        asked.append(address)

    monkeypatch.setenv("RAY_ADDRESS", machines.address)
    monkeypatch.setattr(ray, "init", init)
    ray_machines.connect("local")
    assert asked == ["local"]
