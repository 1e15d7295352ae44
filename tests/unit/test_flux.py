"""The FLUX.2-style backbone against a slow copy of itself, token by token."""

import copy
import dataclasses
import json
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from omegaconf import DictConfig

from selfflow_robotics.cli.typed import build
from selfflow_robotics.errors import UserError
from selfflow_robotics.models.backbone import Backbone, Tokens
from selfflow_robotics.models.flux import SIZES, Flux, FluxConfig
from selfflow_robotics.models.network import Network, NetworkConfig
from selfflow_robotics.models.presets import RobotConfig
from selfflow_robotics.models.rotary import axis_channels
from selfflow_robotics.rng import torch_generator
from selfflow_robotics.timesteps import Timesteps
from selfflow_robotics.training.compile import compile_blocks, missing_compiler
from tests.networks import as_slots, robot_network, waken

CONFIG = FluxConfig(width=48, double=2, single=2, heads=3, mlp_ratio=2.0)
assert_close = partial(torch.testing.assert_close, rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def flux():
    return random_flux(CONFIG)


def random_flux(config):
    torch.manual_seed(0)
    model = Flux(config).eval()
    for name, p in model.named_parameters():  # adaLN-Zero would hide every difference
        if "adaLN" in name or "norm" in name:
            torch.nn.init.normal_(p, mean=float("norm" in name), std=0.2)
    return model


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch_generator("test", seed))


def sequence(groups, streams, num_rows, seed=0):
    """Random tokens of the streams, at random places and on random ones of the timesteps."""
    g, length = torch_generator("test", seed), sum(n for _, n in streams)
    values = torch.rand(groups, num_rows, generator=g)
    index = torch.randint(0, num_rows, (groups, length), generator=g)
    places = torch.randint(0, 9, (length, 3), generator=g)
    hidden = torch.randn(groups, length, CONFIG.width, generator=g)
    return Tokens(hidden, places, Timesteps(values, index), tuple(streams))


WORDS, FRAME, ACTIONS = ("words", 3), ("first_frame", 6), ("actions", 4)


