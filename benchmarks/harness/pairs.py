"""Costs are ratios to a uniform run that was trained together: in a suite that takes long, one is timed again now and then.

What a plan has to time again before it begins says ``planning.status``; this is what its own length makes old.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import replace
from datetime import UTC, datetime

from benchmarks.analysis.comparable import conditions, is_uniform
from benchmarks.analysis.relative_cost import APART, last_timed
from benchmarks.harness.worker import Job
from benchmarks.records import provenance
from benchmarks.records.reading import read_one
from benchmarks.records.schema import RunSpec
from benchmarks.records.storage import DamagedRecordError

NEVER = datetime.min.replace(tzinfo=UTC)


class Pairs:
    """The uniform runs of a plan, and how old their newest timings are on this machine."""

    def __init__(self, runs: Iterable[RunSpec]) -> None:
        self.uniform = {
            (conditions(spec), spec.seed): spec for spec in runs if spec.role == "method" and is_uniform(spec.weighter)
        }
        self.lasts_until: dict[str, datetime] = {}
        """Key -> until when nobody asks its record again."""
        self.tried: dict[str, datetime] = {}
        """Key -> its newest timing when it was last timed again."""

    def lacking(self, job: Job, in_hand: Collection[str]) -> Job | None:
        """The uniform run to time again before a run begins; None where it has its pair, or has none to be compared with.

        in_hand  keys of runs that are trained now, or will be
        """
        spec = job.spec
        if spec.role != "method" or is_uniform(spec.weighter):
            return None
        uniform = self.uniform.get((conditions(spec), spec.seed))
        if uniform is None or uniform.key in in_hand:
            return None
        if not self._is_old(job, uniform.key, datetime.now(UTC)):
            return None
        return replace(job, spec=uniform, replaces=None, pair_of=spec.weighter.label, planned=False)

    def _is_old(self, job: Job, key: str, now: datetime) -> bool:
        """Whether a record has no timing of late; not once more where timing it again has brought none."""
        if now <= self.lasts_until.get(key, NEVER):
            return False
        last = _last_time(job, key)
        if last is None or self.tried.get(key) == last:
            self.lasts_until[key] = now + APART
            return False
        self.lasts_until[key] = last + APART
        if now <= last + APART:
            return False
        self.tried[key] = last
        return True


def _last_time(job: Job, key: str) -> datetime | None:
    """When a finished run was last trained on this machine, long ago if on another; None where it has no such record."""
    try:
        record = read_one(job.folder, key).record
    except (DamagedRecordError, OSError):
        return None
    return last_timed(record, provenance.host()) or NEVER if record.state == "finished" else None
