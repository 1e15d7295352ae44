"""Is an impact heard when it is seen? For films like those of `data.rendered.impacts`.

No labels are needed. Seen: bodies are found by colour, and an impact is where a body's fall ends.
Heard: the energy rises in some band. A seen impact is matched if something is heard within one
frame of it; what is heard without being seen is spurious. Neither counts at the edges of a film,
where the motion before or after it cannot be seen. Sounds of other films also match many impacts by
chance, but hardly ever all of a film's: so films are counted too.
"""

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import ndimage

from selfflow_robotics.evaluation.persistence import colour_masks
from selfflow_robotics.evaluation.statistics import share_text, wilson_interval

# Seen. Lengths are in picture heights.
SMOOTH_PX = 3
LEAST_AREA = 0.004  # of the picture, for a body
LEAST_FALL = 0.02  # per frame, before an impact
LEAST_BRAKE = 0.035  # change of the speed per frame from before an impact to after it
APART_FRAMES = 2  # two impacts of a body
EDGE_FRAMES = (1.0, 2.5)  # at the start and at the end of a film

# Heard. 0 dB is a sine of amplitude 1.
STEP_S, WINDOW_S = 0.005, 0.02
BEFORE_S, AFTER_S = 0.04, 0.03  # means that are compared
BANDS_HZ = (0, 350, 900, 2200, 8000)  # edges
LEAST_RISE_DB = 9.0
QUIET_DB = -50.0  # is added to the energy of every band, so that silence does not rise
APART_S = 0.07  # two impacts


class Impacts(NamedTuple):
    """The impacts of a film: times in s, in rising order."""

    seen: list[float]
    heard: list[float]
    span: tuple[float, float]  # first and last time that counts


def find_impacts(frames: np.ndarray, fps: float, sound: np.ndarray, sample_rate: int) -> Impacts:
    """The impacts of a film of frames uint8 [T, H, W, 3] and a sound float [samples]."""
    span = EDGE_FRAMES[0] / fps, (len(frames) - EDGE_FRAMES[1]) / fps
    return Impacts(seen_impacts(frames, fps), heard_impacts(sound, sample_rate), span)


def seen_impacts(frames: np.ndarray, fps: float) -> list[float]:
    """When falls of bodies end (s)."""
    ends = [end for body in track_bodies(frames) for end in fall_ends(body)]
    return sorted(end / fps for end in ends)


def track_bodies(frames: np.ndarray) -> list[np.ndarray]:
    """The middle of each body in each frame, in picture heights from the top: [T], NaN where it is
    not seen. A body is a colour that most frames show."""
    frames = ndimage.uniform_filter(frames, SMOOTH_PX, axes=(1, 2))  # less noise
    chroma = frames.max(-1).astype(float) - frames.min(-1)
    rows = (np.arange(frames.shape[1]) + 0.5) / frames.shape[1]
    bodies = []
    for mask in colour_masks(frames).values():
        is_seen = mask.mean((1, 2)) >= LEAST_AREA
        if is_seen.mean() > 0.5:
            weight = (mask * chroma).sum(2)  # edges count less
            middle = (weight * rows).sum(1) / np.maximum(weight.sum(1), 1e-9)
            bodies.append(np.where(is_seen, middle, np.nan))
    return bodies


def fall_ends(heights: np.ndarray) -> list[float]:
    """When a body whose middle is at `heights` [T] (down is more) is stopped in its fall, in frames
    and fractions of them, in rising order."""
    speed = np.diff(heights)  # in the step from frame k to k + 1
    if len(speed) < 3:
        return []
    # If an impact lies in step k, the steps before and after have the speeds before and after it.
    before, during, after = speed[:-2], speed[1:-1], speed[2:]
    brake = np.where(before >= LEAST_FALL, before - after, 0.0)
    ends: list[float] = []
    for place in np.argsort(-brake, kind="stable"):
        if not brake[place] >= LEAST_BRAKE:  # also NaN
            break
        share = (during[place] - after[place]) / brake[place]  # of the step, before the impact
        end = float(place + 1 + np.clip(share, 0, 1))
        if all(abs(end - other) >= APART_FRAMES for other in ends):
            ends.append(end)
    return sorted(ends)