def slow(flux, tokens, visible=None, condition=None):
    """Every token embeds its own timestep and looks at those that `visible` [N, N] lets it see.

    Returns the hidden tokens [G, N, D] after each block.
    """
    x, c = tokens.hidden, flux.t_embedder(tokens.timesteps.per_token)
    if condition is not None:
        c = c + condition[:, None]
    length, head = x.shape[1], flux.config.head_size
    names = [name for name, n in tokens.streams for _ in range(n)]
    words = torch.tensor([name in flux.config.conditioning for name in names])[:, None]
    visible = torch.ones(length, length, dtype=torch.bool) if visible is None else visible
    rows = {name: layer(F.silu(c)) for name, layer in flux.adaLN_modulation.items()}

    def modulated(x, shift, scale):
        return F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale) + shift

    def turned(x, n):
        """One token's queries or keys [G, heads, d]."""
        pairs, turns = x.unflatten(-1, (-1, 2)), []
        for axis, channels in enumerate(axis_channels(head)):
            for i in range(channels // 2):
                angle = tokens.places[n, axis] * 2000 ** (-2 * i / channels)
                turns.append(torch.polar(torch.tensor(1.0), angle))
        return torch.view_as_real(torch.view_as_complex(pairs) * torch.stack(turns)).flatten(-2)

    def unit(x, weight):
        return x * (x.square().mean(-1, keepdim=True) + 1e-6).rsqrt() * weight

    def q_k_v(attn, x):
        q, k, v = (part.unflatten(-1, (-1, head)) for part in attn.qkv(x).chunk(3, dim=-1))
        q, k = unit(q, attn.q_norm), unit(k, attn.k_norm)
        q, k = (torch.stack([turned(x[:, n], n) for n in range(length)], dim=1) for x in (q, k))
        return torch.stack([q, k, v])

    def attended(q, k, v):
        logits = torch.einsum("gnhd,gmhd->ghnm", q, k) / head**0.5
        weights = logits.masked_fill(~visible, -torch.inf).softmax(dim=-1)
        return torch.einsum("ghnm,gmhd->gnhd", weights, v).flatten(2)

    def mlp(layers, x):
        gate, value = layers.fc1(x).chunk(2, dim=-1)
        return layers.fc2(F.silu(gate) * value)

    after = []
    for block in flux.blocks[: flux.config.double]:
        streams = [(block.conditioning, rows["conditioning"]), (block.visual, rows["visual"])]
        both = [
            q_k_v(stream.attn, modulated(x, *own.chunk(6, dim=-1)[:2])) for stream, own in streams
        ]
        mixed = attended(*torch.where(words[..., None], *both))
        moved = []
        for stream, own in streams:
            _, _, gate1, shift2, scale2, gate2 = own.chunk(6, dim=-1)
            y = x + gate1 * stream.attn.proj(mixed)
            moved.append(y + gate2 * mlp(stream.mlp, modulated(y, shift2, scale2)))
        x = torch.where(words, *moved)
        after.append(x)
    for block in flux.blocks[flux.config.double :]:
        shift, scale, gate = rows["single"].chunk(3, dim=-1)
        h = modulated(x, shift, scale)
        x = x + gate * (block.attn.proj(attended(*q_k_v(block.attn, h))) + mlp(block.mlp, h))
        after.append(x)
    return after


@pytest.mark.parametrize("num_rows", [1, 2, 5])
@pytest.mark.parametrize("streams", [[WORDS, FRAME], [FRAME, WORDS, ACTIONS], [FRAME], [WORDS]])
def test_it_is_its_slow_copy_with_a_timestep_for_every_token(flux, streams, num_rows):
    tokens, condition = sequence(2, streams, num_rows), draw(2, CONFIG.width, seed=1)
    layers = range(1, flux.depth + 1)
    hidden, mod, features = flux(tokens, layers=layers, condition=condition)
    expected = slow(flux, tokens, condition=condition)
    assert_close(hidden, expected[-1])
    for layer in layers:
        assert_close(features[layer], expected[layer - 1])
    assert torch.equal(mod.index, tokens.timesteps.index)  # in the order of the tokens


@pytest.mark.parametrize("context", [0, 4])
def test_separate_attention_sees_the_same_timestep_and_the_context(flux, context):
    tokens = sequence(1, [FRAME, WORDS], 2)
    index = tokens.timesteps.index[0]
    visible = index[:, None] == index
    visible[:, :context] = True
    tokens = dataclasses.replace(tokens, context=context)
    hidden, _, _ = flux(tokens, separate_attention=True)
    expected = slow(flux, tokens, visible)
    assert_close(hidden, expected[-1])


@pytest.mark.parametrize("clean", [[WORDS, FRAME], [FRAME, WORDS], [FRAME]])
@pytest.mark.parametrize("depth", [None, 1, 3])
def test_a_context_is_a_full_pass_in_which_clean_tokens_see_only_themselves(flux, clean, depth):
    context = sequence(2, clean, 2)
    noised = sequence(2, [ACTIONS], 2, seed=1)
    joined, size = Tokens.join([context, noised]), context.hidden.shape[1]
    visible = torch.ones(2 * [joined.hidden.shape[1]], dtype=torch.bool)
    visible[:size, size:] = False
    expected = slow(flux, joined, visible)[(depth or flux.depth) - 1][:, size:]
    kept = flux.encode_context(context, depth=depth)
    layer = depth or flux.depth
    _, _, features = flux(noised, kept, layers=(layer,), stop=True)
    assert_close(features[layer], expected)
    assert len(kept) == layer


def test_draws_share_a_context(flux):
    context = sequence(2, [WORDS, FRAME], 1)
    draws = sequence(6, [ACTIONS], 2, seed=1)
    kept = flux.encode_context(context)
    together, _, _ = flux(draws, kept)
    for b in range(2):
        alone = flux.encode_context(
            Tokens(
                context.hidden[b : b + 1],
                context.places,
                Timesteps(context.timesteps.values[b : b + 1], context.timesteps.index[b : b + 1]),
                context.streams,
            )
        )
        for g in range(3 * b, 3 * b + 3):
            one = Timesteps(*(part[g : g + 1] for part in draws.timesteps))
            tokens = Tokens(draws.hidden[g : g + 1], draws.places, one, draws.streams)
            assert_close(flux(tokens, alone)[0], together[g : g + 1])


def test_positions_are_relative(flux):
    def run(shift_context, shift_tokens):
        context, tokens = sequence(2, [WORDS, FRAME], 1), sequence(2, [ACTIONS], 2, seed=1)
        context = dataclasses.replace(context, places=context.places + shift_context)
        tokens = dataclasses.replace(tokens, places=tokens.places + shift_tokens)
        return flux(tokens, flux.encode_context(context))[0]

    still, shift = run(0, 0), torch.tensor([5, 11, 3])
    assert_close(run(shift, shift), still)
    for axis in range(3):
        moved = run(0, shift * (torch.arange(3) == axis))
        assert (moved - still).abs().max() > 1e-3


@pytest.mark.parametrize("layer", [1, 2, 3])
def test_a_teacher_stops_at_its_layer(flux, layer):
    tokens = sequence(2, [WORDS, FRAME], 2)
    _, _, features = flux(tokens, layers=(layer,))
    short = copy.deepcopy(flux)
    del short.blocks[layer:]  # nothing after the layer is needed
    _, _, stopped = short(tokens, layers=(layer,), stop=True)
    assert stopped.keys() == {layer}
    assert torch.equal(features[layer], stopped[layer])


def test_modulation_is_computed_once_per_timestep_and_can_be_made_ahead(flux, monkeypatch):
    tokens, seen = sequence(2, [WORDS, FRAME], 2), []
    hooks = [
        layer.register_forward_pre_hook(lambda _, given: seen.append(tuple(given[0].shape)))
        for layer in flux.adaLN_modulation.values()
    ]
    hidden, mod, _ = flux(tokens)
    assert seen == 3 * [(2, 2, CONFIG.width)]
    table = flux.modulation_rows(mod)
    del seen[:]
    assert torch.equal(flux(tokens, table=table)[0], hidden)
    assert seen == []
    for hook in hooks:
        hook.remove()


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_every_weight_has_a_finite_gradient(precision):
    model = random_flux(CONFIG)
    with torch.autocast("cpu", torch.bfloat16, precision is torch.bfloat16):
        kept = model.encode_context(sequence(2, [WORDS], 1))
        hidden, _, _ = model(sequence(4, [FRAME], 2, seed=1), kept)
        joint, _, _ = model(sequence(2, [WORDS, FRAME], 3))
    (hidden.square().mean() + joint.square().mean()).backward()
    for name, p in model.named_parameters():
        assert p.grad is not None, name
        assert p.grad.isfinite().all(), name
        assert p.grad.abs().sum() > 0, name


def test_weights_of_half_precision_compute_nearly_the_same(flux):
    tokens = sequence(2, [WORDS, FRAME], 2)
    half = copy.deepcopy(flux).bfloat16()
    coarse = half(dataclasses.replace(tokens, hidden=tokens.hidden.bfloat16()))[0]
    assert coarse.dtype == torch.bfloat16
    fine = flux(tokens)[0]
    assert (coarse.float() - fine).abs().max() < 0.05 * fine.abs().max()


def test_an_untrained_network_changes_nothing():
    tokens = sequence(2, [WORDS, FRAME], 2)
    model: Backbone = Flux(CONFIG)
    assert torch.equal(model(tokens)[0], tokens.hidden)


@pytest.mark.parametrize("name", SIZES)
def test_sizes_have_the_parameters_of_their_names(name):
    with torch.device("meta"):
        parameters = sum(p.numel() for p in Flux(SIZES[name]).parameters())
    unit = {"M": 1e6, "B": 1e9}[name[-1]]
    assert parameters == pytest.approx(float(name[:-1]) * unit, rel=0.03)


def test_the_family_of_the_paper():
    depths = {name: config.depth for name, config in SIZES.items() if name != "4B"}
    assert depths == {"290M": 8, "420M": 14, "625M": 21, "1B": 28}
    assert (SIZES["625M"].double, SIZES["625M"].single) == (7, 14)
    for config in SIZES.values():
        assert axis_channels(config.head_size) == (24, 24, 24)


@pytest.mark.parametrize(
    ("head", "channels"),
    [(64, (20, 22, 22)), (16, (4, 6, 6)), (6, (2, 2, 2)), (34, (10, 12, 12)), (32, (10, 10, 12))],
)
def test_other_heads_are_split_evenly(head, channels):
    assert axis_channels(head) == channels


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"double": 0}, "at least 1"),
        ({"single": -1}, "at least 1"),
        ({"width": 50}, "even head size"),
        ({"width": 12}, "at least 6"),
        ({"width": 45, "heads": 3}, "even head size"),
        ({"mlp_ratio": float("nan")}, "mlp_ratio"),
        ({"mlp_ratio": 1e9}, "mlp_ratio"),
        ({"mlp_ratio": 1e-9}, "mlp_ratio"),
        ({"timestep_scale": 0.0}, "timestep_scale"),
        ({"timestep_origin": 2.0}, "timestep_origin"),
        ({"conditioning": "words"}, "must be a list"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(UserError, match=message) as refused:
        FluxConfig(**settings)
    assert "\n" not in str(refused.value)


def test_a_config_survives_json():
    config = FluxConfig(conditioning=("words", "first_frame"))
    assert FluxConfig(**json.loads(json.dumps(dataclasses.asdict(config)))) == config


def test_a_conditioning_stream_that_is_no_slot_is_refused():
    backbone = dataclasses.replace(CONFIG, conditioning=("words", "frist_frame"))
    with pytest.raises(UserError, match="'frist_frame'; did you mean first_frame"):
        dataclasses.replace(robot_network(RobotConfig()), backbone=backbone)


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ({"double": 2, "conditioning": ["words", "first_frame"]}, None),
        ({"heads": 5}, "even head size"),
        ({"mlp_ratio": 0.0}, "mlp_ratio"),
        ({"dubble": 2}, "dubble"),
    ],
)
def test_a_config_file_makes_it(typed, expected):
    if expected is None:
        assert build(FluxConfig, DictConfig(typed)) == FluxConfig(**typed)
        return
    with pytest.raises(UserError, match=expected):
        build(FluxConfig, DictConfig(typed))


