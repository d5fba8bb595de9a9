"""Replays of other implementations: fed the same numbers, each method must answer with the same weights.

``--traces DIR`` replays another folder; the format is in traces/README.md. ``--conformance FILE`` writes the table of what
was replayed and how far the weights were apart.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from places import ROOT, TESTS
from replays import (
    OFFICIAL,
    REPLAYS,
    Replay,
    Trace,
    by_losses,
    coba_official,
    coba_paper,
    dwa,
    expected_of,
    files,
    found,
    group_of,
    largest_difference,
    numbers,
)

import weighting
from weighting import Observation


def rlw(trace: Trace) -> None:
    """A distribution, not a sequence: means, spreads and quantiles of our draws within four standard errors of both."""
    statistics = trace["outputs"]["statistics_by_num_tasks"]
    share = DRAWS / trace["hyperparameters"]["draws"]
    for num_tasks, told in statistics.items():
        weighter = weighting.create("random", int(num_tasks), seed=1)
        seen = Observation(losses=torch.ones(int(num_tasks), dtype=torch.float64))
        drawn = weighting.replay(weighter, [seen] * (1 + DRAWS))
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


SINGLE_PRECISION_LIMIT = 1e-5


def further_replays(trace: Trace) -> list[tuple[Replay, Any]]:
    """What else a file has numbers for: other readings of the equations, and the losses behind stored ratios."""
    readings = trace.get("outputs", {}).get("alternative_readings_weights", {})
    result: list[tuple[Replay, Any]] = [(OFFICIAL[trace["method"]], None)] if trace["method"] in OFFICIAL else []
    if "history_from_first_step" in readings:
        replay = Replay("coba_from_start", lambda one: coba_paper(one, "coba_from_start"))
        result.append((replay, readings["history_from_first_step"]))
    if found(trace, "log_transform_coefficients"):
        replay = Replay("log_transform", by_losses("log_transform"), relative=True)
        result.append((replay, found(trace, "log_transform_coefficients")))
    if "val_ratios" in trace["inputs"] and "val_losses" in trace["inputs"]:
        single = trace["hyperparameters"].get("float_dtype") == "float32"
        limit = SINGLE_PRECISION_LIMIT if single else 1e-9
        result.append((Replay("coba_mftcoder", lambda one: coba_official(one, "val_losses"), limit), None))
    return result


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "path" in metafunc.fixturenames:
        found_files = files(metafunc.config.getoption("traces"))
        metafunc.parametrize("path", found_files, ids=[path.stem for path in found_files])


def test_same_weights_as_the_other_implementation(path: Path, record_property: Callable[[str, object], None]) -> None:
    trace = json.loads(path.read_text(encoding="utf-8"))
    group = group_of(path)
    if group == "rlw":
        record_property("conformance", ["random", trace["source"], None, "4 standard errors"])
        rlw(trace)
        return
    if group not in REPLAYS:
        pytest.fail(f"expected a trace of {', '.join([*REPLAYS, 'rlw'])}, found {group!r}")
    for replay, expected in [(REPLAYS[group], None), *further_replays(trace)]:
        difference = largest_difference(replay, trace, expected_of(replay, trace, expected))
        largest = replay.limit_of(trace)
        limit = f"{largest:.0e}{' relative' * replay.relative}"
        setting = replay.setting + " in single precision" * (largest != replay.limit)
        record_property("conformance", [setting, trace["source"], difference, limit])
        assert difference <= largest, f"{replay.setting}: weights differ by {difference:.3g}, at most {limit} is allowed"


def test_the_folder_holds_every_group() -> None:
    folder = TESTS / "traces"
    assert {group_of(path) for path in files(folder)} == {*REPLAYS, "rlw"}


def test_every_trace_is_in_the_conformance_table() -> None:
    """``make conformance`` writes it; here its rows are counted against the folder."""
    text = (ROOT / "docs" / "methods" / "conformance.md").read_text(encoding="utf-8")
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| ")][1:]
    traces = [json.loads(path.read_text(encoding="utf-8")) for path in files(TESTS / "traces")]
    replayed = sum(
        1 + any(replay.setting != REPLAYS["coba_official"].setting for replay, _ in further_replays(one)) for one in traces
    )
    assert sum(int(row[2]) for row in rows if row[2].isdigit()) == replayed
    assert {row[1] for row in rows if row[2].isdigit()} == {f"{trace['source']}" for trace in traces}
    assert not any("FAILED" in cell for row in rows for cell in row)


def test_a_wrong_method_would_not_pass() -> None:
    """Another temperature moves the weights by far more than the limit."""
    path = files(TESTS / "traces")
    trace = json.loads(next(one for one in path if group_of(one) == "dwa_libmtl").read_text(encoding="utf-8"))
    trace["hyperparameters"]["temperature"] *= 1.01
    assert (dwa(trace) - numbers(trace["weights"])).abs().max() > 1e-4


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
    from_ratios = coba_official(trace)
    torch.testing.assert_close(coba_official(trace, "val_losses"), from_ratios, rtol=1e-9, atol=1e-9)
    trace["inputs"]["train_task_present"] = [[True, False]] * 12
    assert torch.equal(coba_official(trace), numbers([[1.0, 0.0]] * 12))
