"""Open the input of an image network: latents, with labels or captions."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from selfflow_robotics.batch import Words
from selfflow_robotics.cli.job import Job
from selfflow_robotics.data.captions import draw_captions
from selfflow_robotics.data.latents import LatentBatch, LatentReader
from selfflow_robotics.data.shapes import shape_latents
from selfflow_robotics.errors import UserError
from selfflow_robotics.modalities.latents import ImageLatents
from selfflow_robotics.models.presets import ImageConfig
from selfflow_robotics.models.text import TextConfig, check_texts
from selfflow_robotics.text.encoder import TextEncoderConfig
from selfflow_robotics.text.store import TextStore
from selfflow_robotics.training.distributed import Ranks


def open_latents(data: str | None, shapes: tuple[Path, int, int], captions: bool) -> LatentReader:
    """The cache `data`, or that of `data.shapes.shape_latents`, which is made if need be.

    Raises UserError as they do, and if it has captions and is not asked for them, or the other way
    round.
    """
    reader = LatentReader(data or shape_latents(*shapes))
    if captions and not reader.captioned:
        raise UserError(
            f"{reader.folder} has no captions; encode the images with captions=true (the set of "
            "pretrain/render.py has captions), or train on labels with captions=false"
        )
    if reader.captioned and not captions:
        raise UserError(f"{reader.folder} has captions instead of labels; train with captions=true")
    return reader


@dataclass(frozen=True)
class ImageInput:
    """What an image network reads, and how."""

    reader: LatentReader
    codec: ImageLatents  # without its autoencoder
    text: TextConfig | None  # of captions; None: the network reads labels
    texts: TextStore | None  # the frozen encoder of captions; None: the network reads bytes

    @property
    def fingerprints(self) -> dict[str, str]:
        """Of what a run depends on, see `cli.runs.continue_run`."""
        text = {} if self.texts is None else {"text": self.texts.fingerprint}
        return self.reader.fingerprints | text

    def batch(
        self, rows: Sequence[int], ranks: Ranks, seed: int, step: int
    ) -> tuple[LatentBatch, Words | None]:
        """This process's part of the batch of these rows, with a caption for each, if any, drawn
        from (seed, step)."""
        places = ranks.share(range(len(rows)))
        mine = [rows[place] for place in places]
        latents = self.reader.read(mine)
        if self.text is None:
            return latents, None
        words = draw_captions(self.reader.captions(mine), places, len(rows), seed, step)
        return latents, words if self.texts is None else self.texts.embed(words)


def open_image_input(
    reader: LatentReader, model: ImageConfig, text: TextEncoderConfig, job: Job
) -> ImageInput:
    """Raises UserError for latents that do not divide into patches, captions that are too long, and
    a text encoder that is missing or has nothing to read."""
    if text.encoder != "bytes" and not reader.captioned:
        raise UserError(f"text.encoder={text.encoder} is for captions (captions=true)")
    codec = reader.codec(model.patch)
    if not reader.captioned:
        return ImageInput(reader, codec, None, None)
    captions = reader.all_captions()
    if text.encoder == "bytes":
        check_texts(captions, model.text_bytes)
        return ImageInput(reader, codec, model.byte_text(), None)
    store = TextStore.make(text, (), job.run)
    store.check(captions)
    return ImageInput(reader, codec, TextConfig("embeddings", channels=store.channels), store)