def heard_impacts(sound: np.ndarray, sample_rate: int) -> list[float]:
    """When the energy of a sound float [samples] rises (s), in rising order."""
    energy = _band_energies(sound, sample_rate) + 10 ** (QUIET_DB / 10)
    before, after = round(BEFORE_S / STEP_S), round(AFTER_S / STEP_S)
    total = np.cumsum(np.pad(energy, ((before + 1, after), (0, 0)), mode="edge"), axis=0)
    count = len(energy)
    middle = total[before : before + count]
    means_before = (middle - total[:count]) / before
    means_after = (total[before + after : before + after + count] - middle) / after
    rise = 10 * np.log10(means_after / means_before).max(1)
    step_s = round(STEP_S * sample_rate) / sample_rate  # a whole number of samples
    found: list[float] = []
    for place in np.argsort(-rise, kind="stable"):
        if rise[place] < LEAST_RISE_DB:
            break
        time = float(place * step_s + WINDOW_S / 2)
        if all(abs(time - other) >= APART_S for other in found):
            found.append(time)
    return sorted(found)


def _band_energies(sound: np.ndarray, sample_rate: int) -> np.ndarray:
    """[steps, bands]: 1 is a sine of amplitude 1. Steps are STEP_S apart, rounded to samples."""
    step, size = round(STEP_S * sample_rate), round(WINDOW_S * sample_rate)
    whole = np.pad(sound.astype(np.float64), (0, max(0, size - len(sound))))
    pieces = np.lib.stride_tricks.sliding_window_view(whole, size)[::step]
    window = np.hanning(size)
    powers = np.abs(np.fft.rfft(pieces * window, axis=1)) ** 2 * 4 / (size * (window**2).sum())
    places = np.fft.rfftfreq(size, 1 / sample_rate)
    edges = itertools.pairwise(BANDS_HZ)
    return np.stack(
        [powers[:, (low <= places) & (places < high)].sum(1) for low, high in edges], axis=1
    )


def score_synchrony(films: Sequence[Impacts], fps: float) -> dict[str, Any]:
    """How many seen impacts are heard within a frame.

    "matched" of "count" seen impacts and their share (None: nothing is seen), with Wilson's 95 %
    interval; "missing" ones, and "spurious" of "heard" ones; "delay_ms": the median of heard minus
    seen times of matched ones. Only the "films" of "all_films" in which an impact is seen count;
    "whole" of them have nothing missing or spurious, with "whole_interval".
    """
    matched, alone, whole, delays = 0, 0, 0, []
    all_films, films = films, [film for film in films if _inside(film.seen, film.span)]
    for film in films:
        seen, heard = (_inside(times, film.span) for times in (film.seen, film.heard))
        near = [_nearest(time, film.heard) for time in seen]
        delays += [delay for delay in near if abs(delay) <= 1 / fps]
        alone += (spurious := sum(abs(_nearest(t, film.seen)) > 1 / fps for t in heard))
        matched += (found := sum(abs(delay) <= 1 / fps for delay in near))
        whole += found == len(seen) and not spurious
    count = sum(len(_inside(film.seen, film.span)) for film in films)
    return {
        "count": count,
        "matched": matched,
        "share": matched / count if count else None,
        "interval": list(wilson_interval(matched, count)),
        "missing": count - matched,
        "heard": sum(len(_inside(film.heard, film.span)) for film in films),
        "spurious": alone,
        "delay_ms": 1000 * float(np.median(delays)) if delays else None,
        "all_films": len(all_films),
        "films": len(films),
        "whole": whole,
        "whole_interval": list(wilson_interval(whole, len(films))),
    }


def with_other_sounds(films: Sequence[Impacts]) -> list[Impacts]:
    """The films with the sound of the next one each: what is matched by chance."""
    others = [*films[1:], *films[:1]]
    return [film._replace(heard=other.heard) for film, other in zip(films, others, strict=True)]


def _inside(times: Sequence[float], span: tuple[float, float]) -> list[float]:
    return [time for time in times if span[0] <= time <= span[1]]


def _nearest(time: float, others: Sequence[float]) -> float:
    """The time from `time` to the nearest of the others; infinite without any."""
    return min((other - time for other in others), key=abs, default=np.inf)


def synchrony_line(score: dict[str, Any]) -> str:
    """The numbers of `score_synchrony` in one line."""
    seen = f"an impact is seen in {score['films']} of {score['all_films']} films"
    if not score["count"]:
        return seen
    return (
        f"{seen}; {score['matched']} of {score['count']} impacts heard when seen: "
        f"{share_text(score['share'], score['interval'])}; {score['spurious']} of {score['heard']} "
        f"heard ones not seen; films without either fault: {score['whole']}, "
        f"{share_text(score['whole'] / score['films'], score['whole_interval'])}"
    )
