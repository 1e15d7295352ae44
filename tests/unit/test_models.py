"""The network: per-token timesteps, the one-way context, shared draws."""

import pytest
import torch

from selfflow_robotics.autoencoders.pixel import PixelAutoencoder
from selfflow_robotics.errors import UserError
from selfflow_robotics.models import layers
from selfflow_robotics.models.multimodal import MultimodalConfig, MultimodalSiT
from selfflow_robotics.models.sit import SiTConfig, constant_timestep
from selfflow_robotics.models.text import check_texts, text_bytes

CONFIG = MultimodalConfig(
    SiTConfig(width=48, depth=3, heads=3), image_size=(32, 48), later_frames=2
)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    model = MultimodalSiT(CONFIG).eval()
    for name, p in model.named_parameters():  # adaLN-Zero would hide every difference
        if "adaLN" in name or "_out" in name:
            torch.nn.init.normal_(p, std=0.05)
    return model


@pytest.fixture
def sample():
    g = torch.Generator().manual_seed(1)
    return {
        "first_frame": torch.randn(2, 6, 768, generator=g),
        "later_frames": torch.randn(2, 12, 768, generator=g),
        "actions": torch.randn(2, 6, 7, generator=g),
    }


def test_values_and_index_equal_a_timestep_for_every_token(model, sample):
    """K distinct timesteps spread by index give what N separate ones give; K = 1, 2 and more."""
    index = torch.tensor([[0, 1, 1, 0, 1, 0], [1, 0, 0, 0, 1, 1]])
    values = torch.tensor([[0.2, 0.9], [0.7, 0.1]])
    context = model.encode_context({"first_frame": sample["first_frame"]}, ["pick", "place"])
    two, _ = model({"actions": sample["actions"]}, (values, index), context)
    each = (values.gather(1, index), torch.arange(6).expand(2, -1))
    six, _ = model({"actions": sample["actions"]}, each, context)
    torch.testing.assert_close(two["actions"], six["actions"], rtol=1e-5, atol=1e-6)
    one, _ = model(
        {"actions": sample["actions"]}, constant_timestep(0.2, sample["actions"]), context
    )
    same = (torch.tensor([[0.2, 0.9]] * 2), torch.zeros(2, 6, dtype=torch.long))
    also, _ = model({"actions": sample["actions"]}, same, context)
    torch.testing.assert_close(one["actions"], also["actions"], rtol=1e-5, atol=1e-6)


def test_draws_that_share_a_context_equal_separate_passes(model, sample):
    g = torch.Generator().manual_seed(2)
    draws = torch.randn(2, 3, 6, 7, generator=g)
    t = torch.rand(2, 3, generator=g)
    clean = {"first_frame": sample["first_frame"]}
    context = model.encode_context(clean, ["a", "b"])
    together, _ = model(
        {"actions": draws.flatten(0, 1)},
        constant_timestep(t.flatten(), draws.flatten(0, 1)),
        context,
    )
    for k in range(3):
        alone, _ = model({"actions": draws[:, k]}, constant_timestep(t[:, k], draws[:, k]), context)
        torch.testing.assert_close(
            together["actions"].unflatten(0, (2, 3))[:, k], alone["actions"], rtol=1e-5, atol=1e-6
        )


def test_clean_tokens_cannot_see_noised_ones_but_are_seen(model, sample):
    clean = {"first_frame": sample["first_frame"].clone().requires_grad_()}
    context = model.encode_context(clean, ["a", "b"])
    out, _ = model(
        {"actions": sample["actions"]}, constant_timestep(0.5, sample["actions"]), context
    )
    (gradient,) = torch.autograd.grad(out["actions"].sum(), clean["first_frame"])
    assert gradient.abs().sum() > 0
    # The keys and values were made before any noised token was known: that is the whole proof.
    assert all(k.shape[2] == 2 + 6 for k, _ in context.key_values)


def test_short_attention_equals_torchs_own(monkeypatch):
    g = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(6, 2, 5, 8, generator=g) for _ in range(3))
    context = tuple(torch.randn(3, 2, 4, 8, generator=g) for _ in range(2))
    for shared in (None, context):
        short = layers.attend(q, k, v, shared)
        with monkeypatch.context() as patch:
            patch.setattr(layers, "SHORT", 0)
            fused = layers.attend(q, k, v, shared)
        torch.testing.assert_close(short, fused, rtol=1e-5, atol=1e-6)


def test_features_stop_early_and_agree(model, sample):
    context = model.encode_context({}, ["a", "b"])
    x = {"first_frame": sample["first_frame"]}
    t = constant_timestep(0.5, x["first_frame"])
    _, features = model(x, t, context, layers=(2,))
    outputs, stopped = model(x, t, context, layers=(2,), features_only=True)
    assert outputs == {}
    assert torch.equal(features[2], stopped[2])


