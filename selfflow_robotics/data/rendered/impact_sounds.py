"""The sound of impacts: damped modes of the materials that meet, and a short click.

Modal synthesis (van den Doel, Kry & Pai, "FoleyAutomatic", SIGGRAPH 2001): a struck body rings in
sinusoids that decay exponentially. The materials' numbers are plausible, not measured.
"""

from dataclasses import dataclass

import numpy as np

SAMPLE_RATE = 16_000
LOUDEST_SPEED = 4.0  # m/s: an impact at this speed has amplitude `LOUDEST`
LOUDEST = 0.8
GROUND_SHARE = 0.35  # how loud the ground is beside the body
CLICK_S = 0.003


@dataclass(frozen=True)
class Material:
    """How a body of size 1 rings."""

    frequency: float  # Hz of the lowest mode
    ratios: tuple[float, ...]  # frequencies of all modes, divided by the lowest
    decay: float  # s until the lowest mode is 60 dB down
    damping: float  # how much faster higher modes decay
    tilt: float  # amplitude of a mode: ratio ** -tilt
    click: float  # amplitude of the click


MATERIALS = {
    "wood": Material(420, (1, 2.57, 4.95, 7.3), 0.16, 0.5, 0.9, 0.5),
    "metal": Material(1050, (1, 1.61, 2.76, 3.87, 5.4), 0.9, 0.12, 0.5, 0.4),
    "glass": Material(2300, (1, 1.52, 2.13, 2.9), 0.4, 0.2, 0.4, 0.7),
    "rubber": Material(140, (1, 1.9, 3.1), 0.09, 0.3, 1.3, 0.1),
}


def impact_sound(
    body: str, ground: str, size: float, speed: float, rng: np.random.Generator
) -> np.ndarray:
    """float64 [samples]: one impact that begins at sample 0.

    Args:
        body, ground: names in `MATERIALS`.
        size: of the body; twice the size is an octave lower.
        speed: of the impact in m/s; the amplitude is proportional to it.
        rng: the phases and the strength of the modes, which depend on the point that is hit.
    """
    parts = [
        _ringing(MATERIALS[body], size, rng),
        GROUND_SHARE * _ringing(MATERIALS[ground], 2.5, rng),
    ]
    sound = np.zeros(max(len(part) for part in parts))
    for part in parts:
        sound[: len(part)] += part
    return sound * LOUDEST * speed / LOUDEST_SPEED / (1 + GROUND_SHARE)


def _ringing(material: Material, size: float, rng: np.random.Generator) -> np.ndarray:
    """Peaks below 1 + the click's amplitude."""
    t = np.arange(round(1.2 * material.decay * SAMPLE_RATE)) / SAMPLE_RATE
    ratios = np.array(material.ratios)
    frequencies = ratios * material.frequency / size
    audible = frequencies < 0.45 * SAMPLE_RATE
    strengths = ratios**-material.tilt * rng.uniform(0.6, 1.0, len(ratios))
    strengths = np.where(audible, strengths, 0.0) / strengths.sum()
    rates = np.log(1000) / material.decay * (1 + material.damping * (ratios - 1))
    phases = 2 * np.pi * frequencies * t[:, None]  # sines, so that it begins without a jump
    sound = (strengths * np.exp(-rates * t[:, None]) * np.sin(phases)).sum(1)
    click = rng.standard_normal(round(CLICK_S * SAMPLE_RATE)) / 3
    sound[: len(click)] += material.click * click * np.linspace(1, 0, len(click)) ** 2
    return sound
