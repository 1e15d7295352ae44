"""Several processes as one: shares of a batch, averaged gradients, one that goes first."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from selfflow_robotics.errors import UserError
from selfflow_robotics.training.distributed import ALONE, Ranks, start_ranks

ROOT = Path(__file__).parents[2]

WORKER = """
import sys, torch
from pathlib import Path
from selfflow_robotics.training.distributed import start_ranks

folder = Path(sys.argv[1])
ranks, device = start_ranks(torch.device("cpu"))
with ranks.first_alone():
    made = folder / "made"
    assert made.exists() != ranks.is_first
    made.touch()
torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1))
unused = torch.nn.Parameter(torch.ones(2))
x, y = torch.randn(6, 3), torch.randn(6, 1)
mine = ranks.share(range(6))
loss = (model(x[mine]) - y[mine]).square().mean()
loss.backward()
ranks.average_gradients([*model.parameters(), unused])
assert unused.grad is None
gradients = torch.cat([p.grad.flatten() for p in model.parameters()])
torch.save({"gradients": gradients, "loss": ranks.mean(loss)}, folder / f"{ranks.rank}.pt")
assert ranks.any(ranks.rank == 1, device) == (ranks.size > 1)
assert not ranks.any(False, device)
"""


def run(folder: Path, processes: int) -> list[dict[str, torch.Tensor]]:
    folder.mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    jobs = []
    for rank in range(processes):
        environment = {
            **os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "RANK": str(rank),
            "LOCAL_RANK": str(rank), "WORLD_SIZE": str(processes),
            "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
        }  # fmt: skip
        jobs.append(subprocess.Popen([sys.executable, "-c", WORKER, str(folder)], env=environment))
    assert [job.wait(timeout=120) for job in jobs] == [0] * processes
    return [torch.load(folder / f"{rank}.pt") for rank in range(processes)]


def test_two_processes_have_the_gradients_of_one(tmp_path):
    (alone,) = run(tmp_path / "one", 1)
    first, second = run(tmp_path / "two", 2)
    assert torch.equal(first["gradients"], second["gradients"])
    torch.testing.assert_close(first["gradients"], alone["gradients"], rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(first["loss"], alone["loss"])


def test_a_process_alone_changes_nothing(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert start_ranks(torch.device("cpu")) == (ALONE, torch.device("cpu"))
    assert ALONE.share([1, 2, 3]) == [1, 2, 3]


def test_shares_are_disjoint_and_complete():
    both = [Ranks(rank, 2) for rank in range(2)]
    assert sorted(item for ranks in both for item in ranks.share(range(6))) == list(range(6))


def test_a_batch_that_does_not_divide_is_refused():
    with pytest.raises(UserError, match="not divisible by 2"):
        Ranks(0, 2).share(range(5))
