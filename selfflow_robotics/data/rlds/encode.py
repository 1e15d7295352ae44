"""Encode an episode as a record of a data set: of RT-1's, or (`data.rlds.bridge`) of Bridge's."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import simplejpeg
import tensorflow_datasets as tfds
from tensorflow_datasets.core import example_serializer

from selfflow_robotics.data.rlds.metadata import note_attributes
from selfflow_robotics.data.rlds.schema import (
    ACTIONS,
    ASPECTS,
    ATTRIBUTES,
    OBSERVATIONS,
    fractal_features,
)

# 4:2:0 chroma subsampling would visibly blur small images.
_FULL_CHROMA_BELOW_HEIGHT = 200
_TERMINATE, _MOVE_ARM = np.array([1, 0, 0], np.int32), np.array([0, 1, 0], np.int32)


class EpisodeEncoder(ABC):
    """Fills a data set's features from a simulated episode."""

    def __init__(self, image_size: tuple[int, int], jpeg_quality: int) -> None:
        self.image_size = tuple(image_size)
        self.features = self._features()
        layout: Any = self.features.get_serialized_info()
        self._serializer = example_serializer.ExampleSerializer(layout)
        self._quality = jpeg_quality
        self._chroma = "444" if image_size[0] < _FULL_CHROMA_BELOW_HEIGHT else "420"

    @abstractmethod
    def _features(self) -> tfds.features.FeaturesDict:
        """The features, with images of `image_size`."""

    @abstractmethod
    def _example(
        self, steps: Sequence[dict[str, Any]], success: bool, recording: str, episode: str
    ) -> dict[str, Any]:
        """The episode as the features have it; arguments as for `encode`."""

    def encode(
        self, steps: Sequence[dict[str, Any]], success: bool, recording: str, episode: str
    ) -> bytes:
        """A serialised tf.train.Example; equal episodes give equal bytes.

        Each step: image uint8 [H, W, 3]; instruction str; proprio [8] (tool xyz in m and quaternion
        xyzw in the base frame, gripper closedness 0 to 1); world_vector [3] (m); rotation_delta [3]
        (roll, pitch, yaw in rad); gripper_closedness_action (+1 close, -1 open, 0 no change);
        optional terminate (bool, False) and reward (float, 0). `recording` and `episode` are the
        texts of the record's note (`data.rlds.metadata`). Raises ValueError for fewer than two
        steps, wrong shapes and values that are not finite.
        """
        if len(steps) < 2:
            raise ValueError(f"an episode needs at least two steps, got {len(steps)}")
        example = self._example(steps, success, recording, episode)
        encoded = self._serializer.get_tf_example(self.features.encode_example(example))
        return encoded.SerializeToString(deterministic=True)  # a stable key order

    def _jpeg(self, image: np.ndarray, t: int) -> bytes:
        image = np.ascontiguousarray(image)
        if image.dtype != np.uint8 or image.shape != (*self.image_size, 3):
            raise ValueError(
                f"step {t}: image must be uint8 {(*self.image_size, 3)}, "
                f"got {image.dtype} {image.shape}"
            )
        return simplejpeg.encode_jpeg(
            image, quality=self._quality, colorspace="RGB", colorsubsampling=self._chroma
        )


class FractalEncoder(EpisodeEncoder):
    """Fills fractal20220817_data's features from a simulated episode.

    Unknown fields (text embedding, workspace bounds, ...) are zero or empty.
    """

    def _features(self) -> tfds.features.FeaturesDict:
        return fractal_features(*self.image_size)

    def _example(
        self, steps: Sequence[dict[str, Any]], success: bool, recording: str, episode: str
    ) -> dict[str, Any]:
        known = {"has_aspects": True, "feasible": True, "success": success}
        return {
            "aspects": {name: known.get(name, False) for name in ASPECTS},
            "attributes": {name: 0 for name in ATTRIBUTES}
            | {f"{name}_name": "" for name in ATTRIBUTES}
            | note_attributes(recording, episode),
            "steps": [self._step(step, t, len(steps)) for t, step in enumerate(steps)],
        }

    def _step(self, step: dict[str, Any], t: int, length: int) -> dict[str, Any]:
        proprio = floats(step["proprio"], 8, f"step {t}: proprio")
        terminate = bool(step.get("terminate", False))
        action = {key: np.zeros(shape, np.float32) for key, shape in ACTIONS.items()}
        for key in ("world_vector", "rotation_delta", "gripper_closedness_action"):
            action[key] = floats(step[key], ACTIONS[key][0], f"step {t}: {key}")
        observation = {key: np.zeros(shape, np.float32) for key, shape in OBSERVATIONS.items()}
        observation["base_pose_tool_reached"] = proprio[:7]
        observation["gripper_closed"] = proprio[7:]
        observation["gripper_closedness_commanded"] = proprio[7:]
        return {
            "action": {**action, "terminate_episode": _TERMINATE if terminate else _MOVE_ARM},
            "is_first": t == 0,
            "is_last": t == length - 1,
            "is_terminal": terminate,
            "observation": {
                **observation,
                "image": self._jpeg(step["image"], t),
                "natural_language_instruction": step["instruction"],
            },
            "reward": float(step.get("reward", 0.0)),
        }


def floats(value: Any, size: int, what: str) -> np.ndarray:
    """`value` as float32 [size]. Raises ValueError, naming it `what`, if it is something else."""
    array = np.asarray(value, np.float32).reshape(-1)
    if array.shape != (size,) or not np.isfinite(array).all():
        raise ValueError(f"{what} must be {size} finite numbers, got {value}")
    return array
