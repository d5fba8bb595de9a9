"""Train, validation and test of a task: as given, or by hash, with no example in two of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from benchmarks.contract import Split
from benchmarks.problems.finetune import OWNER
from benchmarks.problems.finetune.formatting import Written
from benchmarks.problems.finetune.options import Source
from benchmarks.problems.text.documents import SPLITS, sha, split_of

Parts = dict[Split, list[Written]]


def split(task: str, given: Mapping[Split, Sequence[Written]], source: Source, most: Mapping[Split, int | None]) -> Parts:
    """The splits in an order by hash, so that a cap takes the same examples wherever they stood in a file.

    Those that are not given are cut from train by the hash of an example's group. Raises ValueError on an empty split, and
    on an example in two of them.
    """
    parts: Parts = {name: list(given.get(name, ())) for name in SPLITS}
    parts["train"] = []
    for example in given.get("train", ()):
        place = split_of(example.group)
        parts["train" if place in given else place].append(example)
    parts = _apart(task, parts, source)
    for name in SPLITS:
        parts[name].sort(key=lambda example: sha(example.content))
        parts[name] = parts[name][: most[name]]
        if not parts[name]:
            raise ValueError(
                f"{OWNER}: expected examples for every split of task {task!r}, found none for {name} of "
                f"{sum(map(len, given.values()))} in all"
            )
    return parts


def _apart(task: str, parts: Parts, source: Source) -> Parts:
    """Each example in one split, the last of those it is in. Raises ValueError where that changes anything unasked."""
    apart: Parts = {}
    known: dict[str, Split] = {}
    for name in reversed(SPLITS):
        apart[name] = [example for example in parts[name] if known.setdefault(example.content, name) == name]
        doubled = len(parts[name]) - len(apart[name])
        if doubled and source.duplicates == "refuse":
            raise ValueError(
                f"{OWNER}: expected every example of task {task!r} in one split, found {doubled} of {name} in another "
                "one too: duplicates: drop leaves them out there"
            )
    return {name: apart[name] for name in SPLITS}
