"""No test speaks to a hub, nor does what a test starts."""

from __future__ import annotations

import subprocess
import sys

import pytest


def test_this_process_takes_the_hub_for_absent() -> None:
    constants = pytest.importorskip("huggingface_hub.constants")
    assert constants.HF_HUB_OFFLINE


@pytest.mark.slow
def test_so_does_a_process_that_a_test_starts() -> None:
    pytest.importorskip("huggingface_hub.constants")
    program = "from huggingface_hub import constants; print(constants.HF_HUB_OFFLINE)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"
