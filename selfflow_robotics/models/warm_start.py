"""Initialize a network from the weights of another one: of images, pretraining or a robot.

The backbones must match. An adapter is copied if its tokens have the same meaning, so that all
frames of a clip start with the image weights. Everything else keeps its random initialization.
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
from selfflow_robotics.text.store import TextStore

TIMESTEPS = ("timestep_scale", "timestep_origin")
_LABELS = "label_table.weight"


@dataclass(frozen=True)
class Source:
    """Weights to start from."""

    config: NetworkConfig
    tensors: StateDict
    origin: str = "the source"  # for messages
    codecs: Mapping[str, Codec] = field(default_factory=dict)  # by adapter; empty: not compared
    # Whether its `config.changes` were trained (not in pretraining, which has no clean frames).
    changes: bool = False
    texts: TextStore | None = None  # of a network whose words a frozen encoder reads


@dataclass(frozen=True)
class Report:
    """The names of the weights, by how they were initialized."""

    loaded: list[str]  # copied unchanged
    mapped: list[str]  # copied in part: the null label's row, the velocity's rows, the common steps
    new: list[str]  # only in the network
    left_over: list[str]  # only in the source
    frozen: list[str] = field(default_factory=list)  # not trained; also in one of the above

    def to_json(self) -> dict[str, list[str]]:
        """The names, grouped by part of the network."""
        return {kind: sorted({_part(n) for n in names}) for kind, names in asdict(self).items()}

    def __str__(self) -> str:
        rows = self.to_json().items()
        return "\n".join(f"  {k.replace('_', ' ')}: {', '.join(v)}" for k, v in rows if v)


def adopt(config: NetworkConfig, source: NetworkConfig) -> NetworkConfig:
    """`config` with the settings that must match the source: the timestep convention and, if the
    source was trained with labels, a condition that is always the null label.

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
    network: Network,
    source: Source,
    codecs: Mapping[str, Codec] | None = None,
    texts: TextStore | None = None,
) -> Report:
    """Load matching weights into `network`, whose configuration comes from `adopt`; `codecs` and
    `texts` are its own.

    Time positions of adapters without them in the source start at zero. Raises UserError if the
    backbones differ.
    """
    ours, theirs = network.config, source.config
    _check_backbones(ours, theirs)
    if adopt(ours, theirs) != ours:
        raise UserError(
            f"{source.origin} has a different timestep convention, or labels; build the network "
            "from adopt(config, source.config)"
        )
    fitting = {
        name
        for name in ours.adapters.keys() & theirs.adapters.keys()
        if _same_adapter(ours, theirs, name)
        and (not codecs or not source.codecs or _same_codec(name, codecs, source.codecs))
    }
    has_text = ours.text == theirs.text and not (
        texts is not None and source.texts is not None and not texts.same_encoder(source.texts)
    )
    has_auxiliary = ours.auxiliary_layer == theirs.auxiliary_layer
    has_head = ours.feature_channels is None and theirs.feature_channels is None
    report = Report([], [], [], [])
    state = network.state_dict()
    for name, tensor in state.items():
        kind, _, rest = name.partition(".")
        given = source.tensors.get(name)
        if (
            (kind in ("adapters", "auxiliary") and rest.partition(".")[0] not in fitting)
            or (kind == "text" and not has_text)
            or (kind == "projector" and not has_head)
            or (kind == "auxiliary" and not has_auxiliary)
        ):
            given = None
        if given is not None and name == _LABELS and given.shape != tensor.shape:
            given = given[-1:] if len(tensor) == 1 else None  # of other classes only the null label
        if given is None:
            report.new.append(name)
        elif given is source.tensors[name] and given.shape == tensor.shape:
            tensor.copy_(given)
            report.loaded.append(name)
        elif given.shape[1:] == tensor.shape[1:]:  # common rows come first
            rows = min(len(given), len(tensor))
            tensor[:rows] = given[:rows].to(tensor.dtype)
            report.mapped.append(name)
        else:
            raise UserError(
                f"{source.origin} does not match: '{name}' is {tuple(given.shape)} there and "
                f"{tuple(tensor.shape)} here"
            )
    used = {*report.loaded, *report.mapped}
    report.left_over.extend(name for name in source.tensors if name not in used)
    report.frozen.extend(n for n, p in network.named_parameters() if not p.requires_grad)
    _start_times(network, theirs)
    if not source.changes:  # full frames in the source, changes here
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
    """Whether an adapter has the same inputs and outputs; grids and steps may differ."""
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
            f"the weights have a {theirs.kind} backbone, not {ours.kind}; use "
            f"model.backbone={theirs.kind}, or other weights with init=..."
        )
    old, new = asdict(theirs), asdict(ours)
    differing = [name for name in new if name not in TIMESTEPS and old[name] != new[name]]
    if differing:
        name = differing[0]
        raise UserError(
            f"the weights have {name}={old[name]}, not {new[name]}; use "
            f"model.{ours.kind}.{name}={old[name]}, or other weights with init=..."
        )


def _part(name: str) -> str:
    """backbone.blocks, adapters.frames.stem, text, ..."""
    parts: list[Any] = name.split(".")
    depth = {"backbone": 2, "adapters": 3}.get(parts[0], 1)
    return ".".join(parts[:depth])
