"""Replaying reference traces of other code."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import weighting
from weighting import Observation, Weighter, replay
from weighting.db_mtl import GradientBuffer

Trace = dict[str, Any]


def numbers(values: Any) -> Tensor:
    """NaN where a file has null."""
    return torch.tensor(np.array(values, dtype=np.float64))


def of_losses(weighter: Weighter, rows: Sequence[Any]) -> Tensor:
    """The weights of a method that reads nothing but one row of losses per step."""
    seen = [Observation(losses=numbers(row)) for row in rows]
    return replay(weighter, [seen[0], *seen])


def coba_paper(trace: Trace, name: str = "coba") -> Tensor:
    """Row t of the validation losses belongs to the model after t updates; ``weights[t]`` has seen the rows up to t."""
    given = trace["hyperparameters"]
    weighter = weighting.create(
        name,
        trace["num_tasks"],
        warmup=given["warmup"],
        window=given["history_window"],
        tau=given["tau"],
        update_every=given.get("update_interval", 1),
    )
    rows = [numbers(row) for row in trace["inputs"]["val_losses"]]
    # What comes after the last row is not known, and no weights are either.
    after = [*rows[1:], rows[-1]]
    steps = [Observation(losses=rows[t], val_losses=after[t]) for t in range(len(trace["weights"]))]
    return replay(weighter, [Observation(losses=rows[0], val_losses=rows[0]), *steps])


def coba_official(trace: Trace, inputs: str = "val_ratios") -> Tensor:
    """Records come after some steps: the ratios to the initial losses as stored, or the losses of a record's samples.

    A ratio of zero says that the validation batch had nothing of the task. With ``train_task_present`` the weights in the
    total are ``effective_coefficients``.
    """
    given, seen = trace["hyperparameters"], trace["inputs"]
    weighter = weighting.create(
        "coba_mftcoder",
        trace["num_tasks"],
        warmup=given["warmup_steps"],
        window=given["history_length"],
        tau=given["tau"],
        update_every=given["update_interval"],
    )
    initial = numbers(seen["initial_val_loss"])
    present = found(trace, "train_task_present")
    rows = [numbers(row) for row in seen[inputs]]
    records = [row * initial if inputs == "val_ratios" else row.reshape(-1, len(initial)).mean(0) for row in rows]
    by_step = dict(zip(seen["val_steps"], records, strict=True))
    log = [Observation(losses=initial, val_losses=initial)]
    for step in range(len(trace["weights"])):
        here = None if present is None else torch.tensor(present[step], dtype=torch.bool)
        now = Observation(losses=initial, counts=here)
        if step in by_step:
            missing = (by_step[step] == 0) | by_step[step].isnan()
            now = now.replace(val_losses=by_step[step], val_counts=~missing if bool(missing.any()) else None)
        log.append(now)
    return replay(weighter, log)


def found(trace: Trace, key: str) -> Any:
    """An array that may stand among the inputs, the outputs or beside them; None: nowhere."""
    return next((place[key] for place in (trace["inputs"], trace.get("outputs", {}), trace) if key in place), None)


def famo(trace: Trace) -> Tensor:
    given, inputs = trace["hyperparameters"], trace["inputs"]
    least = found(trace, "min_losses") or given["min_losses"]
    weighter = weighting.create(
        "famo",
        trace["num_tasks"],
        lr=given["w_lr"],
        gamma=given["gamma"],
        min_losses=0.0 if isinstance(least, str) else least,
    )
    pairs = zip(inputs["losses_before"], inputs["losses_after"], strict=True)
    steps = [Observation(losses=numbers(before), losses_after=numbers(after)) for before, after in pairs]
    return replay(weighter, [steps[0], *steps])


def dwa(trace: Trace) -> Tensor:
    """One row per epoch, its mean losses: windows of one step."""
    weighter = weighting.create("dwa", trace["num_tasks"], window=1, temperature=trace["hyperparameters"]["temperature"])
    return of_losses(weighter, trace["inputs"]["epoch_losses"])


def dwa_nashmtl(trace: Trace) -> Tensor:
    """The file's weights sum to K, and the total is the mean of weight times loss."""
    given = trace["hyperparameters"]
    weighter = weighting.create(
        "dwa_nash_mtl",
        trace["num_tasks"],
        window=given["iteration_window"],
        temperature=given["temperature"],
    )
    return of_losses(weighter, trace["inputs"]["losses"]) * int(trace["num_tasks"])


