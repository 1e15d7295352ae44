"""Copies of RLDS data sets in which one convention is another, for tests of the doctor."""

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy.spatial.transform import Rotation
from tensorflow_datasets.proto import tf_example_pb2

from selfflow_robotics.data.rlds.schema import BRIDGE, FRACTAL, GRIPPER, Layout, layout_of
from selfflow_robotics.data.rlds.tfrecord import read_records, write_record
from selfflow_robotics.robot.bridge import DOWN, proprio_from_state

TOOL = "steps/observation/base_pose_tool_reached"
STATE = "steps/observation/state"
Edit = Callable[[Any, Layout], None]  # changes an example's feature map


def _numbers(features: Any, key: str, width: int) -> np.ndarray:
    return np.array(features[key].float_list.value, np.float64).reshape(-1, width)


def _store(features: Any, key: str, values: np.ndarray) -> None:
    features[key].float_list.value[:] = np.asarray(values, np.float32).reshape(-1).tolist()


def _action(features: Any, layout: Layout) -> np.ndarray:
    """[T, 6]: displacement and rotation."""
    if layout is BRIDGE:
        return _numbers(features, "steps/action", 7)[:, :6]
    parts = ("steps/action/world_vector", "steps/action/rotation_delta")
    return np.concatenate([_numbers(features, key, 3) for key in parts], axis=1)


def _store_action(features: Any, layout: Layout, arm: np.ndarray) -> None:
    if layout is BRIDGE:
        action = _numbers(features, "steps/action", 7)
        _store(features, "steps/action", np.concatenate([arm, action[:, 6:]], axis=1))
        return
    _store(features, "steps/action/world_vector", arm[:, :3])
    _store(features, "steps/action/rotation_delta", arm[:, 3:])


def gripper_reversed(features: Any, layout: Layout) -> None:
    if layout is FRACTAL:
        _store(features, GRIPPER, -_numbers(features, GRIPPER, 1))
        return
    action = _numbers(features, "steps/action", 7)
    action[:, 6] = 1.0 - action[:, 6]
    _store(features, "steps/action", action)


def rotation_vectors(features: Any, layout: Layout) -> None:
    arm = _action(features, layout)
    arm[:, 3:] = Rotation.from_euler("xyz", arm[:, 3:]).as_rotvec()
    _store_action(features, layout, arm)


def tool_frame(features: Any, layout: Layout) -> None:
    arm = _action(features, layout)
    if layout is FRACTAL:
        tool = Rotation.from_quat(_numbers(features, TOOL, 7)[:, 3:])
    else:
        tool = Rotation.from_quat(proprio_from_state(_numbers(features, STATE, 7))[:, 3:7])
    arm[:, :3] = tool.inv().apply(arm[:, :3])
    turned = tool.inv() * Rotation.from_euler("xyz", arm[:, 3:]) * tool
    arm[:, 3:] = turned.as_euler("xyz")
    _store_action(features, layout, arm)


def rotation_order(features: Any, layout: Layout) -> None:
    """RT-1: quaternions wxyz. Bridge: rotations in the base frame."""
    if layout is FRACTAL:
        tool = _numbers(features, TOOL, 7)
        _store(features, TOOL, tool[:, [0, 1, 2, 6, 3, 4, 5]])
        return
    state = _numbers(features, STATE, 7)
    turned = Rotation.from_euler("xyz", state[:, 3:6]) * DOWN
    state[:, 3:6] = turned.as_euler("xyz")
    _store(features, STATE, state)


def every_second_step(features: Any, layout: Layout) -> None:
    length = len(features["steps/is_first"].int64_list.value)
    relative = layout is FRACTAL
    if relative:  # a command of a dropped step is given in the next one that is kept
        commands = _numbers(features, GRIPPER, 1)[:, 0]
        carried = commands.copy()
        for step in range(2, length, 2):
            carried[step] = commands[step] or commands[step - 1]
        _store(features, GRIPPER, carried)
    for key in features:
        if not key.startswith("steps/"):
            continue
        values = getattr(features[key], features[key].WhichOneof("kind")).value
        width = len(values) // length
        kept = [values[t * width : (t + 1) * width] for t in range(0, length, 2)]
        values[:] = [value for part in kept for value in part]


def images(change: Callable[[Image.Image], Image.Image]) -> Edit:
    """Change every image; sizes stay."""

    def edit(features: Any, layout: Layout) -> None:
        values = features[layout.image].bytes_list.value
        for step, data in enumerate(values):
            image = Image.open(io.BytesIO(data)).convert("RGB")
            file = io.BytesIO()
            change(image).resize(image.size).save(file, "JPEG", quality=95)
            values[step] = file.getvalue()

    return edit


def bgr(image: Image.Image) -> Image.Image:
    return Image.fromarray(np.asarray(image)[..., ::-1].copy())


def square_crop(image: Image.Image) -> Image.Image:
    width, height = image.size
    left = (width - height) // 2
    return image.crop((left, 0, left + height, height))


def letterboxed(image: Image.Image) -> Image.Image:
    width, height = image.size
    whole = Image.new("RGB", (width, width))
    whole.paste(image, (0, (width - height) // 2))
    return whole


def centre_crop(image: Image.Image) -> Image.Image:
    width, height = image.size
    x, y = width // 20, height // 20
    return image.crop((x, y, width - x, height - y))


def upside_down(image: Image.Image) -> Image.Image:
    return image.transpose(Image.Transpose.ROTATE_180)


FAULTS: dict[str, Edit] = {
    "gripper": gripper_reversed,
    "order": rotation_order,
    "rate": every_second_step,
    "rotvec": rotation_vectors,
    "frame": tool_frame,
    "bgr": images(bgr),
    "square": images(square_crop),
    "letterbox": images(letterboxed),
    "crop": images(centre_crop),
    "rotated": images(upside_down),
}


def faulty(source: Path, root: Path, fault: str) -> Path:
    """A copy of a data set with the fault, at `root`/fault/version."""
    copy = root / fault / source.name
    shutil.copytree(source, copy)
    grown = 0
    for path in sorted(copy.glob("*.tfrecord-*")):
        records = [data for _, data in read_records(path)]
        with path.open("wb") as file:
            for record in records:
                example = tf_example_pb2.Example.FromString(record)
                FAULTS[fault](example.features.feature, layout_of(example.features.feature))
                changed = example.SerializeToString(deterministic=True)
                grown += len(changed) - len(record)
                write_record(file, changed)
    told = copy / "dataset_info.json"
    info = json.loads(told.read_text())
    (split,) = info["splits"]
    split["numBytes"] = str(int(split["numBytes"]) + grown)
    told.write_text(json.dumps(info))
    return copy
