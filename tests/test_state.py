"""A method's state survives what is done to the model around it, and no step waits for a device."""

from __future__ import annotations

import copy
import multiprocessing
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from safetensors.torch import load_file, save_file
from scripts import SETTING_IDS, SETTINGS, Script, after_step, at_start, before_step, go_on, make, run, script
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import PretrainedConfig, PreTrainedModel

import weighting
from weighting import Needs, Observation, Weighter

every_setting = pytest.mark.parametrize(("name", "more"), SETTINGS, ids=SETTING_IDS)


class Model(nn.Module):
    """A model with a weighter inside."""

    def __init__(self, weighter: Weighter) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)
        self.weighter = weighter


def half_way(name: str, more: dict[str, Any], *, batch_shape: tuple[int, ...] = ()) -> tuple[Weighter, Weighter, Script]:
    """A method after 20 of 40 steps, its twin, and the steps to come."""
    shown = script(3, 40, absent=True, batch_shape=batch_shape)
    weighter, twin = (make(name, batch_shape=batch_shape, **more) for _ in range(2))
    for each in (weighter, twin):
        run(each, Script(shown.first, shown.steps[:20]))
    return weighter, twin, Script(shown.first, shown.steps[20:])


def through_torch(weighter: Weighter, folder: Path, fresh: Weighter) -> Weighter:
    torch.save(weighter.state_dict(), folder / "state.pt")
    fresh.load_state_dict(torch.load(folder / "state.pt", weights_only=True))
    return fresh


def through_safetensors(weighter: Weighter, folder: Path, fresh: Weighter) -> Weighter:
    save_file(weighter.state_dict(), folder / "state.safetensors")
    fresh.load_state_dict(load_file(folder / "state.safetensors"))
    return fresh


def cast_to(dtype: torch.dtype) -> Callable[[Weighter, Path, Weighter], Weighter]:
    def change(weighter: Weighter, folder: Path, fresh: Weighter) -> Weighter:
        return Model(weighter).to(dtype).weighter

    return change


SURVIVED: Mapping[str, Callable[[Weighter, Path, Weighter], Weighter]] = {
    "torch.save": through_torch,
    "safetensors": through_safetensors,
    "deepcopy": lambda weighter, folder, fresh: copy.deepcopy(weighter),
    "pickle": lambda weighter, folder, fresh: cast(Weighter, pickle.loads(pickle.dumps(weighter))),
    "bfloat16": cast_to(torch.bfloat16),
    "half": cast_to(torch.float16),
    "cpu": lambda weighter, folder, fresh: Model(weighter).to("cpu").weighter,
    "meta": lambda weighter, folder, fresh: Model(weighter).to("meta").weighter,
    "start again": lambda weighter, folder, fresh: started_again(weighter),
}


def started_again(weighter: Weighter) -> Weighter:
    weighter.start(at_start(weighter, script(3, 1, seed=9).first))
    return weighter


@pytest.mark.parametrize("way", SURVIVED)
@every_setting
def test_goes_on_as_if_nothing_had_happened(name: str, more: dict[str, Any], way: str, tmp_path: Path) -> None:
    weighter, twin, rest = half_way(name, more)
    changed = SURVIVED[way](weighter, tmp_path, make(name, **more))
    assert torch.equal(go_on(changed, rest.steps), go_on(twin, rest.steps))
    assert {value.dtype for value in changed.buffers() if value.is_floating_point()} <= {torch.float64}
    assert not any(value.is_meta for value in changed.buffers())


@every_setting
def test_starting_again_after_a_resume_changes_nothing(name: str, more: dict[str, Any], tmp_path: Path) -> None:
    weighter, twin, rest = half_way(name, more)
    resumed = started_again(through_torch(weighter, tmp_path, make(name, **more)))
    assert torch.equal(go_on(resumed, rest.steps), go_on(twin, rest.steps))


