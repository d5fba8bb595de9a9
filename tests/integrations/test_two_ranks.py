"""Two ranks with two micro-batches each train as whole batches by hand: the step object, FSDP, and every adapter.

All in one test, as starting the ranks, which import every library, takes longer than all that they do.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import by_hand as small
import pytest
import tiny_language_model as tiny
from by_hand import METHODS, Result, assert_equal
from ranks import RANKS, free_port, on_ranks
from tiny_models import write_model
from torch.nn.parallel import DistributedDataParallel

import weighting
from weighting import WeightedStep

pytest.importorskip("lightning")
pytest.importorskip("trl")
pytestmark = pytest.mark.slow

NO_WHOLE_LAYER = ("gradnorm", "db_mtl")
"""Methods that compare gradients at a layer, of which FSDP leaves none whole."""


def adapters(rank: int, folder: str) -> dict[str, Callable[[str], Result]]:
    """By whom -> from a method to what it trained; the first one starts the group of processes."""
    import by_accelerate
    import by_lightning
    import by_sft
    import by_step
    import by_trainer
    from torch.distributed.fsdp import fully_shard

    place = Path(folder)

    def sharded(trained: Any) -> Any:
        fully_shard(trained[0])
        return fully_shard(trained)

    return {
        "accelerate": lambda name: by_accelerate.run(name, 2, rank, RANKS),
        "step": lambda name: by_step.run(name, 2, rank, RANKS, wrapped=DistributedDataParallel),
        "fsdp": lambda name: by_step.run(name, 2, rank, RANKS, wrapped=sharded),
        "lightning": lambda name: by_lightning.run(name, place, 2, rank, RANKS),
        "transformers": lambda name: by_trainer.run(name, place, 2, 2),
        "trl": lambda name: by_sft.run(name, place, 2, 2, place=folder),
    }


def on_a_rank(rank: int, folder: str) -> dict[str, Any]:
    warnings.simplefilter("ignore")
    found: dict[str, Any] = {}
    for adapter, run in adapters(rank, folder).items():
        found[adapter] = {name: run(name) for name in METHODS if adapter != "fsdp" or name not in NO_WHOLE_LAYER}
    found["mistakes"] = list(mistakes(rank))
    found["mutated"] = {}
    for mutation in MUTATIONS:
        with pytest.MonkeyPatch.context() as patch:
            mutation(patch)
            for adapter, run in adapters(rank, folder).items():
                found["mutated"][mutation.__name__, adapter] = run("uniform")
    return found


def mean_over_ranks(patch: pytest.MonkeyPatch) -> None:
    """The mean over ranks that the framework takes is not undone."""
    patch.setattr(WeightedStep, "_averaged", 1)


def counts_of_one_rank(patch: pytest.MonkeyPatch) -> None:
    """Losses are divided by the counts of the own rank."""
    total = WeightedStep.total

    def by_own(self: Any, sums: Any, row_tasks: Any = None) -> Any:
        whole, self.counts = self.counts, self._own
        found = total(self, sums, row_tasks)
        self.counts = whole
        return found

    patch.setattr(WeightedStep, "total", by_own)


MUTATIONS = (mean_over_ranks, counts_of_one_rank)
"""What two ranks alone see, put back one at a time."""


def mistakes(rank: int) -> Any:
    """What is said of factors that are not, and of ranks that part."""
    unsaid = WeightedStep(weighting.create("uniform", 2), ["a", "b"])
    parted = WeightedStep(weighting.create("static", 2, weights=[1.0 + rank, 1.0]), ["a", "b"], ranks_averaged=2)
    for step in (unsaid, parted):
        try:
            step.open([1, 1])
        except (ValueError, RuntimeError) as error:
            yield str(error)


def by_hand(adapter: str) -> Callable[[str], Result]:
    return tiny.by_hand if adapter in ("transformers", "trl") else small.by_hand


def test_two_ranks_with_accumulation_train_as_whole_batches_by_hand(tmp_path: Path) -> None:
    write_model(tmp_path)
    for rank, found in enumerate(on_ranks(tmp_path, on_a_rank, str(tmp_path), port=free_port())):
        unsaid, parted = found.pop("mistakes")
        assert "expected ranks_averaged=2 where gradients are averaged" in unsaid
        assert "expected the same weights on all ranks, found" in parted
        assert "for task 'a' in step 0" in parted
        for (mutation, adapter), result in found.pop("mutated").items():
            right = by_hand(adapter)("uniform").parameters
            assert (result.parameters - right).abs().max() > 1e-3, f"{mutation} is not seen with {adapter}"
        for adapter, results in found.items():
            expected = by_hand(adapter)
            assert len(results) >= len(METHODS) - len(NO_WHOLE_LAYER)
            for name, result in results.items():
                if rank > 0 and adapter in ("transformers", "trl"):  # only the first rank keeps the logs
                    result = Result(expected(name).losses, expected(name).weights, result.parameters)
                assert_equal(result, expected(name), of=f"{adapter} with {name} on rank {rank}")
