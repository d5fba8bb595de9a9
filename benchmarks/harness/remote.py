"""A run on another machine, whatever takes it there: what is asked of the machine before, how a run goes there and returns.

Where the machine sees the folder of results, a run is trained as here: it holds its own lock there, and writes its record
and its checkpoints in place. Where it does not, this process holds the lock, sends what is known of the run along, and
writes what comes back.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import platform
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import filelock

from benchmarks.catalog import problem_class
from benchmarks.errors import StorageError, UserError, one_line
from benchmarks.harness.worker import Job, Send, ShouldStop, WorkerEvent, check_unchanged, recorded_meanwhile, run_job
from benchmarks.records import files, provenance
from benchmarks.records.locks import lock_of
from benchmarks.records.presence import Presence, is_seen, lock_holds, refusal
from benchmarks.records.reading import read_one
from benchmarks.records.schema import Run, RunSpec
from benchmarks.records.storage import RUN_FILE, TRAJECTORY_FILE, DamagedRecordError, run_folder, write_files, write_run

TELL_SECONDS = 0.5
"""At most so often a run says how far it is."""
TAIL_LINES, TAIL_LETTERS = 3, 300
"""How much of the log of a lost run its record quotes."""


# ---- what is asked of a machine --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Site:
    """What has to be the same on every machine."""

    code: str
    """``provenance.code``"""
    versions: dict[str, str]
    """``provenance.versions``"""
    working_folder: str
    folder: Path
    """The suite's folder, as this machine calls it."""
    command: str
    """The name under which the command is present in it."""

    @classmethod
    def of(cls, presence: Presence) -> Site:
        """That of this process."""
        return cls(provenance.code(), provenance.versions(), str(Path.cwd()), presence.folder, presence.name)


@dataclass(frozen=True)
class Answer:
    """What a machine says of itself."""

    machine: str
    """Its name, for messages; records never have it."""
    wrong: str
    """Why no run of the plan can be trained there, in one line; empty where each can."""
    sees_folder: bool


def look(site: Site, specs: Sequence[RunSpec]) -> Answer:
    """Whether runs can be trained in this process as where they were planned. specs: one of each kind, see ``kinds``."""
    name = platform.node()
    if wrong := _other_code(site):
        return Answer(name, wrong, False)
    go_to(site.working_folder)
    sees = is_seen(site.folder, site.command)
    return Answer(name, _cannot_be_trained(specs) or (_without_locks(site) if sees else ""), sees)


def kinds(specs: Sequence[RunSpec]) -> list[RunSpec]:
    """A run for each problem with its options, and one for each method."""
    by_problem = {spec.problem.model_dump_json(exclude={"tasks"}): spec for spec in specs}
    by_method = {spec.weighter.name: spec for spec in specs}
    return list({spec.key: spec for spec in (*by_problem.values(), *by_method.values())}.values())


def go_to(folder: str) -> None:
    """Where there is such a folder: relative paths then mean what they mean to who planned."""
    with contextlib.suppress(OSError):
        os.chdir(folder)


def _other_code(site: Site) -> str:
    if (found := provenance.code()) != site.code:
        return f"expected the code that runs were planned with ({site.code}), found other code ({found})"
    own = provenance.versions()
    for package in sorted(own.keys() | site.versions.keys()):
        if own.get(package) != site.versions.get(package):
            return f"expected {package} {site.versions.get(package, 'not at all')}, found {own.get(package, 'none')}"
    return ""


def _cannot_be_trained(specs: Sequence[RunSpec]) -> str:
    try:
        for spec in specs:
            for module in problem_class(spec.problem.name).heavy_modules:
                importlib.import_module(module)
            check_unchanged(spec)
    except (UserError, ImportError) as error:
        return one_line(error)
    except Exception as error:  # noqa: BLE001 - whatever a problem's own code raises
        return f"a run cannot be prepared: {one_line(error)}"
    return ""


def _without_locks(site: Site) -> str:
    try:
        return "" if lock_holds(site.folder, site.command) else refusal(site.folder)
    except OSError as error:
        return f"expected a folder that can be written at {site.folder}: {error.strerror}"


# ---- a run on its way ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Parcel:
    """What goes to a machine."""

    job: Job
    site: Site
    in_place: bool
    """Whether the machine sees the folder of results."""
    checkpoint: bytes | None = None
    known: Run | None = None
    """The record of a run that is trained again for its time."""


@dataclass(frozen=True)
class Returned:
    """What comes back from it."""

    end: WorkerEvent
    record: tuple[bytes, bytes] | None = None
    """``run.json`` and the rows, where they were not written in place."""
    checkpoint: bytes | None = None


