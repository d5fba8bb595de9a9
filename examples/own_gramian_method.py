"""A method of one's own on the Gramian of the task gradients: every gradient at the length of the shortest one."""

from __future__ import annotations

from torch import Tensor

from weighting import Claim, Needs, Observation, Weighter


class EqualLengths(Weighter):
    """The shortest gradient's norm over one's own; an example of form, from no paper."""

    name, needs, answers_from = "equal_lengths", Needs.GRAMIAN, "state"
    claims = Claim.NONNEGATIVE | Claim.PERMUTATION_EQUIVARIANT | Claim.SCALE_FREE

    def weights(self, now: Observation) -> Tensor:
        """At most 1 each, ``(*batch_shape, K)``."""
        norms = self.read(now, "gramian").diagonal(dim1=-2, dim2=-1).sqrt().clamp(min=1e-30)
        shortest = norms.masked_fill(~self.present(now), float("inf")).amin(-1, keepdim=True)
        return self.as_weights((shortest / norms).clamp(max=1.0), now)
