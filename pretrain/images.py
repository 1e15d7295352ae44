"""Pretrain Self-Flow on images with labels or captions, at any size.

    python pretrain/images.py                                   # coloured shapes, drawn on demand
    python pretrain/images.py objective=vanilla name=vanilla    # any file in configs/objective
    python pretrain/images.py objective=sra size=S name=sra-s   # any file in configs/size
    python pretrain/images.py model.backbone=flux name=flux     # a FLUX.2-style transformer
    python pretrain/encode.py --data imagenet/train --output latents/imagenet256 download=true
    torchrun --nproc-per-node=8 pretrain/images.py --data DIR experiment=imagenet256_xl
    python pretrain/images.py experiment=words                  # text to image (docs/generation.md)
    python pretrain/images.py experiment=debug                  # under a minute

The data are latents from pretrain/encode.py, so training does not run the autoencoder; each epoch
samples them anew from its posterior. The network (models/presets.py) is conditioned on the class,
in the layout of the released weights if it is a SiT, or, with captions=true, on a caption, whose
tokens are clean. The run is saved in runs/NAME: metrics.jsonl, samples/, checkpoints/. Repeat the
command to resume an interrupted run; a finished run is left unchanged.
Settings of the objective (objective.gamma=0.5) are explained in objective/self_flow.py, those of
p(t) (objective.timesteps.distribution=logit_normal) in flow/timesteps.py.
"""

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from selfflow_robotics.batch import Batch, Words
from selfflow_robotics.cli.app import Flag, hydra_app
from selfflow_robotics.cli.image_input import open_image_input, open_latents
from selfflow_robotics.cli.job import Job, JobConfig, millions, step_loss
from selfflow_robotics.cli.plan import PlanConfig, print_plan
from selfflow_robotics.cli.workloads import Facts, image_workload
from selfflow_robotics.commands import command
from selfflow_robotics.data.images import missing_classes
from selfflow_robotics.data.latents import LatentBatch, sample_posterior
from selfflow_robotics.data.transfer import to_device
from selfflow_robotics.encoders.load import (
    check_encoder,
    encoder_of_tokens,
    head_channels,
    load_encoder,
)
from selfflow_robotics.errors import UserError, check_least
from selfflow_robotics.evaluation.sample_images import SAMPLES, write_generated
from selfflow_robotics.inference.bundle import Bundle
from selfflow_robotics.modalities.base import FRAMES, slot_of
from selfflow_robotics.models.network import Network
from selfflow_robotics.models.presets import ImageConfig, image_config
from selfflow_robotics.objective.loss import ConditioningConfig, loss
from selfflow_robotics.objective.roles import ROLES
from selfflow_robotics.objective.self_flow import ObjectiveConfig, check_layers
from selfflow_robotics.planning.trace import Workload
from selfflow_robotics.rng import torch_generator
from selfflow_robotics.text.encoder import TextEncoderConfig
from selfflow_robotics.training.distributed import ALONE
from selfflow_robotics.training.loop import StepLoss


