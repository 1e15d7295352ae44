"""The network: per-token timesteps, the one-way context, shared draws."""

import json
from dataclasses import replace

import pytest
import torch

from selfflow_robotics.errors import UserError
from selfflow_robotics.modalities.pixels import PixelPatches
from selfflow_robotics.models import layers
from selfflow_robotics.models.network import Network, NetworkConfig
from selfflow_robotics.models.presets import RobotConfig, image_config
from selfflow_robotics.models.sit import SiTConfig
from selfflow_robotics.models.text import TextConfig, check_texts, text_bytes
from selfflow_robotics.timesteps import Timesteps
from tests.networks import as_slots, robot_network, waken

SIT = SiTConfig(width=48, depth=3, heads=3)
CONFIG = robot_network(RobotConfig(SIT, image_size=(32, 48), later_frames=2))


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return waken(Network(CONFIG).eval())


@pytest.fixture
def sample():
    g = torch.Generator().manual_seed(1)
    tokens = {
        "first_frame": torch.randn(2, 6, 768, generator=g),
        "later_frames": torch.randn(2, 12, 768, generator=g),
        "actions": torch.randn(2, 6, 7, generator=g),
    }
    return as_slots(Network(CONFIG), tokens)


def only(sample, *names):
    return {name: sample[name] for name in names}


def constant(t, *slots):
    return Timesteps.constant(t, torch.cat([slot.tokens[..., :1] for slot in slots], dim=1))


