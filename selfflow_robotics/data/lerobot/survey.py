"""Read a whole LeRobot data set without stopping at damage, as `data.rlds.survey` does for RLDS."""

import hashlib
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg
from tqdm import tqdm

from selfflow_robotics.data.index_tables import why_left_out
from selfflow_robotics.data.lerobot.episodes import EpisodeFiles, read_tasks
from selfflow_robotics.data.lerobot.index import chosen_episodes, provenance
from selfflow_robotics.data.lerobot.info import LeRobotInfo, read_info
from selfflow_robotics.data.lerobot.scan import EpisodeScanner
from selfflow_robotics.data.lerobot.video import VideoPool
from selfflow_robotics.data.rlds.survey import (
    Episode,
    Fault,
    FaultKind,
    Frames,
    Survey,
    chosen_steps,
)
from selfflow_robotics.errors import UserError

_CHUNK = 32  # episodes whose frames are decoded in parallel
_MOST_THREADS = 8


@dataclass(frozen=True, eq=False)
class VideoEpisode(Episode):
    """An episode whose images are frames of a video."""

    files: EpisodeFiles = field(kw_only=True)
    videos: VideoPool = field(kw_only=True, repr=False)

    def encoded_frame(self, step: int) -> bytes:
        """The frame of a step as a JPEG file; empty if it cannot be decoded."""
        try:
            with self.videos.borrow(self.files.video) as video:
                (picture,) = video.read([self.files.first + step])
        except UserError:
            return b""
        return simplejpeg.encode_jpeg(picture, quality=90)


def survey(
    directory: str | Path,
    split: str = "train",
    frames: Frames = "sample",
    tell: Callable[[list[Fault]], None] = lambda faults: None,
) -> Survey:
    """As `data.rlds.survey.survey`: every number is checked, and the length of every video.

    The files have no checksums, so damage to a video shows only where a frame cannot be decoded.
    Raises UserError only if the files below meta/ cannot be used, or the split is unknown.
    """
    info = read_info(Path(os.path.expanduser(directory)))
    chosen = chosen_episodes(info, split)
    paths = sorted({path for one in chosen for path in (one.data, one.video)})
    found = Survey(info, split, paths, 0, len(chosen), absolute_gripper=True)
    found.provenance, found.image_size = provenance(info), info.image_size
    found.num_bytes = sum(path.stat().st_size for path in paths if path.is_file())
    scanner, videos = EpisodeScanner(info, read_tasks(info)), VideoPool(info.fps)
    threads = min(len(os.sched_getaffinity(0)), _MOST_THREADS)
    decode = partial(_decode, info=info, frames=frames, videos=videos)
    with (
        ThreadPoolExecutor(threads) as pool,
        tqdm(total=len(chosen), desc="episodes", unit="episode", delay=1) as progress,
    ):
        for start in range(0, len(chosen), _CHUNK):
            told = len(found.faults)
            tables = []
            for files in chosen[start : start + _CHUNK]:
                try:
                    table = scanner.read(files)
                except UserError as error:
                    found.faults.append(_fault(files, "record", str(error)))
                else:
                    if cause := why_left_out(table):
                        where = f"{files.data}: episode {files.number}"
                        message = f"{where}: {cause}; training leaves it out"
                        found.faults.append(_fault(files, "episode", message, cause=cause))
                    else:
                        tables.append((files, table))
                progress.update()
            for episode, faults in pool.map(decode, tables):
                found.episodes.append(episode)
                found.faults += faults
            if new := found.faults[told:]:
                tell(new)
    found.disturbed = np.zeros(len(found.episodes), bool)
    return found


def _decode(
    read: tuple[EpisodeFiles, dict[str, Any]], info: LeRobotInfo, frames: Frames, videos: VideoPool
) -> tuple[Episode, list[Fault]]:
    """The episode, and a fault for each frame that cannot be decoded."""
    files, table = read
    steps, faults, first = chosen_steps(files.length, frames), [], b""
    for step in steps:
        try:
            with videos.borrow(files.video) as video:
                (picture,) = video.read([files.first + step])
        except UserError as error:
            faults.append(_fault(files, "frame", f"{error} (episode {files.number})", step))
        else:
            first = first or picture.tobytes()
    stored = (table["actions"][:, :6], table["gripper_command"])
    nothing = np.zeros(files.length, np.int64)
    episode = VideoEpisode(
        path=files.data,
        record=files.number,
        number=files.number,
        instruction=table["texts"][0],
        success=True if table["success"] else False if table["failed"] else None,
        actions=table["actions"],
        gripper_command=table["gripper_command"],
        proprio=table["proprio"],
        offset=nothing,
        size=nothing,
        # Equal images differ after compression, so none is taken for the same as another.
        picture=np.arange(files.length, dtype=np.uint32),
        actions_hash=hashlib.sha256(b"".join(part.tobytes() for part in stored)).digest(),
        frame_hash=hashlib.sha256(first or str(files.number).encode()).digest(),
        frames_decoded=len(steps),
        table={},
        files=files,
        videos=videos,
    )
    return episode, faults


def _fault(
    files: EpisodeFiles, kind: FaultKind, message: str, step: int | None = None, cause: str = ""
) -> Fault:
    return Fault(kind, message, files.data.name, files.number, step, cause)
