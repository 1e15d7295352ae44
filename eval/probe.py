"""Linear probes: which physical quantities can be read from a network's features?

    python eval/probe.py                                  # the newest pretraining run
    python eval/probe.py --checkpoint runs/rt1 layers=[2,4] timesteps=[0.5]
    python eval/probe.py experiment=debug                 # seconds

The command plays aimless episodes that are not in the training data and records the position and
axis of the object, the gripper and the tool point in each frame. Ridge regression predicts them
from the features after each block, with the frame noised to each timestep. Baselines are the mean
and the same regression on pixels. Results are written to RUN/eval/probe-..., one folder per
configuration: probe.json and table.md. For image networks (pretrain/images.py), use
eval/class_probe.py.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from tqdm import tqdm

from selfflow_robotics.cli.app import Flag, hydra_app
from selfflow_robotics.cli.runs import find_checkpoint, open_results
from selfflow_robotics.envs.client import SimulatorClient
from selfflow_robotics.envs.spec import TIMEOUT_S, SimplerInstall
from selfflow_robotics.envs.tasks.catalog import DEFAULT_TASK, get_task
from selfflow_robotics.errors import UserError, check_least
from selfflow_robotics.evaluation.home import own_spec
from selfflow_robotics.evaluation.probing.frames import play_frames, probe_episodes
from selfflow_robotics.evaluation.probing.probes import (
    MIN_EPISODES,
    check_timesteps,
    chosen_layers,
    probe,
)
from selfflow_robotics.evaluation.probing.report import to_markdown, to_text
from selfflow_robotics.evaluation.results import (
    folder_name,
    known_report,
    write_report,
    writing,
)
from selfflow_robotics.inference.bundle import (
    is_released_file,
    load_bundle,
    read_config,
    weights_hash,
)
from selfflow_robotics.rng import check_seed
from selfflow_robotics.training.device import choose_device


@dataclass(frozen=True)
class ProbeConfig:
    task: str = DEFAULT_TASK
    checkpoint: str | None = None
    layers: list[int] | None = None
    timesteps: list[float] = field(default_factory=lambda: [0.0, 0.25, 0.5, 0.75])
    num_episodes: int = 240
    seed: int = 0
    device: str = "auto"
    renderer: Literal["ray", "gl"] | None = None
    output: str | None = None
    timeout_s: float = TIMEOUT_S
    simpler: SimplerInstall = field(default_factory=SimplerInstall)

    def __post_init__(self) -> None:
        object.__setattr__(self, "task", get_task(self.task).name)  # not SIMPLER's name
        check_least(self, MIN_EPISODES, "num_episodes")
        check_seed(self.seed)
        check_timesteps(self.timesteps)


@hydra_app(
    "probe",
    ProbeConfig,
    flags=(Flag("--task"), Flag("--checkpoint", literal=True, help="a run folder or checkpoint")),
)
def main(config: ProbeConfig) -> None:
    torch.set_num_threads(1)
    checkpoint = scene_checkpoint(config.checkpoint)
    bundle = load_bundle(checkpoint, choose_device(config.device)).with_autoencoder()
    size, layers = bundle.frames.image_size, chosen_layers(config.layers, bundle)
    timesteps = sorted(set(config.timesteps))
    spec = own_spec(
        config.task, config.simpler, bundle.provenance, size, config.renderer, config.timeout_s
    )
    with SimulatorClient(spec) as client:
        settings = {
            "checkpoint": weights_hash(checkpoint),
            "simulator": client.provenance(),
            "task": config.task,
            "layers": layers,
            "timesteps": timesteps,
            "num_episodes": config.num_episodes,
            "seed": config.seed,
        }
        output = open_results(config.output, checkpoint, folder_name("probe", settings))
        report = known_report(output / "probe.json", settings)
        if report is None:
            episodes = probe_episodes(get_task(config.task), config.num_episodes, config.seed)
            with tqdm(total=len(episodes), unit="episode", desc="playing") as bar:
                frames = play_frames([client], episodes, size, bar.update)
            with tqdm(total=len(timesteps) * (len(layers) + 1), desc="probing") as bar:
                rows = probe(bundle, frames, layers, timesteps, config.seed, bar.update)
            report = {"frames": len(frames.images), "rows": rows, "settings": settings}
            with writing(output):
                title = f"Linear probes of {checkpoint}"
                (output / "table.md").write_text(to_markdown(rows, title))
                write_report(output / "probe.json", report)
    print(to_text(report["rows"]))
    print(f"written to {output}")


def scene_checkpoint(given: str | None) -> Path:
    """The checkpoint to probe. Raises UserError for an image network."""
    is_file = given is not None and is_released_file(Path(given))
    checkpoint = Path(str(given)) if is_file else find_checkpoint(given, "pretrain")
    if is_file or read_config(checkpoint).num_classes:
        raise UserError(f"{checkpoint} is an image network; use eval/class_probe.py")
    return checkpoint


if __name__ == "__main__":
    main()
