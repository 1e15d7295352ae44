"""The embedded simulator: geometry against SIMPLER's numbers, episodes, determinism, grasps."""

import re
import shutil
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from selfflow_robotics.envs.tabletop import google_robot, scene
from selfflow_robotics.envs.tabletop.backend import mujoco
from selfflow_robotics.envs.tabletop.env import TabletopEnv
from selfflow_robotics.envs.tabletop.kinematics import ArmKinematics, rotation_vector
from selfflow_robotics.envs.tabletop.mjcf import CAMERA
from selfflow_robotics.envs.tasks.catalog import get_task
from selfflow_robotics.errors import UserError

TASK = get_task("pick_coke_can")
ROOT = Path(__file__).parents[2]
NOTHING = np.zeros(7, np.float32)


@pytest.fixture(scope="module")
def env():
    return TabletopEnv(TASK)


def test_gymnasium_accepts_the_environment(env):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # advice about unbounded spaces
        check_env(env, skip_render_check=True)


def test_tool_stands_where_simpler_has_it(env):
    observation, _ = env.reset(seed=0)
    expected = (0.439384, -0.218417, 0.961869, -0.603852, 0.780173, -0.032499, 0.160115, 0.0)
    np.testing.assert_allclose(observation["proprio"], expected, atol=2e-6)


def test_camera_stands_where_simpler_has_it():
    model = TabletopEnv(TASK).model
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    camera = model.camera(CAMERA).id
    np.testing.assert_allclose(data.cam_xpos[camera], (0.20401, 0.20042, 1.29241), atol=1e-5)
    # Columns right, up, back; SIMPLER's are right, down, forward, in the base frame (turned by pi).
    axes = data.cam_xmat[camera].reshape(3, 3)
    np.testing.assert_allclose(-axes[:, 2], (-0.70729, 0.00202, -0.70692), atol=1e-5)
    np.testing.assert_allclose(axes[:, 0], (0.00286, 1.0, 0.0), atol=1e-5)
    assert model.cam_fovy[camera] == pytest.approx(62.13, abs=0.01)


def test_inverse_kinematics_reaches_the_asked_pose():
    arm = ArmKinematics(google_robot.arm_only_mjcf())
    start = np.array(google_robot.RESET_ARM)
    position, rotation = arm.tool_pose(start)
    move, turn = np.array([0.08, 0.1, -0.05]), np.array([0.1, -0.2, 0.3])
    reached, new_rotation = arm.tool_pose(arm.solve(move, turn, start))
    np.testing.assert_allclose(reached - position, move, atol=1e-4)
    np.testing.assert_allclose(rotation_vector(new_rotation @ rotation.T), turn, atol=1e-4)
    assert arm.solve(np.array([5.0, 0.0, 0.0]), np.zeros(3), start) is None


@pytest.mark.parametrize(
    ("variant", "height", "axis"),
    [
        ("standing", 0.95647, (0, 0, 1)),
        ("horizontal", 0.91962, (0, -1, 0)),
        ("vertical", 0.91962, (-1, 0, 0)),
    ],
)
def test_can_rests_as_in_simpler(env, variant, height, axis):
    info = env.begin(3, {"variant": variant, "object_xy": [-0.2, 0.15]})
    pose = info["state"]["object_pose"]
    assert pose[2] == pytest.approx(height, abs=1e-3)
    np.testing.assert_allclose(pose[:2], (-0.2, 0.15), atol=2e-3)
    matrix = np.empty(9)
    mujoco.mju_quat2Mat(matrix, pose[3:])
    np.testing.assert_allclose(matrix.reshape(3, 3)[:, 1], axis, atol=0.01)
    assert info["episode"]["variant"] == variant


def test_episodes_are_drawn_from_the_seed_within_the_range(env):
    episodes = [env.begin(seed, {})["episode"] for seed in range(40)]
    assert {episode["variant"] for episode in episodes} == set(TASK.variants)
    xy = np.array([episode["object_xy"] for episode in episodes])
    assert (xy >= (-0.35, -0.02)).all()
    assert (xy <= (-0.12, 0.42)).all()
    assert np.ptp(xy, axis=0).min() > 0.15
    # A given variant leaves the drawn position alone, and what was drawn repeats the episode.
    assert env.begin(7, {"variant": "vertical"})["episode"]["object_xy"] == xy[7].tolist()