def by_losses(name: str) -> Callable[[Trace], Tensor]:
    """A method that reads nothing but one row of losses per step."""

    return lambda trace: of_losses(weighting.create(name, trace["num_tasks"]), trace["inputs"]["losses"])


def imtl_l(trace: Trace) -> Tensor:
    given = dict(trace["hyperparameters"])
    weighter = weighting.create("imtl_l", trace["num_tasks"], initial_log_scale=given.pop("initial_s"), **given)
    return of_losses(weighter, trace["inputs"]["losses"])


def gradnorm_libmtl(trace: Trace) -> Tensor:
    """The rows start after the first epoch, whose mean losses are given."""
    given = trace["hyperparameters"]
    weighter = weighting.create(
        "gradnorm_libmtl",
        trace["num_tasks"],
        alpha=given["alpha"],
        lr=given["lr"],
        optimizer=given["optimizer"].split()[0],
        weight_decay=given["weight_decay"],
    )
    return replay_gradnorm(weighter, trace["inputs"])


def replay_gradnorm(weighter: Weighter, inputs: dict[str, Any]) -> Tensor:
    pairs = zip(inputs["losses"], inputs["gradient_norms"], strict=True)
    steps = [Observation(losses=numbers(losses), grad_norms=numbers(norms)) for losses, norms in pairs]
    return replay(weighter, [Observation(losses=numbers(inputs["initial_losses"])), *steps])


def uncertainty(trace: Trace) -> Tensor:
    weighter = weighting.create("uncertainty", trace["num_tasks"], **trace["hyperparameters"])
    return of_losses(weighter, trace["inputs"]["losses"])


def gradnorm(trace: Trace) -> Tensor:
    given = trace["hyperparameters"]
    weighter = weighting.create(
        "gradnorm",
        trace["num_tasks"],
        alpha=given["alpha"],
        lr=given["weight_lr"],
        optimizer=given["weight_optimizer"].split()[0],
    )
    return replay_gradnorm(weighter, trace["inputs"])


def stch(trace: Trace) -> Tensor:
    """Epochs of so many steps: the warm-up, and then the one of the reference."""
    given = trace["hyperparameters"]
    steps = given["iterations_per_epoch"]
    warmup = given["warmup_epoch"] * steps
    weighter = weighting.create("stch", trace["num_tasks"], mu=given["mu"], warmup=warmup, window=steps)
    return of_losses(weighter, trace["inputs"]["losses"])


def cov_weighting(trace: Trace) -> Tensor:
    weighter = weighting.create("cov_weighting", trace["num_tasks"], decay=trace["hyperparameters"]["mean_decay_param"])
    return of_losses(weighter, trace["inputs"]["losses"])


def softadapt(trace: Trace) -> Tensor:
    """The code of relative_balancing has K times the softmax of the last differences."""
    given, num_tasks = trace["hyperparameters"], int(trace["num_tasks"])
    if trace["variant"] == "relative_balancing":
        weighter = weighting.create("softadapt", num_tasks, beta=given["T"], order=1)
        return num_tasks * of_losses(weighter, trace["inputs"]["losses"])
    weighter = weighting.create(
        "softadapt", num_tasks, variant=given["kind"], beta=given["beta"], order=given["accuracy_order"]
    )
    return of_losses(weighter, trace["inputs"]["losses"])


def softadapt_expected(trace: Trace) -> Tensor:
    """Their sum is less than 1 by the 1e-8 in that code's denominators, which is taken out.

    In the first step the code of relative_balancing takes the losses before it for 1, whatever their scale.
    """
    given = numbers(trace["weights"])
    if trace["variant"] == "relative_balancing":
        given[0] = float("nan")
        return given
    return given / given.sum(-1, keepdim=True)


