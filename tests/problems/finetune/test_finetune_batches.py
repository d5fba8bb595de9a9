"""Which examples are drawn, in what order and shares, and how they lie in rows."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from finetune_parts import (
    SIZES,
    ids,
)
from tiny_models import TRAINING, VARIANTS, bytes_of_variants, problem, training
from torch import Tensor

from benchmarks.contract import Batch
from benchmarks.problems.finetune.batches import shares
from benchmarks.problems.finetune_lm import FinetuneLM
from benchmarks.testing.case import Case
from benchmarks.testing.data import bytes_are_the_same_in_another_process
from benchmarks.testing.report import CHECKS
from weighting.testing.elsewhere import elsewhere
from weighting.testing.report import ask

pytestmark = pytest.mark.usefixtures("model_cache")


def drawn(found: FinetuneLM, batch: Batch) -> dict[str, list[list[int]]]:
    """Task -> the tokens of each of its rows in a padded batch, without what fills them up."""
    rows: dict[str, list[list[int]]] = {task: [] for task in found.all_tasks}
    for tokens, task in zip(batch["tokens"], batch["task"], strict=True):
        last = int((task >= 0).nonzero().max())
        rows[found.all_tasks[int(task.max())]].append(tokens[: last + 1].tolist())
    return rows


# ---- the contract ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("kind", VARIANTS)
def test_the_contract_holds_with_other_options(kind: type[FinetuneLM]) -> None:
    case = Case(kind)
    told = [
        ask(name, check, case, kind.name)
        for name, check in CHECKS.items()
        if check is not bytes_are_the_same_in_another_process
    ]
    assert [result for result in told if not result.ok] == []


@pytest.mark.slow
def test_bytes_are_the_same_in_another_process() -> None:
    """With all of these options in one process, as starting it takes longer than all that it does."""
    here, there = bytes_of_variants(FinetuneLM), elsewhere(bytes_of_variants, FinetuneLM)
    assert list(here) == [kind.__name__ for kind in VARIANTS]
    assert there == here


# ---- batches --------------------------------------------------------------------------------------------------------


def test_equal_sampling_draws_as_many_of_each_task(tmp_path: Path) -> None:
    found = problem(tmp_path, SIZES)
    data = found.data(0, TRAINING)
    for step in (0, 1, 7, 300):
        assert {task: len(rows) for task, rows in drawn(found, data.train_batch(step)).items()} == dict.fromkeys(SIZES, 2)
    assert found.facts()["sampling_shares"] == pytest.approx(dict.fromkeys(SIZES, 1 / 3))
    largest = max(len(ids(found, task)) for task in SIZES)
    assert data.steps_per_epoch == math.ceil(largest / 2)


@pytest.mark.parametrize("bucket", [1, 4])
def test_every_example_comes_once_in_an_epoch(tmp_path: Path, bucket: int) -> None:
    found = problem(tmp_path, SIZES, bucket=bucket, source={"most": {"train": 24}})
    data = found.data(3, TRAINING)
    epochs = [
        [row for step in range(12 * e, 12 * e + 12) for row in drawn(found, data.train_batch(step))["b"]] for e in (0, 1)
    ]
    assert sorted(epochs[0]) == sorted(epochs[1]) == sorted(ids(found, "b"))
    assert epochs[0] != epochs[1]


def test_buckets_make_the_rows_of_a_step_about_equally_long(tmp_path: Path) -> None:
    filled = []
    for bucket in (1, 8):
        found = problem(tmp_path, SIZES, bucket=bucket)
        data = found.data(0, TRAINING)
        batches = [data.train_batch(step) for step in range(32)]
        filled.append(sum(batch["tokens"].numel() for batch in batches))
    assert filled[1] < filled[0]


@pytest.mark.parametrize(("sampling", "temperature"), [("proportional", 1.0), ({"temperature": 2.0}, 2.0)])
def test_unequal_sampling_draws_by_size_and_may_lack_tasks(tmp_path: Path, sampling: Any, temperature: float) -> None:
    found = problem(tmp_path, {"a": 200, "b": 40, "c": 60}, sampling=sampling, bucket=4)
    data = found.data(0, training(batch_size=1))
    counts = [len(ids(found, task)) for task in found.all_tasks]
    powers = [count ** (1 / temperature) for count in counts]
    expected = [power / sum(powers) for power in powers]
    assert shares(counts, temperature) == pytest.approx(expected)
    assert list(found.facts()["sampling_shares"].values()) == pytest.approx(expected)
    totals = {task: sum(len(drawn(found, data.train_batch(step))[task]) for step in range(100)) for task in found.all_tasks}
    # To less than one example: three draws a step, in these shares.
    assert all(abs(totals[task] - 300 * share) < 1 + 1e-6 for task, share in zip(found.all_tasks, expected, strict=True))
    lacking = next(step for step in range(100) if not drawn(found, data.train_batch(step))["b"])
    batch = data.train_batch(lacking)
    assert found.counts(batch).tolist()[1] == 0
    assert found.losses(found.model(0), batch).isfinite().all()


def test_a_single_task_sees_the_same_examples_and_steps_without_any(tmp_path: Path) -> None:
    sizes = {"a": 200, "b": 40}
    both = problem(tmp_path, sizes, sampling="proportional")
    alone = problem(tmp_path, sizes, sampling="proportional", tasks=["b"])
    many, one = both.data(0, training(batch_size=1)), alone.data(0, training(batch_size=1))
    assert many.fingerprint == one.fingerprint
    found = [(drawn(both, many.train_batch(s))["b"], drawn(alone, one.train_batch(s))["b"]) for s in range(40)]
    assert all(ours == theirs for ours, theirs in found)
    empty = next(step for step, (ours, _) in enumerate(found) if not ours)
    total = alone.losses(alone.model(0), one.train_batch(empty)).sum()
    total.backward()  # type: ignore[no-untyped-call]
    assert float(total.detach()) == 0 and alone.counts(one.train_batch(empty)).tolist() == [0]


def test_validation_batches_go_round_by_task(tmp_path: Path) -> None:
    found = problem(tmp_path, SIZES, validation_examples=5, sampling="proportional")
    data = found.data(0, TRAINING)
    assert data.num_validation_batches == 3
    rows = [drawn(found, data.validation_batch(index)) for index in range(6)]
    assert rows[0] == rows[3] and rows[1] == rows[4]
    for task in SIZES:
        known = ids(found, task, "validation")
        seen = [row for batch in rows[:3] for row in batch[task]]
        assert len(seen) == 6
        assert all(row in seen for row in known)


def test_evaluations_see_every_example_once_and_no_more_than_the_budget(tmp_path: Path) -> None:
    found = problem(tmp_path, SIZES)
    data = found.data(0, TRAINING)
    seen = [row for batch in data.batches("test") for rows in drawn(found, batch).values() for row in rows]
    assert sorted(seen) == sorted(row for task in SIZES for row in ids(found, task, "test"))
    whole = sum(found.counts(batch) for batch in data.batches("test"))
    small = problem(tmp_path, SIZES, evaluation_tokens=35)
    counts = sum(small.counts(batch) for batch in small.data(0, TRAINING).batches("test"))
    assert isinstance(whole, Tensor) and isinstance(counts, Tensor)
    assert (whole > 35).all() and (counts <= 35).all() and (counts > 10).all()
