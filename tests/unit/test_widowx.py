"""The WidowX robot: geometry and motion against SIMPLER's numbers, its gripper, its rule."""

from pathlib import Path

import numpy as np
import pytest

from selfflow_robotics.envs.episodes import draw_start
from selfflow_robotics.envs.simpler.env import SimplerEnv
from selfflow_robotics.envs.simpler.robots import ROBOTS
from selfflow_robotics.envs.tabletop.backend import mujoco
from selfflow_robotics.envs.tabletop.env import TabletopEnv
from selfflow_robotics.envs.tabletop.mjcf import CAMERA
from selfflow_robotics.envs.tasks.catalog import GROUPS, TASKS, get_task
from selfflow_robotics.envs.tasks.rules import Seen, Touch
from selfflow_robotics.robot.rotations import from_wxyz

PATH = Path(__file__).parents[1] / "golden" / "simpler_widowx.npz"
# Recorded in the real SIMPLER: the episode's number in the task's grid.
CELLS = {
    "carrot_on_plate": 5,
    "spoon_on_towel": 4,
    "stack_cube": 14,
    "put_eggplant_in_basket": 9,
}
STILL = np.zeros(7, np.float32)
TASK_NAMES = GROUPS["widowx"]


def gripper(command):
    return np.append(STILL[:6], np.float32(command))


@pytest.fixture(scope="module")
def recordings():
    with np.load(PATH) as arrays:
        return {key: arrays[key] for key in arrays.files}


@pytest.fixture(scope="module")
def envs():
    made = {}
    return lambda name: made.setdefault(name, TabletopEnv(get_task(name), (16, 20)))


def replayed(env, recordings, name):
    """Tool errors (m, rad) and success after each recorded action."""
    env.begin(0, env.task.grid()[CELLS[env.task.name]])
    objects = np.stack([recordings[f"{name}/{which}"][0] for which in ("source", "target")])
    env.place(recordings[f"{name}/qpos"][0].astype(np.float64), objects.astype(np.float64))
    errors, turns, successes = [], [], []
    for action, tool in zip(
        recordings[f"{name}/action"], recordings[f"{name}/tcp"][1:], strict=True
    ):
        info = env.advance(action)
        pose = info["state"]["tool_pose"]
        errors.append(np.linalg.norm(pose[:3] - tool[:3]))
        turns.append((from_wxyz(pose[3:]).inv() * from_wxyz(tool[3:])).magnitude())
        successes.append(info["success"])
    return np.array(errors), np.array(turns), successes


@pytest.mark.parametrize("task", ["carrot_on_plate", "put_eggplant_in_basket"])
def test_tool_follows_simpler_in_free_motion(envs, recordings, task):
    errors, turns, successes = replayed(envs(task), recordings, f"wander_{task}")
    assert errors.max() < 0.0003
    assert np.rad2deg(turns).max() < 0.05
    assert not any(successes)


@pytest.mark.parametrize("task", TASK_NAMES)
def test_simplers_successes_succeed_here_too(envs, recordings, task):
    errors, turns, successes = replayed(envs(task), recordings, f"expert_{task}")
    expected = recordings[f"expert_{task}/success"]
    assert abs(int(np.argmax(successes)) - int(np.argmax(expected))) <= 1
    assert successes[-1]
    assert errors.max() < 0.003
    assert np.rad2deg(turns).max() < 0.5


def test_tool_stands_where_simpler_has_it(envs):
    observation, info = envs("carrot_on_plate").reset(seed=0)
    expected = (0.29207, -0.006091, 0.13532, 0.005257, 0.726866, -0.008084, 0.686712, 0.0)
    np.testing.assert_allclose(observation["proprio"], expected, atol=1e-5)
    assert len(info["state"]["qpos"]) == 8


@pytest.mark.parametrize(
    ("task", "height"),
    [("stack_cube", 0.884532), ("spoon_on_towel", 0.879938), ("put_eggplant_in_basket", 0.9385)],
)
def test_objects_rest_as_high_as_in_simpler(envs, task, height):
    state = envs(task).begin(0, {})["state"]
    assert state["object_pose"][2] == pytest.approx(height, abs=2e-3)


@pytest.mark.parametrize(("task", "pixel"), [("carrot_on_plate", (319.5, 239.5))])
def test_camera_sees_as_a_c920(envs, task, pixel):
    env = envs(task)
    data = mujoco.MjData(env.model)
    mujoco.mj_forward(env.model, data)
    camera = env.model.camera(CAMERA).id
    np.testing.assert_allclose(data.cam_xpos[camera], (0.147, 0.188, 1.23), atol=1e-6)
    forward = -data.cam_xmat[camera].reshape(3, 3)[:, 2]
    along = np.array([-1.0, -0.553, -1.085])
    np.testing.assert_allclose(forward, along / np.linalg.norm(along), atol=1e-6)
    focal, sensor = env.model.cam_intrinsic[camera][:2], env.model.cam_sensorsize[camera]
    np.testing.assert_allclose(focal * (640, 480) / sensor, 623.588, atol=1e-3)


