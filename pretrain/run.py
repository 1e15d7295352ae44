"""Pretrain the Self-Flow backbone on robot frames and short clips.

    python pretrain/run.py                        # the tabletop recipe: minutes on two cores
    python pretrain/run.py objective.gamma=0 objective.mask_ratio=0 name=vanilla
    python pretrain/run.py objective=repa encoder=dinov2-b encoder_download=true name=repa
    python pretrain/run.py model.frames=pixels name=pixels   # pixel patches instead of latents
    python pretrain/run.py experiment=debug       # under a minute

The data are frames of the built-in tabletop simulator, recorded on first use, or any RLDS data set
in RT-1's format (--data DIR, with --latents DIR if its frames were encoded ahead of time). Actions
are not used. Every token has its own timestep; the student's early features learn to predict later
features of its moving average, which sees the same input with less noise (arXiv 2603.06507). The
run is saved in runs/NAME: metrics.jsonl, samples/, checkpoints/. Repeat the command to resume an
interrupted run; a finished run is left unchanged.
"""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from selfflow_robotics.cli.app import Flag, hydra_app
from selfflow_robotics.cli.job import Job, millions
from selfflow_robotics.cli.robot_input import check_latents, open_frames, open_texts
from selfflow_robotics.cli.start import find_start
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
from selfflow_robotics.modalities.base import FRAMES
from selfflow_robotics.models.presets import RobotConfig
from selfflow_robotics.objective.agreement import cosine_by_layer
from selfflow_robotics.objective.loss import ConditioningConfig, loss
from selfflow_robotics.objective.metrics import loss_metrics
from selfflow_robotics.objective.roles import ROLES, RoleSchedule, check_weights
from selfflow_robotics.objective.self_flow import ObjectiveConfig, check_layers
from selfflow_robotics.rng import check_seed, torch_generator
from selfflow_robotics.rollouts.demonstrations import CollectConfig, ensure_demonstrations
from selfflow_robotics.text.encoder import TextEncoderConfig
from selfflow_robotics.training.loop import StepLoss, TrainConfig

SAMPLES = 16  # images sampled while training


@dataclass(frozen=True)
class PretrainConfig:
    name: str = "pretrain"
    runs_dir: str = "runs"
    seed: int = 0
    data: str | None = None
    split: str = "train"
    latents: str | None = None
    init: str = "none"
    collect: CollectConfig = field(default_factory=CollectConfig)
    model: RobotConfig = field(default_factory=RobotConfig)
    text: TextEncoderConfig = field(default_factory=TextEncoderConfig)
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
    threads: int = 2

    def __post_init__(self) -> None:
        check_weights(self.roles)
        check_latents(self.model, self.latents)
        check_layers(self.objective, self.model.transformer.depth, "objective")
        check_encoder(self.objective, self.encoder)
        check_seed(self.seed)
        for role in self.roles:
            if role not in ("image", "clip"):
                raise UserError(f"pretraining has the roles image and clip, not '{role}'")
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
        Flag("--data", literal=True, help="the version folder of an RLDS data set"),
        Flag("--split", literal=True, help="train, val, train[:90%], train+val, ..."),
        Flag("--latents", literal=True, help="its frames, encoded ahead by pretrain/encode.py"),
        Flag("--init", literal=True, help="a run, a checkpoint, a weights file, auto, or none"),
        Flag("--encoder", literal=True, help="a frozen encoder for objective=repa"),
    ),
)
def main(config: PretrainConfig) -> None:
    job = Job("pretrain", config)
    device, attention, later = job.device, config.conditioning.attention, config.clip_frames - 1
    frozen, feature_channels = None, None
    if config.encoder is not None:
        with job.ranks.first_alone():
            frozen = load_encoder(config.encoder, config.encoder_download, device)
        width = config.model.transformer.width
        feature_channels = head_channels(frozen, config.objective, width)
    with job.opening():
        given = Path(config.data) if config.data else ensure_demonstrations(config.collect)
        index = RldsIndex.open(given, config.split)
        frames, latents = open_frames(config.model, config.latents, index, device)
        reading = open_texts(config.text, config.model, index.instructions, job.run)
        data = {"data": index.fingerprint, "frames": frames.fingerprint or ""}
        data |= reading.fingerprints
        job.compare(data)
    encoder = None if frozen is None else encoder_of_tokens(frozen, frames.load(device))
    codecs = {FRAMES: frames}
    reader = WindowReader(
        index,
        horizon=1,
        future_frames=later,
        image_size=config.model.image_size,
        frames=latents,
    )
    schedule = RoleSchedule(config.roles, config.seed)
    samplers = {
        role: EpochSampler(len(reader), batch, config.seed, role)
        for role, batch in (("image", config.image_batch), ("clip", config.clip_batch))
    }
    shape = config.model.network(frames, reading.config, feature_channels)
    start = find_start(config.init, shape, job.run, config.runs_dir)

    state = job.first_state(
        lambda: start.build(codecs, reading.texts), f"model.{config.model.backbone}"
    )
    print(
        f"{millions(state.model)} from {start.text}, {len(reader)} frames, "
        f"{device} {job.precision}, run {job.run}"
    )

    def batch_at(step: int) -> tuple[int, str, WindowBatch]:
        role, turn = schedule.at(step)
        windows = job.ranks.share(samplers[role].batch(turn))
        return step, role, reader.read(windows, future_frames=0 if role == "image" else later)

    def loss_fn(batch: tuple[int, str, WindowBatch], generator: torch.Generator) -> StepLoss:
        step, role, windows = batch
        terms = loss(
            state.model,
            state.teacher,
            window_batch(windows, codecs, ROLES[role], device, reading.texts),
            ROLES[role],
            config.objective,
            config.conditioning,
            generator,
            step=step,
            encoder=encoder,
        )
        return StepLoss(terms.loss, terms.num_tokens, lambda: {"role": role, **loss_metrics(terms)})

    def agreement() -> dict[str, list[float]]:
        """Student against teacher, layer by layer, on the same few images each time."""
        windows = reader.read(np.arange(min(SAMPLES, len(reader))), future_frames=0)
        batch = window_batch(windows, codecs, ROLES["image"], device, reading.texts)
        generator = torch_generator("agreement", config.seed, device=device)
        with job.autocast():
            return cosine_by_layer(state.model, state.teacher, batch, ROLES["image"], generator)

    def show(path: Path) -> None:
        """Images that the moving average generates from noise."""
        bundle = Bundle(
            state.teacher, codecs, ("image",), {}, job.run, device, attention, None, reading.texts
        )
        try:
            bundle = bundle.with_autoencoder()
        except UserError as error:
            print(f"no sample images: {error}")
            return
        how = Sampling(method="euler", num_steps=50)
        maker = NumberedPictures(bundle, how, config.seed, instruction=index.instruction_of(0))
        write_grid(path, maker(range(SAMPLES)), columns=4)

    job.train(
        state,
        batch_at,
        loss_fn,
        run_record(
            start.config,
            codecs,
            index.provenance,
            [role for role, weight in config.roles.items() if weight > 0],
            attention=attention,
            data=data,
            start=start.record,
            texts=reading.texts,
        ),
        on_checkpoint=agreement,
        on_sample=show,
    )
    next_one = command("finetune/rt1.py")
    print(f"done: {job.run} (samples in {job.run / 'samples'}); next: {next_one}")


if __name__ == "__main__":
    main()
