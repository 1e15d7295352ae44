"""meta/info.json of a LeRobot data set: version, features and where its files are.

Versions 2.0 and 2.1 have one parquet file and one video per episode, version 3.0 many episodes in
one. Source: the data sets' own files, and LeRobot's documentation of LeRobotDataset.
"""

import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal, get_args

from selfflow_robotics import json_file
from selfflow_robotics.data.rlds.schema import BRIDGE, FRACTAL, Layout
from selfflow_robotics.errors import UserError

INFO = "meta/info.json"
Version = Literal["v2.0", "v2.1", "v3.0"]
VERSIONS: tuple[Version, ...] = get_args(Version)
STATE, ACTION = "observation.state", "action"
MOST_FPS = 1000.0
# Cameras that are chosen if there are several: of fractal20220817_data and of Bridge.
CAMERAS = ("observation.images.image", "observation.images.image_0")
_ACTION_NAMES = ("x", "y", "z", "roll", "pitch", "yaw", "gripper")
# What `observation.state` holds, by its features' names.
_STATES: dict[tuple[str, ...], Layout] = {
    ("x", "y", "z", "rx", "ry", "rz", "rw", "gripper"): FRACTAL,
    ("x", "y", "z", "roll", "pitch", "yaw", "pad", "gripper"): BRIDGE,
}
_ROBOTS = {"google_robot": FRACTAL, "widowx": BRIDGE}  # for data sets that name no motors


@dataclass(frozen=True)
class LeRobotInfo:
    """meta/info.json, checked."""

    directory: Path
    version: Version
    fps: float
    layout: Layout  # the robot's state: RT-1's or Bridge's; actions are alike
    camera: str  # feature of the video that is read
    image_size: tuple[int, int]  # height, width
    num_episodes: int
    num_frames: int | None  # of all episodes; None: not told
    splits: dict[str, range]  # episodes of each
    chunks_size: int  # episodes per folder, before version 3
    data_path: str  # templates
    video_path: str
    has_success: bool  # next.success

    @property
    def name(self) -> str:
        return self.directory.resolve().name

    def file(self, template: str, **values: Any) -> Path:
        """The path that a template of info.json stands for. Raises UserError for a bad one."""
        try:
            path = PurePosixPath(template.format(**values))
        except (KeyError, IndexError, ValueError, TypeError, AttributeError) as error:
            raise _wrong(self.directory, f"'{template}' is no template for a path") from error
        if path.is_absolute() or ".." in path.parts:
            raise _wrong(self.directory, f"'{template}' leads out of the data set")
        return self.directory / path


def is_lerobot(directory: Path) -> bool:
    """Whether the folder is a LeRobot data set."""
    return (directory / INFO).is_file()


def read_info(directory: Path) -> LeRobotInfo:
    """Read and check meta/info.json.

    Raises UserError for an unknown version, a frame rate that is no number, and features that are
    not an arm's end-effector displacements with a video.
    """
    content = read_json(directory / INFO)
    if not isinstance(content, dict):
        raise _wrong(directory, "it is no table")
    told = content.get("codebase_version")
    version: Version | None = next((one for one in VERSIONS if one == told), None)
    if version is None:
        raise UserError(
            f"{directory} is a LeRobot data set of version {told}; versions {', '.join(VERSIONS)} "
            "can be read: convert it with LeRobot's scripts"
        )
    fps = content.get("fps")
    if not isinstance(fps, int | float) or not 0 < fps <= MOST_FPS:
        raise _wrong(directory, f"fps is {fps}, a positive number is needed")
    features = content.get("features")
    if not isinstance(features, dict) or not all(isinstance(f, dict) for f in features.values()):
        raise _wrong(directory, "features are missing")
    camera = _camera(directory, features)
    whole = version == "v3.0"
    file = "chunk-{chunk_index:03d}/file-{file_index:03d}"
    episode = "episode_{episode_index:06d}"
    defaults = {
        "data_path": f"data/{file}.parquet"
        if whole
        else f"data/chunk-{{episode_chunk:03d}}/{episode}.parquet",
        "video_path": f"videos/{{video_key}}/{file}.mp4"
        if whole
        else f"videos/chunk-{{episode_chunk:03d}}/{{video_key}}/{episode}.mp4",
    }
    paths = {key: content.get(key) or default for key, default in defaults.items()}
    chunks_size = content.get("chunks_size", 1000)
    if not all(isinstance(path, str) for path in paths.values()):
        raise _wrong(directory, "data_path and video_path must be texts")
    if type(chunks_size) is not int or chunks_size < 1:
        raise _wrong(directory, f"chunks_size is {chunks_size}, a number of episodes is needed")
    return LeRobotInfo(
        directory,
        version,
        float(fps),
        _layout(directory, features, content.get("robot_type")),
        camera,
        _image_size(directory, camera, features[camera]),
        *_sizes(directory, content),
        _splits(directory, content),
        chunks_size,
        **paths,
        has_success="next.success" in features,
    )


