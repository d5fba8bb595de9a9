"""From rows to examples in words: pieces of text, some of them to be learned.

Text of the data stays text whatever it spells: the special tokens of a chat template come from the template alone.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from benchmarks.errors import one_line
from benchmarks.problems.finetune import OWNER
from benchmarks.problems.finetune.options import Source
from benchmarks.problems.finetune.sources import Row, field_of

FIELD = re.compile(r"\{\{|\}\}|\{([^{}]+)\}")
"""Of a template: a brace, written twice, or the name of a field in braces."""
MARK = "\ufdd0{}\ufdd1"
"""Stands for a text in a rendered chat template; these code points are set aside for a program's own use."""
MARKED = re.compile("\ufdd0(\\d+)\ufdd1")


@dataclass(frozen=True)
class Piece:
    """A run of text."""

    text: str
    learned: bool
    """Whether its tokens are predicted in training."""
    template: bool = False
    """Whether it is part of a chat template, in which special tokens are meant."""


@dataclass(frozen=True)
class Written:
    """An example in words."""

    pieces: tuple[Piece, ...]
    group: str
    """What decides its split."""
    ends: bool = True
    """Whether the end-of-text token follows, which a chat template writes itself."""
    prompt: str = ""
    answer: str = ""
    """The completion, where there is one."""
    test: str = ""
    """Text of the program that checks a completion."""

    @property
    def content(self) -> str:
        """Hash of all that is read and learned."""
        parts = [[piece.text, piece.learned, piece.template] for piece in self.pieces]
        return hashlib.sha256(json.dumps([parts, self.ends]).encode()).hexdigest()


def written(task: str, rows: Sequence[Row], source: Source, tokenizer: Any) -> list[Written]:
    """The examples of rows, without those in which a text is null. Raises ValueError of one line."""
    if (source.chat or source.messages is not None) and not tokenizer.chat_template:
        raise ValueError(
            f"{OWNER}: expected a tokenizer with a chat template for task {task!r}, found none: "
            "take prompt and completion without chat, or an instruction-tuned model"
        )
    return [example for row in rows if (example := _example(task, row, source, tokenizer)) is not None]


def _example(task: str, row: Row, source: Source, tokenizer: Any) -> Written | None:
    whole = _texts(task, row, source)
    if whole is None:
        return None
    in_chat = source.chat or source.messages is not None
    pieces = tuple(_pieces(task, row, whole, source, tokenizer))
    if not any(piece.learned for piece in pieces):
        raise ValueError(f"{OWNER}: expected an assistant's message in rows of task {task!r}, found none in {_short(row)}")
    # What a user asks for in a chat is no beginning of a program.
    prompt = "" if in_chat else whole.get("prompt", "")
    example = Written(pieces, "", not in_chat, prompt, whole.get("completion", ""), whole.get("test", ""))
    key = example.content if source.group is None else str(field_of(task, row, source.group)).rsplit("/", 1)[-1]
    return replace(example, group=key)


def _texts(task: str, row: Row, source: Source) -> dict[str, str] | None:
    """The texts of a row by what they are; None where one is null."""
    templates = {name: getattr(source, name) for name in ("prompt", "completion", "text", "test")}
    texts = {name: _text(task, row, template, source.values) for name, template in templates.items() if template is not None}
    if not texts and source.messages is None:
        raise ValueError(
            f"{OWNER}: expected prompt and completion, messages or text for task {task!r}, "
            f"found fields {', '.join(map(str, row))}"
        )
    for name in ("completion", "text"):
        if texts.get(name) == "":
            raise ValueError(
                f"{OWNER}: expected a {name} in every row of task {task!r}, found an empty one in {_short(row)}"
            )
    whole = {name: text for name, text in texts.items() if text is not None}
    return whole if len(whole) == len(texts) else None


