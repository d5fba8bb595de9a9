"""``compare BASE HEAD``: the verdicts, the numbers, what is in one folder only, and input that cannot be compared."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import fake_runs
import numpy as np
import pytest
import regression_runs
from regression_runs import same
from test_commands import Bench, assert_refused, bench
from written_records import rewrite

from benchmarks.record import RUN_FILE, Run, RunSpec
from benchmarks.regression.compare import compare

__all__ = ["bench"]


def folders(tmp_path: Path, seeds: int, metric: regression_runs.Change = same, single: bool = True) -> tuple[Path, Path]:
    """Base and head of one suite, the head with changed metrics of methods."""
    path = regression_runs.suite(tmp_path, range(seeds))
    specs = [spec for spec in regression_runs.plan(path).runs if single or spec.role == "method"]
    base = [regression_runs.run(spec, "mine") for spec in specs]
    head = [regression_runs.run(spec, "mine", metric if spec.role == "method" else same) for spec in specs]
    return regression_runs.write(tmp_path / "base" / "mine", base), regression_runs.write(tmp_path / "head" / "mine", head)


def worse_and_better(spec: RunSpec) -> float:
    wobble = 1 + 0.001 * (spec.seed % 2)
    return {"famo": 1.1, "coba": 0.9}.get(spec.weighter.name, 1.0) * wobble ** (spec.seed % 3 - 1)


@pytest.mark.parametrize(("single", "measure"), [(True, "Δm"), (False, "metrics %")])
def test_verdicts_of_eight_pairs(single: bool, measure: str, tmp_path: Path) -> None:
    """All values are STL's times a factor, so the change of Δm in points is that of the metrics in percent."""
    found = compare(*folders(tmp_path, 10, worse_and_better, single))
    rows = {row.method: row for row in found.rows}
    assert {row.measure for row in found.rows} == {measure}
    assert (rows["famo"].verdict, rows["coba"].verdict) == ("worse", "better")
    assert {rows[name].verdict for name in ("uniform", "random", "gradnorm", "dwa")} == {"no difference seen"}
    assert rows["famo"].change.mean == pytest.approx(10, abs=0.1)
    assert rows["famo"].change.low <= rows["famo"].change.mean <= rows["famo"].change.high
    # Ten pairs that agree: 2 / 2^10, times the six rows of the table after Holm.
    assert rows["famo"].p_value == pytest.approx(6 * 2 / 2**10)
    assert rows["famo"].seconds == pytest.approx((1.34, 1.34))
    assert (np.isfinite(rows["famo"].base), np.isfinite(rows["famo"].head)) == (single, single)


def test_three_pairs_are_too_few(tmp_path: Path) -> None:
    found = compare(*folders(tmp_path, 3, worse_and_better))
    verdicts = {row.method: row.verdict for row in found.rows}
    assert (verdicts.pop("famo"), verdicts.pop("coba")) == ("too few pairs", "too few pairs")
    assert set(verdicts.values()) == {"identical"}
    assert {row.method: round(row.change.mean) for row in found.rows}["famo"] == 10


def test_the_command_prints_and_writes(tmp_path: Path, bench: Bench) -> None:
    base, head = folders(tmp_path, 10, worse_and_better)
    said = bench("compare", str(base), str(head))
    assert (said.code, said.stderr) == (0, "")
    assert "1 worse, 1 better, 4 no difference seen" in said.stdout
    assert max(map(len, said.stdout.splitlines()[:-1])) <= 200
    page = (head / "compare.md").read_text(encoding="utf-8")
    assert f"for a pull request: {head / 'compare.md'}" in said.stdout
    (line,) = [line for line in page.splitlines() if "| famo " in line]
    assert [cell.strip() for cell in line.split("|")[2:5]] == ["famo", "worse", "Δm"]
    assert page.count("\n| ") == 7
    assert page.rstrip().endswith("None.")


def test_two_folders_of_one_results_root(tmp_path: Path, bench: Bench) -> None:
    base, head = folders(tmp_path, 2)
    base.rename(head.parent / "old")
    said = bench("compare", "old", "mine", "--out", str(head.parent))
    assert (said.code, said.stderr) == (0, "")
    assert "6 identical" in said.stdout
    assert (head / "compare.md").exists()


