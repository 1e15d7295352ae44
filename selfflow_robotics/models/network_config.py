"""The configuration of a network: everything that is needed to build it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from selfflow_robotics.errors import UserError, check_least, unknown
from selfflow_robotics.models.adapters import AdapterConfig
from selfflow_robotics.models.backbone import WORDS
from selfflow_robotics.models.flux import Flux, FluxConfig
from selfflow_robotics.models.lora import LoraConfig
from selfflow_robotics.models.sit import SiT, SiTConfig
from selfflow_robotics.models.text import TextConfig

BackboneConfig = SiTConfig | FluxConfig
BACKBONES = {SiTConfig.kind: (SiTConfig, SiT), FluxConfig.kind: (FluxConfig, Flux)}

MOST_TOKENS = 2**14  # per frame
MAX_POSITIONS = 1 << 30  # entries of a position table; larger ones would fill the memory


@dataclass(frozen=True)
class NetworkConfig:
    """Everything needed to build a network; stored in every checkpoint."""

    backbone: BackboneConfig
    adapters: dict[str, AdapterConfig]
    slots: dict[str, str]  # slot -> adapter
    prediction: dict[str, Literal["velocity", "data"]]  # of each slot (`flow.path`)
    # {slot: base}: if the base is clean, each frame of the slot is predicted as a change of it.
    changes: dict[str, str] = field(default_factory=dict)
    text: TextConfig | None = None
    num_classes: int | None = None  # None: no labels; else label num_classes is the null label
    # Output channels of the training-only head: those of a frozen encoder; None: the width.
    feature_channels: int | None = None
    # The block after which auxiliary heads predict the same as the output; None: no such heads.
    auxiliary_layer: int | None = None
    frame_steps: int = 1  # control steps for each (latent) frame, for causal attention
    lora: LoraConfig | None = None  # low-rank updates of the backbone; None: none

    def __post_init__(self) -> None:
        for name, adapter in self.adapters.items():
            height, width = adapter.grid or (1, 1)
            if height * width > MOST_TOKENS:
                raise UserError(
                    f"{name} are limited to {MOST_TOKENS} tokens each, got {height} x {width}"
                )
            if max(height * width, adapter.steps) * self.backbone.width > MAX_POSITIONS:
                raise UserError(
                    f"the {name} have {height} x {width} tokens and {adapter.steps} steps, too "
                    f"many for a network of width {self.backbone.width}"
                )
        for adapter in self.slots.values():
            if adapter not in self.adapters:
                raise unknown("adapter", adapter, self.adapters)
        if set(self.prediction) != set(self.slots):
            raise UserError(f"every slot needs a prediction: {sorted(self.slots)}")
        if isinstance(self.backbone, FluxConfig):
            for stream in self.backbone.conditioning:
                if stream not in (streams := (WORDS, *self.slots)):
                    raise unknown("stream in model.flux.conditioning", stream, streams)
        check_least(self, 0, "num_classes")
        check_least(self, 1, "feature_channels", "auxiliary_layer", "frame_steps")
        if (self.auxiliary_layer or 0) > self.backbone.depth:
            raise UserError(
                f"the auxiliary heads read layer {self.auxiliary_layer}, but the network has "
                f"{self.backbone.depth} blocks"
            )

    def to_json(self) -> dict[str, Any]:
        """A JSON-compatible dict, for `from_json`."""
        return {**asdict(self), "backbone": {"kind": self.backbone.kind, **asdict(self.backbone)}}

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> "NetworkConfig":
        """The inverse of `to_json`. Raises KeyError, TypeError or UserError for invalid records."""
        _check_numbers(record)
        fields = dict(record)
        backbone = dict(fields["backbone"])
        kind = backbone.pop("kind")
        if kind not in BACKBONES:
            raise unknown("backbone", kind, BACKBONES)
        fields["backbone"] = BACKBONES[kind][0](**backbone)
        fields["adapters"] = {
            name: AdapterConfig(**{**adapter, "grid": adapter["grid"] and tuple(adapter["grid"])})
            for name, adapter in fields["adapters"].items()
        }
        fields["text"] = fields["text"] and TextConfig(**fields["text"])
        if fields.get("lora") is not None:
            fields["lora"] = LoraConfig(**fields["lora"])
        return cls(**fields)

    @property
    def null_label(self) -> int:
        """The label for "no class", used for the unconditional half of guidance."""
        if self.num_classes is None:
            raise UserError("this network has no classes")
        return self.num_classes

    def adapter_of(self, slot: str) -> AdapterConfig:
        """The adapter of a slot. Raises UserError for an unknown slot."""
        if slot not in self.slots:
            raise unknown("slot of this network", slot, self.slots)
        return self.adapters[self.slots[slot]]


# Numbers in a record that need not be integers.
_OTHERS = {"mlp_ratio", "timestep_scale", "timestep_origin", "learn_sigma", "alpha"}


def _check_numbers(record: Any, name: str = "network") -> None:
    """Raise TypeError if a record contains anything but integers, strings and `_OTHERS`."""
    if isinstance(record, dict):
        for key, value in record.items():
            _check_numbers(value, key)
    elif isinstance(record, list | tuple):
        for value in record:
            _check_numbers(value, name)
    elif name in _OTHERS:
        if type(record) not in (int, float, bool):
            raise TypeError(f"{name} is {record!r:.40}")
    elif record is not None and type(record) not in (int, str):
        raise TypeError(f"{name} is {record!r:.40}")
