"""Train one network on captioned images, clips, sounds, and clips with sound.

    python pretrain/media.py experiment=debug                    # seconds, on rendered clips
    python pretrain/media.py experiment=clips                    # text to video, laptop-sized
    python pretrain/media.py experiment=film_and_sound           # text to video with sound
    python pretrain/media.py clips.data=latents/clips images.data=latents/words name=both
    python pretrain/media.py experiment=clips objective=repa encoder=run:runs/clips name=repa
    torchrun --nproc-per-node=8 pretrain/media.py experiment=mixed_video

The data are captioned latents from pretrain/encode.py (media=clips, sounds or films; captions=true
for images). A run has the modalities whose data are given. Each batch is of one modality, drawn by
its weight, and has that modality's loss weight, mask ratio R_M and p(t). Each kind of token has an
input and an output layer of its own; all else is shared (arXiv 2603.06507). Clips and films share
the layers of frames, sounds and films those of sounds.

What is given and what is denoised follows from the role (objective/roles.py): a clip or a sound
from words alone, a clip from its first frame, clip and sound together. The run is saved in
runs/NAME: metrics.jsonl, samples/, checkpoints/. Repeat the command to resume an interrupted run.
Generate with eval/media.py; docs/media.md explains all steps.
"""

from dataclasses import dataclass, field, replace
from functools import partial
from typing import Literal

import torch

from selfflow_robotics.cli.app import Flag, hydra_app
from selfflow_robotics.cli.job import Job, JobConfig, millions, step_loss
from selfflow_robotics.cli.media_input import (
    MediaRows,
    MediaSchedule,
    ModalityConfig,
    open_media_input,
    open_readers,
    role_weights,
    slot_weights,
)
from selfflow_robotics.cli.media_workload import media_workload
from selfflow_robotics.cli.plan import PlanConfig, print_plan
from selfflow_robotics.cli.workloads import Facts
from selfflow_robotics.commands import command
from selfflow_robotics.encoders.load import check_encoder, head_channels
from selfflow_robotics.encoders.media import MediaEncoder
from selfflow_robotics.errors import UserError
from selfflow_robotics.evaluation.sample_media import SAMPLES, write_media
from selfflow_robotics.inference.bundle import Bundle
from selfflow_robotics.models.network import Network
from selfflow_robotics.models.presets import MediaConfig
from selfflow_robotics.objective.loss import ConditioningConfig, loss
from selfflow_robotics.objective.roles import ROLES, modality_of
from selfflow_robotics.objective.self_flow import ObjectiveConfig, check_layers
from selfflow_robotics.planning.trace import Workload
from selfflow_robotics.rng import torch_generator
from selfflow_robotics.text.encoder import TextEncoderConfig
from selfflow_robotics.training.distributed import ALONE
from selfflow_robotics.training.loop import StepLoss


