"""The features of RT-1's data set `fractal20220817_data` 0.1.0, in TensorFlow Datasets' words.

Everything that this project records has these features (with another picture size), so that any
reader of Open X-Embodiment data takes it. Source: `tensorflow_datasets/robotics/rtx` and the
published features.json.
"""

import numpy as np
import tensorflow_datasets as tfds

# What a reader needs of every record: flat key -> (kind, values per step; 0 = one an episode).
REQUIRED_KEYS = {
    "steps/observation/image": ("bytes_list", 1),
    "steps/observation/natural_language_instruction": ("bytes_list", 1),
    "steps/observation/base_pose_tool_reached": ("float_list", 7),
    "steps/observation/gripper_closed": ("float_list", 1),
    "steps/action/world_vector": ("float_list", 3),
    "steps/action/rotation_delta": ("float_list", 3),
    "steps/action/gripper_closedness_action": ("float_list", 1),
    "aspects/success": ("int64_list", 0),
}

ASPECTS = ("already_success", "feasible", "has_aspects", "success", "undesirable")
ATTRIBUTES = (
    "collection_mode",
    "data_type",
    "env",
    "location",
    "objects_family",
    "task_family",
)
# Observations besides the picture and the instruction: name -> shape, all float32.
OBSERVATIONS = {
    "base_pose_tool_reached": (7,),  # xyz (m) and quaternion xyzw, base frame
    "gripper_closed": (1,),  # 0 open to 1 closed
    "gripper_closedness_commanded": (1,),
    "height_to_bottom": (1,),
    "natural_language_embedding": (512,),
    "orientation_box": (2, 3),
    "orientation_start": (4,),
    "robot_orientation_positions_box": (3, 3),
    "rotation_delta_to_go": (3,),
    "src_rotation": (4,),
    "vector_to_go": (3,),
    "workspace_bounds": (3, 3),
}
# Actions besides terminate_episode: name -> shape, all float32.
ACTIONS = {
    "base_displacement_vector": (2,),
    "base_displacement_vertical_rotation": (1,),
    "gripper_closedness_action": (1,),  # relative: +1 close, -1 open, 0 no change
    "rotation_delta": (3,),  # roll, pitch, yaw (rad), base frame
    "world_vector": (3,),  # m, base frame
}


def fractal_features(height: int = 256, width: int = 320) -> tfds.features.FeaturesDict:
    """The feature specification, with pictures of `height` x `width` stored as JPEG."""
    features = tfds.features

    def floats(shapes: dict[str, tuple[int, ...]]) -> dict[str, tfds.features.FeatureConnector]:
        return {
            key: features.Tensor(shape=shape, dtype=np.float32) for key, shape in shapes.items()
        }

    step = {
        "action": {
            **floats(ACTIONS),
            # One-hot: terminate, move arm and gripper, move base.
            "terminate_episode": features.Tensor(shape=(3,), dtype=np.int32),
        },
        "is_first": np.bool_,
        "is_last": np.bool_,
        "is_terminal": np.bool_,
        "observation": {
            **floats(OBSERVATIONS),
            "image": features.Image(shape=(height, width, 3), encoding_format="jpeg"),
            "natural_language_instruction": np.str_,
        },
        "reward": features.Scalar(dtype=np.float32),
    }
    return features.FeaturesDict(
        {
            "aspects": {name: np.bool_ for name in ASPECTS},
            "attributes": {name: np.int64 for name in ATTRIBUTES}
            | {f"{name}_name": np.str_ for name in ATTRIBUTES},
            "steps": features.Dataset(step),
        }
    )
