"""Checkpoints: what an unfinished run needs to end as if it had never stopped, in one file, written atomically.

The file is the SHA-256 of what follows, then what torch writes, which alone would let one changed byte in three pass.
"""

from __future__ import annotations

import hashlib
import io
import pickle
import shutil
import uuid
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.errors import UNREADABLE, StorageError

FORMAT = 5
"""Of the state; one of another format is a start from nothing."""
DIGEST = hashlib.sha256().digest_size


def trained_state(model: nn.Module) -> dict[str, Tensor]:
    """The model's state without frozen parameters, which are those that it was made with."""
    frozen = {name for name, parameter in model.named_parameters(remove_duplicate=False) if not parameter.requires_grad}
    return {name: value for name, value in model.state_dict().items() if name not in frozen}


class Checkpoint:
    """The checkpoint file of one run."""

    def __init__(self, folder: Path, key: str) -> None:
        self.path = folder / f"{key}.pt"

    def save(self, state: dict[str, Any]) -> None:
        """Write the state; the file is the old one or the new one, never half of it. Raises StorageError."""
        # A name of its own for each writer, so that two of the same run do not take each other's away.
        scratch = self.path.with_suffix(f".{uuid.uuid4().hex[:8]}.writing")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # Into an open file, since torch's own opening of a path hides what the system says of a full disk.
            with scratch.open("w+b") as file:
                file.write(bytes(DIGEST))
                torch.save({**state, "format": FORMAT}, file)
                file.seek(DIGEST)
                digest = hashlib.file_digest(file, "sha256").digest()
                file.seek(0)
                file.write(digest)
            scratch.replace(self.path)
        except (OSError, RuntimeError) as error:
            scratch.unlink(missing_ok=True)
            raise StorageError.of(_said_by_the_system(error), self.path) from error
        except BaseException:
            scratch.unlink(missing_ok=True)
            raise

    def load(self, device: torch.device) -> dict[str, Any] | None:
        """The saved state, or None where there is none that can be used."""
        try:
            with self.path.open("rb") as file:
                if file.read(DIGEST) == hashlib.file_digest(file, "sha256").digest():
                    file.seek(DIGEST)
                    # From memory: older versions of torch lose the end of a file that they do not begin to read at 0.
                    content = io.BytesIO(file.read())
                    state: dict[str, Any] = torch.load(content, map_location=device, weights_only=True)
                    return state if state.get("format") == FORMAT else None
        except FileNotFoundError:
            return None
        except (pickle.UnpicklingError, *UNREADABLE):
            # Of another version of torch, or cannot be read.
            pass
        self._remove_unusable()
        return None

    def _remove_unusable(self) -> None:
        if self.path.is_dir():
            shutil.rmtree(self.path, ignore_errors=True)
        else:
            self.path.unlink(missing_ok=True)

    def remove(self) -> None:
        """Forget the state: the run is recorded."""
        self.path.unlink(missing_ok=True)


def _said_by_the_system(error: BaseException) -> OSError:
    """The OSError behind an error: torch's writer fails once more, in its own words, when it closes on a full disk."""
    first: BaseException | None = error
    while first is not None and not isinstance(first, OSError):
        first = first.__context__
    return first or OSError(str(error).splitlines()[0])
