"""Checks of a problem's names and data. One docstring line each."""

from __future__ import annotations

import inspect
import itertools
import json
from collections.abc import Iterator

import torch
from torch import Tensor

from benchmarks.contract import DATA_RULE, Batch, Split
from benchmarks.testing.case import SPLITS, Case, different, hash_of
from weighting.testing.elsewhere import elsewhere
from weighting.testing.expectations import CannotTellError, all_finite, expect, refusal, same

SHARED_ROWS = 0.05
"""The share of a split that may lie in another one too: examples of few values may be equal by chance."""
RTOL, ATOL = 1e-4, 1e-5


def names_and_options_are_complete(case: Case) -> None:
    """A name, tasks named once, a sentence on the splits, and options that are keywords with a default."""
    kind = case.kind
    expect(isinstance(kind.name, str) and kind.name, "a name", repr(kind.name))
    expect(isinstance(kind.splits, str) and kind.splits, "a sentence on where the splits come from", repr(kind.splits))
    expect(len(set(kind.all_tasks)) == len(kind.all_tasks), "every task once in all_tasks", ", ".join(kind.all_tasks))
    strange = set(kind.default_tasks or ()) - set(kind.all_tasks)
    expect(not strange, f"default_tasks among {', '.join(kind.all_tasks)}", ", ".join(sorted(strange)))
    parameters = inspect.signature(kind).parameters
    expect("tasks" in parameters, "an option tasks=None", ", ".join(parameters))
    for name, parameter in parameters.items():
        complete = parameter.kind is parameter.KEYWORD_ONLY and parameter.default is not parameter.empty
        expect(complete, f"option {name!r} to be a keyword with a default", str(parameter))


def wrong_tasks_are_refused_in_one_line(case: Case) -> None:
    """Unknown tasks, a task twice and no task at all: a ValueError of one line."""
    first = case.kind.all_tasks[0]
    for tasks, word in ((("no such task",), "no such task"), ((first, first), "once"), ((), "at least one")):
        with refusal(case.kind.name, word):
            case.replace(tasks=tasks).problem  # noqa: B018 - making it is what is asked for


def metrics_cover_every_task(case: Case) -> None:
    """Keys named once; a primary metric for every chosen task, and the same ones when fewer tasks are chosen."""
    metrics = case.problem.metrics
    keys = [metric.key for metric in metrics]
    expect(len(set(keys)) == len(keys), "every metric key once", ", ".join(keys))
    for each in (case, *case.fewer()):
        tasks, own = set(each.problem.tasks), each.problem.metrics
        primary = {metric.task for metric in own if metric.primary and metric.task is not None}
        expect(primary == tasks, f"primary metrics of {', '.join(sorted(tasks))}", ", ".join(sorted(primary)))
        unknown = {metric.key for metric in own if metric.task is not None} - set(keys)
        expect(not unknown, f"metrics of a single task among {', '.join(keys)}", ", ".join(sorted(unknown)))


def training_batches_depend_on_seed_and_step_alone(case: Case) -> None:
    """The batch of a step is the same in any order and from data made anew, as a resumed run makes them."""
    last = 3 * case.data.steps_per_epoch + 1
    late, early = case.data.train_batch(last), case.data.train_batch(0)
    again = case.replace()
    for data, words in ((case.data, "when asked again"), (again.data, "from data made anew")):
        for step, batch in ((last, late), (0, early)):
            name = different(data.train_batch(step), batch)
            expect(name is None, f"the same train_batch({step}) {words}", f"another {name!r}")
    same_hash = again.data.fingerprint == case.data.fingerprint
    expect(same_hash, "the same fingerprint from data made anew", again.data.fingerprint)


