"""Replays of other implementations: fed the same numbers, each method must answer with the same weights.

``--traces DIR`` replays another folder; the format is in traces/README.md. ``--conformance FILE`` writes the table of what
was replayed and how far the weights were apart.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import weighting
from weighting import Observation, Weighter

Trace = dict[str, Any]


def numbers(values: Any) -> Tensor:
    """NaN where a file has null."""
    return torch.tensor(np.array(values, dtype=np.float64))


def ask_and_tell(weighter: Weighter, seen: Observation) -> Tensor:
    weights = weighter.weights(seen)
    weighter.update(seen)
    return weights


def coba_paper(trace: Trace, history: str = "from_warmup") -> list[Tensor]:
    """Row t of the validation losses belongs to the model after t updates; ``weights[t]`` has seen the rows up to t."""
    given = trace["hyperparameters"]
    weighter = weighting.create(
        "coba",
        trace["num_tasks"],
        warmup=given["warmup"],
        window=given["history_window"],
        tau=given["tau"],
        update_every=given.get("update_interval", 1),
        history=history,
    )
    rows = [numbers(row) for row in trace["inputs"]["val_losses"]]
    weighter.start(Observation(losses=rows[0], val_losses=rows[0]))
    weights = []
    for t in range(len(trace["weights"])):
        weights.append(weighter.weights(Observation(losses=rows[t])))
        if t + 1 < len(rows):
            weighter.update(Observation(losses=rows[t], val_losses=rows[t + 1]))
    return weights


def coba_official(trace: Trace, inputs: str = "val_ratios") -> list[Tensor]:
    """Records come after some steps: the ratios to the initial losses as stored, or the losses of a record's samples.

    A ratio of zero says that the validation batch had nothing of the task. With ``train_task_present`` the weights in the
    total are ``effective_coefficients``.
    """
    given, seen = trace["hyperparameters"], trace["inputs"]
    weighter = weighting.create(
        "coba",
        trace["num_tasks"],
        variant="mftcoder",
        warmup=given["warmup_steps"],
        window=given["history_length"],
        tau=given["tau"],
        update_every=given["update_interval"],
    )
    initial = numbers(seen["initial_val_loss"])
    present = found(trace, "train_task_present")
    rows = [numbers(row) for row in seen[inputs]]
    records = [row * initial if inputs == "val_ratios" else row.reshape(-1, len(initial)).mean(0) for row in rows]
    by_step = dict(zip(seen["val_steps"], records, strict=True))
    weighter.start(Observation(losses=initial, val_losses=initial))
    weights = []
    for step in range(len(trace["weights"])):
        here = None if present is None else torch.tensor(present[step], dtype=torch.bool)
        now = Observation(losses=initial, counts=here)
        weights.append(weighter.weights(now))
        if step in by_step:
            missing = (by_step[step] == 0) | by_step[step].isnan()
            now = now.replace(val_losses=by_step[step], val_counts=~missing if bool(missing.any()) else None)
        weighter.update(now)
    return weights


def found(trace: Trace, key: str) -> Any:
    """An array that may stand among the inputs, the outputs or beside them; None: nowhere."""
    return next((place[key] for place in (trace["inputs"], trace.get("outputs", {}), trace) if key in place), None)


def famo(trace: Trace) -> list[Tensor]:
    given, inputs = trace["hyperparameters"], trace["inputs"]
    least = found(trace, "min_losses") or given["min_losses"]
    weighter = weighting.create(
        "famo",
        trace["num_tasks"],
        lr=given["w_lr"],
        gamma=given["gamma"],
        min_losses=0.0 if isinstance(least, str) else least,
    )
    pairs = zip(inputs["losses_before"], inputs["losses_after"], strict=True)
    return [
        ask_and_tell(weighter, Observation(losses=numbers(before), losses_after=numbers(after))) for before, after in pairs
    ]


def dwa(trace: Trace) -> list[Tensor]:
    """One row per epoch, its mean losses: windows of one step."""
    weighter = weighting.create("dwa", trace["num_tasks"], window=1, temperature=trace["hyperparameters"]["temperature"])
    return [ask_and_tell(weighter, Observation(losses=numbers(row))) for row in trace["inputs"]["epoch_losses"]]


def dwa_nashmtl(trace: Trace) -> list[Tensor]:
    """The file's weights sum to K, and the total is the mean of weight times loss."""
    given = trace["hyperparameters"]
    weighter = weighting.create(
        "dwa",
        trace["num_tasks"],
        variant="nash_mtl",
        window=given["iteration_window"],
        temperature=given["temperature"],
    )
    rows = [ask_and_tell(weighter, Observation(losses=numbers(row))) for row in trace["inputs"]["losses"]]
    return [trace["num_tasks"] * row for row in rows]


