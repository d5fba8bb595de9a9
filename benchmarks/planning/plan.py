"""From a suite to a plan: the list of runs, every setting filled in and checked, before anything starts."""

from __future__ import annotations

import inspect
import itertools
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import PydanticSchemaGenerationError, TypeAdapter, ValidationError

from benchmarks.catalog import AUTO, hyperparameter_defaults, option_defaults, own_source, problem_class, weighter_class
from benchmarks.contract import Problem, Training
from benchmarks.errors import UserError, one_line, unknown
from benchmarks.planning import priors
from benchmarks.planning.simplex import simplex_weights
from benchmarks.planning.suite import ProblemEntry, SuiteFile, Tune, WeighterEntry, explain
from benchmarks.planning.trials import trials
from benchmarks.records.contents import content_hashes
from benchmarks.records.schema import ProblemSpec, Role, RunSpec, WeighterSpec
from benchmarks.shared_layer import shared_layers, trained_parameters
from weighting import Needs, Weighter
from weighting._build import build, hyperparameters_of
from weighting.static import Static
from weighting.uniform import Uniform

SINGLE_TASK = "single_task"
"""The label of the baselines that learn one task each (STL)."""

CONTROLS = ("uniform", "random")
"""Weighters that are part of every comparison."""


@dataclass(frozen=True)
class Filters:
    """What the command line changes; None: as the suite says."""

    problems: Sequence[str] | None = None
    weighters: Sequence[str] | None = None
    seeds: Sequence[int] | None = None
    steps: int | None = None


@dataclass(frozen=True)
class Plan:
    """All runs of a suite, in the order in which they start."""

    suite: str
    question: str
    runs: list[RunSpec] = field(default_factory=list)
    freeze: bool = False
    """Whether the adaptive methods' averaged weights are to be trained with, once they are known."""


def make_plan(file: SuiteFile, filters: Filters, device: str, *, to_train: bool = True) -> Plan:
    """Every run of the suite that passes the filters. Raises UserError on the first mistake.

    to_train: whether models are built to see that they have what methods ask for. Who reads records only needs none.
    """
    suite = file.suite
    plan = Plan(file.name, suite.question, freeze=suite.controls.frozen)
    _check_filters(file, filters)
    for number, entry in enumerate(suite.problems):
        if filters.problems is not None and entry.name not in filters.problems:
            continue
        planner = _ProblemPlanner(file, number, entry, filters, device)
        if to_train:
            planner.check_shared_layer()
        plan.runs.extend(planner.runs())
    if not plan.runs:
        raise UserError(f"{file.path}: expected runs that pass the filters, found none")
    keys = [run.key for run in plan.runs]
    doubled = next((run for run in plan.runs if keys.count(run.key) > 1), None)
    if doubled is not None:
        raise UserError(
            f"{file.path}: expected every run once, found {doubled.weighter.label} on {doubled.problem.name}, "
            f"seed {doubled.seed}, twice"
        )
    return plan


def _check_filters(file: SuiteFile, filters: Filters) -> None:
    known = [entry.name for entry in file.suite.problems]
    for name in filters.problems or ():
        if name not in known:
            raise UserError(f"--problems: {unknown('problem', name, known)}")
    lists = [file.suite.weighters, *(entry.weighters or [] for entry in file.suite.problems)]
    weighters = dict.fromkeys([SINGLE_TASK, *CONTROLS, *(weighter.name for entries in lists for weighter in entries)])
    for name in filters.weighters or ():
        if name not in weighters:
            raise UserError(f"--weighters: {unknown('weighter', name, weighters)}")