@pytest.mark.parametrize("attention", ["prefix", "joint"])
def test_it_is_the_backbone_of_a_network(attention):
    config = dataclasses.replace(robot_network(RobotConfig(image_size=(32, 48))), backbone=CONFIG)
    assert NetworkConfig.from_json(json.loads(json.dumps(config.to_json()))) == config
    torch.manual_seed(0)
    network = waken(Network(config))
    slots = as_slots(network, {"first_frame": draw(2, 6, 768), "actions": draw(4, 6, 7, seed=1)})
    clean, noised = ({name: slots[name]} for name in ("first_frame", "actions"))
    context = network.encode_context(clean, ["pick", "place"], attention=attention)
    times = Timesteps.constant(0.4, noised["actions"].tokens)
    outputs, features = network(noised, times, context, layers=(3,))
    assert outputs["actions"].shape == (4, 6, 7)
    assert features[3].shape == (4, 6, CONFIG.width)
    outputs["actions"].square().mean().backward()
    weight = network.get_parameter("backbone.blocks.0.conditioning.mlp.fc1.weight")
    assert weight.grad is not None
    assert weight.grad.abs().sum() > 0


def test_it_learns():
    model = Flux(CONFIG)
    out = torch.nn.Linear(CONFIG.width, 2)
    optimizer = torch.optim.AdamW([*model.parameters(), *out.parameters()], lr=1e-2)
    tokens = sequence(8, [WORDS, FRAME], 2)
    # The mean over the words, which a token has to look up, turned by its own timestep.
    t = tokens.timesteps.per_token[:, 3:, None]
    target = (1 - 2 * t) * tokens.hidden[:, :3, :2].mean(dim=1, keepdim=True)
    losses = []
    for _ in range(30):
        loss = (out(model(tokens)[0])[:, 3:] - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.2 * losses[0]


@pytest.mark.slow
def test_compiled_blocks_compute_the_same():
    if missing := missing_compiler():
        pytest.skip(f"torch cannot compile here without {missing}")
    model = random_flux(dataclasses.replace(CONFIG, double=1, single=1))
    context, noised = sequence(2, [WORDS, FRAME], 2), sequence(4, [ACTIONS], 2, seed=1)
    expected, _, _ = model(noised, model.encode_context(context))
    compile_blocks(model)
    compiled, _, _ = model(noised, model.encode_context(context))
    assert_close(compiled, expected)
    compiled.square().mean().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
