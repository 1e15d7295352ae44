"""Fine-tune on RT-1 data: one network becomes a world model and a policy.

    python finetune/rt1.py                          # demonstrations on the built-in simulator
    python finetune/rt1.py --data DIR               # any RLDS data set like fractal20220817_data,
                                                    # or LeRobot data set
    python finetune/rt1.py data=[DIR1,DIR2] data_weights=[0.7,0.3]   # a mixture
    python finetune/rt1.py --data DIR --split "train[:90%]" successes_only=true
    python finetune/rt1.py --data DIR --instruction "pick .*|move .* near .*" max_length=100
    python finetune/rt1.py init=none                # from scratch
    python finetune/rt1.py experiment=fractal_xl --data DIR --latents DIR --init RELEASED.pt
    python finetune/rt1.py text.encoder=wordllama name=wordllama   # a frozen text encoder
    python finetune/rt1.py model.backbone=flux init=none           # a FLUX.2-style transformer
    python finetune/rt1.py objective@frame_objective=reworld name=reworld   # or self_flow, sra2
    python finetune/rt1.py lora.rank=16 name=lora                  # or freeze=backbone
    python finetune/rt1.py roles.world_model=0 roles.video=0 name=policy_only
    python finetune/rt1.py train.evaluate_every=450 name=watched   # success rates while it trains
    python finetune/rt1.py experiment=debug         # under a minute

The initial weights are those of the newest run of pretrain/run.py with the same network
(init=auto), or of init=PATH: a run of pretrain/run.py, pretrain/images.py or finetune/rt1.py, or a
released checkpoint. The command prints and records which weights it loaded.
Each step draws a role (selfflow_robotics/objective/roles.py) by its weight: it decides which tokens
are clean, which are denoised and which are absent. The world-model and inverse-dynamics roles also
train on play: undirected motion, recorded in the same simulator. Actions are scaled by their 1 %
and 99 % quantiles, and clipped to them when they are predicted; the statistics are saved in the
checkpoint. The run is saved in runs/NAME; repeat the command to resume an interrupted one.
"""

from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch

from selfflow_robotics.batch import Batch
from selfflow_robotics.cli.app import Flag, hydra_app
from selfflow_robotics.cli.job import Job, JobConfig, millions, step_loss
from selfflow_robotics.cli.plan import PlanConfig, print_plan
from selfflow_robotics.cli.robot_input import (
    check_data,
    check_latents,
    open_frames,
    open_index,
    open_indices,
    open_input,
)
from selfflow_robotics.cli.start import find_start
from selfflow_robotics.cli.workloads import Facts, robot_workload
from selfflow_robotics.commands import command
from selfflow_robotics.data.augment import AugmentConfig
from selfflow_robotics.data.rlds.windows import WindowBatch
from selfflow_robotics.data.robot_index import RobotIndex
from selfflow_robotics.data.robot_mixture import check_mixture
from selfflow_robotics.data.robot_windows import RobotData, Source, check_filters
from selfflow_robotics.data.samples import window_batch
from selfflow_robotics.data.workers import Workers
from selfflow_robotics.encoders.load import head_channels
from selfflow_robotics.envs.tasks.catalog import DEFAULT_TASK, short_names
from selfflow_robotics.errors import UserError, check_least
from selfflow_robotics.evaluation.during_training import (
    DuringTraining,
    DuringTrainingConfig,
    EvaluatedTrainConfig,
)
from selfflow_robotics.evaluation.sample_images import write_imagined
from selfflow_robotics.inference.bundle import Bundle
from selfflow_robotics.modalities.actions import Actions
from selfflow_robotics.modalities.base import ACTIONS, FRAMES
from selfflow_robotics.models.lora import LoraConfig
from selfflow_robotics.models.presets import RobotConfig
from selfflow_robotics.objective.loss import ConditioningConfig, check_attention, loss
from selfflow_robotics.objective.roles import (
    ROLES,
    SLOTS,
    check_loss_weights,
    check_weights,
    denoises_frames,
)
from selfflow_robotics.objective.self_flow import ObjectiveConfig, check_layers
from selfflow_robotics.planning.trace import Workload
from selfflow_robotics.rng import torch_generator
from selfflow_robotics.robot.actions import ACTION_DIM
from selfflow_robotics.rollouts.demonstrations import CollectConfig
from selfflow_robotics.text.encoder import TextEncoderConfig
from selfflow_robotics.training.loop import StepLoss


