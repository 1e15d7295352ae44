"""Metadata of data sets recorded by this project.

Every record stores it as JSON, covered by the record's checksum, in two text features of
fractal20220817_data:

    attributes/env_name               the recording: provenance, image_size, jpeg_quality
    attributes/collection_mode_name   the episode: success, disturbed, seed, ...

or, as a list of the two, in the one of bridge_dataset: episode_metadata/file_path.

So the shards alone tell which episodes were disturbed and which simulator they come from.
metadata.json repeats it in readable form; recordings of earlier versions only have that file.
"""

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from selfflow_robotics.data.rlds.info import MAX_METADATA_BYTES, Info
from selfflow_robotics.data.rlds.tfrecord import FRAMING_BYTES
from selfflow_robotics.errors import UserError
from selfflow_robotics.json_file import parse, read_json

_log = logging.getLogger(__name__)

# Description in our dataset_info.json; TensorFlow Datasets requires one.
MODULE_NAME = "selfflow_robotics.data.rlds.writer"
DESCRIPTIONS = {
    "fractal": "Robot demonstrations with the features of fractal20220817_data.",
    "bridge": "Robot demonstrations with the features of bridge_dataset.",
}
_RECORDING, _EPISODE = "env_name", "collection_mode_name"
_FILE_PATH = "episode_metadata/file_path"  # of bridge_dataset
RECORDING_KEYS = {"provenance", "image_size", "jpeg_quality"}
_MOST_HZ = 1000.0
UNTOLD = -1  # in place of a flag that a record does not have


@dataclass(frozen=True)
class Note:
    """The note in a record. All records of a data set have the same `recording`."""

    recording: str  # JSON
    episode: dict[str, Any]

    @property
    def disturbed(self) -> bool:
        """Whether something other than the recorded actions moved the arm."""
        return self.episode.get("disturbed") is True


def to_json(value: dict[str, Any]) -> str:
    """Equal tables give equal text."""
    return json.dumps(value, sort_keys=True)


def note_attributes(recording: str, episode: str) -> dict[str, str]:
    """The attributes that store a record's note; both arguments come from `to_json`."""
    return {_RECORDING: recording, _EPISODE: episode}


def bridge_file_path(recording: str, episode: str) -> str:
    """The same for Bridge's features, which have one text for both (`note_attributes`)."""
    return json.dumps([json.loads(recording), json.loads(episode)], sort_keys=True)


def read_note(features: Any) -> Note | None:
    """The note in a tf.train.Example's feature map; None for other projects' records."""

    def text(key: str) -> bytes:
        values = features[key].bytes_list.value if key in features else []
        return values[0] if len(values) == 1 else b""

    try:
        if _FILE_PATH in features:
            recording, episode = parse(text(_FILE_PATH).decode())
        else:
            names = (_RECORDING, _EPISODE)
            recording, episode = (parse(text(f"attributes/{n}").decode()) for n in names)
    except (ValueError, TypeError):
        return None
    if not isinstance(episode, dict) or not isinstance(recording, dict):
        return None
    if {*recording} != RECORDING_KEYS or not isinstance(recording["provenance"], dict):
        return None
    return Note(to_json(recording), episode)


def read_metadata(directory: Path) -> dict[str, Any]:
    """metadata.json of a data set recorded by this project: `provenance` is a dict, `episodes` a
    list of dicts.

    Raises UserError if it is missing or malformed.
    """
    path = directory / "metadata.json"
    try:
        found = read_json(path, MAX_METADATA_BYTES)
    except FileNotFoundError:
        raise UserError(
            f"{path} is missing, which describes the recording; copy it too, or choose the data "
            "set by its folder (--data)"
        ) from None
    except (OSError, ValueError) as error:
        raise _unreadable(directory, " ".join(str(error).split())) from error
    if not isinstance(found, dict) or not isinstance(found.get("provenance"), dict):
        raise _unreadable(directory, "it does not describe the recording")
    episodes = found.get("episodes")
    if not isinstance(episodes, list) or not all(isinstance(one, dict) for one in episodes):
        raise _unreadable(directory, "it does not list the episodes")
    return found


