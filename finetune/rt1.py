"""Fine-tune the backbone on robot data in RT-1's format: one network is world model and policy.

    python finetune/rt1.py                          # demonstrations of the embedded simulator
    python finetune/rt1.py --data DIR               # any RLDS data set like fractal20220817_data
    python finetune/rt1.py init=none                # from scratch
    python finetune/rt1.py roles.world_model=0 roles.video=0 name=policy_only
    python finetune/rt1.py experiment=debug         # under a minute

It starts from the newest pretraining run of the same network size (init=auto), or from `init=PATH`.
Every step plays one row of the role table (selfflow_robotics/objective/roles.py), drawn by weight:
which tokens are clean, which are denoised, which are left out. Actions are normalised by their 1 %
and 99 % quantiles; the statistics travel in the checkpoint. The run lies in runs/NAME; repeating
the command continues an interrupted one.
"""

from dataclasses import dataclass, field
from pathlib import Path

import torch

from selfflow_robotics.cli.app import Flag, hydra_app
from selfflow_robotics.cli.runs import open_run, runs_of_kind
from selfflow_robotics.data.mixture import Mixture
from selfflow_robotics.data.rlds.index import RldsIndex
from selfflow_robotics.data.rlds.windows import WindowBatch, WindowReader
from selfflow_robotics.data.samples import window_sample
from selfflow_robotics.errors import UserError
from selfflow_robotics.evaluation.imagination import write_imagined
from selfflow_robotics.models.multimodal import MultimodalConfig, MultimodalSiT
from selfflow_robotics.objective.metrics import loss_metrics
from selfflow_robotics.objective.role_loss import ConditioningConfig, role_loss
from selfflow_robotics.objective.roles import ROLES, check_weights, draw_role
from selfflow_robotics.objective.self_flow import ObjectiveConfig
from selfflow_robotics.robot.normalize import ActionNormalizer
from selfflow_robotics.rollouts.demonstrations import CollectConfig, ensure_demonstrations
from selfflow_robotics.training.checkpoint import (
    latest_checkpoint,
    load_part,
    load_weights,
    read_manifest,
    resolve_checkpoint,
)
from selfflow_robotics.training.device import choose_device, choose_precision
from selfflow_robotics.training.loop import StepLoss, TrainConfig, train
from selfflow_robotics.training.optimizer import build_optimizers
from selfflow_robotics.training.state import TrainState
from selfflow_robotics.training.teacher import make_teacher
from selfflow_robotics.world.network import Network, checkpoint_record, model_config


