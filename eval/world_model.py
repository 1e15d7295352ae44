"""Evaluate the world model: imagined frames against the simulator's, side by side and as PSNR.

    python eval/world_model.py
    python eval/world_model.py --checkpoint runs/rt1 num_episodes=60

Episodes that are not in the training data are played twice from the same frame: with the expert's
actions and with the same actions mirrored. The network imagines both. The baseline for PSNR is a
copy of the first frame. Mirrored actions show whether the network follows the actions or only
repeats what the expert usually does. Results are written to RUN/eval/world_model-..., one folder
per configuration: strip.png, imagined.mp4 and report.json.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from tqdm import tqdm

from selfflow_robotics.cli.app import Flag, hydra_app
from selfflow_robotics.cli.runs import find_checkpoint, open_results
from selfflow_robotics.envs.client import SimulatorClient, SimulatorError
from selfflow_robotics.envs.spec import TIMEOUT_S, SimplerInstall
from selfflow_robotics.envs.tasks.catalog import DEFAULT_TASK, get_task
from selfflow_robotics.errors import UserError, check_least
from selfflow_robotics.evaluation.home import own_spec
from selfflow_robotics.evaluation.protocol import random_episodes
from selfflow_robotics.evaluation.results import (
    folder_name,
    known_report,
    write_report,
    writing,
)
from selfflow_robotics.evaluation.video import write_grid, write_video
from selfflow_robotics.evaluation.world_model import (
    Future,
    Imagined,
    imagine_futures,
    record_future,
    score,
)
from selfflow_robotics.flow.guidance import check_extrapolation
from selfflow_robotics.flow.solvers import check_num_steps
from selfflow_robotics.inference.bundle import load_bundle, weights_hash
from selfflow_robotics.inference.velocity import check_heads
from selfflow_robotics.rng import check_seed
from selfflow_robotics.training.device import choose_device

SHOWN = 3  # episodes in the strip
# What determines the results.
SETTINGS = ("task", "num_episodes", "num_frames", "num_steps", "seed")


@dataclass(frozen=True)
class WorldModelConfig:
    task: str = DEFAULT_TASK
    checkpoint: str | None = None
    num_episodes: int = 30
    num_frames: int = 6
    num_steps: int = 10
    extrapolation: float = 1.0
    seed: int = 1
    device: str = "auto"
    renderer: Literal["ray", "gl"] | None = None
    output: str | None = None
    timeout_s: float = TIMEOUT_S
    simpler: SimplerInstall = field(default_factory=SimplerInstall)

    def __post_init__(self) -> None:
        object.__setattr__(self, "task", get_task(self.task).name)  # not SIMPLER's name
        check_seed(self.seed)
        check_num_steps(self.num_steps)
        check_extrapolation(self.extrapolation)
        check_least(self, 1, "num_episodes", "num_frames")


@hydra_app(
    "world_model",
    WorldModelConfig,
    flags=(Flag("--task"), Flag("--checkpoint", literal=True, help="a run folder or checkpoint")),
)
def main(config: WorldModelConfig) -> None:
    torch.set_num_threads(1)
    checkpoint = find_checkpoint(config.checkpoint, "finetune")
    bundle = load_bundle(checkpoint, choose_device(config.device)).with_autoencoder()
    bundle.require("world_model")
    check_heads(bundle.network, config.extrapolation)
    size, longest = bundle.frames.image_size, bundle.most_imagined
    if config.num_frames > longest:
        raise UserError(f"num_frames must be at most {longest} for this network")
    task = get_task(config.task)
    spec = own_spec(
        task.name, config.simpler, bundle.provenance, size, config.renderer, config.timeout_s
    )
    with SimulatorClient(spec) as client:
        settings = {
            "checkpoint": weights_hash(checkpoint),
            "simulator": client.provenance(),
            **{name: getattr(config, name) for name in SETTINGS},
        }
        if config.extrapolation != 1.0:
            settings["extrapolation"] = config.extrapolation
        output = open_results(config.output, checkpoint, folder_name("world_model", settings))
        result = known_report(output / "report.json", settings)
        if result is None:
            try:
                futures = [
                    record_future(client, episode, config.num_frames, size, bundle.frame_stride)
                    for episode in tqdm(
                        random_episodes(task, config.num_episodes, config.seed),
                        unit="episode",
                        desc="playing",
                    )
                ]
            except SimulatorError as error:
                cause = " ".join(str(error).split())
                raise UserError(f"the {spec.simulator} simulator failed: {cause}") from error
            imagined = imagine_futures(
                bundle, futures, config.num_steps, config.seed, config.extrapolation
            )
            result = score(futures, imagined)
            with writing(output):
                draw(output, task.robot.control_hz / bundle.frame_stride, futures, imagined)
                write_report(output / "report.json", {**result, "settings": settings})
    print_table(result)
    print(f"rows of {output / 'strip.png'}: simulator, imagined; then both for mirrored actions")


def draw(output: Path, frames_per_s: float, futures: list[Future], imagined: Imagined) -> None:
    """Write strip.png of the first episodes and imagined.mp4 of all."""
    rows = []
    for future, frames, mirrored in zip(
        futures, imagined.frames, imagined.mirrored_frames, strict=True
    ):
        for later in (future.frames, frames, future.mirrored_frames, mirrored):
            rows.append(np.concatenate([future.first[None], later]))
    shown = np.stack(rows[: 4 * SHOWN])
    write_grid(output / "strip.png", shown.reshape(-1, *shown.shape[2:]), columns=shown.shape[1])
    height, width = shown.shape[2:4]
    film = np.stack(rows).reshape(-1, 4, *shown.shape[1:]).transpose(0, 2, 3, 1, 4, 5)
    write_video(output / "imagined.mp4", film.reshape(-1, height, 4 * width, 3), frames_per_s)


def print_table(result: dict[str, Any]) -> None:
    """Print PSNR by frame, the baseline's, and whether the actions are followed."""
    print("frame            " + "".join(f"{i + 1:>7}" for i in range(len(result["psnr_db"]))))
    for key, label in (
        ("psnr_db", "imagined"),
        ("copy_psnr_db", "copy"),
        ("mirrored_psnr_db", "mirrored"),
        ("mirrored_copy_psnr_db", "mirrored, copy"),
    ):
        print(f"{label:<17}" + "".join(f"{value:7.2f}" for value in result[key]) + "  dB")
    print(
        f"the imagined frames follow their actions in {result['follows_actions']:.0%} of "
        f"{result['episodes']} episodes (chance: 50%; {result['margin_db']:+.1f} dB closer to the "
        "future of their own actions than to the other)"
    )


if __name__ == "__main__":
    main()