@dataclass(frozen=True)
class MediaRunConfig(JobConfig):
    name: str = "media"
    images: ModalityConfig = field(default_factory=ModalityConfig)
    clips: ModalityConfig = field(default_factory=ModalityConfig)
    sounds: ModalityConfig = field(default_factory=ModalityConfig)
    films: ModalityConfig = field(default_factory=ModalityConfig)
    model: MediaConfig = field(default_factory=MediaConfig)
    text: TextEncoderConfig = field(default_factory=TextEncoderConfig)
    attention: Literal["prefix", "joint"] = "joint"
    frame_noise: float = 0.0
    caption_dropout: float = 0.1
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    encoder: str | None = None
    plan: PlanConfig = field(default_factory=PlanConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_layers(self.objective, self.model.transformer.depth, "objective")
        check_encoder(self.objective, self.encoder, "run:PATH, a run like this one")
        if self.objective.target == "latents":
            raise UserError(
                "objective.target=latents is for one modality (pretrain/images.py); choose an "
                "objective that compares features, such as self_flow, sra or layersync"
            )
        if self.objective.mask_shape == "tube":
            raise UserError("objective.mask_shape=tube is not for mixed modalities; use token")
        if not 0 <= self.caption_dropout <= 1:
            raise UserError(f"caption_dropout must be in [0, 1], got {self.caption_dropout}")
        for name, modality in self.modalities.items():
            modality.check(name)
        self.conditioning()  # raises for frame_noise

    @property
    def modalities(self) -> dict[str, ModalityConfig]:
        """Those that have data, by name."""
        found = {name: getattr(self, name) for name in ("images", "clips", "sounds", "films")}
        return {name: modality for name, modality in found.items() if modality.data is not None}

    def conditioning(self) -> ConditioningConfig:
        """How captions and clean frames condition training."""
        return ConditioningConfig(
            self.attention,
            draws=1,
            frame_noise=self.frame_noise,
            text_dropout=self.caption_dropout,
        )


@hydra_app(
    "media",
    MediaRunConfig,
    flags=(
        Flag("--encoder", literal=True, help="for objective=repa: run:PATH of a run like this one"),
    ),
)
def main(config: MediaRunConfig) -> None:
    modalities = config.modalities
    if not modalities:
        raise UserError(
            "no data: give a folder of latents from pretrain/encode.py, for example "
            "clips.data=latents/clips (or experiment=debug)"
        )
    folders = [modality.data for modality in modalities.values()]
    if config.plan.machine is not None:
        return print_plan(config, config.plan, *workload(config), folders)
    job = Job("media", config)
    with job.ranks.first_alone():  # before there is a run folder
        readers = open_readers(modalities)
        frozen = None if config.encoder is None else MediaEncoder(config.encoder, job.device)
    with job.opening():
        given = open_media_input(readers, config.model, config.text, job)
        fingerprints = given.fingerprints
        if frozen is not None:
            frozen.check(given.codecs, given.places)
            fingerprints["encoder"] = frozen.fingerprint
        job.compare(fingerprints)
    objectives = {name: one.objective(config.objective) for name, one in modalities.items()}
    shape = config.model.network(
        given.codecs,
        given.places,
        given.text,
        config.objective.auxiliary_layer,
        head_channels(frozen, config.objective, config.model.transformer.width),
    )
    schedule = MediaSchedule(modalities, given.readers, config.seed)
    state = job.first_state(lambda: Network(shape), f"model.{config.model.backbone}")
    counts = ", ".join(f"{len(reader)} {name}" for name, reader in given.readers.items())
    print(
        f"{millions(state.model)}, {counts} with captions, {job.device} {job.precision}, "
        f"run {job.run}"
    )
    conditioning, flops = config.conditioning(), job.flops_of(workload(config)[0])

    def batch_at(step: int) -> MediaRows:
        role, rows = schedule.at(step)
        return given.read(role, rows, job.ranks, config.seed, step)

    def loss_fn(rows: MediaRows, generator: torch.Generator) -> StepLoss:
        modality = modality_of(rows.role)
        own = modalities[modality]
        terms = loss(
            state.model,
            state.teacher,
            given.tokens(rows, job.device, generator),
            ROLES[rows.role],
            objectives[modality],
            conditioning,
            generator,
            weights=slot_weights(ROLES[rows.role], given.steps(modality), own.sound_weight),
            step=state.step,
            encoder=None if frozen is None else partial(frozen, role=rows.role),
        )
        terms = replace(
            terms,
            loss=own.loss_weight * terms.loss,
            means=tuple((own.loss_weight * mean, count) for mean, count in terms.means),
        )
        samples = len(next(iter(rows.parts.values())))
        return step_loss(terms, samples, flops.get(rows.role, 0.0), role=rows.role)

    roles = tuple(role for role, weight in role_weights(modalities).items() if weight > 0)

    def agreement() -> dict[str, list[float]]:
        """Student against teacher, layer by layer, on the same few samples each time."""
        role = roles[0]
        count = min(SAMPLES, len(given.readers[modality_of(role)]))
        rows = given.read(role, range(count), ALONE, config.seed, 0)
        generator = torch_generator("agreement of media", config.seed, device=job.device)
        batch = given.tokens(rows, job.device, generator)
        return job.agreement(state, batch, generator, role)

    bundle = Bundle(
        state.teacher,
        given.codecs,
        roles,
        {**fingerprints, "media": given.sizes},
        job.run,
        job.device,
        config.attention,
        texts=given.texts,
    )
    prompts = {name: given.readers[name].first_captions(SAMPLES) for name in modalities}
    job.train(
        state,
        batch_at,
        loss_fn,
        bundle.record(fingerprints),
        on_checkpoint=agreement,
        on_sample=partial(write_media, bundle=bundle, seed=config.seed, prompts=prompts),
    )
    next_one = command("eval/media.py")
    print(f"done: {job.run} (samples in {job.run / 'samples'}); next: {next_one}")


def workload(config: MediaRunConfig) -> tuple[Workload, Facts]:
    """What a run trains, for its plan."""
    return media_workload(
        config.model,
        config.text,
        config.modalities,
        config.objective,
        config.conditioning(),
        config.train.optimizer,
    )


if __name__ == "__main__":
    main()
