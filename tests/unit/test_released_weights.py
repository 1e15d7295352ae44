"""The released model: same weights, same velocities, features and samples, recorded from itself.

`golden/official_tiny.safetensors` holds a small copy of the release's architecture with random
weights, and what the release's own code made of them.
"""

import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from selfflow_robotics.errors import UserError
from selfflow_robotics.inference.sample import sample
from selfflow_robotics.modalities.base import FRAMES
from selfflow_robotics.models.convert import from_released, load_released, to_released
from selfflow_robotics.models.network import Network
from selfflow_robotics.models.presets import RELEASED_TIME, SIZES, image_config
from selfflow_robotics.models.sit import SiTConfig
from tests.networks import ask_image, frames_slot

PATH = Path(__file__).parents[1] / "golden" / "official_tiny.safetensors"
HEADS = 4


@pytest.fixture(scope="module")
def golden():
    return load_file(PATH)


@pytest.fixture
def released(golden):
    """The release's state dict, by its plain names."""
    return {k.removeprefix("model."): v for k, v in golden.items() if k.startswith("model.")}


@pytest.fixture(scope="module")
def recorded(golden):
    return {k.removeprefix("io."): v for k, v in golden.items() if k.startswith("io.")}


@pytest.fixture
def model(released):
    config, state = from_released(released, HEADS)
    model = Network(config)
    model.load_state_dict(state)
    return model


def per_token(t):
    """Recorded timesteps, [B] or [B, N], with a value for every token or one for all."""
    if t.ndim == 1:
        return t[:, None], torch.zeros(len(t), 16, dtype=torch.long)
    return t, torch.arange(16).expand(len(t), -1)


@pytest.mark.parametrize("case", ["dual", "random", "scalar"])
def test_velocities_and_features_equal_the_release(model, recorded, case):
    timesteps = per_token(recorded[f"t_{case}"])
    with torch.no_grad():
        velocity, raw = ask_image(model, recorded["x"], timesteps, recorded["labels"], (3,))
        _, first = ask_image(model, recorded["x"], timesteps, recorded["labels"], (1,), stop=True)
        projected = model.projector(first[1])
    close = {"rtol": 0, "atol": 1e-6}  # values reach 1.6
    torch.testing.assert_close(velocity, recorded[f"v_{case}"], **close)
    torch.testing.assert_close(raw[3], recorded[f"raw3_{case}"], **close)
    torch.testing.assert_close(projected, recorded[f"proj1_{case}"], **close)


def test_two_values_and_their_mask_equal_the_release(model, recorded):
    t, mask = recorded["t_dual"], recorded["dual_mask"].long()
    values = torch.stack([torch.stack([t[i][mask[i] == j][0] for j in (0, 1)]) for i in range(3)])
    with torch.no_grad():
        velocity, _ = ask_image(model, recorded["x"], (values, mask), recorded["labels"])
    torch.testing.assert_close(velocity, recorded["v_dual"], rtol=0, atol=1e-6)


def replay(*draws):
    left = iter(draws)
    return lambda _shape: next(left)


def samples(model, recorded, draws, **settings):
    """Tokens [B, N, C]; patches of latents in (c p q) order, as they were recorded."""
    start = frames_slot(model, recorded["sde_init"])
    settings = {"labels": recorded["labels"], "method": "sde", "num_steps": 12, **settings}
    return sample(model, {"first_frame": start}, normal=replay(*draws), **settings)["first_frame"]


def test_stochastic_samples_equal_the_release(model, recorded):
    tokens = samples(model, recorded, recorded["sde_draws"])
    torch.testing.assert_close(tokens, recorded["sde_out"], rtol=0, atol=1e-5)


def test_guided_samples_equal_the_release(model, recorded):
    """The release carries an unconditional half along; what it makes of it is thrown away."""
    settings = {"guidance_scale": 2.5, "guidance_interval": (0.0, 0.7)}
    tokens = samples(model, recorded, recorded["cfg_draws"][:, 3:], **settings)
    expected = recorded["cfg_out_uncond_then_cond"][3:]
    torch.testing.assert_close(tokens, expected, rtol=0, atol=1e-5)


def assert_same(state, other):
    assert state.keys() == other.keys()
    for name, tensor in state.items():
        assert torch.equal(tensor, other[name]), name


def test_there_and_back_changes_no_bit(model, released):
    back = to_released(model.state_dict(), model.config)
    assert_same(back, released)
    assert_same(from_released(back, HEADS)[1], model.state_dict())


def test_the_configuration_is_read_off_the_tensors(model):
    sit = model.config.backbone
    assert (sit.width, sit.depth, sit.heads, sit.mlp_ratio) == (48, 4, 4, 4.0)
    assert (sit.timestep_scale, sit.timestep_origin) == (1.0, 1.0)
    frames = model.config.adapters[FRAMES]
    assert (frames.grid, frames.channels, frames.learn_sigma) == ((4, 4), 16, True)
    assert model.config.num_classes == 10