@dataclass(frozen=True)
class FinetuneConfig:
    name: str = "rt1"
    runs_dir: str = "runs"
    seed: int = 0
    data: str | None = None
    collect: CollectConfig = field(default_factory=CollectConfig)
    play_data: str | None = None
    play: CollectConfig = field(default_factory=CollectConfig)
    play_share: float = 0.5
    num_episodes: int | None = None  # the first so many of the training episodes; null: all
    validation: float = 0.05  # fraction of the episodes, the last ones, that training never sees
    init: str = "auto"
    model: MultimodalConfig = field(default_factory=MultimodalConfig)
    policy_objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    frame_objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    conditioning: ConditioningConfig = field(default_factory=ConditioningConfig)
    roles: dict[str, float] = field(default_factory=lambda: {"policy": 1.0})
    policy_batch: int = 32
    frame_batch: int = 16
    train: TrainConfig = field(default_factory=TrainConfig)
    device: str = "auto"
    precision: str = "auto"
    threads: int = 2

    def __post_init__(self) -> None:
        if not 0 <= self.validation < 1:
            raise UserError(f"validation must be a fraction in [0, 1), got {self.validation}")
        if not 0 <= self.play_share < 1:
            raise UserError(f"play_share must be in [0, 1), got {self.play_share}")
        check_weights(self.roles)
        for name in ("policy_batch", "frame_batch", "threads"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 1, got {getattr(self, name)}")


@hydra_app(
    "finetune",
    FinetuneConfig,
    flags=(
        Flag("--data", literal=True, help="an RLDS data set's version folder"),
        Flag("--init", literal=True, help="a pretraining run or checkpoint, auto, or none"),
    ),
)
def main(config: FinetuneConfig) -> None:
    torch.set_num_threads(config.threads)
    device = choose_device(config.device)
    precision = choose_precision(config.precision, device)
    run = open_run("finetune", Path(config.runs_dir) / config.name, config)

    index = RldsIndex.open(
        Path(config.data) if config.data else ensure_demonstrations(config.collect)
    )
    training, held_out = split_episodes(index.num_episodes, config)
    frames_ahead = config.model.later_frames

    def windows(source: RldsIndex, episodes: list[int] | None = None) -> WindowReader:
        model = config.model
        return WindowReader(
            source, model.action_horizon, frames_ahead, 1, model.image_size, episodes
        )

    reader, held_reader = windows(index, training), windows(index, held_out or training)
    stats = index.stats(training)
    normalizer = ActionNormalizer(stats)

    torch.manual_seed(config.seed)  # the modules' own initialisation is the only global draw
    model = MultimodalSiT(config.model).to(device)
    start = "its own checkpoint" if latest_checkpoint(run) else initialize(model, config)
    state = TrainState(model, make_teacher(model), build_optimizers(model, config.train.optimizer))
    size = sum(p.numel() for p in model.parameters()) / 1e6
    print(
        f"{size:.1f} M parameters from {start}; {len(training)} episodes, {len(reader)} steps, "
        f"{len(held_out)} held out; {device} {precision}, run {run}"
    )

    play = play_index(config)
    everything = [reader] if play is None else [reader, windows(play)]
    shares = [1.0] if play is None else [1 - config.play_share, config.play_share]
    mixtures = {
        role: Mixture(everything, shares, config.frame_batch, config.seed)
        if has_frames(role)
        else Mixture([reader], [1.0], config.policy_batch, config.seed)
        for role in config.roles
    }

    def batch_at(step: int) -> tuple[str, WindowBatch]:
        role = draw_role(config.roles, config.seed, step)
        return role, mixtures[role].batch(step, frames_ahead if has_frames(role) else 0)

    def loss_fn(batch: tuple[str, WindowBatch], generator: torch.Generator) -> StepLoss:
        role, windows = batch
        sample = window_sample(windows, model.autoencoder, normalizer, device)
        objective = config.frame_objective if denoises_frames(role) else config.policy_objective
        terms = role_loss(
            model, state.teacher, sample, ROLES[role], objective, config.conditioning, generator
        )
        num_tokens = sum(loss.numel() for loss in terms.token_loss.values())
        return StepLoss(terms.loss, num_tokens, {"role": role, **loss_metrics(terms)})

    def show(step: int) -> None:
        """What the world model makes of held-out episodes, beside what happened."""
        network = Network(state.teacher, normalizer, index.provenance, run, device)
        write_imagined(
            run / "samples" / f"step_{step:07d}.png", network, held_reader, seed=config.seed
        )

    train(
        config.train,
        state,
        batch_at,
        loss_fn,
        run,
        seed=config.seed,
        device=device,
        precision=precision,
        extra=checkpoint_record(config.model, stats, index.provenance),
        on_sample=show if any(denoises_frames(role) for role in config.roles) else None,
    )
    print(f"done: {run}; next: python eval/simpler.py --task pick_coke_can")


def denoises_frames(role: str) -> bool:
    return "noised" in (ROLES[role].first_frame, ROLES[role].later_frames)


def has_frames(role: str) -> bool:
    """Whether a row looks at later frames: twenty tokens each, so its batches are smaller."""
    return ROLES[role].later_frames != "absent"


def play_index(config: FinetuneConfig) -> RldsIndex | None:
    """Data for rows with later frames, beside the demonstrations: actions of every kind.

    An expert does the expected, which the picture tells already; only play makes a world model look
    at the actions.
    """
    if config.play_share == 0 or not any(w > 0 and has_frames(r) for r, w in config.roles.items()):
        return None
    if config.play_data:
        return RldsIndex.open(Path(config.play_data))
    return None if config.data else RldsIndex.open(ensure_demonstrations(config.play))


def split_episodes(count: int, config: FinetuneConfig) -> tuple[list[int], list[int]]:
    """(training, held out): the last episodes are kept out, as in Open X-Embodiment's split."""
    held = max(1, round(count * config.validation)) if config.validation else 0
    available = count - held
    wanted = available if config.num_episodes is None else config.num_episodes
    if not 1 <= wanted <= available:
        raise UserError(
            f"num_episodes={wanted} does not fit: the data set has {count} episodes, {held} of "
            "them held out; collect more or ask for fewer"
        )
    return list(range(wanted)), list(range(available, count))


def initialize(model: MultimodalSiT, config: FinetuneConfig) -> str:
    """Load pretrained weights into `model`; returns where they came from, in words."""
    if config.init == "none":
        return "scratch"
    if config.init != "auto":
        checkpoint = resolve_checkpoint(Path(config.init))
    else:
        fitting = [
            checkpoint
            for path in runs_of_kind("pretrain", Path(config.runs_dir))
            if (checkpoint := latest_checkpoint(path))
            and model_config(read_manifest(checkpoint)["extra"]) == config.model
        ]
        if not fitting:
            return "scratch (no pretraining run of this size; python pretrain/run.py makes one)"
        checkpoint = fitting[0]
    load_weights(model, load_part(checkpoint, "teacher"), checkpoint)
    return str(checkpoint)


if __name__ == "__main__":
    main()
