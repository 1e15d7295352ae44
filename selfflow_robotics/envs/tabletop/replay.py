"""Replay actions recorded in SIMPLER and measure how far this simulator's tool deviates.

    python -m selfflow_robotics.envs.tabletop.replay tests/golden/simpler_rollouts.npz
    python -m selfflow_robotics.envs.tabletop.replay RECORDINGS.npz --steps pick_upright_0

A recording has one episode's arrays: `action` [T, 7], `qpos` [T+1, 11], `tcp` [T+1, 7] and
`base_pose` [7] (world, xyz and wxyz), and `obj` [T+1, 7] where the scene is the can on the table.
"""

import argparse
import math
import sys
import zipfile
from collections.abc import Sequence

import numpy as np
from scipy.spatial.transform import Rotation

from selfflow_robotics.envs.tabletop import furniture
from selfflow_robotics.envs.tabletop.backend import mujoco
from selfflow_robotics.envs.tabletop.env import TabletopEnv
from selfflow_robotics.envs.tasks.catalog import DEFAULT_TASK, get_task
from selfflow_robotics.envs.tasks.objects import COKE_CAN
from selfflow_robotics.errors import UserError, unknown
from selfflow_robotics.robot.rotations import from_wxyz

_NO_CONTACT = mujoco.mjtDisableBit.mjDSBL_CONTACT
_LYING = COKE_CAN.rests["horizontal"]
_AWAY = np.array([-0.5, 0.0, furniture.TABLE_TOP + _LYING.height, *_LYING.quaternion])


def load_recordings(path: str) -> dict[str, dict[str, np.ndarray]]:
    """Episodes of an npz file with keys `episode/array`, by name. Raises UserError for
    other files."""
    episodes: dict[str, dict[str, np.ndarray]] = {}
    try:
        with np.load(path) as arrays:
            for key in arrays.files:
                name, _, array = key.partition("/")
                if array:
                    episodes.setdefault(name, {})[array] = arrays[key]
    except (OSError, ValueError, TypeError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} is not an npz file of recordings ({error})") from error
    return episodes


def replay(env: TabletopEnv, recording: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Play a recording's actions from its first state.

    Returns the tool's position error (m) and rotation error (rad) after each action, [T] each, in
    the robot's base frame. If the robot's base is elsewhere (another scene), there are no contacts.
    The arm never touches the robot's own body, unlike SIMPLER's.
    """
    flags = env.model.opt
    here = np.allclose(recording["base_pose"][:3], env.base_pose[:3], atol=1e-3)
    before, flags.disableflags = flags.disableflags, 0 if here else int(_NO_CONTACT)
    try:
        return _play(env, recording)
    finally:
        flags.disableflags = before


def _play(env: TabletopEnv, recording: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    env.place(recording["qpos"][0].astype(np.float64), recording.get("obj", _AWAY[None])[0])
    position_errors, rotation_errors = [], []
    for action, expected in zip(recording["action"], recording["tcp"][1:], strict=True):
        state = env.advance(action)["state"]
        position, rotation = _in_base(state["tool_pose"], state["base_pose"])
        true_position, true_rotation = _in_base(expected, recording["base_pose"])
        position_errors.append(math.hypot(*(position - true_position)))
        rotation_errors.append((rotation.inv() * true_rotation).magnitude())
    return np.array(position_errors), np.array(rotation_errors)


def _in_base(pose: np.ndarray, base: np.ndarray) -> tuple[np.ndarray, Rotation]:
    """Position [3] and rotation of a world pose in the frame of another."""
    to_base = from_wxyz(base[3:]).inv()
    return to_base.apply(pose[:3] - base[:3]), to_base * from_wxyz(pose[3:])


def main(arguments: Sequence[str] | None = None) -> None:
    """Print one line of errors per episode, or with --steps per step of an episode."""
    parser = argparse.ArgumentParser(
        prog="python -m selfflow_robotics.envs.tabletop.replay",
        description="Replay actions recorded in SIMPLER and print how far the tool deviates.",
    )
    parser.add_argument("recordings", metavar="RECORDINGS.npz")
    parser.add_argument("--steps", metavar="EPISODE", help="print every step of this episode")
    options = parser.parse_args(arguments)
    try:
        episodes = load_recordings(options.recordings)
        if options.steps and options.steps not in episodes:
            raise unknown("episode", options.steps, episodes)
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    env = TabletopEnv(get_task(DEFAULT_TASK))
    if options.steps:
        _print_steps(env, episodes[options.steps])
    else:
        _print_episodes(env, episodes)


def _print_steps(env: TabletopEnv, recording: dict[str, np.ndarray]) -> None:
    print("step  position (mm)  rotation (deg)")
    for step, (metres, radians) in enumerate(zip(*replay(env, recording), strict=True), start=1):
        print(f"{step:4d}  {metres * 1e3:13.3f}  {np.rad2deg(radians):14.3f}")


def _print_episodes(env: TabletopEnv, episodes: dict[str, dict[str, np.ndarray]]) -> None:
    print(f"{'episode':28} steps   mm: mean    max  final   deg: mean   max  final")
    for name, recording in episodes.items():
        position, rotation = replay(env, recording)
        mm, deg = position * 1e3, np.rad2deg(rotation)
        print(
            f"{name:28} {len(mm):5d}   {mm.mean():8.2f} {mm.max():6.2f} {mm[-1]:6.2f}"
            f"   {deg.mean():9.2f} {deg.max():5.2f} {deg[-1]:6.2f}"
        )


if __name__ == "__main__":
    main()
