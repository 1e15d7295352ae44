"""The score of imagined frames."""

import numpy as np
import pytest

from selfflow_robotics.envs.episodes import EpisodeSpec
from selfflow_robotics.evaluation.world_model import Future, Imagined, score


@pytest.fixture
def futures():
    """Mirrored futures differ less from the first frame than the expert's do."""
    random = np.random.default_rng(0)
    made = []
    for seed in range(4):
        first, far, near = random.integers(40, 200, (3, 8, 8, 3))
        frames = np.stack([first, far]).astype(np.uint8)
        mirrored = np.stack([first, first + (near - first) // 8]).astype(np.uint8)
        spec = EpisodeSpec(seed, seed, "standing", {})
        made.append(Future(spec, "", first.astype(np.uint8), np.zeros((2, 7)), frames, mirrored))
    return made


def _both(futures):
    return np.stack([f.frames for f in futures]), np.stack([f.mirrored_frames for f in futures])


def test_perfect_frames_follow_their_actions(futures):
    result = score(futures, Imagined(*_both(futures)))
    assert result["follows_actions"] == 1.0
    assert result["margin_db"] > 10


def test_frames_of_the_other_actions_do_not_follow(futures):
    frames, mirrored = _both(futures)
    assert score(futures, Imagined(mirrored, frames))["follows_actions"] == 0.0


def test_a_copy_of_the_first_frame_is_at_chance(futures):
    copy = np.stack([np.stack([f.first, f.first]) for f in futures])
    result = score(futures, Imagined(copy, copy))
    assert result["follows_actions"] == 0.5
    assert result["margin_db"] == 0
    assert result["psnr_db"] == pytest.approx(result["copy_psnr_db"])
