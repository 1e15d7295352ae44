"""Frozen text encoders, tiny and with random weights, and the embeddings kept beside a run."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from selfflow_robotics.errors import UserError
from selfflow_robotics.rng import torch_generator
from selfflow_robotics.text.encoder import TextEncoderConfig
from selfflow_robotics.text.store import FILE, TextStore, load_text_encoder
from selfflow_robotics.text.word_pieces import WordLlamaEncoder

tokenizers = pytest.importorskip("tokenizers", reason="the extra 'text' is not installed")
transformers = pytest.importorskip("transformers", reason="the extra 'text' is not installed")

WORDS = ["<pad>", "</s>", "<unk>", "pick", "move", "coke", "can", "apple", "near", "orange"]
TEXTS = ["pick coke can", "move apple near orange", "move orange near apple"]


def word_tokenizer(**special):
    vocabulary = {word: number for number, word in enumerate(WORDS)}
    model = tokenizers.models.WordLevel(vocabulary, unk_token="<unk>")
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    if not special:
        return tokenizer
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)


def write_text_encoder(folder, kind="t5", seed=0):
    """A tiny T5 or CLIP with a vocabulary of ten words."""
    torch.manual_seed(seed)
    if kind == "t5":
        config = transformers.T5Config(
            vocab_size=10, d_model=16, d_kv=4, d_ff=16, num_layers=1, num_heads=2
        )
        network = transformers.T5EncoderModel(config)
    else:
        config = transformers.CLIPTextConfig(
            vocab_size=10,
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=6,
            eos_token_id=1,
        )
        network = transformers.CLIPTextModel(config)
    network.save_pretrained(folder)
    tokens = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    word_tokenizer(**tokens).save_pretrained(folder)
    return f"hf:{folder}"


def wordllama(tokens=8, seed=0):
    table = torch.randn(10, 16, generator=torch_generator("test", seed))
    return WordLlamaEncoder(table, word_tokenizer(), tokens)


@pytest.fixture(params=["t5", "clip", "wordllama"])
def encoder(request, tmp_path):
    if request.param == "wordllama":
        return wordllama()
    name = write_text_encoder(tmp_path / "encoder", request.param)
    return load_text_encoder(TextEncoderConfig(name, 8))


def test_a_texts_embeddings_do_not_depend_on_the_others(encoder):
    together = encoder.encode([*TEXTS, ""])
    assert together.shape == (4, encoder.tokens, encoder.channels)
    assert together.dtype == torch.float32
    for text, row in zip([*TEXTS, ""], together, strict=True):
        assert (encoder.encode([text])[0] == row).all()
    assert (together[0, 4:] == 0).all()  # three words, and perhaps an end
    assert (together[0, :3] != 0).any(dim=-1).all()


def test_the_order_of_words_is_not_lost(encoder):
    one, other = encoder.encode(TEXTS[1:])
    assert not torch.allclose(one.sum(0), other.sum(0)) or not torch.allclose(
        one.sort(dim=0).values, other.sort(dim=0).values
    )


def test_a_longer_text_is_one_line_and_never_cut(encoder):
    long = " ".join(["apple"] * 9)
    with pytest.raises(UserError, match="longer than the") as caught:
        encoder.encode([TEXTS[0], long])
    assert "\n" not in str(caught.value)
    assert long in str(caught.value)


def test_the_fingerprint_is_of_weights_words_and_length(tmp_path):
    assert wordllama().fingerprint == wordllama().fingerprint
    assert len({wordllama(*x).fingerprint for x in ((8, 0), (8, 1), (9, 0))}) == 3
    prints = set()
    for kind, seed in (("t5", 0), ("t5", 1), ("clip", 0)):
        name = write_text_encoder(tmp_path / f"{kind}{seed}", kind, seed)
        prints.add(load_text_encoder(TextEncoderConfig(name, 5)).fingerprint)
        assert load_text_encoder(TextEncoderConfig(name, 5)).fingerprint in prints
    assert len(prints) == 3


def test_t5s_embeddings_are_transformers(tmp_path):
    name = write_text_encoder(tmp_path / "encoder")
    network = transformers.T5EncoderModel.from_pretrained(tmp_path / "encoder")
    with torch.no_grad():
        theirs = network(input_ids=torch.tensor([[3, 5, 6, 1]])).last_hidden_state[0]
    mine = load_text_encoder(TextEncoderConfig(name, 8)).encode(["pick coke can"])[0]
    torch.testing.assert_close(mine[:4], theirs)


def test_the_weights_of_the_package_are_real():
    pytest.importorskip("wordllama", reason="the extra 'text' is not installed")
    encoder = load_text_encoder(TextEncoderConfig("wordllama", 16))
    assert encoder.channels == 256
    can, tin, drawer = (x.sum(0) for x in encoder.encode(["pick can", "grab can", "open drawer"]))
    cosine = torch.nn.functional.cosine_similarity
    assert cosine(can, tin, dim=0) > cosine(can, drawer, dim=0)


def test_a_store_holds_each_text_once_and_no_network(tmp_path, monkeypatch):
    config = TextEncoderConfig(write_text_encoder(tmp_path / "encoder"), 8)
    direct = load_text_encoder(config).encode(TEXTS)
    TextStore.make(config, [*TEXTS, *TEXTS], tmp_path)
    # From here on no network can be loaded.
    (tmp_path / "encoder").rename(tmp_path / "gone")
    for store in (TextStore.open(tmp_path), TextStore.make(config, TEXTS[:2], tmp_path)):
        assert (store.lookup(TEXTS) == direct).all()
        assert (store.tokens, store.channels) == (8, 16)
        assert store.no_words.shape == (8, 16)
    with pytest.raises(UserError, match=r"was not found|cannot read"):
        TextStore.open(tmp_path).lookup(["move can"])


def test_a_new_text_is_encoded_on_first_sight_and_remembered(tmp_path):
    config = TextEncoderConfig(write_text_encoder(tmp_path / "encoder"), 8)
    TextStore.make(config, TEXTS, tmp_path)
    new = TextStore.open(tmp_path).lookup(["move can", TEXTS[0]])
    assert (new == load_text_encoder(config).encode(["move can", TEXTS[0]])).all()
    (tmp_path / "encoder").rename(tmp_path / "gone")
    assert (TextStore.open(tmp_path).lookup(["move can"]) == new[:1]).all()


def test_another_encoder_is_refused(tmp_path):
    config = TextEncoderConfig(write_text_encoder(tmp_path / "encoder"), 8)
    TextStore.make(config, TEXTS, tmp_path)
    with pytest.raises(UserError, match="choose another name"):
        TextStore.make(TextEncoderConfig(config.encoder, 9), TEXTS, tmp_path)
    write_text_encoder(tmp_path / "encoder", seed=1)
    with pytest.raises(UserError, match="differs from the text encoder"):
        TextStore.open(tmp_path).lookup(["move can"])


def _cut(data):
    return data[: len(data) // 2]


def _flipped(data):
    return data[:-1] + bytes([data[-1] ^ 1])


def _other_words(data):
    return data.replace(b"coke", b"cola")


def _nothing(data):
    return b""


@pytest.mark.parametrize("spoil", [_cut, _flipped, _other_words, _nothing])
def test_a_damaged_store_is_one_line(tmp_path, spoil):
    config = TextEncoderConfig(write_text_encoder(tmp_path / "encoder"), 8)
    TextStore.make(config, TEXTS, tmp_path)
    path = tmp_path / FILE
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(UserError, match="is damaged") as caught:
        TextStore.open(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"encoder": "t5"}, "unknown text encoder 't5'"),
        ({"encoder": "hf:"}, "unknown text encoder"),
        ({"tokens": 0}, "text tokens must be from 1"),
    ],
)
def test_unknown_settings_are_one_line(settings, message):
    with pytest.raises(UserError, match=message):
        TextEncoderConfig(**settings)


def test_unfit_files_are_one_line(tmp_path):
    for name in ("somebody/no-such-encoder", str(tmp_path)):
        with pytest.raises(UserError, match="the text encoder hf:") as caught:
            load_text_encoder(TextEncoderConfig(f"hf:{name}"))
        assert "\n" not in str(caught.value)
    name = write_text_encoder(tmp_path / "encoder")
    (weights,) = (tmp_path / "encoder").glob("*.safetensors")
    whole = weights.read_bytes()
    broken = load_file(weights)
    broken["shared.weight"][0, 0] = torch.nan
    save_file(broken, weights, metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"shared\.weight"):
        load_text_encoder(TextEncoderConfig(name))
    weights.write_bytes(whole)
    path = tmp_path / "encoder" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "d_model": 32}))
    with pytest.raises(UserError, match="the text encoder hf:"):
        load_text_encoder(TextEncoderConfig(name))
