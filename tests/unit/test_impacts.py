"""Rendered impacts: motion, sounds, pictures, captions, splits and files."""

import io
import json

import av
import numpy as np
import pytest

from selfflow_robotics.data.captioned_files import list_media
from selfflow_robotics.data.rendered.clips import COLOURS
from selfflow_robotics.data.rendered.impact_motion import (
    GRAVITY,
    SHORTEST_FLIGHT_S,
    bounces,
    height_at,
    impacts,
    strikes,
)
from selfflow_robotics.data.rendered.impact_scenes import ADJECTIVES
from selfflow_robotics.data.rendered.impact_sounds import MATERIALS, SAMPLE_RATE, impact_sound
from selfflow_robotics.data.rendered.impacts import ImpactsConfig, RenderedImpacts, all_kinds
from selfflow_robotics.data.rendered.write import write_set
from selfflow_robotics.data.sounds import SoundShape
from selfflow_robotics.data.videos import VIDEOS, ClipShape
from selfflow_robotics.errors import UserError

CONFIG = ImpactsConfig()


@pytest.fixture(scope="module")
def drawn():
    return RenderedImpacts(CONFIG, seed=0)


def test_a_ball_falls_and_bounces_as_physics_says():
    flights = bounces(0.5, 0.1, 0.7, 2.0)
    (first, speed), *later = impacts(flights, 2.0)
    assert first == pytest.approx(0.1 + np.sqrt(2 * 0.5 / GRAVITY))
    assert speed == pytest.approx(np.sqrt(2 * GRAVITY * 0.5))
    assert later[0][0] - first == pytest.approx(2 * 0.7 * speed / GRAVITY)
    speeds = [speed, *(v for _, v in later)]
    np.testing.assert_allclose(np.divide(speeds[1:], speeds[:-1]), 0.7)
    gaps = np.diff([first, *(t for t, _ in later)])
    assert gaps.min() >= SHORTEST_FLIGHT_S
    heights = [height_at(flights, t) for t in np.linspace(0, 3, 1000)]
    assert min(heights) == 0.0
    assert heights[0] == max(heights) == 0.5
    assert heights[-1] == 0.0
    for time, _ in [(first, speed), *later]:
        assert height_at(flights, time) == pytest.approx(0, abs=1e-9)


def test_a_hammer_strikes_when_it_should():
    flights = strikes([0.3, 0.2, 0.25], [0.4, 0.9, 1.5])
    times, speeds = zip(*impacts(flights, 2.0), strict=True)
    assert times == pytest.approx([0.4, 0.9, 1.5])
    assert speeds == pytest.approx([2 * 0.3 / 0.4, 4 * 0.2 / 0.5, 4 * 0.25 / 0.6])
    assert height_at(flights, 0.65) == pytest.approx(0.2)
    assert height_at(flights, 1.7) == 0.0


def spectrum(sound):
    return np.abs(np.fft.rfft(sound)), np.fft.rfftfreq(len(sound), 1 / SAMPLE_RATE)


def test_materials_sound_different():
    def sound(material, size=1.0, speed=2.0):
        return impact_sound(material, "rubber", size, speed, np.random.default_rng(0))

    hits = {name: sound(name) for name in MATERIALS}
    levels = {name: np.abs(x).max() for name, x in hits.items()}
    assert max(levels.values()) < 4 * min(levels.values())
    lasts = {name: (np.abs(x) > 0.05 * levels[name]).nonzero()[0].max() for name, x in hits.items()}
    assert lasts["metal"] > lasts["glass"] > lasts["wood"] > lasts["rubber"]
    powers, frequencies = spectrum(hits["metal"])
    assert frequencies[powers.argmax()] in [
        pytest.approx(ratio * 1050, abs=3) for ratio in MATERIALS["metal"].ratios
    ]
    half, low = spectrum(sound("metal", size=2.0))
    assert low[half.argmax()] == pytest.approx(frequencies[powers.argmax()] / 2, abs=5)
    np.testing.assert_allclose(sound("wood", speed=4.0), 2 * sound("wood", speed=2.0))
    onset = np.abs(hits["metal"]).cumsum()
    assert onset[160] > 0  # it begins at once