class _ProblemPlanner:
    """The runs of one problem of a suite."""

    def __init__(self, file: SuiteFile, number: int, entry: ProblemEntry, filters: Filters, device: str) -> None:
        self.file, self.entry, self.filters, self.device = file, entry, filters, device
        self.place: list[str | int] = ["problems", number]
        try:
            self.kind = problem_class(entry.name)
            self.source = own_source(entry.name)
        except UserError as error:
            raise file.error([*self.place, "name"], str(error)) from error
        self.problem, self.options = self._problem()
        self.training = self._training()

    def runs(self) -> list[RunSpec]:
        seeds = self.filters.seeds or self.entry.seeds or self.file.suite.seeds
        runs = [run for seed in dict.fromkeys(seeds) for run in self._runs_of_seed(seed)]
        tune = self.entry.tune or self.file.suite.tune
        return runs if tune is None else runs + self._trials(tune, seeds)

    def _runs_of_seed(self, seed: int) -> list[RunSpec]:
        runs = [self._run(self.problem.tasks, spec, seed) for spec in self._weighters()]
        if self._wanted(SINGLE_TASK):
            runs += [self._run((task,), self._single_task(), seed, role="single_task") for task in self.problem.tasks]
        return runs + [self._run(self.problem.tasks, spec, seed, role="simplex") for spec in self._simplex()]

    def _single_task(self) -> WeighterSpec:
        return WeighterSpec(name="uniform", label=SINGLE_TASK, hyperparameters={}, version=Uniform.version)

    def _run(self, tasks: tuple[str, ...], weighter: WeighterSpec, seed: int, role: Role = "method") -> RunSpec:
        problem = ProblemSpec(
            name=self.entry.name,
            version=self.kind.version,
            options=self.options,
            contents=self.contents,
            tasks=tasks,
            source=self.source,
        )
        return RunSpec(problem=problem, weighter=weighter, seed=seed, training=self.training, device=self.device, role=role)

    def check_shared_layer(self) -> None:
        """Before anything trains: gradient norms can be measured where a method asks for them."""
        asking = [spec for spec in self._weighters() if Needs.GRAD_NORMS in weighter_class(spec.name).needs]
        if not asking and self.training.shared_layer is None:
            return
        place = [*self.place, "training", "shared_layer"] if self.training.shared_layer is not None else self.place
        try:
            layers = shared_layers(self.problem, self.problem.model(0), self.training.shared_layer)
            trained_parameters(self.problem, layers)
        except Exception as error:
            whose = f" (for {asking[0].label})" if asking else ""
            raise self.file.error(place, f"{one_line(error)}{whose}") from error

    # ---- controls and trials -------------------------------------------------------------------------------------

    def _simplex(self) -> list[WeighterSpec]:
        points = self.file.suite.controls.simplex
        if points is None or not self._wanted("static"):
            return []
        try:
            found = simplex_weights(self.problem.num_tasks, points)
        except ValueError as error:
            raise self.file.error(["controls", "simplex"], f"{error} (for problem {self.entry.name})") from error
        return [
            WeighterSpec(
                name="static",
                label=f"static{_short(weights)}",
                hyperparameters={"weights": list(weights)},
                version=Static.version,
            )
            for weights in found
        ]

    def _trials(self, tune: Tune, seeds: Sequence[int]) -> list[RunSpec]:
        """The trials on the tuning seed: as many for each method and each single-task baseline."""
        if tune.seed in seeds:
            raise self.file.error(
                [*self._tune_place, "seed"],
                f"expected a seed that no comparison uses, found {tune.seed} (for problem {self.entry.name})",
            )
        return [
            run.model_copy(update={"training": self.training.model_copy(update={"lr": lr})})
            for tasks, spec, role in self._tried(tune)
            for lr, setting in self._settings(spec, tune)
            for run in [self._run(tasks, setting, tune.seed, role=role)]
        ]

    def _tried(self, tune: Tune) -> Iterator[tuple[tuple[str, ...], WeighterSpec, Role]]:
        """What is tuned: every method that is not left out, and the single-task baseline of every task."""
        for number, name in enumerate(tune.leave_out):
            self._check_named(["leave_out", number], name)
        for spec in self._weighters():
            if spec.name not in ("random", *tune.leave_out):
                yield self.problem.tasks, spec, "trial"
        if self._wanted(SINGLE_TASK):
            for task in self.problem.tasks:
                yield (task,), self._single_task(), "single_task_trial"

    def _settings(self, spec: WeighterSpec, tune: Tune) -> list[tuple[float, WeighterSpec]]:
        kind = weighter_class(spec.name)
        defaults = hyperparameter_defaults(kind)
        space = self._space(spec, kind, tune)
        usual = {name: defaults[name] for name in space}
        # The learning rate of the comparison is one of those tried, so that the tuned setting can be the default.
        rates = list(dict.fromkeys([self.training.lr, *tune.learning_rates]))
        try:
            chosen = trials(rates, usual, space, tune.trials or len(rates), tune.seed)
        except ValueError as error:
            raise self.file.error([*self._tune_place, "trials"], f"{spec.label}: {error}") from error
        given = {name: value for name, value in spec.hyperparameters.items() if value != AUTO}
        found = []
        for lr, changes in chosen:
            set_here = {name: value for name, value in changes.items() if value != AUTO}
            checked = self._checked(self._tune_place, spec.name, kind, spec.source, {**given, **set_here})
            found.append((lr, checked.model_copy(update={"label": spec.label})))
        return found

    def _space(self, spec: WeighterSpec, kind: type[Weighter], tune: Tune) -> dict[str, Sequence[object]]:
        """Hyperparameter -> values to search; what the suite sets by hand is no part of it."""
        for name in tune.search:
            self._check_named(["search", name], name)
        defaults, hints = hyperparameter_defaults(kind), _hints(kind)
        space: Mapping[str, Sequence[object]] = tune.search.get(spec.name, kind.search)
        for name, values in space.items():
            place = [*self._tune_place, "search", spec.name, name]
            if name not in defaults:
                raise self.file.error(place, f"{spec.name}: {unknown('hyperparameter', name, defaults)}")
            for value in values:
                self._check_type(place, value, hints.get(name, Any))
        return {name: values for name, values in space.items() if spec.hyperparameters[name] == defaults[name]}

    def _check_named(self, place: Sequence[str | int], name: str) -> None:
        """That a weighter is compared which a part of ``tune``, at this place, names."""
        named = [*(entry.name for entry in self.entry.weighters or self.file.suite.weighters), *CONTROLS]
        if name not in named:
            raise self.file.error([*self._tune_place, *place], unknown("weighter", name, named))

    @property
    def _tune_place(self) -> list[str | int]:
        return ["tune"] if self.entry.tune is None else [*self.place, "tune"]

    def _wanted(self, weighter: str) -> bool:
        return self.filters.weighters is None or weighter in self.filters.weighters

    # ---- the problem ---------------------------------------------------------------------------------------------

    def _problem(self) -> tuple[Problem, dict[str, Any]]:
        """The problem, and all its options with their defaults."""
        defaults = option_defaults(self.kind)
        for name in self.entry.options:
            if name not in defaults and name != "tasks":
                raise self.file.error([*self.place, "options", name], unknown("option", name, [*defaults, "tasks"]))
        needed = [name for name, default in defaults.items() if default is inspect.Parameter.empty]
        for name in needed:
            if name not in self.entry.options:
                raise self.file.error(self.place, f"{self.entry.name}: expected the option {name!r}, found none")
        hints = _hints(self.kind)
        for name, value in self.entry.options.items():
            self._check_type([*self.place, "options", name], value, hints.get(name, Any))
        given = {**defaults, **self.entry.options}
        tasks = given.pop("tasks", None)
        try:
            problem = self.kind(tasks=tasks, **given)
            self.contents = content_hashes(problem.files())
            return problem, given
        except Exception as error:
            raise self.file.error([*self.place, "options"], one_line(error)) from error

    def _training(self) -> Training:
        changes: dict[str, Any] = {}
        for place, given in ((["training"], self.file.suite.training), ([*self.place, "training"], self.entry.training)):
            changes |= given
            try:
                training = Training.model_validate({**self.kind.training.model_dump(), **changes}, strict=True)
            except ValidationError as error:
                inner, message = explain(error, lambda _: list(Training.model_fields))
                raise self.file.error([*place, *inner], message) from error
        if self.filters.steps is None:
            return training
        try:
            return Training.model_validate({**training.model_dump(), "steps": self.filters.steps})
        except ValidationError as error:
            raise UserError(f"--steps: {explain(error)[1]}") from error

    # ---- the weighters -------------------------------------------------------------------------------------------

    def _weighters(self) -> list[WeighterSpec]:
        if self.entry.weighters is not None:
            place, entries = [*self.place, "weighters"], self.entry.weighters
        else:
            place, entries = ["weighters"], self.file.suite.weighters
        named = [entry.name for entry in entries]
        for name in self.entry.hyperparameters:
            if name not in named:
                raise self.file.error([*self.place, "hyperparameters", name], unknown("weighter", name, named))
        changes = self.entry.hyperparameters
        specs = [
            spec
            for number, entry in enumerate(entries)
            for spec in self._grid([*place, number], entry, changes.get(entry.name, {}))
        ]
        # Under a prior a control is another weighting, and what the others are held against is missing.
        there = {spec.name for spec in specs if spec.hyperparameters[priors.NAME] is None}
        for control in CONTROLS:
            if control not in there:
                specs += self._grid(place, WeighterEntry(name=control), {})
        return [spec for spec in _labelled(specs) if self._wanted(spec.name)]

    def _grid(self, place: list[str | int], entry: WeighterEntry, changes: Mapping[str, Any]) -> list[WeighterSpec]:
        """One spec for each combination of values. changes: to the entry's hyperparameters, for this problem."""
        try:
            kind = weighter_class(entry.name)
            source = own_source(entry.name)
        except UserError as error:
            raise self.file.error([*place, "name"], str(error)) from error
        given = {**entry.hyperparameters, **changes}
        defaults = hyperparameters_of(kind)
        hints = _hints(kind)
        axes: dict[str, list[Any]] = {}
        for name, value in given.items():
            here = [*self.place, "hyperparameters", entry.name, name] if name in changes else [*place, name]
            if name not in defaults:
                raise self.file.error(here, f"{entry.name}: {unknown('hyperparameter', name, defaults)}")
            axes[name] = (
                self._priors(here, value) if name == priors.NAME else self._values(here, value, hints.get(name, Any))
            )
        combinations = [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]
        return [self._checked(place, entry.name, kind, source, combination) for combination in combinations]

    def _values(self, place: list[str | int], value: Any, hint: Any) -> list[Any]:
        """The values of one axis of the grid: a list, unless the hyperparameter itself is a list of numbers."""
        takes_list = "Sequence" in str(hint)
        is_grid = isinstance(value, list) and (not takes_list or any(isinstance(item, list) for item in value))
        if isinstance(value, list) and not value:
            raise self.file.error(place, "expected at least one value, found an empty list")
        values = value if is_grid else [value]
        for item in values:
            self._check_type(place, item, hint)
        return list(values)

    def _priors(self, place: list[str | int], value: Any) -> list[Any]:
        try:
            return priors.priors(value, self.problem.tasks)
        except ValueError as error:
            raise self.file.error(place, f"{error} (for problem {self.entry.name})") from error

    def _check_type(self, place: list[str | int], value: Any, hint: Any) -> None:
        try:
            TypeAdapter(hint).validate_python(value, strict=True)
        except ValidationError as error:
            raise self.file.error(place, explain(error)[1]) from error
        except PydanticSchemaGenerationError:
            return

    def _checked(
        self, place: list[str | int], name: str, kind: type[Weighter], source: str | None, chosen: Mapping[str, Any]
    ) -> WeighterSpec:
        try:
            build(kind, self.problem.num_tasks, batch_shape=self.problem.batch_shape, **chosen)
            defaults = hyperparameter_defaults(kind)
        except Exception as error:
            raise self.file.error(place, f"{one_line(error)} (for problem {self.entry.name})") from error
        values = {**defaults, **chosen}
        return WeighterSpec(name=name, label=name, hyperparameters=values, version=kind.version, source=source)


def _hints(kind: type[Any]) -> dict[str, Any]:
    """The types of a class's arguments; none where the user's own code names types that cannot be found."""
    try:
        return typing.get_type_hints(kind.__init__)
    except (NameError, AttributeError):
        return {}


def _labelled(specs: Sequence[WeighterSpec]) -> list[WeighterSpec]:
    """Labels that tell apart: the name, with what is not at its default where specs of one name differ."""
    labelled = []
    for spec in specs:
        short = spec.name.rpartition(":")[2]
        kin = [other for other in specs if other.name == spec.name]
        defaults = hyperparameter_defaults(weighter_class(spec.name))
        differing = [
            name
            for name, value in spec.hyperparameters.items()
            if value != defaults[name] and any(other.hyperparameters[name] != value for other in kin)
        ]
        values = ", ".join(f"{name}={_short(spec.hyperparameters[name])}" for name in differing)
        labelled.append(spec.model_copy(update={"label": f"{short}[{values}]" if values else short}))
    return labelled


def _short(value: Any) -> str:
    if isinstance(value, list | tuple):
        return "(" + ", ".join(_short(item) for item in value) + ")"
    return f"{value:g}" if isinstance(value, float) else str(value)
