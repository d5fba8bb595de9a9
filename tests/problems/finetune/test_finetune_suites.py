"""The suites of finetune_lm: planned without a network, and trained for a few steps on small files in the hub's place."""

from __future__ import annotations

import gzip
import json
import re
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from places import ROOT, TESTS
from tiny_models import rows

from benchmarks.catalog import make_problem, weighter_class
from benchmarks.contract import Training
from benchmarks.harness.loop import Loop
from benchmarks.planning.plan import Filters, Plan, make_plan
from benchmarks.planning.suite import read_suite
from benchmarks.problems.finetune import models
from benchmarks.problems.finetune.options import Source
from benchmarks.records.schema import RunSpec
from weighting import RunFacts
from weighting._build import build

SUITES = ("finetune", "finetune_code", "finetune_tydiqa", "finetune_mixed")
FROM_THE_HUB = SUITES[1:]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A cache of its own, and a file in the place of the installed model."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    file = tmp_path / "model.gguf"
    file.write_bytes(b"a model")
    monkeypatch.setattr(models, "installed_file", lambda: file)
    yield


def plan_of(suite: str) -> Plan:
    return make_plan(read_suite(suite), Filters(), "cpu", to_train=False)


@pytest.mark.parametrize("suite", SUITES)
def test_every_suite_is_planned_without_a_network(suite: str) -> None:
    plan = plan_of(suite)
    labels = {run.weighter.label for run in plan.runs}
    assert {"uniform", "random", "token_mean", "famo", "coba", "single_task"} <= labels
    (options,) = {json.dumps(run.problem.options, sort_keys=True) for run in plan.runs}
    assert (options.count("hub") == 0) == (suite == "finetune")
    assert all(run.training.grad_clip == 1.0 and run.training.normalize == "sum_to_one" for run in plan.runs)


@pytest.mark.parametrize("suite", FROM_THE_HUB)
def test_what_comes_from_the_hub_is_pinned(suite: str) -> None:
    options = plan_of(suite).runs[0].problem.options
    sources = [{**options["source"], **own} for own in options["sources"].values()]
    revisions = [options["revision"], *(source["revision"] for source in sources)]
    # The branch that the hub makes of a set with a script has no commit that was seen.
    assert all(re.fullmatch("[0-9a-f]{40}", each) or each == "refs/convert/parquet" for each in revisions)


def test_the_default_suite_has_the_built_in_tasks_and_says_its_model_by_content() -> None:
    run = plan_of("finetune").runs[0]
    assert run.problem.tasks == ("python", "cpp", "yaml", "cuda", "stubs")
    assert set(run.problem.contents) == {"model"}
    assert len({run.seed for run in plan_of("finetune").runs}) == 2


def small_hub() -> types.ModuleType:
    """The data sets of the suites, in their form, with what lies in tests/data or made up."""

    def load_dataset(hub: str, config: str, *, split: str, revision: str) -> list[dict[str, Any]]:
        if hub == "mxeval/mbxp":
            name = {"python": "mbcpp", "java": "mbrbp"}.get(config, "mbcpp")
            return read_lines(TESTS / "data" / "mbxp" / f"{name}_release_v1.2.jsonl.gz")
        if hub == "google-research-datasets/tydiqa":
            return questions("train" if split == "train" else "test")
        made = rows(60, f"{config}{split}")
        fields = ("question", "answer") if hub == "openai/gsm8k" else ("text", "code")
        return [
            {fields[0]: row["prompt"], fields[1]: row["completion"], "test_list": ["assert 1", "assert 2"]} for row in made
        ]

    module = types.ModuleType("datasets")
    module.load_dataset = load_dataset  # type: ignore[attr-defined]
    return module


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in gzip.decompress(path.read_bytes()).decode().splitlines()]


def questions(part: str) -> list[dict[str, Any]]:
    """Of two languages, half in each split, under the names of all nine."""
    found = []
    for name, others in (
        ("bengali", ("arabic", "finnish", "telugu", "english")),
        ("korean", ("russian", "swahili", "indonesian")),
    ):
        packed = TESTS / "data" / "tydiqa" / f"{name}_tydiqa_dev.json.gz"
        articles = json.loads(gzip.decompress(packed.read_bytes()))["data"]
        for language in (name, *others):
            for article in articles[:60] if part == "train" else articles[60:90]:
                passage = article["paragraphs"][0]
                asked = passage["qas"][0]
                answers = {"text": [answer["text"] for answer in asked["answers"]]}
                row = {
                    "id": asked["id"].replace(name, language, 1),
                    "title": article["title"],
                    "context": passage["context"],
                }
                found.append({**row, "question": asked["question"], "answers": answers})
    return found


def tried(run: RunSpec) -> dict[str, float]:
    """Test metrics of a run of three steps of the untrained model, with everything else as the suite says."""
    few = {"model": "tiny", "revision": None, "adapt": {"last_layers": 1}, "max_length": 256, "dtype": "float32"}
    few |= {"validation_examples": 2, "test_examples": 2, "generate_tokens": 2, "cache_frozen": False}
    problem: Any = make_problem("finetune_lm", run.problem.tasks, {**run.problem.options, **few})
    training = Training.model_validate({**run.training.model_dump(), "steps": 3, "evaluate_every": 3, "batch_size": 2})
    data = problem.data(run.seed, training)
    facts = RunFacts(training.steps, data.steps_per_epoch, data.num_validation_batches, seed=0)
    kind = weighter_class(run.weighter.name)
    weighter = build(kind, problem.num_tasks, **kind.defaults_for(facts))
    loop = Loop(problem, data, weighter, training, run.seed, device=torch.device("cpu"))
    return loop.run().test


@pytest.mark.slow
@pytest.mark.parametrize("suite", FROM_THE_HUB)
def test_every_suite_trains_on_small_files(suite: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", small_hub())
    run = next(run for run in plan_of(suite).runs if run.weighter.label == "coba")
    found = tried(run)
    assert {key.split("/")[0] for key in found} == set(run.problem.tasks)
    asks = {"finetune_code": set(), "finetune_tydiqa": {"f1"}, "finetune_mixed": {"f1"}}
    assert {key.split("/")[1] for key in found} >= {"bits_per_byte", "perplexity"} | asks[suite]
    assert all(value > 0 for key, value in found.items() if key.endswith("bits_per_byte"))


def test_the_suite_of_the_page_is_planned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (ROOT / "docs" / "finetuning.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```yaml\n(.*?)```", page, flags=re.DOTALL)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "letters").mkdir()
    for path in re.findall(r"letters/\S+", block):
        (tmp_path / path).write_text("letter,answer,customer\n")
    (tmp_path / "suite.yaml").write_text(block)
    run = plan_of("suite.yaml").runs[0]
    assert run.problem.tasks == ("orders", "complaints", "thanks")
    assert set(run.problem.contents) == {f"data.{task}" for task in run.problem.tasks}


def test_the_page_names_every_key_of_a_source() -> None:
    page = (ROOT / "docs" / "finetuning.md").read_text(encoding="utf-8")
    assert [name for name in Source.model_fields if f"`{name}`" not in page] == []
