"""All checks of a problem, and what they told."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from benchmarks.contract import Problem
from benchmarks.testing import data, model
from benchmarks.testing.case import Case
from weighting.testing import Report, Result
from weighting.testing.report import ask, one_thread, reason

CHECKS: Mapping[str, Callable[[Case], None]] = {
    check.__name__: check
    for check in (
        data.names_and_options_are_complete,
        data.wrong_tasks_are_refused_in_one_line,
        data.metrics_cover_every_task,
        data.facts_and_files_are_plain,
        data.training_batches_depend_on_seed_and_step_alone,
        data.validation_batches_are_like_training_batches,
        data.splits_are_read_in_a_fixed_order,
        data.splits_share_no_rows,
        data.counts_are_sane,
        data.bytes_are_the_same_in_another_process,
        model.trained_parameters_are_float32,
        model.initial_parameters_depend_on_the_seed_alone,
        model.losses_have_the_right_shape_and_a_graph,
        model.losses_are_a_pure_function,
        data.batches_are_cut_into_micro_batches,
        model.evaluation_gives_every_metric,
        model.shared_layer_is_a_trained_part_of_the_model,
        model.norms_of_a_step_are_those_of_the_gradients,
        model.gradients_of_tasks_are_where_the_problem_says,
        model.probes_are_one_number_a_replica,
        data.a_task_alone_has_the_same_data,
    )
}
"""Name -> check. Its docstring says the property; it raises where the property does not hold."""


def check_problem(kind: type[Problem]) -> Report:
    """Every part of the contract of a problem, listed or of one's own, with the options of ``small``.

    Whatever the problem raises is a result; nothing is raised here.
    """
    with one_thread():
        case = Case(kind)
        try:
            tasks, parts = case.problem.tasks, (case.data, case.model)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - a problem of anybody's may raise anything
            meaning = "Problem, data and model can be made from their defaults and a seed."
            return Report(f"{kind.name}: checks: 1", (Result("can be made", meaning, kind.name, reason(error)),))
        results = tuple(ask(name, check, case, kind.name) for name, check in CHECKS.items())
    size = sum(value.numel() for value in parts[1].parameters())
    return Report(f"{kind.name}: checks: {len(results)}; tasks: {', '.join(tasks)}; parameters: {size}", results)
