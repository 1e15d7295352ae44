"""The class-conditional network for pictures."""

from pathlib import Path

import pytest
import torch
import yaml

from selfflow_robotics.errors import UserError
from selfflow_robotics.modalities.base import FRAMES
from selfflow_robotics.modalities.latents import patchify, unpatchify
from selfflow_robotics.models.network import Network
from selfflow_robotics.models.presets import SIZES, image_config
from selfflow_robotics.models.sit import SiTConfig
from selfflow_robotics.timesteps import Timesteps
from tests.networks import ask_image, waken

SIT = SiTConfig(width=48, depth=3, heads=3)
CONFIG = image_config(SIT, latent_size=8, num_classes=10)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return waken(Network(CONFIG), std=0.1)


@pytest.fixture
def tokens():
    return torch.randn(2, 16, 16, generator=torch.Generator().manual_seed(1))


LABELS = torch.tensor([3, 10])


def test_a_token_holds_its_patch_channel_by_channel():
    latents = torch.arange(2 * 4 * 6 * 6).reshape(2, 4, 6, 6)
    tokens = patchify(latents, 2)
    assert tokens.shape == (2, 9, 16)
    # The token of the second row and third column of patches.
    assert torch.equal(tokens[1, 5], latents[1, :, 2:4, 4:6].flatten())
    assert torch.equal(unpatchify(tokens, 2), latents)


def test_a_new_network_predicts_nothing_and_its_label_table_has_a_null_row():
    model = Network(CONFIG)
    x = torch.randn(1, 16, 16, generator=torch.Generator().manual_seed(1))
    velocity, features = ask_image(
        model, x, Timesteps.constant(0.5, x), torch.tensor([CONFIG.null_label])
    )
    assert torch.equal(velocity, torch.zeros_like(x))
    assert features == {}
    assert not any("positions" in name for name in model.state_dict())


def test_label_timestep_and_place_of_every_token_count(model, tokens):
    def velocity(labels=LABELS, t=0.5, x=tokens):
        return ask_image(model, x, Timesteps.constant(t, x), labels)[0]

    plain = velocity()
    assert not torch.allclose(plain, velocity(t=0.4))
    other = velocity(labels=torch.tensor([3, 9]))
    torch.testing.assert_close(plain[0], other[0])
    assert not torch.allclose(plain[1], other[1])
    turned = velocity(x=tokens.roll(1, dims=1)).roll(-1, dims=1)
    assert not torch.allclose(plain, turned)


def test_modulation_is_computed_for_distinct_timesteps_only(model, tokens):
    """Few values spread by index give what a value for every token gives."""
    seen = []
    hook = model.backbone.blocks[0].adaLN_modulation.register_forward_hook(
        lambda _module, args, _out: seen.append(args[0].shape[1])
    )
    index = torch.randint(0, 2, (2, 16), generator=torch.Generator().manual_seed(2))
    values = torch.tensor([[0.2, 0.9], [0.7, 0.1]])
    two, _ = ask_image(model, tokens, (values, index), LABELS)
    each = (values.gather(1, index), torch.arange(16).expand(2, -1))
    all_of_them, _ = ask_image(model, tokens, each, LABELS)
    hook.remove()
    torch.testing.assert_close(two, all_of_them, rtol=1e-5, atol=1e-6)
    assert seen == [2, 16]


def test_features_are_those_of_the_layer_and_nothing_after_it_is_computed(model, tokens):
    timesteps = Timesteps.constant(0.3, tokens)
    _, whole = ask_image(model, tokens, timesteps, LABELS, layers=(2,))
    ran = []
    hooks = [
        module.register_forward_hook(lambda module, _args, _out: ran.append(module))
        for module in (*model.backbone.blocks, model.adapters[FRAMES].final_layer)
    ]
    velocity, alone = ask_image(model, tokens, timesteps, LABELS, layers=(2,), stop=True)
    for hook in hooks:
        hook.remove()
    assert velocity is None
    assert torch.equal(whole[2], alone[2])
    assert ran == list(model.backbone.blocks[:2])


def test_rows_of_the_variance_do_not_touch_the_velocity(model, tokens):
    velocity, _ = ask_image(model, tokens, Timesteps.constant(0.3, tokens), LABELS)
    assert velocity.shape == tokens.shape
    velocity.sum().backward()
    used = model.adapters[FRAMES].final_layer.linear.weight.grad.abs().sum(dim=1) > 0
    assert used.tolist() == [True] * 16 + [False] * 16
    model.zero_grad()


def test_xl_has_the_size_of_the_paper():
    with torch.device("meta"):
        model = Network(image_config(SIZES["XL"]))
    count = sum(p.numel() for p in model.parameters())
    projector = sum(p.numel() for p in model.projector.parameters())
    assert projector == 2 * (1152 * 2304) + 2304 + 1152
    assert (count - projector) / 1e6 == pytest.approx(675, abs=1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"latent_size": 31}, "divisible by patch"),
        ({"channels": 0}, "at least 1"),
        ({"num_classes": -1}, "at least 0"),
        ({"feature_channels": 0}, "at least 1"),
    ],
)
def test_impossible_shapes_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        image_config(SIT, **settings)
    with pytest.raises(UserError, match="divisible by 4"):
        SiTConfig(width=30, depth=1, heads=3)


@pytest.mark.parametrize("name", SIZES)
def test_the_sizes_of_the_commands_are_those_of_the_library(name):
    path = Path(__file__).parents[2] / "configs" / "size" / f"{name}.yaml"
    assert SiTConfig(**yaml.safe_load(path.read_text())["model"]["sit"]) == SIZES[name]
