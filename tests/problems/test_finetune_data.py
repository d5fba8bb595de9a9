"""The data of finetune_lm: where rows come from, how they become examples, splits, and the line that each mistake gets."""

from __future__ import annotations

import csv
import gzip
import json
import sys
import types
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from places import TESTS
from tiny_models import PAIR, TRAINING, problem, rows, training, write_model, write_rows

from benchmarks.problems.finetune import built_in
from benchmarks.problems.finetune.examples import Tokens
from benchmarks.problems.finetune.formatting import written
from benchmarks.problems.finetune.models import Pretrained
from benchmarks.problems.finetune.options import Source
from benchmarks.problems.finetune_lm import FinetuneLM
from benchmarks.problems.text.documents import SPLITS

DATA = TESTS / "data"
SQUAD = {
    "rows": "data.paragraphs.qas",
    "prompt": "{context}\n\nQuestion: {question}\nAnswer:",
    "completion": "answers.0.text",
    "separator": " ",
    "group": "title",
}
HUB = {"hub": "x/y"}
PAWSX = {
    "columns": ["first", "second", "label"],
    "where": {"first": "!NS", "second": "!NS"},
    "values": {"label": {"0": "no", "1": "yes"}},
    "prompt": "{first}\n{second}\nThe same?",
    "completion": "label",
    "separator": " ",
    "choices": ["no", "yes"],
}


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    patch = pytest.MonkeyPatch()
    patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
    patch.setenv("HF_HUB_OFFLINE", "1")
    yield
    patch.undo()


def tokenizer() -> Any:
    return Pretrained("tiny", None, "float32", "sdpa", None).tokenizer()


def decoded(found: FinetuneLM, ids: Any) -> str:
    assert found._tokens is not None
    return str(found._tokens.tokenizer.decode(list(ids)))


def learned(found: FinetuneLM, task: str = "a") -> list[str]:
    """What the training examples of a task teach."""
    examples = found._examples["train"][found.all_tasks.index(task)]
    return [decoded(found, example.ids[example.learned]) for example in examples]


# ---- sources ---------------------------------------------------------------------------------------------------------


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


class FakeHub:
    """In the place of the package datasets."""

    def __init__(self) -> None:
        self.asked: list[tuple[Any, ...]] = []

    def load_dataset(self, hub: str, config: str | None, *, split: str, revision: str | None) -> list[dict[str, Any]]:
        self.asked.append((hub, config, split, revision))
        if hub == "nobody/nothing":
            raise FileNotFoundError("Couldn't find 'nobody/nothing'\non the hub")
        return rows(60, f"{config}{split}")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    fake, module = FakeHub(), types.ModuleType("datasets")
    module.load_dataset = fake.load_dataset  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "datasets", module)
    return fake


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


# ---- splits ----------------------------------------------------------------------------------------------------------


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


# ---- words and tokens ------------------------------------------------------------------------------------------------


def example_of(source: Mapping[str, Any], row: Mapping[str, Any], max_length: int = 500) -> Any:
    own = tokenizer()
    texts = written("a", [row], Source(**source), own)
    (found,) = Tokens(own, max_length).examples("a", texts)
    return found


def shown(example: Any) -> list[tuple[str, bool]]:
    """Runs of tokens with the same mark, as text."""
    own, runs = tokenizer(), list[tuple[list[int], bool]]()
    for number, mark in zip(example.ids.tolist(), example.learned.tolist(), strict=True):
        if not runs or runs[-1][1] != mark:
            runs.append(([], mark))
        runs[-1][0].append(number)
    return [(own.decode(ids), mark) for ids, mark in runs]


def test_the_completion_and_its_end_are_learned() -> None:
    example = example_of({**PAIR, "separator": "->"}, {"prompt": "ä b", "completion": "ç d"})
    assert shown(example) == [("ä b->", False), ("ç d<|endoftext|>", True)]
    assert example.sizes.tolist() == [2, 0, *[1] * 4, 2, 0, 1, 1, 0]
    assert decoded_opening(example) == "ä b->"


def decoded_opening(example: Any) -> str:
    return str(tokenizer().decode(example.opening.tolist()))


