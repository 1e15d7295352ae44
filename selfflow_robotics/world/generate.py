"""Pictures (their latents) of given classes, out of noise."""

from collections.abc import Callable, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from selfflow_robotics.errors import unknown
from selfflow_robotics.flow.guidance import guide
from selfflow_robotics.flow.sde import sde_times, solve_sde
from selfflow_robotics.flow.solvers import State, VelocityField, solve_ode
from selfflow_robotics.flow.timesteps import sampling_times
from selfflow_robotics.models.image_sit import ImageSiT, unpatchify
from selfflow_robotics.models.sit import constant_timestep
from selfflow_robotics.rng import torch_generator

SampleMethod = Literal["sde", "euler", "heun", "multistep"]

# Standard normal numbers of a shape [B, N, C]; each call gives new ones.
Normal = Callable[[torch.Size], Tensor]


class SeededNormal:
    """Normal draws in which every sample has its own stream, a function of its seed alone.

    A sample is therefore the same whichever others share its batch. Numbers are drawn on the CPU:
    another device has the same ones.
    """

    def __init__(self, seeds: Sequence[int], device: torch.device | str = "cpu") -> None:
        self.generators = [torch_generator("generation", seed) for seed in seeds]
        self.device = device

    def __call__(self, shape: torch.Size) -> Tensor:
        """Standard normal numbers [B, ...], float32 on the device; B is the number of seeds."""
        draws = [torch.randn(shape[1:], generator=generator) for generator in self.generators]
        return torch.stack(draws).to(self.device, non_blocking=True)


ROWS = 512  # of a table; more of them make its products no cheaper


class ModulationTable:
    """adaLN's rows for the times that a sampler comes to, made for several of them at once."""

    def __init__(self, model: ImageSiT, labels: Tensor, times: Tensor) -> None:
        self._model, self._labels = model, labels
        self._times, self._numbers = times.to(labels.device), times.tolist()
        self._ahead = max(1, ROWS // len(labels))
        self._rows: list[Tensor] = []
        self._made = range(0)  # the times that the rows are of

    def at(self, t: float) -> list[Tensor]:
        """The rows of one of the times, [B, 1, ...] each."""
        number = self._numbers.index(t)
        if number not in self._made:
            self._made = range(number, number + self._ahead)
            times = self._times[number : number + self._ahead]
            self._rows = self._model.modulation_table(times, self._labels)
        first = number - self._made.start
        return [rows[:, first : first + 1] for rows in self._rows]


@torch.no_grad()
def sample_images(
    model: ImageSiT,
    labels: Tensor,
    normal: Normal,
    *,
    method: SampleMethod = "sde",
    num_steps: int = 250,
    guidance_scale: float = 1.0,
    guidance_interval: tuple[float, float] = (0.0, 1.0),
    shift: float = 1.0,
) -> Tensor:
    """Latents [B, channels, latent_size, latent_size] of the classes `labels` [B].

    Args:
        model: in float32, or wholly in bfloat16 (`copy.deepcopy(model).bfloat16()`): faster than
            autocast, which casts every weight at every step. The state stays float32 either way.
        labels: int64 on the model's device; the null label asks for any class.
        normal: the only source of randomness, usually `SeededNormal`: the noise at t = 1 first,
            then one draw for every step of the stochastic sampler but the last.
        method: "sde" is the paper's for ImageNet (`flow.sde`); the others solve the ODE.
        num_steps: evaluations of the conditional network, but about twice as many for "heun".
        guidance_scale: 1 is no guidance; the paper's published metrics use none.
        guidance_interval: where guidance applies, (low, high) in t; t = 1 is noise.
        shift: moves the steps towards noise (`flow.timesteps.shift_timesteps`).
    """
    if method not in get_args(SampleMethod):
        raise unknown("sampling method", method, get_args(SampleMethod))

    dtype = model.x_embedder.weight.dtype

    times = (sde_times if method == "sde" else sampling_times)(num_steps, shift)

    def field_of(classes: Tensor) -> VelocityField:
        table = ModulationTable(model, classes, times[:-1])  # no solver asks at t = 0

        def field(x: State, t: float) -> State:
            tokens = x["latents"]
            velocity, _ = model(
                tokens.to(dtype), constant_timestep(t, tokens), classes, table=table.at(t)
            )
            return {"latents": velocity.float()}

        return field

    null = torch.full_like(labels, model.config.null_label)
    field = guide(field_of(labels), field_of(null), guidance_scale, guidance_interval)
    config = model.config
    shape = torch.Size([len(labels), config.grid**2, config.token_channels])
    start = {"latents": normal(shape)}
    if method == "sde":
        end = solve_sde(field, start, times, lambda x: {"latents": normal(x["latents"].shape)})
    else:
        end = solve_ode(field, start, times, method)
    return unpatchify(end["latents"], config.patch)
