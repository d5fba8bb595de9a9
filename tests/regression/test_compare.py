"""``compare BASE HEAD``: the verdicts, the numbers, what is in one folder only, and input that cannot be compared."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import fake_runs
import numpy as np
import pandas as pd
import pytest
import regression_runs
from command_line import Bench, assert_refused
from regression_runs import same
from written_records import rewrite

from benchmarks.analysis.loading import load
from benchmarks.analysis.scores import scores
from benchmarks.analysis.sections import sections
from benchmarks.analysis.verdict_tables import verdict_tables
from benchmarks.papers.claims import below
from benchmarks.records.schema import Run, RunSpec
from benchmarks.records.storage import RUN_FILE
from benchmarks.regression.compare import compare, markdown

pytestmark = pytest.mark.slow


def folders(tmp_path: Path, seeds: int, metric: regression_runs.Change = same, single: bool = True) -> tuple[Path, Path]:
    """Base and head of one suite, the head with changed metrics of methods."""
    path = regression_runs.suite(tmp_path, range(seeds))
    specs = [spec for spec in regression_runs.plan(path).runs if single or spec.role == "method"]
    base = [made(spec, same) for spec in specs]
    head = [made(spec, metric if spec.role == "method" else same) for spec in specs]
    return regression_runs.write(tmp_path / "base" / "mine", base), regression_runs.write(tmp_path / "head" / "mine", head)


MADE: dict[tuple[str, regression_runs.Change], Run] = {}


def made(spec: RunSpec, metric: regression_runs.Change) -> Run:
    """A finished run, made up once for all tests: it goes to files and is not changed here."""
    place = (spec.key, metric)
    if place not in MADE:
        MADE[place] = regression_runs.run(spec, "mine", metric)
    return MADE[place]


def worse_and_better(spec: RunSpec) -> float:
    wobble = 1 + 0.001 * (spec.seed % 2)
    return {"famo": 1.1, "coba": 0.9}.get(spec.weighter.name, 1.0) * wobble ** (spec.seed % 3 - 1)


@pytest.mark.parametrize(("single", "measure"), [(True, "Δm"), (False, "metrics %")])
def test_verdicts_of_eight_pairs(single: bool, measure: str, tmp_path: Path) -> None:
    """All values are STL's times a factor, so the change of Δm in points is that of the metrics in percent."""
    found = compare(*folders(tmp_path, 10, worse_and_better, single))
    rows = {row.method: row for row in found.rows}
    assert {row.measure for row in found.rows} == {measure}
    assert (rows["famo"].judged.verdict, rows["coba"].judged.verdict) == ("worse", "better")
    assert {rows[name].judged.verdict for name in ("uniform", "random", "gradnorm", "dwa")} == {"no difference seen"}
    assert rows["famo"].judged.found.mean == pytest.approx(10, abs=0.1)
    assert rows["famo"].judged.found.low <= rows["famo"].judged.found.mean <= rows["famo"].judged.found.high
    # Ten pairs that agree: 2 / 2^10, times the six rows of the table after Holm.
    assert rows["famo"].judged.p_value == pytest.approx(6 * 2 / 2**10)
    assert rows["famo"].seconds == pytest.approx((1.34, 1.34))
    assert (np.isfinite(rows["famo"].base), np.isfinite(rows["famo"].head)) == (single, single)


def test_three_pairs_are_too_few(tmp_path: Path) -> None:
    found = compare(*folders(tmp_path, 3, worse_and_better))
    verdicts = {row.method: row.judged.verdict for row in found.rows}
    assert (verdicts.pop("famo"), verdicts.pop("coba")) == ("too few to test", "too few to test")
    assert set(verdicts.values()) == {"identical"}
    assert {row.method: round(row.judged.found.mean) for row in found.rows}["famo"] == 10


def test_the_command_prints_and_writes(tmp_path: Path, bench: Bench) -> None:
    base, head = folders(tmp_path, 10, worse_and_better)
    said = bench("compare", str(base), str(head))
    assert (said.code, said.stderr) == (0, "")
    assert "1 worse, 1 better, 4 no difference seen" in said.stdout
    assert max(map(len, said.stdout.splitlines()[:-1])) <= 140
    page = (head / "compare.md").read_text(encoding="utf-8")
    assert f"for a pull request: {head / 'compare.md'}" in said.stdout
    (line,) = [line for line in page.splitlines() if "| famo " in line]
    assert [cell.strip() for cell in line.split("|")[2:5]] == ["famo", "worse", "Δm"]
    assert page.count("\n| ") == 8
    data = pd.read_csv(head / "compare.csv").set_index("method")
    rows = {row.method: row for row in compare(base, head).rows}
    assert data["change"].to_dict() == pytest.approx({method: row.judged.found.mean for method, row in rows.items()})
    assert data["low"].to_dict() == pytest.approx({method: row.judged.found.low for method, row in rows.items()})
    assert (head / "compare.tex").read_text(encoding="utf-8").count(r" \\") == 7
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
    assert {row.method: row.judged.found.pairs for row in found.rows}["famo"] == 2
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
    assert_refused(bench("compare", str(base), str(empty)), f"the records of a suite at {empty}, found none")
    (empty / "runs").mkdir(parents=True)
    assert_refused(bench("compare", str(base), str(empty)), f"expected records in {empty}, found none")
    assert_refused(bench("compare", str(base)), "expected head, found none")


