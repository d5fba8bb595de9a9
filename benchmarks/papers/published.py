"""Reading the published numbers. A file is one protocol: numbers of different protocols are never put side by side.

::

    protocol: famo_nyuv2              # the file's name; data, networks, schedule and rule of selection together
    title: NYUv2, SegNet-MTAN, mean of the last 10 test epochs
    papers: [famo]                    # the reports that show it
    data: NYUv2, 13 classes
    setup: 200 epochs, Adam 1e-4
    metrics:                          # decimals: as printed; headline: also in the terminal; exact: a count without noise
      - {key: miou, name: mIoU, task: segmentation, better: higher, unit: "%", decimals: 2}
    delta_m_over: [miou]              # optional: the metrics that Δm is the mean over
    reruns: other_protocol            # optional: these are others' runs of that protocol, which differ in:
    differs: another rule of selection
    tables:
      - source: who printed the numbers
        place: where in it
        measured_by: paper            # or others: run again by people other than the authors
        status: verified              # read in the primary text; unverified needs a reason and is never given out
        runs: 3                       # optional
        metrics: [miou]
        rows: {single_task: [38.3], uniform: [39.29]}      # ~ for no number
        errors: {uniform: [0.5]}      # optional: standard errors
        caveats: [{method: uniform, misprint: true, text: why}]     # no method: all rows; misprints are never given out
    printed_as: {uniform: LS}         # what the sources call the methods
    caveats: [what a reader has to know]
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from benchmarks.errors import UserError, unknown
from benchmarks.planning.suite import explain
from benchmarks.planning.yaml_file import YamlFile, read_yaml

FOLDER = Path(__file__).resolve().parent / "numbers"

Text = Annotated[str, Field(min_length=1)]


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class PublishedMetric(_Entry):
    """A metric of a protocol."""

    key: Text
    name: Text
    task: Text | None = None
    better: Literal["higher", "lower"]
    unit: Text
    decimals: Annotated[int, Field(ge=0)]
    """Digits after the point, as printed."""
    headline: bool = False
    """Shown in the terminal too."""
    exact: bool = False
    """A count that no randomness enters: published and measured either are equal or differ."""

    @property
    def label(self) -> str:
        """Name with task."""
        return self.name if self.task is None else f"{self.task}: {self.name}"


class _Caveat(_Entry):
    text: Text
    method: Text | None = None
    misprint: bool = False


class _Table(_Entry):
    source: Text
    place: Text
    measured_by: Literal["paper", "others"]
    status: Literal["verified", "unverified"]
    reason: Text | None = None
    runs: Annotated[int, Field(ge=1)] | None = None
    metrics: Annotated[list[Text], Field(min_length=1)]
    rows: Annotated[dict[Text, list[float | None]], Field(min_length=1)]
    errors: dict[Text, list[float | None]] = {}
    caveats: list[_Caveat] = []

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.status == "unverified" and self.reason is None:
            raise ValueError("a reason why the numbers are unverified")
        for name, values in [*self.rows.items(), *self.errors.items()]:
            if len(values) != len(self.metrics):
                raise ValueError(f"{len(self.metrics)} numbers in the row of {name!r}, one for each metric")
        for name in [*self.errors, *(caveat.method for caveat in self.caveats if caveat.method is not None)]:
            if name not in self.rows:
                raise ValueError(unknown("method", name, self.rows))
        if any(caveat.misprint and caveat.method is None for caveat in self.caveats):
            raise ValueError("the method whose row is a misprint")
        return self


class _File(_Entry):
    protocol: Text
    title: Text
    papers: Annotated[list[Text], Field(min_length=1)]
    data: Text
    setup: Text
    metrics: Annotated[list[PublishedMetric], Field(min_length=1)]
    delta_m_over: list[Text] = []
    reruns: Text | None = None
    differs: Text | None = None
    tables: list[_Table]
    printed_as: dict[Text, Text] = {}
    caveats: list[Text] = []

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        known = [metric.key for metric in self.metrics]
        doubled = next((key for key in known if known.count(key) > 1), None)
        if doubled is not None:
            raise ValueError(f"the metric {doubled!r} once")
        for name in [*self.delta_m_over, *(key for table in self.tables for key in table.metrics)]:
            if name not in known:
                raise ValueError(unknown("metric", name, known))
        if (self.reruns is None) != (self.differs is None):
            raise ValueError("reruns and differs together")
        places = Counter(
            (table.source, table.place, method, key)
            for table in self.tables
            for method in table.rows
            for key in table.metrics
        )
        if places and max(places.values()) > 1:
            raise ValueError(f"{' / '.join(places.most_common(1)[0][0])} once")
        return self


@dataclass(frozen=True)
class PublishedNumber:
    """One verified number."""

    protocol: str
    method: str
    metric: PublishedMetric
    value: float
    error: float | None
    """Standard error, where one is printed."""
    runs: int | None
    source: str
    """Who printed it, and where."""
    measured_by: Literal["paper", "others"]
    caveats: tuple[str, ...]


@dataclass(frozen=True)
class Withheld:
    """How many numbers are held back, and why. Their values are not here."""

    count: int
    methods: tuple[str, ...]
    source: str
    kind: Literal["unverified", "misprint"]
    reason: str


@dataclass(frozen=True)
class Published:
    """What may be shown of a protocol."""

    protocol: str
    title: str
    papers: tuple[str, ...]
    data: str
    setup: str
    metrics: tuple[PublishedMetric, ...]
    delta_m_over: tuple[str, ...]
    """Keys of the metrics that Δm is the mean over; empty where the protocol has none."""
    reruns: str | None
    """The protocol whose re-run by others this is."""
    differs: str | None
    """In what it departs from that."""
    numbers: tuple[PublishedNumber, ...]
    withheld: tuple[Withheld, ...]
    caveats: tuple[str, ...]
    names: dict[str, str]
    """Method -> what the sources call it."""

    def note(self) -> str:
        """How many numbers are held back, in one sentence for each reason; empty where none is."""
        return " ".join(
            f"{each.count} number{'s' * (each.count != 1)} of {', '.join(each.methods)} from {each.source} not shown: "
            f"{'misprinted' if each.kind == 'misprint' else 'not verified'} ({each.reason.rstrip('.')})."
            for each in self.withheld
        )


def protocols(folder: Path = FOLDER) -> list[str]:
    """The ids of all protocols."""
    return sorted(path.stem for path in folder.glob("*.yaml"))


def papers(folder: Path = FOLDER) -> dict[str, list[str]]:
    """Name of a paper -> the protocols that its report shows. Raises UserError."""
    found: dict[str, list[str]] = {}
    for protocol in protocols(folder):
        for paper in published(protocol, folder).papers:
            found.setdefault(paper, []).append(protocol)
    return dict(sorted(found.items()))


@cache
def published(protocol: str, folder: Path = FOLDER) -> Published:
    """What may be shown of a protocol: verified numbers, and counts of the others. Raises UserError."""
    if protocol not in protocols(folder):
        raise UserError(unknown("protocol", protocol, protocols(folder)))
    file = _read(folder / f"{protocol}.yaml")
    numbers: list[PublishedNumber] = []
    withheld: list[Withheld] = []
    for table in file.tables:
        shown, held = _of_table(file, table)
        numbers += shown
        withheld += held
    return Published(
        protocol=file.protocol,
        title=file.title,
        papers=tuple(file.papers),
        data=file.data,
        setup=file.setup,
        metrics=tuple(file.metrics),
        delta_m_over=tuple(file.delta_m_over),
        reruns=file.reruns,
        differs=file.differs,
        numbers=tuple(numbers),
        withheld=tuple(withheld),
        caveats=tuple(file.caveats),
        names=dict(file.printed_as),
    )


def _of_table(file: _File, table: _Table) -> tuple[list[PublishedNumber], list[Withheld]]:
    source = f"{table.source}, {table.place}"
    if table.status == "unverified":
        count = sum(value is not None for row in table.rows.values() for value in row)
        return [], [Withheld(count, _names(file, table.rows), source, "unverified", str(table.reason))]
    metrics = {metric.key: metric for metric in file.metrics}
    numbers: list[PublishedNumber] = []
    withheld: list[Withheld] = []
    for method, row in table.rows.items():
        known = [(index, value) for index, value in enumerate(row) if value is not None]
        caveats = [caveat for caveat in table.caveats if caveat.method in (None, method)]
        misprint = next((caveat for caveat in caveats if caveat.misprint), None)
        if misprint is not None:
            withheld.append(Withheld(len(known), _names(file, [method]), source, "misprint", misprint.text))
            continue
        errors = table.errors.get(method, [None] * len(row))
        name = file.printed_as.get(method, method)
        texts = tuple(caveat.text if caveat.method is None else f"{name}: {caveat.text}" for caveat in caveats)
        numbers += [
            PublishedNumber(
                protocol=file.protocol,
                method=method,
                metric=metrics[table.metrics[index]],
                value=value,
                error=errors[index],
                runs=table.runs,
                source=source,
                measured_by=table.measured_by,
                caveats=texts,
            )
            for index, value in known
        ]
    return numbers, withheld


def _names(file: _File, methods: dict[str, list[float | None]] | list[str]) -> tuple[str, ...]:
    return tuple(file.printed_as.get(method, method) for method in methods)


def _read(path: Path) -> _File:
    """One file, checked. Raises UserError with one line."""
    found = read_yaml(path, "protocol, metrics and tables")
    try:
        file = _File.model_validate(found.content)
    except ValidationError as error:
        raise UserError(_sentence(found, error)) from error
    if file.protocol != path.stem:
        raise UserError(f"{path}: expected protocol {path.stem!r}, as the file is called, found {file.protocol!r}")
    return file


def _sentence(file: YamlFile, error: ValidationError) -> str:
    """Place and mistake."""
    place, message = explain(error)
    if error.errors()[0]["type"] == "value_error":
        message = message.partition(", found ")[0]
    return f"{file.where(place)}: {message}"