def test_all_is_learned_but_the_first_token_where_train_on_says_so() -> None:
    example = example_of({**PAIR, "train_on": "all"}, {"prompt": "ab", "completion": "cd"})
    assert shown(example) == [("a", False), ("bcd<|endoftext|>", True)]


def test_text_that_spells_a_special_token_stays_text() -> None:
    example = example_of(PAIR, {"prompt": "a<|endoftext|>", "completion": "<|im_end|>"})
    assert len(example.ids) == len("a<|endoftext|><|im_end|>") + 1
    assert (example.ids >= 256).sum() == 1 and example.ids[-1] == 256
    assert example.sizes.sum() == len("a<|endoftext|><|im_end|>")


CHAT = [
    {"role": "system", "content": "be short"},
    {"role": "user", "content": "one<|im_end|>"},
    {"role": "assistant", "content": "two"},
    {"role": "user", "content": "three"},
    {"role": "assistant", "content": "four"},
]


def test_a_chat_teaches_what_the_assistant_says() -> None:
    example = example_of({"messages": "turns"}, {"turns": CHAT})
    opening = "<|im_start|>system\nbe short<|im_end|>\n<|im_start|>user\none<|im_end|><|im_end|>\n<|im_start|>assistant\n"
    assert shown(example) == [
        (opening, False),
        ("two<|im_end|>\n", True),
        ("<|im_start|>user\nthree<|im_end|>\n<|im_start|>assistant\n", False),
        ("four<|im_end|>\n", True),
    ]
    # The template's own special tokens, and none of what a user spelled.
    assert (example.ids >= 256).sum() == 10
    assert example.sizes[example.learned].sum() == len("twofour")


def test_prompt_and_completion_as_a_chat() -> None:
    example = example_of({**PAIR, "chat": True}, {"prompt": "hi", "completion": "ho"})
    assert shown(example)[-1] == ("ho<|im_end|>\n", True)
    assert shown(example)[0][0].endswith("hi<|im_end|>\n<|im_start|>assistant\n")


def test_a_model_s_opening_token_comes_first(tmp_path: Path) -> None:
    own = Pretrained(write_model(tmp_path / "m", begins=True), None, "float32", "sdpa", None).tokenizer()
    (example,) = Tokens(own, 100).examples("a", written("a", [{"prompt": "x", "completion": "y"}], Source(**PAIR), own))
    assert example.ids[0] == own.bos_token_id and example.ids[-1] == own.eos_token_id
    assert own.decode(example.ids[example.learned]) == "y</s>"


@pytest.mark.parametrize(
    ("length", "opening", "learns", "cuts"),
    [
        (11, "abcdef", "wxyz<|endoftext|>", (0, 0)),
        (8, "def", "wxyz<|endoftext|>", (1, 0)),
        (6, "f", "wxyz<|endoftext|>", (1, 0)),
        (4, "f", "wxy", (1, 1)),
    ],
)
def test_long_examples_lose_the_beginning_of_the_prompt_first(
    length: int, opening: str, learns: str, cuts: tuple[int, int]
) -> None:
    own = tokenizer()
    tokens = Tokens(own, length)
    (example,) = tokens.examples("a", written("a", [{"prompt": "abcdef", "completion": "wxyz"}], Source(**PAIR), own))
    assert shown(example) == [(opening, False), (learns, True)]
    assert (tokens.cuts["a"].prompts, tokens.cuts["a"].completions, tokens.cuts["a"].examples) == (*cuts, 1)


def test_templates_take_fields_of_any_name_and_braces_written_twice() -> None:
    row = {"my field": "x", "more": {"deep": ["y", "z"]}, "prompt": "p", "completion": "c"}
    example = example_of({"prompt": "{{{my field}}} {more.deep.1} {more.deep}", "completion": "completion"}, row)
    assert shown(example)[0] == ("{x} z y\nz", False)
    with pytest.raises(ValueError, match="with the field ' a; ', found my field, more, prompt, completion"):
        example_of({"prompt": "int main() { a; }", "completion": "completion"}, row)


def test_rows_with_a_null_are_left_out() -> None:
    assert written("a", [{"prompt": "p", "completion": None}], Source(**PAIR), tokenizer()) == []


# ---- built-in --------------------------------------------------------------------------------------------------------


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


