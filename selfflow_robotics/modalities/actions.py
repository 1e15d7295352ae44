"""Actions as tokens: policy vectors, normalized with the statistics of the training data."""

import hashlib
import json
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from selfflow_robotics.batch import step_places
from selfflow_robotics.robot.actions import ACTION_DIM
from selfflow_robotics.robot.normalize import ActionNormalizer, NormStats


@dataclass(frozen=True)
class Actions:
    """Policy vectors in metres and radians (`robot.actions`) <-> tokens, one per action."""

    kind: ClassVar[str] = "actions"
    prediction: ClassVar[Literal["velocity", "data"]] = "velocity"

    stats: NormStats

    @property
    def channels(self) -> int:
        return ACTION_DIM

    @property
    def tokens_per_step(self) -> int:
        return 1

    @property
    def fingerprint(self) -> str:
        text = json.dumps(self.stats.to_json(), sort_keys=True)
        return "actions " + hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def stride(self) -> int:
        return 1

    def places(self, count: int, first: int = 0) -> Tensor:
        return step_places(count, first)

    def encode(self, raw: Tensor, clip: bool = True) -> Tensor:
        """Policy vectors [B, N, 7] -> tokens float32 [B, N, 7].

        `clip`: clip to the normalized range, for actions that a network predicts; actions that it
        conditions on are exact.
        """
        scale = ActionNormalizer(self.stats)
        vectors = raw.to(torch.float32)
        return scale.normalize_target(vectors) if clip else scale.normalize(vectors)

    def decode(self, tokens: Tensor) -> Tensor:
        """Tokens [B, N, 7] -> policy vectors float32 [B, N, 7]."""
        return ActionNormalizer(self.stats).unnormalize(tokens.float())

    def to_json(self) -> dict[str, Any]:
        return {"stats": self.stats.to_json()}

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> "Actions":
        return cls(NormStats.from_json(record["stats"]))