def test_values_and_index_equal_a_timestep_for_every_token(model, sample):
    """K distinct timesteps spread by index give what N separate ones give; K = 1, 2 and more."""
    index = torch.tensor([[0, 1, 1, 0, 1, 0], [1, 0, 0, 0, 1, 1]])
    values = torch.tensor([[0.2, 0.9], [0.7, 0.1]])
    context = model.encode_context(only(sample, "first_frame"), ["pick", "place"])
    x = only(sample, "actions")
    two, _ = model(x, Timesteps(values, index), context)
    each = Timesteps(values.gather(1, index), torch.arange(6).expand(2, -1))
    six, _ = model(x, each, context)
    torch.testing.assert_close(two["actions"], six["actions"], rtol=1e-5, atol=1e-6)
    one, _ = model(x, constant(0.2, sample["actions"]), context)
    same = Timesteps(torch.tensor([[0.2, 0.9]] * 2), torch.zeros(2, 6, dtype=torch.long))
    also, _ = model(x, same, context)
    torch.testing.assert_close(one["actions"], also["actions"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("attention", ["prefix", "joint"])
def test_draws_that_share_a_context_equal_separate_passes(model, sample, attention):
    g = torch.Generator().manual_seed(2)
    draws = torch.randn(2, 3, 6, 7, generator=g)
    t = torch.rand(2, 3, generator=g)
    clean = only(sample, "first_frame")
    context = model.encode_context(clean, ["a", "b"], attention=attention)
    actions = sample["actions"]
    both = actions.with_tokens(draws.flatten(0, 1))
    together, _ = model({"actions": both}, constant(t.flatten(), both), context)
    for k in range(3):
        one = actions.with_tokens(draws[:, k])
        alone, _ = model({"actions": one}, constant(t[:, k], one), context)
        torch.testing.assert_close(
            together["actions"].unflatten(0, (2, 3))[:, k], alone["actions"], rtol=1e-5, atol=1e-6
        )


def test_clean_tokens_cannot_see_noised_ones_but_are_seen(model, sample):
    first = sample["first_frame"]
    first = first.with_tokens(first.tokens.clone().requires_grad_())
    context = model.encode_context({"first_frame": first}, ["a", "b"])
    out, _ = model(only(sample, "actions"), constant(0.5, sample["actions"]), context)
    (gradient,) = torch.autograd.grad(out["actions"].sum(), first.tokens)
    assert gradient.abs().sum() > 0
    # The keys and values were made before any noised token was known: that is the whole proof.
    assert all(k.shape[2] == 2 + 6 for k, _ in context.kept)


def test_joint_attention_differs_only_by_what_clean_tokens_see(sample):
    """In a network of one block nothing that a clean token has seen is looked at again."""
    torch.manual_seed(0)
    one = waken(Network(replace(CONFIG, backbone=replace(SIT, depth=1))).eval())
    two = waken(Network(CONFIG).eval())
    levels = {"first_frame": torch.tensor([0.1, 0.2])}
    x = only(sample, "later_frames", "actions")
    t = Timesteps(torch.rand(2, 2), torch.randint(0, 2, (2, 18)))
    for network, same in ((one, True), (two, False)):
        outputs = []
        for attention in ("prefix", "joint"):
            context = network.encode_context(
                only(sample, "first_frame"), ["a", "b"], levels, attention=attention
            )
            out, features = network(x, t, context, layers=(1,))
            assert features[1].shape == (2, 18, 48)
            outputs.append(torch.cat([out["later_frames"].flatten(), out["actions"].flatten()]))
        assert torch.allclose(*outputs, rtol=1e-5, atol=1e-6) == same


def test_a_context_of_fewer_blocks_is_the_same_up_to_there(model, sample):
    clean, x = only(sample, "first_frame"), only(sample, "actions")
    t = constant(0.5, sample["actions"])
    whole = model.encode_context(clean, ["a", "b"])
    short = model.encode_context(clean, ["a", "b"], depth=2)
    assert len(short.kept) == 2
    _, features = model(x, t, whole, layers=(2,))
    _, stopped = model(x, t, short, layers=(2,), stop=True)
    assert torch.equal(features[2], stopped[2])


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
    x, t = only(sample, "first_frame"), constant(0.5, sample["first_frame"])
    _, features = model(x, t, context, layers=(2,))
    outputs, stopped = model(x, t, context, layers=(2,), stop=True)
    assert outputs == {}
    assert torch.equal(features[2], stopped[2])


def embedded(model, slot, x, clean):
    return model.adapter(slot).embed(x, clean)


def test_a_frame_at_two_noise_levels_keeps_them_apart(model, sample):
    """A noised patch's pixels reach its own token only; a clean frame is read as a whole."""
    for clean in (False, True):
        x = sample["first_frame"].tokens.clone().requires_grad_()
        first = sample["first_frame"].with_tokens(x)
        embedded(model, "first_frame", first, clean)[0, 3].sum().backward()
        touched = x.grad.abs().sum(dim=-1)
        assert touched[0, 3] > 0
        assert touched[1].sum() == 0
        assert (touched.sum() == touched[0, 3]) == (not clean)


def test_clean_frames_of_a_clip_do_not_mix(model, sample):
    later = sample["later_frames"]
    both = embedded(model, "later_frames", later, clean=True)
    swapped = later.tokens.clone()
    swapped[:, 6:] = 0
    alone = embedded(model, "later_frames", later.with_tokens(swapped), clean=True)
    torch.testing.assert_close(alone[:, :6], both[:, :6])


def test_the_same_patch_stands_elsewhere_in_another_frame(model, sample):
    first, later = sample["first_frame"], sample["later_frames"]
    moved = first.with_tokens(first.tokens), later.with_tokens(first.tokens.repeat(1, 2, 1))
    at_zero, later_on = (
        embedded(model, slot, x, clean=True)
        for slot, x in zip(("first_frame", "later_frames"), moved, strict=True)
    )
    times = model.adapters["frames"].times
    torch.testing.assert_close(later_on[:, 6:] - at_zero, (times[2] - times[0]).expand(2, 6, -1))


def test_an_unconditional_sample_needs_no_context(model, sample):
    context = model.encode_context({}, None)
    x = only(sample, "first_frame", "later_frames")
    out, _ = model(x, constant(0.5, *x.values()), context)
    assert out["first_frame"].shape == (2, 6, 768)
    assert out["later_frames"].shape == (2, 12, 768)


def test_untrained_network_predicts_that_nothing_moves(sample):
    """Also where the first frame was lightly noised: the base is the frame itself."""
    model = Network(CONFIG)
    first, x = sample["first_frame"], only(sample, "later_frames")
    noised = first.with_tokens(first.tokens + 0.1)
    level = {"first_frame": torch.full((2,), 0.1)}
    for context in (
        model.encode_context({"first_frame": first}, ["a", "b"]),
        model.encode_context(
            {"first_frame": noised}, ["a", "b"], level, base={"first_frame": first.tokens}
        ),
    ):
        out, _ = model(x, constant(0.5, sample["later_frames"]), context)
        assert torch.equal(out["later_frames"], first.tokens.repeat(1, 2, 1))


def test_what_a_network_does_not_know_is_one_clear_line(model, sample):
    with pytest.raises(UserError, match="slot of this network 'sound'"):
        model.encode_context({"sound": sample["actions"]})
    with pytest.raises(UserError, match="actions, first_frame, later_frames"):
        model({"depth": sample["actions"]}, constant(0.5, sample["actions"]), None)
    with pytest.raises(UserError, match="no classes"):
        model.encode_context({}, labels=torch.tensor([1]))
    with pytest.raises(UserError, match="not as embeddings"):
        model.encode_context({}, torch.zeros(2, 3, 8))
    image = Network(image_config(SIT, latent_size=8))
    with pytest.raises(UserError, match="no words"):
        image.encode_context({}, ["pick"])


def test_words_can_be_embeddings_of_a_frozen_encoder(sample):
    text = TextConfig("embeddings", channels=8)
    model = waken(Network(replace(CONFIG, text=text)))
    x, t = only(sample, "actions"), constant(0.5, sample["actions"])
    words = torch.randn(2, 3, 8)
    out, _ = model(x, t, model.encode_context({}, words))
    other, _ = model(x, t, model.encode_context({}, words + 1))
    assert not torch.allclose(out["actions"], other["actions"])


def test_no_label_is_the_null_label():
    torch.manual_seed(0)
    for num_classes in (0, 3):
        model = waken(Network(replace(CONFIG, num_classes=num_classes, text=None)))
        x = as_slots(model, {"actions": torch.randn(2, 6, 7)})
        t = constant(0.5, x["actions"])
        none, _ = model(x, t, model.encode_context({}))
        null, _ = model(x, t, model.encode_context({}, labels=torch.full((2,), num_classes)))
        torch.testing.assert_close(none["actions"], null["actions"])


def test_a_configuration_survives_json():
    for config in (CONFIG, image_config(SIT, latent_size=8), replace(CONFIG, text=None)):
        assert NetworkConfig.from_json(json.loads(json.dumps(config.to_json()))) == config


def test_pixels_survive_the_autoencoder():
    g = torch.Generator().manual_seed(0)
    frames = torch.randint(0, 256, (2, 3, 32, 48, 3), generator=g, dtype=torch.uint8)
    auto = PixelPatches((32, 48), 16)
    tokens = auto.encode(frames)
    assert tokens.shape == (2, 3 * 6, 768)
    assert torch.equal(auto.decode(tokens), frames)
    # Token 1 of a frame is the patch to the right of token 0.
    patch = frames[0, 0, :16, 16:32].flatten() / 127.5 - 1
    torch.testing.assert_close(tokens[0, 1], patch)


@pytest.mark.parametrize("size", [(33, 48), (8, 48)])
def test_a_picture_that_does_not_divide_into_patches_is_refused(size):
    with pytest.raises(UserError, match="does not divide"):
        PixelPatches(size, 16)


def test_frames_of_another_size_are_refused():
    with pytest.raises(UserError, match="resize"):
        PixelPatches((32, 48), 16).encode(torch.zeros(1, 1, 32, 32, 3, dtype=torch.uint8))


def test_text_is_bytes_and_empty_text_still_has_a_place(model):
    ids = text_bytes(["pick", ""])
    assert ids[0, 1:5].tolist() == list(b"pick")
    tokens = model.encode_words(["pick coke can", "", "pick coke can", "Größe 7"])
    assert tokens.isfinite().all()
    assert torch.equal(tokens[0], tokens[2])
    assert not torch.allclose(tokens[0], tokens[1])


SORT = "open the top drawer, take the sponge out, close the drawer and put it on the left plate"


def test_long_instructions_stay_apart_and_what_does_not_fit_is_refused(model):
    other = SORT.replace("left", "right")
    tokens = model.encode_words([SORT, other, "x" * 127])
    assert not torch.allclose(tokens[0], tokens[1])
    with pytest.raises(UserError, match=r"text_bytes=128"):
        model.encode_words(["x" * 128])
    with pytest.raises(UserError, match="Unicode"):
        model.encode_words(["\ud800"])


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


def test_width_must_divide_into_heads():
    with pytest.raises(UserError, match="divisible by heads"):
        SiTConfig(width=50, heads=3)
