"""The score of imagined frames."""

import numpy as np
import pytest

from selfflow_robotics.envs.episodes import EpisodeSpec
from selfflow_robotics.evaluation.world_model import Future, Imagined, record_future, score


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


class _Counting:
    """A simulator whose images show the number of steps since the reset, plus 100 if the last
    action was mirrored."""

    def call(self, method, actions=None, observe="none", **_):
        if method == "reset":
            self.steps = 0
            return {"observation": self._look(0), "info": {}}
        seen = []
        for action in actions:
            self.steps += 1
            seen.append(self._look(100 * (action[1] < 0)))
        return {"observations": seen[-1:] if observe == "last" else seen, "infos": [{}]}

    def _look(self, offset):
        image = np.full((8, 8, 3), self.steps + offset, np.uint8)
        return {"image": image, "instruction": "pick coke can"}


class _Sideways:
    def begin(self, slot, spec):
        pass

    def act(self, slots, observations, infos):
        return [np.array([[0, 1, 0, 0, 0, 0, 1]], np.float32)]


@pytest.mark.parametrize("stride", [1, 3])
def test_a_future_has_every_nth_frame_and_all_actions(monkeypatch, stride):
    monkeypatch.setattr("selfflow_robotics.evaluation.world_model.ScriptedExpert", _Sideways)
    spec = EpisodeSpec("pick_coke_can", "standing", seed=7)
    future = record_future(_Counting(), spec, 2, (8, 8), stride)
    begin = int(future.first[0, 0, 0])
    assert future.actions.shape == (2 * stride, 7)
    assert future.frames[:, 0, 0, 0].tolist() == [begin + stride, begin + 2 * stride]
    expected = [100 + begin + stride, 100 + begin + 2 * stride]
    assert future.mirrored_frames[:, 0, 0, 0].tolist() == expected
