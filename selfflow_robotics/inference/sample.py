"""The sampler: denoise slots, given the clean part of a sample."""

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from selfflow_robotics.batch import Slot, Words, check_samples
from selfflow_robotics.errors import UserError, unknown
from selfflow_robotics.flow.guidance import guide
from selfflow_robotics.flow.inpainting import Inpainting, inpaint
from selfflow_robotics.flow.sde import sde_times, solve_sde
from selfflow_robotics.flow.solvers import State, VelocityField, evaluation_times, solve_ode
from selfflow_robotics.flow.timesteps import sampling_times
from selfflow_robotics.inference.velocity import ModulationAhead, Velocity, check_heads
from selfflow_robotics.models.network import Attention, Network
from selfflow_robotics.rng import torch_generator
from selfflow_robotics.timesteps import Timesteps

SampleMethod = Literal["sde", "euler", "heun", "midpoint", "multistep"]

# Draws standard normal numbers of shape [B, N, C]; each call draws new ones.
Normal = Callable[[torch.Size], Tensor]


class SeededNormal:
    """Normal draws with a separate stream per sample, which depends only on its seed.

    A sample therefore does not depend on the others in its batch. Numbers are drawn on the CPU, so
    they are the same on every device.
    """

    def __init__(self, seeds: Sequence[int], device: torch.device | str = "cpu") -> None:
        self.generators = [torch_generator("generation", seed) for seed in seeds]
        self.device = device

    def __call__(self, shape: torch.Size) -> Tensor:
        """Standard normal numbers [B, ...], float32 on the device; B is the number of seeds."""
        draws = [torch.randn(shape[1:], generator=generator) for generator in self.generators]
        return torch.stack(draws).to(self.device, non_blocking=True)


@torch.no_grad()
def sample(
    network: Network,
    noise: Mapping[str, Slot],
    *,
    num_steps: int,
    clean: Mapping[str, Slot] | None = None,
    words: Words | None = None,
    labels: Tensor | None = None,
    method: SampleMethod = "euler",
    guidance_scale: float = 1.0,
    guidance_interval: tuple[float, float] = (0.0, 1.0),
    extrapolation: float = 1.0,
    shift: float = 1.0,
    attention: Attention = "prefix",
    normal: Normal | None = None,
    no_words: Words | None = None,
    inpainting: Inpainting | None = None,
) -> dict[str, Tensor]:
    """Denoise the slots of `noise`, given clean slots, words and labels: tokens [B, N, C].

    With attention = "prefix" the clean part is encoded once, and every step computes only the
    noised tokens.

    Args:
        network: in float32, or fully in bfloat16 (`copy.deepcopy(network).bfloat16()`): faster
            than autocast, which casts every weight at every step. The state stays float32.
        noise: standard normal tokens of each slot, at t = 1.
        num_steps: solver steps, each with one network evaluation (two for "heun" and
            "midpoint").
        clean, words, labels, attention: as in `Network.encode_context`.
        method: "sde" is the paper's for ImageNet (`flow.sde`); the others solve the ODE.
        guidance_scale: classifier-free guidance, with empty text and the null label as the
            unconditional input; 1: none.
        guidance_interval: (low, high) in t where guidance applies; t = 1 is noise.
        extrapolation: from the auxiliary heads' velocity v_i to the final one, v_f, and beyond:
            v_i + extrapolation (v_f - v_i), also of the unconditional pass; 1: none, 1.4 in
            ReWorld.
        shift: shifts the steps towards noise (`flow.timesteps.shift_timesteps`).
        normal: the noise of "sde": one draw per slot and step, except the last step.
        no_words: the words for the unconditional pass; None: empty texts.
        inpainting: tokens to be steered towards known values; not with "sde".

    Raises UserError for slots, words or labels that do not fit the network or one another, and for
    extrapolation with a network that has no auxiliary heads.
    """
    if method not in get_args(SampleMethod):
        raise unknown("sampling method", method, get_args(SampleMethod))
    if not noise:
        raise UserError("nothing to denoise; give the noise of at least one slot")
    if method == "sde" and normal is None:
        raise UserError("method=sde adds noise at every step; give normal=SeededNormal(seeds)")
    if method == "sde" and inpainting is not None:
        raise UserError("method=sde cannot inpaint; choose another one")
    check_heads(network, extrapolation)
    check_samples(noise)
    check_samples(clean or {}, words, labels)
    times = (sde_times if method == "sde" else sampling_times)(num_steps, shift)

    def field_given(words: Words | None, labels: Tensor | None) -> VelocityField:
        velocity = Velocity(network, noise, clean or {}, words, labels, attention, extrapolation)
        ahead = None
        if velocity.context.tokens is None:
            asked = evaluation_times(times, method)
            ahead = ModulationAhead(network, velocity.context, asked, list(noise))

        def field(x_t: State, t: float) -> State:
            joined = torch.cat([x[..., :1] for x in x_t.values()], dim=1)
            table = None if ahead is None else ahead.at(t)
            return velocity(x_t, Timesteps.constant(t, joined), table)

        return field

    field = field_given(words, labels)
    if guidance_scale != 1.0 and not (words is None and labels is None):
        empty = None if words is None else no_words
        if words is not None and empty is None:
            empty = [""] * len(words)
        field = guide(field, field_given(empty, None), guidance_scale, guidance_interval)
    if inpainting is not None:
        field = inpaint(field, inpainting)
    start = {slot: x.tokens for slot, x in noise.items()}
    if method == "sde":
        assert normal is not None
        return solve_sde(field, start, times, lambda x: {s: normal(v.shape) for s, v in x.items()})
    return solve_ode(field, start, times, method)
