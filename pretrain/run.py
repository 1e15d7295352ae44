"""Pretrain the Self-Flow backbone on pictures and clips: noise becomes what the camera shows.

    python pretrain/run.py                        # the embedded recipe: minutes on two cores
    python pretrain/run.py objective.gamma=0 objective.mask_ratio=0 name=vanilla
    python pretrain/run.py objective=repa encoder=dinov2-b encoder_download=true name=repa
    python pretrain/run.py experiment=debug       # under a minute

The data are pictures of the embedded tabletop simulator, rendered on first use, or any data set in
RT-1's RLDS format (--data DIR); actions are not looked at. Every token has its own timestep; the
student's early features learn to predict the later ones of its moving average, which sees a cleaner
view (arXiv 2603.06507). The run lies in runs/NAME: metrics.jsonl, samples/, checkpoints/. Repeating
the command continues an interrupted run; a finished one is left as it is.
"""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from selfflow_robotics.cli.app import Flag, hydra_app
from selfflow_robotics.cli.runs import continue_run, open_run, run_folder
from selfflow_robotics.commands import command
from selfflow_robotics.data.rlds.index import RldsIndex
from selfflow_robotics.data.rlds.windows import WindowBatch, WindowReader
from selfflow_robotics.data.sampler import EpochSampler
from selfflow_robotics.data.samples import window_batch
from selfflow_robotics.encoders.load import (
    check_encoder,
    encoder_of_tokens,
    head_channels,
    load_encoder,
)
from selfflow_robotics.errors import UserError
from selfflow_robotics.evaluation.video import write_grid
from selfflow_robotics.inference.bundle import Bundle, run_record
from selfflow_robotics.inference.generate import NumberedPictures, Sampling
from selfflow_robotics.models.network import Network
from selfflow_robotics.models.presets import RobotConfig
from selfflow_robotics.models.text import check_texts
from selfflow_robotics.objective.agreement import cosine_by_layer
from selfflow_robotics.objective.loss import ConditioningConfig, loss
from selfflow_robotics.objective.metrics import loss_metrics
from selfflow_robotics.objective.roles import ROLES, RoleSchedule, check_weights
from selfflow_robotics.objective.self_flow import ObjectiveConfig, check_layers
from selfflow_robotics.rng import check_seed, torch_generator, torch_seed
from selfflow_robotics.rollouts.demonstrations import CollectConfig, ensure_demonstrations
from selfflow_robotics.training.device import autocast, enough_memory
from selfflow_robotics.training.distributed import start_training
from selfflow_robotics.training.loop import StepLoss, TrainConfig, train
from selfflow_robotics.training.state import TrainState

SAMPLES = 16  # pictures looked at while training


