"""Fine-tune the backbone on robot data in RT-1's format: one network is world model and policy.

    python finetune/rt1.py                          # demonstrations of the embedded simulator
    python finetune/rt1.py --data DIR               # any RLDS data set like fractal20220817_data
    python finetune/rt1.py --data DIR --split "train[:90%]" successes_only=true
    python finetune/rt1.py init=none                # from scratch
    python finetune/rt1.py roles.world_model=0 roles.video=0 name=policy_only
    python finetune/rt1.py experiment=debug         # under a minute

It starts from the newest pretraining run of the same network size (init=auto), or from `init=PATH`.
Every step plays one row of the role table (selfflow_robotics/objective/roles.py), drawn by weight:
which tokens are clean, which are denoised, which are left out. Rows that ask what actions do also
read play: aimless motion, recorded where the demonstrations are. Actions are scaled by
their 1 % and 99 % quantiles, and clipped there where they are to be predicted; the statistics
travel in the checkpoint. The run lies in runs/NAME;
repeating the command continues an interrupted one.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from selfflow_robotics.cli.app import Flag, hydra_app
from selfflow_robotics.cli.runs import continue_run, open_run, run_folder, runs_of_kind
from selfflow_robotics.commands import command
from selfflow_robotics.data.augment import AugmentConfig
from selfflow_robotics.data.rlds.index import RldsIndex
from selfflow_robotics.data.rlds.windows import WindowBatch
from selfflow_robotics.data.robot_windows import RobotData
from selfflow_robotics.data.samples import window_batch
from selfflow_robotics.errors import UserError
from selfflow_robotics.evaluation.imagination import write_imagined
from selfflow_robotics.inference.bundle import Bundle, read_config, run_record
from selfflow_robotics.models.network import Network
from selfflow_robotics.models.presets import RobotConfig
from selfflow_robotics.models.text import check_texts
from selfflow_robotics.objective.loss import ConditioningConfig, loss
from selfflow_robotics.objective.metrics import loss_metrics
from selfflow_robotics.objective.roles import (
    ROLES,
    SLOTS,
    check_loss_weights,
    check_weights,
    denoises_frames,
)
from selfflow_robotics.objective.self_flow import ObjectiveConfig, check_layers
from selfflow_robotics.rng import check_seed, torch_generator, torch_seed
from selfflow_robotics.robot.actions import ACTION_DIM
from selfflow_robotics.rollouts.demonstrations import CollectConfig, ensure_demonstrations
from selfflow_robotics.training.checkpoint import (
    latest_checkpoint,
    load_part,
    load_weights,
    resolve_checkpoint,
)
from selfflow_robotics.training.device import autocast, enough_memory
from selfflow_robotics.training.distributed import Ranks, start_training
from selfflow_robotics.training.loop import StepLoss, TrainConfig, train
from selfflow_robotics.training.state import TrainState


@dataclass(frozen=True)
class FinetuneConfig:
    name: str = "rt1"
    runs_dir: str = "runs"
    seed: int = 0
    data: str | None = None
    split: str = "train"
    successes_only: bool = False
    collect: CollectConfig = field(default_factory=CollectConfig)
    play_data: str | None = None
    play_split: str = "train"
    play: CollectConfig = field(default_factory=CollectConfig)
    play_share: float = 0.5
    num_episodes: int | None = None  # the first so many of the training episodes; null: all
    validation: float = 0.02  # fraction of the episodes, the last ones, that training never sees
    init: str = "auto"
    model: RobotConfig = field(default_factory=RobotConfig)
    policy_objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    frame_objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    conditioning: ConditioningConfig = field(default_factory=ConditioningConfig)
    roles: dict[str, float] = field(default_factory=lambda: {"policy": 1.0})
    loss_weights: dict[str, float] = field(default_factory=lambda: dict.fromkeys(SLOTS, 1.0))
    policy_batch: int = 32
    frame_batch: int = 16
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    device: str = "auto"
    precision: str = "auto"
    threads: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.validation < 1:
            raise UserError(f"validation must be a fraction in [0, 1), got {self.validation}")
        if not 0 <= self.play_share < 1:
            raise UserError(f"play_share must be in [0, 1), got {self.play_share}")
        check_weights(self.roles)
        check_loss_weights(self.loss_weights, self.roles)
        for key in ("policy_objective", "frame_objective"):
            check_layers(getattr(self, key), self.model.sit.depth, key)
            if getattr(self, key).target == "encoder":
                raise UserError(f"{key}.target=encoder is for pretraining; choose another target")
        check_seed(self.seed)
        if self.model.action_dim != ACTION_DIM:
            raise UserError(
                f"RT-1's actions have {ACTION_DIM} numbers: model.action_dim={ACTION_DIM}"
            )
        if self.augment.shift_px >= min(self.model.image_size):
            raise UserError(
                f"augment.shift_px must be below the picture's sides {self.model.image_size}, "
                f"got {self.augment.shift_px}"
            )
        for name in ("policy_batch", "frame_batch"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 1, got {getattr(self, name)}")


@hydra_app(
    "finetune",
    FinetuneConfig,
    flags=(
        Flag("--data", literal=True, help="an RLDS data set's version folder"),
        Flag("--split", literal=True, help="train, val, train[:90%], train+val, ..."),
        Flag("--init", literal=True, help="a pretraining run or checkpoint, auto, or none"),
    ),
)
def main(config: FinetuneConfig) -> None:
    folder = run_folder(config.runs_dir, config.name)
    ranks, device, precision = start_training(config.threads, config.device, config.precision)
    with ranks.first_alone():
        run = open_run("finetune", folder, config, ranks)
        data = open_data(config, ranks)
        continue_run(run, config, data.fingerprints, ranks)
    codecs, shape = config.model.codecs(data.stats), config.model.network()

    # The modules' own initialisation is the only global draw.
    torch.manual_seed(torch_seed("first weights", config.seed))
    with enough_memory("choose a smaller model.sit"):
        model = Network(shape).to(device)
        start = "its own checkpoint" if latest_checkpoint(run) else initialize(model, config)
        state = TrainState.start(model, config.train.optimizer)
    size = sum(p.numel() for p in model.parameters()) / 1e6
    print(f"{size:.1f} M parameters from {start}; {data}; {device} {precision}, run {run}")

    def loss_fn(batch: tuple[int, str, WindowBatch], generator: torch.Generator) -> StepLoss:
        step, role, windows = batch
        changes = config.augment
        denoises = denoises_frames(ROLES[role])
        terms = loss(
            model,
            state.teacher,
            window_batch(windows, codecs, ROLES[role], device, changes, generator),
            ROLES[role],
            config.frame_objective if denoises else config.policy_objective,
            config.conditioning,
            generator,
            weights=config.loss_weights,
            step=step,
        )
        return StepLoss(terms.loss, terms.num_tokens, lambda: {"role": role, **loss_metrics(terms)})

    def held_out() -> dict[str, float]:
        """The policy's loss on episodes that training never sees, of the weights that act."""
        role = ROLES["policy"]
        with torch.no_grad(), autocast(device, precision):
            losses = [
                loss(
                    state.teacher,
                    state.teacher,
                    window_batch(windows, codecs, role, device),
                    role,
                    config.policy_objective,
                    replace(config.conditioning, text_dropout=0.0),
                    torch_generator("held out", config.seed, number, device=device),
                ).flow_loss.item()
                for number, windows in enumerate(data.held_out_batches())
            ]
        return {"held_out_policy_loss": sum(losses) / len(losses)}

    def show(path: Path) -> None:
        """What the world model makes of held-out episodes, beside what happened."""
        attention = config.conditioning.attention
        bundle = Bundle(state.teacher, codecs, ("world_model",), {}, run, device, attention)
        write_imagined(path, bundle, data.held_out, seed=config.seed)

    train(
        config.train,
        state,
        data.batch_at,
        loss_fn,
        run,
        seed=config.seed,
        device=device,
        precision=precision,
        extra=run_record(
            shape,
            codecs,
            data.provenance,
            [role for role, weight in config.roles.items() if weight > 0],
            attention=config.conditioning.attention,
            data=data.fingerprints,
            start={"source": start},
        ),
        on_checkpoint=held_out if config.validation and config.roles.get("policy", 0) > 0 else None,
        on_sample=show if config.roles.get("world_model", 0) > 0 else None,
        ranks=ranks,
    )
    print(f"done: {run}; next: {command('eval/simpler.py')} --task pick_coke_can")


