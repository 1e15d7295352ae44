"""A toy data set of coloured shapes, drawn on the fly; the class is the shape."""

import os
import shutil
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from selfflow_robotics.autoencoders.latent import PixelLatents
from selfflow_robotics.autoencoders.load import AutoencoderConfig
from selfflow_robotics.data.images import list_images
from selfflow_robotics.data.latents_encode import Encoding, Workers
from selfflow_robotics.data.latents_record import RECORD
from selfflow_robotics.data.latents_writer import write_latents
from selfflow_robotics.errors import UserError
from selfflow_robotics.rng import numpy_generator

SHAPES = ("circle", "cross", "square", "triangle")
SMOOTH = 4  # supersampling factor, for smooth edges


def draw_shape(shape: str, size: int, rng: np.random.Generator) -> np.ndarray:
    """uint8 [size, size, 3]: a bright `shape` of `SHAPES` on a dark background, with random
    colours, position and size from `rng`."""
    side = size * SMOOTH
    ground, colour = rng.integers(0, 90, 3), rng.integers(120, 256, 3)
    radius = side * rng.uniform(0.18, 0.32)
    x, y = rng.uniform(radius, side - radius, 2)
    left, top, right, bottom = x - radius, y - radius, x + radius, y + radius
    picture = Image.new("RGB", (side, side), tuple(ground.tolist()))
    draw, fill = ImageDraw.Draw(picture), tuple(colour.tolist())
    if shape == "circle":
        draw.ellipse((left, top, right, bottom), fill)
    elif shape == "cross":
        arm = radius / 3
        draw.rectangle((left, y - arm, right, y + arm), fill)
        draw.rectangle((x - arm, top, x + arm, bottom), fill)
    elif shape == "square":
        draw.rectangle((left, top, right, bottom), fill)
    elif shape == "triangle":
        draw.polygon(((x, top), (right, bottom), (left, bottom)), fill)
    else:
        raise ValueError(f"unknown shape '{shape}'; available: {', '.join(SHAPES)}")
    return np.asarray(picture.resize((size, size), Image.Resampling.BOX))


MOST_PICTURES, MOST_PX = 1_000_000, 4096


def ensure_shapes(root: Path, num_pictures: int, size: int, seed: int = 0) -> Path:
    """The folder `root/shapes_NUM_SIZEpx_SEED` of PNG files, one subfolder for each of `SHAPES`;
    drawn on first use.

    The k-th image is a function of (seed, k) and shows shape k mod 4. Raises UserError for fewer
    images than shapes, for absurd numbers and sizes, and if the folder cannot be written.
    """
    if num_pictures < len(SHAPES) or size < 8:
        raise UserError(
            f"shapes need at least {len(SHAPES)} images of at least 8 px, got {num_pictures} of "
            f"{size} px"
        )
    if num_pictures > MOST_PICTURES or size > MOST_PX:
        raise UserError(
            f"shapes are limited to {MOST_PICTURES} images of at most {MOST_PX} px, got "
            f"{num_pictures} of {size} px"
        )
    folder = root / f"shapes_{num_pictures}_{size}px_{seed}"
    if folder.is_dir():
        return folder
    unfinished = root / f".{folder.name}.{os.getpid()}.tmp"
    try:
        for shape in SHAPES:
            (unfinished / shape).mkdir(parents=True)
        for number in range(num_pictures):
            shape = SHAPES[number % len(SHAPES)]
            pixels = draw_shape(shape, size, numpy_generator("shape", seed, number))
            Image.fromarray(pixels).save(unfinished / shape / f"{number:06d}.png")
        unfinished.rename(folder)
    except OSError as error:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise UserError(f"cannot write {folder} ({error.strerror}); choose another root") from error
    return folder


def shape_latents(root: Path, num_pictures: int, size: int) -> Path:
    """The latent cache (`data.latents`) of `ensure_shapes`, with pixels as latents; created on
    first use.

    Raises UserError as `ensure_shapes` and `write_latents` do.
    """
    pictures = ensure_shapes(root, num_pictures, size)
    folder = root / f"{pictures.name}_pixel_{size}"
    if not (folder / RECORD).exists():
        write_latents(
            list_images(pictures),
            folder,
            PixelLatents(),
            Workers(AutoencoderConfig("pixel")),
            Encoding(size),
        )
    return folder
