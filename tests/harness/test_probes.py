"""Numbers inside a method, logged on request: at their steps, with nothing else changed, kept, read back and damaged."""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from command_line import train
from loops import METHODS, TRAINING, logged, loop_of, method, parameters, same, settings, stop_after
from suites import plan_of, suite, suite_file
from tiny_problem import Fine
from tiny_variants import Sparse
from torch import Tensor
from written_records import change_trajectory

import benchmarks
import weighting
from benchmarks.analysis.loading import load
from benchmarks.harness.checkpoint import Checkpoint
from benchmarks.harness.loop import Loop, StopRequested
from benchmarks.problems.famo_toy import FamoToy
from benchmarks.records.schema import DISTURBED, Flag, RunSpec
from benchmarks.records.storage import DamagedRecordError, read_run, run_folders
from weighting import Observation, Weighter

ON = {"probes": True}


class Counts(Fine):
    """Its probes say how many updates were made, for each task and once, and how often they were asked for."""

    name = "counts"

    def __init__(self, num_tasks: int, *, batch_shape: Sequence[int] = ()) -> None:
        super().__init__(num_tasks, batch_shape=batch_shape)
        self.asked = 0

    def probes(self) -> dict[str, Tensor]:
        self.asked += 1
        return {"by task": self.steps + 0.125 * torch.arange(self.num_tasks), "once": self.steps.clone()}


class Draws(Counts):
    """Its probes draw from every global generator."""

    name = "draws"

    def probes(self) -> dict[str, Tensor]:
        drawn = torch.rand(()) + np.random.rand() + random.random()  # noqa: NPY002
        return {"drawn": drawn}


def columns(loop: Loop) -> list[str]:
    return [name for name in loop.trajectory.frame().columns if name.startswith("method.")]


# ---- nothing else changes --------------------------------------------------------------------------------------------


def flags_of_the_weights(loop: Loop) -> list[Flag]:
    """All but what the machine says."""
    return [flag for flag in loop.flags(None) if flag.name != DISTURBED]


@pytest.mark.parametrize("make", [*METHODS, Draws], ids=str)
def test_a_run_with_probes_is_bit_identical_to_one_without(make: str | type[Weighter]) -> None:
    training = settings(**TRAINING)
    loops, outcomes = [], []
    for changes in ({}, ON):
        weighter = method(make) if isinstance(make, str) else make(3)
        loops.append(loop_of(weighter, training.model_copy(update=changes)))
        outcomes.append(loops[-1].run())
    without, with_probes = loops
    shown = with_probes.trajectory.frame().drop(columns=columns(with_probes))
    assert columns(without) == []
    pd.testing.assert_frame_equal(shown, without.trajectory.frame(), check_exact=True)
    assert same(parameters(with_probes.model), parameters(without.model))
    assert same(with_probes.weighter.state_dict(), without.weighter.state_dict())
    assert (outcomes[0].test, outcomes[0].selection) == (outcomes[1].test, outcomes[1].selection)
    assert outcomes[0].costs.extra_forwards == outcomes[1].costs.extra_forwards
    assert flags_of_the_weights(with_probes) == flags_of_the_weights(without)


def test_drawing_probes_leaves_the_generators_as_they_are() -> None:
    loop = loop_of(Draws(3), settings(**ON))
    loop.begin()
    loop._open_row()
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()  # type: ignore[index] # noqa: NPY002
    loop._log_probes()
    after = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()  # type: ignore[index] # noqa: NPY002
    assert torch.equal(before[0], after[0]) and before[1:] == after[1:]


def test_probes_are_those_of_the_weights_of_their_row_and_read_at_no_other_step() -> None:
    weighter = Counts(3)
    loop = loop_of(weighter, settings(steps=17, log_every=5, evaluate_every=7, **ON))
    loop.run()
    steps = [0, 5, 7, 10, 14, 15, 17]
    assert logged(loop, "method.once") == {step: [step] * 3 for step in steps}
    assert logged(loop, "method.by task") == {step: [step, step + 0.125, step + 0.25] for step in steps}
    assert weighter.asked == len(steps)


