"""One run from its lock to its record: what every executor calls, in whatever process."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import filelock
import pandas as pd
import torch

from benchmarks.analysis.relative_cost import own_timing, timed_lately
from benchmarks.catalog import hyperparameters_in_run, make_problem, own_source, weighter_class
from benchmarks.contract import Data, Problem
from benchmarks.errors import StorageError, UserError, one_line
from benchmarks.harness.checkpoint import Checkpoint
from benchmarks.harness.loop import DivergedError, Loop, StopRequested
from benchmarks.harness.peak_memory import PeakMemory
from benchmarks.records import provenance
from benchmarks.records.contents import content_hashes
from benchmarks.records.locks import lock_of
from benchmarks.records.reading import read_one
from benchmarks.records.schema import COLUMNS, DISTURBED, Flag, MetricInfo, Record, Run, RunSpec, State
from benchmarks.records.storage import DamagedRecordError, write_run
from benchmarks.seeds import derive
from weighting import RunFacts, Weighter
from weighting._build import build

NO_HOST_MEMORY = "can't allocate memory"
"""What torch's allocator of the CPU says in a RuntimeError."""


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
    commit: str | None = None
    """The commit of the code, as ``provenance.commit`` gives it: asked once, not in every worker."""
    executor: str = "local"
    """What trains it, with its version where it is not our own."""
    own_process: bool = True
    """Whether nothing else was or will be trained in its process."""
    per_device: int = 1
    """How many runs share its GPU."""
    planned: bool = True
    """Whether the plan counts it; else it is there for the time of runs beside it alone, see ``pairs``."""


@dataclass(frozen=True)
class WorkerEvent:
    """What is sent of a run: progress, then one end."""

    kind: Literal["progress", "recorded", "busy", "stopped", "cannot_write", "refused"]
    """``refused``: where it was to be trained no run can be; ``text`` says what is wrong there, for the user to mend."""
    step: int = 0
    losses: dict[str, float] | None = None
    state: State | None = None
    text: str = ""
    warning: str = ""
    """What the user has to know beside the end, in one line."""


Send = Callable[[WorkerEvent], None]
ShouldStop = Callable[[], bool]


def run_job(job: Job, send: Send, should_stop: ShouldStop) -> WorkerEvent:
    """Train and record a run, unless somebody has it in hand or has recorded it. Returns its end.

    send         is called with progress
    should_stop  is asked between steps; True: the run ends with its checkpoint

    Whatever send raises ends the run as a lost connection would: BrokenPipeError and EOFError pass through.
    """
    torch.set_num_threads(job.spec.training.threads)
    key = job.spec.key
    try:
        with warnings.catch_warnings(), lock_of(job.folder, key):
            warnings.simplefilter("ignore", FutureWarning)
            if job.pair_of:
                return _time_again(job, send, should_stop)
            return recorded_meanwhile(job) or _train_and_record(job, send, should_stop)
    except filelock.Timeout:
        return WorkerEvent("busy")
    except BrokenPipeError:
        raise
    except StorageError as error:
        return WorkerEvent("cannot_write", text=str(error))
    except OSError as error:
        return WorkerEvent("cannot_write", text=str(StorageError.of(error, job.folder)))


def recorded_meanwhile(job: Job) -> WorkerEvent | None:
    """What another command recorded between this one's plan and its start; the record to replace does not count."""
    try:
        record = read_one(job.folder, job.spec.key).record
    except DamagedRecordError:
        return None
    if record.started == job.replaces:
        return None
    return WorkerEvent("recorded", state=record.state, text=record.reason or "")


def _train_and_record(job: Job, send: Send, should_stop: ShouldStop) -> WorkerEvent:
    checkpoint = Checkpoint(job.folder / "unfinished", job.spec.key)
    trained = _train(job, send, should_stop, checkpoint)
    if trained is None:
        return WorkerEvent("stopped")
    record = trained.record
    write_run(job.folder / "runs", record, trained.trajectory)
    checkpoint.remove()
    return WorkerEvent("recorded", state=record.state, text=record.reason or "")


