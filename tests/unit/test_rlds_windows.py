"""Windows: what lies where, padding at the ends, and no leak from one episode to the next."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from selfflow_robotics.data.rlds.index import RldsIndex
from selfflow_robotics.data.rlds.windows import WindowReader
from selfflow_robotics.errors import UserError
from selfflow_robotics.robot.observation import resize_image
from tests.rlds_sets import IMAGE_SIZE, make_set

LENGTHS = [4, 3, 5, 2, 6]


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    return RldsIndex.open(make_set(tmp_path_factory.mktemp("rlds"), LENGTHS))


def test_one_window_a_step(index):
    reader = WindowReader(index, image_size=IMAGE_SIZE)
    assert len(reader) == sum(LENGTHS)
    batch = reader.read(range(len(reader)))
    assert batch.episode.tolist() == np.repeat(np.arange(5), LENGTHS).tolist()
    assert batch.step.tolist() == [t for length in LENGTHS for t in range(length)]
    np.testing.assert_array_equal(batch.proprio, index.proprio)
    assert batch.instruction == ["pick coke can"] * 20
    assert batch.frames.shape == (20, 1, *IMAGE_SIZE, 3)
    assert batch.frames.dtype == np.uint8
    assert batch.frames_valid.all()


def test_actions_end_with_the_episode(index):
    reader = WindowReader(index, horizon=4, image_size=IMAGE_SIZE)
    batch = reader.read(range(len(reader)))
    assert batch.actions.dtype == np.float32
    for row in range(len(reader)):
        episode, step = batch.episode[row], batch.step[row]
        left = LENGTHS[episode] - step
        start = index.episode_start[episode]
        for ahead in range(4):
            action = batch.actions[row, ahead]
            assert batch.action_valid[row, ahead] == (ahead < left)
            if ahead < left:
                np.testing.assert_array_equal(action, index.actions[start + step + ahead])
            else:
                last_gripper = index.actions[start + LENGTHS[episode] - 1, 6]
                assert action.tolist() == [0] * 6 + [last_gripper]


def test_frames_to_come(index):
    reader = WindowReader(index, future_frames=2, image_size=IMAGE_SIZE)
    batch = reader.read([7, 10, 11])  # steps 0, 3 and 4 of the third episode, which has five
    assert batch.frames_valid.tolist() == [[1, 1, 1], [1, 1, 0], [1, 0, 0]]
    for row, frames in enumerate([[7, 8, 9], [10, 11, 11], [11, 11, 11]]):
        for position, frame in enumerate(frames):
            np.testing.assert_array_equal(batch.frames[row, position], index.frame(frame))


@pytest.mark.parametrize("stride", [1, 2, 3, 7])
def test_every_nth_frame_and_every_action(index, stride):
    """Against a loop over the steps of each window."""
    later, horizon = 2, 4
    reader = WindowReader(index, horizon, later, IMAGE_SIZE, frame_stride=stride)
    batch = reader.read(range(len(reader)))
    row = 0
    for episode, length in enumerate(LENGTHS):
        start = index.episode_start[episode]
        for step in range(length):
            assert (batch.episode[row], batch.step[row]) == (episode, step)
            for place in range(1 + later):
                t = step + place * stride
                assert batch.frames_valid[row, place] == (t < length)
                expected = index.frame(start + min(t, length - 1))
                np.testing.assert_array_equal(batch.frames[row, place], expected)
            for place in range(horizon):
                t = step + place
                expected = index.actions[start + min(t, length - 1)].copy()
                expected[:6] *= t < length
                np.testing.assert_array_equal(batch.actions[row, place], expected)
                assert batch.action_valid[row, place] == (t < length)
            np.testing.assert_array_equal(batch.proprio[row], index.proprio[start + step])
            row += 1
    assert row == len(reader)


def test_pictures_are_scaled_as_a_policy_scales_them(index):
    batch = WindowReader(index, image_size=(8, 8)).read([3])
    np.testing.assert_array_equal(batch.frames[0, 0], resize_image(index.frame(3), (8, 8)))


def test_chosen_episodes_in_the_given_order(index):
    reader = WindowReader(index, horizon=2, image_size=IMAGE_SIZE, episodes=[4, 1])
    assert len(reader) == 9
    batch = reader.read(range(9))
    assert batch.episode.tolist() == [4] * 6 + [1] * 3
    frames = [*range(14, 20), *range(4, 7)]
    np.testing.assert_array_equal(batch.proprio, index.proprio[frames])
    np.testing.assert_array_equal(batch.actions[:, 0], index.actions[frames])
    for row, frame in enumerate(frames):
        np.testing.assert_array_equal(batch.frames[row, 0], index.frame(frame))
    assert len(WindowReader(index, episodes=[])) == 0


def test_memory_or_not_gives_the_same(index):
    options = {"future_frames": 3, "image_size": (8, 12)}
    kept = WindowReader(index, **options)
    fresh = WindowReader(index, cache_bytes=0, **options)
    windows = [5, 0, 5, 19, 12, 2]
    expected = fresh.read(windows)
    for _ in range(2):  # once decoding, once from memory
        batch = kept.read(windows)
        for key, value in vars(expected).items():
            np.testing.assert_array_equal(getattr(batch, key), value)


def test_pictures_in_memory_are_not_decoded_again(index, monkeypatch):
    reader = WindowReader(index, image_size=IMAGE_SIZE)
    reader.read([0, 1])
    monkeypatch.setattr(RldsIndex, "frame", None)
    reader.read([1, 0, 1])


@pytest.mark.parametrize("cores", [1, 3, 64])
def test_any_number_of_cores_reads_the_same(index, monkeypatch, cores):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: range(cores))
    reader = WindowReader(index, future_frames=2, image_size=IMAGE_SIZE, cache_bytes=0)
    for windows in ([], [3], list(range(20))):
        frames = reader.read(windows).frames[:, 0]
        assert len(frames) == len(windows)
        for window, frame in zip(windows, frames, strict=True):
            np.testing.assert_array_equal(frame, index.frame(window))


def test_the_first_picture_that_cannot_be_decoded_is_named(index, monkeypatch):
    def refuse(_: RldsIndex, frame: int) -> None:
        if frame % 3 == 0:
            raise UserError(f"picture {frame}")
        raise ValueError("not asked for")

    monkeypatch.setattr("os.sched_getaffinity", lambda _: range(4))
    monkeypatch.setattr(RldsIndex, "frame", refuse)
    with pytest.raises(UserError, match=r"picture 3$"):
        WindowReader(index, image_size=IMAGE_SIZE).read([9, 6, 3, 12])


def test_several_threads(index):
    reader = WindowReader(index, future_frames=2, image_size=IMAGE_SIZE)
    expected = WindowReader(index, future_frames=2, image_size=IMAGE_SIZE).read(range(20)).frames
    with ThreadPoolExecutor(4) as pool:
        for frames in pool.map(lambda _: reader.read(range(20)).frames, range(8)):
            np.testing.assert_array_equal(frames, expected)


def test_a_batch_may_be_changed_without_harm(index):
    reader = WindowReader(index, image_size=IMAGE_SIZE)
    before = index.actions.copy()
    batch = reader.read([0, 1])
    batch.actions += 1
    batch.frames[:] = 0
    batch.proprio[:] = 0
    np.testing.assert_array_equal(index.actions, before)
    assert reader.read([0]).frames.any()
    assert index.proprio.all()


@pytest.mark.parametrize("windows", [[20], [-1]])
def test_windows_outside(index, windows):
    with pytest.raises(IndexError, match="0 to 19"):
        WindowReader(index).read(windows)
