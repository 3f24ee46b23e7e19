"""A misspelt name is answered with the nearest known one."""

from __future__ import annotations

from secretflow_task.utils.spelling import did_you_mean

TASKS = ("psi", "ss_lr", "ss_lr_predict")


def test_the_nearest_name_is_offered() -> None:
    assert did_you_mean("pis", TASKS) == ", did you mean 'psi'?"
    assert did_you_mean("ss_lr_perdict", iter(TASKS)) == ", did you mean 'ss_lr_predict'?"


def test_nothing_is_offered_where_nothing_is_near() -> None:
    assert did_you_mean("kmeans", TASKS) == did_you_mean("psi", ()) == ""


def test_a_caller_says_how_alike_the_names_must_be() -> None:
    assert did_you_mean("ss_lr_perdict", TASKS, likeness=0.9) == ", did you mean 'ss_lr_predict'?"
    assert did_you_mean("pis", TASKS, likeness=0.9) == ""
