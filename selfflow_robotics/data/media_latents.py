"""Captioned clips and sounds as latents, encoded once (`data.latents_writer`).

A row has the means of its parts, float16: "frames" [T', C, h, w], of T frames, "sound" [N, C], or
both. "parts" of cache.json describes them. T' is T for image autoencoders, which encode each frame,
and 1 + (T - 1) / 4 for Wan's.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from selfflow_robotics.autoencoders.load import (
    AutoencoderConfig,
    load_autoencoder,
    load_sound_autoencoder,
    load_video_autoencoder,
)
from selfflow_robotics.data.latents import LatentRows
from selfflow_robotics.data.latents_record import MEDIA, part_dtype
from selfflow_robotics.data.sounds import SoundShape
from selfflow_robotics.data.videos import ClipShape
from selfflow_robotics.errors import UserError
from selfflow_robotics.modalities.latents import ImageLatents, VideoLatents
from selfflow_robotics.modalities.sound import SoundLatents

PARTS = ("frames", "sound")


@dataclass(frozen=True)
class MediaCoders:
    """The autoencoder of each part, as `data.latents_encode.CoderConfig`."""

    frames: AutoencoderConfig | None = None
    sound: AutoencoderConfig | None = None
    sample_rate: int | None = None  # Hz, of sounds

    def load(self, device: torch.device | str, download: bool = False) -> dict[str, Any]:
        """The autoencoders; downloaded if both `download` and their configurations say so. Raises
        UserError as their loaders."""
        loaded: dict[str, Any] = {}
        for part in PARTS:
            config: AutoencoderConfig | None = getattr(self, part)
            if config is None:
                continue
            config = replace(config, download=config.download and download)
            if part == "sound":
                loaded[part] = load_sound_autoencoder(config, device, self.sample_rate)
            elif config.kind == "wan":
                loaded[part] = load_video_autoencoder(config, device)
            else:
                loaded[part] = load_autoencoder(config, device)
        return loaded


@dataclass(frozen=True)
class MediaEncoding:
    """How clips, sounds, or clips with sound become rows (`data.latents_encode.RowEncoding`)."""

    clip: ClipShape | None = None
    sound: SoundShape | None = None
    batch_size: int = 16

    image_size = None
    copies = 1

    def _shapes(self, coders: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
        """Of each part of a row. Raises UserError for sizes that do not divide into latents."""
        shapes: dict[str, tuple[int, ...]] = {}
        if self.clip is not None:
            coder, (height, width) = coders["frames"], self.clip.image_size
            down, stride = coder.downsample, getattr(coder, "stride", 1)
            if height % down or width % down:
                raise UserError(
                    f"image_size must be a multiple of {down} for this autoencoder, got "
                    f"{height} x {width}"
                )
            if (self.clip.frames - 1) % stride:
                raise UserError(
                    f"clip.frames must be one more than a multiple of {stride} for this "
                    f"autoencoder, got {self.clip.frames}"
                )
            steps = 1 + (self.clip.frames - 1) // stride
            shapes["frames"] = (steps, coder.channels, height // down, width // down)
        if self.sound is not None:
            coder = coders["sound"]
            if self.sound.samples < coder.downsample or self.sound.samples % coder.downsample:
                raise UserError(
                    f"sound.seconds={self.sound.seconds:g} is not a whole number of latents of "
                    f"{coder.downsample / coder.sample_rate:g} s"
                )
            shapes["sound"] = (self.sound.samples // coder.downsample, coder.channels)
        return shapes

    def dtype(self, autoencoder: Mapping[str, Any], labelled: bool) -> np.dtype:
        """Of a row."""
        shapes = self._shapes(autoencoder)
        return part_dtype({part: {"shape": shape} for part, shape in shapes.items()})

    def rows(
        self, items: Sequence[Mapping[str, np.ndarray]], autoencoder: Mapping[str, Any]
    ) -> dict[str, np.ndarray]:
        """Means float16 of the parts of B samples."""
        columns = {}
        for part, coder in autoencoder.items():
            raw = torch.from_numpy(np.stack([item[part] for item in items]))
            if part == "sound" or hasattr(coder, "stride"):
                mean = coder.encode(raw)
            else:
                mean = coder.encode(raw.flatten(0, 1))[0].unflatten(0, raw.shape[:2])
            columns[part] = mean.half().cpu().numpy()
        return columns

    def record(self, config: MediaCoders, autoencoder: Mapping[str, Any]) -> dict[str, Any]:
        """What cache.json says of the autoencoders and of the parts."""
        parts: dict[str, Any] = {}
        for part, shape in self._shapes(autoencoder).items():
            made_by: AutoencoderConfig = getattr(config, part)
            coder = autoencoder[part]
            parts[part] = {
                "shape": list(shape),
                "kind": made_by.kind,
                "weights": made_by.source,
                "fingerprint": coder.fingerprint,
                "downsample": coder.downsample,
            }
        if self.clip is not None:
            parts["frames"] |= {"frames": self.clip.frames, "fps": self.clip.fps}
        if self.sound is not None:
            parts["sound"]["sample_rate"] = autoencoder["sound"].sample_rate
        fingerprint = "; ".join(f"{part} {parts[part]['fingerprint']}" for part in parts)
        return {"autoencoder": {"fingerprint": fingerprint}, "parts": parts}


class MediaReader(LatentRows):
    """A finished cache of captioned clips, sounds, or clips with sound.

    Raises UserError as `LatentRows`, and if it does not have exactly the `parts`.
    """

    of = MEDIA

    def __init__(self, folder: str, parts: Sequence[str]) -> None:
        super().__init__(folder)
        self.parts: dict[str, dict[str, Any]] = self.record["parts"]
        if set(self.parts) != set(parts):
            raise UserError(
                f"{self.folder} holds latents of {' and '.join(self.parts)}, not of "
                f"{' and '.join(parts)}; choose another folder"
            )
        try:
            self._check_parts()
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{self.folder}: cache.json is damaged ({error})") from error

    def _check_parts(self) -> None:
        for name, part in self.parts.items():
            if len(part["shape"]) != (4 if name == "frames" else 2):
                raise ValueError(f"the shape of {name} is {part['shape']}")
            numbers = ["downsample", *(("sample_rate",) if name == "sound" else ("frames",))]
            if not all(type(part[key]) is int and part[key] > 0 for key in numbers):
                raise ValueError(f"the {' or '.join(numbers)} of {name}")
        if "frames" in self.parts:
            ClipShape(self.clip_frames, self.fps)

    @property
    def clip_frames(self) -> int:
        """T, frames of a clip before encoding."""
        return self.parts["frames"]["frames"]

    @property
    def fps(self) -> float:
        """Frames per second before encoding."""
        return float(self.parts["frames"]["fps"])

    def steps(self, part: str) -> int:
        """(Latent) frames, or latents of a sound."""
        return self.parts[part]["shape"][0]

    def frame_codec(self, patch: int) -> ImageLatents | VideoLatents:
        """The codec of frames, without its autoencoder. Raises UserError if the latents do not
        divide into patches."""
        part = self.parts["frames"]
        _, channels, height, width = part["shape"]
        source = AutoencoderConfig(part["kind"], part["weights"])
        made = VideoLatents if part["kind"] == "wan" else ImageLatents
        return made(
            (height, width), channels, patch, source, part["fingerprint"], part["downsample"]
        )

    def sound_codec(self, frame_rate: float | None) -> SoundLatents:
        """The codec of sounds, without its autoencoder; `frame_rate` as in `SoundLatents`."""
        part = self.parts["sound"]
        return SoundLatents(
            part["shape"][1],
            part["sample_rate"],
            part["downsample"],
            AutoencoderConfig(part["kind"], part["weights"]),
            part["fingerprint"],
            frame_rate,
        )

    def read(self, indices: Sequence[int] | np.ndarray) -> dict[str, np.ndarray]:
        """The parts of the rows with these numbers, float16 [B, ...]."""
        rows = self.rows(indices)
        return {part: np.ascontiguousarray(rows[part]) for part in self.parts}
