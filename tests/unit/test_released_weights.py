"""The released model: same weights, same velocities, features and samples, recorded from itself.

`golden/official_tiny.safetensors` holds a small copy of the release's architecture with random
weights, and what the release's own code made of them.
"""

import os
import re
import warnings
import zipfile
from argparse import Namespace
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from selfflow_robotics.errors import UserError
from selfflow_robotics.inference.sample import sample
from selfflow_robotics.modalities.base import FRAMES
from selfflow_robotics.models.convert import (
    from_released,
    read_released,
    to_released,
)
from selfflow_robotics.models.network import Network
from selfflow_robotics.models.presets import RELEASED_TIME, SIZES, image_config
from selfflow_robotics.models.sit import SiTConfig
from selfflow_robotics.models.weights_file import find_weights
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


PREFIXES = ["", "module.", "model.", "module.model.", "_orig_mod.module.", "net.", "0."]


@pytest.mark.parametrize("wrapper", ["model", "state_dict", "ema", "model_ema"])
@pytest.mark.parametrize("prefix", PREFIXES)
def test_wrappers_and_prefixes_are_taken_off(released, model, wrapper, prefix):
    wrapped = {wrapper: {prefix + name: v for name, v in released.items()}, "epoch": 3}
    assert_same(from_released(wrapped, HEADS)[1], model.state_dict())


def test_compiled_and_sharded_blocks_have_the_plain_names(released, model):
    def renamed(name):
        name = name.replace("attn.", "_fsdp_wrapped_module.attn.")
        return re.sub(r"blocks\.(\d+)\.", r"blocks.\1._orig_mod.", name)

    wrapped = {renamed(name): v for name, v in released.items()}
    assert wrapped.keys() != released.keys()
    assert_same(from_released(wrapped, HEADS)[1], model.state_dict())


def under(prefix, state):
    return {prefix + name: v for name, v in state.items()}


STEP = torch.tensor(7)
# Where a training script keeps the raw weights (r) and their moving average (e).
LAYOUTS = {
    "DiT": lambda r, e: {"model": r, "ema": e, "opt": {"state": {}}, "args": Namespace(lr=1)},
    "timm": lambda r, e: {"state_dict": r, "state_dict_ema": e, "arch": "sit"},
    "DDP": lambda r, e: {"model": under("module.", r), "ema": under("module.", e)},
    "compiled": lambda r, e: under("_orig_mod.", r) | under("ema._orig_mod.", e),
    "Lightning": lambda r, e: {"state_dict": under("net.", r) | under("net_ema.module.", e)},
    "averaged": lambda r, e: {"net": r, "swa_model": {"n_averaged": STEP} | under("module.", e)},
    "inside": lambda r, e: {"ema": under("online_model.", r) | under("ema_model.", e)},
    "deep": lambda r, e: {"a": [{"modelEMA": {"module": e}}, {"model": r}], "n": [[1]]},
    "beside": lambda r, e: {**r, "ema": {"shadow": e}},
    "Adam": lambda r, e: {"optimizer": {"exp_avg": r, "exp_avg_sq": r}, "ema_params": e},
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_moving_average_is_taken_wherever_it_lies(released, model, tmp_path, layout):
    raw = {name: v if name == "pos_embed" else v + 1 for name, v in released.items()}
    torch.save(LAYOUTS[layout](raw, released), tmp_path / "w.pt")
    found, taken = read_released(tmp_path / "w.pt", HEADS)
    assert_same(found.state_dict(), model.state_dict())
    assert "moving average" in taken


@pytest.mark.parametrize(
    ("layout", "named"),
    [
        (lambda r: {"generator": r, "network": r}, ["generator", "network"]),
        (lambda r: {"ema_0.999": r, "ema_0.9999": r, "model": r}, ["ema_0.999", "ema_0.9999"]),
        (lambda r: {"student": r, "teacher": r}, ["student", "teacher"]),
        (lambda r: {"model": r, "ema": {"shadow_params": list(r.values())}}, ["shadow_params"]),
        (lambda r: {"model": r, "opt": [{"ema": tuple(r.values())}]}, ["opt.0.ema"]),
        (lambda r: r | {f"model_ema.{n.replace('.', '')}": v for n, v in r.items()}, ["model_ema"]),
        (lambda r: under("_orig_mod.", r) | r, ["twice"]),
    ],
)
def test_what_cannot_be_told_is_refused_with_a_way_to_save_it(released, layout, named):
    with pytest.raises(UserError) as error:
        from_released(layout(released), HEADS)
    assert all(name in str(error.value) for name in [*named, "torch.save("])
    assert "\n" not in str(error.value)


def endless():
    inside = {}
    inside["again"] = inside
    return inside


def doubled():
    inside = [torch.zeros(1)]
    for _ in range(30):
        inside = [inside, inside]
    return inside


@pytest.mark.parametrize(
    "craft",
    [
        lambda r: endless(),
        lambda r: doubled(),
        lambda r: r | {"x_embedder.proj.weight": torch.zeros(1).expand(10**9, 16)},
        lambda r: r | {"pos_embed": torch.zeros(1, 10**12, 0)},
        lambda r: r | {"blocks.999999999.attn.qkv.weight": torch.zeros(1)},
        lambda r: r | {"final_layer.linear.weight": torch.zeros(32, 48).to_sparse()},
        lambda r: r | {"final_layer.linear.weight": torch.zeros(32, 48, dtype=torch.complex64)},
        lambda r: r | {"final_layer.linear.weight": torch.zeros(32, 48, device="meta")},
    ],
)
def test_crafted_tensors_are_one_line_and_fill_no_memory(released, tmp_path, craft):
    path = tmp_path / "weights.pt"
    torch.save(craft(released), path)
    with pytest.raises(UserError) as error:
        read_released(path, HEADS)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["blocks.0.mlp.fc1.weight", "y_embedder.embedding_table.weight"])