# ---- mistakes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"adapt": "lorra"}, ["adapt", "mapping", "'lorra'"]),
        ({"adapt": {"lora": {}, "full": True}}, ["adapt", "exactly one of lora, full and last_layers"]),
        ({"adapt": {"lora": {"rank": 0}}}, ["adapt.lora.rank", "greater than or equal to 1", "found 0"]),
        ({"adapt": {"lora": {"ranks": 4}}}, ["adapt.lora.ranks", "did you mean 'rank'?"]),
        ({"adapt": {"last_layers": 2.5}}, ["adapt.last_layers", "integer", "2.5"]),
        ({"sampling": "often"}, ["sampling", "equal, proportional or {temperature: T}", "'often'"]),
        ({"sampling": {"temperature": 0}}, ["sampling", "above 0", "{'temperature': 0}"]),
        ({"dtype": "float16"}, ["dtype", "float32, bfloat16", "'float16'"]),
        ({"quantization": "8bit"}, ["quantization", "4bit", "'8bit'"]),
        ({"max_length": 1}, ["max_length", "at least 2", "found 1"]),
        ({"adapt": "full", "cache_frozen": True}, ["cache_frozen", "frozen layers", "full"]),
        ({"packed": True, "attn_implementation": "flash_attention_2"}, ["sdpa or eager", "flash_attention_2"]),
        ({"source": {"prompts": "x"}}, ["source.prompts", "did you mean 'prompt'?"]),
        ({"source": {"prompt": "x"}}, ["source", "prompt and completion together"]),
        ({"source": {"text": "x", "messages": "y"}}, ["one form"]),
        ({"sources": {"a": {**HUB, "text": "x", "metrics": ["f1"]}}}, ["sources.a", "prompt and completion for metrics"]),
        ({"sources": {"a": {**HUB, **PAIR, "metrics": ["f2"]}}}, ["sources.a.metrics", "'f2'"]),
        ({"sources": {"a": {**HUB, **PAIR, "metrics": ["choice_accuracy"]}}}, ["sources.a", "at least two choices"]),
        ({"sources": {"a": {**HUB, **PAIR, "metrics": ["pass_at_1"]}}}, ["sources.a", "a test for pass_at_1"]),
        ({"sources": {"a": {**HUB, **PAIR, "metrics": ["pass_at_1"], "test": "test"}}}, ["run_code: true", "'a'"]),
        ({"sources": {"a": {**HUB, "splits": {"test": "dev"}}}}, ["splits with train"]),
        ({"tasks": ["b"], "sources": {"a": {"hub": "x/y"}}}, ["expected tasks among a", "'b'"]),
        ({"sources": {"pithon": {"most": {"train": 2}}}}, ["sources for tasks among python, cpp, ", "'pithon'"]),
        ({"sources": {"python": 3}}, ["sources.python as a mapping", "3"]),
        ({"data": {"a": "x"}, "sources": {"b": PAIR}}, ["hub id in sources for task 'b', found neither"]),
        ({"data": {"a": "x"}, "source": {"hub": "x/y"}}, ["for task 'a', found both"]),
    ],
)  # fmt: skip
def test_options_that_cannot_be_used_get_one_line(options: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ValueError, match=r"^finetune_lm: ") as told:
        FinetuneLM(**options)
    assert "\n" not in str(told.value)
    assert [word for word in words if word not in str(told.value)] == [], str(told.value)


@pytest.mark.parametrize(
    ("row", "source", "words"),
    [
        ({"prompt": "p", "completion": ""}, PAIR, ["expected a completion in every row", "an empty one", '"prompt": "p"']),
        ({"prompt": "p", "answer": "x"}, PAIR, ["the field 'completion'", "found prompt, answer"]),
        ({"prompt": "p", "completion": {"a": 1}}, {**PAIR, "completion": "completion.b"}, ["'completion.b'", "found a"]),
        ({"prompt": "p", "answer": "x"}, {}, ["prompt and completion, messages or text", "found fields prompt, answer"]),
        ({"turns": [{"role": "user", "content": "x"}]}, {"messages": "turns"}, ["an assistant's message", "found none"]),
        ({"turns": "hello"}, {"messages": "turns"}, ["list of role and content"]),
        ({"prompt": "p", "completion": "2"}, {**PAIR, "values": {"completion": {"0": "no"}}}, ["one of 0", "found '2'"]),
    ],
)  # fmt: skip
def test_rows_that_cannot_be_used_get_one_line(
    tmp_path: Path, row: dict[str, Any], source: dict[str, Any], words: list[str]
) -> None:
    path = write_rows(tmp_path / "a.jsonl", [row] * 40)
    found = FinetuneLM(data={"a": path}, source=source, model="tiny", adapt="full", max_length=500)
    with pytest.raises(ValueError, match=r"^finetune_lm: ") as told:
        found.data(0, TRAINING)
    assert "\n" not in str(told.value)
    assert [word for word in words if word not in str(told.value)] == [], str(told.value)