@dataclass(frozen=True)
class FinetuneConfig(JobConfig):
    name: str = "rt1"
    train: EvaluatedTrainConfig = field(default_factory=EvaluatedTrainConfig)
    evaluation: DuringTrainingConfig = field(default_factory=DuringTrainingConfig)
    data: str | tuple[str, ...] | None = None
    data_required: bool = False
    data_weights: tuple[float, ...] | None = None
    split: str | tuple[str, ...] = "train"
    latents: str | tuple[str, ...] | None = None
    workers: int = 0
    successes_only: bool = False
    instruction: str | None = None
    min_length: int | None = None
    max_length: int | None = None
    collect: CollectConfig = field(default_factory=CollectConfig)
    play_data: str | None = None
    play_split: str = "train"
    play_latents: str | None = None
    play: CollectConfig = field(default_factory=CollectConfig)
    play_share: float = 0.5
    num_episodes: int | None = None  # number of training episodes, the first ones; null: all
    validation: float = 0.02  # fraction of episodes, the last ones, held out
    init: str = "auto"
    model: RobotConfig = field(default_factory=RobotConfig)
    text: TextEncoderConfig = field(default_factory=TextEncoderConfig)
    policy_objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    frame_objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    conditioning: ConditioningConfig = field(default_factory=ConditioningConfig)
    roles: dict[str, float] = field(default_factory=lambda: {"policy": 1.0})
    loss_weights: dict[str, float] = field(default_factory=lambda: dict.fromkeys(SLOTS, 1.0))
    policy_batch: int = 32
    frame_batch: int = 16
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    plan: PlanConfig = field(default_factory=PlanConfig)
    freeze: Literal["none", "backbone"] = "none"
    lora: LoraConfig = field(default_factory=LoraConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.validation < 1:
            raise UserError(f"validation must be a fraction in [0, 1), got {self.validation}")
        if not 0 <= self.play_share < 1:
            raise UserError(f"play_share must be in [0, 1), got {self.play_share}")
        check_filters(self.instruction, self.min_length, self.max_length)
        check_mixture(self.data, self.data_weights)
        check_weights(self.roles)
        check_latents(self.model, self.latents)
        check_attention(self.conditioning, self.model.backbone)
        if self.latents is not None and self.augment.active:
            raise UserError("latents cannot be augmented; remove augment or latents")
        check_loss_weights(self.loss_weights, self.roles)
        for key in ("policy_objective", "frame_objective"):
            check_layers(getattr(self, key), self.model.transformer.depth, key)
            if getattr(self, key).target == "encoder":
                raise UserError(f"{key}.target=encoder is for pretraining; choose another target")
        if self.policy_objective.target == "latents":
            raise UserError("policy_objective.target=latents is for frames; choose another target")
        if self.model.action_dim != ACTION_DIM:
            raise UserError(
                f"RT-1's actions have {ACTION_DIM} numbers: model.action_dim={ACTION_DIM}"
            )
        if self.augment.shift_px >= min(self.model.image_size):
            raise UserError(
                f"augment.shift_px must be smaller than the image's sides {self.model.image_size}, "
                f"got {self.augment.shift_px}"
            )
        check_least(self, 1, "policy_batch", "frame_batch")
        check_least(self, 0, "workers")
        if self.train.evaluate_every and self.acting_role is None:
            raise UserError(
                "train.evaluate_every needs the role policy or joint; train one of them"
            )
        steps, horizon = self.evaluation.replan_steps, self.model.action_horizon
        if steps is not None and steps > horizon:
            raise UserError(
                f"evaluation.replan_steps must be at most {horizon} (model.action_horizon), got "
                f"{steps}"
            )

    @property
    def acting_role(self) -> str | None:
        """The role whose actions are evaluated; None: it trains no such role."""
        return next((role for role in ("policy", "joint") if self.roles.get(role, 0) > 0), None)


@hydra_app(
    "finetune",
    FinetuneConfig,
    flags=(
        Flag("--data", literal=True, help="a robot data set: RLDS's version folder, or LeRobot's"),
        Flag("--split", literal=True, help="train, val, train[:90%], train+val, ..."),
        Flag("--instruction", literal=True, help="train on these instructions only: 'pick .*'"),
        Flag("--latents", literal=True, help="its frames, encoded ahead by pretrain/encode.py"),
        Flag("--init", literal=True, help="a run, a checkpoint, a weights file, auto, or none"),
    ),
)
def main(config: FinetuneConfig) -> None:
    if config.plan.machine is not None:
        folders = [config.data, config.play_data, config.latents, config.play_latents]
        return print_plan(config, config.plan, *workload(config), folders)
    check_data(config.data, config.data_required)
    job = Job("finetune", config)
    with job.opening():
        indices, play = open_data(config)
        known = (text for one in (*indices, *([play] if play else ())) for text in one.instructions)
        instructions = sorted({*known})
        given = open_input(config.model, config.text, config.latents, indices, instructions, job)
        aimless = None
        if play is not None:
            _, frames = open_frames(config.model, config.play_latents, play, job.device)
            aimless = Source(play, frames)
        sources = [Source(*one) for one in zip(indices, given.latents, strict=True)]
        data = RobotData(sources, aimless, config, job.ranks.share)
        fingerprints = data.fingerprints | given.fingerprints
        job.compare(fingerprints)
    codecs = {FRAMES: given.frames, ACTIONS: Actions(data.stats)}
    shape = config.model.network(
        given.frames,
        given.text,
        *heads(config, given.frames.channels),
        lora_of(config),
    )
    start = find_start(config.init, shape, job.run, config.runs_dir)
    state = job.first_state(
        lambda: start.build(codecs, given.texts, config.freeze == "backbone"),
        f"model.{config.model.backbone}",
    )
    print(
        f"{millions(state.model)} from {start.text}; {data}; {job.device} {job.precision}, "
        f"run {job.run}"
    )

    flops = job.flops_of(workload(config)[0])

    def tokens(windows: WindowBatch, role: str, *changes: Any) -> Batch:
        return window_batch(windows, codecs, ROLES[role], job.device, given.texts, *changes)

    def loss_fn(batch: tuple[int, str, WindowBatch], generator: torch.Generator) -> StepLoss:
        _, role, windows = batch
        terms = loss(
            state.model,
            state.teacher,
            tokens(windows, role, config.augment, generator),
            ROLES[role],
            objective_of(config, role),
            config.conditioning,
            generator,
            weights=config.loss_weights,
            step=state.step,
        )
        return step_loss(terms, len(windows.instruction), flops.get(role, 0.0), role=role)

    def held_out() -> dict[str, float]:
        """The policy loss of the moving average on held-out episodes."""
        with torch.no_grad(), job.autocast():
            losses = [
                loss(
                    state.teacher,
                    state.teacher,
                    tokens(windows, "policy"),
                    ROLES["policy"],
                    config.policy_objective,
                    replace(config.conditioning, text_dropout=0.0),
                    torch_generator("held out", config.seed, number, device=job.device),
                ).flow_loss.item()
                for number, windows in enumerate(data.held_out_batches())
            ]
        return {"held_out_policy_loss": sum(losses) / len(losses)}

    def show(path: Path) -> None:
        """Imagined frames of held-out episodes, next to the real ones."""
        write_imagined(path, bundle, data.held_out_pictures(), seed=config.seed)

    roles = tuple(role for role, weight in config.roles.items() if weight > 0)
    bundle = Bundle(
        state.teacher,
        codecs,
        roles,
        data.provenance,
        job.run,
        job.device,
        config.conditioning.attention,
        texts=given.texts,
        frame_stride=config.model.frame_stride,
        schedule=config.policy_objective.schedule,
    )
    evaluator = evaluator_of(config, job)
    number = config.train.steps * config.train.accumulate
    with evaluator or nullcontext(), Workers(data.batch_at, config.workers, number) as batch_at:
        job.train(
            state,
            batch_at,
            loss_fn,
            bundle.record(fingerprints, start.record),
            on_checkpoint=held_out if config.validation and "policy" in roles else None,
            on_sample=show if "world_model" in roles else None,
            evaluator=evaluator,
        )
    task = short_names(data.provenance.get("task", DEFAULT_TASK))
    print(f"done: {job.run}; next: {command('eval/simpler.py')} --task {task}")


def evaluator_of(config: FinetuneConfig, job: Job) -> DuringTraining | None:
    """What evaluates checkpoints during training; None: nothing."""
    every, steps = config.train.evaluate_every, config.train.steps
    if not every:
        return None
    joint = config.acting_role == "joint"
    return DuringTraining(job.run, config.evaluation, every, steps, joint)


def objective_of(config: FinetuneConfig, role: str) -> ObjectiveConfig:
    """The objective of a role."""
    return config.frame_objective if denoises_frames(ROLES[role]) else config.policy_objective


def lora_of(config: FinetuneConfig) -> LoraConfig | None:
    """The low-rank updates; None: none."""
    return config.lora if config.lora.rank else None


def workload(config: FinetuneConfig) -> tuple[Workload, Facts]:
    """What a run trains, for its plan. Raises UserError as `heads`."""

    def settings(role: str) -> tuple[int, ObjectiveConfig]:
        batch = config.frame_batch if "later_frames" in ROLES[role] else config.policy_batch
        return batch, objective_of(config, role)

    work, facts = robot_workload(
        config.model,
        config.text,
        config.latents,
        config.roles,
        settings,
        config.conditioning,
        config.train.optimizer,
        config.loss_weights,
        lora=lora_of(config),
    )
    heads(config, work.network.adapters[FRAMES].channels)
    return replace(work, freeze=config.freeze == "backbone"), facts


def heads(config: FinetuneConfig, channels: int) -> tuple[int | None, int | None]:
    """`feature_channels` and `auxiliary_layer` of a network that has the heads of both objectives;
    `channels` of the tokens of frames.

    Raises UserError if they need different ones, as the network has one of each.
    """
    objectives, width = (config.policy_objective, config.frame_objective), config.model.transformer
    features = {head_channels(None, o, width.width, channels) for o in objectives if o.gamma > 0}
    layers = {o.auxiliary_layer for o in objectives if o.auxiliary_layer is not None}
    if len(features) > 1 or len(layers) > 1:
        raise UserError(
            "policy_objective and frame_objective need different heads; give both the same "
            "student_layer and target, or set gamma and auxiliary of one of them to 0"
        )
    return next(iter(features), None), next(iter(layers), None)


def open_data(config: FinetuneConfig) -> tuple[list[RobotIndex], RobotIndex | None]:
    """Open the demonstrations and, for roles that train on it, play; record them if missing."""
    indices, play = open_indices(config.data, config.split, config.collect), None
    asked = config.roles.get("world_model", 0) + config.roles.get("inverse_dynamics", 0)
    has_play = config.data is None or config.play_data is not None
    if config.play_share > 0 and asked > 0 and has_play:
        same = {name: getattr(config.collect, name) for name in SAME_WORLD}
        play = open_index(config.play_data, config.play_split, replace(config.play, **same))
        if (config.latents is None) != (config.play_latents is None):
            raise UserError(
                "this run trains on two data sets, so latents and play_latents go together; encode "
                "both, or train without play (play_share=0)"
            )
    elif config.play_latents is not None:
        raise UserError("play_latents has no play to belong to: give play_data, or leave it out")
    return indices, play


# Settings that play shares with the demonstrations.
SAME_WORLD = ("sim", "task", "image_size", "renderer", "simpler", "root")


if __name__ == "__main__":
    main()
