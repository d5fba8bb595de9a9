"""The nested options of the problem, checked on creation: every mistake is one line that names the place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from benchmarks.contract import Split
from benchmarks.errors import unknown
from benchmarks.problems.finetune import OWNER

TaskMetric = Literal["exact_match", "f1", "choice_accuracy", "pass_at_1"]
Count = Annotated[int, Field(ge=1)]


class _Option(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class LoRA(_Option):
    """Low-rank adapters beside frozen linear layers (Hu et al., ICLR 2022), made by peft."""

    rank: Count = 16
    alpha: Annotated[float, Field(gt=0)] | None = None
    """The adapter's output is scaled by alpha / rank; none: twice the rank."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    target_modules: list[str] | Literal["all-linear"] = "all-linear"
    """Names of linear layers, such as ``q_proj``; ``all-linear``: all of a layer."""
    layers: Count | None = None
    """The last so many layers of the model; none: all."""


class Adapt(_Option):
    """What is trained: exactly one of the three."""

    lora: LoRA | None = None
    full: bool = False
    """All parameters."""
    last_layers: Count | None = None
    """The parameters of the last so many layers, and of the norm after them."""

    @model_validator(mode="after")
    def _one_of_them(self) -> Adapt:
        if (self.lora is not None) + self.full + (self.last_layers is not None) != 1:
            raise ValueError("exactly one of lora, full and last_layers")
        return self


class Source(_Option):
    """Where the examples of a task come from, and how a row becomes one.

    A text of a row is a field's name, with dots into what is nested (``answers.0.text``), or a template with such names
    in braces (``"{context}\\n\\n{question}"``; a brace itself is written twice). Rows in which a used
    field is null are left out.
    """

    hub: str | None = None
    """Id of a data set on the hub, for tasks without a path in ``data``."""
    config: str | None = None
    revision: str | None = None
    splits: dict[Split, str] | None = None
    """Our split -> that of the hub's data set; one that is not named is cut from ``train`` by hash. None: all from train."""
    rows: str | None = None
    """Where the rows are in a JSON file, as ``data.paragraphs.qas``: fields of outer objects are those of inner ones too."""
    columns: list[str] | None = None
    """Names of the columns of a CSV or TSV file without a header."""
    where: dict[str, str] = {}
    """Field -> pattern with * that its value must match; ``!`` before it: must not."""
    values: dict[str, dict[str, str]] = {}
    """Field -> value -> the text that stands for it, as labels in words."""
    prompt: str | None = None
    completion: str | None = None
    text: str | None = None
    messages: str | None = None
    """A field with a list of {role, content}, made a text by the model's chat template."""
    chat: bool = False
    """Whether prompt and completion are a user's and an assistant's message in the chat template."""
    separator: str = ""
    """What stands between prompt and completion; some models want a space, a line end or a token of their own text."""
    train_on: Literal["completion", "all"] = "completion"
    choices: list[str] = []
    """Texts of the possible completions, for ``choice_accuracy``."""
    test: str | None = None
    """Text of the program that checks a completion, for ``pass_at_1``."""
    group: str | None = None
    """Field whose value, after its last slash, decides the split; none: the content. One exercise that has the same value in
    all languages is in one split in all of them."""
    duplicates: Literal["refuse", "drop"] = "refuse"
    """What happens to a training example that is in validation or test too, or one of validation that is in test."""
    most: dict[Split, Count] = {}
    """Caps of the examples of a split."""
    metrics: list[TaskMetric] = []
    """What is measured beside bits per byte and perplexity."""

    @model_validator(mode="after")
    def _one_form(self) -> Source:
        pair = self.prompt is not None or self.completion is not None
        if pair and (self.prompt is None or self.completion is None):
            raise ValueError("prompt and completion together")
        if pair + (self.text is not None) + (self.messages is not None) > 1:
            raise ValueError("one form: prompt and completion, messages, or text")
        if self.splits is not None and "train" not in self.splits:
            raise ValueError("splits with train among them")
        if "choice_accuracy" in self.metrics and len(self.choices) < 2:
            raise ValueError("at least two choices for choice_accuracy")
        if "pass_at_1" in self.metrics and self.test is None:
            raise ValueError("a test for pass_at_1")
        if self.metrics and not pair:
            raise ValueError("prompt and completion for metrics of whole answers")
        return self


Option = TypeVar("Option", bound=_Option)


def read(kind: type[Option], value: object, place: str) -> Option:
    """The option at a place, checked. Raises ValueError of one line."""
    if not isinstance(value, Mapping):
        raise ValueError(f"{OWNER}: expected {place} as a mapping, found {value!r}")
    try:
        return kind.model_validate(dict(value))
    except ValidationError as error:
        first = error.errors()[0]
        names = [str(part) for part in first["loc"] if "[" not in str(part)]
        raise ValueError(f"{OWNER}: {'.'.join([place, *names])}: {_sentence(kind, dict(first))}") from None


def _sentence(kind: type[_Option], first: Mapping[str, Any]) -> str:
    if first["type"] == "extra_forbidden":
        inner = LoRA if len(first["loc"]) > 1 and first["loc"][0] == "lora" else kind
        return unknown("key", first["loc"][-1], inner.model_fields)
    message = first["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    return f"expected {message[0].lower()}{message[1:]}, found {first['input']!r}"


def adapt_of(value: object) -> Adapt:
    """``full``, ``lora``, or a mapping with ``lora`` or ``last_layers``. Raises ValueError of one line."""
    short: Mapping[object, object] = {"full": {"full": True}, "lora": {"lora": {}}}
    return read(Adapt, short.get(value, value) if isinstance(value, str) else value, "adapt")


def temperature_of(sampling: object) -> float:
    """T of the shares n^(1/T) in which tasks are drawn: 1 is proportional to their examples n, infinity equal."""
    if sampling == "equal":
        return float("inf")
    if sampling == "proportional":
        return 1.0
    value = sampling.get("temperature") if isinstance(sampling, Mapping) and len(sampling) == 1 else None
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        raise ValueError(
            f"{OWNER}: expected sampling to be equal, proportional or {{temperature: T}} with T above 0, found {sampling!r}"
        )
    return float(value)
