"""``check``: exit codes, gates, files, folders; and bad input, never a verdict. Nothing is trained but in one test."""

from __future__ import annotations

import json
import shutil
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest
import regression_runs
from check_bench import COMMIT, METHODS, CheckBench
from command_line import Bench, Said, assert_refused
from suites import TINY
from written_records import rewrite

from benchmarks.cli import regression
from benchmarks.records import provenance
from benchmarks.records.schema import RunSpec
from benchmarks.records.storage import RUN_FILE, read_run, run_folders
from benchmarks.regression import golden_runs, golden_weights, step_cost

pytestmark = pytest.mark.slow


def lines(said: Said, gate: str) -> list[str]:
    return [line for line in said.stdout.splitlines() if line.startswith(gate)]


def famo(factor: float) -> regression_runs.Change:
    return lambda spec: factor if spec.weighter.name == "famo" else 1.0


# ---- verdicts --------------------------------------------------------------------------------------------------------


def test_the_same_code_passes(check_bench: CheckBench) -> None:
    said = check_bench.check()
    assert (said.code, said.stderr) == (0, "")
    # random is part of every comparison, though the suite does not name it.
    assert [len(lines(said, f"{gate:7}  ok")) for gate in ("weights", "quality", "cost")] == [len(METHODS) + 1] * 3
    assert "FAILED" not in said.stdout
    assert "\npassed: " in said.stdout


def test_worse_metrics_fail_the_quality_gate_alone(check_bench: CheckBench) -> None:
    said = check_bench.check(metric=famo(1.2))
    assert said.code == 1
    (line,) = [line for line in said.stdout.splitlines() if "  FAILED  " in line]
    assert line.startswith("quality ")
    assert " famo " in line
    assert "metrics changed by +20.00 %" in line
    assert "worse on 3 of 3 seeds" in line
    assert said.stdout.rstrip().endswith("FAILED: famo (quality)")


def test_better_metrics_pass(check_bench: CheckBench) -> None:
    assert check_bench.check(metric=famo(0.8)).code == 0


def test_a_method_that_diverges_now_fails(check_bench: CheckBench) -> None:
    made = regression_runs.trainer()

    def diverging(folder: Path, name: str, runs: list[RunSpec], **_: Any) -> Any:
        outcome = made(folder, name, runs)
        spec = next((spec for spec in runs if spec.weighter.name == "famo" and spec.seed == 1), None)
        if spec is not None:
            run = regression_runs.run(spec, name, state="diverged", failed_step=12, reason="loss of small is not finite")
            regression_runs.write(folder, [run])
        return outcome

    check_bench.monkeypatch.setattr(regression_runs, "trainer", lambda **_: diverging)
    said = check_bench.check()
    assert said.code == 1
    assert "seed 1: diverged at step 12, finished in the baseline: loss of small is not finite" in said.stdout
    assert said.stdout.rstrip().endswith("FAILED: famo (quality)")


def test_a_slower_method_fails_the_cost_gate_alone(check_bench: CheckBench) -> None:
    assert check_bench.check(seconds=famo(step_cost.FACTOR * 0.98)).code == 0
    said = check_bench.check(seconds=famo(step_cost.FACTOR * 1.04), out=check_bench.folder / "slower")
    assert said.code == 1
    assert "s/step relative to uniform 1.34, now 2.09: times 1.56, allowed 1.5" in said.stdout
    assert said.stdout.rstrip().endswith("FAILED: famo (cost)")


def test_a_slower_machine_passes(check_bench: CheckBench) -> None:
    assert check_bench.check(seconds=lambda _: 10.0).code == 0


def test_changed_weights_fail_the_weights_gate_alone(check_bench: CheckBench) -> None:
    path = check_bench.baseline / golden_weights.FILE
    content = json.loads(path.read_text(encoding="utf-8"))
    weights = content["weights"]["log all_tasks"]["famo[lookahead=next_batch]"]
    weights[30][1] *= 1 + 1e-5
    path.write_text(json.dumps(content), encoding="utf-8")
    said = check_bench.check()
    assert said.code == 1
    (line,) = [line for line in said.stdout.splitlines() if "  FAILED  " in line]
    assert "log all_tasks" in line
    assert "famo[lookahead=next_batch]" in line
    assert "weights differ from step 30 on" in line
    assert said.stdout.rstrip().endswith("FAILED: famo (weights)")


def test_a_method_that_the_baseline_lacks_is_not_judged(check_bench: CheckBench) -> None:
    for place in run_folders(check_bench.baseline / "mine"):
        if read_run(place).label == "famo":
            shutil.rmtree(place)
    golden_weights.record(check_bench.baseline, ["uniform", "coba"], COMMIT)
    said = check_bench.check(metric=famo(5.0))
    assert said.code == 0
    judged = [line for line in said.stdout.splitlines() if " famo" in line]
    assert judged
    assert all("not judged" in line for line in judged)


