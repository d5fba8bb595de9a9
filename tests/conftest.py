"""Settings of all tests: one thread, inputs that are the same in every run, and a folder of reference traces to replay."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings

torch.set_num_threads(1)

settings.register_profile(
    "suite", deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("suite")


def pytest_addoption(parser: pytest.Parser) -> None:
    """``--traces DIR``: replay the traces of another folder, see traces/README.md for the format."""
    parser.addoption("--traces", type=Path, default=Path(__file__).parent / "traces", help="folder of reference traces")


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)
