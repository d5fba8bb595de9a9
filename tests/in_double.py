"""Problems in float64, in which equal mathematics gives equal numbers to twelve digits."""

from __future__ import annotations

from tiny_problem import RowsTiny, Tiny
from tiny_variants import NoisyTiny, Sparse
from torch import nn

from benchmarks.problems import code_lm, famo_toy, gradnorm_toy, multidigits
from benchmarks.regression.golden_runs import _InDouble


class SparseInDouble(_InDouble, Sparse):
    """In float64."""


class TinyInDouble(_InDouble, Tiny):
    """In float64."""


class RowsInDouble(_InDouble, RowsTiny):
    """In float64."""


class MultiDigitsInDouble(_InDouble, multidigits.MultiDigits):
    """In float64."""


class GradNormToyInDouble(_InDouble, gradnorm_toy.GradNormToy):
    """In float64."""


class CodeLmInDouble(code_lm.CodeLM):
    """In float64; its batches hold integers."""

    def model(self, seed: int) -> nn.Module:
        return super().model(seed).double()


class FamoToyInDouble(_InDouble, famo_toy.FamoToy):
    """In float64."""


class NoisyInDouble(_InDouble, NoisyTiny):
    """In float64."""
