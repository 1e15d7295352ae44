"""Render a captioned data set, so that text to image or video can be trained without a download.

    python pretrain/render.py                                  # words, 20 000 images
    python pretrain/render.py set=clips                        # moving objects, 4000 clips
    python pretrain/render.py set=impacts                      # films with sound, 4000 clips
    python pretrain/render.py num_images=2000 output=datasets/few words.fonts=[aileron]
    python pretrain/render.py ocr_images=500                   # how well OCR reads the images
    python pretrain/render.py experiment=debug                 # seconds

set=words: three-letter words in several fonts, sizes and colours, with captions such as 'the word
"cat" in red on a white background' and shorter ones. Words that are held out for evaluation are
never in the training images. The fonts come with Pillow and matplotlib (the extra "fonts").

set=clips: short clips of one or two coloured objects that move, bounce, rest or pass behind a
pillar, with captions such as 'a red disc moves right and a blue square stays still, on a light
background'. NAME.visible.json says how much of each object is visible in each frame.
Combinations of objects that are held out are never in the training clips.

set=impacts: short films with sound, of balls that bounce and hammers that strike, with captions
such as 'a small red metal ball bounces on a wooden floor'. NAME.contacts.json says when bodies
touch. Combinations of colour and materials that are held out are never in the training films.

The result is OUTPUT/train and OUTPUT/held_out (tar shards of images in WebDataset's layout, or
NAME.mp4 with NAME.txt, for pretrain/encode.py), prompts for eval/generation.py or eval/media.py
(OUTPUT/held_out.txt, train.txt) and OUTPUT/preview.png. Sample k is a function of (seed, k). An
interrupted command starts again.
"""

import io
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from selfflow_robotics.cli.app import Flag, hydra_app
from selfflow_robotics.commands import command
from selfflow_robotics.data.rendered.clips import ClipsConfig, RenderedClips
from selfflow_robotics.data.rendered.impacts import ImpactsConfig, RenderedImpacts
from selfflow_robotics.data.rendered.words import RenderedWords, WordsConfig
from selfflow_robotics.data.rendered.write import RenderedSet, write_set
from selfflow_robotics.errors import UserError, check_least
from selfflow_robotics.evaluation.ocr import open_reader, read_images, score_text, text_line
from selfflow_robotics.evaluation.results import write_report, writing
from selfflow_robotics.evaluation.video import write_grid
from selfflow_robotics.rng import check_seed

MOST_IMAGES = 10_000_000
SHOWN, COLUMNS = 32, 8  # images of the preview
SHOWN_CLIPS = 12
COUNTS = {  # for training, held out
    "words": (20_000, 1000),
    "clips": (4000, 200),
    "impacts": (4000, 200),
}


@dataclass(frozen=True)
class RenderConfig:
    set: Literal["words", "clips", "impacts"] = "words"
    output: str | None = None
    root: str = "datasets"
    num_images: int | None = None
    num_held_out: int | None = None
    shard_size: int = 1000
    seed: int = 0
    ocr_images: int = 0
    words: WordsConfig = field(default_factory=WordsConfig)
    clips: ClipsConfig = field(default_factory=ClipsConfig)
    impacts: ImpactsConfig = field(default_factory=ImpactsConfig)

    def __post_init__(self) -> None:
        check_least(self, 1, "num_images", "num_held_out", "shard_size")
        check_least(self, 0, "ocr_images")
        if max(self.counts.values()) > MOST_IMAGES:
            raise UserError(f"a set has at most {MOST_IMAGES} images")
        check_seed(self.seed)
        if self.ocr_images and self.set != "words":
            raise UserError(f"ocr_images is for set=words; set={self.set} has no text")

    @property
    def counts(self) -> dict[str, int]:
        """Samples of each split."""
        train, held_out = COUNTS[self.set]
        return {
            "train": train if self.num_images is None else self.num_images,
            "held_out": held_out if self.num_held_out is None else self.num_held_out,
        }


@hydra_app(
    "render",
    RenderConfig,
    flags=(Flag("--output", literal=True, help="folder of the set; by default root/SET"),),
)
def main(config: RenderConfig) -> None:
    folder = Path(config.output or Path(config.root) / config.set)
    settings = {"seed": config.seed, config.set: asdict(getattr(config, config.set))}
    drawn = open_set(config)
    shard_size = config.shard_size if config.set == "words" else None
    known = write_set(drawn, folder, config.set, config.counts, shard_size, settings)
    if not known:
        with writing(folder):
            write_grid(folder / "preview.png", *preview(drawn))
    facts = ", ".join(f"{count} {name}" for name, count in drawn.record().items())
    train, held_out = config.counts.values()
    print(
        f"{train} samples for training and {held_out} held out "
        f"({config.set}: {facts}){', already' if known else ''} in {folder}"
    )
    if config.ocr_images:
        images, prompts = images_of(drawn, "held_out", config.ocr_images)
        rows = read_images(images, prompts, open_reader())
        score = score_text(rows)
        with writing(folder):
            write_report(folder / "ocr.json", {**score, "images": rows})
        print(f"OCR of rendered images: {text_line(score)}")
    height, width = getattr(config, config.set).image_size
    what = "captions=true"
    if config.set != "words":
        shape = getattr(config, config.set)
        what = f"media=clips clip.frames={shape.frames} clip.fps={shape.fps:g}"
    if config.set == "impacts":
        what = what.replace("clips", "films") + f" sound.seconds={config.impacts.seconds:g}"
    print(
        f"next: {command('pretrain/encode.py')} --data {folder}/train {what} "
        f"autoencoder=pixel image_size=[{height},{width}] --output latents/{folder.name}"
    )


def open_set(config: RenderConfig) -> RenderedWords | RenderedClips | RenderedImpacts:
    """Raises UserError as the sets do."""
    sets = {"words": RenderedWords, "clips": RenderedClips, "impacts": RenderedImpacts}
    return sets[config.set](getattr(config, config.set), config.seed)


def preview(drawn: RenderedWords | RenderedClips | RenderedImpacts) -> tuple[np.ndarray, int]:
    """Frames uint8 [N, H, W, 3] and how many fill a row: images, or one clip per row."""
    if isinstance(drawn, RenderedWords):
        return images_of(drawn, "train", SHOWN)[0], COLUMNS
    clips = [drawn.frames("train", number) for number in range(SHOWN_CLIPS)]
    return np.concatenate(clips), len(clips[0])


def images_of(drawn: RenderedSet, split: str, count: int) -> tuple[np.ndarray, list[str]]:
    """The first images of a split, uint8 [N, H, W, 3], and their full captions."""
    samples = [drawn.sample(split, number) for number in range(count)]
    images = [np.asarray(Image.open(io.BytesIO(files[".png"]))) for files in samples]
    return np.stack(images), [json.loads(files[".json"])[0] for files in samples]


if __name__ == "__main__":
    main()
