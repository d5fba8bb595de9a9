"""Lightning with task weights against training by hand: accumulation, resuming, logs, skipped steps."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from by_hand import METHODS, STEPS, TASKS, assert_equal, by_hand, method, training_batches

pytest.importorskip("lightning")
import by_lightning

from weighting.integrations.lightning import StepBatches

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.mark.parametrize("pieces", [1, 2, 4])
@pytest.mark.parametrize("name", METHODS)
def test_accumulation_trains_as_whole_batches_by_hand(name: str, pieces: int, tmp_path: Path) -> None:
    found = by_lightning.fitted(tmp_path, name, pieces)
    assert_equal(by_lightning.result(found), by_hand(name))
    assert "weight/code" in found.trainer.logged_metrics


def test_what_is_logged_are_means_since_the_last_ones(tmp_path: Path) -> None:
    """Of the steps in which a task was there; the seventh step is logged by nobody."""
    found = by_lightning.result(by_lightning.fitted(tmp_path, "dwa", log_every=3))
    losses = by_hand("dwa").losses
    expected = torch.stack([losses[:3].nanmean(0), losses[3:6].nanmean(0)])
    torch.testing.assert_close(found.losses, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", ["coba", "famo", "gradnorm"])
def test_a_run_that_resumes_within_an_epoch_is_the_same_run(name: str, tmp_path: Path) -> None:
    for stop in range(1, STEPS):
        found = by_lightning.resumed(name, tmp_path / str(stop), stop)
        torch.testing.assert_close(found, by_hand(name).parameters, rtol=1e-10, atol=1e-10)


def test_a_loader_that_resumes_after_a_whole_epoch_begins_anew() -> None:
    loader = StepBatches([1, 2, 3, 4], 2)
    assert [each.batch for each in loader] == [1, 2, 3, 4]
    loader.load_state_dict(loader.state_dict())
    assert [each.batch for each in loader] == [1, 2, 3, 4]
    loader.load_state_dict({"given": 2})
    assert [(each.batch, each.whole) for each in loader] == [(3, [3, 4]), (4, None)]


@pytest.mark.parametrize("name", METHODS)
def test_of_a_step_that_the_scaler_skipped_nothing_is_learned(name: str, tmp_path: Path) -> None:
    assert_equal(by_lightning.run(name, tmp_path, skipped=3), by_hand(name, skipped=3))


def test_a_loader_that_does_not_look_ahead_is_refused() -> None:
    module = by_lightning.Module(weighter=method("uniform"), tasks=TASKS)
    with pytest.raises(TypeError, match=r"expected micro-batches of StepBatches\(loader, ...\), found Batch"):
        module.training_step(training_batches()[0], 0)