def carry_out(parcel: Parcel, send: Send, should_stop: ShouldStop) -> Returned:
    """Train a run on this machine; as ``run_job``."""
    site = parcel.site
    if wrong := _other_code(site):
        return Returned(WorkerEvent("refused", text=f"{platform.node()}: {wrong}"))
    go_to(site.working_folder)
    if not parcel.in_place:
        return _elsewhere(parcel, send, should_stop)
    if not is_seen(site.folder, site.command):
        text = f"{platform.node()}: expected the folder {site.folder} that the other machines see, found none"
        return Returned(WorkerEvent("refused", text=text))
    return Returned(run_job(parcel.job, send, should_stop))


def _elsewhere(parcel: Parcel, send: Send, should_stop: ShouldStop) -> Returned:
    """In a folder of this machine's own, of which nothing is left."""
    key = parcel.job.spec.key
    with tempfile.TemporaryDirectory(prefix=f"{key}-", ignore_cleanup_errors=True) as name:
        home = Path(name)
        if parcel.known is not None:
            write_run(home / "runs", parcel.known.record, parcel.known.trajectory)
        if parcel.checkpoint is not None:
            files.write(_checkpoint(home, key), parcel.checkpoint)
        end = run_job(replace(parcel.job, folder=home), send, should_stop)
        place = run_folder(home, key)
        record = None
        if end.kind == "recorded" and place.is_dir():
            record = ((place / RUN_FILE).read_bytes(), (place / TRAJECTORY_FILE).read_bytes())
        return Returned(end, record, _content(_checkpoint(home, key)))


def _checkpoint(folder: Path, key: str) -> Path:
    return folder / "unfinished" / f"{key}.pt"


def _content(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None


class Depot:
    """Sends runs out and takes them in again. in_place: whether the machines see the folder of results."""

    def __init__(self, site: Site, *, in_place: bool) -> None:
        self.site, self.in_place = site, in_place
        self._locks: dict[str, filelock.BaseFileLock] = {}

    def pack(self, job: Job) -> Parcel | WorkerEvent:
        """What is sent of a run; or how it has ended, since another command has it in hand or has recorded it."""
        job = replace(job, folder=self.site.folder)
        if self.in_place:
            return Parcel(job, self.site, in_place=True)
        key = job.spec.key
        try:
            lock = lock_of(job.folder, key)
            lock.acquire()
            self._locks[key] = lock
            return self._with_what_is_known(job)
        except filelock.Timeout:
            return WorkerEvent("busy")
        except OSError as error:
            self.drop(job)
            return WorkerEvent("cannot_write", text=str(StorageError.of(error, job.folder)))

    def _with_what_is_known(self, job: Job) -> Parcel | WorkerEvent:
        if job.pair_of:
            with contextlib.suppress(DamagedRecordError):
                return Parcel(job, self.site, in_place=False, known=read_one(job.folder, job.spec.key))
        elif there := recorded_meanwhile(job):
            self.drop(job)
            return there
        return Parcel(job, self.site, in_place=False, checkpoint=_content(_checkpoint(job.folder, job.spec.key)))

    def take_in(self, job: Job, returned: Returned) -> WorkerEvent:
        """Write what has come back. Returns how the run ended."""
        if self.in_place:
            return returned.end
        saved = _checkpoint(self.site.folder, job.spec.key)
        try:
            if returned.record is not None:
                write_files(run_folder(self.site.folder, job.spec.key), *returned.record)
                saved.unlink(missing_ok=True)
            elif returned.checkpoint is not None:
                files.write(saved, returned.checkpoint)
        except OSError as error:
            return WorkerEvent("cannot_write", text=str(StorageError.of(error, self.site.folder)))
        finally:
            self.drop(job)
        return returned.end

    def drop(self, job: Job) -> None:
        """The run is no longer in our hands."""
        if lock := self._locks.pop(job.spec.key, None):
            lock.release()


# ---- what a run says -------------------------------------------------------------------------------------------------


class Seldom:
    """Passes on what a run says of its progress, but not more often than somebody can read it."""

    def __init__(self, send: Send) -> None:
        self._send, self._said_at = send, -TELL_SECONDS

    def __call__(self, event: WorkerEvent) -> None:
        """Pass it on, or forget it."""
        now = time.monotonic()
        if now - self._said_at >= TELL_SECONDS:
            self._said_at = now
            self._send(event)


def tail(paths: Sequence[str]) -> str:
    """The last lines of logs, in one."""
    lines: list[str] = []
    for path in paths:
        with contextlib.suppress(OSError), Path(path).open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - 4096))
            lines += [" ".join(line.split()) for line in file.read().decode(errors="replace").splitlines() if line.strip()]
    return " / ".join(lines[-TAIL_LINES:])[-TAIL_LETTERS:]
