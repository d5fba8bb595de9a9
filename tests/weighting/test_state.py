"""A method's state in other libraries, in other processes, under vmap and in a compiled step."""

from __future__ import annotations

import multiprocessing
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from all_methods import weights_elsewhere
from safetensors.torch import load_file, save_file
from scripts import every_setting, make
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call
from transformers import PretrainedConfig, PreTrainedModel

import weighting
from weighting import Needs, Observation, Weighter
from weighting.replaying import after_step, at_start, before_step, go_on
from weighting.testing import synthetic
from weighting.testing.devices import ELSEWHERE, moved
from weighting.testing.synthetic import Script, run, script


def half_way(name: str, more: dict[str, Any]) -> tuple[Weighter, Weighter, Script]:
    """A method after 20 of 40 steps, its twin, and the steps to come."""
    return synthetic.half_way(lambda: make(name, **more), script(3, 40, absent=True))


@every_setting
def test_goes_on_after_safetensors(name: str, more: dict[str, Any], tmp_path: Path) -> None:
    weighter, twin, rest = half_way(name, more)
    save_file(weighter.state_dict(), tmp_path / "state.safetensors")
    loaded = make(name, **more)
    loaded.load_state_dict(load_file(tmp_path / "state.safetensors"))
    assert torch.equal(go_on(loaded, rest.steps), go_on(twin, rest.steps))


def test_reset_follows_a_cast() -> None:
    weighter = weighting.create("famo", 3).float()
    weighter.reset()
    assert {value.dtype for value in weighter.buffers() if value.is_floating_point()} == {torch.float32}


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


@pytest.mark.slow
def test_a_spawned_process_goes_on_with_it() -> None:
    """One process for both, as starting it takes longer than all that it does."""
    halves = [half_way("coba", {}), half_way("gradnorm", {"losses_from": "validation"})]
    context = multiprocessing.get_context("spawn")
    answer = context.Queue()
    started = [(weighter, rest.steps) for weighter, _, rest in halves]
    process = context.Process(target=weights_elsewhere, args=(started, answer))
    process.start()
    found = answer.get(timeout=120)
    process.join()
    assert found == [go_on(twin, rest.steps).tolist() for _, twin, rest in halves]


# ---- no waiting ------------------------------------------------------------------------------------------------------


def given(seen: Observation) -> dict[str, Tensor]:
    values = {field: getattr(seen, field) for field in seen.__dataclass_fields__}
    return {field: value for field, value in values.items() if value is not None}


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
    shown = script(3, 15, batch_shape=(replicas,))
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


ON_GRAMIAN = [name for name, kind in weighting.METHODS.items() if (Needs.GRAMIAN | Needs.CROSS_GRAMIAN) & kind.needs]
DRAWN = ("random", "relobralo")
NOT_ONE_GRAPH = {
    **dict.fromkeys(DRAWN, "its draws come from a hash of seed and step, which is no tensor program"),
    "coba": "its memory of the largest slopes grows with every step, so that each has its own shapes",
    "dwa": "the end of a window is decided by the number of the step",
    **dict.fromkeys(
        ON_GRAMIAN, "its solver, whose rounds end early where that can be seen, unrolls to thousands of operations"
    ),
}
"""Methods for which a compiled step is a graph for each step; in eager mode none waits for the device."""
ONE_GRAPH = [name for name in weighting.names() if name not in NOT_ONE_GRAPH and weighting.family(name) != "coba"]


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


@pytest.mark.parametrize(
    "name", [name for name in weighting.names() if name not in NOT_ONE_GRAPH and weighting.family(name) != "coba"]
)
@pytest.mark.slow
def test_a_compiled_step_is_one_graph(name: str) -> None:
    shown, graphs = script(3, 12), list[int]()
    found = compiled(make(name), shown, graphs)
    assert len(graphs) == 1
    torch.testing.assert_close(found, run(make(name), shown), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", [name for name in NOT_ONE_GRAPH if name not in (*DRAWN, *ON_GRAMIAN)])
@pytest.mark.slow
def test_the_others_have_no_break_in_their_graphs(name: str) -> None:
    shown, graphs = script(3, 6), list[int]()
    found = compiled(make(name), shown, graphs)
    assert len(graphs) > 1
    torch.testing.assert_close(found, run(make(name), shown), rtol=1e-10, atol=1e-12)
