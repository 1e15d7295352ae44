"""Impacts seen and heard: what is found, and how it is counted."""

import numpy as np
import pytest
import torch
from PIL import Image

from selfflow_robotics.autoencoders.spectrogram import Spectrogram
from selfflow_robotics.data.rendered.impacts import SAMPLE_RATE, ImpactsConfig, RenderedImpacts
from selfflow_robotics.evaluation.sound_picture import write_film_picture
from selfflow_robotics.evaluation.synchrony import (
    Impacts,
    fall_ends,
    find_impacts,
    heard_impacts,
    score_synchrony,
    seen_impacts,
    synchrony_line,
    track_bodies,
    with_other_sounds,
)
from tests.sounds import RATE, ringing

FPS = 12.5
COUNT = 24


@pytest.fixture(scope="module")
def films():
    drawn = RenderedImpacts(ImpactsConfig(), 0)
    return [drawn.film("held_out", number) for number in range(COUNT)]


@pytest.fixture(scope="module")
def found(films):
    return [find_impacts(film.frames, FPS, film.sound, SAMPLE_RATE) for film in films]


def test_impacts_of_true_films_are_heard_when_seen(found):
    score = score_synchrony(found, FPS)
    assert score["films"] == COUNT
    assert score["share"] > 0.95
    assert score["whole"] > 0.8 * COUNT
    assert abs(score["delay_ms"]) < 20
    low, high = score["interval"]
    assert low < score["share"] <= high


def test_noise_in_the_pictures_is_not_motion(films, found):
    generator = np.random.default_rng(0)
    noisy = []
    for film, impacts in zip(films[:10], found, strict=False):
        noise = 16 * generator.standard_normal(film.frames.shape)
        frames = (film.frames + noise).clip(0, 255).astype(np.uint8)
        noisy.append(impacts._replace(seen=seen_impacts(frames, FPS)))
    assert score_synchrony(noisy, FPS)["share"] > 0.95


def test_the_sound_of_another_film_does_not_fit(found):
    others = with_other_sounds(found)
    score, other = score_synchrony(found, FPS), score_synchrony(others, FPS)
    assert other["share"] < 0.65
    assert other["whole"] < 0.2 * COUNT
    assert other["spurious"] > 5 * score["spurious"]


def test_contacts_are_found_without_labels(films, found):
    for film, impacts in zip(films, found, strict=True):
        first, last = impacts.span
        times = [contact.time for contact in film.contacts if first <= contact.time <= last]
        for heard in impacts.heard:
            assert min(abs(heard - contact.time) for contact in film.contacts) < 0.03
        near = [min(abs(time - seen) for seen in impacts.seen) < 1 / FPS for time in times]
        assert sum(near) >= len(near) - 1


def test_sounds_from_latents_keep_their_time(films, found):
    codec = Spectrogram(SAMPLE_RATE)
    sounds = torch.from_numpy(np.stack([film.sound for film in films[:8]]))
    decoded = codec.decode(codec.encode(sounds)).numpy()
    again = [
        Impacts(impacts.seen, heard_impacts(sound, SAMPLE_RATE), impacts.span)
        for impacts, sound in zip(found, decoded, strict=False)
    ]
    assert score_synchrony(again, FPS)["share"] > 0.95


def test_a_late_sound_is_missing_and_spurious(films, found):
    late = [
        find_impacts(film.frames, FPS, np.roll(film.sound, SAMPLE_RATE // 8), SAMPLE_RATE)
        for film in films[:8]
    ]
    assert score_synchrony(late, FPS)["share"] < 0.6
    mute = [Impacts(impacts.seen, [], impacts.span) for impacts in found]
    score = score_synchrony(mute, FPS)
    assert (score["matched"], score["heard"], score["spurious"]) == (0, 0, 0)
    assert score["missing"] == score["count"]
    assert score["delay_ms"] is None


def test_the_counts_are_those_of_a_small_case():
    films = [
        Impacts([0.5, 1.0], [0.52, 1.2], (0.1, 1.8)),  # one match, one missing, one spurious
        Impacts([0.5], [0.45], (0.1, 1.8)),
        Impacts([0.05], [0.05], (0.1, 1.8)),  # at the edge: nothing is seen
        Impacts([0.05, 0.6], [0.11, 0.6, 1.85], (0.1, 1.8)),  # the edge's explain what is near
    ]
    score = score_synchrony(films, 10.0)
    assert (score["count"], score["matched"], score["missing"]) == (4, 3, 1)
    assert (score["heard"], score["spurious"]) == (5, 1)
    assert (score["films"], score["whole"]) == (3, 2)
    assert score["delay_ms"] == pytest.approx(0, abs=1e-6)
    assert "3 of 4" in synchrony_line(score)
    assert score["all_films"] == 4
    nothing = score_synchrony(films[2:3], 10.0)
    assert (nothing["share"], nothing["count"], nothing["films"]) == (None, 0, 0)
    assert synchrony_line(nothing) == "an impact is seen in 0 of 1 films"


@pytest.mark.parametrize("time", [5.0, 5.3, 5.5, 5.9])
@pytest.mark.parametrize("rebound", [0.0, 0.1])
def test_the_end_of_a_fall_is_found_between_frames(time, rebound):
    t = np.arange(12.0) - time
    heights = 0.8 + np.where(t < 0, 0.12, -rebound) * t
    (end,) = fall_ends(heights)
    assert end == pytest.approx(time, abs=0.05)


def test_bodies_at_rest_or_falling_freely_have_no_impact():
    t = np.arange(12.0)
    for heights in (np.full(12, 0.5), 0.2 + 0.005 * t**2, 0.8 - 0.05 * t, np.full(12, np.nan)):
        assert fall_ends(heights) == []
    assert fall_ends(np.array([0.1, 0.5])) == []


def test_silence_noise_and_hum_have_no_impact():
    generator = np.random.default_rng(0)
    t = np.arange(2 * RATE) / RATE
    assert heard_impacts(np.zeros(2 * RATE), RATE) == []
    for sound in (0.05 * generator.standard_normal(2 * RATE), 0.3 * np.sin(2 * np.pi * 200 * t)):
        assert heard_impacts(sound, RATE) == []
    assert heard_impacts(ringing(), RATE) == pytest.approx([0.2, 0.9, 1.5], abs=0.015)
    late = heard_impacts(ringing(20.0, 22_050, starts=(19.0,)), 22_050)
    assert late == pytest.approx([19.0], abs=0.015)
    low = ringing(starts=(0.7,), frequency=150.0) * 0.3 + 0.1 * np.sin(2 * np.pi * 1500 * t)
    assert any(abs(time - 0.7) < 0.02 for time in heard_impacts(low, RATE))


def test_bodies_are_followed_by_colour(films):
    for film in films[:6]:
        bodies = track_bodies(film.frames)
        assert len(bodies) == 1 + max(contact.body for contact in film.contacts)
        assert all(np.isfinite(body).all() for body in bodies)
    assert track_bodies(np.full((5, 48, 64, 3), 200, np.uint8)) == []


def test_a_picture_shows_frames_and_sound(tmp_path, films, found):
    film, path = films[0], tmp_path / "pictures" / "film.png"
    write_film_picture(
        path, film.frames, FPS, film.sound, SAMPLE_RATE, "a film", found[0].seen, found[0].heard
    )
    picture = np.asarray(Image.open(path))
    assert picture.shape[1] == 1200
    for colour in ((220, 40, 40), (40, 110, 230)):
        assert (picture == colour).all(-1).any()
    write_film_picture(path, film.frames[:3], 2.0, np.zeros(100), 8000, "short")
    assert Image.open(path).width == 1200