def by_losses(name: str) -> Callable[[Trace], list[Tensor]]:
    """A method that reads nothing but one row of losses per step."""

    def replay(trace: Trace) -> list[Tensor]:
        weighter = weighting.create(name, trace["num_tasks"])
        return [ask_and_tell(weighter, Observation(losses=numbers(row))) for row in trace["inputs"]["losses"]]

    return replay


def imtl_l(trace: Trace) -> list[Tensor]:
    given = dict(trace["hyperparameters"])
    weighter = weighting.create("imtl_l", trace["num_tasks"], initial_log_scale=given.pop("initial_s"), **given)
    return [ask_and_tell(weighter, Observation(losses=numbers(row))) for row in trace["inputs"]["losses"]]


def gradnorm_libmtl(trace: Trace) -> list[Tensor]:
    """The rows start after the first epoch, whose mean losses are given."""
    given = trace["hyperparameters"]
    weighter = weighting.create(
        "gradnorm",
        trace["num_tasks"],
        variant="libmtl",
        alpha=given["alpha"],
        lr=given["lr"],
        optimizer=given["optimizer"].split()[0],
        weight_decay=given["weight_decay"],
    )
    return replay_gradnorm(weighter, trace["inputs"])


def replay_gradnorm(weighter: Weighter, inputs: dict[str, Any]) -> list[Tensor]:
    weighter.start(Observation(losses=numbers(inputs["initial_losses"])))
    pairs = zip(inputs["losses"], inputs["gradient_norms"], strict=True)
    return [
        ask_and_tell(weighter, Observation(losses=numbers(losses), grad_norms=numbers(norms))) for losses, norms in pairs
    ]


def uncertainty(trace: Trace) -> list[Tensor]:
    weighter = weighting.create("uncertainty", trace["num_tasks"], **trace["hyperparameters"])
    return [ask_and_tell(weighter, Observation(losses=numbers(row))) for row in trace["inputs"]["losses"]]


def gradnorm(trace: Trace) -> list[Tensor]:
    given = trace["hyperparameters"]
    weighter = weighting.create(
        "gradnorm",
        trace["num_tasks"],
        alpha=given["alpha"],
        lr=given["weight_lr"],
        optimizer=given["weight_optimizer"].split()[0],
    )
    return replay_gradnorm(weighter, trace["inputs"])