def test_runs_of_one_side_are_named(tmp_path: Path) -> None:
    path = regression_runs.suite(tmp_path)
    specs = regression_runs.plan(path).runs
    runs = [regression_runs.run(spec, "mine") for spec in specs]
    lost = [run for run in runs if not (run.label == "famo" and run.seed == 2) and run.label != "dwa"]
    other = [fake_runs.make("uniform", 0, problem="pictures")]
    base = regression_runs.write(tmp_path / "base", [*runs, *other])
    head = regression_runs.write(tmp_path / "head", lost)
    found = compare(base, head)
    assert "dwa" not in {row.method for row in found.rows}
    assert {row.method: row.change.pairs for row in found.rows}["famo"] == 2
    notes = "\n".join(found.notes)
    assert "famo: seed 2 finished in base only" in notes
    assert "dwa: seed 0, 1, 2 finished in base only" in notes
    assert "pictures: with these settings in base only (no pictures there)" in notes
    assert [note.replace("head", "base") for note in compare(head, base).notes] == list(found.notes)


def test_a_changed_hyperparameter_is_named(tmp_path: Path) -> None:
    path = regression_runs.suite(tmp_path)
    faster = regression_runs.suite(tmp_path / "faster", weighters=["uniform", {"name": "famo", "lr": 0.25}])
    base, head = (
        regression_runs.write(
            tmp_path / name, [regression_runs.run(spec, "mine") for spec in regression_runs.plan(each).runs]
        )
        for name, each in (("base", path), ("head", faster))
    )
    assert any(note.endswith("famo: hyperparameters changed: lr 0.025, now 0.25") for note in compare(base, head).notes)


# ---- what cannot be compared -----------------------------------------------------------------------------------------


def changed(folder: Path, change: str, value: object) -> None:
    """A field of the first record, changed on disk."""
    place = sorted((folder / "runs").glob(f"*/{RUN_FILE}"))[0].parent
    rewrite(place, json.loads((place / RUN_FILE).read_bytes()) | {change: value})


def test_folders_without_records(tmp_path: Path, bench: Bench) -> None:
    base, _ = folders(tmp_path, 2)
    empty = tmp_path / "empty"
    assert_refused(bench("compare", str(base), str(empty)), f"(runs/) at {empty}, found none")
    (empty / "runs").mkdir(parents=True)
    assert_refused(bench("compare", str(base), str(empty)), f"expected records in {empty / 'runs'}, found none")
    assert_refused(bench("compare", str(base)), "compare: expected two folders of records, found")


def test_another_schema_version(tmp_path: Path, bench: Bench) -> None:
    base, head = folders(tmp_path, 2)
    changed(base, "schema_version", 99)
    assert_refused(bench("compare", str(base), str(head)), "expected schema_version 2, found 99")


def test_a_damaged_file(tmp_path: Path, bench: Bench) -> None:
    base, head = folders(tmp_path, 2)
    sorted((head / "runs").glob("*/trajectory.parquet"))[0].write_bytes(b"PAR1")
    assert_refused(bench("compare", str(base), str(head)), str(head), "cannot be")
    assert not (head / "compare.md").exists()


@pytest.mark.parametrize("what", ["initial_parameters", "data", "data_order"])
def test_other_fingerprints(what: str, tmp_path: Path, bench: Bench) -> None:
    path = regression_runs.suite(tmp_path)
    specs = regression_runs.plan(path).runs

    def began(spec: RunSpec, **changes: str) -> Run:
        return regression_runs.run(spec, "mine", fingerprints=regression_runs.prints(spec.seed, **changes))

    base = regression_runs.write(tmp_path / "base", [began(spec, **{what: "x"} if spec.seed == 1 else {}) for spec in specs])
    head = regression_runs.write(tmp_path / "head", [began(spec) for spec in specs])
    said = bench("compare", str(base), str(head))
    assert_refused(said, "seed 1: expected runs that began alike, found other " + what.replace("_", " "))


def test_settings_that_have_nothing_in_common(tmp_path: Path, bench: Bench) -> None:
    base, _ = folders(tmp_path, 2)
    path = regression_runs.suite(tmp_path / "longer", training={"steps": 40})
    head = regression_runs.write(
        tmp_path / "longer", [regression_runs.run(spec, "mine") for spec in regression_runs.plan(path).runs]
    )
    assert_refused(bench("compare", str(base), str(head)), "equal settings in both, found training.steps 20, there 40")


def test_two_records_of_one_method_and_seed(tmp_path: Path, bench: Bench) -> None:
    base, head = folders(tmp_path, 2)
    run = next(run for run in compare_runs(head) if run.label == "famo" and run.seed == 1)
    weighter = run.record.run.weighter.model_copy(update={"hyperparameters": {"lr": 1.0}})
    spec = run.record.run.model_copy(update={"weighter": weighter})
    regression_runs.write(head, [replace(run, record=run.record.model_copy(update={"run": spec, "key": spec.key}))])
    assert_refused(bench("compare", str(base), str(head)), "expected one record of famo", "seed 1, found several")


def compare_runs(folder: Path) -> tuple[Run, ...]:
    from benchmarks.analysis.loading import load

    return load(folder).runs