def validation_batches_are_like_training_batches(case: Case) -> None:
    """The same tensors, as many rows, the same types; indices wrap around after num_validation_batches."""
    train, number = case.data.train_batch(0), case.data.num_validation_batches
    expect(number >= 1, "at least one validation batch", number)
    expect(case.data.steps_per_epoch >= 1, "at least one step in an epoch", case.data.steps_per_epoch)
    for index in (0, number, 1000 * number + 1):
        batch = case.data.validation_batch(index)
        expect(batch.keys() == train.keys(), f"{', '.join(train)} in validation_batch({index})", ", ".join(batch))
        for name, tensor in batch.items():
            wanted = (len(train[name]), train[name].dtype)
            expect((len(tensor), tensor.dtype) == wanted, f"{name!r} of {wanted}", (len(tensor), tensor.dtype))
        name_of_other = different(batch, case.data.validation_batch(index))
        expect(name_of_other is None, f"the same validation_batch({index}) when asked again", f"another {name_of_other!r}")


def splits_are_read_in_a_fixed_order(case: Case) -> None:
    """All three splits have batches, and the same ones each time."""
    for split in SPLITS:
        once, again = (list(case.data.batches(split)) for _ in range(2))
        expect(once, f"batches of the split {split}", "none")
        expect(len(once) == len(again), f"{len(once)} batches of {split} when read again", len(again))
        for place, (one, other) in enumerate(zip(once, again, strict=True)):
            name = different(one, other)
            expect(name is None, f"the same batch {place} of {split} when read again", f"another {name!r}")


def splits_share_no_rows(case: Case) -> None:
    """Where batches are cut by rows: (nearly) no example of one split lies in another."""
    if not case.cuts_by_rows:
        raise CannotTellError("batches are cut otherwise than by rows")
    rows: dict[Split, list[str]] = {split: list(_rows(case, split)) for split in SPLITS}
    if not all(rows.values()):
        raise CannotTellError("batches have no rows")
    for one, other in itertools.combinations(SPLITS, 2):
        known = set(rows[one])
        shared = sum(row in known for row in rows[other])
        found = f"{shared} of {len(rows[other])} rows of {other} also in {one}"
        expect(shared <= SHARED_ROWS * len(rows[other]), "splits without common examples", found)


def _rows(case: Case, split: Split) -> Iterator[str]:
    for batch in case.data.batches(split):
        for place in range(min((len(tensor) for tensor in batch.values()), default=0)):
            yield hash_of({name: tensor[place] for name, tensor in batch.items()})


def batches_are_cut_into_micro_batches(case: Case) -> None:
    """Parts add up to the batch: counts and losses, weighed by counts, are those of the whole; rows are equally many."""
    batch, problem = case.data.train_batch(0), case.problem
    if case.cuts_by_rows:
        lengths = {name: len(tensor) for name, tensor in batch.items()}
        expect(len(set(lengths.values())) <= 1, "tensors of one leading dimension, or a micro_batches of its own", lengths)
    case.model.eval()
    try:
        whole, units = case.losses(batch), _units(case, batch)
        for number in (1, 2):
            try:
                parts = problem.micro_batches(batch, number)
            except ValueError:
                expect(number > 1, "one micro-batch to be the whole batch", "a ValueError")
                raise CannotTellError("batches cannot be cut in two") from None
            expect(len(parts) == number, f"{number} micro-batches", len(parts))
            own = [_units(case, part) for part in parts]
            if problem.counts(batch) is not None:
                same(torch.stack(own).sum(0), units, f"counts of {number} micro-batches together")
            share = torch.stack(own) / torch.stack(own).sum(0).clamp(min=1e-9)
            losses = torch.stack([case.losses(part).double() for part in parts]).where(share > 0, 0.0)
            there = units > 0
            together = (share * losses).sum(0)
            same(together[there], whole.double()[there], f"losses of {number} micro-batches together", rtol=RTOL, atol=ATOL)
    finally:
        case.model.train()


def _units(case: Case, batch: Batch) -> Tensor:
    counts = case.problem.counts(batch)
    rows = next((len(tensor) for tensor in batch.values()), 1)
    return torch.full(case.shape, float(rows), dtype=torch.float64) if counts is None else counts.double().expand(case.shape)