@dataclass(frozen=True)
class PretrainConfig:
    name: str = "pretrain"
    runs_dir: str = "runs"
    seed: int = 0
    data: str | None = None
    split: str = "train"
    collect: CollectConfig = field(default_factory=CollectConfig)
    model: RobotConfig = field(default_factory=RobotConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    encoder: str | None = None
    encoder_download: bool = False
    conditioning: ConditioningConfig = field(default_factory=ConditioningConfig)
    roles: dict[str, float] = field(default_factory=lambda: {"image": 1.0, "clip": 1.0})
    image_batch: int = 64
    clip_batch: int = 16
    clip_frames: int = 4
    train: TrainConfig = field(default_factory=TrainConfig)
    device: str = "auto"
    precision: str = "auto"
    threads: int = 1

    def __post_init__(self) -> None:
        check_weights(self.roles)
        check_layers(self.objective, self.model.sit.depth, "objective")
        check_encoder(self.objective, self.encoder)
        check_seed(self.seed)
        for role in self.roles:
            if role not in ("image", "clip"):
                raise UserError(f"pretraining plays the roles image and clip, not '{role}'")
        for name in ("image_batch", "clip_batch"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 1, got {getattr(self, name)}")
        longest = 1 + self.model.later_frames
        if not 2 <= self.clip_frames <= longest:
            raise UserError(f"clip_frames must be 2 to {longest}, got {self.clip_frames}")


@hydra_app(
    "pretrain",
    PretrainConfig,
    flags=(
        Flag("--data", literal=True, help="an RLDS data set's version folder"),
        Flag("--split", literal=True, help="train, val, train[:90%], train+val, ..."),
        Flag("--encoder", literal=True, help="a frozen encoder for objective=repa"),
    ),
)
def main(config: PretrainConfig) -> None:
    folder = run_folder(config.runs_dir, config.name)
    ranks, device, precision = start_training(config.threads, config.device, config.precision)
    codecs, encoder, feature_channels = config.model.codecs(), None, None
    if config.encoder is not None:
        with ranks.first_alone():
            frozen = load_encoder(config.encoder, config.encoder_download, device)
        feature_channels = head_channels(frozen, config.objective, config.model.sit.width)
        encoder = encoder_of_tokens(frozen, config.model.pixels)
    shape = config.model.network(feature_channels)
    with ranks.first_alone():
        run = open_run("pretrain", folder, config, ranks)
        index = RldsIndex.open(
            Path(config.data) if config.data else ensure_demonstrations(config.collect),
            config.split,
        )
        fingerprints = {"data": index.fingerprint}
        continue_run(run, config, fingerprints, ranks)
    check_texts(index.instructions, config.model.text_bytes)
    clip_later = config.clip_frames - 1
    reader = WindowReader(
        index, horizon=1, future_frames=clip_later, image_size=config.model.image_size
    )
    schedule = RoleSchedule(config.roles, config.seed)
    samplers = {
        role: EpochSampler(len(reader), batch, config.seed, role)
        for role, batch in (("image", config.image_batch), ("clip", config.clip_batch))
    }

    # The modules' own initialisation is the only global draw.
    torch.manual_seed(torch_seed("first weights", config.seed))
    with enough_memory("choose a smaller model.sit"):
        state = TrainState.start(Network(shape).to(device), config.train.optimizer)
    size = sum(p.numel() for p in state.model.parameters()) / 1e6
    print(f"{size:.1f} M parameters, {len(reader)} frames, {device} {precision}, run {run}")

    def batch_at(step: int) -> tuple[int, str, WindowBatch]:
        role, turn = schedule.at(step)
        later = 0 if role == "image" else clip_later
        return step, role, reader.read(ranks.share(samplers[role].batch(turn)), future_frames=later)

    def loss_fn(batch: tuple[int, str, WindowBatch], generator: torch.Generator) -> StepLoss:
        step, role, windows = batch
        terms = loss(
            state.model,
            state.teacher,
            window_batch(windows, codecs, ROLES[role], device),
            ROLES[role],
            config.objective,
            config.conditioning,
            generator,
            step=step,
            encoder=encoder,
        )
        return StepLoss(terms.loss, terms.num_tokens, lambda: {"role": role, **loss_metrics(terms)})

    def agreement() -> dict[str, list[float]]:
        """Student against teacher, layer by layer, on the same few pictures each time."""
        windows = reader.read(np.arange(min(SAMPLES, len(reader))), future_frames=0)
        batch = window_batch(windows, codecs, ROLES["image"], device)
        generator = torch_generator("agreement", config.seed, device=device)
        with autocast(device, precision):
            return cosine_by_layer(state.model, state.teacher, batch, ROLES["image"], generator)

    def show(path: Path) -> None:
        """Pictures that the moving average makes out of noise."""
        bundle = Bundle(
            state.teacher, codecs, ("image",), {}, run, device, config.conditioning.attention
        )
        how = Sampling(method="euler", num_steps=50)
        maker = NumberedPictures(bundle, how, config.seed, instruction=index.instruction_of(0))
        write_grid(path, maker(range(SAMPLES)), columns=4)

    train(
        config.train,
        state,
        batch_at,
        loss_fn,
        run,
        seed=config.seed,
        device=device,
        precision=precision,
        extra=run_record(
            shape,
            codecs,
            index.provenance,
            [role for role, weight in config.roles.items() if weight > 0],
            attention=config.conditioning.attention,
            data=fingerprints,
        ),
        on_checkpoint=agreement,
        on_sample=show,
        ranks=ranks,
    )
    print(f"done: {run} (samples in {run / 'samples'}); next: {command('finetune/rt1.py')}")


if __name__ == "__main__":
    main()
