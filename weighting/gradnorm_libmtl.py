"""GradNorm with weights that are a softmax, as LibMTL has it.

Source    median-research-group/LibMTL@4336804, weighting/GradNorm.py.
Symbols   those of ``weighting.gradnorm``; w = K softmax(s), s = 1 at first. The gradient of the objective goes through the
          softmax: on s it is w (g - sum_j w_j g_j / K), g that on w. The weights sum to K.
Departs   from the paper as that code does: weights stay positive and are not rescaled, and L_i(0) is the mean loss of the
          first epoch, in which the weights are 1 (``initial_steps``). From that code in what the training loop decides:
          there s is trained by the model's optimizer, norms are taken over all shared parameters, and task heads get
          unweighted gradients.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from weighting._optimizers import OptimizerName
from weighting.gradnorm import GradNorm


class SoftmaxGradNorm(GradNorm):
    """Learned weights K softmax(s) that balance gradient norms.

    alpha                        strength of the pull towards equal training rates; 0: equal gradient norms
    lr, optimizer, weight_decay  of the optimizer of s, lr > 0: "adam" or "sgd"
    initial_steps                steps whose mean loss is L_i(0), with equal weights until then; 0: the first loss seen

    >>> from weighting import Observation, create, replay
    >>> step = Observation(losses=[1.0, 1.0], grad_norms=[4.0, 1.0])
    >>> replay(create("gradnorm_libmtl", 2), [step] * 11)[-1].round(decimals=3).tolist()
    [0.779, 1.221]
    """

    name = "gradnorm_libmtl"
    variant_of = "gradnorm"

    def __init__(
        self,
        num_tasks: int,
        *,
        batch_shape: Sequence[int] = (),
        alpha: float = 1.5,
        lr: float = 0.025,
        optimizer: OptimizerName = "adam",
        weight_decay: float = 0.0,
        initial_steps: int = 0,
    ) -> None:
        super().__init__(
            num_tasks,
            batch_shape=batch_shape,
            alpha=alpha,
            lr=lr,
            optimizer=optimizer,
            weight_decay=weight_decay,
            initial_steps=initial_steps,
        )

    def _weights(self) -> Tensor:
        return self.num_tasks * self.current.softmax(-1)

    def _learn(self, gradient: Tensor, present: Tensor) -> None:
        weights = self._weights()
        common = (weights * gradient).sum(-1, keepdim=True) / self.num_tasks
        self.optimizer.step(self.current, weights * (gradient - common), present)
