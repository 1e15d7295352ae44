"""Numbered pictures by several processes into one npz: `evaluation.generation`."""

import errno
import zipfile

import numpy as np
import pytest
import torch

from selfflow_robotics.errors import UserError
from selfflow_robotics.evaluation import generation
from selfflow_robotics.evaluation.generation import Generation
from selfflow_robotics.evaluation.processes import Process
from selfflow_robotics.rng import numpy_generator

ALONE = Process()
SIZE = (6, 4)
NUM, BATCH = 10, 3


def picture(number):
    return numpy_generator("test", number).integers(0, 256, (*SIZE, 3), np.uint8)


def make(numbers):
    assert len(numbers) == BATCH  # also for the last batch
    return np.stack([picture(number) for number in numbers])


def job_in(folder, **settings):
    return Generation(folder, {"seed": 0, **settings}, NUM, BATCH, SIZE)


def generate(folder):
    job = job_in(folder)
    assert not job.open(ALONE)
    job.make_batches(make, ALONE, lambda: None)
    job.collect()
    return job


def test_the_result_is_all_pictures_in_order_as_the_evaluation_suite_reads_it(tmp_path):
    job = generate(tmp_path)
    with zipfile.ZipFile(job.result) as archive, archive.open("arr_0.npy") as file:
        assert np.lib.format.read_magic(file) == (1, 0)
        header = np.lib.format.read_array_header_1_0(file)
    assert header == ((NUM, *SIZE, 3), False, np.uint8)
    pictures = np.load(job.result)["arr_0"]
    assert (pictures == np.stack([picture(k) for k in range(NUM)])).all()
    assert (tmp_path / "samples.png").stat().st_size > 100
    assert not (tmp_path / "batches").exists()


def test_two_processes_make_the_file_of_one(tmp_path):
    alone = generate(tmp_path / "one").result.read_bytes()
    job = job_in(tmp_path / "two")
    asked = []
    for number in (1, 0):
        process = Process(number, 2)
        assert not job.open(process)
        seen = []
        job.make_batches(lambda k, seen=seen: (seen.append(k[0]), make(k))[1], process, list)
        asked.append(seen)
    assert asked == [[3, 9], [0, 6]]
    job.wait(lambda: pytest.fail("all batches are there"))
    job.collect()
    assert job.result.read_bytes() == alone
    # A process that comes late finds nothing to do.
    assert job.make_batches(pytest.fail, Process(1, 2), list) == 0


def test_what_an_interruption_left_is_kept_if_it_is_whole(tmp_path):
    straight = generate(tmp_path / "straight").result.read_bytes()
    job = job_in(tmp_path / "broken")
    job.open(ALONE)

    def dies(numbers):
        if numbers[0] == 6:
            raise KeyboardInterrupt
        return make(numbers)

    with pytest.raises(KeyboardInterrupt):
        job.make_batches(dies, ALONE, lambda: None)
    assert job.num_made() == 6
    path = job.batch_path(1)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    again = job_in(tmp_path / "broken")
    assert not again.open(ALONE)
    assert again.make_batches(make, ALONE, lambda: None) == 7  # the damaged one and the rest
    again.collect()
    assert again.result.read_bytes() == straight


def test_a_finished_result_is_known_and_a_cut_one_is_not(tmp_path):
    job = generate(tmp_path)
    assert job_in(tmp_path).open(ALONE)
    job.result.write_bytes(job.result.read_bytes()[:-30])
    assert not job_in(tmp_path).open(ALONE)


def test_pictures_of_two_requests_are_never_mixed(tmp_path):
    generate(tmp_path)
    with pytest.raises(UserError, match="images with a different seed; choose another output"):
        job_in(tmp_path, seed=1).open(ALONE)
    with pytest.raises(UserError, match="a different num_images"):
        Generation(tmp_path, {"seed": 0}, 5, BATCH, SIZE).open(ALONE)
    (tmp_path / "settings.json").write_text("{")
    with pytest.raises(UserError, match=r"settings\.json is damaged"):
        job_in(tmp_path).open(ALONE)


def test_folders_that_cannot_be_used_are_one_line(tmp_path, monkeypatch):
    (tmp_path / "thesis.txt").write_text("")
    with pytest.raises(UserError, match=r"\(thesis\.txt\)"):
        job_in(tmp_path).open(ALONE)
    with pytest.raises(UserError, match="cannot write results to /proc/no"):
        job_in(tmp_path.__class__("/proc/no")).open(ALONE)
    job = job_in(tmp_path / "full")
    job.open(ALONE)

    def full(*_args, **_kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(generation.np, "savez", full)
    with pytest.raises(UserError, match=r"No space left on device\); free space"):
        job.make_batches(make, ALONE, lambda: None)


def test_a_damaged_batch_is_never_collected(tmp_path):
    job = job_in(tmp_path)
    job.open(ALONE)
    job.make_batches(make, ALONE, lambda: None)
    path = job.batch_path(2)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(UserError, match=r"batch_000002\.npz is damaged; repeat the command"):
        job.collect()
    assert not job.result.exists()


def test_a_process_knows_its_share_and_its_device(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    assert Process.from_environment() == ALONE
    for name, value in {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    process = Process.from_environment()
    assert (process.number, process.count, process.local) == (5, 8, 1)
    assert not process.is_first
    assert list(process.share(22)) == [5, 13, 21]
    assert process.device("cpu") == torch.device("cpu")
    with pytest.raises(UserError, match="device 'tpu9' is unknown"):
        process.device("tpu9")
    with pytest.raises(UserError, match="only cpu and cuda are"):
        process.device("meta")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(UserError, match="cuda:1 does not exist: torch sees 1 GPUs"):
        process.device("auto")
