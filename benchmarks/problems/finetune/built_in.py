"""Completion tasks that need no network: five languages, cut from files that every installation has.

The files and their splits are those of ``code_lm``: split by file (or block) first, then cut, so that no two examples of
different splits come from one document. A document is cut from its start into runs of whole lines: a prompt of at least
``PROMPT_BYTES``, then a completion of at least ``COMPLETION_BYTES``, and so on; what is left at its end is not taken.

Training examples are deliberately unequal (``EXAMPLES``), so that tasks are learned by heart at different times: the
situation for which methods that watch validation losses were made.
"""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.contract import Split
from benchmarks.problems.finetune import OWNER
from benchmarks.problems.finetune.formatting import Piece, Written
from benchmarks.problems.text.corpus import built_in as installed
from benchmarks.problems.text.documents import SPLITS

EXAMPLES: dict[str, int] = {"python": 256, "cpp": 128, "yaml": 64, "cuda": 32, "stubs": 16}
"""Training examples of each task."""
TRAIN_BYTES = 400_000
"""Text that is read of a language, from which its examples are cut."""
PROMPT_BYTES, COMPLETION_BYTES = 240, 160


def languages(tasks: tuple[str, ...]) -> dict[str, dict[Split, list[Written]]]:
    """Task -> split -> all its examples, for every built-in task that this installation has.

    Raises ValueError where a chosen task is missing.
    """
    corpus = installed(dict.fromkeys(EXAMPLES, TRAIN_BYTES), tasks, OWNER)
    return {
        name: {split: [example for text in language.texts(split) for example in cut(text)] for split in SPLITS}
        for name, language in corpus.items()
    }


def cut(text: str) -> Iterator[Written]:
    """Examples of a document: whole lines to read, then whole lines to write."""
    lines, least = list[str](), PROMPT_BYTES
    prompt = ""
    for line in text.splitlines(keepends=True):
        lines.append(line)
        run = "".join(lines)
        if len(run.encode()) < least:
            continue
        if prompt:
            yield Written((Piece(prompt, False), Piece(run, True)), "", prompt=prompt, answer=run)
        prompt, least = ("", PROMPT_BYTES) if prompt else (run, COMPLETION_BYTES)
        lines = []
