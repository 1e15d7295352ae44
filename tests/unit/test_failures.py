"""How an episode failed, from what both simulators report."""

import numpy as np
import pytest

from selfflow_robotics.envs.tasks.catalog import TASKS
from selfflow_robotics.envs.tasks.failures import Course
from tests.evaluations import infos_of

UP, DOWN, FAR = (0, 0, 0.1), (0, 0, -0.3), (0.2, 0, 0)
STILL = (0, 0, 0)


def _kind(task, variant, moves, drawers=None, succeeded=False):
    """`moves[t][n]`: offset (m) of object n from its start at step t."""
    infos = infos_of(moves, drawers)
    infos[1]["success"] = succeeded
    kind = TASKS[task].failure({"variant": variant}, Course.of(infos))
    assert kind in TASKS[task].failures
    return kind


@pytest.mark.parametrize(
    ("moves", "kind"),
    [
        ([STILL, STILL], "never moved"),
        ([STILL, (0.009, 0, 0)], "never moved"),
        ([STILL, (0.02, 0, 0), STILL], "moved but not lifted"),
        ([STILL, (0, 0, -0.04), (0, 0, -0.04)], "moved but not lifted"),  # knocked over
        ([STILL, UP, STILL], "lifted then dropped"),
        ([STILL, UP, DOWN], "fell off"),
        ([STILL, STILL, UP], "lifted but not finished"),
    ],
)
def test_a_can(moves, kind):
    assert _kind("pick_coke_can", "standing", [[move] for move in moves]) == kind


@pytest.mark.parametrize(
    ("moves", "succeeded", "kind"),
    [
        ([STILL, STILL, STILL], False, "never moved"),
        ([STILL, FAR, STILL], False, "wrong object"),
        ([STILL, STILL, FAR], False, "wrong object"),
        ([FAR, STILL, STILL], False, "not near the target"),
        ([FAR, STILL, STILL], True, "reached then lost"),
        ([STILL, DOWN, STILL], False, "fell off"),
        ([(0.02, 0, 0), STILL, STILL], False, "moved but not lifted"),
    ],
)
def test_one_of_three_objects(moves, succeeded, kind):
    moves = [[STILL] * 3, moves]
    assert _kind("move_near", "coke-redbull-apple", moves, succeeded=succeeded) == kind


@pytest.mark.parametrize(
    ("task", "openings", "kind"),
    [
        ("open_drawer", [(0, 0, 0), (0, 0.01, 0)], "never moved"),
        ("open_drawer", [(0, 0, 0), (0.1, 0.01, 0)], "wrong drawer"),
        ("open_drawer", [(0, 0, 0), (0, 0.1, 0)], "opened too little"),
        ("open_drawer", [(0, 0, 0), (0, 0.2, 0), (0, 0.01, 0)], "opened then closed"),
        ("close_drawer", [(0, 0.2, 0), (0, 0.2, 0)], "never moved"),
        ("close_drawer", [(0, 0.2, 0), (0, 0.1, 0)], "closed too little"),
        ("close_drawer", [(0, 0.2, 0), (0, 0.01, 0), (0, 0.1, 0)], "closed then opened"),
        ("close_drawer", [(0, 0.2, 0), (0.1, 0.2, 0)], "wrong drawer"),
    ],
)
def test_a_drawer(task, openings, kind):
    succeeded = kind in ("opened then closed", "closed then opened")
    moves = [[] for _ in openings]
    assert _kind(task, "middle", moves, openings, succeeded) == kind


@pytest.mark.parametrize(
    ("top", "move", "kind"),
    [
        ((0, 0.1), STILL, "drawer not opened"),
        ((0.2, 0.01), STILL, "drawer opened then closed"),
        ((0.2, 0.2), STILL, "never moved"),
        ((0.2, 0.2), UP, "lifted but not finished"),
        ((0.2, 0.2), (0, 0, -0.6), "fell off"),
    ],
)
def test_an_apple_for_a_drawer(top, move, kind):
    openings = [(0, 0, 0), *((opening, 0, 0) for opening in top)]
    moves = [[STILL], [STILL], [move]]
    assert _kind("place_apple_in_closed_top_drawer", "b0", moves, openings) == kind


@pytest.mark.parametrize(
    ("moves", "succeeded", "kind"),
    [
        ([STILL, FAR], False, "wrong object"),
        ([UP, STILL], False, "lifted but not finished"),
        ([FAR, STILL], True, "reached then lost"),
        ([STILL, STILL], False, "never moved"),
    ],
)
def test_one_object_for_another(moves, succeeded, kind):
    moves = [[STILL] * 2, moves]
    assert _kind("stack_cube", "narrow", moves, succeeded=succeeded) == kind


@pytest.mark.parametrize("name", TASKS)
def test_every_task_names_its_kinds(name):
    kinds = TASKS[name].failures
    assert kinds
    assert len(set(kinds)) == len(kinds)
    task = TASKS[name]
    variant = task.variants[0]
    count, openings = len(task.bodies) and 3, np.zeros((2, 3))
    infos = infos_of([[STILL] * count] * 2, openings)
    assert task.failure({"variant": variant}, Course.of(infos)) in kinds