def test_weights_that_are_not_finite_are_named(released, tmp_path, name, value):
    path = tmp_path / "weights.pt"
    broken = released[name].clone()
    broken[0, 0] = value
    torch.save(released | {name: broken}, path)
    with pytest.raises(UserError, match=name):
        read_released(path, HEADS)


def test_a_compressed_file_is_not_unpacked(released, tmp_path):
    torch.save({"a": torch.zeros(10**6)}, tmp_path / "plain.pt")
    with (
        zipfile.ZipFile(tmp_path / "plain.pt") as plain,
        zipfile.ZipFile(tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as bomb,
    ):
        for name in plain.namelist():
            bomb.writestr(name, plain.read(name))
    with pytest.raises(UserError, match="compressed"):
        read_released(tmp_path / "bomb.pt")


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "weights.pt")
    with pytest.raises(UserError):
        read_released(tmp_path / "weights.pt")


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_weights_are_read_from_a_file(released, model, recorded, tmp_path, suffix):
    path = tmp_path / f"weights{suffix}"
    if suffix == ".pt":
        torch.save({"model": released}, path)
    else:
        save_file(released, path)
    loaded, _ = read_released(path, HEADS)
    assert_same(loaded.state_dict(), model.state_dict())
    assert torch.equal(
        loaded.adapters[FRAMES].grid_positions, model.adapters[FRAMES].grid_positions
    )
    assert all(p.requires_grad for p in loaded.parameters())
    path.write_bytes(path.read_bytes()[:-5000])
    with pytest.raises(UserError, match=r"truncated .*download it again") as error:
        read_released(path, HEADS)
    assert "\n" not in str(error.value)


class Foreign:
    """Something that only running code could restore."""


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"not weights", r"is truncated or not a weights file; download it again$"),
        ({"model": Foreign()}, "Python objects, not plain tensors"),
        (b"", r"is truncated or not a weights file; download it again$"),
        ({1: torch.zeros(2)}, r"has no x_embedder.proj.weight"),
        ({"x_embedder.proj.weight": torch.zeros(2, dtype=torch.int64)}, "non-floating-point"),
        ([1, 2], "no tensors"),
        ({"model": {"epoch": 3}}, "no tensors"),
        ({"fc.weight": torch.zeros(2)}, r"has no x_embedder.proj.weight"),
        (None, "does not exist"),
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
        read_released(path)
    assert "\n" not in str(error.value)


def test_other_endings_are_refused():
    with pytest.raises(UserError, match=r"neither \.pt nor \.safetensors"):
        read_released("weights.bin")


def test_missing_unknown_and_misshapen_tensors_are_named(released):
    def converted(**changes):
        from_released({k: v for k, v in {**released, **changes}.items() if v is not None}, HEADS)

    with pytest.raises(UserError, match=r"lacks 1 tensors: blocks\.2\.attn\.qkv\.bias"):
        converted(**{"blocks.2.attn.qkv.bias": None})
    with pytest.raises(UserError, match=r"has 5 unknown tensors: a; b; c and 2 more"):
        converted(**dict.fromkeys("abcde", torch.zeros(1)))
    with pytest.raises(UserError, match=r"blocks\.1\.mlp\.fc1\.bias is \(5,\), should be \(192,\)"):
        converted(**{"blocks.1.mlp.fc1.bias": torch.zeros(5)})
    with pytest.raises(UserError, match="not the fixed sine-cosine grid"):
        converted(pos_embed=released["pos_embed"].roll(1, dims=1))
    with pytest.raises(UserError, match="pass heads"):
        from_released(released)


def test_a_moving_average_cut_short_is_refused_and_never_replaced_by_raw_weights():
    raw = {name: torch.ones(2) for name in ("x_embedder.proj.weight", "a", "b", "c")}
    with pytest.raises(UserError, match="moving average"):
        find_weights({"model": raw, "ema": {"a": torch.zeros(2)}}, "x_embedder.proj.weight")
