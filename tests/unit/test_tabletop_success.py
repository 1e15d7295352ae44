"""SIMPLER's success rule for picking, on made-up touches."""

import numpy as np
import pytest

from selfflow_robotics.envs.tabletop.success import PickRule, Touch, is_grasped

UP, NONE = np.array([0.0, 1.0, 0.0]), np.zeros(3)


def pressed(angle_deg: float, size: float = 1e-3):
    """One finger: nothing on the base, an impulse on the tip `angle_deg` off its opening."""
    angle = np.deg2rad(angle_deg)
    return (NONE, UP), (size * np.array([np.sin(angle), np.cos(angle), 0.0]), UP)


def touch(right=0.0, left=0.0, only_robot=True, size=1e-3) -> Touch:
    return Touch(only_robot, (pressed(right, size), pressed(left, size)))


FREE = Touch(True, (((NONE, UP), (NONE, UP)), ((NONE, UP), (NONE, UP))))


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
    assert not rule.update(0.9099, touch())["success"]
    assert not rule.update(0.92, touch(only_robot=False))["success"]
    info = rule.update(0.911, touch())
    assert info["success"]
    assert info["lifted_object"]
    assert not info["lifted_object_significantly"]


def test_lift_is_remembered_while_grasped_and_forgotten_after():
    rule = PickRule(0.9)
    rule.update(0.92, touch())
    # Touching the table while still grasped does not undo the lift; letting go does.
    assert rule.update(0.905, touch(only_robot=False))["success"]
    assert not rule.update(0.905, Touch(False, FREE.fingers))["success"]
    # Thrown into the air counts, without any grasp.
    assert rule.update(0.92, FREE)["success"]


def test_five_significant_steps_make_success_last():
    rule = PickRule(0.9)
    for step in range(5):
        info = rule.update(0.9201 + 1e-4, touch())
        assert info["lifted_object_significantly"]
        assert info["consecutive_grasp"] == (step == 4)
    info = rule.update(0.9, Touch(False, FREE.fingers))
    assert info["success"]
    assert not info["lifted_object"]
    assert info["episode_stats"] == {
        "n_lift_significant": 5, "consec_grasp": True, "grasped": True,
    }  # fmt: skip


def test_fewer_significant_steps_do_not():
    rule = PickRule(0.9)
    for _ in range(4):
        rule.update(0.93, touch())
    assert not rule.update(0.9, Touch(False, FREE.fingers))["success"]