def rlw(trace: Trace) -> None:
    """A distribution, not a sequence: means, spreads and quantiles of our draws within four standard errors of both."""
    statistics = trace["outputs"]["statistics_by_num_tasks"]
    share = DRAWS / trace["hyperparameters"]["draws"]
    for num_tasks, told in statistics.items():
        weighter = weighting.create("random", int(num_tasks), seed=1)
        seen = Observation(losses=torch.ones(int(num_tasks), dtype=torch.float64))
        drawn = torch.stack([ask_and_tell(weighter, seen) for _ in range(DRAWS)])
        from_mean = drawn - drawn.mean(0)
        cases = [
            *((drawn[:, task], mean) for task, mean in enumerate(told["mean"])),
            *((from_mean[:, task] ** 2, std**2) for task, std in enumerate(told["std"])),
            (from_mean[:, 0] * from_mean[:, 1], told["covariance_first_two"]),
            (drawn.amax(-1), told["mean_of_max"][0]),
            (drawn.amin(-1), told["mean_of_min"][0]),
            ((drawn**2).sum(-1), told["mean_of_sum_of_squares"][0]),
            (-(drawn * drawn.log()).sum(-1), told["mean_of_entropy"][0]),
            # The share of weights below a quantile of theirs is the quantile's level.
            *(((drawn < value).double().mean(-1), float(level)) for level, value in told["pooled_quantiles"].items()),
        ]
        for ours, expected in cases:
            error = float(ours.std()) / math.sqrt(DRAWS) * math.sqrt(1 + share)
            assert abs(float(ours.mean()) - expected) <= 4 * error, (num_tasks, expected)
        assert (drawn.sum(-1) - 1).abs().max() <= 1e-12


DRAWS = 10_000


@dataclass(frozen=True)
class Replay:
    """How the traces of one group are replayed, and the largest difference allowed in any weight."""

    setting: str
    """The method, and the variant where it has several."""
    weights: Callable[[Trace], list[Tensor]]
    limit: float = 1e-10
    relative: bool = False
    """The limit is one on the difference relative to the weight."""


REPLAYS = {
    "coba_paper": Replay('coba, variant="paper"', coba_paper),
    "coba_official": Replay('coba, variant="mftcoder"', coba_official, 1e-9),
    "famo_official": Replay("famo", famo),
    "dwa_libmtl": Replay('dwa, variant="paper"', dwa),
    "dwa_nashmtl": Replay('dwa, variant="nash_mtl"', dwa_nashmtl, 1e-5, relative=True),
    "uw_libmtl": Replay("uncertainty", uncertainty),
    "uw_nashmtl": Replay("uncertainty", uncertainty),
    "gradnorm_paper": Replay('gradnorm, variant="paper"', gradnorm),
    "gradnorm_libmtl": Replay('gradnorm, variant="libmtl"', gradnorm_libmtl),
    "gls_libmtl": Replay("gls", by_losses("gls")),
    "imtl_l_libmtl": Replay("imtl_l", imtl_l),
}
"""Group, the part of a file's name before the hyphen -> its replay."""

SINGLE_PRECISION_LIMIT = 1e-5


def further_replays(trace: Trace) -> list[tuple[Replay, Any]]:
    """What else a file has numbers for: other readings of the equations, and the losses behind stored ratios."""
    readings = trace.get("outputs", {}).get("alternative_readings_weights", {})
    result = []
    if "history_from_first_step" in readings:
        replay = Replay('coba, variant="paper", history="from_start"', lambda one: coba_paper(one, "from_start"))
        result.append((replay, readings["history_from_first_step"]))
    if "val_ratios" in trace["inputs"] and "val_losses" in trace["inputs"]:
        single = trace["hyperparameters"].get("float_dtype") == "float32"
        limit = SINGLE_PRECISION_LIMIT if single else 1e-9
        result.append((Replay('coba, variant="mftcoder"', lambda one: coba_official(one, "val_losses"), limit), None))
    return result


def group_of(path: Path) -> str:
    return path.name.partition("-")[0]


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*.json") if path.name != "INDEX.json")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "path" in metafunc.fixturenames:
        found_files = files(metafunc.config.getoption("traces"))
        metafunc.parametrize("path", found_files, ids=[path.stem for path in found_files])


def largest_difference(replay: Replay, trace: Trace, expected: Tensor) -> float:
    """Over all steps and tasks of which the trace knows the weight."""
    ours = torch.stack(replay.weights(trace))
    assert ours.shape == expected.shape
    present = found(trace, "train_task_present")
    counts = ~expected.isnan()
    if present is not None:
        here = torch.tensor(present, dtype=torch.bool)
        assert bool((ours[~here] == 0).all()), "an absent task has a weight"
        counts &= here
    difference = (ours - expected).abs()[counts]
    return float((difference / expected.abs()[counts] if replay.relative else difference).max())


