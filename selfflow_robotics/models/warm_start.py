"""The first weights of a network from those of another one: of images, of pretraining, of a robot.

The backbone must be the same. An adapter is taken over where its tokens mean the same, so that all
frames of a clip begin with the weights of images. All else keeps the weights it was drawn with.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from selfflow_robotics.errors import UserError
from selfflow_robotics.modalities.base import Codec
from selfflow_robotics.modalities.load import same_tokens
from selfflow_robotics.models.network import Network, NetworkConfig
from selfflow_robotics.models.weights_file import StateDict

TIMESTEPS = ("timestep_scale", "timestep_origin")
_LABELS = "label_table.weight"


@dataclass(frozen=True)
class Source:
    """Weights to start from."""

    config: NetworkConfig
    tensors: StateDict
    origin: str = "the source"  # for messages
    codecs: Mapping[str, Codec] = field(default_factory=dict)  # by adapter; none: not compared
    # Whether its `config.changes` were trained: pretraining has no clean first frame.
    changes: bool = False


@dataclass(frozen=True)
class Report:
    """The names of the weights by what became of them."""

    loaded: list[str]  # as they are
    mapped: list[str]  # in part: the null label's row, the velocity's rows, the common steps
    new: list[str]  # of the network alone
    left_over: list[str]  # of the source alone

    def to_json(self) -> dict[str, list[str]]:
        """The parts of the networks that the names belong to."""
        return {kind: sorted({_part(n) for n in names}) for kind, names in asdict(self).items()}

    def __str__(self) -> str:
        rows = self.to_json().items()
        return "\n".join(f"  {k.replace('_', ' ')}: {', '.join(v)}" for k, v in rows if v)


def adopt(config: NetworkConfig, source: NetworkConfig) -> NetworkConfig:
    """`config` with what must be as in the source: the timesteps' convention and, where the source
    was trained with labels, a condition that is always the null label.

    Raises UserError where the backbones differ.
    """
    _check_backbones(config, source)
    times = {name: getattr(source.backbone, name) for name in TIMESTEPS}
    has_labels = config.num_classes is None and source.num_classes is not None
    return replace(
        config,
        backbone=replace(config.backbone, **times),
        num_classes=0 if has_labels else config.num_classes,
    )


def warm_start(
    network: Network, source: Source, codecs: Mapping[str, Codec] | None = None
) -> Report:
    """Load what fits into `network`, whose configuration `adopt` made; `codecs` are its own.

    The time positions of adapters that had none in the source begin at zero. Raises UserError where
    the backbones differ.
    """
    ours, theirs = network.config, source.config
    _check_backbones(ours, theirs)
    if adopt(ours, theirs) != ours:
        raise UserError(
            f"{source.origin} has another convention of timesteps, or labels; build the network "
            "from adopt(config, source.config)"
        )
    fitting = {
        name
        for name in ours.adapters.keys() & theirs.adapters.keys()
        if _same_adapter(ours, theirs, name)
        and (not codecs or not source.codecs or _same_codec(name, codecs, source.codecs))
    }
    has_text = ours.text == theirs.text
    has_head = ours.feature_channels is None and theirs.feature_channels is None
    report = Report([], [], [], [])
    state = network.state_dict()
    for name, tensor in state.items():
        kind, _, rest = name.partition(".")
        given = source.tensors.get(name)
        if (
            (kind == "adapters" and rest.partition(".")[0] not in fitting)
            or (kind == "text" and not has_text)
            or (kind == "projector" and not has_head)
        ):
            given = None
        if given is not None and name == _LABELS and given.shape != tensor.shape:
            given = given[-1:] if len(tensor) == 1 else None  # other classes, but for the null one
        if given is None:
            report.new.append(name)
        elif given is source.tensors[name] and given.shape == tensor.shape:
            tensor.copy_(given)
            report.loaded.append(name)
        elif given.shape[1:] == tensor.shape[1:]:  # rows in common come first
            rows = min(len(given), len(tensor))
            tensor[:rows] = given[:rows].to(tensor.dtype)
            report.mapped.append(name)
        else:
            raise UserError(
                f"{source.origin} does not fit: '{name}' is {tuple(given.shape)} there and "
                f"{tuple(tensor.shape)} here"
            )
    used = {*report.loaded, *report.mapped}
    report.left_over.extend(name for name in source.tensors if name not in used)
    _start_times(network, theirs)
    if not source.changes:  # whole frames until now, from here on a change
        for slot in ours.changes:
            if ours.prediction[slot] == "data":
                network.adapter(slot).forget_output()
    return report


def _start_times(network: Network, source: NetworkConfig) -> None:
    for name, adapter in source.adapters.items():
        if not adapter.steps and name in network.config.adapters:
            times: Tensor | None = network.adapters[name].times  # pyright: ignore
            if times is not None:
                torch.nn.init.zeros_(times)


def _same_adapter(ours: NetworkConfig, theirs: NetworkConfig, name: str) -> bool:
    """Whether an adapter reads and predicts the same; grids and steps may differ."""
    parts = []
    for config in (ours, theirs):
        adapter = config.adapters[name]
        slots = [slot for slot, used in config.slots.items() if used == name]
        parts.append((adapter.channels, adapter.stem, {config.prediction[slot] for slot in slots}))
    return parts[0] == parts[1]


def _same_codec(name: str, ours: Mapping[str, Codec], theirs: Mapping[str, Codec]) -> bool:
    return name in ours and name in theirs and same_tokens(ours[name], theirs[name])


def _check_backbones(config: NetworkConfig, source: NetworkConfig) -> None:
    ours, theirs = config.backbone, source.backbone
    if ours.kind != theirs.kind:
        raise UserError(
            f"the weights are of a {theirs.kind} backbone, not {ours.kind}; give "
            f"model.backbone={theirs.kind}, or other weights with init=..."
        )
    old, new = asdict(theirs), asdict(ours)
    differing = [name for name in new if name not in TIMESTEPS and old[name] != new[name]]
    if differing:
        name = differing[0]
        raise UserError(
            f"the weights have {name}={old[name]}, not {new[name]}; give model.{ours.kind}."
            f"{name}={old[name]}, or other weights with init=..."
        )


def _part(name: str) -> str:
    """backbone.blocks, adapters.frames.stem, text, ..."""
    parts: list[Any] = name.split(".")
    depth = {"backbone": 2, "adapters": 3}.get(parts[0], 1)
    return ".".join(parts[:depth])
