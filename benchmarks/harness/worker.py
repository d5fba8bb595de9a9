"""One run in a process of its own: lock, train, record.

A process each gives every run its own memory account and keeps a crash from taking others along.
"""

from __future__ import annotations

import signal
import sys
import warnings
from dataclasses import dataclass
from datetime import UTC, datetime
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal

import filelock
import pandas as pd
import psutil
import torch

from benchmarks.analysis.relative_cost import own_timing, timed_lately
from benchmarks.catalog import hyperparameters_in_run, make_problem, own_source, weighter_class
from benchmarks.contract import Data, Problem
from benchmarks.errors import StorageError, UserError, one_line
from benchmarks.harness.checkpoint import Checkpoint
from benchmarks.harness.interrupts import SIGNALS
from benchmarks.harness.loop import Diverged, Loop, Stopped
from benchmarks.records import provenance
from benchmarks.records.contents import content_hashes
from benchmarks.records.locks import lock_of
from benchmarks.records.schema import COLUMNS, MetricInfo, Record, Run, RunSpec, State
from benchmarks.records.storage import DamagedRecordError, read_run, run_folder, write_run
from benchmarks.seeds import derive
from weighting import RunFacts, Weighter
from weighting._build import build


@dataclass(frozen=True)
class Job:
    """What a worker needs to know."""

    spec: RunSpec
    suite: str
    folder: Path
    """The suite's folder under ``results``."""
    device: str
    replaces: str | None = None
    """When the record that this run is to replace was started; None: there is none."""
    pair_of: str = ""
    """The methods beside which a recorded run is trained again, for its time alone; empty: it has no record yet."""


@dataclass(frozen=True)
class Message:
    """What a worker tells: progress, then one end."""

    kind: Literal["progress", "recorded", "busy", "stopped", "cannot_write"]
    step: int = 0
    losses: dict[str, float] | None = None
    state: State | None = None
    text: str = ""
    warning: str = ""
    """What the user has to know beside the end, in one line."""


def work(job: Job, tell: Connection) -> None:
    """Entry point of the process. Tells the parent how it went; leaves when the parent is gone."""
    asked_to_stop = _StopSwitch()
    for number in SIGNALS:
        # Ctrl-C and a closed terminal reach every process: whether a worker is to stop, its parent says.
        signal.signal(number, asked_to_stop.switch if number == signal.SIGTERM else signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):
        # Held back until now, see ``nursery``.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    torch.set_num_threads(job.spec.training.threads)
    warnings.simplefilter("ignore", FutureWarning)
    key = job.spec.key
    try:
        with lock_of(job.folder, key):
            if job.pair_of:
                tell.send(_time_again(job, tell, asked_to_stop))
            else:
                tell.send(recorded_meanwhile(job) or _train_and_record(job, tell, asked_to_stop))
    except filelock.Timeout:
        tell.send(Message("busy"))
    except (BrokenPipeError, EOFError):
        sys.exit(1)
    except StorageError as error:
        tell.send(Message("cannot_write", text=str(error)))
    except OSError as error:
        tell.send(Message("cannot_write", text=str(StorageError.of(error, job.folder))))


def recorded_meanwhile(job: Job) -> Message | None:
    """What another command recorded between this one's plan and its start; the record to replace does not count."""
    try:
        record = read_run(run_folder(job.folder, job.spec.key)).record
    except DamagedRecordError:
        return None
    if record.started == job.replaces:
        return None
    return Message("recorded", state=record.state, text=record.reason or "")


class _StopSwitch:
    """Turned by a signal, asked between steps."""

    def __init__(self) -> None:
        self.on = False

    def switch(self, *_: object) -> None:
        self.on = True

    def __call__(self) -> bool:
        return self.on


def _train_and_record(job: Job, tell: Connection, should_stop: _StopSwitch) -> Message:
    checkpoint = Checkpoint(job.folder / "unfinished", job.spec.key)
    trained = _train(job, tell, should_stop, checkpoint)
    if trained is None:
        return Message("stopped")
    record = trained.record
    write_run(job.folder / "runs", record, trained.trajectory)
    checkpoint.remove()
    return Message("recorded", state=record.state, text=record.reason or "")


def _time_again(job: Job, tell: Connection, should_stop: _StopSwitch) -> Message:
    """Train a recorded run beside a method that is trained now, and add the time to its record: its numbers stay.

    There is no checkpoint: what is stopped half-way is of two times.
    """
    name = f"{job.spec.weighter.label} on {job.spec.problem.name}, seed {job.spec.seed}, trained again beside {job.pair_of}"
    try:
        known = read_run(run_folder(job.folder, job.spec.key))
    except DamagedRecordError as error:
        return Message("recorded", state="finished", warning=f"{name}: {error}")
    if timed_lately(known.record, provenance.host(), datetime.now(UTC)):
        return Message("recorded", state="finished")
    trained = _train(job, tell, should_stop, None)
    if trained is None:
        return Message("stopped")
    timing = own_timing(trained.record)
    if trained.record.state != "finished" or timing is None:
        return Message("recorded", state="finished", warning=f"{name}: {trained.record.state}, {trained.record.reason}")
    record = known.record.model_copy(update={"timings": (*known.record.timings, timing)})
    write_run(job.folder / "runs", record, known.trajectory)
    numbers = {"metrics", "selection"}
    same = trained.record.model_dump_json(include=numbers) == known.record.model_dump_json(include=numbers)
    warning = "" if same else f"{name}: other numbers than recorded, which stay; only its time is used"
    return Message("recorded", state="finished", warning=warning)