def test_what_a_row_says_of_coba_gives_its_weights() -> None:
    """w = DF RCS + (1 - DF) ACS, once the warm-up is over."""
    loop = loop_of(method("coba"), settings(steps=30, log_every=4, **ON))
    loop.run()
    table = loop.trajectory.frame().query("4 < step < 30")
    share = table["method.DF"]
    np.testing.assert_allclose(table["weight"], share * table["method.RCS"] + (1 - share) * table["method.ACS"], rtol=1e-6)
    assert table.groupby("step")["method.DF"].nunique().eq(1).all()


def test_what_a_row_says_gives_the_weights_of_the_methods_that_answer_from_it() -> None:
    found = {}
    for name in ("uncertainty", "dwa", "famo", "gradnorm"):
        loop = loop_of(method(name), settings(steps=30, log_every=4, **ON))
        loop.run()
        found[name] = loop.trajectory.frame().query("step < 30")
    sigma = found["uncertainty"]
    np.testing.assert_allclose(sigma["weight"], 1 / (2 * sigma["method.sigma"] ** 2), rtol=1e-6)
    ratios = found["dwa"]["method.ratio"].to_numpy().reshape(-1, 3) / 2.0
    shares = np.exp(ratios) / np.exp(ratios).sum(-1, keepdims=True)
    np.testing.assert_allclose(found["dwa"]["weight"].to_numpy().reshape(-1, 3), 3 * shares, rtol=1e-6)
    logits, losses = (found["famo"][name].to_numpy().reshape(-1, 3) for name in ("method.logits", "train_loss"))
    shares = np.exp(logits) / losses
    weights = found["famo"]["weight"].to_numpy().reshape(-1, 3)
    np.testing.assert_allclose(weights, shares / shares.sum(-1, keepdims=True), rtol=1e-6)
    rates = found["gradnorm"]["method.relative_rate"].to_numpy().reshape(-1, 3)
    np.testing.assert_allclose(rates.mean(-1), 1.0, rtol=1e-12)
    assert (rates[0] == 1).all() and (rates[1:] != 1).any()


# ---- of every kind ---------------------------------------------------------------------------------------------------


def test_replicas_have_probes_of_their_own() -> None:
    problem = FamoToy()
    training = problem.training.model_copy(update={"steps": 6, "log_every": 2, "evaluate_every": 3, **ON})
    coba = weighting.create("coba", 2, batch_shape=problem.batch_shape, warmup=2, window=4)
    loop = Loop(problem, problem.data(0, training), coba, training, 0, device=torch.device("cpu"))
    loop.run()
    table = loop.trajectory.frame()
    last = table[table["step"] == 6]
    scores = coba.probes()
    assert last["method.RCS"].to_numpy().reshape(5, 2).tolist() == scores["RCS"].tolist()
    assert last["method.DF"].to_numpy().reshape(5, 2).tolist() == [[value] * 2 for value in scores["DF"].tolist()]
    assert len(set(last.groupby("replica")["method.ACS"].first())) > 1
    assert {"probe.a", "probe.b"} <= set(table.columns)


@pytest.mark.parametrize("name", ["uniform", "static", "random"])
def test_a_method_without_probes_has_no_columns(name: str) -> None:
    loop = loop_of(method(name), settings(**ON))
    loop.run()
    assert columns(loop) == []


def test_an_absent_task_has_no_weight_but_still_what_the_method_knows_of_it() -> None:
    loop = loop_of(method("uncertainty"), settings(log_every=1, batch_size=2, **ON), Sparse())
    loop.run()
    table = loop.trajectory.frame().query("step < 20")
    absent = table["count"] == 0
    assert absent.any() and table.loc[absent, "weight"].isna().all()
    sigma, here = table["method.sigma"].to_numpy().reshape(-1, 3), ~absent.to_numpy().reshape(-1, 3)
    moved = np.diff(sigma, axis=0) != 0
    assert np.isfinite(sigma).all()
    assert (moved == here[:-1]).all()


