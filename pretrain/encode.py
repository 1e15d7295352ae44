"""Encode images, clips, sounds or robot frames as latents once, so that training does not run the
autoencoder.

    python pretrain/encode.py --data imagenet/train download=true     # SD-VAE, 256 px
    python pretrain/encode.py --data imagenet/train autoencoder=rae download=true
    python pretrain/encode.py --data 'shards/*.tar' processes=8 output=latents/web
    python pretrain/encode.py --data captioned captions=true autoencoder=flux2 download=true
    python pretrain/encode.py --data videos media=clips autoencoder=wan download=true
    python pretrain/encode.py --data sounds media=sounds              # for pretrain/media.py
    python pretrain/encode.py --data .../fractal20220817_data/0.1.0   # a robot's frames
    python pretrain/encode.py experiment=debug                        # seconds, no download

DATA is a folder with one subfolder per class (folders without images are ignored), a flat folder
(label 0), or tar shards in WebDataset's layout (KEY.jpg next to KEY.cls, labels below 100 000).
With captions=true it is a folder, or tar shards, in which each NAME.jpg has NAME.txt (a caption per
line) or NAME.json (a list of captions) next to it; the captions are stored with the latents.

Only *.jpg, *.jpeg, *.png and *.webp files are read, and images are cropped like ADM's. Unreadable
images, and those without a label or caption, are counted by cause; if their share exceeds
max_skipped, the command stops. The mean and standard deviation of the latents are stored in
float16, with a checksum per shard: 16 KB per image of 256 px with SD-VAE, 786 KB with RAE
(ImageNet: 21 GB and 1.0 TB), twice that with mirror=true.

With media=clips, sounds or films (clips with sound), DATA is a folder of captioned videos or sounds
(docs/media.md). Of each video, clip.frames frames are read from its beginning, clip.fps per second
by their time stamps, and encoded by an image autoencoder or by Wan's; of each sound, the first
sound.seconds, by sound_autoencoder. The sound of a film is NAME.wav, or the video's own. Only means
are stored.

For a robot data set (RLDS: the folder NAME/VERSION; or LeRobot), every frame of `split` is resized
to frame_size and encoded. Only means are stored, 39 GB for fractal20220817_data with SD-VAE. An
unreadable frame stops the command.

Repeat an interrupted command to resume it. The result depends only on the images, not on the number
of processes. Images are identified by name, size in bytes, label and captions: if you change one in
place, encode to a new folder.
"""

import os
import re
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch

from selfflow_robotics.autoencoders.load import AutoencoderConfig, AutoencoderKind, load_autoencoder
from selfflow_robotics.cli.app import Flag, hydra_app
from selfflow_robotics.data.captioned_files import list_media
from selfflow_robotics.data.images import ImageList, list_images, missing_classes
from selfflow_robotics.data.latents_encode import Encoding, Workers
from selfflow_robotics.data.latents_record import Size, sides
from selfflow_robotics.data.latents_writer import CacheSummary, write_latents
from selfflow_robotics.data.media_latents import MediaCoders, MediaEncoding
from selfflow_robotics.data.rlds.latents import RldsFrames
from selfflow_robotics.data.robot_data import is_robot_data
from selfflow_robotics.data.shapes import ensure_shapes
from selfflow_robotics.data.sounds import SOUNDS, SoundShape
from selfflow_robotics.data.videos import VIDEOS, ClipShape
from selfflow_robotics.errors import UserError, check_least
from selfflow_robotics.training.device import choose_device, set_threads

IMAGE_PX, MOST_PX = 256, 4096  # of a side
MOST_PROCESSES = 8  # the default maximum, as each loads an autoencoder


@dataclass(frozen=True)
class ClipConfig:
    """The clip that is read from the beginning of each video."""

    frames: int = 13
    fps: float = 8.0