def test_a_frame_at_two_noise_levels_keeps_them_apart(model, sample):
    """A noised patch's pixels reach its own token only; a clean frame is read as a whole."""
    for clean in (False, True):
        x = sample["first_frame"].clone().requires_grad_()
        model.embed("first_frame", x, clean)[0, 3].sum().backward()
        touched = x.grad.abs().sum(dim=-1)
        assert touched[0, 3] > 0
        assert touched[1].sum() == 0
        assert (touched.sum() == touched[0, 3]) == (not clean)


def test_clean_frames_of_a_clip_do_not_mix(model, sample):
    both = model.embed("later_frames", sample["later_frames"], clean=True)
    swapped = sample["later_frames"].clone()
    swapped[:, 6:] = 0
    torch.testing.assert_close(model.embed("later_frames", swapped, clean=True)[:, :6], both[:, :6])


def test_an_unconditional_sample_needs_no_context(model, sample):
    context = model.encode_context({}, None)
    x = {"first_frame": sample["first_frame"], "later_frames": sample["later_frames"]}
    joined = torch.cat(list(x.values()), dim=1)
    out, _ = model(x, constant_timestep(0.5, joined), context)
    assert out["first_frame"].shape == (2, 6, 768)
    assert out["later_frames"].shape == (2, 12, 768)


def test_untrained_network_predicts_that_nothing_moves(sample):
    model = MultimodalSiT(CONFIG)
    context = model.encode_context({"first_frame": sample["first_frame"]}, ["a", "b"])
    x = {"later_frames": sample["later_frames"]}
    out, _ = model(x, constant_timestep(0.5, x["later_frames"]), context)
    assert torch.equal(out["later_frames"], sample["first_frame"].repeat(1, 2, 1))


def test_pixels_survive_the_autoencoder():
    g = torch.Generator().manual_seed(0)
    frames = torch.randint(0, 256, (2, 3, 32, 48, 3), generator=g, dtype=torch.uint8)
    auto = PixelAutoencoder((32, 48), 16)
    tokens = auto.encode(frames)
    assert tokens.shape == (2, 3 * 6, 768)
    assert torch.equal(auto.decode(tokens), frames)
    # Token 1 of a frame is the patch to the right of token 0.
    patch = frames[0, 0, :16, 16:32].flatten() / 127.5 - 1
    torch.testing.assert_close(tokens[0, 1], patch)


@pytest.mark.parametrize("size", [(33, 48), (8, 48)])
def test_a_picture_that_does_not_divide_into_patches_is_refused(size):
    with pytest.raises(UserError, match="does not divide"):
        PixelAutoencoder(size, 16)


def test_frames_of_another_size_are_refused():
    with pytest.raises(UserError, match="resize"):
        PixelAutoencoder((32, 48), 16).encode(torch.zeros(1, 1, 32, 32, 3, dtype=torch.uint8))


def test_text_is_bytes_and_empty_text_still_has_a_place(model):
    ids = text_bytes(["pick", ""])
    assert ids[0, 1:5].tolist() == list(b"pick")
    tokens = model.encode_text(["pick coke can", "", "pick coke can", "Größe 7"])
    assert tokens.isfinite().all()
    assert torch.equal(tokens[0], tokens[2])
    assert not torch.allclose(tokens[0], tokens[1])


SORT = "open the top drawer, take the sponge out, close the drawer and put it on the left plate"


def test_long_instructions_stay_apart_and_what_does_not_fit_is_refused(model):
    other = SORT.replace("left", "right")
    tokens = model.encode_text([SORT, other, "x" * 127])
    assert not torch.allclose(tokens[0], tokens[1])
    with pytest.raises(UserError, match=r"text_bytes=128"):
        model.encode_text(["x" * 128])
    with pytest.raises(UserError, match="Unicode"):
        model.encode_text(["\ud800"])


@pytest.mark.parametrize(
    ("texts", "most", "named"),
    [
        ([SORT, SORT.replace("left", "right"), "a"], 63, [SORT, "right plate", "text_bytes=88"]),
        (["拿起左边的可乐罐", "拿起左边的苹果"], 15, ["可乐罐", "苹果", "text_bytes=24"]),
        (["short", "größer"], 7, ["größer", "1 of 2", "text_bytes=8"]),
    ],
)
def test_texts_that_do_not_fit_are_named(texts, most, named):
    check_texts(texts, max(len(text.encode()) for text in texts))
    with pytest.raises(UserError) as error:
        check_texts(texts, most)
    assert all(word in str(error.value) for word in named)


def test_a_context_of_the_first_blocks_gives_the_same_features(model, sample):
    clean = {"first_frame": sample["first_frame"]}
    whole = model.encode_context(clean, ["a", "b"])
    short = model.encode_context(clean, ["a", "b"], num_blocks=1)
    assert len(short.key_values) == 1 < len(whole.key_values)
    x = {"actions": sample["actions"]}
    t = constant_timestep(0.5, x["actions"])
    one, other = (model(x, t, c, (1,), features_only=True)[1][1] for c in (whole, short))
    assert torch.equal(one, other)


def test_width_must_divide_into_heads():
    with pytest.raises(UserError, match="divisible by heads"):
        SiTConfig(width=50, heads=3)