@every_setting
def test_reset_is_a_fresh_start(name: str, more: dict[str, Any]) -> None:
    weighter, _, _ = half_way(name, {**more, "prior": [1.0, 2.0, 3.0]})
    weighter.reset()
    assert not weighter.guards_taken()
    shown = script(3, 40, seed=3)
    assert torch.equal(run(weighter, shown), run(make(name, prior=[1.0, 2.0, 3.0], **more), shown))


def test_reset_follows_a_cast() -> None:
    weighter = weighting.create("famo", 3).float()
    weighter.reset()
    assert {value.dtype for value in weighter.buffers() if value.is_floating_point()} == {torch.float32}


@every_setting
def test_created_under_the_meta_device_it_is_real(name: str, more: dict[str, Any]) -> None:
    with torch.device("meta"):
        weighter = make(name, **more)
    shown = script(3, 20)
    assert torch.equal(run(weighter, shown), run(make(name, **more), shown))


@every_setting
def test_memory_that_nobody_filled_is_one_error(name: str, more: dict[str, Any]) -> None:
    weighter, _, rest = half_way(name, more)
    with torch.no_grad():
        Model(weighter)._apply(lambda value: torch.full_like(value, 7) if not value.is_floating_point() else value)  # type: ignore[no-untyped-call]
    with pytest.raises(RuntimeError, match=rf"^{name}: expected a state that was created or loaded, found memory"):
        go_on(weighter, rest.steps)
    weighter.reset()
    assert torch.equal(run(weighter, rest), run(make(name, **more), rest))


class Config(PretrainedConfig):  # type: ignore[no-untyped-call]
    model_type = "model_with_a_weighter"


class Pretrained(PreTrainedModel):  # type: ignore[no-untyped-call]
    config_class = Config
    with_weighter = True

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.layer = nn.Linear(2, 2)
        if self.with_weighter:
            self.weighter = weighting.create("coba", 3, warmup=3, window=6)
        self.post_init()  # type: ignore[no-untyped-call]


class Plain(Pretrained):  # type: ignore[no-untyped-call]
    with_weighter = False


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_from_pretrained_brings_the_state_back(dtype: torch.dtype, tmp_path: Path) -> None:
    weighter, twin, rest = half_way("coba", {})
    model = Pretrained(Config())
    model.weighter = weighter
    model.save_pretrained(tmp_path)
    loaded = Pretrained.from_pretrained(tmp_path, dtype=dtype).weighter
    assert isinstance(loaded, Weighter)
    assert torch.equal(go_on(loaded, rest.steps), go_on(twin, rest.steps))


def test_from_pretrained_without_the_state_is_one_error(tmp_path: Path) -> None:
    Plain(Config()).save_pretrained(tmp_path)
    loaded = Pretrained.from_pretrained(tmp_path).weighter
    assert isinstance(loaded, Weighter)
    shown = script(3, 10)
    try:
        weights = run(loaded, shown)
    except RuntimeError as error:
        assert str(error).startswith("coba: expected a state that was created or loaded, found memory")
    else:
        # The library left the state as it was created.
        assert torch.equal(weights, run(weighting.create("coba", 3, warmup=3, window=6), shown))


def weights_elsewhere(weighter: Weighter, steps: list[Observation], answer: Any) -> None:
    answer.put(go_on(weighter, steps).tolist())


@pytest.mark.parametrize(("name", "more"), [("coba", {}), ("gradnorm", {"feedback": "validation"})], ids=str)
def test_a_spawned_process_goes_on_with_it(name: str, more: dict[str, Any]) -> None:
    weighter, twin, rest = half_way(name, more)
    context = multiprocessing.get_context("spawn")
    answer = context.Queue()
    process = context.Process(target=weights_elsewhere, args=(weighter, rest.steps, answer))
    process.start()
    found = answer.get(timeout=120)
    process.join()
    assert found == go_on(twin, rest.steps).tolist()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64], ids=str)
@every_setting
def test_weights_are_never_below_single_precision(name: str, more: dict[str, Any], dtype: torch.dtype) -> None:
    weights = run(make(name, **more), script(3, 12, dtype=dtype))
    assert weights.dtype == torch.promote_types(dtype, torch.float32)