def relobralo(trace: Trace) -> Tensor:
    """With the draws that were recorded. The initial losses of that script are those of its second step.

    Its 1e-12 beside T times a loss, which our rule does without, is 1e-9 of the smallest of them.
    """
    given = trace["hyperparameters"]
    weighter: Any = weighting.create("relobralo", trace["num_tasks"], alpha=given["alpha"], temperature=given["T"])
    rows = [Observation(losses=numbers(row)) for row in trace["inputs"]["losses"]]
    weighter.start(rows[1])
    found_ = []
    for seen, draw in zip(rows, trace["outputs"]["rho"], strict=False):
        weighter.keeps = lambda draw=draw: draw == 1
        found_.append(weighter.weights(seen))
        weighter.update(seen)
    return torch.stack(found_)


def gramians(trace: Trace) -> Tensor:
    """The Gramian of each step, ``(T, K, K)``."""
    jacobians = numbers(trace["inputs"]["jacobians"])
    return jacobians @ jacobians.mT


def by_gramian(name: str, *hyperparameters: str) -> Callable[[Trace], Tensor]:
    """A method that reads nothing but the Gramian of a step; hyperparameters are named as in the file."""

    def weights(trace: Trace) -> Tensor:
        given = {key: trace["hyperparameters"][key] for key in hyperparameters}
        weighter = weighting.create(name, trace["num_tasks"], **given)
        ones = torch.ones(trace["num_tasks"], dtype=torch.float64)
        steps = [Observation(losses=ones, gramian=gramian) for gramian in gramians(trace)]
        return replay(weighter, [steps[0], *steps])

    return weights


def with_orders(name: str, *hyperparameters: str) -> Callable[[Trace], Tensor]:
    """A method on the Gramian, with the orders that were recorded. A task that meets itself in them changes nothing here."""

    def weights(trace: Trace) -> Tensor:
        given = {key: trace["hyperparameters"][key] for key in hyperparameters}
        weighter: Any = weighting.create(name, trace["num_tasks"], **given)
        ones, found_ = torch.ones(trace["num_tasks"], dtype=torch.float64), []
        for gramian, orders in zip(gramians(trace), trace["outputs"]["orders"], strict=True):
            recorded = torch.tensor(orders)
            weighter.orders = lambda recorded=recorded: recorded
            seen = Observation(losses=ones, gramian=gramian)
            found_.append(weighter.weights(seen))
            weighter.update(seen)
        return torch.stack(found_)

    return weights


def db_mtl(trace: Trace) -> Tensor:
    """The update of each step by the buffer."""
    given = trace["hyperparameters"]
    buffer = GradientBuffer(trace["num_tasks"], beta=given["beta"], sigma=given["beta_sigma"])
    pairs = zip(numbers(trace["inputs"]["losses"]), numbers(trace["inputs"]["jacobians"]), strict=True)
    return torch.stack([buffer.combine(losses, jacobian) for losses, jacobian in pairs])


def known(key: str, *without: str) -> Callable[[Trace], Tensor]:
    """The weights under a key, NaN in steps of the kinds ``without``, in which they are not unique or not defined."""

    def expected(trace: Trace) -> Tensor:
        rows = found(trace, key)
        none = [None] * int(trace["num_tasks"])
        kinds = trace["inputs"]["step_case"]
        return numbers([none if row is None or kind in without else row for row, kind in zip(rows, kinds, strict=True)])

    return expected


def but_for_zero_gradients(trace: Trace) -> Tensor:
    """The weights, NaN for tasks whose gradient is 0: theirs do nothing."""
    squares = gramians(trace).diagonal(dim1=-2, dim2=-1)
    return numbers(trace["weights"]).masked_fill(squares == 0, float("nan"))


@dataclass(frozen=True)
class Replay:
    """How the traces of one group are replayed, and the largest difference allowed in any weight."""

    setting: str
    """The method or variant."""
    weights: Callable[[Trace], Tensor]
    limit: float = 1e-10
    relative: bool = False
    """The limit is one on the difference relative to the weight."""
    expected: Callable[[Trace], Tensor] | None = None
    """What to compare with; None: the coefficients of the losses as the file has them."""
    single_precision: tuple[str, ...] = ()
    """Variants of which that code computed a part in single precision, with a limit of 1e-6."""

    def limit_of(self, trace: Trace) -> float:
        """The limit for one file."""
        return 1e-6 if trace["variant"] in self.single_precision else self.limit