def test_pictures_of_another_shape_are_stretched():
    wide, square = (TabletopEnv(get_task("stack_cube"), size) for size in ((48, 64), (48, 48)))
    images = [env.reset(seed=1)[0]["image"].astype(float) for env in (wide, square)]
    # Both show the whole field: columns of one are those of the other, resampled.
    columns = [image.mean((0, 2)) for image in images]
    resampled = np.interp(np.linspace(0, 1, 48), np.linspace(0, 1, 64), columns[0])
    assert np.abs(resampled - columns[1]).mean() < 3


def test_the_gripper_goes_where_it_is_told_and_stays(envs):
    env = envs("carrot_on_plate")
    env.begin(0, {})
    closed = [env.advance(gripper(1))["state"]["gripper"] for _ in range(2)]
    np.testing.assert_allclose(closed, (0.630277, 0.863365), atol=1e-3)  # SIMPLER's
    for command in (0.0, 0.0, 0.0):  # as before: it goes on closing
        state = env.advance(gripper(command))["state"]
    assert state["gripper"] > 0.98
    for _ in range(6):
        state = env.advance(gripper(-1))["state"]
    assert state["gripper"] < 0.01


def test_simplers_gripper_has_the_other_sign():
    env = object.__new__(SimplerEnv)
    env._robot, env._last_gripper = ROBOTS["widowx"], -1.0
    sent = [env._in_simplers_terms(gripper(g))[6] for g in (0, 1, 0, 0.5, -1, 0)]
    assert sent == [1, -1, -1, -0.5, 1, 1]
    move = np.array([0.01, 0.02, 0.03, 0.1, 0.2, 0.3, 1.0], np.float32)
    np.testing.assert_array_equal(env._in_simplers_terms(move)[:6], move[:6])
    env._robot = ROBOTS["google_robot"]
    assert env._in_simplers_terms(move) is move


@pytest.mark.parametrize("name", TASK_NAMES)
def test_simpler_lets_the_objects_go_where_the_scene_has_them(name):
    task = TASKS[name]
    assert len(task.grid()) == 24
    for episode in (draw_start(task, 0, cell) for cell in task.grid()):
        told, scene = task.bound().attributes(episode), task.scene(episode)
        assert task.bound().object_options(episode) == {"episode_id": 0}
        np.testing.assert_allclose(told["_xy_configs"][0], [item.xy for item in scene.objects])
        for turn, item in zip(told["_quat_configs"][0], scene.objects, strict=True):
            np.testing.assert_allclose(turn, item.rest.quaternion)


def seen(source, goal, touched=frozenset()):
    """Two unturned objects at these places."""
    poses = np.array([[*place, 1.0, 0.0, 0.0, 0.0] for place in (source, goal)])
    return Seen(poses, (Touch(frozenset(touched), ((), ())), Touch(frozenset(), ((), ()))))


CUBE, GOAL = (-0.2, 0.0, 0.015), (-0.1, 0.0, 0.015)


@pytest.mark.parametrize(
    ("place", "touched", "success"),
    [
        ((-0.1, 0.0, 0.045), {"yellow_cube"}, True),
        ((-0.1, 0.0, 0.064), set(), True),  # 2 cm above it, at most
        ((-0.1, 0.0, 0.066), set(), False),
        ((-0.1, 0.024, 0.045), set(), True),  # half the diagonal, and 3 mm
        ((-0.1, 0.025, 0.045), set(), False),
        ((-0.1, 0.0, 0.045), {"table"}, False),
        (CUBE, {"table"}, False),
    ],
)
def test_the_rule_of_the_cubes(place, touched, success):
    rule = TASKS["stack_cube"].rule({"variant": "near"}, seen(CUBE, GOAL))
    info = rule.update(seen(place, GOAL, touched))
    assert info["success"] == info["src_on_target"] == success
    assert info["moved_correct_obj"] == (place != CUBE)
    assert not info["moved_wrong_obj"]


def test_the_rule_tells_the_wrong_object():
    rule = TASKS["stack_cube"].rule({"variant": "near"}, seen(CUBE, GOAL))
    info = rule.update(seen(CUBE, (-0.1, 0.05, 0.015)))
    assert info["moved_wrong_obj"]
    assert not info["moved_correct_obj"]


@pytest.mark.parametrize("name", ["spoon_on_towel", "put_eggplant_in_basket"])
def test_some_may_touch_more_than_their_goal(name):
    task = TASKS[name]
    episode = draw_start(task, 0, {})
    start, goal = (-0.2, 0.1, 0.0), (-0.1, 0.0, 0.0)
    info = task.rule(episode, seen(start, goal)).update(seen((-0.1, 0.0, 0.02), goal, {"table"}))
    assert info["success"]
