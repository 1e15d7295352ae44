"""Look at the world model: imagined frames beside the simulator's, and their distance in numbers.

    python eval/world_model.py
    python eval/world_model.py --checkpoint runs/rt1 num_episodes=60

Episodes that training never saw are played twice from the same picture: with the expert's actions
and with their mirror image. The network imagines both. PSNR is compared with copying the first
frame; the mirrored actions show whether the network follows the actions or guesses the habit.
Results lie in RUN/eval/world_model: strip.png, imagined.mp4, report.json.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from selfflow_robotics.cli.app import Flag, hydra_app
from selfflow_robotics.cli.runs import find_checkpoint, run_of
from selfflow_robotics.envs.client import SimulatorClient
from selfflow_robotics.envs.simpler.preflight import check_simpler
from selfflow_robotics.envs.spec import SimplerInstall, SimulatorSpec, simulator_spec
from selfflow_robotics.envs.tasks import get_task
from selfflow_robotics.errors import UserError
from selfflow_robotics.evaluation.protocol import random_episodes
from selfflow_robotics.evaluation.video import write_grid, write_video
from selfflow_robotics.evaluation.world_model import imagine_futures, record_future, score
from selfflow_robotics.training.device import choose_device
from selfflow_robotics.world.network import load_network

SHOWN = 3  # episodes in the strip


@dataclass(frozen=True)
class WorldModelConfig:
    task: str = "pick_coke_can"
    checkpoint: str | None = None
    num_episodes: int = 30
    num_frames: int = 6
    num_steps: int = 10
    seed: int = 1
    device: str = "auto"
    output: str | None = None
    simpler: SimplerInstall = field(default_factory=SimplerInstall)

    def __post_init__(self) -> None:
        get_task(self.task)
        for name in ("num_episodes", "num_frames", "num_steps"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 1, got {getattr(self, name)}")


@hydra_app(
    "world_model",
    WorldModelConfig,
    flags=(Flag("--task"), Flag("--checkpoint", literal=True, help="a run folder or checkpoint")),
)
def main(config: WorldModelConfig) -> None:
    torch.set_num_threads(1)
    checkpoint = find_checkpoint(config.checkpoint, "finetune")
    network = load_network(checkpoint, choose_device(config.device))
    size = network.model.config.image_size
    output = Path(config.output) if config.output else run_of(checkpoint) / "eval" / "world_model"
    network.require("world_model")
    longest = network.model.config.later_frames
    if config.num_frames > longest:
        raise UserError(f"num_frames must be at most {longest} for this network")
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"cannot write to {output} ({error.strerror}); choose output=..."
        ) from error

    task = get_task(config.task)
    episodes = random_episodes(task, config.num_episodes, config.seed)
    with SimulatorClient(home_spec(config, network.provenance, size)) as client:
        client.provenance()  # refuses a simulator that does not start
        futures = [
            record_future(client, spec, config.num_frames, size)
            for spec in tqdm(episodes, unit="episode", desc="playing")
        ]
    imagined = imagine_futures(network, futures, config.num_steps, config.seed)
    result = score(futures, imagined)
    (output / "report.json").write_text(json.dumps(result, indent=1) + "\n")

    rows = []
    for future, frames, mirrored in zip(
        futures, imagined.frames, imagined.mirrored_frames, strict=True
    ):
        for later in (future.frames, frames, future.mirrored_frames, mirrored):
            rows.append(np.concatenate([future.first[None], later]))
    shown = np.stack(rows[: 4 * SHOWN])
    write_grid(output / "strip.png", shown.reshape(-1, *shown.shape[2:]), columns=shown.shape[1])
    film = np.stack(rows).reshape(-1, 4, *shown.shape[1:]).transpose(0, 2, 3, 1, 4, 5)
    film = film.reshape(-1, size[0], 4 * size[1], 3)
    write_video(output / "imagined.mp4", film, task.control_hz)

    print("frame            " + "".join(f"{i + 1:>7}" for i in range(config.num_frames)))
    for key, label in (
        ("psnr_db", "imagined"),
        ("copy_psnr_db", "copy"),
        ("mirrored_psnr_db", "mirrored"),
        ("mirrored_copy_psnr_db", "mirrored, copy"),
    ):
        print(f"{label:<17}" + "".join(f"{value:7.2f}" for value in result[key]) + "  dB")
    print(
        f"mirrored actions move the imagined arm to the mirrored side in "
        f"{result['follows_actions']:.0%} of {len(futures)} episodes "
        f"({result['margin_db']:+.1f} dB nearer to that future)"
    )
    print(f"rows of {output / 'strip.png'}: simulator, imagined, both again for mirrored actions")


def home_spec(config: WorldModelConfig, provenance: dict, size: tuple[int, int]) -> SimulatorSpec:
    """The simulator that the network's data came from; the tabletop renders at its `size`.

    Raises UserError where that is SIMPLER and it cannot run.
    """
    if provenance.get("simulator") != "simpler":
        return simulator_spec("tabletop", config.task, config.simpler, size)
    spec = simulator_spec("simpler", config.task, config.simpler)
    check_simpler(spec.path, spec.python)
    return spec


if __name__ == "__main__":
    main()
