"""Methods fed with the losses of the other split, by hand and in the harness's loop."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor

import weighting
from weighting import Needs, Observation


def vector(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


LOSSES, VALIDATION = vector(100.0, 1.0), vector(2.0, 8.0)


def test_validation_losses_stand_for_training_losses() -> None:
    """1 / L with L of the validation split: those of the start, then those measured after the step."""
    weighter = weighting.create("scale_invariant", 2, losses_from="validation")
    weighter.start(Observation(losses=LOSSES, val_losses=VALIDATION))
    now = Observation(losses=LOSSES)
    assert torch.equal(weighter.weights(now), vector(1 / 2, 1 / 8))
    weighter.update(now.replace(val_losses=vector(4.0, 5.0)))
    assert torch.equal(weighter.weights(now), vector(1 / 4, 1 / 5))


def test_a_method_fed_on_validation_is_the_method_one_step_later() -> None:
    """What a method fed with training losses answers to a row of losses, it answers here to the same row measured before."""
    rows = 1 + torch.rand(40, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for name in ("dwa", "uncertainty", "gls", "lbtw", "imtl_l", "log_transform", "softadapt", "cov_weighting"):
        more = {"window": 5} if name == "dwa" else {}
        own = weighting.create(name, 3, **more)
        own.start(Observation(losses=rows[0]))
        fed = weighting.create(name, 3, losses_from="validation", **more)
        fed.start(Observation(losses=rows[0] * 7, val_losses=rows[0]))
        for row, after in pairwise(rows):
            expected = own.weights(Observation(losses=row))
            own.update(Observation(losses=row))
            found = fed.weights(Observation(losses=row * 7))
            fed.update(Observation(losses=row * 7, val_losses=after))
            torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_famo_compares_one_validation_batch_before_and_after_the_step() -> None:
    before, after = vector(3.0, 5.0), vector(2.0, 4.9)
    fed = weighting.create("famo", 2, losses_from="validation")
    assert fed.wants() == Needs.VAL_LOSSES | Needs.VAL_LOSSES_BEFORE_STEP
    fed.start(Observation(losses=LOSSES, val_losses=VALIDATION))
    fed.update(Observation(losses=LOSSES, val_losses_before=before, val_losses=after))
    own = weighting.create("famo", 2)
    own.start(Observation(losses=VALIDATION))
    own.update(Observation(losses=before, losses_after=after))
    assert torch.equal(fed.weights(Observation(losses=LOSSES)), own.weights(Observation(losses=after)))


def test_coba_fed_on_training_reads_no_validation_batch() -> None:
    fed = weighting.create("coba", 2, warmup=3, window=6, losses_from="training")
    own = weighting.create("coba", 2, warmup=3, window=6)
    assert fed.needs == Needs.NOTHING
    rows = 1 + torch.rand(20, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    fed.start(Observation(losses=rows[0]))
    own.start(Observation(losses=rows[0], val_losses=rows[0]))
    for row in rows[1:]:
        assert fed.wants() == Needs.NOTHING
        fed.update(Observation(losses=row))
        own.update(Observation(losses=row, val_losses=row))
        assert torch.equal(fed.weights(Observation(losses=row)), own.weights(Observation(losses=row)))


def test_a_task_without_validation_loss_waits() -> None:
    weighter = weighting.create("scale_invariant", 2, losses_from="validation")
    weighter.start(Observation(losses=LOSSES, val_losses=VALIDATION, val_counts=torch.tensor([True, False])))
    assert torch.equal(weighter.weights(Observation(losses=LOSSES)), vector(1 / 2, 0.0))
    weighter.update(Observation(losses=LOSSES, val_losses=vector(9.0, 4.0), val_counts=torch.tensor([False, True])))
    assert torch.equal(weighter.weights(Observation(losses=LOSSES)), vector(1 / 2, 1 / 4))


def test_its_own_split_is_the_plain_class() -> None:
    assert type(weighting.create("dwa", 2, losses_from="training")) is weighting.METHODS["dwa"]
    assert type(weighting.create("coba", 2, losses_from="validation")) is weighting.METHODS["coba"]
    assert weighting.create("dwa", 2, losses_from="validation").name == "dwa"


def test_a_typo_is_one_line() -> None:
    with pytest.raises(ValueError, match="dwa: expected losses_from to be one of training, validation, found 'val'"):
        weighting.create("dwa", 2, losses_from="val")
