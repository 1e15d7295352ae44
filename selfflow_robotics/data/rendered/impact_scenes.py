"""Scenes of impacts: one or two balls that bounce on a floor, or a hammer that strikes a block.

    a small red metal ball bounces on a wooden floor
    a red metal ball and a blue rubber ball bounce on a wooden floor
    a green hammer strikes a large glass block

Motion is exact (`impact_motion`); pictures are drawn from distances, with smooth edges. Bodies have
saturated colours, all else is dull, so that bodies can be found by colour.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from selfflow_robotics.data.rendered.clips import COLOURS
from selfflow_robotics.data.rendered.impact_motion import Flight, bounces, height_at, strikes

Colour = tuple[int, int, int]

GROUND_COLOURS: dict[str, Colour] = {
    "wood": (164, 142, 118),
    "metal": (150, 155, 165),
    "glass": (190, 215, 220),
    "rubber": (60, 60, 65),
}
ADJECTIVES = {"wood": "wooden", "metal": "metal", "glass": "glass", "rubber": "rubber"}
RESTITUTION = {"wood": 0.7, "metal": 0.78, "glass": 0.74, "rubber": 0.84}  # of a ball
SIZES = {"small": 0.8, "large": 1.5}  # of what rings, as in `impact_sounds`
WALLS: tuple[Colour, ...] = ((236, 236, 232), (214, 216, 220))
TABLE: Colour = (105, 100, 95)  # below a block
HANDLE: Colour = (85, 75, 65)
HIGHEST = 0.75  # m, of the lower edge of a body
TRIES = 20  # of which the one counts whose impacts are furthest apart

Kind = tuple[str, str, str]  # (colour, material, ground); the ground of a hammer is "block"


@dataclass(frozen=True)
class Body:
    """What moves. Lengths in shares of the picture's height."""

    colour: str
    material: str  # of the ball, or of the block that a hammer strikes
    size: str
    flights: list[Flight]
    x: float  # of its middle at time 0, in shares of the picture's width
    drift: float  # widths per second

    @property
    def radius(self) -> float:
        return {"small": 0.1, "large": 0.14}[self.size]


@dataclass(frozen=True)
class Scene:
    """What a clip shows and says."""

    ground: str  # a material, or "block"
    bodies: tuple[Body, ...]
    wall: Colour

    @property
    def is_hammer(self) -> bool:
        return self.ground == "block"

    @property
    def captions(self) -> list[str]:
        """The full caption, and shorter ones."""
        if self.is_hammer:
            (body,) = self.bodies
            block = f"{ADJECTIVES[body.material]} block"
            return [
                f"a {body.colour} hammer strikes a {body.size} {block}",
                f"a {body.colour} hammer strikes a {block}",
                f"a hammer strikes {body.material}",
            ]
        floor, words = f"{ADJECTIVES[self.ground]} floor", [_ball(b) for b in self.bodies]
        if len(self.bodies) == 2:
            return [
                f"a {words[0]} and a {words[1]} bounce on a {floor}",
                f"a {words[0]} and a {words[1]} bounce",
                f"two balls bounce on a {floor}",
            ]
        return [
            f"a {self.bodies[0].size} {words[0]} bounces on a {floor}",
            f"a {words[0]} bounces on a {floor}",
            f"a {ADJECTIVES[self.bodies[0].material]} ball bounces",
        ]


def _ball(body: Body) -> str:
    return f"{body.colour} {ADJECTIVES[body.material]} ball"


def draw_scene(
    kind: Kind, others: Sequence[Kind], seconds: float, rng: np.random.Generator
) -> Scene:
    """A scene with a body of this kind, and perhaps one of `others` on the same ground."""
    wall = WALLS[rng.integers(len(WALLS))]
    if kind[2] == "block":
        return Scene("block", (_hammer(kind, seconds, rng),), wall)
    fitting = [other for other in others if other[2] == kind[2] and other[0] != kind[0]]
    if not fitting or rng.random() < 0.6:
        place = rng.uniform(0.3, 0.7)
        return Scene(kind[2], (_falling(kind, place, seconds, rng),), wall)
    second = fitting[rng.integers(len(fitting))]
    places = rng.permutation([rng.uniform(0.2, 0.32), rng.uniform(0.68, 0.8)])
    pairs = [
        tuple(
            _falling(each, x, seconds, rng) for each, x in zip((kind, second), places, strict=True)
        )
        for _ in range(TRIES)
    ]
    return Scene(kind[2], max(pairs, key=_least_gap), wall)


def _least_gap(bodies: tuple[Body, ...]) -> float:
    """The shortest time between two impacts."""
    return float(np.diff(sorted(f.end for body in bodies for f in body.flights)).min())