def test_a_method_that_is_gone_fails_and_others_of_the_baseline_are_named(check_bench: CheckBench) -> None:
    check_bench.monkeypatch.setattr(regression, "names", lambda: ["uniform"])
    said = check_bench.check("--weighters", "uniform")
    assert said.code == 1
    assert "FAILED: famo (weights), coba (weights)" in said.stdout
    assert "only in the baseline: " in said.stdout
    assert "coba on " in said.stdout


def test_changed_hyperparameters_are_compared_all_the_same_and_named(check_bench: CheckBench) -> None:
    """A default ten times larger is another key, but the same method to its users."""
    regression_runs.suite(check_bench.folder, weighters=["uniform", {"name": "famo", "lr": 0.25}, "coba"])
    said = check_bench.check(metric=famo(1.2))
    assert said.code == 1
    assert "(hyperparameters: lr 0.025, now 0.25)" in said.stdout


# ---- files -----------------------------------------------------------------------------------------------------------


def test_junit_has_a_case_for_every_verdict(check_bench: CheckBench) -> None:
    file = check_bench.folder / "told.xml"
    assert check_bench.check("--junit", str(file), metric=famo(1.2)).code == 1
    suite = ElementTree.parse(file).getroot().find("testsuite")
    assert suite is not None
    cases = suite.findall("testcase")
    failed = [case for case in cases if case.find("failure") is not None]
    assert (len(cases), len(failed)) == (int(suite.attrib["tests"]), int(suite.attrib["failures"]))
    assert [(case.attrib["classname"], case.attrib["name"]) for case in failed] == [(TINY, "famo: quality")]
    assert "changed by +20.00 %" in failed[0].findall("failure")[0].attrib["message"]
    for gate in ("quality", "cost", "weights"):
        assert {f"{method}: {gate}" for method in METHODS} <= {case.attrib["name"] for case in cases}


def test_every_check_is_kept_and_drawn(check_bench: CheckBench) -> None:
    for number, factor in enumerate((1.0, 1.2, 0.9)):
        assert check_bench.check(out=check_bench.folder / f"new{number}", metric=famo(factor)).code == int(factor > 1)
    entries = sorted(
        check_bench.entries(), key=lambda entry: [n["value"] for n in entry["numbers"] if n["method"] == "famo"]
    )
    assert [entry["passed"] for entry in entries] == [True, True, False]
    assert {(entry["suite"], entry["commit"], *entry["against"]) for entry in entries} == {("mine", COMMIT, COMMIT)}
    assert entries[-1]["gates"] == {"weights": "ok", "quality": "failed", "cost": "ok"}
    quality = [n["value"] for e in entries for n in e["numbers"] if (n["method"], n["gate"]) == ("famo", "quality")]
    assert quality == pytest.approx([-10, 0, 20])
    assert (check_bench.folder / "plots" / "history" / "mine.png").read_bytes().startswith(b"\x89PNG")


def test_a_damaged_file_in_the_history_is_a_warning(check_bench: CheckBench) -> None:
    file = check_bench.folder / "results" / "history" / "mine-old.json"
    file.parent.mkdir()
    file.write_text("{", encoding="utf-8")
    said = check_bench.check()
    assert said.code == 0
    assert said.stderr.startswith(f"warning: {file}: left out of the history: ")


def test_a_dry_run_trains_and_writes_nothing(check_bench: CheckBench) -> None:
    seen: list[RunSpec] = []
    said = check_bench.check("--dry-run", seen=seen)
    assert (said.code, seen) == (0, [])
    assert "12 runs" in said.stdout
    assert not check_bench.out.exists()
    assert check_bench.entries() == []


def test_record_writes_the_weights_and_trains_nothing(check_bench: CheckBench) -> None:
    path = check_bench.baseline / golden_weights.FILE
    before = path.read_bytes()
    path.unlink()
    seen: list[RunSpec] = []
    assert check_bench.check("--record", seen=seen).code == 0
    assert seen == []
    assert path.read_bytes() == before
    assert not check_bench.out.exists()


def test_single_tasks_are_not_trained(check_bench: CheckBench) -> None:
    seen: list[RunSpec] = []
    check_bench.check(seen=seen)
    assert {spec.role for spec in seen} == {"method"}


# ---- the folder that is trained into ---------------------------------------------------------------------------------


def test_records_of_the_same_commit_are_used(check_bench: CheckBench) -> None:
    assert check_bench.check().code == 0
    assert check_bench.check(metric=famo(1.2)).code == 0, "the records of before were to be used, not new ones"


