"""Verdicts as text: for the terminal and as JUnit XML, which CI systems read."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence

from benchmarks.regression import golden_weights
from benchmarks.regression.gate_result import GateResult


def lines(verdicts: Sequence[GateResult]) -> list[str]:
    """One line for each gate, problem and method; the replayed weights of one method that are as they were share a line."""
    rows = [_row(verdict) for verdict in _merged(verdicts)]
    widths = [max(len(row[column]) for row in rows) for column in range(4)] if rows else []
    return ["  ".join([*(cell.ljust(wide) for cell, wide in zip(row, widths, strict=False)), row[4]]) for row in rows]


def summary(verdicts: Sequence[GateResult]) -> str:
    """The last line: what failed, by name."""
    failed = [verdict for verdict in verdicts if verdict.state == "failed"]
    lacking = [verdict for verdict in verdicts if verdict.lacking]
    if lacking and not failed:
        return f"NOT JUDGED, since records were left out: {_named(lacking)}"
    if not failed:
        judged = sum(verdict.state == "ok" for verdict in verdicts)
        return f"passed: {judged} comparisons, {len(verdicts) - judged} not judged"
    return f"FAILED: {_named(failed)}"


def junit(suite: str, verdicts: Sequence[GateResult]) -> bytes:
    """One test case for each gate, problem (or fixed input) and method."""
    failed = sum(verdict.state == "failed" for verdict in verdicts)
    lacking = sum(verdict.lacking for verdict in verdicts)
    skipped = sum(verdict.state == "not judged" for verdict in verdicts) - lacking
    counts = {"tests": str(len(verdicts)), "failures": str(failed), "errors": str(lacking), "skipped": str(skipped)}
    root = ElementTree.Element("testsuites", counts)
    cases = ElementTree.SubElement(root, "testsuite", {"name": f"check {suite}", **counts})
    for verdict in verdicts:
        name = f"{verdict.method}: {verdict.gate}"
        case = ElementTree.SubElement(cases, "testcase", {"classname": verdict.place, "name": name})
        if verdict.state == "failed":
            message = ElementTree.SubElement(case, "failure", {"message": _printable(verdict.reason)})
            message.text = _printable(f"{verdict.place}, {name}: {verdict.reason}")
        elif verdict.lacking:
            ElementTree.SubElement(case, "error", {"message": _printable(verdict.reason)})
        elif verdict.state == "not judged":
            ElementTree.SubElement(case, "skipped", {"message": _printable(verdict.reason)})
        else:
            ElementTree.SubElement(case, "system-out").text = _printable(verdict.reason)
    ElementTree.indent(root)
    return bytes(ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)) + b"\n"


def _named(verdicts: Sequence[GateResult]) -> str:
    return ", ".join(dict.fromkeys(f"{verdict.method.partition('[')[0]} ({verdict.gate})" for verdict in verdicts))


def _row(verdict: GateResult) -> tuple[str, str, str, str, str]:
    state = verdict.state.upper() if verdict.state == "failed" else verdict.state
    return verdict.gate, state, verdict.place, verdict.method, verdict.reason


def _merged(verdicts: Sequence[GateResult]) -> list[GateResult]:
    """With one verdict instead of those on replayed weights of one method that are as recorded; these first."""
    replayed = [verdict for verdict in verdicts if verdict.gate == golden_weights.GATE]
    same: dict[str, list[float]] = {}
    for verdict in replayed:
        if verdict.state == "ok":
            same.setdefault(verdict.method.partition("[")[0], []).append(verdict.value)
    equal = [
        GateResult(golden_weights.GATE, "fixed inputs", method, "ok", f"{len(found)} as recorded, to {max(found):.0e}")
        for method, found in same.items()
    ]
    others = [verdict for verdict in replayed if verdict.state != "ok"]
    return [*others, *equal, *(verdict for verdict in verdicts if verdict.gate != golden_weights.GATE)]


def _printable(text: str) -> str:
    """XML knows no other control characters than these."""
    return "".join(letter for letter in text if letter.isprintable() or letter in "\n\t")
