"""Several write at once: the same record, with and without a lock around it, and the runs of one suite by three commands."""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from pathlib import Path

import pytest
from commands_at_work import WAIT, ended, in_process, jobs_of, runs_of, start, traced
from figures import Figures
from suites import suite_file

from benchmarks.records.locks import lock_of
from benchmarks.records.storage import read_run, run_folder, write_run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(0)]

WRITERS = 6


@pytest.mark.parametrize("locked", [True, False], ids=["with locks", "without locks"])
def test_the_same_record_is_written_by_many_at_once(
    locked: bool, tmp_path: Path, figures: Figures, request: pytest.FixtureRequest
) -> None:
    (job,) = jobs_of(suite_file(tmp_path), "uniform")
    in_process(job)
    place = run_folder(job.folder, job.spec.key)
    run = read_run(place)
    each = max(10, request.config.getoption("faults") // 100)
    together, wrong = threading.Barrier(WRITERS + 1), list[BaseException]()
    over = threading.Event()

    def write(name: str) -> None:
        together.wait()
        for _ in range(each):
            lock = lock_of(job.folder, job.spec.key)
            try:
                with lock.acquire(timeout=WAIT) if locked else contextlib.nullcontext():
                    write_run(place.parent, run.record.model_copy(update={"suite": name}), run.trajectory)
            except BaseException as error:  # noqa: BLE001 - told to the test, whatever it is
                wrong.append(error)

    def read() -> None:
        together.wait()
        while not over.is_set():
            try:
                assert read_run(place).trajectory.equals(run.trajectory)
            except BaseException as error:  # noqa: BLE001 - told to the test, whatever it is
                # Between the old one and the new one there is none.
                if "No such file" not in str(error):
                    wrong.append(error)

    threads = [threading.Thread(target=write, args=(f"writer {number}",)) for number in range(WRITERS)]
    reader = threading.Thread(target=read)
    for thread in (*threads, reader):
        thread.start()
    for thread in threads:
        thread.join()
    over.set()
    reader.join()
    assert wrong == []
    assert read_run(place).record.suite.startswith("writer ")
    assert [path.name for path in place.parent.iterdir()] == [place.name]
    how = "with locks" if locked else "without locks"
    figures.add("Writers of one record", {"how": how, "writes": WRITERS * each, "errors": 0, "damaged": 0})


def test_three_commands_train_no_run_twice(tmp_path: Path, figures: Figures, request: pytest.FixtureRequest) -> None:
    seeds = max(3, request.config.getoption("faults") // 333)
    suite = suite_file(tmp_path, seeds=list(range(seeds)), weighters=["uniform", "random", "dwa"])
    only = ("--weighters", "uniform,random,dwa")
    ends = [ended(process) for process in [start(suite, *only, sleep=0.005) for _ in range(3)]]
    assert [(code, stderr) for code, _, stderr in ends] == [(0, "")] * 3
    assert {run.record.state for run in runs_of(tmp_path / "out").values()} == {"finished"}
    trained = Counter(line.split(maxsplit=1)[1] for line in traced(suite))
    runs = len(runs_of(tmp_path / "out"))
    assert sum(trained.values()) == runs == 3 * seeds
    figures.add("Three commands on one suite", {"runs": runs, "begun": sum(trained.values()), "trained twice": 0})
