"""SIMPLER's success rules, on made-up touches."""

import numpy as np
import pytest

from selfflow_robotics.envs.tasks.drawers import DrawerRule
from selfflow_robotics.envs.tasks.place_in_drawer import PlaceInDrawerRule
from selfflow_robotics.envs.tasks.rules import PickRule, Seen, Touch, is_grasped

UP, NONE = np.array([0.0, 1.0, 0.0]), np.zeros(3)


def pressed(angle_deg: float, size: float = 1e-3):
    """One finger: nothing on the base, an impulse on the tip `angle_deg` off its opening."""
    angle = np.deg2rad(angle_deg)
    return (NONE, UP), (size * np.array([np.sin(angle), np.cos(angle), 0.0]), UP)


def touch(right=0.0, left=0.0, others=(), size=1e-3) -> Touch:
    return Touch(frozenset(others), (pressed(right, size), pressed(left, size)))


FREE = Touch(frozenset(), (((NONE, UP), (NONE, UP)), ((NONE, UP), (NONE, UP))))
ON_TABLE = Touch(frozenset({"table"}), FREE.fingers)


def seen(height: float, touched: Touch) -> Seen:
    return Seen(np.array([[0.0, 0.0, height, 1.0, 0.0, 0.0, 0.0]]), (touched,))


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        (touch(0, 0), True),
        (touch(79, 79), True),
        (touch(81, 0), False),
        (touch(0, 81), False),
        (touch(180, 0), False),
        (touch(size=5e-7), False),
        (FREE, False),
    ],
)
def test_grasp_needs_both_sides_within_the_angle(case, expected):
    assert is_grasped(case) is expected


def test_lift_needs_height_and_no_other_contact():
    rule = PickRule(0.9)
    assert not rule.update(seen(0.9099, touch()))["success"]
    assert not rule.update(seen(0.92, touch(others={"table"})))["success"]
    info = rule.update(seen(0.911, touch()))
    assert info["success"]
    assert info["lifted_object"]
    assert not info["lifted_object_significantly"]


def test_lift_is_remembered_while_grasped_and_forgotten_after():
    rule = PickRule(0.9)
    rule.update(seen(0.92, touch()))
    # Touching the table while still grasped does not undo the lift; letting go does.
    assert rule.update(seen(0.905, touch(others={"table"})))["success"]
    assert not rule.update(seen(0.905, ON_TABLE))["success"]
    # Thrown into the air counts, without any grasp.
    assert rule.update(seen(0.92, FREE))["success"]


def test_five_significant_steps_make_success_last():
    rule = PickRule(0.9)
    for step in range(5):
        info = rule.update(seen(0.9201 + 1e-4, touch()))
        assert info["lifted_object_significantly"]
        assert info["consecutive_grasp"] == (step == 4)
    info = rule.update(seen(0.9, ON_TABLE))
    assert info["success"]
    assert not info["lifted_object"]
    assert info["episode_stats"] == {
        "n_lift_significant": 5, "consec_grasp": True, "grasped": True,
    }  # fmt: skip


def test_fewer_significant_steps_do_not():
    rule = PickRule(0.9)
    for _ in range(4):
        rule.update(seen(0.93, touch()))
    assert not rule.update(seen(0.9, ON_TABLE))["success"]


def drawers(*openings_m: float, touched: tuple[Touch, ...] = ()) -> Seen:
    return Seen(np.zeros((len(touched), 7)), touched, np.array(openings_m))


@pytest.mark.parametrize(
    ("opens", "opening_m", "success"),
    [(True, 0.151, True), (True, 0.149, False), (False, 0.049, True), (False, 0.051, False)],
)
@pytest.mark.parametrize("drawer", range(3))
def test_the_drawer_that_was_named_must_be_open_or_shut(drawer, opens, opening_m, success):
    other = 0.0 if opens else 0.2
    openings = [opening_m if index == drawer else other for index in range(3)]
    info = DrawerRule(drawer, opens).update(drawers(*openings))
    assert info["success"] is success
    assert info["qpos"] == opening_m


IN_DRAWER = Touch(frozenset({"top_drawer_bottom"}), FREE.fingers)


def test_the_apple_in_the_drawer_counts_from_the_second_stage():
    rule = PlaceInDrawerRule()
    for _ in range(100):
        info = rule.update(drawers(0.2, 0, 0, touched=(IN_DRAWER,)))
        assert not info["success"]
        assert rule.stage == 0
    # The touch is remembered; the drawer must be ajar now.
    assert rule.update(drawers(0.051, 0, 0, touched=(ON_TABLE,)))["success"]
    assert rule.stage == 1
    info = rule.update(drawers(0.049, 0, 0, touched=(IN_DRAWER,)))
    assert not info["success"]
    assert info["episode_stats"] == {"qpos": 0.049, "is_drawer_open": True, "has_contact": 101}


def test_an_apple_elsewhere_is_not_in_the_drawer():
    rule = PlaceInDrawerRule()
    infos = [rule.update(drawers(0.3, 0, 0, touched=(ON_TABLE,))) for _ in range(120)]
    assert not any(info["success"] for info in infos)