@pytest.mark.parametrize("now", ["fedcba987654", f"{COMMIT}+changes", None])
def test_records_of_other_code_are_refused(now: str | None, check_bench: CheckBench) -> None:
    assert check_bench.check().code == 0
    check_bench.monkeypatch.setattr(provenance, "commit", lambda: now)
    assert_refused(
        check_bench.check(), f"{check_bench.out / 'mine'}: expected no records but of commit", f"found 12 of {COMMIT}"
    )


@pytest.mark.parametrize(("now", "pattern"), [(COMMIT, COMMIT), (f"{COMMIT}+changes", f"{COMMIT}+changes-2*Z")])
def test_the_folder_is_named_after_the_commit(now: str, pattern: str, check_bench: CheckBench) -> None:
    check_bench.monkeypatch.setattr(provenance, "commit", lambda: now)
    check_bench.monkeypatch.setattr(regression, "execute", regression_runs.trainer())
    check_bench.monkeypatch.chdir(check_bench.folder)
    said = check_bench.bench("check", check_bench.suite, "--against", str(check_bench.baseline))
    assert (said.code, said.stderr) == (0, "")
    (found,) = (check_bench.folder / "results" / "check").glob(pattern)
    assert len(list(run_folders(found / "mine"))) == 12


# ---- bad input -------------------------------------------------------------------------------------------------------


def changed_record(check_bench: CheckBench, **changes: Any) -> None:
    place = sorted((check_bench.baseline / "mine" / "runs").glob(f"*/{RUN_FILE}"))[0].parent
    rewrite(place, json.loads((place / RUN_FILE).read_bytes()) | changes)


def assert_no_verdict(check_bench: CheckBench, said: Said, *fragments: str) -> None:
    assert_refused(said, *fragments)
    assert check_bench.entries() == []


def test_no_baseline(check_bench: CheckBench) -> None:
    shutil.rmtree(check_bench.baseline / "mine")
    assert_no_verdict(
        check_bench, check_bench.check(), f"expected a baseline of suite 'mine' in {check_bench.baseline}, found no suite"
    )
    (check_bench.baseline / "full" / "runs").mkdir(parents=True)
    assert_no_verdict(check_bench, check_bench.check(), "expected a baseline of suite 'mine'", "found full")
    (check_bench.baseline / "mine" / "runs").mkdir(parents=True)
    assert_no_verdict(check_bench, check_bench.check(), "expected records in", "found none")


def test_a_baseline_of_another_suite(check_bench: CheckBench) -> None:
    changed_record(check_bench, suite="other")
    assert_no_verdict(check_bench, check_bench.check(), "expected records of suite 'mine', found 'other'")


def test_a_baseline_of_other_settings(check_bench: CheckBench) -> None:
    assert_no_verdict(check_bench, check_bench.check("--steps", "10"), "as planned here, found training.steps 20, here 10")


def test_a_baseline_of_another_problem(check_bench: CheckBench) -> None:
    regression_runs.suite(check_bench.folder, weighters=METHODS, problems=["multidigits"])
    assert_no_verdict(check_bench, check_bench.check(), "expected runs of multidigits as planned here, found only")


def test_a_baseline_of_another_schema_version(check_bench: CheckBench) -> None:
    for place in run_folders(check_bench.baseline / "mine"):
        rewrite(place, json.loads((place / RUN_FILE).read_bytes()) | {"schema_version": 0})
    assert_no_verdict(check_bench, check_bench.check(), "expected schema_version 3, found 0", "more that cannot be used")


def test_missing_seeds(check_bench: CheckBench) -> None:
    seeds = check_bench.check("--seeds", "0,1,5")
    assert_no_verdict(check_bench, seeds, "expected a run of uniform", "seed 5, found only seeds 0, 1, 2")


def test_one_seed_is_too_few(check_bench: CheckBench) -> None:
    assert_no_verdict(check_bench, check_bench.check("--seeds", "1"), "expected at least 2 seeds for", "found 1")


def place_of(check_bench: CheckBench, method: str, seed: int) -> Path:
    """Where the baseline has a run."""
    (spec,) = [
        spec
        for spec in regression_runs.plan(Path(check_bench.suite)).runs
        if (spec.role, spec.weighter.name, spec.seed) == ("method", method, seed)
    ]
    return check_bench.baseline / "mine" / "runs" / spec.key


