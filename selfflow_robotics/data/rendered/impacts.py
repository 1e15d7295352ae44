"""Rendered impacts: short films with sound, of balls that bounce and hammers that strike.

    000000.mp4             frames, lossless
    000000.wav             what is heard, 16 bits, 16 kHz
    000000.txt             captions, the full one first
    000000.contacts.json   when what touches what, and how fast; only for tests

What is seen and heard follow from the same impacts: a sound begins when bodies touch, is louder the
faster they meet, and rings as their materials and sizes do (`impact_sounds`). Whether a combination
of colour, material and ground is held out from training depends on the combination alone: training
has none of these, and every held-out film has one.
"""

import json
from dataclasses import dataclass
from itertools import product
from typing import Any, NamedTuple

import numpy as np

from selfflow_robotics.data.films import lossless_mp4, wav_bytes
from selfflow_robotics.data.rendered.clips import COLOURS
from selfflow_robotics.data.rendered.impact_motion import impacts
from selfflow_robotics.data.rendered.impact_scenes import (
    SIZES,
    Kind,
    Scene,
    draw_scene,
    render,
)
from selfflow_robotics.data.rendered.impact_sounds import MATERIALS, SAMPLE_RATE, impact_sound
from selfflow_robotics.errors import UserError, check_least
from selfflow_robotics.rng import numpy_generator


@dataclass(frozen=True)
class ImpactsConfig:
    """What the films look like."""

    frames: int = 25
    fps: float = 12.5
    image_size: tuple[int, int] = (48, 64)  # (height, width) px
    held_out: float = 0.15  # share of the combinations

    def __post_init__(self) -> None:
        check_least(self, 2, "frames", prefix="impacts.")
        if not 1 <= self.fps <= 120:
            raise UserError(f"impacts.fps must be from 1 to 120, got {self.fps}")
        if not all(24 <= px <= 1024 and px % 2 == 0 for px in self.image_size):
            raise UserError(
                f"impacts.image_size must be even, from 24 to 1024 px, got {self.image_size}"
            )
        if not 0 < self.held_out < 1:
            raise UserError(f"impacts.held_out must be above 0 and below 1, got {self.held_out}")

    @property
    def seconds(self) -> float:
        return self.frames / self.fps


class Contact(NamedTuple):
    """An impact: its time in s, its speed in m/s, and the body's number in the scene."""

    time: float
    speed: float
    body: int


class Film(NamedTuple):
    """A rendered film."""

    frames: np.ndarray  # uint8 [T, H, W, 3]; frame k is the picture at k / fps
    sound: np.ndarray  # float32 [samples] in [-1, 1], at `SAMPLE_RATE`
    contacts: list[Contact]  # in the order of their times


class RenderedImpacts:
    """As `data.rendered.write.RenderedSet`."""

    def __init__(self, config: ImpactsConfig, seed: int) -> None:
        """Raises UserError if a split has no combinations."""
        self._config, self._seed = config, seed
        self._kinds: dict[str, list[Kind]] = {"train": [], "held_out": []}
        for kind in all_kinds():
            held_out = numpy_generator("held-out impact", *kind).random() < config.held_out
            self._kinds["held_out" if held_out else "train"].append(kind)
        for split, kinds in self._kinds.items():
            if not kinds:
                raise UserError(
                    f"no combinations are left for {split}; choose another impacts.held_out"
                )

    def scene(self, split: str, number: int) -> Scene:
        """A function of (seed, split, number)."""
        rng = numpy_generator("rendered impact", self._seed, split, number)
        kinds = self._kinds[split]
        return self._scene(kinds[rng.integers(len(kinds))], rng)

    def _scene(self, kind: Kind, rng: np.random.Generator) -> Scene:
        return draw_scene(kind, self._kinds["train"], self._config.seconds, rng)

    def film(self, split: str, number: int) -> Film:
        """The film of a scene."""
        rng = numpy_generator("impact sounds", self._seed, split, number)
        return make_film(self.scene(split, number), self._config, rng)

    def frames(self, split: str, number: int) -> np.ndarray:
        """The frames of a scene, uint8 [T, H, W, 3]."""
        return draw_frames(self.scene(split, number), self._config)

    def sample(self, split: str, number: int) -> dict[str, bytes]:
        """The files of a sample by suffix."""
        scene, film = self.scene(split, number), self.film(split, number)
        contacts = [
            {"time": round(time, 6), "speed": round(speed, 4), "body": body}
            for time, speed, body in film.contacts
        ]
        return {
            ".mp4": lossless_mp4(film.frames, self._config.fps),
            ".wav": wav_bytes(film.sound, SAMPLE_RATE),
            ".txt": ("\n".join(scene.captions) + "\n").encode(),
            ".contacts.json": (json.dumps(contacts) + "\n").encode(),
        }

    def prompts(self, split: str) -> list[str]:
        """A full caption for each combination of a split, in random order."""
        rng = numpy_generator("prompts of impacts", self._seed, split)
        kinds = self._kinds[split]
        return [self._scene(kinds[n], rng).captions[0] for n in rng.permutation(len(kinds))]

    def record(self) -> dict[str, Any]:
        """How many combinations there are."""
        return {split: len(kinds) for split, kinds in self._kinds.items()}


def all_kinds() -> list[Kind]:
    """(colour, material, ground) of every ball and of every hammer with its block."""
    return list(product(COLOURS, MATERIALS, (*MATERIALS, "block")))


def make_film(scene: Scene, config: ImpactsConfig, rng: np.random.Generator) -> Film:
    """Frames, sound and contacts of a scene; `rng` is for the points that are hit."""
    contacts = sorted(
        Contact(time, speed, number)
        for number, body in enumerate(scene.bodies)
        for time, speed in impacts(body.flights, config.seconds)
    )
    sound = np.zeros(round(config.seconds * SAMPLE_RATE))
    for time, speed, number in contacts:
        body = scene.bodies[number]
        ground = "wood" if scene.is_hammer else scene.ground
        hit = impact_sound(body.material, ground, SIZES[body.size], speed, rng)
        place = round(time * SAMPLE_RATE)
        heard = hit[: len(sound) - place]
        sound[place : place + len(heard)] += heard
    return Film(draw_frames(scene, config), sound.astype(np.float32).clip(-1, 1), contacts)


def draw_frames(scene: Scene, config: ImpactsConfig) -> np.ndarray:
    """The frames of a scene, uint8 [T, H, W, 3]."""
    times = np.arange(config.frames) / config.fps
    return np.stack([render(scene, float(t), config.image_size) for t in times])