def counts_are_sane(case: Case) -> None:
    """None, or (*batch_shape, K) finite numbers of at least 0; every task is there in some batch of every split."""
    for split in SPLITS:
        seen = torch.zeros(case.shape, dtype=torch.bool)
        for batch in (*case.data.batches(split), *(case.data.train_batch(step) for step in case.steps)):
            counts = case.problem.counts(batch)
            if counts is None:
                raise CannotTellError("counts() says nothing: means are taken over all rows")
            expect(tuple(counts.shape) == case.shape, f"counts of shape {case.shape}", tuple(counts.shape))
            all_finite(counts.double(), "counts")
            expect((counts >= 0).all(), "counts of at least 0", counts.min())
            seen |= counts > 0
        lacking = [
            task
            for task, there in zip(case.problem.tasks, seen.reshape(-1, seen.shape[-1]).any(0), strict=True)
            if not there
        ]
        expect(not lacking, f"every task in some batch of {split}", f"never {', '.join(lacking)}")


def a_task_alone_has_the_same_data(case: Case) -> None:
    """A single-task run is the same problem with one task: the same fingerprint, and the same losses of that task."""
    problem, model = case.problem, case.model
    steps = case.steps
    whole = [case.losses(case.data.train_batch(step)) for step in steps]
    validation = case.evaluation("validation")
    for fewer in case.fewer():
        tasks = fewer.problem.tasks
        chosen, places = f"tasks={tasks!r}", [problem.tasks.index(task) for task in tasks]
        expect(tasks == tuple(fewer.tasks or ()), f"tasks {fewer.tasks}", tasks)
        if len(tasks) == 1:
            found = fewer.data.fingerprint
            expect(
                found == case.data.fingerprint, f"the same fingerprint of the data with {chosen}", f"another; {DATA_RULE}"
            )
        for step, expected in zip(steps, whole, strict=True):
            found_losses = fewer.losses(fewer.data.train_batch(step), model)
            shape = tuple(found_losses.shape)
            expect(shape == fewer.shape, f"losses of shape {fewer.shape} with {chosen}", shape)
            what = f"with {chosen}, in step {step} ({DATA_RULE}), a loss"
            same(found_losses, expected[..., places], what, rtol=RTOL, atol=ATOL)
        alone = fewer.evaluation("validation", model)
        same(alone.losses, validation.losses[..., places], f"with {chosen}, a validation loss", rtol=RTOL, atol=ATOL)
        for metric in fewer.problem.metrics:
            if metric.task is not None:
                one, all_ = (torch.tensor(each.metrics[metric.key]) for each in (alone, validation))
                same(one, all_, f"with {chosen}, a metric {metric.key}", rtol=RTOL, atol=ATOL)


def bytes_are_the_same_in_another_process(case: Case) -> None:
    """Data, order and initial parameters of a seed are the same bytes in a process of its own."""
    here, there = bytes_of(case.kind), elsewhere(bytes_of, case.kind)
    for what, value in here.items():
        expect(there[what] == value, f"the same {what} in another process", "others")


def bytes_of(kind: type) -> dict[str, str]:
    """What -> hash, for comparison with another process."""
    case = Case(kind)
    return {
        "fingerprint": case.data.fingerprint,
        "train_batch": hash_of(case.data.train_batch(case.steps[-1])),
        "validation_batch": hash_of(case.data.validation_batch(1)),
        "initial parameters": hash_of(dict(case.model.named_parameters())),
    }


def facts_and_files_are_plain(case: Case) -> None:
    """facts() is JSON, and files() names what is there."""
    assert case.data is not None
    json.dumps(case.problem.facts(), allow_nan=False)
    for option, path in case.problem.files().items():
        expect(path.exists(), f"the file of {option!r} at {path}", "none")
