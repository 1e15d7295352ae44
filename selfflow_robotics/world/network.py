"""A trained network and what has to be known to use it, from a checkpoint."""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from selfflow_robotics.commands import command
from selfflow_robotics.errors import UserError
from selfflow_robotics.models.multimodal import MultimodalConfig, MultimodalSiT
from selfflow_robotics.models.sit import SiTConfig
from selfflow_robotics.robot.normalize import ActionNormalizer, NormStats
from selfflow_robotics.training.checkpoint import (
    load_module,
    load_part,
    read_manifest,
    resolve_checkpoint,
)
from selfflow_robotics.world.image_network import check_numbers, is_image_record


@dataclass
class Network:
    """The moving-average weights of a run, ready to be asked."""

    model: MultimodalSiT
    normalizer: ActionNormalizer | None  # None for a backbone that has seen no actions
    provenance: dict[str, Any]  # what its training data came from
    roles: tuple[str, ...]  # rows of the role table that it was trained on
    checkpoint: Path
    device: torch.device

    def require(self, role: str) -> ActionNormalizer:
        """The action scale, if the network was trained on this row; else UserError."""
        if self.normalizer is None:
            raise UserError(
                f"{self.checkpoint} is a backbone that has seen no actions; fine-tune it first "
                f"({command('finetune/rt1.py')})"
            )
        if role not in self.roles:
            raise UserError(
                f"{self.checkpoint} was trained on {', '.join(self.roles)}, never as {role}; "
                f"fine-tune with roles.{role} above 0"
            )
        return self.normalizer


def checkpoint_record(
    model: MultimodalConfig,
    stats: NormStats | None,
    provenance: dict[str, Any],
    weights: dict[str, float],
) -> dict[str, Any]:
    """The `extra` of a checkpoint's manifest: all that `load_network` reads back."""
    return {
        "model": asdict(model),
        "norm_stats": None if stats is None else stats.to_json(),
        "provenance": provenance,
        "roles": sorted(role for role, weight in weights.items() if weight > 0),
    }


def model_config(record: dict[str, Any]) -> MultimodalConfig:
    """The network's shape from a checkpoint's record."""
    fields = dict(record["model"])
    fields["sit"] = SiTConfig(**fields["sit"])
    fields["image_size"] = tuple(fields["image_size"])
    fields.setdefault("text_bytes", 63)  # of networks that were trained before it was a setting
    check_numbers(fields["sit"], fields)
    return MultimodalConfig(**fields)


def shape_of(checkpoint: Path) -> MultimodalConfig:
    """The shape of a checkpoint's network.

    Raises UserError where it is of labelled pictures or was not written by this project.
    """
    record = read_manifest(checkpoint)["extra"]
    if is_image_record(record):
        raise UserError(
            f"{checkpoint} is of a run of pretrain/images.py; this needs one of pretrain/run.py or "
            "finetune/rt1.py"
        )
    try:
        return model_config(record)
    except (KeyError, TypeError, ValueError) as error:
        raise _unknown(checkpoint, error) from error


def check_same_shape(checkpoint: Path, wanted: MultimodalConfig) -> None:
    """Raise UserError naming the first setting in which the checkpoint's network is another than
    `wanted`. Pictures may have another size, and the train-only head is not looked at."""
    found = replace(
        shape_of(checkpoint),
        image_size=wanted.image_size,
        feature_channels=wanted.feature_channels,
    )
    for old, new, prefix in ((found.sit, wanted.sit, "model.sit"), (found, wanted, "model")):
        for name, value in vars(old).items():
            if value != getattr(new, name):
                raise UserError(
                    f"{checkpoint} has {prefix}.{name}={value}, not {getattr(new, name)}; give "
                    "that, or another checkpoint"
                )


def _unknown(checkpoint: Path, error: Exception) -> UserError:
    return UserError(f"{checkpoint} does not describe a network this version knows ({error})")


def load_network(path: Path, device: torch.device) -> Network:
    """The network of a run folder or one of its checkpoints.

    Raises UserError where there is none, it is damaged, or it was not written by this project.
    """
    checkpoint = resolve_checkpoint(path)
    record = read_manifest(checkpoint)["extra"]
    shape = shape_of(checkpoint)
    try:
        stats = record["norm_stats"]
        provenance = record["provenance"]
        roles = tuple(map(str, record["roles"]))
        if not isinstance(provenance, dict):
            raise TypeError("provenance is no dict")
    except (KeyError, TypeError) as error:
        raise _unknown(checkpoint, error) from error
    model = load_module(lambda: MultimodalSiT(shape), load_part(checkpoint, "teacher"), checkpoint)
    normalizer = None if stats is None else ActionNormalizer(NormStats.from_json(stats))
    return Network(model.to(device).eval(), normalizer, provenance, roles, checkpoint, device)
