"""Where rows come from and how they are split."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from finetune_parts import (
    FakeHub,
    decoded,
    learned,
)
from places import TESTS
from tiny_models import PAIR, TRAINING, rows, write_rows

from benchmarks.problems.finetune import built_in
from benchmarks.problems.finetune_lm import FinetuneLM
from benchmarks.problems.text.documents import SPLITS

pytestmark = pytest.mark.usefixtures("model_cache")

DATA = TESTS / "data"
SQUAD = {
    "rows": "data.paragraphs.qas",
    "prompt": "{context}\n\nQuestion: {question}\nAnswer:",
    "completion": "answers.0.text",
    "separator": " ",
    "group": "title",
}
PAWSX = {
    "columns": ["first", "second", "label"],
    "where": {"first": "!NS", "second": "!NS"},
    "values": {"label": {"0": "no", "1": "yes"}},
    "prompt": "{first}\n{second}\nThe same?",
    "completion": "label",
    "separator": " ",
    "choices": ["no", "yes"],
}


# ---- sources --------------------------------------------------------------------------------------------------------


def as_table(path: Path, found: list[dict[str, Any]], delimiter: str) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, list(found[0]), delimiter=delimiter, quoting=csv.QUOTE_MINIMAL)
        table.writeheader()
        table.writerows(found)


def test_every_form_of_a_file_gives_the_same_examples(tmp_path: Path) -> None:
    flat = [{**row, "completion": row["completion"].strip()} for row in rows(40)]
    write_rows(tmp_path / "a.jsonl", flat)
    (tmp_path / "a.json").write_text(json.dumps(flat))
    (tmp_path / "a.json.gz").write_bytes(gzip.compress(json.dumps(flat, indent=1).encode()))
    pq.write_table(pa.Table.from_pylist(flat), tmp_path / "a.parquet")
    as_table(tmp_path / "a.csv", flat, ",")
    for row in flat:
        row["prompt"] = row["prompt"].strip()
    as_table(tmp_path / "b.tsv", flat, "\t")
    write_rows(tmp_path / "b.jsonl", flat)
    found = {
        path.name: FinetuneLM(data={"a": str(path)}, source=PAIR, model="tiny", adapt="full").data(0, TRAINING).fingerprint
        for path in tmp_path.iterdir()
    }
    assert len(found) == 7
    first, second = found["a.jsonl"], found["b.jsonl"]
    assert first != second
    assert found == {name: first if name.startswith("a.") else second for name in found}


def test_a_folder_of_texts(tmp_path: Path) -> None:
    for number in range(40):
        (tmp_path / f"{number}.txt").write_text(f"text number {number}\n")
    found = FinetuneLM(data={"a": str(tmp_path)}, source={"text": "text"}, model="tiny", adapt="full")
    found.data(0, TRAINING)
    # The first token has nothing before it by which it could be predicted.
    assert set(learned(found)) <= {f"ext number {number}\n<|endoftext|>" for number in range(40)}


def test_questions_inside_paragraphs_inside_articles() -> None:
    data = {name: str(DATA / "tydiqa" / f"{name}_tydiqa_dev.json.gz") for name in ("bengali", "korean")}
    found = FinetuneLM(data=data, source=SQUAD, model="tiny", adapt="full", max_length=512)
    found.data(0, TRAINING)
    examples = found.facts()["examples"]
    most = {name: min(count, 16) for name, count in (("validation", 16), ("test", 32))}
    assert 50 < examples["bengali"]["train"] < 113 and 150 < examples["korean"]["train"] < 276
    assert examples["korean"]["validation"] <= most["validation"]
    example = found._examples["train"][1][0]
    assert example.text.prompt.count("\n\nQuestion: ") == 1
    answer = decoded(found, example.ids[example.learned])
    assert answer == example.text.answer + "<|endoftext|>"
    assert int(example.sizes[example.learned].sum()) == len(example.text.answer.encode())


def test_labels_in_words_without_placeholder_rows() -> None:
    data = {name: str(DATA / "pawsx" / f"dev-{name}-300.tsv.gz") for name in ("de", "ko")}
    source = {**PAWSX, "metrics": ["choice_accuracy"]}
    found = FinetuneLM(data=data, source=source, model="tiny", adapt="full", max_length=512, test_examples=300)
    found.data(0, TRAINING)
    counts = found.facts()["examples"]
    assert sum(counts["de"].values()) <= 290 and sum(counts["ko"].values()) <= 291
    assert set(learned(found, "de")) == {"no<|endoftext|>", "yes<|endoftext|>"}
    assert not any(example.text.prompt.startswith("NS\n") for examples in found._examples["train"] for example in examples)


def test_data_from_the_hub_is_asked_for_with_config_split_and_revision(hub: FakeHub) -> None:
    source = {**PAIR, "hub": "somebody/some", "revision": "abc", "splits": {"train": "train", "test": "dev"}}
    found = FinetuneLM(source=source, sources={"a": {"config": "x"}, "b": {"config": "y"}}, model="tiny", adapt="full")
    found.data(0, TRAINING)
    assert found.tasks == ("a", "b")
    assert hub.asked == [("somebody/some", config, split, "abc") for config in ("x", "y") for split in ("train", "dev")]
    # The rest is cut from train by hash.
    assert 0 < found.facts()["examples"]["a"]["validation"] < 20
    assert all(example.text.prompt.startswith("def xdev") for example in found._examples["test"][0])
    assert all(example.text.prompt.startswith("def ytrain") for example in found._examples["validation"][1])


# ---- splits ---------------------------------------------------------------------------------------------------------


def numbers(found: FinetuneLM, part: str, task: str) -> set[str]:
    return {example.text.group for example in found._examples[part][found.all_tasks.index(task)]}  # type: ignore[index]


def test_one_exercise_is_in_one_split_in_both_languages() -> None:
    data = {
        name: str(DATA / "mbxp" / f"{file}_release_v1.2.jsonl.gz") for name, file in (("cpp", "mbcpp"), ("ruby", "mbrbp"))
    }
    source = {"prompt": "prompt", "completion": "canonical_solution", "group": "task_id"}
    found = FinetuneLM(
        data=data, source=source, model="tiny", adapt="full", max_length=512, validation_examples=400, test_examples=400
    )
    found.data(0, TRAINING)
    assert sum(found.facts()["examples"]["cpp"].values()) == 773
    for part, other in (("train", "validation"), ("train", "test"), ("validation", "test")):
        assert not numbers(found, part, "cpp") & numbers(found, other, "ruby")
        assert not numbers(found, part, "cpp") & numbers(found, other, "cpp")
    shared = numbers(found, "validation", "cpp") & numbers(found, "validation", "ruby")
    assert len(shared) > 30


def test_caps_take_the_same_examples_wherever_they_stand(tmp_path: Path) -> None:
    one = write_rows(tmp_path / "one.jsonl", rows(60))
    other = write_rows(tmp_path / "other.jsonl", rows(60)[::-1])
    source = {**PAIR, "most": {"train": 7, "validation": 2}}
    both = [FinetuneLM(data={"a": path}, source=source, model="tiny", adapt="full") for path in (one, other)]
    fingerprints = {each.data(0, TRAINING).fingerprint for each in both}
    assert len(fingerprints) == 1
    assert both[0].facts()["examples"]["a"]["train"] == 7
    assert both[0].facts()["examples"]["a"]["validation"] == 2


def given_splits(tmp_path: Path, **more: Any) -> FinetuneLM:
    """Test holds five of the training examples."""
    found = rows(40)
    paths = {
        name: write_rows(tmp_path / f"{name}.jsonl", part)
        for name, part in (("train", found[:20]), ("validation", found[20:30]), ("test", found[15:20] + found[30:]))
    }
    return FinetuneLM(data={"a": paths}, source={**PAIR, **more}, model="tiny", adapt="full")


def test_an_example_in_two_splits_is_refused_or_left_out_of_training(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="every example of task 'a' in one split, found 5 of train in another one too"):
        given_splits(tmp_path).data(0, TRAINING)
    found = given_splits(tmp_path, duplicates="drop")
    found.data(0, TRAINING)
    assert found.facts()["examples"]["a"] == {"train": 15, "validation": 10, "test": 15}


# ---- built-in -------------------------------------------------------------------------------------------------------


def test_built_in_examples_are_runs_of_whole_lines() -> None:
    text = "".join(f"line {number} {'x' * (number % 60)}\n" for number in range(100))
    found = list(built_in.cut(text))
    assert len(found) > 5
    assert text.startswith("".join(piece.text for example in found for piece in example.pieces))
    for example in found:
        prompt, completion = (piece.text for piece in example.pieces)
        assert prompt.endswith("\n") and completion.endswith("\n")
        assert len(prompt) >= built_in.PROMPT_BYTES and len(completion) >= built_in.COMPLETION_BYTES
        assert (example.prompt, example.answer) == (prompt, completion)


def test_built_in_tasks_have_unequal_amounts() -> None:
    found = FinetuneLM(model="tiny", adapt="full", max_length=512)
    found.data(0, TRAINING)
    counts = found.facts()["examples"]
    assert {task: each["train"] for task, each in counts.items()} == built_in.EXAMPLES
    assert all((each["validation"], each["test"]) == (16, 32) for each in counts.values())


def test_a_built_in_task_may_have_another_amount() -> None:
    found = FinetuneLM(model="tiny", adapt="full", max_length=512, sources={"yaml": {"most": {"train": 5}}})
    found.data(0, TRAINING)
    trains = {task: each["train"] for task, each in found.facts()["examples"].items()}
    assert trains == {**built_in.EXAMPLES, "yaml": 5}


@pytest.mark.slow
def test_no_built_in_example_is_in_two_splits() -> None:
    """Where text is repeated in the files, as in type stubs, the training example is left out."""
    everything = {"train": 10_000, "validation": 10_000, "test": 10_000}
    found = FinetuneLM(model="tiny", adapt="full", max_length=512, source={"most": everything})
    found.data(0, TRAINING)
    doubled = 0
    for task, place in zip(found.all_tasks, range(5), strict=True):
        train, validation, test = ({e.text.content for e in found._examples[part][place]} for part in SPLITS)
        assert not (train & validation or train & test or validation & test)
        doubled += sum(map(len, built_in.languages((task,))[task].values())) > len(train | validation | test)
    assert doubled, "nothing was left out, so this shows nothing"
