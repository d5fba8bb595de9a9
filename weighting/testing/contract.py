"""The contract as a list of checks: what every method must do, whatever it computes."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from weighting.testing import absence, answers, devices, memory
from weighting.testing.settings import Subject

Check = Callable[[Subject], None]
"""Raises AssertionError, or whatever the method raises, where a property does not hold. Its docstring says the property."""


def _listed(*checks: Check) -> dict[str, Check]:
    return {check.__name__: check for check in checks}


IN_EVERY_SETTING: Mapping[str, Check] = {
    **_listed(
        answers.weights_have_the_shape_of_the_losses,
        answers.any_number_of_tasks_will_do,
        answers.losses_with_a_graph_leave_none_behind,
        answers.weights_given_are_the_callers,
        answers.observations_stay_as_they_are,
        answers.asking_changes_nothing,
        answers.probes_are_numbers_of_the_state,
        answers.prints_its_hyperparameters,
        answers.wants_no_more_than_it_needs,
        answers.answers_come_from_where_it_says,
        answers.a_prior_multiplies_the_weights,
        absence.replicas_are_independent,
        absence.absent_tasks_have_weight_0_and_leave_no_trace,
        absence.all_present_is_the_same_said_or_not,
        absence.a_task_absent_at_the_start_may_join,
        absence.a_step_without_any_task_teaches_nothing_wrong,
        absence.what_is_not_finite_is_that_tasks_absence,
        memory.state_is_float64_and_in_buffers,
        memory.resumes_from_its_state,
        memory.goes_back_to_an_earlier_state,
        memory.guard_counts_survive_saving,
        memory.starting_after_a_resume_changes_nothing,
        memory.follows_a_cast_to_single_precision_and_back,
        memory.reset_is_a_fresh_start,
        memory.created_under_the_meta_device_it_is_real,
        memory.memory_that_nobody_filled_is_one_error,
        devices.no_step_reads_a_value_on_the_host,
        devices.everything_stays_on_the_device_of_the_losses,
    ),
    "goes_on_after_copies": memory.goes_on_after_copies,
    "goes_on_after_casts_of_the_model": memory.goes_on_after_casts_of_the_model,
    "goes_on_after_a_second_start": memory.goes_on_after_a_second_start,
}
"""Name -> check of a method in one setting."""

ONCE: Mapping[str, Check] = _listed(
    answers.defaults_and_search_are_its_own,
    answers.mistakes_are_one_line,
    answers.numbers_are_the_same_in_another_process,
)
"""Name -> check of a method as such, asked in its default setting."""
