"""How a data set of ours was recorded, and where that is written.

Every record carries it as JSON, under the record's own checksum, in two of the features that
fractal20220817_data has for words about an episode:

    attributes/env_name               the recording: provenance, image_size, jpeg_quality
    attributes/collection_mode_name   the episode: success, disturbed, seed, ...

The shards alone therefore say which episodes were disturbed and what simulator they come from.
metadata.json repeats it for people; recordings of earlier versions have it only there.
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

# What our writer leaves in dataset_info.json, which TensorFlow Datasets cannot do without.
MODULE_NAME = "selfflow_robotics.data.rlds.writer"
DESCRIPTION = "Robot demonstrations with the features of fractal20220817_data."
_RECORDING, _EPISODE = "env_name", "collection_mode_name"
RECORDING_KEYS = {"provenance", "image_size", "jpeg_quality"}
UNTOLD = -1  # in place of a flag that a record does not carry


@dataclass(frozen=True)
class Note:
    """What one of our records says of itself. All of a data set have the same `recording`."""

    recording: str  # JSON
    episode: dict[str, Any]

    @property
    def disturbed(self) -> bool:
        """Whether something else than the recorded actions moved the arm."""
        return self.episode.get("disturbed") is True


def to_json(value: dict[str, Any]) -> str:
    """Equal tables give equal text."""
    return json.dumps(value, sort_keys=True)


def note_attributes(recording: str, episode: str) -> dict[str, str]:
    """The attributes by which a record carries its note; both arguments are `to_json`'s."""
    return {_RECORDING: recording, _EPISODE: episode}


def read_note(features: Any) -> Note | None:
    """The note in a tf.train.Example's feature map, None in a record that is not ours."""
    texts = []
    for name in (_RECORDING, _EPISODE):
        key = f"attributes/{name}"
        values = features[key].bytes_list.value if key in features else []
        texts.append(values[0] if len(values) == 1 else b"")
    try:
        recording, episode = (parse(text.decode()) for text in texts)
    except ValueError:
        return None
    if not isinstance(episode, dict) or not isinstance(recording, dict):
        return None
    if {*recording} != RECORDING_KEYS or not isinstance(recording["provenance"], dict):
        return None
    return Note(to_json(recording), episode)


def read_metadata(directory: Path) -> dict[str, Any]:
    """metadata.json of a data set of ours: `provenance` is a dict, `episodes` a list of dicts.

    Raises UserError where it is missing or says something else.
    """
    path = directory / "metadata.json"
    try:
        found = read_json(path, MAX_METADATA_BYTES)
    except FileNotFoundError:
        raise UserError(
            f"{path} is missing, which says how the data set was recorded; copy it too, or choose "
            "the data set by its folder (--data)"
        ) from None
    except (OSError, ValueError) as error:
        raise _unreadable(directory, " ".join(str(error).split())) from error
    if not isinstance(found, dict) or not isinstance(found.get("provenance"), dict):
        raise _unreadable(directory, "it does not say how the data set was recorded")
    episodes = found.get("episodes")
    if not isinstance(episodes, list) or not all(isinstance(one, dict) for one in episodes):
        raise _unreadable(directory, "it does not list the episodes")
    return found


def is_ours(info: Info) -> bool:
    """Whether dataset_info.json was written by us, as either of two places in it says."""
    return info.module_name == MODULE_NAME or info.description.strip() == DESCRIPTION


def read_history(info: Info, tables: dict[str, Any]) -> tuple[dict[str, Any], np.ndarray]:
    """(provenance, disturbed bool [E]) of the E episodes that `scan_shards` has found.

    Of its tables: `recordings`, the different texts of the notes, "" without note; `disturbed` int8
    [E], UNTOLD without note; `record` int64 [E], each episode's place in its split. Provenance
    always names the data set. Warns of what nothing tells. Raises UserError for a data set of ours
    whose metadata.json is damaged or whose records are of two recordings.
    """
    directory = info.directory
    provenance: dict[str, Any] = {"dataset": info.name}
    disturbed = tables["disturbed"] == 1
    recordings = [json.loads(text or "{}").get("provenance", {}) for text in tables["recordings"]]
    if not is_ours(info):  # whatever its metadata.json holds is not for us
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
            "%s: metadata.json is missing, which alone says which simulator this was and which "
            "episodes were disturbed; all count as undisturbed",
            directory,
        )
        return provenance, disturbed
    told = [one.get("disturbed") for one in metadata["episodes"]]
    records = sum(split.num_examples for split in info.splits.values())  # ours have one split
    if len(told) != records:
        raise _unreadable(directory, f"it lists {len(told)} episodes, there are {records}")
    if all(one is None for one in told):
        _log.warning(
            "%s: nothing says which episodes were disturbed; none count as that", directory
        )
        return provenance | metadata["provenance"], disturbed
    if not all(isinstance(one, bool) for one in told):
        raise _unreadable(directory, "it does not say of every episode whether it was disturbed")
    return provenance | metadata["provenance"], np.array(told, bool)[tables["record"]]


def check_size(info: Info, split: str, total: int) -> None:
    """Compare the size of the split's shards, `total` bytes, with the one in dataset_info.json,
    which gives none for slices and sums of splits.

    Raises UserError where they differ in a data set of ours; warns of it in another's, whose
    writer may have counted otherwise.
    """
    if split not in info.splits.keys():  # noqa: SIM118 - "in" knows slices too
        return
    told = int(info.splits[split].num_bytes)
    size = total - FRAMING_BYTES * info.splits[split].num_examples
    if told == size or (not told and not is_ours(info)):
        return
    line = (
        f"{info.directory}: the records of '{split}' have {size} bytes, but dataset_info.json says "
        f"{told}; a shard may come from another recording"
    )
    if is_ours(info):
        raise UserError(f"{line}: copy the files again")
    _log.warning(line)


def _unreadable(directory: Path, cause: str) -> UserError:
    return UserError(
        f"{directory}: its JSON files cannot be read (metadata.json: {cause}); copy them again"
    )