def _train(job: Job, tell: Connection, should_stop: _StopSwitch, checkpoint: Checkpoint | None) -> Run | None:
    """The trained run, in whatever state it ended; None if it was asked to stop."""
    started = provenance.now()
    memory = _PeakMemory()
    problem: Problem | None = None
    loop: Loop | None = None
    fields: dict[str, Any] = {}
    state: State = "finished"
    try:
        device = torch.device(job.device)
        check_unchanged(job.spec)
        problem = make_problem(job.spec.problem.name, job.spec.problem.tasks, job.spec.problem.options)
        seed = job.spec.seed
        data = problem.data(seed, job.spec.training)
        fields["facts"] = problem.facts()
        weighter, fields["resolved"] = weighter_of(job.spec, problem, data)
        memory.start(device)
        loop = Loop(
            problem,
            data,
            weighter,
            job.spec.training,
            seed,
            device=device,
            checkpoint=checkpoint,
            on_log=lambda step, losses: tell.send(Message("progress", step, losses)),
            should_stop=should_stop,
        )
        fields["num_parameters"] = sum(p.numel() for p in loop.model.parameters() if p.requires_grad)
        fields["fingerprints"] = loop.fingerprints()
        outcome = loop.run()
        fields["selection"] = outcome.selection
        fields["metrics"] = {"validation": outcome.validation, "test": outcome.test}
        fields["costs"] = outcome.costs.model_copy(update={"peak_memory_mb": memory.peak_mb(device)})
    except Stopped:
        return None
    except Diverged as outcome:
        state, fields["reason"], fields["failed_step"] = "diverged", outcome.reason, outcome.step
    except (MemoryError, torch.OutOfMemoryError) as error:
        state, fields["reason"] = "out_of_memory", one_line(error)
    except (StorageError, BrokenPipeError, EOFError):
        raise
    except Exception as error:  # noqa: BLE001 - whatever a problem or a weighter raises is a row, and the others go on
        state, fields["reason"] = "crashed", one_line(error)
        if loop is not None and loop.bad_step is not None:
            # Whatever could not be computed from a loss that is not a number: the loss came first.
            state, fields["failed_step"] = "diverged", loop.bad_step
            fields["reason"] = f"the weighted total is not finite; then {fields['reason']}"
    if state != "finished" and loop is not None:
        fields.setdefault("failed_step", loop.step)
    if loop is not None:
        not_finite = fields.get("reason") if state == "diverged" else None
        fields["flags"] = loop.flags(not_finite)
        fields["mean_weights"] = loop.watch.mean_weights()
    record = make_record(job, state, started, problem, resumed=loop.resumed if loop else 0, **fields)
    trajectory = loop.trajectory.frame() if loop is not None else pd.DataFrame(columns=list(COLUMNS))
    return Run(record, trajectory)


def check_unchanged(spec: RunSpec) -> None:
    """Raise UserError where the code or the files of a run are not those that it was planned with."""
    for kind, planned in (("problem", spec.problem), ("method", spec.weighter)):
        if own_source(planned.name) != planned.source:
            raise UserError(f"{planned.name}: expected the {kind} as it was planned, found a file that has changed since")
    found = content_hashes(make_problem(spec.problem.name, spec.problem.tasks, spec.problem.options).files())
    changed = [name for name in {**found, **spec.problem.contents} if found.get(name) != spec.problem.contents.get(name)]
    if changed:
        raise UserError(
            f"{spec.problem.name}: expected {', '.join(changed)} as planned, found files that have changed since"
        )


def make_record(job: Job, state: State, started: str, problem: Problem | None, **fields: Any) -> Record:
    """The record of a run; what is unknown of a failed one stays empty."""
    metrics = problem.metrics if problem is not None else ()
    return Record(
        key=job.spec.key,
        suite=job.suite,
        run=job.spec,
        state=state,
        tasks=job.spec.problem.tasks,
        metric_infos=tuple(
            MetricInfo(key=m.key, name=m.name, task=m.task, higher_is_better=m.higher_is_better, primary=m.primary)
            for m in metrics
        ),
        splits=problem.splits if problem is not None else "",
        versions=provenance.versions(),
        commit=provenance.commit(),
        machine=provenance.machine(torch.device(job.device)),
        started=started,
        ended=provenance.now(),
        **{"resolved": {}, **fields},
    )


def weighter_of(spec: RunSpec, problem: Problem, data: Data) -> tuple[Weighter, dict[str, Any]]:
    """The weighter of a run, and its hyperparameters as used."""
    facts = RunFacts(
        steps=spec.training.steps,
        steps_per_epoch=data.steps_per_epoch,
        val_batches=data.num_validation_batches,
        seed=derive(spec.seed, problem.name, "weighter"),
    )
    hyperparameters = hyperparameters_in_run(spec.weighter.name, spec.weighter.hyperparameters, facts)
    kind = weighter_class(spec.weighter.name)
    return build(kind, problem.num_tasks, batch_shape=problem.batch_shape, **hyperparameters), hyperparameters


class _PeakMemory:
    """Growth of the process's peak resident set since ``start``; on CUDA the peak of the allocator."""

    def __init__(self) -> None:
        self.before_mb = 0.0

    def start(self, device: torch.device) -> None:
        self.before_mb = psutil.Process().memory_info().rss / 2**20
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)

    def peak_mb(self, device: torch.device) -> float | None:
        if device.type == "cuda":
            return torch.cuda.max_memory_allocated(device) / 2**20
        if sys.platform == "win32":
            return None
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return max(0.0, peak / (2**20 if sys.platform == "darwin" else 2**10) - self.before_mb)