def test_a_film_shows_and_sounds_its_contacts(drawn):
    for number in range(20):
        film, scene = drawn.film("train", number), drawn.scene("train", number)
        assert film.frames.shape == (25, 48, 64, 3)
        assert film.frames.dtype == np.uint8
        assert len(film.sound) == 2 * SAMPLE_RATE
        assert np.abs(film.sound).max() < 0.95  # nothing is clipped
        assert film.contacts == sorted(film.contacts)
        first = film.contacts[0].time
        place = round(first * SAMPLE_RATE)
        assert not film.sound[:place].any()
        assert np.abs(film.sound[place : place + 160]).max() > 0.01
        assert len({tuple(frame.ravel()) for frame in film.frames}) > 8  # it moves
        near = np.abs(film.frames.astype(int) - COLOURS[scene.bodies[0].colour]).max(-1) < 12
        assert near.any((1, 2)).all()  # no body leaves the picture


def test_the_lowest_place_is_that_of_the_impact(drawn):
    numbers = [k for k in range(30) if len(drawn.scene("train", k).bodies) == 1]
    for number in numbers[:8]:
        film, scene = drawn.film("train", number), drawn.scene("train", number)
        colour = np.array(COLOURS[scene.bodies[0].colour])
        near = np.abs(film.frames.astype(int) - colour).max(-1) < 60
        rows = (near.sum(2) * np.arange(48)).sum(1) / near.sum((1, 2))
        after = int(film.contacts[0].time * CONFIG.fps) + 1
        fall = rows[: after + 1]
        assert (np.diff(fall[:-1]) > -0.3).all()
        assert fall[-2:].max() == pytest.approx(rows.max(), abs=4)


def test_captions_say_what_is_seen(drawn):
    kinds = set()
    for number in range(60):
        scene = drawn.scene("train", number)
        full, *shorter = scene.captions
        kinds.add((scene.is_hammer, len(scene.bodies)))
        for body in scene.bodies:
            assert body.colour in full
            assert ADJECTIVES[body.material] in full
        if not scene.is_hammer:
            assert full.endswith(f"on a {ADJECTIVES[scene.ground]} floor")
        assert all(len(caption) < len(full) for caption in shorter)
    assert kinds == {(True, 1), (False, 1), (False, 2)}


def test_held_out_combinations_are_never_trained_on(drawn):
    def found(split):
        for number in range(150):
            scene = drawn.scene(split, number)
            yield {(body.colour, body.material, scene.ground) for body in scene.bodies}

    held_out = set(all_kinds()) - set().union(*found("train"))
    assert len(held_out) >= drawn.record()["held_out"]
    assert sum(drawn.record().values()) == len(all_kinds()) == 100
    assert 4 < drawn.record()["held_out"] < 25
    assert all(kinds & held_out for kinds in found("held_out"))
    assert len(drawn.prompts("held_out")) == drawn.record()["held_out"]


def test_a_sample_is_a_function_of_seed_split_and_number(drawn):
    files = drawn.sample("train", 3)
    assert files == RenderedImpacts(CONFIG, 0).sample("train", 3)
    others = [drawn.sample("train", 4), drawn.sample("held_out", 3)]
    others.append(RenderedImpacts(CONFIG, 1).sample("train", 3))
    assert all(other[".wav"] != files[".wav"] for other in others)
    assert json.loads(files[".contacts.json"])[0].keys() == {"time", "speed", "body"}


def test_the_files_are_read_back_exactly(tmp_path, drawn):
    write_set(drawn, tmp_path / "set", "impacts", {"train": 3, "held_out": 1}, None, {"seed": 0})
    readers = {"frames": ClipShape(25, 12.5, (48, 64)), "sound": SoundShape(2.0, SAMPLE_RATE)}
    media = list_media(tmp_path / "set" / "train", VIDEOS, readers)
    assert (len(media), media.skips.total) == (3, 0)
    for number in range(3):
        film, read = drawn.film("train", number), media.read(number)
        assert (read["frames"] == film.frames).all()
        assert np.abs(read["sound"] - film.sound).max() < 1e-4
        assert list(media.captions[number]) == drawn.scene("train", number).captions
    content = (tmp_path / "set" / "train" / "000000.mp4").read_bytes()
    with av.open(io.BytesIO(content)) as container:
        assert not container.streams.audio


@pytest.mark.parametrize(
    "settings",
    [{"frames": 1}, {"fps": 0.0}, {"image_size": (47, 64)}, {"held_out": 0.0}],
)
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(UserError, match=f"impacts.{next(iter(settings))}"):
        ImpactsConfig(**settings)


def test_a_split_without_combinations_is_one_line():
    with pytest.raises(UserError, match="no combinations are left for held_out"):
        RenderedImpacts(ImpactsConfig(held_out=1e-6), 0)