def open_data(config: FinetuneConfig, ranks: Ranks) -> RobotData:
    """Demonstrations and, where a row asks what actions do, play; recorded first if need be."""
    given = Path(config.data) if config.data else ensure_demonstrations(config.collect)
    index, play = RldsIndex.open(given, config.split), None
    asked = config.roles.get("world_model", 0) + config.roles.get("inverse_dynamics", 0)
    if config.play_share > 0 and asked > 0 and (config.play_data or not config.data):
        same = {name: getattr(config.collect, name) for name in SAME_WORLD}
        given = config.play_data or ensure_demonstrations(replace(config.play, **same))
        play = RldsIndex.open(Path(given), config.play_split)
    for one in (index, play):
        if one is not None:
            check_texts(one.instructions, config.model.text_bytes)
    return RobotData(index, play, config, ranks.share)


# Play is recorded where the demonstrations are.
SAME_WORLD = ("sim", "task", "image_size", "renderer", "simpler", "root")


def initialize(model: Network, config: FinetuneConfig) -> str:
    """Load pretrained weights into `model`; returns where they came from, in words."""
    if config.init == "none":
        return "scratch"
    if config.init != "auto":
        checkpoint = resolve_checkpoint(Path(config.init))
        # Positions in a picture are fixed, so it may have another size.
        if differences := differing(checkpoint, model, ignored="adapters.frames.grid"):
            name, (old, new) = next(iter(differences.items()))
            raise UserError(
                f"{checkpoint} has {name}={old}, not {new}; give that, or another checkpoint"
            )
    else:
        fitting = [
            checkpoint
            for path in runs_of_kind("pretrain", Path(config.runs_dir))
            if (checkpoint := latest_checkpoint(path)) and not differing(checkpoint, model)
        ]
        if not fitting:
            makes = command("pretrain/run.py")
            return f"scratch (no pretraining run of this size; {makes} makes one)"
        checkpoint = fitting[0]
    weights = load_part(checkpoint, "teacher")
    if read_config(checkpoint).feature_channels is not None:  # its head predicts an encoder
        weights |= model.projector.state_dict(prefix="projector.")
    load_weights(model, weights, checkpoint)
    for slot in model.config.changes:
        model.adapter(slot).forget_output()  # whole pictures until now, from here on a change
    return str(checkpoint)


def differing(checkpoint: Path, model: Network, ignored: str = "") -> dict[str, tuple[Any, Any]]:
    """{setting: (the checkpoint's, `model`'s)} where their networks are not the same; the
    train-only head is not looked at."""
    old, new = (flat(config.to_json()) for config in (read_config(checkpoint), model.config))
    names = [name for name in {**old, **new} if name not in ("feature_channels", ignored)]
    return {
        name: (old.get(name), new.get(name)) for name in names if old.get(name) != new.get(name)
    }


def flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by dotted names."""
    found = {}
    for name, value in settings.items():
        if isinstance(value, dict):
            found |= flat(value, f"{prefix}{name}.")
        else:
            found[prefix + name] = list(value) if isinstance(value, tuple) else value
    return found


if __name__ == "__main__":
    main()