class Odd(Fine):
    """Gives what it is told to."""

    name = "odd"

    def __init__(self, num_tasks: int, gives: Any) -> None:
        super().__init__(num_tasks)
        self.gives = gives

    def probes(self) -> dict[str, Tensor]:
        found = self.gives(int(self.steps)) if callable(self.gives) else self.gives
        return dict(found)


def test_numbers_that_are_not_finite_are_logged_and_end_nothing() -> None:
    loop = loop_of(Odd(3, {"x": torch.tensor([float("nan"), float("inf"), -float("inf")])}), settings(**ON))
    loop.run()
    rows = loop.trajectory.frame()["method.x"].to_numpy().reshape(-1, 3)
    assert np.isnan(rows[:, 0]).all() and (rows[:, 1] == np.inf).all() and (rows[:, 2] == -np.inf).all()
    assert loop.diagnostics.seen["steps"] == 20 and "not_finite" not in [flag.name for flag in loop.flags(None)]


def test_names_may_come_and_go() -> None:
    loop = loop_of(
        Odd(3, lambda step: {"early": torch.tensor(1.0)} if step < 10 else {"late": torch.ones(3)}), settings(**ON)
    )
    loop.run()
    table = loop.trajectory.frame()
    assert logged(loop, "method.early") == {0: [1.0] * 3, 5: [1.0] * 3}
    assert logged(loop, "method.late") == {10: [1.0] * 3, 15: [1.0] * 3, 20: [1.0] * 3}
    assert len(table) == 15


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (2, [2.0] * 3),
        (0.1, [0.1] * 3),
        ([1, 2, 3], [1.0, 2.0, 3.0]),
        (np.array([0.5, 0.25, 0.125]), [0.5, 0.25, 0.125]),
        (torch.tensor([True, False, True]), [1.0, 0.0, 1.0]),
        (torch.tensor([1.0, 2.0, 3.0], dtype=torch.bfloat16), [1.0, 2.0, 3.0]),
        (torch.ones(3, requires_grad=True) * 2, [2.0] * 3),
    ],
    ids=str,
)
def test_plain_numbers_are_taken(value: Any, expected: list[float]) -> None:
    loop = loop_of(Odd(3, {"x": value}), settings(**ON))
    loop.run()
    assert list(logged(loop, "method.x").values())[-1] == expected


@pytest.mark.parametrize("value", [torch.ones(2), torch.ones(4), torch.ones(1), torch.ones(3, 1), torch.ones(1, 3)], ids=str)
def test_another_shape_is_one_line(value: Tensor) -> None:
    with pytest.raises(ValueError, match=r"^expected method.x of shape \(3,\) or \(\), found \(") as caught:
        loop_of(Odd(3, {"x": value}), settings(**ON)).run()
    assert "\n" not in str(caught.value)


# ---- stopping and going on -------------------------------------------------------------------------------------------


def made(name: str) -> Weighter:
    return Counts(3) if name == "counts" else method(name)


@cache
def whole(name: str) -> pd.DataFrame:
    """The trajectory of the run at a stretch, trained once for all stops."""
    loop = loop_of(made(name), settings(**TRAINING, **ON))
    loop.run()
    return loop.trajectory.frame()


@pytest.mark.slow
@pytest.mark.parametrize("name", [*METHODS, "counts"])
@pytest.mark.parametrize("blocks", [1, 5, 18])
def test_a_resumed_run_has_the_same_probes(name: str, blocks: int, tmp_path: Path) -> None:
    """After the first block, in the middle, and after the last, when the score alone is missing."""
    training = settings(**TRAINING, **ON)
    stopped = loop_of(made(name), training, checkpoint=Checkpoint(tmp_path, "run"), should_stop=stop_after(blocks))
    with pytest.raises(StopRequested):
        stopped.run()
    last = loop_of(made(name), training, checkpoint=Checkpoint(tmp_path, "run"))
    last.run()
    assert last.resumed == 1
    pd.testing.assert_frame_equal(last.trajectory.frame(), whole(name), check_exact=True)
    assert (stopped.step == 40) == (blocks == 18)


