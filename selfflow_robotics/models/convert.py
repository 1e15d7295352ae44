"""Convert the paper's released class-conditional weights to a `Network` and back.

The release (github.com/black-forest-labs/Self-Flow, weights `selfflow_imagenet256.pt`) differs in
three conventions, which are converted here; all other code follows `flow/path.py`.

* It embeds 1 - t, ours t - 1: cosines agree and sines change sign, so the sine columns of the
  timestep MLP's first weight are negated.
* Its last layer predicts data - noise: the velocity's rows are negated (the variance's are not).
* The rows of its last layer are in (p q c) order, ours in (c p q).

Its fixed positions are checked when reading and recreated when writing.
"""

from pathlib import Path

import torch
from einops import rearrange
from torch import Tensor

from selfflow_robotics.errors import UserError
from selfflow_robotics.modalities.base import FRAMES
from selfflow_robotics.models.embeddings import sincos_positions_2d
from selfflow_robotics.models.network import Network, NetworkConfig
from selfflow_robotics.models.presets import RELEASED_TIME, SIZES, image_config
from selfflow_robotics.models.sit import SiTConfig
from selfflow_robotics.models.weights_file import StateDict, few, find_weights, read_weights_file

# Prefixes of the release's names and ours.
_PREFIXES = {
    "x_embedder.proj.": f"adapters.{FRAMES}.stem.",
    "y_embedder.embedding_table.": "label_table.",
    "t_embedder.": "backbone.t_embedder.",
    "blocks.": "backbone.blocks.",
    "final_layer.": f"adapters.{FRAMES}.final_layer.",
    "projector.": "projector.",
}
_POSITIONS = "pos_embed"
_POSITIONS_TOLERANCE = 1e-2  # accepts a half-precision copy but not another formula
_TIME_IN = "backbone.t_embedder.mlp.0.weight"
_LAST = tuple(f"adapters.{FRAMES}.final_layer.linear.{name}" for name in ("weight", "bias"))
_ANCHOR = "x_embedder.proj.weight"  # identifies a set of weights in a file


def from_released(
    state: dict, heads: int | None = None, patch: int = 2
) -> tuple[NetworkConfig, StateDict]:
    """The configuration and state dict of a `Network` equal to the released model.

    Its only slot is first_frame; its tokens are latent patches in (c p q) order.

    Args:
        state: a state dict of the release, or a training checkpoint with one at any depth
            (`weights_file.find_weights`).
        heads: attention heads, if width and depth are not in `SIZES`; the tensors do not reveal it.
        patch: patch size in latents, which the tensors do not reveal either.

    Raises UserError if a tensor is missing, unknown or inconsistent in shape.
    """
    return _converted(find_weights(state, _ANCHOR).tensors, heads, patch)


def _converted(
    released: StateDict, heads: int | None, patch: int
) -> tuple[NetworkConfig, StateDict]:
    config = _infer_config(released, heads, patch)
    _check(released, config, patch)
    ours = {_our_name(name): v for name, v in released.items() if name != _POSITIONS}
    ours[_TIME_IN] = _flip_sines(ours[_TIME_IN])
    for name in _LAST:
        rows = rearrange(ours[name], "(pq c) ... -> (c pq) ...", pq=patch**2)
        ours[name] = _flip_velocity(rows, config)
    return config, ours


def to_released(state: StateDict, config: NetworkConfig, patch: int = 2) -> StateDict:
    """The state dict of an image network with the release's names and conventions."""
    ours = dict(state)
    ours[_TIME_IN] = _flip_sines(ours[_TIME_IN])
    for name in _LAST:
        rows = _flip_velocity(ours[name], config)
        ours[name] = rearrange(rows, "(c pq) ... -> (pq c) ...", pq=patch**2)
    released = {_their_name(name): tensor for name, tensor in ours.items()}
    grid = config.adapters[FRAMES].grid
    assert grid is not None
    released[_POSITIONS] = sincos_positions_2d(config.backbone.width, *grid)[None]
    return released


