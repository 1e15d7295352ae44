"""Kill processes while they save, again and again, and check what is left:

    python -m tests.killed_saves FOLDER KILLS PROCESSES

Each round forks PROCESSES processes, which resume from the newest checkpoint and save the next ones
without a pause, in the background. All weights of checkpoint n are n, so a mixture of two would
show. After a random time all are killed. Then every checkpoint must be whole, and none that was
acknowledged may be lost.
"""

import os
import random
import signal
import sys
import time
import traceback
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

from selfflow_robotics.training.checkpoint import check_files, latest_checkpoint, load_part
from selfflow_robotics.training.distributed import ALONE, Ranks
from selfflow_robotics.training.optimizer import OptimizerConfig, build_optimizers
from selfflow_robotics.training.parallel import DataParallel
from selfflow_robotics.training.saver import Saver
from selfflow_robotics.training.state import TrainState

WIDTH, LONGEST = 256, 0.6  # of a layer; seconds until the kill, after the first save began


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(4))


@dataclass
class Settings:
    keep_checkpoints: int = 2
    keep_every: int = 0
    async_save: bool = True


def save_until_killed(run: Path, rank: int, count: int, store: str) -> None:
    ranks = ALONE
    if count > 1:
        dist.init_process_group(
            "gloo", init_method=f"file://{store}", rank=rank, world_size=count,
            timeout=timedelta(seconds=60),
        )  # fmt: skip
        ranks = Ranks(rank, count)
    state = TrainState.start(Net(), OptimizerConfig(muon=False))
    networks = DataParallel(state.model, state.teacher, lambda *_: None, "fsdp", ranks, "fp32")
    state.optimizers = build_optimizers(state.model, OptimizerConfig(muon=False))
    if newest := latest_checkpoint(run):
        state.load(newest)
    with Saver(
        *(run / "checkpoints", Settings(), ranks, networks.sharded, torch.device("cpu")),
        is_needed=lambda step: False,
    ) as saver:
        while True:
            state.step += 1
            with torch.no_grad():
                for weight in (*state.model.parameters(), *state.teacher.parameters()):
                    weight.fill_(state.step)
            saver.save(state, {})
            (run / "started").touch()
            if ranks.is_first and state.step > 1:  # `save` has waited for the previous one
                (run / "acknowledged").write_text(str(state.step - 1))


def check(run: Path) -> tuple[int, int]:
    """(newest step, number of unfinished saves); asserts that nothing is lost or mixed."""
    finished = sorted((run / "checkpoints").glob("step_*"))
    for folder in finished:
        check_files(folder)
        step = int(folder.name.removeprefix("step_"))
        for part in ("model", "teacher"):
            for name, tensor in load_part(folder, part).items():
                assert (tensor == step).all(), (folder, part, name)
    newest = int(finished[-1].name.removeprefix("step_")) if finished else 0
    mark = run / "acknowledged"
    acknowledged = int(mark.read_text() or 0) if mark.exists() else 0
    assert newest >= acknowledged, (newest, acknowledged)
    return newest, len(list((run / "checkpoints").glob(".step_*")))


def main(folder: str, kills: str, processes: str) -> None:
    torch.set_num_threads(1)
    run, count = Path(folder), int(processes)
    run.mkdir(parents=True, exist_ok=True)
    random.seed(int(kills))
    unfinished = newest = 0
    for number in range(int(kills)):
        (run / "started").unlink(missing_ok=True)
        children = []
        for rank in range(count):
            child = os.fork()
            if child == 0:
                try:
                    save_until_killed(
                        run, rank, count, f"{run.resolve()}/store-{os.getppid()}-{number}"
                    )
                except BaseException:
                    traceback.print_exc()
                finally:
                    os._exit(1)
            children.append(child)
        while not (run / "started").exists():
            time.sleep(0.01)
            assert os.waitpid(-1, os.WNOHANG) == (0, 0), "a process ended by itself"
        time.sleep(LONGEST * random.random())
        for child in random.sample(children, count):
            os.kill(child, signal.SIGKILL)
        for child in children:
            os.waitpid(child, 0)
        newest, left = check(run)
        unfinished += left > 0
        with (run / "kills").open("a") as log:  # survives an end of this program itself
            log.write(f"checkpoint {newest}, {left} unfinished\n")
    print(
        f"{kills} kills, {newest} checkpoints, {unfinished} saves interrupted; none lost or mixed"
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