def is_ours(info: Info) -> bool:
    """Whether this project wrote dataset_info.json, according to either of two entries."""
    is_described = info.description.strip() in DESCRIPTIONS.values()
    return info.module_name == MODULE_NAME or is_described


def read_history(info: Info, tables: dict[str, Any]) -> tuple[dict[str, Any], np.ndarray]:
    """(provenance, disturbed bool [E]) of the E episodes that `scan_shards` has found.

    From its tables: `recordings`, the distinct texts of the notes, "" without note; `disturbed`
    int8 [E], UNTOLD without note; `record` int64 [E], each episode's position in its split.
    Provenance always names the data set. Warns about missing information. Raises UserError if the
    control rate is no number and, for our data sets, if metadata.json is damaged or the records
    come from two recordings.
    """
    provenance, disturbed = _read_history(info, tables)
    rate, name = provenance.get("control_hz", 1), provenance["dataset"]
    if type(rate) not in (int, float) or not 0 < rate <= _MOST_HZ:
        raise _wrong(info.directory, f"control_hz is {rate!r:.80}, a positive number is needed")
    if not isinstance(name, str):
        raise _wrong(info.directory, f"dataset is {name!r:.80}, a text is needed")
    return provenance, disturbed


def _wrong(directory: Path, what: str) -> UserError:
    return UserError(
        f"{directory}: in the provenance of the recording (metadata.json, or the records' notes) "
        f"{what}; correct it, or record the data again"
    )


def _read_history(info: Info, tables: dict[str, Any]) -> tuple[dict[str, Any], np.ndarray]:
    directory = info.directory
    provenance: dict[str, Any] = {"dataset": info.name}
    disturbed = tables["disturbed"] == 1
    recordings = [json.loads(text or "{}").get("provenance", {}) for text in tables["recordings"]]
    if not is_ours(info):  # its metadata.json is not ours
        first, *others = recordings
        shared = {k: v for k, v in first.items() if all(o.get(k) == v for o in others)}
        return provenance | shared, disturbed
    if len(recordings) > 1:
        raise UserError(
            f"{directory}: its shards come from {len(recordings)} recordings; copy the files again"
        )
    metadata = read_metadata(directory) if (directory / "metadata.json").exists() else None
    if recordings[0]:
        return provenance | recordings[0], disturbed
    if metadata is None:
        _log.warning(
            "%s: metadata.json is missing, so the simulator and the disturbed episodes are "
            "unknown; all episodes count as undisturbed",
            directory,
        )
        return provenance, disturbed
    told = [one.get("disturbed") for one in metadata["episodes"]]
    records = sum(split.num_examples for split in info.splits.values())  # ours have one split
    if len(told) != records:
        raise _unreadable(directory, f"it lists {len(told)} episodes, but there are {records}")
    if all(one is None for one in told):
        _log.warning(
            "%s: unknown which episodes were disturbed; all count as undisturbed", directory
        )
        return provenance | metadata["provenance"], disturbed
    if not all(isinstance(one, bool) for one in told):
        raise _unreadable(directory, "it does not say for every episode whether it was disturbed")
    return provenance | metadata["provenance"], np.array(told, bool)[tables["record"]]


def check_size(info: Info, split: str, total: int) -> None:
    """Compare the size of the split's shards, `total` bytes, with the one in dataset_info.json,
    which has none for slices and sums of splits.

    If they differ, raises UserError for our data sets, and warns for others, whose writer may count
    differently.
    """
    if split not in info.splits.keys():  # noqa: SIM118 - "in" knows slices too
        return
    told = int(info.splits[split].num_bytes)
    size = total - FRAMING_BYTES * info.splits[split].num_examples
    if told == size or (not told and not is_ours(info)):
        return
    line = (
        f"{info.directory}: the records of '{split}' have {size} bytes, but dataset_info.json "
        f"says {told}; a shard may belong to another recording"
    )
    if is_ours(info):
        raise UserError(f"{line}: copy the files again")
    _log.warning(line)


def _unreadable(directory: Path, cause: str) -> UserError:
    return UserError(
        f"{directory}: its JSON files cannot be read (metadata.json: {cause}); copy them again"
    )