def test_same_weights_as_the_other_implementation(path: Path, record_property: Callable[[str, object], None]) -> None:
    trace = json.loads(path.read_text(encoding="utf-8"))
    group = group_of(path)
    if group == "rlw":
        record_property("conformance", ["random", trace["source"], None, "4 standard errors"])
        rlw(trace)
        return
    if group not in REPLAYS:
        pytest.fail(f"expected a trace of {', '.join([*REPLAYS, 'rlw'])}, found {group!r}")
    weights = found(trace, "effective_coefficients") or trace["weights"]
    for replay, expected in [(REPLAYS[group], None), *further_replays(trace)]:
        difference = largest_difference(replay, trace, numbers(expected or weights))
        limit = f"{replay.limit:.0e}{' relative' * replay.relative}"
        record_property("conformance", [replay.setting, trace["source"], difference, limit])
        assert difference <= replay.limit, (
            f"{replay.setting}: weights differ by {difference:.3g}, at most {limit} is allowed"
        )


def test_the_folder_holds_every_group() -> None:
    folder = Path(__file__).parent / "traces"
    assert {group_of(path) for path in files(folder)} == {*REPLAYS, "rlw"}


def test_every_trace_is_in_the_conformance_table() -> None:
    """``make conformance`` writes it; here its rows are counted against the folder."""
    text = (Path(__file__).parent.parent / "docs" / "methods" / "conformance.md").read_text(encoding="utf-8")
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| ")][1:]
    traces = [json.loads(path.read_text(encoding="utf-8")) for path in files(Path(__file__).parent / "traces")]
    replayed = sum(
        1 + any(replay.setting != REPLAYS["coba_official"].setting for replay, _ in further_replays(one)) for one in traces
    )
    assert sum(int(row[2]) for row in rows if row[2].isdigit()) == replayed
    assert {row[1] for row in rows if row[2].isdigit()} == {f"{trace['source']}" for trace in traces}
    assert not any("FAILED" in cell for row in rows for cell in row)


def test_a_wrong_method_would_not_pass() -> None:
    """Another temperature moves the weights by far more than the limit."""
    path = files(Path(__file__).parent / "traces")
    trace = json.loads(next(one for one in path if group_of(one) == "dwa_libmtl").read_text(encoding="utf-8"))
    trace["hyperparameters"]["temperature"] *= 1.01
    assert (torch.stack(dwa(trace)) - numbers(trace["weights"])).abs().max() > 1e-4


def test_samples_of_a_record_are_averaged_and_absent_tasks_named() -> None:
    """Two samples with ratios 1 and 3 count as 2; a ratio of zero is no record: the same as ratios given outright."""
    steps = list(range(1, 12))
    ratios = [[1.0 + 0.1 * step, 0.0 if step % 3 == 0 else 2.0 - 0.1 * step] for step in steps]
    initial = [2.0, 4.0]
    samples = [[[value * (1 - d) for value in map(float.__mul__, row, initial)] for d in (-0.5, 0.5)] for row in ratios]
    trace: Trace = {
        "num_tasks": 2,
        "hyperparameters": {"warmup_steps": 3, "history_length": 6, "tau": 5, "update_interval": 1},
        "inputs": {"initial_val_loss": initial, "val_steps": steps, "val_losses": samples, "val_ratios": ratios},
        "weights": [[0.5, 0.5]] * 12,
    }
    from_ratios = torch.stack(coba_official(trace))
    torch.testing.assert_close(torch.stack(coba_official(trace, "val_losses")), from_ratios, rtol=1e-9, atol=1e-9)
    trace["inputs"]["train_task_present"] = [[True, False]] * 12
    assert torch.equal(torch.stack(coba_official(trace)), numbers([[1.0, 0.0]] * 12))
