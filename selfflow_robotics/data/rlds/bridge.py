"""The features of BridgeData V2's RLDS data set, `bridge_dataset` 1.0.0, for WidowX.

Source: the published features.json (rail.eecs.berkeley.edu/datasets/bridge_release/data/tfds).
Recordings of this project have one of its four cameras, another image size, and no text embedding.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from selfflow_robotics.data.rlds.encode import EpisodeEncoder, floats
from selfflow_robotics.data.rlds.metadata import bridge_file_path
from selfflow_robotics.robot.actions import policy_from_rt1
from selfflow_robotics.robot.bridge import state_from_proprio

_CAMERAS = 4


def bridge_features(height: int = 256, width: int = 256) -> tfds.features.FeaturesDict:
    """The feature specification, with images of `height` x `width` stored as JPEG."""
    features = tfds.features
    cameras = [f"image_{camera}" for camera in range(_CAMERAS)]
    step = {
        "action": features.Tensor(shape=(7,), dtype=np.float32),  # see robot.bridge
        "discount": features.Scalar(dtype=np.float32),
        "is_first": np.bool_,
        "is_last": np.bool_,
        "is_terminal": np.bool_,
        "language_embedding": features.Tensor(shape=(512,), dtype=np.float32),
        "language_instruction": features.Text(),
        "observation": {
            **{
                name: features.Image(shape=(height, width, 3), encoding_format="jpeg")
                for name in cameras
            },
            "state": features.Tensor(shape=(7,), dtype=np.float32),
        },
        "reward": features.Scalar(dtype=np.float32),
    }
    return features.FeaturesDict(
        {
            "episode_metadata": {
                "episode_id": np.int32,
                "file_path": features.Text(),
                **{f"has_{name}": np.bool_ for name in cameras},
                "has_language": np.bool_,
            },
            "steps": features.Dataset(step),
        }
    )


class BridgeEncoder(EpisodeEncoder):
    """Fills bridge_dataset's features from a simulated episode.

    The record's note is stored in `file_path`, in place of the original file's path.
    """

    def _features(self) -> tfds.features.FeaturesDict:
        return bridge_features(*self.image_size)

    def _example(
        self, steps: Sequence[dict[str, Any]], success: bool, recording: str, episode: str
    ) -> dict[str, Any]:
        def column(key: str, size: int) -> np.ndarray:
            return np.stack([floats(s[key], size, f"step {t}: {key}") for t, s in enumerate(steps)])

        moves = (
            column(key, size)
            for key, size in (
                ("world_vector", 3),
                ("rotation_delta", 3),
                ("gripper_closedness_action", 1),
            )
        )
        actions, states = policy_from_rt1(*moves), state_from_proprio(column("proprio", 8))
        dark = self._jpeg(np.zeros((*self.image_size, 3), np.uint8), 0)
        return {
            "episode_metadata": {
                "episode_id": 0,
                "file_path": bridge_file_path(recording, episode),
                "has_image_0": True,
                **{f"has_image_{camera}": False for camera in range(1, _CAMERAS)},
                "has_language": True,
            },
            "steps": [
                {
                    "action": actions[t],
                    "discount": 1.0,
                    "is_first": t == 0,
                    "is_last": t == len(steps) - 1,
                    "is_terminal": bool(step.get("terminate", False)),
                    "language_embedding": np.zeros(512, np.float32),
                    "language_instruction": step["instruction"],
                    "observation": {
                        "image_0": self._jpeg(step["image"], t),
                        **{f"image_{camera}": dark for camera in range(1, _CAMERAS)},
                        "state": states[t],
                    },
                    "reward": float(step.get("reward", 0.0)),
                }
                for t, step in enumerate(steps)
            ],
        }
