"""The tables of an index: equal for any division of the work, and built once."""

import multiprocessing
import os
import time

import numpy as np
import pytest

from selfflow_robotics.data import index_cache
from selfflow_robotics.data.index_tables import COMMON, collect, merge
from selfflow_robotics.data.processes import in_processes, processes_for
from selfflow_robotics.errors import UserError

LENGTHS = [3, 1, 5, 2, 4, 0, 2]


def episodes():
    generator = np.random.default_rng(0)
    found = [
        {
            "actions": generator.normal(size=(length, 7)).astype(np.float32),
            "proprio": generator.normal(size=(length, 8)).astype(np.float32),
            "texts": [f"task {n % 3}"] * length,
            "success": n % 2 == 0,
            "failed": n % 2 == 1,
        }
        for n, length in enumerate(LENGTHS)
    ]
    found[4]["proprio"][2, 1] = np.nan
    return found


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_parts_of_any_size_make_equal_tables(size):
    whole = merge(COMMON, [collect(COMMON, episodes())], "toy")
    parts = [collect(COMMON, episodes()[n : n + size]) for n in range(0, len(LENGTHS), size)]
    tables = merge(COMMON, parts, "toy")
    assert tables["instructions"] == whole["instructions"] == ["task 0", "task 2"]
    assert tables["left_out"].tolist() == [2, 1, 0]
    assert tables["episode_start"].tolist() == [0, 3, 8, 10]
    for key in (*COMMON.per_step, *COMMON.per_episode):
        assert tables[key].dtype == whole[key].dtype
        np.testing.assert_array_equal(tables[key], whole[key])


def test_nothing_but_unusable_episodes():
    with pytest.raises(UserError, match="toy: no usable episode: 1 shorter"):
        merge(COMMON, [collect(COMMON, episodes()[1:2])], "toy")


def process_of(number):
    time.sleep(0.02 * (4 - number))
    if number == 3:
        raise UserError("three")
    return number, os.getpid()


def test_results_are_in_order_and_errors_at_their_turn():
    found = in_processes(process_of, [0, 1, 2, 3, 4], 2)
    told = [next(found) for _ in range(3)]
    assert [number for number, _ in told] == [0, 1, 2]
    assert os.getpid() not in {process for _, process in told}
    with pytest.raises(UserError, match="three"):
        next(found)
    assert list(in_processes(process_of, [0, 1], 1)) == [(0, os.getpid()), (1, os.getpid())]


def test_a_process_that_is_killed_is_one_line():
    with pytest.raises(UserError, match="killed"):
        list(in_processes(os._exit, [1, 1, 1], 2))


def test_a_process_has_enough_to_do():
    assert processes_for(99, 100) == 1
    assert processes_for(10**6, 100) == min(32, len(os.sched_getaffinity(0)))


def build_once(path, log):
    def build():
        with log.open("a") as file:
            file.write("built\n")
        time.sleep(0.3)
        tables = merge(COMMON, [collect(COMMON, episodes())], "toy")
        return tables | {"image_size": np.array([2, 3], np.int64)}

    return index_cache.cached(path, COMMON, 2**20, lambda tables: True, build)


def test_without_a_home_directory_nothing_is_cached(tmp_path, monkeypatch, caplog):
    monkeypatch.delenv("SELFFLOW_CACHE", raising=False)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # as without HOME and a user
    path = index_cache.cache_path("toy", "a")
    assert path is None
    assert build_once(path, tmp_path / "log")["instructions"] == ["task 0", "task 2"]
    assert "SELFFLOW_CACHE" in caplog.text
    monkeypatch.setenv("SELFFLOW_CACHE", str(tmp_path))
    assert index_cache.cache_path("toy", "a") == tmp_path / "toy" / "a.safetensors"


def test_one_process_builds_and_the_others_wait(tmp_path):
    path, log = tmp_path / "cache" / "toy" / "a.safetensors", tmp_path / "log"
    context = multiprocessing.get_context("fork")
    others = [context.Process(target=build_once, args=(path, log)) for _ in range(3)]
    for one in others:
        one.start()
    for one in others:
        one.join()
    assert [one.exitcode for one in others] == [0, 0, 0]
    tables = build_once(path, log)
    assert log.read_text() == "built\n"
    assert tables["instructions"] == ["task 0", "task 2"]
    assert [one.name for one in path.parent.iterdir()] == [path.name]