# ---- the key, and the record -----------------------------------------------------------------------------------------


def spec_of(folder: Path, **training: Any) -> RunSpec:
    return plan_of(folder, suite(weighters=["coba"], training=training)).runs[0]


def test_at_its_default_the_setting_is_in_no_key(tmp_path: Path) -> None:
    plain = spec_of(tmp_path)
    assert spec_of(tmp_path, probes=False).key == plain.key
    assert spec_of(tmp_path, probes=True).key != plain.key
    assert spec_of(tmp_path, probes=True).conditions["training"] == {"probes": True}
    # As a record from before the setting has it, of a problem whose file is still there or gone.
    for name in (plain.problem.name, "gone.py:Tiny"):
        spec = plain.model_copy(update={"problem": plain.problem.model_copy(update={"name": name})})
        written = spec.model_dump(mode="json")
        del written["training"]["probes"]
        old = RunSpec.model_validate(written)
        assert old.key == spec.key
        assert "probes" not in old.conditions["training"]


@pytest.mark.parametrize("value", ["maybe", 1, None])
def test_another_value_is_one_line(value: object, tmp_path: Path) -> None:
    with pytest.raises(benchmarks.errors.UserError, match=r"training\.probes: expected a valid boolean") as caught:
        spec_of(tmp_path, probes=value)
    assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("probes")
    weighters = ["uniform", "coba", "famo", "gradnorm"]
    assert train(suite_file(folder, weighters=weighters, training={"steps": 30, "probes": True})) == 0
    return folder


@pytest.mark.slow
def test_probes_are_loaded_with_their_types(trained: Path) -> None:
    frame = benchmarks.load_trajectories(trained / "out")
    assert any(str(name).startswith("method.") for name in frame)
    for name, label in (("RCS", "coba"), ("ACS", "coba"), ("DF", "coba"), ("logits", "famo"), ("relative_rate", "gradnorm")):
        column = frame[f"method.{name}"]
        assert str(column.dtype) == "float64"
        own = (frame["method"] == label) & (frame["role"] == "method")
        assert column[own].notna().all() and column[frame["method"] == "uniform"].isna().all()
    runs = benchmarks.load(trained / "out")
    assert str(runs["training.probes"].dtype) == "bool"
    assert runs["training.probes"].all()


@pytest.mark.slow
def test_rows_without_numbers_in_a_probe_are_damage(trained: Path) -> None:
    place = next(
        folder for folder in run_folders(trained / "out" / "mine") if read_run(folder).record.run.weighter.name == "coba"
    )
    kept = read_run(place).trajectory
    try:
        change_trajectory(place, kept.assign(**{"method.RCS": "high"}))
        (damaged,) = load(trained / "out" / "mine", [place.name]).unusable
        assert "expected numbers in column method.RCS" in damaged.reason
        with pytest.warns(UserWarning, match=r"left out: .*trajectory\.parquet"):
            benchmarks.load_trajectories(place)
        content = bytearray((place / "trajectory.parquet").read_bytes())
        content[len(content) // 3] ^= 1
        (place / "trajectory.parquet").write_bytes(content)
        with pytest.raises(DamagedRecordError, match="not as it was written"):
            read_run(place)
    finally:
        change_trajectory(place, kept)
    assert load(trained / "out" / "mine").unusable == ()


def test_the_wrapped_method_is_asked(tmp_path: Path) -> None:
    fed = weighting.create("famo", 3, losses_from="validation")
    fed.start(Observation(losses=torch.ones(3), val_losses=torch.ones(3)))
    assert list(fed.probes()) == ["logits"]
