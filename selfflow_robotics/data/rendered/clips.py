"""Rendered clips: one or two coloured objects that move, bounce, rest, or pass behind a pillar.

    a red disc moves right and a blue square stays still, on a light background

Objects never leave the picture and never cover each other; only the pillar hides them. Whether a
combination of objects is held out from training depends on the combination alone.
"""

import json
from dataclasses import dataclass
from itertools import combinations, product
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from selfflow_robotics.data.films import lossless_mp4
from selfflow_robotics.errors import UserError, check_least
from selfflow_robotics.rng import numpy_generator

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (215, 30, 35),
    "green": (25, 150, 50),
    "blue": (35, 60, 215),
    "yellow": (245, 215, 30),
    "purple": (140, 40, 160),
}
SHAPES = ("disc", "square", "triangle")
GROUNDS = {"light": (228, 228, 228), "dark": (30, 30, 30)}
PILLAR = (128, 128, 128)
HIDING = ("passes behind a grey pillar to the left", "passes behind a grey pillar to the right")
STILL = "stays still"
MOTIONS = ("moves left", "moves right", "bounces off the left side", "bounces off the right side")
SMOOTH = 4  # supersampling factor, for smooth edges

Kind = tuple[str, str]  # (colour, shape) of an object


@dataclass(frozen=True)
class ClipsConfig:
    """What the clips look like."""

    frames: int = 13
    fps: float = 8.0
    image_size: tuple[int, int] = (32, 48)  # (height, width) px
    held_out: float = 0.1  # share of the combinations of objects

    def __post_init__(self) -> None:
        check_least(self, 2, "frames", prefix="clips.")
        if not 0.1 <= self.fps <= 120:
            raise UserError(f"clips.fps must be from 0.1 to 120, got {self.fps}")
        if not all(16 <= px <= 1024 and px % 2 == 0 for px in self.image_size):
            raise UserError(
                f"clips.image_size must be even, from 16 to 1024 px, got {self.image_size}"
            )
        if not 0 < self.held_out < 1:
            raise UserError(f"clips.held_out must be above 0 and below 1, got {self.held_out}")


@dataclass(frozen=True)
class Thing:
    """An object and its motion: the centre (x, y) in each frame, in px."""

    colour: str
    shape: str
    motion: str
    places: np.ndarray  # [T, 2]

    @property
    def words(self) -> str:
        return f"a {self.colour} {self.shape}"


@dataclass(frozen=True)
class Scene:
    """What a clip shows."""

    ground: str
    things: tuple[Thing, ...]
    pillar: tuple[float, float] | None  # left and right edge in px

    @property
    def captions(self) -> list[str]:
        """The full caption, and shorter ones."""
        moving = " and ".join(f"{thing.words} {thing.motion}" for thing in self.things)
        return [
            f"{moving}, on a {self.ground} background",
            moving,
            " and ".join(thing.words for thing in self.things),
        ]


class RenderedClips:
    """As `data.rendered.write.RenderedSet`."""

    def __init__(self, config: ClipsConfig, seed: int) -> None:
        """Raises UserError if a split has no combinations."""
        self._config, self._seed = config, seed
        self._kinds: dict[str, list[tuple[Kind, ...]]] = {"train": [], "held_out": []}
        for kinds in all_combinations():
            names = [word for kind in kinds for word in kind]
            held_out = numpy_generator("held-out objects", *names).random() < config.held_out
            self._kinds["held_out" if held_out else "train"].append(kinds)
        for split, found in self._kinds.items():
            if not found:
                raise UserError(f"no objects are left for {split}; choose another clips.held_out")

    def scene(self, split: str, number: int) -> Scene:
        """A function of (seed, split, number)."""
        rng = numpy_generator("rendered clip", self._seed, split, number)
        kinds = self._kinds[split]
        return draw_scene(kinds[rng.integers(len(kinds))], self._config, rng)

    def frames(self, split: str, number: int) -> np.ndarray:
        """The clip of a scene, uint8 [T, H, W, 3]."""
        return render(self.scene(split, number), self._config)[0]

    def sample(self, split: str, number: int) -> dict[str, bytes]:
        """The files of a sample by suffix: the clip, captions, and how much of each object is
        visible in each frame (0 to 1)."""
        scene = self.scene(split, number)
        frames, visible = render(scene, self._config)
        record = {
            "objects": [
                {"colour": thing.colour, "shape": thing.shape, "motion": thing.motion}
                | {"visible": [round(float(share), 3) for share in shares]}
                for thing, shares in zip(scene.things, visible, strict=True)
            ],
            "pillar": scene.pillar is not None,
        }
        return {
            ".mp4": lossless_mp4(frames, self._config.fps),
            ".txt": ("\n".join(scene.captions) + "\n").encode(),
            ".visible.json": (json.dumps(record) + "\n").encode(),
        }

    def prompts(self, split: str) -> list[str]:
        """A full caption for each combination of objects of a split, in random order."""
        rng = numpy_generator("prompts of clips", self._seed, split)
        kinds = self._kinds[split]
        return [
            draw_scene(kinds[place], self._config, rng).captions[0]
            for place in rng.permutation(len(kinds))
        ]

    def record(self) -> dict[str, Any]:
        """How many combinations of objects there are."""
        return {split: len(kinds) for split, kinds in self._kinds.items()}