@dataclass(frozen=True)
class EncodeConfig:
    data: str | None = None
    output: str | None = None
    autoencoder: AutoencoderKind = "sd_vae"
    weights: str | None = None
    download: bool = False
    captions: bool = False
    media: Literal["images", "clips", "sounds", "films"] = "images"
    clip: ClipConfig = field(default_factory=ClipConfig)
    sound: SoundShape = field(default_factory=SoundShape)
    sound_autoencoder: AutoencoderKind = "spectrogram"
    sound_weights: str | None = None
    image_size: int | tuple[int, int] | None = None
    split: str = "train"
    frame_size: tuple[int, int] | None = None
    mirror: bool = False
    max_skipped: float = 0.001
    batch_size: int = 16
    shard_size: int = 1024
    processes: int | None = None
    threads: int = 1
    device: str = "auto"
    root: str = "datasets"
    num_shapes: int = 4000

    def __post_init__(self) -> None:
        check_least(self, 1, "batch_size", "shard_size")
        for name in ("image_size", "frame_size"):
            size = getattr(self, name)
            if size is not None and not all(1 <= px <= MOST_PX for px in sides(size)):
                raise UserError(f"{name} must be from 1 to {MOST_PX} px, got {size}")
        if self.media != "images" and self.data is None:
            raise UserError(
                f"media={self.media} needs data=FOLDER of captioned files; pretrain/render.py "
                "makes some"
            )
        if self.media != "images":
            refusals = {
                "mirror": "is for images",
                "captions": f"is for images; {self.media} always have captions, so leave it out",
                "split": "is for robot data; pass the folder of the split as data=FOLDER",
                "frame_size": "is for robot data; clips and films take image_size=[HEIGHT,WIDTH]",
            }
            for name, why in refusals.items():
                if getattr(self, name) != getattr(EncodeConfig, name):
                    raise UserError(f"{name} {why} (media={self.media})")
        self.shapes()  # raises for absurd clips and sounds
        if self.captions and self.data is None:
            raise UserError("captions=true needs data=FOLDER; the coloured shapes have no captions")
        if self.processes is not None and not 1 <= self.processes <= 1024:
            raise UserError(f"processes must be from 1 to 1024, got {self.processes}")
        if not 0 <= self.max_skipped < 1:
            raise UserError(f"max_skipped must be in [0, 1), got {self.max_skipped}")

    def shapes(self) -> tuple[ClipShape | None, SoundShape | None]:
        """What is read of each file of clips, sounds or films."""
        clip = None
        if self.media in ("clips", "films"):
            size = sides(self.image_size or IMAGE_PX)
            clip = ClipShape(self.clip.frames, self.clip.fps, size)
        return clip, self.sound if self.media in ("sounds", "films") else None


@hydra_app(
    "encode",
    EncodeConfig,
    flags=(
        Flag("--data", literal=True, help="a folder of images, tar shards, or an RLDS folder"),
        Flag(
            "--split", literal=True, help="split of an RLDS data set: train, val, train[:90%], ..."
        ),
        Flag("--output", literal=True, help="output folder for the latents"),
    ),
)
def main(config: EncodeConfig) -> None:
    began = time.monotonic()
    set_threads(config.threads)
    if config.media != "images":
        return encode_media(config, began)
    kind = AutoencoderConfig(config.autoencoder, config.weights, config.download)
    device = choose_device(config.device)
    source, size = open_source(config)  # a mistake in it shows before anything is downloaded
    autoencoder = load_autoencoder(kind, device)
    output = (
        Path(config.output) if config.output else Path(config.root) / _name(config, source, size)
    )
    summary = write_latents(
        source,
        output,
        autoencoder,
        Workers(kind, config.processes or default_processes(device), str(device), config.threads),
        Encoding(size, config.batch_size, config.mirror),
        max_skipped=config.max_skipped,
        shard_size=config.shard_size,
    )
    if isinstance(source, ImageList) and set(summary.labels) < source.labels:
        print(missing_classes(summary.labels, source.num_classes, source.class_names))
    print(_line(summary, output, time.monotonic() - began))