def _falling(kind: Kind, x: float, seconds: float, rng: np.random.Generator) -> Body:
    colour, material, ground = kind
    size = list(SIZES)[rng.integers(len(SIZES))]
    restitution = RESTITUTION[material] * (0.85 if ground == "rubber" else 1.0)
    height, start = rng.uniform(0.45, HIGHEST), rng.uniform(0, 0.35)
    flights = bounces(height, start, restitution, seconds)
    return Body(colour, material, size, flights, x, rng.uniform(-0.05, 0.05))


def _hammer(kind: Kind, seconds: float, rng: np.random.Generator) -> Body:
    colour, material, _ = kind
    size = list(SIZES)[rng.integers(len(SIZES))]
    times = [float(rng.uniform(0.3, 0.6))]
    for gap in rng.uniform(0.4, 0.7, rng.integers(1, 4)):
        times.append(times[-1] + float(gap))
    heights = [float(h) for h in rng.uniform(0.25, 0.4, len(times))]
    return Body(colour, material, size, strikes(heights, times), rng.uniform(0.3, 0.4), 0.0)


def render(scene: Scene, t: float, image_size: tuple[int, int]) -> np.ndarray:
    """The picture at a time (s): uint8 [H, W, 3]."""
    height, width = image_size
    y, x = np.mgrid[:height, :width] + 0.5  # px
    picture = np.broadcast_to(np.array(scene.wall, float), (height, width, 3)).copy()
    floor = 0.86 * height  # its upper edge
    _paint(picture, y - floor, TABLE if scene.is_hammer else GROUND_COLOURS[scene.ground])
    if scene.is_hammer:
        (body,) = scene.bodies
        top = floor - height * (0.14 if body.size == "small" else 0.22)
        half = width * (0.1 if body.size == "small" else 0.16)
        inside = np.minimum(half - np.abs(x - body.x * width), np.minimum(y - top, floor - y))
        _paint(picture, inside, GROUND_COLOURS[body.material])
        _draw_hammer(picture, x, y, body, t, top, floor)
        return picture.round().astype(np.uint8)
    for body in scene.bodies:
        radius = body.radius * height
        scale = (floor - 2 * 0.14 * height - 1) / HIGHEST  # px per m
        middle = (
            (body.x + body.drift * t) * width,
            floor - radius - scale * height_at(body.flights, t),
        )
        _draw_ball(picture, x, y, body, middle, radius)
    return picture.round().astype(np.uint8)


def _draw_ball(
    picture: np.ndarray,
    x: np.ndarray,
    y: np.ndarray,
    body: Body,
    middle: tuple[float, float],
    radius: float,
) -> None:
    """A disc whose surface tells the material: a highlight, a bright inside, or dark rings."""
    colour = np.array(COLOURS[body.colour], float)
    dx, dy = x - middle[0], y - middle[1]
    distance = np.hypot(dx, dy)
    _paint(picture, radius - distance, colour)
    if body.material == "wood":
        _paint(picture, 0.12 * radius - np.abs(distance - 0.55 * radius), 0.65 * colour)
    if body.material == "glass":
        _paint(picture, 0.6 * radius - distance, 0.6 * colour + 0.4 * 255)
    if body.material == "metal":
        _paint(picture, 0.3 * radius - np.hypot(dx + 0.4 * radius, dy + 0.4 * radius), (255,) * 3)


def _draw_hammer(
    picture: np.ndarray,
    x: np.ndarray,
    y: np.ndarray,
    body: Body,
    t: float,
    top: float,
    floor: float,
) -> None:
    """A head that moves up and down, and a handle to a hand at the right edge."""
    height, width = y.shape
    half_width, half_height = 0.12 * height, 0.1 * height
    room = top - 2 * half_height - 1
    lifted = room * height_at(body.flights, t) / 0.4
    middle_x, middle_y = body.x * width, top - half_height - lifted
    hand_x, hand_y = width, top - half_height - 0.3 * lifted
    along = ((x - middle_x) * (hand_x - middle_x) + (y - middle_y) * (hand_y - middle_y)) / (
        (hand_x - middle_x) ** 2 + (hand_y - middle_y) ** 2
    )
    along = along.clip(0, 1)
    off = np.hypot(
        x - middle_x - along * (hand_x - middle_x), y - middle_y - along * (hand_y - middle_y)
    )
    _paint(picture, 0.03 * height - off, HANDLE)
    inside = np.minimum(half_width - np.abs(x - middle_x), half_height - np.abs(y - middle_y))
    _paint(picture, inside, COLOURS[body.colour])


def _paint(picture: np.ndarray, inside: np.ndarray, colour: Sequence[float] | np.ndarray) -> None:
    """Blend in a colour where `inside`, the distance in px from the edge, is above 0."""
    share = (inside + 0.5).clip(0, 1)[..., None]
    picture += share * (np.asarray(colour, float) - picture)