def _time_again(job: Job, send: Send, should_stop: ShouldStop) -> WorkerEvent:
    """Train a recorded run beside a method that is trained now, and add the time to its record: its numbers stay.

    There is no checkpoint: what is stopped half-way is of two times.
    """
    name = f"{job.spec.weighter.label} on {job.spec.problem.name}, seed {job.spec.seed}, trained again beside {job.pair_of}"
    try:
        known = read_one(job.folder, job.spec.key)
    except DamagedRecordError as error:
        return WorkerEvent("recorded", state="finished", warning=f"{name}: {error}")
    if timed_lately(known.record, provenance.host(), datetime.now(UTC)):
        return WorkerEvent("recorded", state="finished")
    trained = _train(job, send, should_stop, None)
    if trained is None:
        return WorkerEvent("stopped")
    timing = own_timing(trained.record)
    if trained.record.state != "finished" or timing is None:
        return WorkerEvent("recorded", state="finished", warning=f"{name}: {trained.record.state}, {trained.record.reason}")
    record = known.record.model_copy(update={"timings": (*known.record.timings, timing)})
    write_run(job.folder / "runs", record, known.trajectory)
    numbers = {"metrics", "selection"}
    same = trained.record.model_dump_json(include=numbers) == known.record.model_dump_json(include=numbers)
    warning = "" if same else f"{name}: other numbers than recorded, which stay; only its time is used"
    return WorkerEvent("recorded", state="finished", warning=warning)


def _train(job: Job, send: Send, should_stop: ShouldStop, checkpoint: Checkpoint | None) -> Run | None:
    """The trained run, in whatever state it ended; None if it was asked to stop."""
    started = provenance.now()
    memory = PeakMemory()
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
            on_log=lambda step, losses: send(WorkerEvent("progress", step, losses)),
            should_stop=should_stop,
        )
        fields["num_parameters"] = sum(p.numel() for p in loop.model.parameters() if p.requires_grad)
        fields["fingerprints"] = loop.fingerprints()
        outcome = loop.run()
        fields["selection"] = outcome.selection
        fields["metrics"] = {"validation": outcome.validation, "test": outcome.test}
        fields["costs"] = outcome.costs.model_copy(update={"peak_memory_mb": memory.peak_mb(device)})
    except StopRequested:
        return None
    except DivergedError as outcome:
        state, fields["reason"], fields["failed_step"] = "diverged", outcome.reason, outcome.step
    except (MemoryError, torch.OutOfMemoryError) as error:
        state, fields["reason"] = "out_of_memory", _no_memory(error, problem)
    except (StorageError, BrokenPipeError, EOFError):
        raise
    except Exception as error:  # noqa: BLE001 - whatever a problem or a weighter raises is a row, and the others go on
        state, fields["reason"] = "crashed", one_line(error)
        if NO_HOST_MEMORY in str(error):
            state, fields["reason"] = "out_of_memory", _no_memory(error, problem)
        if loop is not None and loop.bad_step is not None:
            # Whatever could not be computed from a loss that is not a number: the loss came first.
            state, fields["failed_step"] = "diverged", loop.bad_step
            fields["reason"] = f"the weighted total is not finite; then {fields['reason']}"
    if state != "finished" and loop is not None:
        fields.setdefault("failed_step", loop.step)
    if loop is not None:
        not_finite = fields.get("reason") if state == "diverged" else None
        fields["flags"] = (*loop.flags(not_finite), *_shared_device(job))
        fields["mean_weights"] = loop.diagnostics.mean_weights()
        fields["task_gradients"] = loop.task_gradients
    record = make_record(job, state, started, problem, resumed=loop.resumed if loop else 0, **fields)
    trajectory = loop.trajectory.frame() if loop is not None else pd.DataFrame(columns=list(COLUMNS))
    return Run(record, trajectory)


def _no_memory(error: BaseException, problem: Problem | None) -> str:
    return f"{one_line(error)}; to try: {(problem or Problem).saves_memory}"


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


def _shared_device(job: Job) -> list[Flag]:
    if job.per_device == 1:
        return []
    return [Flag(name=DISTURBED, text=f"{job.per_device} runs shared a GPU: s/step is that of none of them alone")]


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
        commit=job.commit,
        machine={
            **provenance.machine(torch.device(job.device)),
            "executor": job.executor,
            "process": "own" if job.own_process else "shared",
        },
        started=started,
        ended=provenance.now(),
        **{"resolved": {}, **fields},
    )


def weighter_of(spec: RunSpec, problem: Problem, data: Data) -> tuple[Weighter, dict[str, Any]]:
    """The weighter of a run, and its hyperparameters as used."""
    facts = RunFacts(
        steps=spec.training.steps,
        steps_per_epoch=data.steps_per_epoch,
        val_batches=-(-data.num_validation_batches // spec.training.validation_batches),
        seed=derive(spec.seed, problem.name, "weighter"),
    )
    hyperparameters = hyperparameters_in_run(spec.weighter.name, spec.weighter.hyperparameters, facts)
    kind = weighter_class(spec.weighter.name)
    return build(kind, problem.num_tasks, batch_shape=problem.batch_shape, **hyperparameters), hyperparameters