def read_released(
    path: Path | str, heads: int | None = None, patch: int = 2
) -> tuple[Network, str]:
    """The released model from a .pt or .safetensors file, in float32, and a description of the
    weights that were taken ("" for a plain state dict); see `from_released`.

    Nothing in the file is executed. Raises UserError if it cannot be read or does not match.
    """
    path = Path(path)
    content = read_weights_file(path)
    try:
        found = find_weights(content, _ANCHOR)
        if any(v.is_meta for v in found.tensors.values()):
            raise UserError(
                "its tensors are on the meta device; save the weights from a real device"
            )
        config, ours = _converted(found.tensors, heads, patch)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    with torch.device("meta"):  # skip the initialization, as all weights are replaced
        model = Network(config)
    model.load_state_dict({name: v.float() for name, v in ours.items()}, assign=True)
    return model, found.text


def _infer_config(released: StateDict, heads: int | None, patch: int) -> NetworkConfig:
    shapes = {name: tensor.shape for name, tensor in released.items()}
    # Counted instead of taking the largest number, which could be anything.
    depth = len({name.split(".")[1] for name in shapes if name.startswith("blocks.")})
    try:
        width, token_channels = shapes["x_embedder.proj.weight"]
        hidden, _ = shapes["blocks.0.mlp.fc1.weight"]
        rows, _ = shapes["y_embedder.embedding_table.weight"]
        outputs, _ = shapes["final_layer.linear.weight"]
        _, num_tokens, _ = shapes[_POSITIONS]
    except KeyError as error:
        raise UserError(
            f"the state dict has no {error.args[0]}; expected a released Self-Flow image model"
        ) from error
    except ValueError as error:
        raise UserError(
            "the state dict's tensors have the wrong number of dimensions; expected a released "
            "Self-Flow image model"
        ) from error
    known = [s.heads for s in SIZES.values() if (s.width, s.depth) == (width, depth)]
    if heads is None and not known:
        raise UserError(
            f"width {width} and depth {depth} are not a known size, and the number of attention "
            "heads cannot be inferred; pass heads"
        )
    if not known and heads and width % heads:
        raise UserError(f"the weights have width {width}, which is not divisible by {heads} heads")
    return image_config(
        SiTConfig(width, depth, known[0] if known else heads or 1, hidden / width, **RELEASED_TIME),
        latent_size=round(num_tokens**0.5) * patch,
        channels=token_channels // patch**2,
        patch=patch,
        num_classes=rows - 1,
        learn_sigma=outputs != token_channels,
    )


def _check(released: StateDict, config: NetworkConfig, patch: int) -> None:
    """Raise UserError unless the tensors are exactly those of a released model of `config`."""
    with torch.device("meta"):
        expected = to_released(Network(config).state_dict(), config, patch)
    missing = sorted(expected.keys() - released.keys())
    if missing:
        raise UserError(f"the state dict lacks {len(missing)} tensors: {few(missing)}")
    unexpected = sorted(released.keys() - expected.keys())
    if unexpected:
        raise UserError(f"the state dict has {len(unexpected)} unknown tensors: {few(unexpected)}")
    wrong = [
        f"{name} is {tuple(released[name].shape)}, should be {tuple(tensor.shape)}"
        for name, tensor in expected.items()
        if released[name].shape != tensor.shape
    ]
    if wrong:
        raise UserError(f"the state dict has {len(wrong)} wrong shapes: {few(wrong)}")
    away = (released[_POSITIONS].cpu().float() - expected[_POSITIONS]).abs().max().item()
    if not away < _POSITIONS_TOLERANCE:
        raise UserError(
            f"{_POSITIONS} is not the fixed sine-cosine grid (off by {away:.3g}); trained "
            "positions are not supported"
        )


def _our_name(name: str) -> str:
    prefix = next(p for p in _PREFIXES if name.startswith(p))
    return _PREFIXES[prefix] + name.removeprefix(prefix)


def _their_name(name: str) -> str:
    theirs, ours = next(pair for pair in _PREFIXES.items() if name.startswith(pair[1]))
    return theirs + name.removeprefix(ours)


def _flip_sines(weight: Tensor) -> Tensor:
    """The timestep MLP's first weight [D, cosines + sines] with its sine columns negated."""
    cosines, sines = weight.chunk(2, dim=1)
    return torch.cat([cosines, -sines], dim=1)


def _flip_velocity(rows: Tensor, config: NetworkConfig) -> Tensor:
    """The last layer's weight or bias in (c p q) order with the velocity's rows negated."""
    channels = config.adapters[FRAMES].channels
    velocity, variance = rows[:channels], rows[channels:]
    return torch.cat([-velocity, variance])