def test_an_example_of_which_nothing_is_left_to_learn_gets_one_line() -> None:
    """A text of one token, where the length ends before the token after it."""
    own = tokenizer()
    texts = written("a", [{"text": "x"}], Source(text="text"), own)
    with pytest.raises(ValueError, match=r"tokens to learn in every example of task 'a', found none .* of 1 tokens all are"):
        Tokens(own, 1).examples("a", texts)


def test_files_that_cannot_be_read_get_one_line(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"prompt": 1}\n{')
    (tmp_path / "a.csv").write_text("prompt,completion\n1,2\n3\n")
    (tmp_path / "a.parquet").write_text("no parquet")
    (tmp_path / "a.txt").write_text("text")
    for name, words in (
        ("a.jsonl", "expected JSON in line 2"),
        ("a.csv", r"expected 2 columns \(prompt, completion\) in line 3"),
        ("a.parquet", "expected to read data of task 'a'"),
        ("a.txt", r"a folder or a file named \*.jsonl"),
    ):
        found = FinetuneLM(data={"a": str(tmp_path / name)}, source=PAIR, model="tiny", adapt="full")
        with pytest.raises(ValueError, match=words) as told:
            found.data(0, TRAINING)
        assert "\n" not in str(told.value)
    with pytest.raises(ValueError, match=r"expected a folder or a file for data.a, found nothing at .*/none"):
        FinetuneLM(data={"a": str(tmp_path / "none")}, model="tiny").files()


def test_a_hub_that_does_not_answer_gets_one_line(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    found = FinetuneLM(source={**PAIR, "hub": "nobody/nothing"}, sources={"a": {}}, model="tiny", adapt="full")
    with pytest.raises(ValueError, match=r"'nobody/nothing' .*, found: .*Couldn't find 'nobody/nothing' on the hub$"):
        found.data(0, TRAINING)
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ValueError, match=r"expected the package datasets .*pip install 'mtl-weighting\[finetune\]'"):
        found.data(0, TRAINING)


def test_fewer_examples_than_a_batch(tmp_path: Path) -> None:
    found = problem(tmp_path, {"a": 40, "b": 40}, source={"most": {"train": 3}})
    with pytest.raises(ValueError, match="at least batch_size = 4 training examples of task 'a', found 3"):
        found.data(0, training(batch_size=4))


def test_no_examples_in_a_split(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="examples for every split of task 'a', found none for validation of 1 in all"):
        problem(tmp_path, {"a": 1}).data(0, TRAINING)
    with pytest.raises(ValueError, match="expected rows of task 'a', found none for train of 40 read"):
        problem(tmp_path, {"a": 40}, source={"where": {"id": "Y/*"}}).data(0, TRAINING)


def test_no_chat_template(tmp_path: Path) -> None:
    found = problem(tmp_path, {"a": 40}, model=write_model(tmp_path / "m"), source={"chat": True})
    with pytest.raises(ValueError, match="a tokenizer with a chat template for task 'a', found none"):
        found.data(0, TRAINING)


def test_a_sequence_longer_than_the_model_s(tmp_path: Path) -> None:
    found = problem(tmp_path, {"a": 40}, model=write_model(tmp_path / "m"), max_length=129)
    with pytest.raises(ValueError, match="max_length to be at most the model's 128, found 129"):
        found.data(0, TRAINING)


def test_the_text_of_another_character_set_keeps_its_bytes() -> None:
    example = example_of(PAIR, {"prompt": "질문", "completion": "군사령관"})
    assert example.sizes[example.learned].sum() == len("군사령관".encode())
    assert example.sizes[~example.learned].sum() == len("질문".encode())