def place_of(folder: Path, method: str, seed: int) -> Path:
    """Where a folder has the run of a method."""
    (key,) = [
        run.record.key for run in runs_in(folder) if (run.label, run.seed, run.record.run.role) == (method, seed, "method")
    ]
    return folder / "runs" / key


def runs_in(folder: Path) -> tuple[Run, ...]:
    return load(folder).runs


def pairs(base: Path, head: Path) -> dict[str, int]:
    return {row.method: row.judged.found.pairs for row in compare(base, head).rows}


def test_another_schema_version(tmp_path: Path, bench: Bench) -> None:
    base, head = folders(tmp_path, 2)
    changed(base, "schema_version", 99)
    said = bench("compare", str(base), str(head))
    assert (said.code, said.stderr) == (0, "")
    assert "expected schema_version 3, found 99" in said.stdout
    for place in (base / "runs").iterdir():
        rewrite(place, json.loads((place / RUN_FILE).read_bytes()) | {"schema_version": 99})
    assert_refused(bench("compare", str(base), str(head)), "expected schema_version 3, found 99", "more that cannot be used")


@pytest.mark.parametrize("file", [RUN_FILE, "trajectory.parquet"])
def test_a_damaged_record_is_listed_and_the_others_are_compared(file: str, tmp_path: Path, bench: Bench) -> None:
    base, head = folders(tmp_path, 3)
    (place_of(head, "famo", 1) / file).write_bytes(b"PAR1")
    said = bench("compare", str(base), str(head))
    assert (said.code, said.stderr) == (0, "")
    page = (head / "compare.md").read_text(encoding="utf-8")
    for text in (said.stdout, page.replace("\\", "")):
        assert f"head: {head / 'runs'}" in text
        assert "famo: seed 1 finished in base only" in text
    assert pairs(base, head) == {"uniform": 3, "random": 3, "gradnorm": 3, "dwa": 3, "famo": 2, "coba": 3}


@pytest.mark.parametrize("what", ["initial_parameters", "data", "data_order"])
def test_runs_that_began_otherwise_are_left_out(what: str, tmp_path: Path, bench: Bench) -> None:
    """All of a seed, as after a change of the data; then all of all seeds, and nothing is left to compare."""
    specs = regression_runs.plan(regression_runs.suite(tmp_path)).runs
    seeds = {spec.seed for spec in specs}

    def side(name: str, odd: set[int]) -> Path:
        prints = {seed: regression_runs.prints(seed, **({what: "x"} if seed in odd else {})) for seed in seeds}
        runs = [regression_runs.run(spec, "mine", fingerprints=prints[spec.seed]) for spec in specs]
        return regression_runs.write(tmp_path / name, runs)

    base, head = side("base", {1}), side("head", set())
    said = bench("compare", str(base), str(head))
    assert (said.code, said.stderr) == (0, "")
    assert set(pairs(base, head).values()) == {2}
    assert f"seed 1) is left out: {what.replace('_', ' ')} differ from those of " in said.stdout
    nothing = bench("compare", str(side("other", seeds)), str(head))
    assert_refused(nothing, "expected runs that can be paired, found none: ", what.replace("_", " ") + " differ")


@pytest.mark.parametrize("side", ["base", "head"])
def test_one_excluded_run_does_not_stop_the_comparison(side: str, tmp_path: Path) -> None:
    """Of one folder one run began otherwise than the rest of its seed."""
    base, head = folders(tmp_path, 3)
    folder = {"base": base, "head": head}[side]
    place = place_of(folder, "dwa", 2)
    content = json.loads((place / RUN_FILE).read_bytes())
    content["fingerprints"]["data"] = "another"
    rewrite(place, content)
    found = compare(base, head)
    assert {row.method: row.judged.found.pairs for row in found.rows}["dwa"] == 2
    assert any(note.startswith(f"{side}: ") and "data differ from the other runs of seed 2" in note for note in found.notes)


def test_what_finished_in_neither_folder_is_named(tmp_path: Path) -> None:
    base, head = folders(tmp_path, 3)
    for folder in (base, head):
        place = place_of(folder, "coba", 0)
        rewrite(place, json.loads((place / RUN_FILE).read_bytes()) | {"state": "diverged", "reason": "loss of small"})
    assert any("coba: seed 0 finished in neither" in note for note in compare(base, head).notes)


