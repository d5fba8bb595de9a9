"""The contract of a weighter as checks that need torch alone: ``check_weighter(MyMethod)`` says which hold.

``synthetic`` makes up training runs to show to a method, ``contract`` holds what every method must do, ``claims`` what each
claim means.
"""

from weighting.testing.report import Report, Result, check_weighter

__all__ = ["Report", "Result", "check_weighter"]