# ---- no waiting ------------------------------------------------------------------------------------------------------


class Calls(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts what makes the host wait, and copies to the CPU."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.reads = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.reads += func.name() in ("aten::_local_scalar_dense", "aten::is_nonzero", "aten::nonzero", "aten::equal")
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("batch_shape", [(), (2,)], ids=str)
@every_setting
def test_no_step_reads_a_value_on_the_host(name: str, more: dict[str, Any], batch_shape: tuple[int, ...]) -> None:
    weighter, _, rest = half_way(name, more, batch_shape=batch_shape)
    pairs = [(before_step(weighter, step), step) for step in rest.steps]
    with Calls() as calls:
        for before, step in pairs:
            weighter.weights(before)
            weighter.update(after_step(weighter, step))
    assert calls.reads == 0


ELSEWHERE = "lazy"
"""A device that every build of torch knows and that is not there: with fake tensors, it stands for any other."""


def given(seen: Observation) -> dict[str, Tensor]:
    values = {field: getattr(seen, field) for field in seen.__dataclass_fields__}
    return {field: value for field, value in values.items() if value is not None}


def elsewhere(seen: Observation) -> Observation:
    def there(value: Tensor) -> Tensor:
        return torch.ones(value.shape, dtype=value.dtype, device=ELSEWHERE)

    return Observation(**{field: there(value) for field, value in given(seen).items()})


def moved(weighter: Weighter) -> Weighter:
    """With its state elsewhere; ``to`` would look for the device."""
    for module in weighter.modules():
        for key, value in module.named_buffers(recurse=False):
            setattr(module, key, torch.ones(value.shape, dtype=value.dtype, device=ELSEWHERE))
    return weighter


@pytest.mark.parametrize("batch_shape", [(), (2,)], ids=str)
@every_setting
def test_everything_stays_on_the_device_of_the_losses(name: str, more: dict[str, Any], batch_shape: tuple[int, ...]) -> None:
    """With fake tensors: a device that is not there, on which looking at a number is an error."""
    shown = script(3, 20, batch_shape=batch_shape, absent=True)
    asked = make(name, batch_shape=batch_shape, **more)
    first = at_start(asked, shown.first)
    asked.start(first)
    weighter, mode = make(name, batch_shape=batch_shape, **more), FakeTensorMode(allow_non_fake_inputs=True)
    with mode:
        moved(weighter).start(elsewhere(first))
    for step in shown.steps:
        before, after = before_step(asked, step), after_step(asked, step)
        asked.update(after)
        with mode:
            assert weighter.weights(elsewhere(before)).device.type == ELSEWHERE
            weighter.update(elsewhere(after))
            assert {value.device.type for value in weighter.buffers()} == {ELSEWHERE}


def test_the_state_follows_the_losses_to_their_device(monkeypatch: pytest.MonkeyPatch) -> None:
    weighter = weighting.create("famo", 3)
    monkeypatch.setattr(weighter, "to", lambda device: moved(weighter) if device.type == ELSEWHERE else None)
    with FakeTensorMode(allow_non_fake_inputs=True):
        weights = weighter.weights(Observation(losses=torch.ones(3, device=ELSEWHERE)))
        assert weights.device.type == ELSEWHERE


class Step(nn.Module):
    """One step of a method as a module, for functional_call."""

    def __init__(self, weighter: Weighter) -> None:
        super().__init__()
        self.weighter = weighter

    def forward(self, seen: dict[str, Tensor], before: dict[str, Tensor]) -> Tensor:
        weights = self.weighter.weights(Observation(**before))
        self.weighter.update(Observation(**seen))
        return weights


@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")
@every_setting
def test_vmap_over_replicas_is_a_batch_of_replicas(name: str, more: dict[str, Any]) -> None:
    replicas = 3
    shown = script(3, 30, batch_shape=(replicas,))
    together = make(name, batch_shape=(replicas,), **more)
    expected = run(together, shown)
    alone = make(name, **more)
    states = []
    for replica in range(replicas):
        one = make(name, **more)
        one.start(Observation(**{field: value[replica] for field, value in given(at_start(one, shown.first)).items()}))
        states.append({f"weighter.{key}": value for key, value in one.named_buffers()})
    alone.start(Observation(**{field: value[0] for field, value in given(at_start(alone, shown.first)).items()}))
    stacked = {key: torch.stack([state[key] for state in states]) for key in states[0]}
    module = Step(alone)

    def step(state: dict[str, Tensor], seen: dict[str, Tensor], before: dict[str, Tensor]) -> Tensor:
        return cast(Tensor, functional_call(module, state, (seen, before)))

    for row, shown_now in zip(expected, shown.steps, strict=True):
        after, before = given(after_step(alone, shown_now)), given(before_step(alone, shown_now))
        torch.testing.assert_close(torch.vmap(step, randomness="same")(stacked, after, before), row, rtol=1e-10, atol=1e-12)


NOT_ONE_GRAPH = {
    "random": "its draws come from a hash of seed and step, which is no tensor program",
    "coba": "its memory of the largest slopes grows with every step, so that each has its own shapes",
    "dwa": "the end of a window is decided by the number of the step",
}
"""Methods for which a compiled step is a graph for each step; in eager mode none waits for the device."""


def compiled(weighter: Weighter, shown: Script, graphs: list[int]) -> Tensor:
    def step(before: Observation, after: Observation) -> Tensor:
        weights = weighter.weights(before)
        weighter.update(after)
        return weights

    def count(module: Any, inputs: Any) -> Any:
        graphs.append(len(inputs))
        return module.forward

    torch._dynamo.reset()
    weighter.start(at_start(weighter, shown.first))
    fast = torch.compile(step, fullgraph=True, backend=count)
    return torch.stack([fast(before_step(weighter, each), after_step(weighter, each)) for each in shown.steps])


@pytest.mark.parametrize("name", [name for name in weighting.names() if name not in NOT_ONE_GRAPH])
def test_a_compiled_step_is_one_graph(name: str) -> None:
    shown, graphs = script(3, 12), list[int]()
    found = compiled(make(name), shown, graphs)
    assert len(graphs) == 1
    torch.testing.assert_close(found, run(make(name), shown), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", [name for name in NOT_ONE_GRAPH if name != "random"])
def test_the_others_have_no_break_in_their_graphs(name: str) -> None:
    shown, graphs = script(3, 6), list[int]()
    found = compiled(make(name), shown, graphs)
    assert len(graphs) > 1
    torch.testing.assert_close(found, run(make(name), shown), rtol=1e-10, atol=1e-12)


# ---- what an answer depends on ---------------------------------------------------------------------------------------


@every_setting
def test_answers_come_from_where_the_method_says(name: str, more: dict[str, Any]) -> None:
    """From the state: the same whatever this step's losses are, and without any. From the losses: not the same."""
    weighter, _, _ = half_way(name, more)
    shown = [step.with_(counts=None, val_counts=None) for step in script(3, 12, seed=4).steps]
    differs = False
    for step in shown:
        now = before_step(weighter, step)
        losses = cast(Tensor, now.losses)
        answers = [
            weighter.weights(now.with_(losses=losses * torch.tensor(factor))) for factor in ([1, 1, 1], [5.0, 0.2, 3.0])
        ]
        differs = differs or not torch.equal(*answers)
        if weighter.answers_from == "state":
            torch.testing.assert_close(weighter.weights(now.with_(losses=None, counts=[3, 1, 2])), answers[0])
        weighter.update(after_step(weighter, step))
    assert differs == (weighter.answers_from == "losses")


def test_a_probe_of_needs() -> None:
    """The helpers above ask for what a method wants; one that wants more than it says would hide here."""
    for name, more in SETTINGS:
        weighter = make(name, **more)
        assert weighter.wants() & ~weighter.needs == Needs.NOTHING