def test_runs_of_two_devices_are_compared_with_their_own(tmp_path: Path) -> None:
    base, head = folders(tmp_path, 3)
    for folder, factor in ((base, 1.0), (head, 1.5)):
        for run in runs_in(folder):
            spec = run.record.run.model_copy(update={"device": "cuda"})
            metrics = {
                split: {name: value * (factor if run.label == "famo" else 1) for name, value in values.items()}
                for split, values in run.record.metrics.items()
            }
            record = run.record.model_copy(update={"run": spec, "key": spec.key, "metrics": metrics})
            regression_runs.write(folder, [replace(run, record=record)])
    found = compare(base, head)
    assert len(found.rows) == 12
    changes = sorted(round(row.judged.found.mean) for row in found.rows if row.method == "famo")
    assert changes == [0, 50]
    assert len({row.problem for row in found.rows}) == 2
    assert any("device" in note and "not compared with each other" in note for note in found.notes)


def test_settings_that_have_nothing_in_common(tmp_path: Path, bench: Bench) -> None:
    base, _ = folders(tmp_path, 2)
    path = regression_runs.suite(tmp_path / "longer", training={"steps": 40})
    head = regression_runs.write(
        tmp_path / "longer", [regression_runs.run(spec, "mine") for spec in regression_runs.plan(path).runs]
    )
    assert_refused(bench("compare", str(base), str(head)), "equal settings in both, found training.steps 20, there 40")


def test_two_methods_of_one_name(tmp_path: Path, bench: Bench) -> None:
    """The one that is equal in all is the partner; the other is named."""
    base, head = folders(tmp_path, 2)
    run = next(run for run in runs_in(head) if run.label == "famo" and run.seed == 1)
    weighter = run.record.run.weighter.model_copy(update={"hyperparameters": {"lr": 1.0}})
    spec = run.record.run.model_copy(update={"weighter": weighter})
    regression_runs.write(head, [replace(run, record=run.record.model_copy(update={"run": spec, "key": spec.key}))])
    assert pairs(base, head) == dict.fromkeys(("uniform", "random", "gradnorm", "dwa", "famo", "coba"), 2)
    notes = compare(base, head).notes
    assert any("famo: 2 different methods go by this name" in note for note in notes)
    assert any("famo@" in note and "seed 1 finished in head only" in note for note in notes)
    assert pairs(head, base).keys() >= {"uniform", "coba"}


# ---- the same words everywhere ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("seeds", "single"), [(3, False), (6, True), (7, False), (10, True)])
def test_the_report_compare_and_reproduce_say_the_same_of_the_same_pairs(seeds: int, single: bool, tmp_path: Path) -> None:
    """Base: every method has the numbers of uniform. Head: its own. So head minus base is the method minus uniform."""

    def own(spec: RunSpec) -> float:
        draw = np.random.default_rng([spec.seed, len(spec.weighter.name)])
        shift = {"famo": 0.1, "coba": -0.1, "dwa": 0.0, "gradnorm": 0.01, "random": -0.01}.get(spec.weighter.name, 0.0)
        noise = 0.0 if spec.weighter.name in ("uniform", "dwa") else 0.02
        return 1 + shift + noise * float(draw.normal())

    base, head = folders(tmp_path, seeds, own, single)
    compared = compare(base, head)
    rows, page = {row.method: row for row in compared.rows}, markdown(compared)
    (section,), _ = sections(runs_in(head))
    scored = scores(section)
    (table,) = verdict_tables(scored)
    shown = {str(cells["method"]): cells for cells in table.frame.to_dict("records")}
    assert len(shown) == 5
    for method, cells in shown.items():
        judged = rows[method].judged
        assert cells["verdict"] == judged.words
        assert cells["pairs"] == judged.found.pairs
        numbers = [judged.found.mean, judged.found.low, judged.found.high, judged.found.improvement, judged.p_value]
        expected = [cells[key] for key in ("change", "low", "high", "improvement", "p_value")]
        assert numbers == pytest.approx(expected, nan_ok=True, rel=1e-9, abs=1e-12)
        assert judged.words in page
    # The claim that uniform is better than the method: the same pairs with the other sign.
    mirrored = {"better": "does not hold", "worse": "holds"}
    for method, check in zip(shown, below(scored, scored.measure.column, "uniform", list(shown), "{rival}"), strict=True):
        judged = rows[method].judged
        assert check.verdict == mirrored.get(judged.verdict, "cannot be judged")
        if np.isfinite(judged.p_value):
            assert f"p = {judged.p_value:.3g} " in check.numbers
    assert rows["dwa"].judged.verdict == "identical"
    assert {rows[name].judged.verdict for name in ("famo", "coba")} == (
        {"too few to test"} if seeds < 8 else {"worse", "better"}
    )
