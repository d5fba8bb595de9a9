"""CoBa with one part taken out or read otherwise: which part does the work?

Source    None of these is in the paper. They are ablations of ``weighting.coba``, for the suite ``coba_ablation``.
Symbols   those of ``weighting.coba``; DF is the share of RCS in the weights.
Departs   from CoBa in one thing each, which its class says.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from weighting._checks import check
from weighting.claim import Claim
from weighting.coba import CoBa


class CoBaRelative(CoBa):
    """DF = 1: relative scores alone. They favour the slowest task and cannot turn from one that diverges.

    >>> from weighting import Observation, create, replay
    >>> log = [Observation(losses=[1.0, 1.0], val_losses=[1.0 - 0.03 * t, 1.0 - 0.01 * t]) for t in range(12)]
    >>> replay(create("coba_relative", 2, warmup=3, window=6), log)[-1].round(decimals=3).tolist()
    [0.269, 0.731]
    """

    name = "coba_relative"
    variant_of = "coba"
    claims = CoBa.claims & ~Claim.TURNED_TASK_LOSES_WEIGHT
    search = {}

    def relative_share(self, updates: int) -> Tensor:
        """1, ``(*batch_shape, 1)``."""
        return self.current.new_ones((*self.batch_shape, 1))


class CoBaAbsolute(CoBa):
    """DF = 0: absolute scores alone. They see no difference between tasks that fall at steady paces.

    >>> from weighting import Observation, create, replay
    >>> log = [Observation(losses=[1.0, 1.0], val_losses=[1.0 - 0.03 * t, 1.0 - 0.01 * t]) for t in range(12)]
    >>> replay(create("coba_absolute", 2, warmup=3, window=6), log)[-1].round(decimals=3).tolist()
    [0.5, 0.5]
    """

    name = "coba_absolute"
    variant_of = "coba"
    claims = CoBa.claims & ~(Claim.FAVOURS_THE_SLOWEST | Claim.DIVERGENCE_FACTOR_ONE_AT_STEADY_PACE)
    search = {}

    def relative_share(self, updates: int) -> Tensor:
        """0, ``(*batch_shape, 1)``."""
        return self.current.new_zeros((*self.batch_shape, 1))


class CoBaFixedMix(CoBa):
    """DF = ``mix``: both scores, mixed without looking at the past.

    mix  in [0, 1], the share of RCS; the other hyperparameters are those of CoBa

    >>> from weighting import Observation, create, replay
    >>> log = [Observation(losses=[1.0, 1.0], val_losses=[1.0 - 0.03 * t, 1.0 - 0.01 * t]) for t in range(12)]
    >>> replay(create("coba_fixed_mix", 2, warmup=3, window=6), log)[-1].round(decimals=3).tolist()
    [0.384, 0.616]
    """

    name = "coba_fixed_mix"
    variant_of = "coba"
    claims = CoBa.claims & ~(Claim.TURNED_TASK_LOSES_WEIGHT | Claim.DIVERGENCE_FACTOR_ONE_AT_STEADY_PACE)
    search = {}

    def __init__(
        self,
        num_tasks: int,
        *,
        batch_shape: Sequence[int] = (),
        warmup: int = 100,
        window: int = 500,
        tau: float = 5.0,
        update_every: int = 1,
        mix: float = 0.5,
    ) -> None:
        super().__init__(
            num_tasks, batch_shape=batch_shape, warmup=warmup, window=window, tau=tau, update_every=update_every
        )
        self.mix: float = check(self.name, "mix", mix, ge=0, le=1)

    def relative_share(self, updates: int) -> Tensor:
        """``mix``, ``(*batch_shape, 1)``."""
        return self.current.new_full((*self.batch_shape, 1), self.mix)


class CoBaFromStart(CoBa):
    """Slopes are recorded from step 1 on instead of from the warm-up's end, and weights are equal up to and including W.

    >>> from weighting import Observation, create, replay
    >>> log = [Observation(losses=[1.0, 1.0], val_losses=[1.0 - 0.03 * t, 1.0 - 0.01 * t]) for t in range(12)]
    >>> replay(create("coba_from_start", 2, warmup=3, window=6), log)[-1].round(decimals=3).tolist()
    [0.269, 0.731]
    """

    name = "coba_from_start"
    variant_of = "coba"

    @property
    def _first_slope(self) -> int:
        return 1

    def _is_warm(self, done: int) -> bool:
        return done > self.warmup
