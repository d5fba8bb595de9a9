"""Records changed on disk by somebody who knows how they are written: wrong content under right checksums."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.records.storage import RUN_FILE, TRAJECTORY_FILE, checksum_line


def rewrite(place: Path, content: dict[str, Any]) -> None:
    """Put other content into ``run.json``."""
    content = {key: value for key, value in content.items() if key != "checksum"}
    rest = json.dumps(content, indent=1).removeprefix("{\n").encode()
    (place / RUN_FILE).write_bytes(checksum_line(rest) + b"\n" + rest)


def change(place: Path, **changes: Any) -> None:
    """Change fields of ``run.json``."""
    rewrite(place, {**json.loads((place / RUN_FILE).read_bytes()), **changes})


def change_trajectory(place: Path, frame: pd.DataFrame) -> None:
    """Put other rows into the trajectory."""
    frame.to_parquet(place / TRAJECTORY_FILE)
    change(place, trajectory_sha256=hashlib.sha256((place / TRAJECTORY_FILE).read_bytes()).hexdigest())


def cut(path: Path) -> None:
    """Lose the second half of a file."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
