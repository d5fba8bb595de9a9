"""Replays of other implementations: fed the same numbers, each method must answer with the same weights.

``--traces DIR`` replays another folder; the format is in traces/README.md.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import weighting
from weighting import Observation, Weighter

Trace = dict[str, Any]


def numbers(values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def ask_and_tell(weighter: Weighter, seen: Observation) -> Tensor:
    weights = weighter.weights(seen)
    weighter.update(seen)
    return weights


def coba_paper(trace: Trace) -> list[Tensor]:
    """Row t of the validation losses belongs to the model after t updates; ``weights[t]`` has seen the rows up to t."""
    given = trace["hyperparameters"]
    weighter = weighting.create(
        "coba",
        trace["num_tasks"],
        warmup=given["warmup"],
        window=given["history_window"],
        tau=given["tau"],
        update_every=given["update_interval"],
    )
    rows = [numbers(row) for row in trace["inputs"]["val_losses"]]
    weighter.start(Observation(losses=rows[0], val_losses=rows[0]))
    weights = []
    for t in range(len(trace["weights"])):
        weights.append(weighter.weights(Observation(losses=rows[t])))
        if t + 1 < len(rows):
            weighter.update(Observation(losses=rows[t], val_losses=rows[t + 1]))
    return weights


def coba_official(trace: Trace) -> list[Tensor]:
    """Records come after some steps: the ratios to the initial losses as stored, or the mean over a record's samples.

    A ratio of zero says that the validation batch had nothing of the task. With ``train_task_present`` the weights in the
    total are ``effective_coefficients``.
    """
    given, inputs = trace["hyperparameters"], trace["inputs"]
    weighter = weighting.create(
        "coba",
        trace["num_tasks"],
        variant="mftcoder",
        warmup=given["warmup_steps"],
        window=given["history_length"],
        tau=given["tau"],
        update_every=given["update_interval"],
    )
    initial = numbers(inputs["initial_val_loss"])
    present = inputs.get("train_task_present")
    records = {}
    for place, step in enumerate(inputs["val_steps"]):
        if "val_ratios" in inputs:
            records[step] = numbers(inputs["val_ratios"][place]) * initial
        else:
            records[step] = numbers(inputs["val_losses"][place]).reshape(-1, len(initial)).mean(0)
    weighter.start(Observation(losses=initial, val_losses=initial))
    weights = []
    for step in range(len(trace["weights"])):
        here = None if present is None else torch.tensor(present[step], dtype=torch.bool)
        now = Observation(losses=initial, present=here)
        weights.append(weighter.weights(now))
        if step in records:
            missing = records[step] == 0
            now = now.with_(val_losses=records[step], val_present=~missing if bool(missing.any()) else None)
        weighter.update(now)
    return weights


def famo(trace: Trace) -> list[Tensor]:
    given, inputs = trace["hyperparameters"], trace["inputs"]
    least = given["min_losses"]
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


def uncertainty(trace: Trace) -> list[Tensor]:
    weighter = weighting.create("uncertainty", trace["num_tasks"], **trace["hyperparameters"])
    return [ask_and_tell(weighter, Observation(losses=numbers(row))) for row in trace["inputs"]["losses"]]


def gradnorm(trace: Trace) -> list[Tensor]:
    given, inputs = trace["hyperparameters"], trace["inputs"]
    weighter = weighting.create(
        "gradnorm",
        trace["num_tasks"],
        alpha=given["alpha"],
        lr=given["weight_lr"],
        optimizer=given["weight_optimizer"].split()[0],
    )
    weighter.start(Observation(losses=numbers(inputs["initial_losses"])))
    pairs = zip(inputs["losses"], inputs["gradient_norms"], strict=True)
    return [
        ask_and_tell(weighter, Observation(losses=numbers(losses), grad_norms=numbers(norms))) for losses, norms in pairs
    ]


@dataclass(frozen=True)
class Replay:
    """How the traces of one group are replayed, and the largest difference allowed in any weight."""

    weights: Callable[[Trace], list[Tensor]]
    limit: float = 1e-10


REPLAYS = {
    "coba_paper": Replay(coba_paper),
    "coba_official": Replay(coba_official, 1e-9),
    "famo_official": Replay(famo),
    "dwa_libmtl": Replay(dwa),
    "uw_libmtl": Replay(uncertainty),
    "uw_nashmtl": Replay(uncertainty),
    "gradnorm_paper": Replay(gradnorm),
}
"""Group, the part of a file's name before the hyphen -> its replay."""

SINGLE_PRECISION_LIMIT = 1e-5

NOT_HERE = {
    "gls_libmtl": "gls is no listed method",
    "imtl_l_libmtl": "imtl_l is no listed method",
    "dwa_nashmtl": "dwa with nash-mtl's sliding windows is no listed variant",
    "gradnorm_libmtl": "gradnorm with LibMTL's softmax is no listed variant",
    "rlw": "a distribution without steps; test_weighter_formulas.py compares moments",
}


def group_of(path: Path) -> str:
    return path.name.partition("-")[0]


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*.json") if path.name != "INDEX.json")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "path" in metafunc.fixturenames:
        found = files(metafunc.config.getoption("traces"))
        metafunc.parametrize("path", found, ids=[path.stem for path in found])


def test_same_weights_as_the_other_implementation(path: Path) -> None:
    trace = json.loads(path.read_text(encoding="utf-8"))
    group = group_of(path)
    if group in NOT_HERE:
        pytest.skip(NOT_HERE[group])
    replay = REPLAYS[group]
    expected = numbers(trace.get("outputs", {}).get("effective_coefficients", trace["weights"]))
    found = torch.stack(replay.weights(trace))
    assert found.shape == expected.shape
    single = trace["hyperparameters"].get("float_dtype") == "float32"
    assert (found - expected).abs().max() <= (SINGLE_PRECISION_LIMIT if single else replay.limit)


def test_the_folder_holds_every_group() -> None:
    folder = Path(__file__).parent / "traces"
    assert {group_of(path) for path in files(folder)} == set(REPLAYS)


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
    del trace["inputs"]["val_ratios"]
    torch.testing.assert_close(torch.stack(coba_official(trace)), from_ratios, rtol=1e-9, atol=1e-9)
    trace["inputs"]["train_task_present"] = [[True, False]] * 12
    assert torch.equal(torch.stack(coba_official(trace)), numbers([[1.0, 0.0]] * 12))