REPLAYS = {
    "coba_paper": Replay("coba", coba_paper),
    "coba_official": Replay("coba_mftcoder", coba_official, 1e-9),
    "famo_official": Replay("famo", famo),
    "dwa_libmtl": Replay("dwa", dwa),
    "dwa_nashmtl": Replay("dwa_nash_mtl", dwa_nashmtl, 1e-5, relative=True),
    "uw_libmtl": Replay("uncertainty", uncertainty),
    "uw_nashmtl": Replay("uncertainty", uncertainty),
    "gradnorm_paper": Replay("gradnorm", gradnorm),
    "gradnorm_libmtl": Replay("gradnorm_libmtl", gradnorm_libmtl),
    "gls_libmtl": Replay("gls", by_losses("gls")),
    "imtl_l_libmtl": Replay("imtl_l", imtl_l),
    "mgda": Replay("mgda", by_gramian("mgda"), expected=known("optimal_weights", "two_equal_rows")),
    "pcgrad": Replay("pcgrad", with_orders("pcgrad"), relative=True),
    "gradvac": Replay("gradvac", with_orders("gradvac", "beta"), 1e-9, relative=True, expected=but_for_zero_gradients),
    "imtl_g": Replay(
        "imtl_g",
        by_gramian("imtl_g"),
        1e-8,
        relative=True,
        expected=known("weights", "two_equal_rows", "zero_row", "opposite", "opposite_half"),
    ),
    "cagrad": Replay(
        "cagrad",
        by_gramian("cagrad", "c"),
        1e-5,
        relative=True,
        expected=known("weights_at_best", "two_equal_rows", "zero_row", "opposite", "opposite_half"),
    ),
    "nash_mtl": Replay("nash_mtl", by_gramian("nash_mtl"), relative=True, expected=known("exact_weights")),
    "aligned_mtl": Replay("aligned_mtl", by_gramian("aligned_mtl"), 1e-9, expected=known("weights")),
    "fairgrad": Replay("fairgrad", by_gramian("fairgrad", "alpha"), relative=True, expected=known("exact_weights")),
    "db_mtl": Replay("db_mtl with its buffer", db_mtl, expected=lambda trace: numbers(found(trace, "update"))),
    "stch": Replay("stch", stch, relative=True),
    "cov_weighting": Replay("cov_weighting", cov_weighting),
    "softadapt": Replay("softadapt", softadapt, expected=softadapt_expected, single_precision=("official (loss_weighted)",)),
    "relobralo": Replay("relobralo", relobralo, 1e-8),
    "upgrad": Replay(
        "upgrad",
        by_gramian("upgrad"),
        1e-9,
        relative=True,
        expected=known("weights_without_regularisation", "two_equal_rows"),
    ),
}
"""Group, the part of a file's name before the hyphen -> its replay."""

OFFICIAL = {
    "mgda": Replay("mgda_official", by_gramian("mgda_official"), expected=known("weights", "two_equal_rows")),
    # That code's own error: 3e-3 where norms differ by a thousand.
    "nash_mtl": Replay("nash_mtl_official", by_gramian("nash_mtl_official"), 5e-3, relative=True, expected=known("weights")),
    "upgrad": Replay("upgrad_torchjd", by_gramian("upgrad_torchjd"), 1e-9, relative=True, expected=known("weights")),
}
"""Group whose own replay is compared with an optimum -> that of the variant which gives what the other program gave."""


def group_of(path: Path) -> str:
    return path.name.partition("-")[0]


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*.json") if path.name != "INDEX.json")


def largest_difference(how: Replay, trace: Trace, expected: Tensor) -> float:
    """Over all steps and tasks of which the trace knows the weight."""
    ours = how.weights(trace)
    assert ours.shape == expected.shape
    present = found(trace, "train_task_present")
    counts = ~expected.isnan()
    if present is not None:
        here = torch.tensor(present, dtype=torch.bool)
        assert bool((ours[~here] == 0).all()), "an absent task has a weight"
        counts &= here
    difference = (ours - expected).abs()[counts]
    return float((difference / expected.abs()[counts] if how.relative else difference).max())


def expected_of(replay: Replay, trace: Trace, given: Any = None) -> Tensor:
    """What a replay is compared with: numbers of another reading, of the replay's own choice, or the coefficients."""
    if given is None and replay.expected is not None:
        return replay.expected(trace)
    return numbers(given or found(trace, "effective_coefficients") or trace["weights"])
