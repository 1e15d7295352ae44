"""Vision transformers of transformers and torch.hub, at a tiny size with random weights."""

import json
import sys
from urllib.error import URLError

import pytest
import torch

from selfflow_robotics.encoders.load import load_encoder
from selfflow_robotics.errors import UserError
from selfflow_robotics.rng import torch_generator

MEAN, STD = [0.5, 0.4, 0.3], [0.2, 0.25, 0.3]
SHAPE = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 7,
}


def frames(*shape: int) -> torch.Tensor:
    return torch.randint(
        0, 256, (*shape, 3), dtype=torch.uint8, generator=torch_generator("test", 0)
    )


def normalised(pictures: torch.Tensor, mean, std) -> torch.Tensor:
    pixels = (pictures / 255 - torch.tensor(mean)) / torch.tensor(std)
    return pixels.permute(0, 3, 1, 2)


def write_encoder(folder, kind="Dinov2", **settings):
    """A tiny network of a class of transformers as a folder; returns it."""
    transformers = pytest.importorskip(
        "transformers", reason="the extra 'encoders' is not installed"
    )
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**SHAPE, **settings)
    network = getattr(transformers, f"{kind}Model")(config).eval()
    network.save_pretrained(folder)
    pictures = {"image_mean": MEAN, "image_std": STD, "crop_size": {"height": 28, "width": 28}}
    (folder / "preprocessor_config.json").write_text(json.dumps(pictures))
    return network


@pytest.mark.parametrize(
    ("kind", "settings", "extra"),
    [
        ("Dinov2", {}, 1),
        ("Dinov2WithRegisters", {"num_register_tokens": 4}, 5),
        ("ViT", {"intermediate_size": 32}, 1),
        ("SiglipVision", {"intermediate_size": 32}, 0),
    ],
)
def test_features_are_the_last_layers_patches(tmp_path, kind, settings, extra):
    network = write_encoder(tmp_path, kind, **settings)
    pictures = frames(2, 28, 28)
    encoder = load_encoder(f"hf:{tmp_path}")
    with torch.no_grad():
        states = network(pixel_values=normalised(pictures, MEAN, STD)).last_hidden_state
    expected = states[:, extra:]
    features = encoder(pictures, (4, 4))
    assert features.shape == (2, 16, encoder.channels) == (2, 16, 16)
    torch.testing.assert_close(features, expected, rtol=1e-4, atol=1e-5)
    # Half as many tokens along a side: each is the mean of its own 2 x 2 patches.
    of_four = expected.view(2, 2, 2, 2, 2, 16).mean(dim=(2, 4)).view(2, 4, 16)
    torch.testing.assert_close(encoder(pictures, (2, 2)), of_four, rtol=1e-4, atol=1e-5)
    # Another shape and more tokens than the encoder is used to.
    assert encoder(frames(1, 64, 80), (4, 5)).shape == (1, 20, 16)
    assert encoder(frames(1, 64, 80), (8, 10)).shape == (1, 80, 16)


def _without_weights(folder):
    (folder / "model.safetensors").unlink()


def _cut(folder):
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-50])


def _without_pictures(folder):
    (folder / "preprocessor_config.json").unlink()


def _without_mean(folder):
    (folder / "preprocessor_config.json").write_text("{}")


def _deeper(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 2}))


def _of_words(folder):
    (folder / "config.json").write_text(json.dumps({"model_type": "no_such_model"}))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_without_weights, "cannot read the encoder hf:"),
        (_cut, "cannot read the encoder hf:"),
        (_without_pictures, "cannot read the encoder hf:"),
        (_without_mean, "patch size or image statistics"),
        (_deeper, r"do not match config\.json: "),
        (_of_words, "cannot read the encoder hf:"),
    ],
)
def test_an_unfit_folder_is_one_line(tmp_path, capfd, spoil, message):
    write_encoder(tmp_path)
    spoil(tmp_path)
    capfd.readouterr()  # what writing it said
    with pytest.raises(UserError, match=message) as caught:
        load_encoder(f"hf:{tmp_path}")
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("name", ["hf:somebody/no-such-encoder", "hf:no/such/folder"])
def test_a_model_that_is_not_here_is_one_line(name):
    pytest.importorskip("transformers", reason="the extra 'encoders' is not installed")
    with pytest.raises(UserError, match="encoder_download=true") as caught:
        load_encoder(name)
    assert "\n" not in str(caught.value)


def test_without_transformers_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UserError, match=r"pip install 'selfflow_robotics\[encoders\]'"):
        load_encoder("dinov2-b")


HUB = """
import torch

class Mean(torch.nn.Module):
    patch_size, num_register_tokens = 14, 4

    def forward_features(self, x):
        patches = torch.nn.functional.avg_pool2d(x, 14).flatten(2).mT
        return {"x_norm_patchtokens": patches}

def mean():
    return Mean()

def in_one_tensor():
    class Plain(Mean):
        def forward_features(self, x):
            patches = super().forward_features(x)["x_norm_patchtokens"]
            return torch.cat([torch.zeros(len(x), 1, 3), patches], dim=1)
    return Plain()

def pooled():
    class Pooled(Mean):
        def forward_features(self, x):
            return x.mean(dim=(2, 3))
    return Pooled()

def fetches():
    torch.hub.load_state_dict_from_url("https://localhost/weights.pth")
"""


@pytest.mark.parametrize("model", ["mean", "in_one_tensor"])
def test_torch_hub_gives_patches_with_or_without_a_class_token(tmp_path, model):
    (tmp_path / "hubconf.py").write_text(HUB)
    encoder = load_encoder(f"hub:{tmp_path}:{model}")
    pictures = frames(1, 224, 224)
    pixels = normalised(pictures, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    expected = torch.nn.functional.avg_pool2d(pixels, 56).flatten(2).mT
    torch.testing.assert_close(encoder(pictures, (4, 4)), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("{hub}:pooled", "does not return patch features"),
        ("{hub}:missing", "cannot read the encoder hub:"),
        ("{hub}:fetches", "encoder_download=true"),
        ("somebody/no-such-repository:model", "encoder_download=true"),
    ],
)
def test_an_unfit_model_of_torch_hub_is_one_line(tmp_path, monkeypatch, name, message):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    (tmp_path / "hubconf.py").write_text(HUB)
    with pytest.raises(UserError, match=message) as caught:
        load_encoder("hub:" + name.format(hub=tmp_path))
    assert "\n" not in str(caught.value)


def test_a_download_that_fails_is_one_line(tmp_path, monkeypatch):
    def no_network(*_, **__):
        raise URLError("no route to host")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "load", no_network)
    with pytest.raises(UserError, match=r"cannot download the encoder hub:a/b:c \(.*no route"):
        load_encoder("hub:a/b:c", download=True)
