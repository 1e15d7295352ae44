"""What a server tells its clients at the handshake."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from selfflow_robotics.messages.observations import IMAGE_KEYS, observation_spec
from selfflow_robotics.messages.specs import OPENPI, ActionSpec, vla_eval_spec

SERVER = "selfflow_robotics"
VLA_EVAL_PROTOCOL = 1
EPISODE_KEY = "episode"  # of a request: begins this episode
# Of a training set's provenance: what a client needs to choose the same simulator.
_DATA_KEYS = ("simulator", "dataset", "task", "robot", "renderer", "image_size")


@dataclass(frozen=True)
class Description:
    """The served policy.

    `robot`: None if unknown. `horizon`: actions per answer; None if it varies. `training`:
    provenance of the training data, of which only the simulator and robot are told.
    """

    policy: str
    robot: str | None = None
    control_hz: float | None = None
    horizon: int | None = None
    checkpoint: str | None = None  # SHA-256
    image_size: tuple[int, int] | None = None  # (height, width)
    needs_proprio: bool = False
    training: Mapping[str, Any] | None = None

    @property
    def vla_eval(self) -> ActionSpec:
        """The actions that clients of vla-eval get; others get `OPENPI`."""
        return vla_eval_spec(self.robot)

    def metadata(self) -> dict[str, Any]:
        """The first message to a client of openpi: plain values only."""
        training = self.training or {}
        return {
            "server": SERVER,
            "version": _version(),
            "policy": self.policy,
            "checkpoint": self.checkpoint,
            "robot": self.robot,
            "control_hz": self.control_hz,
            "action_horizon": self.horizon,
            "action_spec": OPENPI.to_json(),
            "observation_spec": observation_spec(self.needs_proprio),
            "image_key": IMAGE_KEYS[0],
            "image_size": None if self.image_size is None else list(self.image_size),
            "episode_key": EPISODE_KEY,
            "training_data": {key: training[key] for key in _DATA_KEYS if key in training},
        }

    def hello(self, seq: int) -> dict[str, Any]:
        """The hello message of vla-eval's protocol."""
        payload = {
            "harness_version": f"{SERVER} {_version()}",
            "protocol_version": VLA_EVAL_PROTOCOL,
            "model_server": self.policy,
            "capabilities": {},
            # Not "sticky", whose numbers have the opposite sign.
            "observation_params": {
                "gripper_mode": "binary",
                **({"send_state": True} if self.needs_proprio else {}),
            },
            "action_spec": self.vla_eval.to_json(),
            "observation_spec": observation_spec(self.needs_proprio),
        }
        return envelope("hello", payload, seq)


def envelope(kind: str, payload: Mapping[str, Any], seq: int) -> dict[str, Any]:
    """A message of vla-eval's protocol."""
    return {"type": kind, "payload": payload, "seq": seq, "timestamp": time.time()}


@cache  # it reads a file
def _version() -> str:
    try:
        return version(SERVER)
    except PackageNotFoundError:  # run from a folder that is not installed
        return "unknown"
