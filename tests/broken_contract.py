"""A method that keeps the contract, and for every check of it one that does not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from weighting import Claim, Needs, Observation, Weighter
from weighting._cleaning import Clean
from weighting.contract import CLOCK_MARK


class Right(Weighter):
    """A softmax of a running mean of the losses."""

    name = "right"
    answers_from: ClassVar[Literal["state", "losses"]] = "state"
    claims = Claim.NONNEGATIVE | Claim.PERMUTATION_EQUIVARIANT
    search: ClassVar[dict[str, Sequence[object]]] = {"beta": (0.5,)}
    mean: Tensor

    def __init__(self, num_tasks: int, *, batch_shape: Sequence[int] = (), beta: float = 0.9) -> None:
        super().__init__(num_tasks, batch_shape=batch_shape)
        self.beta = beta
        self.add_state("mean", 1.0)

    def weights(self, now: Observation) -> Tensor:
        return self.as_weights(self.mean.softmax(-1), now)

    def update(self, after: Observation) -> None:
        new = torch.lerp(self.read(after, "losses"), self.mean, self.beta)
        self.mean.copy_(torch.where(self.present(after), new, self.mean))


class Broken(Right):
    """Breaks one check at least."""

    breaks: ClassVar[tuple[str, ...]]


class AnswersOneNumber(Broken):
    name, breaks = "answers_one_number", ("weights_have_the_shape_of_the_losses",)

    def weights(self, now: Observation) -> Tensor:
        return super().weights(now)[..., :1]


class DividesByTheOthers(Broken):
    """K - 1 others: none for a single task."""

    name, breaks = "divides_by_the_others", ("any_number_of_tasks_will_do",)

    def weights(self, now: Observation) -> Tensor:
        return super().weights(now) / torch.full_like(self.mean, self.num_tasks - 1)


class PrintsItsNameAlone(Broken):
    name, breaks = "prints_its_name_alone", ("prints_its_hyperparameters",)

    def extra_repr(self) -> str:
        return ""


class LearnsAParameter(Broken):
    name, breaks = "learns_a_parameter", ("losses_with_a_graph_leave_none_behind", "state_is_float64_and_in_buffers")

    def __init__(self, num_tasks: int, *, batch_shape: Sequence[int] = (), beta: float = 0.9) -> None:
        super().__init__(num_tasks, batch_shape=batch_shape, beta=beta)
        self.scale = nn.Parameter(torch.ones(()))


class GivesItsMemory(Broken):
    """The caller gets the very tensor that the method goes on with."""

    name, breaks = "gives_its_memory", ("weights_given_are_the_callers",)

    def weights(self, now: Observation) -> Tensor:
        return self.mean


class WritesIntoLosses(Broken):
    name, breaks = "writes_into_losses", ("observations_stay_as_they_are",)

    def update(self, after: Observation) -> None:
        super().update(after)
        self.read(after, "losses").mul_(2)


class LearnsWhenAsked(Broken):
    name, breaks = "learns_when_asked", ("asking_changes_nothing",)

    def weights(self, now: Observation) -> Tensor:
        self.mean.mul_(1.01)
        return super().weights(now)


class ProbesForAnotherTask(Broken):
    name, breaks = "probes_for_another_task", ("probes_are_numbers_of_the_state",)

    def probes(self) -> dict[str, Tensor]:
        return {"mean": torch.cat([self.mean, self.mean[..., :1]], dim=-1)}


class LearnsWhenProbed(Broken):
    name, breaks = "learns_when_probed", ("probes_are_numbers_of_the_state",)

    def probes(self) -> dict[str, Tensor]:
        self.mean.mul_(1.01)
        return {"mean": self.mean.clone()}


class GivesItsMemoryAsAProbe(Broken):
    name, breaks = "gives_its_memory_as_a_probe", ("probes_are_numbers_of_the_state",)

    def probes(self) -> dict[str, Tensor]:
        return {"mean": self.mean}


class WantsMore(Broken):
    name, breaks = "wants_more", ("wants_no_more_than_it_needs",)

    def wants(self) -> Needs:
        return Needs.GRAD_NORMS


class ReadsWhatItDenies(Broken):
    name, breaks = "reads_what_it_denies", ("answers_come_from_where_it_says",)

    def weights(self, now: Observation) -> Tensor:
        return self.as_weights(self.read(now, "losses").softmax(-1), now)


class ReadsNothingButSaysSo(Broken):
    name, breaks = "reads_nothing_but_says_so", ("answers_come_from_where_it_says",)
    answers_from = "losses"


class TakesThePriorTwice(Broken):
    name, breaks = "takes_the_prior_twice", ("a_prior_multiplies_the_weights",)

    def weights(self, now: Observation) -> Tensor:
        own = super().weights(now)
        return own if self.prior is None else own * self.prior


class AveragesReplicas(Broken):
    name, breaks = "averages_replicas", ("replicas_are_independent",)

    def weights(self, now: Observation) -> Tensor:
        return self.as_weights((self.mean - self.mean.mean()).exp(), now)


class WeighsTheAbsent(Broken):
    name, breaks = "weighs_the_absent", ("absent_tasks_have_weight_0_and_leave_no_trace",)

    def weights(self, now: Observation) -> Tensor:
        return self.mean.softmax(-1)


class MindsSilence(Broken):
    """It looks at what was passed before that was made clean: tasks that nobody counted are half as many."""

    name, breaks = "minds_silence", ("all_present_is_the_same_said_or_not",)
    silent = False

    def _clean(self, call: str, seen: Observation) -> tuple[Clean, dict[str, Tensor]]:
        self.silent = seen.counts is None
        return super()._clean(call, seen)

    def weights(self, now: Observation) -> Tensor:
        return super().weights(now) * (0.5 if self.silent else 1.0)


class DividesByItsStart(Broken):
    name, breaks = "divides_by_its_start", ("a_task_absent_at_the_start_may_join",)

    first: Tensor

    def __init__(self, num_tasks: int, *, batch_shape: Sequence[int] = (), beta: float = 0.9) -> None:
        super().__init__(num_tasks, batch_shape=batch_shape, beta=beta)
        self.add_state("first", 1.0)

    def start(self, first: Observation) -> None:
        self.first.copy_(self.read(first, "losses") * self.present(first))

    def weights(self, now: Observation) -> Tensor:
        return self.as_weights(self.mean / self.first, now)


class DividesByThoseThere(Broken):
    name, breaks = "divides_by_those_there", ("a_step_without_any_task_teaches_nothing_wrong",)

    def update(self, after: Observation) -> None:
        super().update(after)
        self.mean.copy_(self.mean + self.present(after) / self.present(after).sum(-1, keepdim=True))


class MindsTheGuards(Broken):
    """After a number that was not finite it is another method."""

    name, breaks = "minds_the_guards", ("what_is_not_finite_is_that_tasks_absence",)

    def weights(self, now: Observation) -> Tensor:
        return super().weights(now) * (1 + self.guard_counts.sum(-1, keepdim=True))


class KeepsSinglePrecision(Broken):
    name, breaks = "keeps_single_precision", ("state_is_float64_and_in_buffers",)

    def __init__(self, num_tasks: int, *, batch_shape: Sequence[int] = (), beta: float = 0.9) -> None:
        super().__init__(num_tasks, batch_shape=batch_shape, beta=beta)
        self.register_buffer("mean", self.mean.float())


class CountsInPython(Broken):
    """Its step count is no state."""

    name, breaks = "counts_in_python", ("resumes_from_its_state", "goes_back_to_an_earlier_state")

    def __init__(self, num_tasks: int, *, batch_shape: Sequence[int] = (), beta: float = 0.9) -> None:
        super().__init__(num_tasks, batch_shape=batch_shape, beta=beta)
        self.steps = 0

    def weights(self, now: Observation) -> Tensor:
        return super().weights(now) * (1 + self.steps)

    def update(self, after: Observation) -> None:
        super().update(after)
        self.steps += 1


class ForgetsItsGuards(Broken):
    """Guards of the instance, not of its state."""

    name, breaks = "forgets_its_guards", ("guard_counts_survive_saving",)

    def __init__(self, num_tasks: int, *, batch_shape: Sequence[int] = (), beta: float = 0.9) -> None:
        super().__init__(num_tasks, batch_shape=batch_shape, beta=beta)
        self.taken: dict[str, int] = {}

    def guards_taken(self) -> dict[str, int]:
        return self.taken

    def update(self, after: Observation) -> None:
        super().update(after)
        self.taken = super().guards_taken()


class HoldsALambda(Broken):
    name, breaks = "holds_a_lambda", ("goes_on_after_copies",)

    def __init__(self, num_tasks: int, *, batch_shape: Sequence[int] = (), beta: float = 0.9) -> None:
        super().__init__(num_tasks, batch_shape=batch_shape, beta=beta)
        self.rule: Callable[[Tensor], Tensor] = lambda values: values.softmax(-1)


class KeepsStateInAModule(Broken):
    """A plain module inside is cast with the model."""

    name, breaks = "keeps_state_in_a_module", ("goes_on_after_casts_of_the_model",)

    def __init__(self, num_tasks: int, *, batch_shape: Sequence[int] = (), beta: float = 0.9) -> None:
        super().__init__(num_tasks, batch_shape=batch_shape, beta=beta)
        self.inside = nn.Module()
        self.inside.register_buffer("total", torch.zeros(self.shape, dtype=torch.float64))

    def update(self, after: Observation) -> None:
        super().update(after)
        self.inside.get_buffer("total").add_(self.mean)


class StartsEveryTime(Broken):
    name, breaks = "starts_every_time", ("goes_on_after_a_second_start",)

    def start(self, first: Observation) -> None:
        self.mean.copy_(self.read(first, "losses"))

    def update(self, after: Observation) -> None:
        super().update(after)
        self._host.started = False


class StartsAfterLoading(Broken):
    name, breaks = "starts_after_loading", ("starting_after_a_resume_changes_nothing",)

    def start(self, first: Observation) -> None:
        self.mean.copy_(self.read(first, "losses"))

    def load_state_dict(self, *arguments: Any, **options: Any) -> Any:
        found = super().load_state_dict(*arguments, **options)
        self.clock.fill_(CLOCK_MARK)
        return found


class StaysWhereItIs(Broken):
    name, breaks = "stays_where_it_is", ("follows_a_cast_to_single_precision_and_back",)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> StaysWhereItIs:
        return self


class ResetsNothing(Broken):
    name, breaks = "resets_nothing", ("reset_is_a_fresh_start",)

    def reset(self) -> None:
        self.guard_counts.zero_()


class MindsTheDefaultDevice(Broken):
    name, breaks = "minds_the_default_device", ("created_under_the_meta_device_it_is_real",)
    on_meta: bool

    def __new__(cls, *arguments: Any, **hyperparameters: Any) -> MindsTheDefaultDevice:
        made = super().__new__(cls)
        object.__setattr__(made, "on_meta", torch.empty(0).is_meta)
        return made

    def weights(self, now: Observation) -> Tensor:
        return super().weights(now) * (2 if self.on_meta else 1)


class TrustsAnyMemory(Broken):
    name, breaks = "trusts_any_memory", ("memory_that_nobody_filled_is_one_error",)

    def _read_clock(self) -> None:
        pass


class LooksAtANumber(Broken):
    name, breaks = "looks_at_a_number", ("no_step_reads_a_value_on_the_host",)

    def weights(self, now: Observation) -> Tensor:
        return super().weights(now) * (2 if float(self.mean.max()) > 1e9 else 1)


class MakesItsConstantsOnTheHost(Broken):
    name, breaks = "makes_its_constants_on_the_host", ("everything_stays_on_the_device_of_the_losses",)

    def weights(self, now: Observation) -> Tensor:
        return super().weights(now) + torch.zeros(self.num_tasks, device="cpu")


class SearchesSomethingElse(Broken):
    name, breaks = "searches_something_else", ("defaults_and_search_are_its_own",)
    search = {"gamma": (0.5,)}


class TakesAnyNumber(Broken):
    name, breaks = "takes_any_number", ("mistakes_are_one_line",)

    def __init__(self, num_tasks: int, *, batch_shape: Sequence[int] = (), beta: float = 0.9) -> None:
        super().__init__(max(1, int(num_tasks)), batch_shape=batch_shape, beta=beta)


class SeedsWithAHash(Broken):
    """Python's hash of a string is another one in every process."""

    name, breaks = "seeds_with_a_hash", ("numbers_are_the_same_in_another_process",)

    def weights(self, now: Observation) -> Tensor:
        return super().weights(now) * (1 + hash(self.name) % 1000)


BROKEN: tuple[type[Broken], ...] = tuple(Broken.__subclasses__())
