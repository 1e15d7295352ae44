"""Changed training pictures: what may change, and what must not."""

import pytest
import torch

from selfflow_robotics.data.augment import AugmentConfig, augment
from selfflow_robotics.errors import UserError


@pytest.fixture
def frames():
    draw = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (5, 3, 16, 20, 3), generator=draw, dtype=torch.uint8)


def changed(frames, seed=0, **parts):
    return augment(frames, AugmentConfig(**parts), torch.Generator().manual_seed(seed))


def test_nothing_asked_changes_nothing(frames):
    assert not AugmentConfig().active
    torch.testing.assert_close(changed(frames), frames.float())


def test_a_shift_moves_every_frame_of_a_window_alike(frames):
    moved = changed(frames, shift_px=2)
    found = set()
    for window, before in zip(moved, frames.float(), strict=True):
        inner = window[:, 4:-4, 4:-4]
        fits = [
            (y, x)
            for y in range(-2, 3)
            for x in range(-2, 3)
            if torch.equal(inner, before[:, 4 + y : 12 + y, 4 + x : 16 + x])
        ]
        assert len(fits) == 1
        found.add(fits[0])
    assert len(found) > 1


@pytest.mark.parametrize("part", ["brightness", "contrast", "saturation"])
def test_colours_stay_in_range_and_change_alike_within_a_window(frames, part):
    still = frames[:, :1].expand(-1, 2, -1, -1, -1)
    out = changed(still, **{part: 0.4})
    assert out.min() >= 0
    assert out.max() <= 255
    assert not torch.equal(out, still.float())
    assert torch.equal(out[:, 0], out[:, 1])


def test_saturation_leaves_grey_alone():
    grey = torch.full((2, 1, 4, 4, 3), 100, dtype=torch.uint8)
    torch.testing.assert_close(changed(grey, saturation=0.5), grey.float())


def test_the_same_generator_gives_the_same_pictures(frames):
    parts = {"shift_px": 2, "brightness": 0.2, "contrast": 0.2, "saturation": 0.2}
    assert torch.equal(changed(frames, 3, **parts), changed(frames, 3, **parts))
    assert not torch.equal(changed(frames, 3, **parts), changed(frames, 4, **parts))


@pytest.mark.parametrize("parts", [{"shift_px": -1}, {"brightness": 1.0}, {"contrast": -0.1}])
def test_impossible_values_are_refused(parts):
    with pytest.raises(UserError, match="augment"):
        AugmentConfig(**parts)