def test_an_episode_leaves_nothing_behind(env):
    fresh = TabletopEnv(TASK)
    expected = [fresh.begin(1, {})["state"], fresh.advance(NOTHING)["state"]]
    env.begin(2, {"variant": "horizontal"})
    for _ in range(5):
        env.advance(np.array([0.05, 0.02, -0.08, 0, 0, 0, 1], np.float32))
    for state, again in zip(expected, [env.begin(1, {}), env.advance(NOTHING)], strict=True):
        for key, value in state.items():
            np.testing.assert_array_equal(value, again["state"][key])


def test_gripper_is_relative_sticky_and_takes_four_steps(env):
    env.begin(0, {})
    close, go_on, open_ = NOTHING.copy(), NOTHING, NOTHING.copy()
    close[6], open_[6] = 1.0, -1.0
    angles = [env.advance(action)["state"]["qpos"][7] for action in (close, go_on, go_on)]
    np.testing.assert_allclose(angles, (0.192, 0.525, 0.858), atol=0.01)  # SIMPLER's
    closed = [env.advance(go_on)["state"] for _ in range(2)][-1]
    assert closed["gripper"] == pytest.approx(1.073 / 1.3, abs=0.04)
    for action in (open_, *[go_on] * 5):
        state = env.advance(action)["state"]
    assert state["gripper"] < 0.01


def test_step_truncates_at_the_task_length_and_never_terminates(env):
    env.reset(seed=0)
    for step in range(TASK.max_episode_steps):
        _, reward, terminated, truncated, info = env.step(NOTHING)
        assert (reward, terminated) == (0.0, False)
        assert truncated == (step + 1 == TASK.max_episode_steps)
    assert info["elapsed_steps"] == TASK.max_episode_steps


def test_refuses_what_it_cannot_use(env):
    env.reset(seed=0)
    with pytest.raises(ValueError, match="finite"):
        env.step(np.full(7, np.nan, np.float32))
    with pytest.raises(ValueError, match="shape"):
        env.advance(np.zeros(6, np.float32))
    with pytest.raises(UserError, match="variant"):
        env.begin(0, {"variant": "upside_down"})
    with pytest.raises(UserError, match="object_xy"):
        env.begin(0, {"object_xy": [0.1]})
    with pytest.raises(UserError, match="option"):
        env.begin(0, {"colour": "red"})
    with pytest.raises(UserError, match="known: ray, gl"):
        TabletopEnv(TASK, renderer="opengl")


def test_provenance_is_complete(env):
    provenance = env.provenance()
    assert provenance["simulator"] == "tabletop"
    assert provenance["image_size"] == [64, 80]
    assert provenance["mujoco"] == mujoco.__version__
    assert len(provenance["physics_sha256"]) == 64


@pytest.mark.parametrize(
    ("name", "number", "other"),
    [
        ("tabletop/control.py", "1.5", "1.6"),
        ("tabletop/google_robot.py", "1.3", "1.4"),
        ("tasks/rules.py", "= 1e-6", "= 2e-6"),
    ],
)
def test_fingerprint_changes_with_the_code_alone(name, number, other, tmp_path, monkeypatch):
    before = scene.physics_fingerprint(TASK)
    copy = tmp_path / "envs"
    shutil.copytree(Path(scene.__file__).parents[1], copy)
    monkeypatch.setattr(scene, "__file__", str(copy / "tabletop" / "scene.py"))
    assert scene.physics_fingerprint(TASK) == before
    text = (copy / name).read_text()
    remarked = re.sub(r'^( *""")(?=[A-Z])', r"\1Namely: ", text, flags=re.MULTILINE)
    (copy / name).write_text(f"# A remark.\n{remarked}")
    assert scene.physics_fingerprint(TASK) == before
    assert number in text
    (copy / name).write_text(text.replace(number, other, 1))
    assert scene.physics_fingerprint(TASK) != before


def test_fingerprint_changes_with_the_task_and_its_objects(monkeypatch):
    class Other(type(TASK)):
        pass

    before = scene.physics_fingerprint(TASK)
    assert scene.physics_fingerprint(Other()) != before
    heavier = replace(TASK.bodies[0], friction=0.6)
    monkeypatch.setattr(type(TASK), "bodies", (heavier,))
    assert scene.physics_fingerprint(TASK) != before