@dataclass(frozen=True)
class ImagesConfig(JobConfig):
    name: str = "images"
    data: str | None = None
    root: str = "datasets"
    num_shapes: int = 2000
    shape_px: int = 32
    captions: bool = False
    text: TextEncoderConfig = field(default_factory=TextEncoderConfig)
    attention: Literal["prefix", "joint"] = "prefix"
    model: ImageConfig = field(default_factory=ImageConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    encoder: str | None = None
    encoder_download: bool = False
    label_dropout: float = 0.1
    batch_size: int = 64
    plan: PlanConfig = field(default_factory=PlanConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_layers(self.objective, self.model.transformer.depth, "objective")
        check_encoder(self.objective, self.encoder)
        if self.objective.mask_shape == "tube":
            raise UserError("objective.mask_shape=tube is for clips; use token for images")
        if not 0 <= self.label_dropout <= 1:
            raise UserError(f"label_dropout must be in [0, 1], got {self.label_dropout}")
        check_least(self, 1, "batch_size", "num_shapes")


@hydra_app(
    "images",
    ImagesConfig,
    flags=(
        Flag("--data", literal=True, help="a folder of latents, from pretrain/encode.py"),
        Flag("--encoder", literal=True, help="a frozen encoder for objective=repa"),
    ),
)
def main(config: ImagesConfig) -> None:
    if config.plan.machine is not None:
        return print_plan(config, config.plan, *workload(config), [config.data])
    job = Job("images", config)
    frozen = None
    with job.ranks.first_alone():
        shapes = Path(config.root), config.num_shapes, config.shape_px
        reader = open_latents(config.data, shapes, config.captions)
        if config.encoder is not None:
            frozen = load_encoder(config.encoder, config.encoder_download, job.device)
    with job.opening():
        given = open_image_input(reader, config.model, config.text, job)
        fingerprints = {**given.fingerprints}
        if frozen is not None:
            fingerprints["encoder"] = frozen.fingerprint
        job.compare(fingerprints)
        codec, encoder = given.codec, None
        if frozen is not None:
            encoder = encoder_of_tokens(frozen, codec.load(job.device))
    shape = image_config(
        config.model.transformer,
        reader.latent_size,
        reader.channels,
        config.model.patch,
        None if config.captions else reader.num_classes,
        learn_sigma=not config.captions,
        feature_channels=head_channels(
            frozen, config.objective, config.model.transformer.width, codec.channels
        ),
        auxiliary_layer=config.objective.auxiliary_layer,
        text=given.text,
        prediction=config.model.prediction,
    )
    sampler = reader.sampler(config.batch_size, config.seed)
    state = job.first_state(lambda: Network(shape), f"model.{config.model.backbone}")
    kind = "with captions" if config.captions else f"of {len(reader.labels)} classes"
    print(
        f"{millions(state.model)}, {len(reader)} latents {kind}, "
        f"{job.device} {job.precision}, run {job.run}"
    )
    if note := missing_classes(reader.labels, reader.num_classes, reader.class_names):
        print(note)

    flops = job.flops_of(workload(config)[0])

    def tokens(latents: LatentBatch, words: Words | None, generator: torch.Generator) -> Batch:
        mean, std, labels = (to_device(part, job.device) for part in latents)
        frames = codec.to_tokens(sample_posterior(mean, std, generator)[:, None])
        slots = {"first_frame": slot_of("first_frame", codec, frames)}
        if words is None:
            return Batch(slots, labels=labels)
        no_words = None
        if isinstance(words, Tensor) and given.texts is not None:
            words, no_words = words.to(job.device), given.texts.no_words.to(job.device)
        return Batch(slots, words, no_words=no_words)

    def batch_at(step: int) -> tuple[LatentBatch, Words | None]:
        return given.batch(sampler.batch(step), job.ranks, config.seed, step)

    def loss_fn(batch: tuple[LatentBatch, Words | None], generator: torch.Generator) -> StepLoss:
        terms = loss(
            state.model,
            state.teacher,
            tokens(*batch, generator),
            ROLES["image"],
            config.objective,
            ConditioningConfig(config.attention, text_dropout=config.label_dropout),
            generator,
            step=state.step,
            encoder=encoder,
        )
        return step_loss(terms, len(batch[0].labels), flops.get("image", 0.0))

    def agreement() -> dict[str, list[float]]:
        """Student against teacher, layer by layer, on the same few images each time."""
        generator = torch_generator("agreement of latents", config.seed, device=job.device)
        latents, words = given.batch(range(min(SAMPLES, len(reader))), ALONE, config.seed, 0)
        return job.agreement(state, tokens(latents, words, generator), generator)

    bundle = Bundle(
        state.teacher,
        {FRAMES: codec},
        ("image",),
        fingerprints,
        job.run,
        job.device,
        config.attention,
        labels=None if config.captions else reader.labels,
        texts=given.texts,
    )
    job.train(
        state,
        batch_at,
        loss_fn,
        bundle.record(fingerprints),
        on_checkpoint=agreement,
        on_sample=partial(
            write_generated,
            bundle=bundle,
            seed=config.seed,
            labels=bundle.labels,
            prompts=given.reader.first_captions(SAMPLES) if given.text else None,
        ),
    )
    next_one = command("eval/generation.py")
    print(f"done: {job.run} (samples in {job.run / 'samples'}); next: {next_one}")


def workload(config: ImagesConfig) -> tuple[Workload, Facts]:
    """What a run trains, for its plan."""
    return image_workload(
        config.model,
        config.objective,
        config.train.optimizer,
        config.batch_size,
        config.data,
        (config.num_shapes, config.shape_px),
        ConditioningConfig(config.attention),
        config.text if config.captions else None,
    )


if __name__ == "__main__":
    main()
