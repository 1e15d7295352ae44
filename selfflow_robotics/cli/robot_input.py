"""Open the inputs of a robot network: the frames and instructions of a data set."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from selfflow_robotics.cli.job import Job
from selfflow_robotics.data.rlds.latents import FrameLatents
from selfflow_robotics.data.robot_data import open_robot_data
from selfflow_robotics.data.robot_index import RobotIndex
from selfflow_robotics.errors import UserError
from selfflow_robotics.modalities.base import FrameCodec
from selfflow_robotics.models.presets import RobotConfig
from selfflow_robotics.models.text import TextConfig, check_texts
from selfflow_robotics.rollouts.demonstrations import CollectConfig, ensure_demonstrations
from selfflow_robotics.text.encoder import TextEncoderConfig
from selfflow_robotics.text.store import TextStore

OneOrMore = str | tuple[str, ...]  # of a setting


def check_data(data: OneOrMore | None, data_required: bool) -> None:
    """Raise UserError if an experiment for real data has none."""
    if data is None and data_required:
        raise UserError(
            "this experiment is for a real robot's data: pass --data DIR (such as "
            ".../fractal20220817_data/0.1.0), or data_required=false for the tabletop's"
        )


def check_latents(model: RobotConfig, latents: OneOrMore | None) -> None:
    """Raise UserError if `latents` is given for a network that does not read latents."""
    if latents is not None and model.frames != "latents":
        raise UserError(
            f"latents={latents} needs model.frames=latents; with model.frames={model.frames} the "
            "network reads images"
        )


def open_index(data: str | None, split: str, collect: CollectConfig) -> RobotIndex:
    """Of the data set `data`, or of what `collect` describes, which is recorded if need be."""
    if data == "":  # an unset shell variable; it must not start a recording
        raise UserError("a data set has an empty name; name its folder, or leave it out")
    return open_robot_data(ensure_demonstrations(collect) if data is None else Path(data), split)


def open_indices(
    data: OneOrMore | None, split: OneOrMore, collect: CollectConfig
) -> list[RobotIndex]:
    """The same of one or several data sets. Raises UserError if there is no split for each."""
    paths = [*data] if isinstance(data, tuple) else [data]
    splits = [*split] if isinstance(split, tuple) else [split] * len(paths)
    if not paths or len(splits) != len(paths):
        raise UserError(f"split has {len(splits)} values for {len(paths)} data sets: one for each")
    return [open_index(*one, collect) for one in zip(paths, splits, strict=True)]


def one_for_each(value: OneOrMore | None, count: int, key: str) -> Sequence[str | None]:
    """The values of a setting for so many data sets. Raises UserError if there are others."""
    values: list[str | None]
    values = [*value] if isinstance(value, tuple) else [None] * count if value is None else [value]
    if len(values) != count:
        raise UserError(f"{key} has {len(values)} values for {count} data sets: give one for each")
    return values


def open_frames(
    model: RobotConfig, latents: str | None, index: RobotIndex, device: torch.device
) -> tuple[FrameCodec, FrameLatents | None]:
    """The codec of frames, and the reader of the folder `latents` if they were encoded ahead.

    Raises UserError if the autoencoder is missing, or the latents are of other data, another size
    or another autoencoder.
    """
    if latents is None:
        return model.codec(device), None
    frames = FrameLatents(latents, index)
    made_by, asked = frames.autoencoder.kind, model.autoencoder
    if asked != RobotConfig().autoencoder and asked.kind != made_by:
        raise UserError(
            f"{latents} holds latents of {made_by}, not of {asked.kind}: "
            f"model.autoencoder.kind={made_by}, or encode the frames again"
        )
    if asked.weights not in (None, frames.autoencoder.weights):
        raise UserError(
            f"{latents} holds latents of the autoencoder {frames.autoencoder.source}, not of "
            f"{asked.weights}: leave model.autoencoder.weights out, or encode the frames again"
        )
    if frames.image_size != model.image_size:
        size, ours = (" x ".join(map(str, s)) for s in (frames.image_size, model.image_size))
        raise UserError(
            f"{latents} has latents of frames of {size} px, but the model reads {ours} px; set "
            f"model.image_size=[{frames.image_size[0]},{frames.image_size[1]}]"
        )
    return frames.codec(model.patch), frames


@dataclass(frozen=True)
class RobotInput:
    """What a network reads of a robot's data, and how."""

    frames: FrameCodec
    latents: list[FrameLatents | None]  # of each data set; None: its frames are encoded here
    text: TextConfig
    texts: TextStore | None  # instructions that a frozen encoder reads; None: the network does

    @property
    def fingerprints(self) -> dict[str, str]:
        """Of what a run depends on beside its data sets, see `cli.runs.continue_run`."""
        texts = {} if self.texts is None else {"text": self.texts.fingerprint}
        return {"frames": self.frames.fingerprint or ""} | texts


def open_input(
    model: RobotConfig,
    text: TextEncoderConfig,
    latents: OneOrMore | None,
    indices: Sequence[RobotIndex],
    instructions: Sequence[str],
    job: Job,
) -> RobotInput:
    """Raises UserError as `open_frames`, for latents of two autoencoders, for instructions that are
    too long, and where the text encoder is missing."""
    folders = one_for_each(latents, len(indices), "latents")
    opened = [
        open_frames(model, folder, index, job.device)
        for folder, index in zip(folders, indices, strict=True)
    ]
    frames, encoded = opened[0][0], [one for _, one in opened]
    for (codec, _), folder in zip(opened, folders, strict=True):
        if codec.fingerprint != frames.fingerprint:
            raise UserError(
                f"{folder} was encoded by another autoencoder than {folders[0]}; encode both with "
                "the same one"
            )
    if text.encoder == "bytes":
        check_texts(instructions, model.text_bytes)
        reads = TextConfig("bytes", model.text_tokens, model.text_bytes)
        return RobotInput(frames, encoded, reads, None)
    store = TextStore.make(text, instructions, job.run)
    reads = TextConfig("embeddings", channels=store.channels)
    return RobotInput(frames, encoded, reads, store)
