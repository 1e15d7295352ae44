"""The sampler: denoise slots, given the clean part of a sample."""

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from selfflow_robotics.batch import Slot, Words, check_samples
from selfflow_robotics.errors import UserError, unknown
from selfflow_robotics.flow import path
from selfflow_robotics.flow.guidance import check_extrapolation, extrapolate, guide
from selfflow_robotics.flow.sde import sde_times, solve_sde
from selfflow_robotics.flow.solvers import State, VelocityField, solve_ode
from selfflow_robotics.flow.timesteps import sampling_times
from selfflow_robotics.models.network import Attention, Context, ModulationTable, Network
from selfflow_robotics.rng import torch_generator
from selfflow_robotics.timesteps import Timesteps

SampleMethod = Literal["sde", "euler", "heun", "multistep"]

# Draws standard normal numbers of shape [B, N, C]; each call draws new ones.
Normal = Callable[[torch.Size], Tensor]

ROWS = 512  # rows of a modulation table; more do not make its products cheaper


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


class ModulationAhead:
    """The network's modulation at the sampler's times, computed for several times at once."""

    def __init__(
        self, network: Network, context: Context, times: Tensor, slots: Sequence[str]
    ) -> None:
        """`times` [S]: the times that will be passed to `at`, on the network's device."""
        self._network, self._context, self._slots = network, context, slots
        self._times, self._numbers = times, times.tolist()
        groups = 1 if context.condition is None else len(context.condition)
        self._ahead = max(1, ROWS // groups)
        self._table: ModulationTable | None = None
        self._made = range(0)  # times in the table

    def at(self, t: float) -> ModulationTable:
        """The rows for one of the times."""
        number = self._numbers.index(t)
        if self._table is None or number not in self._made:
            self._made = range(number, number + self._ahead)
            times = self._times[number : number + self._ahead]
            self._table = self._network.modulation_table(times, self._context, self._slots)
        return self._table.at(number - self._made.start)


def check_heads(network: Network, extrapolation: float) -> None:
    """Raise UserError for an extrapolation that is out of range or needs auxiliary heads that the
    network does not have."""
    check_extrapolation(extrapolation)
    if extrapolation != 1.0 and network.config.auxiliary_layer is None:
        raise UserError(
            f"extrapolation={extrapolation:g} needs a network that was trained with "
            "objective=reworld; leave it out"
        )


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
) -> dict[str, Tensor]:
    """Denoise the slots of `noise`, given clean slots, words and labels: tokens [B, N, C].

    With attention = "prefix" the clean part is encoded once, and every step computes only the
    noised tokens.

    Args:
        network: in float32, or fully in bfloat16 (`copy.deepcopy(network).bfloat16()`): faster
            than autocast, which casts every weight at every step. The state stays float32.
        noise: standard normal tokens of each slot, at t = 1.
        num_steps: solver steps, each with one network evaluation (two for "heun").
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

    Raises UserError for slots, words or labels that do not fit the network or one another, and for
    extrapolation with a network that has no auxiliary heads.
    """
    if method not in get_args(SampleMethod):
        raise unknown("sampling method", method, get_args(SampleMethod))
    if not noise:
        raise UserError("nothing to denoise; give the noise of at least one slot")
    if method == "sde" and normal is None:
        raise UserError("method=sde adds noise at every step; give normal=SeededNormal(seeds)")
    check_heads(network, extrapolation)
    early_layer = None if extrapolation == 1.0 else network.config.auxiliary_layer
    layers = () if early_layer is None else (early_layer,)
    check_samples(noise)
    check_samples(clean or {}, words, labels)
    times = (sde_times if method == "sde" else sampling_times)(num_steps, shift)
    dtype = network.dtype
    first = next(iter(noise.values())).tokens
    clean = {slot: x.to(dtype) for slot, x in (clean or {}).items()}

    def field_given(words: Words | None, labels: Tensor | None) -> VelocityField:
        context = network.encode_context(clean, words, labels=labels, attention=attention)
        ahead = None
        if context.tokens is None:
            # No solver evaluates at t = 0.
            ahead = ModulationAhead(network, context, times[:-1].to(first.device), list(noise))

        def field(x_t: State, t: float) -> State:
            slots = {slot: noise[slot].with_tokens(x.to(dtype)) for slot, x in x_t.items()}
            joined = torch.cat([x[..., :1] for x in x_t.values()], dim=1)
            table = None if ahead is None else ahead.at(t)
            timesteps = Timesteps.constant(t, joined)
            outputs, features = network(slots, timesteps, context, layers, table=table)
            at = torch.tensor(t, device=joined.device)  # never 0, so it needs no cap

            def velocities(outputs: dict[str, Tensor]) -> State:
                return {
                    slot: path.as_velocity(
                        outputs[slot].float(), network.prediction[slot], x, at, 0.0
                    )
                    for slot, x in x_t.items()
                }

            final = velocities(outputs)
            if early_layer is None:
                return final
            early = network.read_auxiliary(features[early_layer], slots, timesteps, context)
            return extrapolate(velocities(early), final, extrapolation)

        return field

    field = field_given(words, labels)
    if guidance_scale != 1.0 and not (words is None and labels is None):
        empty = None if words is None else no_words
        if words is not None and empty is None:
            empty = [""] * len(words)
        field = guide(field, field_given(empty, None), guidance_scale, guidance_interval)
    start = {slot: x.tokens for slot, x in noise.items()}
    if method == "sde":
        assert normal is not None
        return solve_sde(field, start, times, lambda x: {s: normal(v.shape) for s, v in x.items()})
    return solve_ode(field, start, times, method)
