"""Worker processes: the same batches as without, whatever is interrupted or shared."""

import multiprocessing
import os
import signal
import time

import numpy as np
import pytest

from benchmarks.lerobot_sets import write_lerobot
from selfflow_robotics.data.mixture import Mixture
from selfflow_robotics.data.rlds.index import RldsIndex
from selfflow_robotics.data.rlds.windows import WindowReader
from selfflow_robotics.data.robot_data import open_robot_data
from selfflow_robotics.data.workers import Workers
from selfflow_robotics.errors import UserError
from selfflow_robotics.training.distributed import Ranks
from tests.rlds_sets import IMAGE_SIZE, make_set

STEPS, BATCH = 6, 64


@pytest.fixture(scope="module")
def indices(tmp_path_factory):
    """An RLDS and a LeRobot data set."""
    root = tmp_path_factory.mktemp("sets")
    one, other = (
        RldsIndex.open(make_set(root, lengths, name=name))
        for name, lengths in (("a", [9, 8, 11]), ("b", [7, 5]))
    )
    return [one, open_robot_data(write_lerobot(root / "b_lerobot", other))]


@pytest.fixture(params=[0, 2**30], ids=["reading", "from memory"])
def mixture(indices, request):
    readers = [
        WindowReader(index, 3, 2, IMAGE_SIZE, cache_bytes=request.param) for index in indices
    ]
    return Mixture(readers, [0.7, 0.3], BATCH, 0, "video")


def same(one, other):
    assert one.instruction == other.instruction
    for key, value in vars(one).items():
        if key != "instruction":
            assert isinstance(getattr(other, key), np.ndarray)
            np.testing.assert_array_equal(value, getattr(other, key), err_msg=key)


def batches(mixture, workers, first=0, ranks=None):
    """(step, batch) of each step, as a training loop asks for them."""
    share = ranks.share if ranks else lambda windows: windows
    with Workers(lambda step: (step, mixture.batch(step, None, share)), workers, STEPS) as at:
        return [at(step) for step in range(first, STEPS)]


def test_any_number_of_workers_gives_the_same_batches(mixture):
    expected = batches(mixture, 0)
    for workers in (1, 2):
        found = batches(mixture, workers)
        assert [step for step, _ in found] == list(range(STEPS))
        for (_, one), (_, other) in zip(expected, found, strict=True):
            same(one, other)


def test_a_resumed_run_sees_the_same_rows_at_another_world_size(mixture):
    """Four processes resume, with workers, what one process began without."""
    expected = batches(mixture, 0)[3:]
    found = [batches(mixture, 1, 3, Ranks(rank, 4)) for rank in range(4)]
    for place, (_, whole) in enumerate(expected):
        for rank in range(4):
            step, part = found[rank][place]
            assert step == 3 + place
            count = len(part.frames)
            rows = slice(rank * count, (rank + 1) * count)
            np.testing.assert_array_equal(part.frames, whole.frames[rows])
            np.testing.assert_array_equal(part.actions, whole.actions[rows])
            assert part.instruction == whole.instruction[rows]


def test_steps_may_be_asked_for_again(mixture):
    with Workers(mixture.batch, 1, STEPS) as at:
        same(at(0), mixture.batch(0))
        same(at(4), mixture.batch(4))
        same(at(5), mixture.batch(5))


def test_an_error_in_a_worker_is_one_line():
    def batch_at(step):
        if step == 2:
            raise UserError("shard 7 is damaged")
        return step

    with Workers(batch_at, 2, STEPS) as at:
        assert [at(0), at(1)] == [0, 1]
        with pytest.raises(UserError) as caught:
            at(2)
        assert str(caught.value) == "shard 7 is damaged"


def test_a_worker_that_dies_is_one_line():
    def batch_at(step):
        if step == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return step

    with Workers(batch_at, 1, STEPS) as at:
        with pytest.raises(UserError, match="worker") as caught:
            [at(step) for step in range(STEPS)]
        assert "\n" not in str(caught.value)


def test_workers_outlive_signals_and_end_with_their_use():
    with Workers(lambda step: step, 2, STEPS) as at:
        assert [at(0), at(1)] == [0, 1]
        workers = multiprocessing.active_children()
        assert len(workers) == 2
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            for one in workers:
                os.kill(one.pid, number)
        time.sleep(0.1)
        assert at(2) == 2
        assert all(one.is_alive() for one in workers)
    for one in workers:
        one.join(10)
        assert not one.is_alive()


def test_one_worker_fills_memory_for_all(indices, monkeypatch):
    """Frames that a worker has decoded are in this process's memory too."""
    reader = WindowReader(indices[0], image_size=IMAGE_SIZE)
    with Workers(lambda step: reader.read(range(28)), 1, 1) as at:
        expected = at(0)
    monkeypatch.setattr(RldsIndex, "frame", None)
    same(expected, reader.read(range(28)))