def test_a_network_without_variance_goes_there_and_back():
    sit = SiTConfig(**RELEASED_TIME)
    config = image_config(sit, latent_size=8, num_classes=2, learn_sigma=False)
    state = Network(config).state_dict()
    again, back = from_released(to_released(state, config), heads=sit.heads)
    assert again == config
    assert_same(back, state)


def test_xl_has_the_names_of_the_release_and_is_recognised():
    config = image_config(replace(SIZES["XL"], **RELEASED_TIME))
    with torch.device("meta"):
        state = to_released(Network(config).state_dict(), config)
    layers = ["x_embedder.proj", "t_embedder.mlp.0", "t_embedder.mlp.2", "final_layer.linear"]
    layers += ["final_layer.adaLN_modulation.1", "projector.linear1", "projector.linear2"]
    inside = ["attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2", "adaLN_modulation.1"]
    layers += [f"blocks.{i}.{name}" for i in range(28) for name in inside]
    names = {f"{layer}.{kind}" for layer in layers for kind in ("weight", "bias")}
    assert state.keys() == names | {"pos_embed", "y_embedder.embedding_table.weight"}
    assert state["pos_embed"].shape == (1, 256, 1152)
    assert state["y_embedder.embedding_table.weight"].shape == (1001, 1152)
    assert from_released(state)[0] == config


@pytest.mark.parametrize("wrapper", ["model", "state_dict"])
@pytest.mark.parametrize("prefix", ["", "module.", "model.", "module.model.", "model.module."])
def test_wrappers_and_prefixes_are_taken_off(released, model, wrapper, prefix):
    wrapped = {wrapper: {prefix + name: v for name, v in released.items()}}
    assert_same(from_released(wrapped, HEADS)[1], model.state_dict())


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_weights_are_read_from_a_file(released, model, recorded, tmp_path, suffix):
    path = tmp_path / f"weights{suffix}"
    if suffix == ".pt":
        torch.save({"model": released}, path)
    else:
        save_file(released, path)
    loaded = load_released(path, HEADS)
    assert_same(loaded.state_dict(), model.state_dict())
    assert torch.equal(
        loaded.adapters[FRAMES].grid_positions, model.adapters[FRAMES].grid_positions
    )
    assert all(p.requires_grad for p in loaded.parameters())
    path.write_bytes(path.read_bytes()[:-5000])
    with pytest.raises(UserError, match=r"truncated .*download it again") as error:
        load_released(path, HEADS)
    assert "\n" not in str(error.value)


class Foreign:
    """Something that only running code could restore."""


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"not weights", r"is truncated or no weights file; download it again$"),
        ({"model": Foreign()}, r"holds Python objects, not plain tensors; download it again$"),
        (b"", r"is truncated or no weights file; download it again$"),
        ({1: torch.zeros(2)}, "no named floating-point tensors: 1$"),
        ({"a": torch.zeros(2, dtype=torch.int64)}, "no named floating-point tensors: a$"),
        ([1, 2], "no state dict"),
        ({"model": {"epoch": 3}}, "no named floating-point tensors: epoch"),
        ({"fc.weight": torch.zeros(2)}, r"has no x_embedder.proj.weight"),
        (None, "there is no file"),
    ],
)
def test_foreign_files_are_one_clear_line(tmp_path, content, message):
    path = tmp_path / "weights.pt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        foreign = isinstance(content, dict) and isinstance(content.get("model"), Foreign)
        torch.save(content, path, pickle_protocol=4 if foreign else 2)  # torch warns of 4
    with warnings.catch_warnings(action="error"), pytest.raises(UserError, match=message) as error:
        load_released(path)
    assert "\n" not in str(error.value)


def test_other_endings_are_refused():
    with pytest.raises(UserError, match=r"neither \.pt nor \.safetensors"):
        load_released("weights.bin")


def test_missing_unknown_and_misshapen_tensors_are_named(released):
    def converted(**changes):
        from_released({k: v for k, v in {**released, **changes}.items() if v is not None}, HEADS)

    with pytest.raises(UserError, match=r"lacks 1 tensors: blocks\.2\.attn\.qkv\.bias"):
        converted(**{"blocks.2.attn.qkv.bias": None})
    with pytest.raises(UserError, match=r"has 5 unknown: a; b; c and 2 more"):
        converted(**dict.fromkeys("abcde", torch.zeros(1)))
    with pytest.raises(UserError, match=r"blocks\.1\.mlp\.fc1\.bias is \(5,\), should be \(192,\)"):
        converted(**{"blocks.1.mlp.fc1.bias": torch.zeros(5)})
    with pytest.raises(UserError, match="not the fixed sine-cosine grid"):
        converted(pos_embed=released["pos_embed"].roll(1, dims=1))
    with pytest.raises(UserError, match="pass heads"):
        from_released(released)
