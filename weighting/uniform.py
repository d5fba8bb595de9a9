"""Uniform weighting: the plain sum of the losses, the baseline of every comparison.

Source    Also called equal weighting (EW), linear scalarization (LS) or unitary scalarization; e.g. Kurin et al., In
          Defense of the Unitary Scalarization for Deep Multi-Task Learning, NeurIPS 2022, arXiv:2201.04122.
Symbols   w_i = 1 for each of the K tasks.
Departs   nowhere. Works that write 1/K differ by a constant factor, which acts as a learning rate.
"""

from __future__ import annotations

from torch import Tensor

from weighting.contract import Weighter
from weighting.observation import Observation


class Uniform(Weighter):
    """Every task counts once: w_i = 1."""

    name = "uniform"
    adaptive = False
    answers_from = "state"
    claims = frozenset(
        {
            "nonnegative",
            "sums_to_num_tasks",
            "permutation_equivariant",
            "scale_free",
            "task_scale_free",
            "finite_on_extreme_losses",
        }
    )

    def weights(self, now: Observation) -> Tensor:
        """All ones, ``(*batch_shape, K)``."""
        return self.reply(self.present(now).double(), now)
