"""The features of RT-1's data set `fractal20220817_data` 0.1.0, as TensorFlow Datasets features,
and what is read of it and of Bridge's (`data.rlds.bridge`).

Data sets recorded by this project have these features (with a different image size), so any reader
of Open X-Embodiment data can load them. Source: `tensorflow_datasets/robotics/rtx` and the
published features.json.
"""

from collections.abc import Container
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from google.protobuf import json_format
from tensorflow_datasets.core.proto import feature_pb2

from selfflow_robotics.errors import UserError

# The keys that a reader needs for every step.
IMAGE = "steps/observation/image"
TEXT = "steps/observation/natural_language_instruction"
GRIPPER = "steps/action/gripper_closedness_action"
# Numbers per step, of any type.
NUMBERS = {
    "steps/observation/base_pose_tool_reached": 7,
    "steps/observation/gripper_closed": 1,
    "steps/action/world_vector": 3,
    "steps/action/rotation_delta": 3,
    GRIPPER: 1,
}


@dataclass(frozen=True)
class Layout:
    """The keys that a reader needs for every step."""

    name: str
    image: str
    text: str
    numbers: dict[str, int]  # how many per step, of any type


FRACTAL = Layout("fractal20220817_data", IMAGE, TEXT, NUMBERS)
BRIDGE = Layout(
    "bridge_dataset",
    "steps/observation/image_0",
    "steps/language_instruction",
    {"steps/observation/state": 7, "steps/action": 7},
)


def layout_of(keys: Container[str]) -> Layout:
    """Of a data set that has these flat keys: Bridge has one action, RT-1 has it in parts."""
    return BRIDGE if "steps/action" in keys else FRACTAL


ASPECTS = ("already_success", "feasible", "has_aspects", "success", "undesirable")
ATTRIBUTES = (
    "collection_mode",
    "data_type",
    "env",
    "location",
    "objects_family",
    "task_family",
)
# Other observations: name -> shape, all float32.
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
    """The feature specification, with images of `height` x `width` stored as JPEG."""
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


_OWN_CLASSES = {
    f"{one.__module__}.{one.__name__}"
    for one in vars(tfds.features).values()
    if isinstance(one, type) and issubclass(one, tfds.features.FeatureConnector)
}
_CLASS_KEYS = ("pythonClassName", "python_class_name", "type")  # the last before TFDS 4.5


def check_features(content: Any, path: Path) -> Layout | None:
    """Check features.json (`content`, read from `path`) for the keys above, and return which they
    are; None for an old kind of file that does not tell.

    Other features are not read and may be anything. Numbers may have any type and shape with the
    right count per step, and `steps` may be a Dataset or a Sequence, which are stored alike. Raises
    UserError naming the first mismatch, or a feature class that is not TensorFlow Datasets' own.
    """
    pending = [content]
    while pending:
        one = pending.pop()
        if isinstance(one, dict):
            for key in _CLASS_KEYS:
                name = one.get(key)
                if isinstance(name, str) and name not in _OWN_CLASSES:
                    raise UserError(
                        f"{path} names the class {name[:100]!r}, which is not part of TensorFlow "
                        "Datasets and could run any code; write the data set with classes of "
                        "tfds.features"
                    )
        pending += one.values() if isinstance(one, dict) else one if isinstance(one, list) else []
    if isinstance(content, dict) and "type" in content:
        return None  # it is written differently; the records are checked anyway
    features = feature_pb2.Feature()  # pyright: ignore[reportAttributeAccessIssue]
    try:
        json_format.ParseDict(content, features)
    except Exception as error:  # many kinds, if the JSON is not a Feature
        raise UserError(
            f"{path}: its JSON files cannot be read ({' '.join(str(error).split())[:200]}); copy "
            "them again"
        ) from error
    leaf, _ = _leaf(features, "steps/action")
    is_whole = leaf is not None and leaf.WhichOneof("content") != "features_dict"
    layout = layout_of(["steps/action"] if is_whole else [])
    if complaint := _complaint(features, layout):
        raise UserError(f"{path}: {complaint}; convert the data to {layout.name}'s features")
    return layout


def _complaint(features: Any, layout: Layout) -> str | None:
    for key in (layout.image, layout.text, *layout.numbers):
        leaf, sequences = _leaf(features, key)
        if leaf is None:
            return f"lacks '{key}'"
        if sequences != 1:
            return (
                f"'{key}' is {_describe(leaf)} nested in {sequences} Sequences or Datasets; "
                "expected one per step, with 'steps' as the only Dataset"
            )
        if wanted := _wanted(layout, key, leaf):
            return f"'{key}' is {_describe(leaf)}, but {wanted}"
    return None


def _leaf(feature: Any, key: str) -> tuple[Any, int]:
    """The feature of a flat key and the number of Sequences, Datasets and Videos around it."""
    sequences = 0
    for name in (*key.split("/"), None):
        while feature.WhichOneof("content") == "sequence":
            feature, sequences = feature.sequence.feature, sequences + 1
        if name is not None:
            if name not in feature.features_dict.features:
                return None, 0
            feature = feature.features_dict.features[name]
    return feature, sequences + (feature.WhichOneof("content") == "video")


def _wanted(layout: Layout, key: str, leaf: Any) -> str | None:
    """What is expected instead of `leaf`; None if it is fine."""
    kind = leaf.WhichOneof("content")
    shape, dtype = _shape(leaf), _dtype(leaf)
    plain = kind == "tensor" and leaf.tensor.encoding in ("", "none")
    is_bytes = kind == "text" or (plain and dtype in ("string", "object") and np.prod(shape) == 1)
    if key == layout.image:
        if (kind == "image" and dtype in ("", "uint8")) or is_bytes:
            return None
        return "JPEG or PNG bytes of 8-bit images (tfds.features.Image, uint8) are expected"
    if key == layout.text:
        return None if is_bytes else "a Text is needed"
    width = layout.numbers[key]
    if kind == "class_label" or not plain or dtype in ("string", "object") or "complex" in dtype:
        return f"a Tensor of {width} numbers without encoding is expected"
    if min(shape, default=1) < 1 or np.prod(shape, dtype=object) != width:
        return f"{width} numbers per step are expected"
    if key == GRIPPER and dtype.startswith(("bool", "uint")):
        return "it must represent -1 (open), 0 (no change) and +1 (close)"
    return None


def _shape(leaf: Any) -> tuple[int, ...]:
    content = getattr(leaf, leaf.WhichOneof("content") or "tensor")
    return tuple(content.shape.dimensions) if "shape" in content.DESCRIPTOR.fields_by_name else ()


def _dtype(leaf: Any) -> str:
    return getattr(getattr(leaf, leaf.WhichOneof("content") or "tensor"), "dtype", "")


def _describe(leaf: Any) -> str:
    encoding = leaf.tensor.encoding
    words = [
        leaf.python_class_name.rpartition(".")[2] or "of no class",
        _dtype(leaf),
        str(_shape(leaf)) if _shape(leaf) else "",
        f"encoded as {encoding}" if encoding not in ("", "none") else "",
    ]
    return " ".join(word for word in words if word)