def encode_media(config: EncodeConfig, began: float) -> None:
    """Encode clips, sounds or films."""
    assert config.data is not None
    (clip, heard), device = config.shapes(), choose_device(config.device)
    frames = AutoencoderConfig(config.autoencoder, config.weights, config.download)
    sound = AutoencoderConfig(config.sound_autoencoder, config.sound_weights, config.download)
    coders = MediaCoders(
        frames if clip is not None else None,
        sound if heard is not None else None,
        config.sound.sample_rate,
    )
    suffixes = SOUNDS if config.media == "sounds" else VIDEOS
    readers = {part: x for part, x in (("frames", clip), ("sound", heard)) if x is not None}
    source = list_media(config.data, suffixes, readers)
    print(f"{len(source)} {config.media} with captions in {source.root}")
    loaded = coders.load(device, download=True)
    name = f"{source.root.resolve().name}_{config.media}"
    output = Path(config.output) if config.output else Path(config.root) / f"{name}_latents"
    summary = write_latents(
        source,
        output,
        loaded,
        Workers(coders, config.processes or default_processes(device), str(device), config.threads),
        MediaEncoding(clip, heard, config.batch_size),
        max_skipped=config.max_skipped,
        shard_size=config.shard_size,
    )
    print(_line(summary, output, time.monotonic() - began, config.media))


def open_source(config: EncodeConfig) -> tuple[ImageList | RldsFrames, Size]:
    """The source to encode, and its size."""
    if config.data and is_robot_data(config.data):
        if config.mirror:
            raise UserError(
                "mirror=true is for labelled images; mirrored robot frames would need mirrored "
                "actions"
            )
        if config.captions:
            raise UserError("captions=true is for images; robot data sets have instructions")
        if config.image_size is not None:
            raise UserError(
                f"image_size={config.image_size} is for images; an RLDS data set takes "
                "frame_size=[HEIGHT,WIDTH] (and image_size=null if an experiment sets it)"
            )
        frames = RldsFrames.open(Path(config.data).expanduser(), config.split)
        size = config.frame_size or frames.index.image_size
        print(f"{len(frames)} frames of {config.data}, {size[0]} x {size[1]} px")
        return frames, size
    size = config.image_size or IMAGE_PX
    side = max(sides(size))
    images = list_images(
        config.data or ensure_shapes(Path(config.root), config.num_shapes, side), config.captions
    )
    if config.frame_size is not None:
        raise UserError("frame_size is for an RLDS data set; images take image_size=SIDE")
    if config.split != EncodeConfig.split:
        raise UserError("split is for an RLDS data set; pass the images of the split as data=...")
    kind = "with captions" if images.captioned else f"of {images.num_classes} classes"
    print(f"{len(images)} images {kind} in {images.root}")
    for note in images.notes():
        print(note)
    return images, size


def default_processes(device: torch.device) -> int:
    """One per GPU, or one per core up to a maximum."""
    if device.type == "cuda":
        return torch.cuda.device_count() if device.index is None else 1
    return min(os.cpu_count() or 1, MOST_PROCESSES)


def _name(config: EncodeConfig, source: ImageList | RldsFrames, size: Size) -> str:
    """The default folder name, from the main settings."""
    if isinstance(source, RldsFrames):
        split = re.sub(r"\W+", "-", source.split).strip("-")
        name = Path(source.directory).resolve().parent.name
        return f"{name}_{split}_{config.autoencoder}_{_times(size)}"
    mirrored = "_mirror" if config.mirror else ""
    pixels = size if isinstance(size, int) else _times(size)
    return f"{source.root.resolve().name}_{config.autoencoder}_{pixels}{mirrored}"


def _times(size: Size) -> str:
    return "x".join(map(str, sides(size)))


def _line(summary: CacheSummary, output: Path, seconds: float, noun: str = "images") -> str:
    skipped = f" ({summary.skips.text()})" if summary.skips.total else ""
    rate = f", {summary.num_new / seconds:.1f} {noun}/s" if summary.num_new else ", nothing new"
    return (
        f"latents of {summary.num_pictures} {noun} in {output}: {summary.skips.total} skipped"
        f"{skipped}, {summary.num_bytes / 1e6:.1f} MB, {seconds:.1f} s{rate}"
    )


if __name__ == "__main__":
    main()