def _pieces(task: str, row: Row, texts: Mapping[str, str], source: Source, tokenizer: Any) -> Iterator[Piece]:
    learn_all = source.train_on == "all"
    if source.messages is not None:
        yield from _chat(_messages(task, field_of(task, row, source.messages), row), learn_all, tokenizer)
    elif source.chat:
        yield from _chat(_turns(texts["prompt"], texts["completion"]), learn_all, tokenizer)
    elif "text" in texts:
        yield Piece(texts["text"], True)
    else:
        yield Piece(texts["prompt"] + source.separator, learn_all)
        yield Piece(texts["completion"], True)


def _text(task: str, row: Row, template: str, values: Mapping[str, Mapping[str, str]]) -> str | None:
    """A field, or a template filled with fields; None where one of them is null."""
    is_template = "{" in template
    names = [name for name in FIELD.findall(template) if name] if is_template else [template]
    found = {name: _value(task, row, name, values) for name in names}
    if None in found.values():
        return None
    if not is_template:
        return found[template]
    return FIELD.sub(lambda match: str(found[match.group(1)]) if match.group(1) else match.group()[0], template)


def _value(task: str, row: Row, name: str, values: Mapping[str, Mapping[str, str]]) -> str | None:
    value = field_of(task, row, name)
    if value is None:
        return None
    text = "\n".join(map(str, value)) if isinstance(value, list) else str(value)
    if name not in values:
        return text
    if text not in values[name]:
        raise ValueError(
            f"{OWNER}: expected {name!r} of task {task!r} to be one of {', '.join(values[name])}, found {text!r}"
        )
    return values[name][text]


def _short(row: Row) -> str:
    return json.dumps(row, default=str, ensure_ascii=False)[:100]


# ---- chats -----------------------------------------------------------------------------------------------------------


def _turns(prompt: str, completion: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": prompt}, {"role": "assistant", "content": completion}]


def _messages(task: str, found: Any, row: Row) -> list[dict[str, str]]:
    if found is not None and not (
        isinstance(found, list)
        and all(isinstance(one, Mapping) and isinstance(one.get("role"), str) and "content" in one for one in found)
    ):
        raise ValueError(f"{OWNER}: expected messages of task {task!r} as a list of role and content, found {_short(row)}")
    return [{"role": one["role"], "content": str(one["content"])} for one in found or ()]


def _chat(messages: Sequence[Mapping[str, str]], learn_all: bool, tokenizer: Any) -> Iterator[Piece]:
    """The rendered messages; what an assistant says, with the end of its turn, is learned."""
    texts = [message["content"] for message in messages]
    marked = [{"role": one["role"], "content": MARK.format(place)} for place, one in enumerate(messages)]
    done = ""
    for place, message in enumerate(messages):
        if message["role"] == "assistant":
            before = _render(tokenizer, marked[:place], True)
            yield from _unmarked(_after(before, done), texts, learn_all)
            done = _render(tokenizer, marked[: place + 1], False)
            yield from _unmarked(_after(done, before), texts, True)
    whole = _render(tokenizer, marked, False)
    yield from _unmarked(_after(whole, done), texts, learn_all)


def _after(whole: str, beginning: str) -> str:
    if not whole.startswith(beginning):
        raise ValueError(
            f"{OWNER}: expected a chat template that only adds to earlier messages, found one that changes them"
        )
    return whole[len(beginning) :]


def _render(tokenizer: Any, messages: Sequence[Mapping[str, str]], answer: bool) -> str:
    # The templates are the models' own programs and raise what they like.
    try:
        return str(tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=answer))
    except Exception as error:
        raise ValueError(f"{OWNER}: expected messages that the chat template takes, found: {one_line(error)}") from error


def _unmarked(rendered: str, texts: Sequence[str], learned: bool) -> Iterator[Piece]:
    for place, part in enumerate(MARKED.split(rendered)):
        text = texts[int(part)] if place % 2 else part
        if text:
            yield Piece(text, learned, template=place % 2 == 0)
