"""Batches drawn from several data sets."""

import numpy as np
import pytest

from selfflow_robotics.data.mixture import CYCLE, Mixture
from selfflow_robotics.data.rlds.index import RldsIndex
from selfflow_robotics.data.rlds.windows import WindowReader
from selfflow_robotics.data.sampler import EpochSampler
from selfflow_robotics.errors import UserError
from tests.rlds_sets import IMAGE_SIZE, make_set


@pytest.fixture(scope="module")
def readers(tmp_path_factory):
    root = tmp_path_factory.mktemp("sets")
    sets = [make_set(root, lengths, name=name) for name, lengths in (("a", [9, 8]), ("b", [7]))]
    return [
        WindowReader(RldsIndex.open(one), horizon=3, future_frames=2, image_size=IMAGE_SIZE)
        for one in sets
    ]


def test_a_batch_holds_its_shares_and_depends_on_the_step_alone(readers):
    mixture = Mixture(readers, [0.75, 0.25], 8, 0, "video")
    batch = mixture.batch(3)
    assert batch.frames.shape == (8, 3, *IMAGE_SIZE, 3)
    assert len(batch.instruction) == 8
    again = Mixture(readers, [0.75, 0.25], 8, 0, "video").batch(3)
    assert np.array_equal(batch.frames, again.frames)
    for place, part in enumerate((slice(0, 6), slice(6, 8))):
        count, reader = part.stop - part.start, readers[place]
        alone = reader.read(EpochSampler(len(reader), count, 0, "video", place).batch(3))
        assert np.array_equal(batch.actions[part], alone.actions)


def test_fewer_frames_can_be_read(readers):
    assert Mixture(readers, [1, 1], 4, seed=0).batch(0, future_frames=0).frames.shape[1] == 1


def test_a_share_of_zero_leaves_a_data_set_out(readers):
    batch = Mixture(readers, [0, 1], 7, seed=0).batch(0)
    assert sorted(batch.step.tolist()) == list(range(7))  # the whole second set
    with pytest.raises(UserError, match="not all 0"):
        Mixture(readers, [0, 0], 5, seed=0)


def test_every_window_is_seen_once_an_epoch(readers):
    mixture = Mixture([readers[0]], [1.0], batch_size=17, seed=0)
    batch = mixture.batch(0)
    assert sorted(zip(batch.episode.tolist(), batch.step.tolist(), strict=True)) == [
        (episode, step) for episode, length in enumerate((9, 8)) for step in range(length)
    ]


@pytest.mark.parametrize("shares", [(0.7, 0.3), (0.45, 0.55), (0.999, 0.001), (2, 1)])
def test_shares_are_exact_over_a_cycle_and_close_in_each_batch(readers, shares):
    size = 16
    mixture = Mixture(readers, shares, size, 0)
    first = len(readers[0])
    counts = np.array(
        [sum(window < first for window in mixture.windows(n)) for n in range(2 * CYCLE)]
    )
    wanted = shares[0] / sum(shares) * size
    assert np.abs(counts - wanted).max() < 1
    assert counts[:CYCLE].sum() == counts[CYCLE:].sum() == round(wanted * CYCLE)


def test_no_window_is_left_out_of_an_epoch(readers):
    """Of each data set on its own, though shares differ from batch to batch."""
    mixture = Mixture(readers, [0.3, 0.7], 10, 0)
    seen = [window for number in range(6) for window in mixture.windows(number)]
    first = len(readers[0])
    for low, high in ((0, first), (first, first + len(readers[1]))):
        mine = [window for window in seen if low <= window < high][: high - low]
        assert sorted(mine) == list(range(low, high))


def test_a_share_that_is_too_small_is_refused(readers):
    with pytest.raises(UserError, match="less than one window"):
        Mixture(readers, [1, 1e-5], 4, seed=0)
