"""Objects that vanish or appear: rendered clips, and the same with a fault."""

import numpy as np
import pytest

from selfflow_robotics.data.rendered.clips import (
    COLOURS,
    GROUNDS,
    HIDING,
    ClipsConfig,
    RenderedClips,
    render,
)
from selfflow_robotics.errors import UserError
from selfflow_robotics.evaluation.persistence import (
    colour_masks,
    judge_clip,
    named_colours,
    score_persistence,
)

CONFIG = ClipsConfig()
DRAWN = RenderedClips(CONFIG, 0)
SCENES = [DRAWN.scene("train", number) for number in range(40)]
CLIPS = [render(scene, CONFIG)[0] for scene in SCENES]
CAPTIONS = [scene.captions[0] for scene in SCENES]


def first(hides, things=2):
    """The first clip with so many objects, with or without one that passes behind the pillar."""
    return next(
        number
        for number, scene in enumerate(SCENES)
        if len(scene.things) == things
        and any(thing.motion in HIDING for thing in scene.things) == hides
    )


def ground(number):
    return GROUNDS[SCENES[number].ground]


def without(clip, colour, frames, fill):
    """The clip, with everything of a colour painted over in these frames."""
    changed = clip.copy()
    mask = colour_masks(clip)[colour]
    for frame in frames:
        changed[frame][mask[frame]] = fill
    return changed


def test_true_clips_are_kept_and_those_with_other_captions_are_not():
    score, rows = score_persistence(CLIPS, CAPTIONS)
    assert (score["kept"], score["count"]) == (40, 40)
    assert not any(row["vanished"] or row["appeared"] for row in rows)
    turned = CAPTIONS[1:] + CAPTIONS[:1]
    assert score_persistence(CLIPS, turned)[0]["share"] < 0.2
    rng = np.random.default_rng(0)
    noisy = [np.clip(c + rng.normal(0, 10, c.shape), 0, 255).astype(np.uint8) for c in CLIPS]
    assert score_persistence(noisy, CAPTIONS)[0]["kept"] == 40


def test_an_object_that_vanishes_for_one_frame_is_found():
    number = first(hides=False)
    thing = SCENES[number].things[0]
    clip = without(CLIPS[number], thing.colour, [5], ground(number))
    verdict = judge_clip(clip, CAPTIONS[number])
    assert (verdict["vanished"], verdict["appeared"]) == ([thing.colour], [])
    assert judge_clip(CLIPS[number], CAPTIONS[number])["vanished"] == []


def test_an_object_that_never_comes_out_far_from_the_pillar_has_vanished():
    number = first(hides=True)
    thing = next(t for t in SCENES[number].things if t.motion in HIDING)
    gone = without(CLIPS[number], thing.colour, [11, 12], ground(number))
    assert judge_clip(gone, CAPTIONS[number])["vanished"] == [thing.colour]


def test_two_and_strange_objects_have_appeared():
    number = first(hides=False, things=1)
    scene, clip = SCENES[number], CLIPS[number]
    other = next(colour for colour in COLOURS if colour != scene.things[0].colour)
    for colour in (scene.things[0].colour, other):
        changed = clip.copy()
        row = 0 if scene.things[0].places[7, 1] > 16 else 22
        column = 0 if scene.things[0].places[7, 0] > 24 else 38
        changed[7, row : row + 9, column : column + 9] = COLOURS[colour]
        assert judge_clip(changed, CAPTIONS[number])["appeared"] == [colour]


def test_captions_name_colours():
    assert named_colours("a red disc moves left and a blue square stays still") == ["red", "blue"]
    assert named_colours("a reddish disc") == []


def test_captions_without_objects_are_one_line():
    with pytest.raises(UserError, match="names an object"):
        score_persistence(CLIPS[:1], ["nothing"])
