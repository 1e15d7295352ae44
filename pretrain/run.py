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
from functools import partial

import torch

from selfflow_robotics.batch import Batch
from selfflow_robotics.cli.app import Flag, hydra_app
from selfflow_robotics.cli.job import Job, JobConfig, millions, step_loss
from selfflow_robotics.cli.plan import PlanConfig, print_plan
from selfflow_robotics.cli.robot_input import check_data, check_latents, open_index, open_input
from selfflow_robotics.cli.start import find_start
from selfflow_robotics.cli.workloads import Facts, robot_workload
from selfflow_robotics.commands import command
from selfflow_robotics.data.rlds.windows import WindowBatch
from selfflow_robotics.data.robot_windows import ClipData
from selfflow_robotics.data.samples import window_batch
from selfflow_robotics.encoders.load import (
    check_encoder,
    encoder_of_tokens,
    head_channels,
    load_encoder,
)
from selfflow_robotics.errors import UserError, check_least
from selfflow_robotics.evaluation.sample_images import SAMPLES, write_generated
from selfflow_robotics.inference.bundle import Bundle
from selfflow_robotics.modalities.base import FRAMES
from selfflow_robotics.models.presets import RobotConfig
from selfflow_robotics.objective.loss import ConditioningConfig, check_attention, loss
from selfflow_robotics.objective.roles import ROLES, check_weights
from selfflow_robotics.objective.self_flow import ObjectiveConfig, check_layers
from selfflow_robotics.planning.trace import Workload
from selfflow_robotics.rng import torch_generator
from selfflow_robotics.rollouts.demonstrations import CollectConfig
from selfflow_robotics.text.encoder import TextEncoderConfig
from selfflow_robotics.training.loop import StepLoss


@dataclass(frozen=True)
class PretrainConfig(JobConfig):
    name: str = "pretrain"
    data: str | None = None
    data_required: bool = False
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
    plan: PlanConfig = field(default_factory=PlanConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_weights(self.roles)
        check_latents(self.model, self.latents)
        check_attention(self.conditioning, self.model.backbone)
        check_layers(self.objective, self.model.transformer.depth, "objective")
        check_encoder(self.objective, self.encoder)
        for role in self.roles:
            if role not in ("image", "clip"):
                raise UserError(f"pretraining has the roles image and clip, not '{role}'")
        check_least(self, 1, "image_batch", "clip_batch")
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
    if config.plan.machine is not None:
        return print_plan(config, config.plan, *workload(config), [config.data, config.latents])
    check_data(config.data, config.data_required)
    job = Job("pretrain", config)
    frozen = None
    if config.encoder is not None:
        with job.ranks.first_alone():
            frozen = load_encoder(config.encoder, config.encoder_download, job.device)
    head_channels(frozen, config.objective, config.model.transformer.width)  # before any file
    with job.opening():
        index = open_index(config.data, config.split, config.collect)
        given = open_input(
            config.model, config.text, config.latents, [index], index.instructions, job
        )
        fingerprints = {"data": index.fingerprint, **given.fingerprints}
        if frozen is not None:
            fingerprints["encoder"] = frozen.fingerprint
        job.compare(fingerprints)
    encoder = None
    if frozen is not None:
        encoder = encoder_of_tokens(frozen, given.frames.load(job.device))
    data = ClipData(
        index,
        config.roles,
        {"image": config.image_batch, "clip": config.clip_batch},
        config.clip_frames,
        config.model.image_size,
        config.seed,
        job.ranks.share,
        given.latents[0],
        config.model.frame_stride,
    )
    codecs = {FRAMES: given.frames}
    shape = config.model.network(
        given.frames,
        given.text,
        head_channels(
            frozen, config.objective, config.model.transformer.width, given.frames.channels
        ),
        config.objective.auxiliary_layer,
    )
    start = find_start(config.init, shape, job.run, config.runs_dir)
    state = job.first_state(
        lambda: start.build(codecs, given.texts), f"model.{config.model.backbone}"
    )
    print(
        f"{millions(state.model)} from {start.text}, {len(data)} frames, "
        f"{job.device} {job.precision}, run {job.run}"
    )

    flops = job.flops_of(workload(config)[0])

    def tokens(windows: WindowBatch, role: str) -> Batch:
        return window_batch(windows, codecs, ROLES[role], job.device, given.texts)

    def loss_fn(batch: tuple[int, str, WindowBatch], generator: torch.Generator) -> StepLoss:
        _, role, windows = batch
        terms = loss(
            state.model,
            state.teacher,
            tokens(windows, role),
            ROLES[role],
            config.objective,
            config.conditioning,
            generator,
            step=state.step,
            encoder=encoder,
        )
        return step_loss(terms, len(windows.instruction), flops.get(role, 0.0), role=role)

    def agreement() -> dict[str, list[float]]:
        """Student against teacher, layer by layer, on the same few images each time."""
        batch = tokens(data.first_frames(SAMPLES), "image")
        generator = torch_generator("agreement", config.seed, device=job.device)
        return job.agreement(state, batch, generator)

    bundle = Bundle(
        state.teacher,
        codecs,
        tuple(role for role, weight in config.roles.items() if weight > 0),
        index.provenance,
        job.run,
        job.device,
        config.conditioning.attention,
        texts=given.texts,
        frame_stride=config.model.frame_stride,
    )
    job.train(
        state,
        data.batch_at,
        loss_fn,
        bundle.record(fingerprints, start.record),
        on_checkpoint=agreement,
        on_sample=partial(
            write_generated,
            bundle=bundle,
            seed=config.seed,
            prompts=[index.instruction_of(0)],
        ),
    )
    next_one = command("finetune/rt1.py")
    print(f"done: {job.run} (samples in {job.run / 'samples'}); next: {next_one}")


def workload(config: PretrainConfig) -> tuple[Workload, Facts]:
    """What a run trains, for its plan."""
    batches = {"image": config.image_batch, "clip": config.clip_batch}
    return robot_workload(
        config.model,
        config.text,
        config.latents,
        config.roles,
        lambda role: (batches[role], config.objective),
        config.conditioning,
        config.train.optimizer,
        later_frames=config.clip_frames - 1,
    )


if __name__ == "__main__":
    main()
