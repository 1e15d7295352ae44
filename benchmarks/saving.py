r"""How long does training wait for a checkpoint? Asynchronous against synchronous saves.

    python benchmarks/saving.py                              # one process
    torchrun --nproc-per-node=2 benchmarks/saving.py         # a state sharded over two (FSDP2)

The state is that of a transformer-sized network with its moving average and AdamW. Both kinds of
saves alternate; the numbers are medians. `wait`: time until training can go on. `written`: time
until the checkpoint has its name.
"""

import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # if run as a file

from benchmarks.arguments import Parser, positive
from selfflow_robotics.training.distributed import start_ranks
from selfflow_robotics.training.optimizer import OptimizerConfig, build_optimizers
from selfflow_robotics.training.parallel import DataParallel
from selfflow_robotics.training.saver import Saver
from selfflow_robotics.training.state import TrainState
from selfflow_robotics.training.step import StepLoss


@dataclass
class Settings:
    async_save: bool
    keep_checkpoints: int = 1
    keep_every: int = 0


class Net(nn.Module):
    """Blocks of linear layers; all weights are in them."""

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
            for _ in range(depth)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = x + block(x)
        return x


def _no_loss(*_: object) -> StepLoss:
    raise AssertionError("this benchmark does not train")


def main() -> None:
    parser = Parser(__doc__)
    parser.add_argument("--width", type=positive, default=512)
    parser.add_argument("--depth", type=positive, default=8)
    parser.add_argument("--rounds", type=positive, default=5)
    parser.add_argument("--folder", default=None, help="where to write; default: a temporary one")
    options = parser.parse_args()
    torch.set_num_threads(1)
    ranks, device = start_ranks(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    config = OptimizerConfig(muon=False)
    state = TrainState.start(Net(options.width, options.depth).to(device), config)
    networks = DataParallel(state.model, state.teacher, _no_loss, "fsdp", ranks, "fp32")
    state.optimizers = build_optimizers(state.model, config)
    for parameter in state.model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    for optimizer in state.optimizers:
        optimizer.step()
    count = sum(p.numel() for p in state.model.parameters())
    waits: dict[str, list[float]] = {"synchronous": [], "asynchronous": []}
    written: dict[str, list[float]] = {"synchronous": [], "asynchronous": []}
    with tempfile.TemporaryDirectory(dir=options.folder) as scratch:
        savers = {
            kind: Saver(
                Path(scratch) / kind, Settings(kind == "asynchronous"), ranks,
                networks.sharded, device,
            )
            for kind in waits
        }  # fmt: skip
        for _ in range(options.rounds + 1):
            for kind, saver in savers.items():
                state.step += 1
                ranks.wait()
                start = time.perf_counter()
                saver.save(state, {})
                waits[kind].append(time.perf_counter() - start)
                saver.wait()
                ranks.wait()
                written[kind].append(time.perf_counter() - start)
    if ranks.is_first:
        print(f"{count / 1e6:.1f} M parameters, {16 * count / 1e6:.0f} MB, {ranks.size} processes")
        for kind in waits:  # without the first one, which allocates memory
            wait, done = (median(times[kind][1:]) for times in (waits, written))
            print(f"{kind}: wait {wait:.3f} s, written {done:.3f} s")
        share = median(waits["asynchronous"][1:]) / median(waits["synchronous"][1:])
        print(f"asynchronous / synchronous wait: {share:.2f}")


if __name__ == "__main__":
    main()
