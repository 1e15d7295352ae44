"""Recorded actions of the real SIMPLER, played in the embedded simulator."""

from pathlib import Path

import numpy as np
import pytest

from selfflow_robotics.envs.tabletop.env import TabletopEnv
from selfflow_robotics.envs.tabletop.replay import load_recordings, main, replay
from selfflow_robotics.envs.tasks.catalog import get_task

TASK = get_task("pick_coke_can")
PATH = Path(__file__).parents[1] / "golden" / "simpler_rollouts.npz"
RECORDINGS = load_recordings(str(PATH))
# From these steps on SIMPLER's arm leans on the robot's own body, which nothing here can touch.
OWN_BODY = {"wander_near_0": 16, "wander_close_bottom_drawer": 13}
PICKS = [name for name in RECORDINGS if name.startswith("pick_")]
# SIMPLER's can slips out of this one grasp.
SLIPS = "pick_horizontal_1"


@pytest.fixture(scope="module")
def env():
    return TabletopEnv(TASK)


@pytest.mark.parametrize("name", RECORDINGS)
def test_tool_follows_simpler_in_free_motion(env, name):
    recording = RECORDINGS[name]
    position, rotation = replay(env, recording)
    free = OWN_BODY.get(name, len(position))
    if name in PICKS:
        free = int(np.argmax(recording["action"][:, 6] > 0)) + 1
    assert position[:free].mean() < 0.0006
    assert position[:free].max() < 0.0012
    assert np.rad2deg(rotation[:free]).max() < 0.15


@pytest.mark.parametrize("name", PICKS)
def test_tool_stays_close_while_grasping_and_lifting(env, name):
    position, rotation = replay(env, RECORDINGS[name])
    assert position.max() < 0.0075
    assert np.rad2deg(rotation).max() < 1.1


@pytest.mark.parametrize("name", [name for name in PICKS if name != SLIPS])
def test_simplers_picks_succeed_here_too_and_the_can_is_held(env, name):
    recording = RECORDINGS[name]
    env.place(recording["qpos"][0].astype(np.float64), recording["obj"][0])
    infos = [env.advance(action) for action in recording["action"]]
    ours = [info["success"] for info in infos]
    assert abs(ours.index(True) - int(np.argmax(recording["success"]))) <= 1
    height = infos[-1]["state"]["object_pose"][2]
    for _ in range(18):  # six seconds
        info = env.advance(np.zeros(7, np.float32))
    assert info["is_grasped"]
    assert info["lifted_object_significantly"]
    assert info["consecutive_grasp"]
    # The last lifting action still has a little way to go.
    assert -0.005 < info["state"]["object_pose"][2] - height < 0.05


def test_wandering_never_succeeds(env):
    for name in ("wander_pick_0", "wander_pick_1", "wander_pick_2"):
        recording = RECORDINGS[name]
        env.place(recording["qpos"][0].astype(np.float64), recording["obj"][0])
        assert not any(env.advance(action)["success"] for action in recording["action"])
        assert not recording["success"].any()


def test_command_prints_a_line_per_episode(capsys):
    main([str(PATH)])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + len(RECORDINGS)
    assert lines[1].startswith("pick_upright_0")


def test_command_prints_the_steps_of_one_episode(env, capsys):
    main([str(PATH), "--steps", "pick_upright_0"])
    lines = capsys.readouterr().out.splitlines()[1:]
    position, rotation = replay(env, RECORDINGS["pick_upright_0"])
    printed = np.array([line.split() for line in lines], float)
    np.testing.assert_array_equal(printed[:, 0], np.arange(1, len(position) + 1))
    np.testing.assert_allclose(printed[:, 1], position * 1e3, atol=6e-4)
    np.testing.assert_allclose(printed[:, 2], np.rad2deg(rotation), atol=6e-4)


def test_a_replay_does_not_depend_on_what_was_played_before(env):
    recording = RECORDINGS["pick_upright_0"]
    for one, other in zip(
        replay(env, recording), replay(TabletopEnv(TASK), recording), strict=True
    ):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([str(PATH), "--steps", "pick_uprigth_0"], "did you mean pick_upright_0"),
        (["nowhere.npz"], "not an npz file of recordings"),
        ([__file__], "not an npz file of recordings"),
    ],
)
def test_command_refuses_in_one_line(arguments, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    errors = capsys.readouterr().err
    assert message in errors
    assert errors.count("\n") == 1
