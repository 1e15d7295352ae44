"""Observations in messages, under the names that clients of openpi and vla-eval use.

| meaning     | keys, the first is ours                                                            |
|-------------|------------------------------------------------------------------------------------|
| image       | observation/primary_image, observation/image, observation/image_0, images/primary, |
|             | image                                                                              |
| instruction | prompt, task_description, instruction                                              |
| proprio [8] | observation/state, state: xyz (m), quaternion xyzw, gripper closedness; or states  |
|             | (vla-eval): xyz, quaternion wxyz, gripper openness; base frame                     |

Nested maps count as keys with slashes: `{"images": {"primary": ...}}` is images/primary.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from selfflow_robotics.messages.images import EncodedImage, MessageError, as_image

IMAGE_KEYS = (
    "observation/primary_image",
    "observation/image",
    "observation/image_0",
    "images/primary",
    "image",
)
INSTRUCTION_KEYS = ("prompt", "task_description", "instruction")
PROPRIO_KEYS = ("observation/state", "state")
VLA_EVAL_STATE = "states"
PROPRIO_DIM = 8
MAX_INSTRUCTION_CHARS = 1000
_XYZW_FROM_WXYZ = [0, 1, 2, 4, 5, 6, 3, 7]

STATE_FORMAT = "eef_pos3_quat4_gripper1"
# What a simulator of ours can send; "raw" is vla-eval's word for a state of any layout.
OBSERVATION_FORMATS = ("rgb_hwc_uint8", "language", STATE_FORMAT, "raw")


def observation_spec(needs_proprio: bool) -> dict[str, dict[str, Any]]:
    """What a server of ours reads, in the layout of `messages.specs`."""
    spec: dict[str, dict[str, Any]] = {
        "primary": {"name": "image", "dims": 0, "format": "rgb_hwc_uint8"},
        "language": {"name": "language", "dims": 0, "format": "language"},
    }
    if needs_proprio:
        spec["state"] = {"name": "state", "dims": PROPRIO_DIM, "format": STATE_FORMAT}
    return spec


def observation_from(message: Mapping[str, Any], needs_proprio: bool = False) -> dict[str, Any]:
    """The observation in a message: `image` (uint8 [H, W, 3], or an EncodedImage), `instruction`
    (str) and, if needed, `proprio` (float32 [8]), as in `envs.base`. The rest is ignored.

    Raises MessageError if a part is missing, or for a wrong type or shape.
    """
    flat = _flat(message)
    observation = {
        "image": as_image(_first(flat, IMAGE_KEYS, "image")),
        "instruction": _instruction(_first(flat, INSTRUCTION_KEYS, "instruction")),
    }
    if needs_proprio and VLA_EVAL_STATE in flat:
        state = _proprio(flat[VLA_EVAL_STATE])[_XYZW_FROM_WXYZ]
        observation["proprio"] = np.append(state[:7], 1 - state[7])
    elif needs_proprio:
        keys = (*PROPRIO_KEYS, VLA_EVAL_STATE)
        observation["proprio"] = _proprio(_first(flat, keys, "robot state"))
    return observation


def decoded(observation: dict[str, Any]) -> dict[str, Any]:
    """The observation with its image as an array. Raises MessageError as `EncodedImage.decode`."""
    image = observation["image"]
    return {**observation, "image": image.decode()} if is_encoded(observation) else observation


def is_encoded(observation: dict[str, Any]) -> bool:
    """Whether the image still has to be decoded."""
    return isinstance(observation["image"], EncodedImage)


def openpi_message(observation: dict[str, Any], image_key: str) -> dict[str, Any]:
    """An observation of `envs.base` as clients of openpi's servers send it."""
    return {
        image_key: np.ascontiguousarray(observation["image"]),
        PROPRIO_KEYS[0]: np.asarray(observation["proprio"], np.float32),
        INSTRUCTION_KEYS[0]: observation["instruction"],
    }


def vla_eval_message(observation: dict[str, Any], camera: str, task: str) -> dict[str, Any]:
    """An observation of `envs.base` as vla-eval's SIMPLER benchmark sends it, with its state."""
    proprio = np.asarray(observation["proprio"], np.float32)
    return {
        "images": {camera: np.ascontiguousarray(observation["image"])},
        "task_description": observation["instruction"],
        "task_name": task,
        VLA_EVAL_STATE: np.concatenate([proprio[[0, 1, 2, 6, 3, 4, 5]], 1 - proprio[7:]]),
    }


def _flat(message: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat = {}
    for key, value in message.items():
        if isinstance(value, dict) and prefix.count("/") < 3:
            flat |= _flat(value, f"{prefix}{key}/")
        else:
            flat[prefix + key] = value
    return flat


def _first(flat: Mapping[str, Any], keys: tuple[str, ...], what: str) -> Any:
    for key in keys:
        if key in flat:
            return flat[key]
    raise MessageError(f"the observation has no {what}; send one of {', '.join(keys)}")


def _instruction(value: Any) -> str:
    value = value.decode("utf-8", "replace") if isinstance(value, bytes) else value
    if not isinstance(value, str):
        raise MessageError(f"the instruction must be text, got {type(value).__name__}")
    if len(value) > MAX_INSTRUCTION_CHARS:
        raise MessageError(f"the instruction has more than {MAX_INSTRUCTION_CHARS} characters")
    return value


def _proprio(value: Any) -> np.ndarray:
    try:
        array = np.asarray(value, np.float32)
    except (TypeError, ValueError):
        raise MessageError("the state must be numbers") from None
    if array.shape != (PROPRIO_DIM,) or not np.isfinite(array).all():
        raise MessageError(
            f"the state must be {PROPRIO_DIM} finite numbers, got the shape {list(array.shape)}"
        )
    return array
