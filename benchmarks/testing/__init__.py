"""The contract of a problem as checks: ``check_problem(MyProblem)`` says which hold."""

from benchmarks.testing.report import check_problem

__all__ = ["check_problem"]
