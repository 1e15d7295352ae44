"""LeRobot's own package reads what the tests write, and we read what it writes."""

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from benchmarks.lerobot_sets import write_lerobot
from selfflow_robotics.data.rlds.index import RldsIndex
from selfflow_robotics.data.robot_data import open_robot_data
from tests.rlds_sets import GOLDEN_SET

SCRIPT = Path(__file__).parents[1] / "interop" / "lerobot_episodes.py"
PYTHON = os.environ.get("LEROBOT_PYTHON")

pytestmark = pytest.mark.skipif(
    PYTHON is None,
    reason="LEROBOT_PYTHON is no Python with lerobot[dataset], which has other versions of torch",
)


def lerobot(*words):
    done = subprocess.run([str(PYTHON), SCRIPT, *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def expected(index):
    """What the package has of all steps."""
    frames = range(index.num_frames)
    return {
        "frames": index.read_frames(np.arange(index.num_frames), index.image_size),
        "state": index.proprio,
        "action": index.actions,
        "episode": index.episode_of(np.arange(index.num_frames)),
        "task": np.array([index.instruction_of(frame) for frame in frames]),
    }


def test_lerobot_reads_the_same_from_our_copy(tmp_path):
    golden = RldsIndex.open(GOLDEN_SET)
    options = {"g": "2", "crf": "30"}
    root = write_lerobot(tmp_path / "set", golden, codec="libsvtav1", options=options)
    lerobot("read", root, tmp_path / "read.npz")
    ours, theirs = expected(open_robot_data(root)), np.load(tmp_path / "read.npz")
    for key, value in ours.items():
        if key == "frames":  # the conversion from YUV to RGB differs by rounding
            assert np.abs(value.astype(int) - theirs[key]).mean() < 1
        else:
            np.testing.assert_array_equal(value, theirs[key], err_msg=key)


def test_we_read_what_lerobot_writes(tmp_path):
    golden = RldsIndex.open(GOLDEN_SET)
    rows = expected(golden)
    rows["episode"] = np.arange(golden.num_frames) // 7  # three episodes
    np.savez(tmp_path / "rows.npz", **rows)
    lerobot("write", tmp_path / "set", tmp_path / "rows.npz")
    index = open_robot_data(tmp_path / "set")
    ours = expected(index)
    for key in ("state", "action", "episode", "task"):
        np.testing.assert_array_equal(rows[key], ours[key], err_msg=key)
    error = np.mean((ours["frames"].astype(float) - rows["frames"]) ** 2)
    assert 10 * np.log10(255**2 / error) > 30
