"""Bodies that fall and rise: exact ballistic flights between impacts, without a simulator.

Heights are in metres above the place where the body's lower edge touches, times in seconds.
"""

from dataclasses import dataclass

import numpy as np

GRAVITY = 9.81  # m / s^2
SHORTEST_FLIGHT_S = 0.26  # a lower bounce is left out: the body stays where it is


@dataclass(frozen=True)
class Flight:
    """One arc under constant acceleration, which ends with an impact unless the clip ends."""

    start: float
    height: float  # at its start
    speed: float  # at its start, upwards
    gravity: float = GRAVITY

    @property
    def end(self) -> float:
        """When the height is 0 again."""
        root = np.sqrt(self.speed**2 + 2 * self.gravity * self.height)
        return self.start + float(self.speed + root) / self.gravity

    @property
    def impact_speed(self) -> float:
        return self.gravity * (self.end - self.start) - self.speed

    def height_at(self, t: float) -> float:
        passed = t - self.start
        return self.height + self.speed * passed - self.gravity * passed**2 / 2


def bounces(height: float, start: float, restitution: float, seconds: float) -> list[Flight]:
    """The flights of a body that is let go at `height` at the time `start` and bounces until the
    next flight would be shorter than `SHORTEST_FLIGHT_S`."""
    flights = [Flight(start, height, 0.0)]
    while (last := flights[-1]).end < seconds:
        speed = restitution * last.impact_speed
        if 2 * speed / GRAVITY < SHORTEST_FLIGHT_S:
            break
        flights.append(Flight(last.end, 0.0, speed))
    return flights


def strikes(heights: list[float], times: list[float]) -> list[Flight]:
    """The flights of a hammer that strikes at these `times` and is raised by so much before each.

    The first one begins at time 0 with the hammer raised.
    """
    first = Flight(0.0, heights[0], 0.0, 2 * heights[0] / times[0] ** 2)
    flights = [first]
    for height, start, end in zip(heights[1:], times[:-1], times[1:], strict=True):
        gravity = 8 * height / (end - start) ** 2
        flights.append(Flight(start, 0.0, gravity * (end - start) / 2, gravity))
    return flights


def height_at(flights: list[Flight], t: float) -> float:
    """The height of a body at a time: at rest before its first flight and after its last."""
    if t <= flights[0].start:
        return flights[0].height
    for flight in flights:
        if t < flight.end:
            return max(0.0, flight.height_at(t))
    return 0.0


def impacts(flights: list[Flight], seconds: float) -> list[tuple[float, float]]:
    """(time, speed in m/s) of the impacts within the clip."""
    return [(f.end, f.impact_speed) for f in flights if f.end < seconds]