def read_json(path: Path) -> Any:
    """Raises UserError if the file is missing or is not JSON."""
    try:
        return json_file.read_json(path)
    except (OSError, ValueError) as error:
        cause = getattr(error, "strerror", None) or " ".join(str(error).split())[:200]
        raise UserError(f"{path} cannot be read ({cause}); copy it again") from error


def _sizes(directory: Path, content: dict[str, Any]) -> tuple[int, int | None]:
    """The number of episodes, and of their frames."""
    episodes, frames = content.get("total_episodes"), content.get("total_frames")
    if type(episodes) is not int or episodes < 1:
        raise _wrong(directory, f"total_episodes is {episodes}, the data set has no episode")
    if frames is not None and type(frames) is not int:
        raise _wrong(directory, f"total_frames is {frames}, a whole number is needed")
    return episodes, frames


def _splits(directory: Path, content: dict[str, Any]) -> dict[str, range]:
    """The episodes of each split."""
    total = content["total_episodes"]
    told = content.get("splits") or {"train": f"0:{total}"}
    splits = {}
    for name, text in told.items() if isinstance(told, dict) else ():
        found = re.fullmatch("([0-9]{1,9}):([0-9]{1,9})", str(text))
        first, last = map(int, found.groups()) if found else (0, 0)
        if not first < last <= total:
            raise _wrong(directory, f"split {name} is '{text}', a part of 0:{total} is needed")
        splits[str(name)] = range(first, last)
    if not splits:
        raise _wrong(directory, "it has no splits")
    return splits


def _camera(directory: Path, features: dict[str, Any]) -> str:
    videos = [key for key, feature in features.items() if feature.get("dtype") == "video"]
    chosen = videos if len(videos) == 1 else [key for key in CAMERAS if key in videos]
    if chosen:
        return chosen[0]
    if videos:
        raise _wrong(
            directory, f"none of the cameras {', '.join(videos)} is called {' or '.join(CAMERAS)}"
        )
    images = [key for key, feature in features.items() if feature.get("dtype") == "image"]
    stored = f", only images inside the parquet files ({images[0]})" if images else ""
    raise _wrong(directory, f"it has no video{stored}; convert its frames to video")


def _image_size(directory: Path, camera: str, feature: dict[str, Any]) -> tuple[int, int]:
    shape, names = feature.get("shape"), feature.get("names")
    sizes = [n for n in shape if type(n) is int and n > 0] if isinstance(shape, list) else []
    if sizes != shape or len(sizes) != 3 or 3 not in sizes:
        raise _wrong(directory, f"the shape of {camera} is {shape}, three sizes are needed")
    is_first = isinstance(names, list) and len(names) == 3 and names[0] in ("channel", "channels")
    if is_first or (sizes[0] == 3 and sizes[2] != 3):
        return sizes[1], sizes[2]
    return sizes[0], sizes[1]


def _layout(directory: Path, features: dict[str, Any], robot: Any) -> Layout:
    """Whose state and action these features are. Raises UserError if they are others."""
    names = {}
    for key, width in ((STATE, 8), (ACTION, 7)):
        feature = features.get(key)
        if feature is None:
            raise _wrong(directory, f"it lacks the feature {key}")
        shape = feature.get("shape")
        if shape != [width]:
            raise _wrong(
                directory,
                f"{key} has the shape {shape}, [{width}] is needed: end-effector poses and "
                "displacements, as in fractal20220817_data",
            )
        names[key] = _names(feature.get("names"))
    if names[ACTION] not in ((), _ACTION_NAMES):
        raise _wrong(
            directory, f"action is {' '.join(names[ACTION])}, {' '.join(_ACTION_NAMES)} is needed"
        )
    layout = _STATES.get(names[STATE]) if names[STATE] else _ROBOTS.get(str(robot))
    if layout is None:
        known = " or ".join(" ".join(motors) for motors in _STATES)
        raise _wrong(
            directory,
            f"{STATE} is {' '.join(names[STATE]) or 'unnamed'} of the robot {robot}, {known} is "
            "needed",
        )
    return layout


def _names(value: Any) -> tuple[str, ...]:
    """The names of a feature's numbers, which may be grouped: {"motors": [...]}."""
    if isinstance(value, dict):
        value = next(iter(value.values()), None)
    return tuple(map(str, value)) if isinstance(value, list) else ()


def _wrong(directory: Path, what: str) -> UserError:
    return UserError(f"{directory / INFO}: {what}")