@pytest.mark.parametrize("file", [RUN_FILE, "trajectory.parquet"])
def test_a_gate_is_never_green_without_what_it_should_judge_by(file: str, check_bench: CheckBench) -> None:
    """A damaged record of the baseline: its method is not judged, the others are, and the command does not pass."""
    (place_of(check_bench, "famo", 1) / file).write_text("{", encoding="utf-8")
    junit = check_bench.folder / "junit.xml"
    said = check_bench.check("--junit", str(junit))
    assert (said.code, said.stderr) == (1, "")
    for gate in ("quality", "cost"):
        assert sum("  ok  " in line for line in lines(said, gate)) == len(METHODS)
        (line,) = [line for line in lines(said, gate) if "not judged" in line]
        assert " famo " in line
        assert "seed 1 is left out: " in line
    assert said.stdout.rstrip().endswith("NOT JUDGED, since records were left out: famo (quality), famo (cost)")
    root = ElementTree.parse(junit).getroot()
    assert (root.attrib["failures"], root.attrib["errors"]) == ("0", "2")


def test_what_is_worse_without_the_damaged_record_fails_all_the_same(check_bench: CheckBench) -> None:
    (place_of(check_bench, "famo", 1) / RUN_FILE).write_text("{", encoding="utf-8")
    said = check_bench.check(metric=famo(1.2))
    assert said.code == 1
    assert said.stdout.rstrip().endswith("FAILED: famo (quality)")


def test_a_method_whose_baseline_is_damaged_altogether_does_not_pass(check_bench: CheckBench) -> None:
    for seed in (0, 1, 2):
        (place_of(check_bench, "famo", seed) / RUN_FILE).write_text("{", encoding="utf-8")
    said = check_bench.check()
    assert said.code == 1
    assert said.stdout.rstrip().endswith("NOT JUDGED, since records were left out: famo (quality), famo (cost)")


def test_runs_that_began_otherwise_are_not_judged(check_bench: CheckBench) -> None:
    """All prints are those of seed 0, and other data: no seed begins as in the baseline."""
    said = check_bench.check(fingerprints=regression_runs.prints(0, data="other"))
    assert said.code == 1
    assert "data differ from those of" in said.stdout
    assert "NOT JUDGED" in said.stdout
    assert not [line for line in lines(said, "quality") if "  ok  " in line]


@pytest.mark.parametrize(
    ("content", "fragment"),
    [
        (None, "found none; `check --record` writes them"),
        ("{", "cannot be read: "),
        ("[]", "expected schema_version 1, found None"),
        ('{"schema_version": 2}', "expected schema_version 1, found 2"),
        ('{"schema_version": 1}', "commit: Field required"),
        (
            '{"schema_version": 1, "commit": null, "torch": "2", "logs": {"a": {"losses": [[1], 2]}}, "weights": {}}',
            "cannot be read: ",
        ),
        (
            '{"schema_version": 1, "commit": null, "torch": "2", "logs": {"a": {"loses": [[1]]}}, "weights": {}}',
            "cannot be read: ",
        ),
    ],
)
def test_weights_that_cannot_be_read(content: str | None, fragment: str, check_bench: CheckBench) -> None:
    path = check_bench.baseline / golden_weights.FILE
    path.unlink()
    if content is not None:
        path.write_text(content, encoding="utf-8")
    assert_no_verdict(check_bench, check_bench.check(), str(path), fragment)


# ---- with real training ----------------------------------------------------------------------------------------------


def test_from_beginning_to_end(tmp_path: Path, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trained twice by the same code: the same metrics to the last bit. Seconds are not judged on a machine that tests."""
    monkeypatch.setattr(regression, "names", lambda: METHODS)
    monkeypatch.setattr(golden_runs, "SMALL", {})
    monkeypatch.setattr(step_cost, "FACTOR", 1e9)
    path = str(regression_runs.suite(tmp_path, seeds=(0, 1), weighters=["uniform", "famo"]))
    reference, plots = tmp_path / "results" / "reference", ("--plots", str(tmp_path / "plots"))
    only = ("--weighters", "uniform,famo")
    here = ("--executor", "here", *plots)
    assert bench(path, *only, "--out", str(reference), *here).code == 0
    assert bench("check", path, *only, "--against", str(reference), "--record").code == 0
    said = bench("check", path, *only, "--against", str(reference), "--out", str(tmp_path / "new"), *here)
    assert (said.code, said.stderr) == (0, "")
    quality = [line for line in said.stdout.splitlines() if line.startswith("quality")]
    assert len(quality) == 2
    assert all("metrics changed by +0.00 %" in line and ": identical; " in line for line in quality)

    # A baseline that began otherwise is told before anything is trained.
    for place in run_folders(reference / "mine"):
        content = json.loads((place / RUN_FILE).read_bytes())
        content["fingerprints"]["data_order"] = "another"
        rewrite(place, content)
    said = bench("check", path, *only, "--against", str(reference), "--out", str(tmp_path / "newer"), *plots)
    assert_refused(said, "found other beginnings: ", "seed 0: data order differ from those of")
    assert not (tmp_path / "newer").exists()