def all_combinations() -> list[tuple[Kind, ...]]:
    """One object, or two of different colours."""
    kinds = list(product(COLOURS, SHAPES))
    pairs = [(one, other) for one, other in combinations(kinds, 2) if one[0] != other[0]]
    return [*((kind,) for kind in kinds), *pairs]


def draw_scene(kinds: tuple[Kind, ...], config: ClipsConfig, rng: np.random.Generator) -> Scene:
    """A scene with these objects, each in a lane of its own."""
    height, width = config.image_size
    radius = _radius(config)
    has_pillar = rng.random() < 0.4
    centre, half = width * rng.uniform(0.4, 0.6), 1.3 * radius
    pillar = (centre - half, centre + half) if has_pillar else None
    lanes = rng.permutation(len(kinds))
    hides = rng.integers(len(kinds))  # at least one object passes behind the pillar
    things = []
    for number, (colour, shape) in enumerate(kinds):
        lane = height / len(kinds)
        y = lane * (lanes[number] + 0.5) + rng.uniform(-1, 1) * max(0.0, lane / 2 - radius - 1)
        choices = (*HIDING, *(() if number == hides else (STILL,)))
        if not has_pillar:
            choices = (*MOTIONS, STILL)
        motion = choices[rng.integers(len(choices))]
        x = _path(motion, (radius + 1, width - radius - 1), pillar, config.frames, rng)
        things.append(Thing(colour, shape, motion, np.stack([x, np.full_like(x, y)], axis=1)))
    order = rng.permutation(len(things))
    ground = list(GROUNDS)[rng.integers(len(GROUNDS))]
    return Scene(ground, tuple(things[place] for place in order), pillar)


def _radius(config: ClipsConfig) -> float:
    return 0.16 * config.image_size[0]


def _path(
    motion: str,
    inside: tuple[float, float],
    pillar: tuple[float, float] | None,
    frames: int,
    rng: np.random.Generator,
) -> np.ndarray:
    """x of each frame [T], within `inside`."""
    low, high = inside
    along = np.linspace(0, 1, frames)
    if motion == STILL and pillar is not None:  # beside it
        room = rng.uniform(0, max(0.0, pillar[0] - 2 * low))
        x = np.full(frames, low + room)
    elif motion == STILL:
        x = np.full(frames, rng.uniform(low, high))
    elif motion in HIDING:
        x = low + (high - low) * along
    elif motion in MOTIONS[:2]:
        length = (high - low) * rng.uniform(0.4, 1.0)
        x = low + rng.uniform(0, high - low - length) + length * along
    else:  # to the right side and back
        back, speed = rng.uniform(0.35, 0.65), (high - low) * rng.uniform(1.0, 1.8)
        x = np.maximum(high - speed * np.abs(along - back), low)
    return low + high - x if "left" in motion else x


def render(scene: Scene, config: ClipsConfig) -> tuple[np.ndarray, np.ndarray]:
    """Frames uint8 [T, H, W, 3], and the visible share of each object in each frame [N, T]."""
    height, width = (side * SMOOTH for side in config.image_size)
    radius = _radius(config) * SMOOTH
    frames, shares = [], []
    for number in range(config.frames):
        picture = Image.new("RGB", (width, height), GROUNDS[scene.ground])
        masks = []
        for thing in scene.things:
            mask = Image.new("L", (width, height), 0)
            x, y = thing.places[number] * SMOOTH
            _draw(ImageDraw.Draw(mask), thing.shape, x, y, radius)
            picture.paste(COLOURS[thing.colour], mask=mask)
            masks.append(np.asarray(mask) > 0)
        seen = np.ones((height, width), bool)
        if scene.pillar is not None:
            left, right = (round(edge * SMOOTH) for edge in scene.pillar)
            ImageDraw.Draw(picture).rectangle((left, 0, right, height), PILLAR)
            seen[:, max(0, left) : right + 1] = False
        shares.append([(mask & seen).sum() / max(1, mask.sum()) for mask in masks])
        small = picture.resize((width // SMOOTH, height // SMOOTH), Image.Resampling.BOX)
        frames.append(np.asarray(small))
    return np.stack(frames), np.array(shares).T


def _draw(draw: ImageDraw.ImageDraw, shape: str, x: float, y: float, radius: float) -> None:
    box = (x - radius, y - radius, x + radius, y + radius)
    if shape == "disc":
        draw.ellipse(box, 255)
    elif shape == "square":
        side = 0.88 * radius  # about the same area
        draw.rectangle((x - side, y - side, x + side, y + side), 255)
    else:
        draw.polygon(((x, box[1]), (box[2], box[3]), (box[0], box[3])), 255)
