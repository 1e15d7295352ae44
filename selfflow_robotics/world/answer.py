"""Asking the network: the clean part of a row of the role table and noise in, the answer out."""

import torch
from torch import Tensor

from selfflow_robotics.flow import path
from selfflow_robotics.flow.guidance import guide
from selfflow_robotics.flow.solvers import Method, State, VelocityField, solve_ode
from selfflow_robotics.flow.timesteps import sampling_times
from selfflow_robotics.models.multimodal import MultimodalSiT
from selfflow_robotics.models.sit import constant_timestep


@torch.no_grad()
def answer(
    model: MultimodalSiT,
    clean: dict[str, Tensor],
    instructions: list[str] | None,
    noise: dict[str, Tensor],
    *,
    num_steps: int,
    guidance_scale: float = 1.0,
    guidance_interval: tuple[float, float] = (0.0, 1.0),
    method: Method = "euler",
    shift: float = 1.0,
) -> dict[str, Tensor]:
    """Denoise the slots of `noise` [B, N, C] given the clean ones.

    The clean tokens are encoded once; every solver step only computes the noised ones.
    `guidance_scale` != 1 contrasts the instruction with the empty one, within `guidance_interval`.
    `method` and `shift` as in `flow.solvers` and `flow.timesteps`.
    """

    def field_given(texts: list[str] | None) -> VelocityField:
        context = model.encode_context(clean, texts)

        def field(x_t: State, t: float) -> State:
            joined = torch.cat([x[..., :1] for x in x_t.values()], dim=1)
            outputs, _ = model(x_t, constant_timestep(t, joined), context)
            at = torch.tensor(t, device=joined.device)  # never 0, so the last step may land
            return {
                slot: path.as_velocity(outputs[slot].float(), model.prediction[slot], x, at, 0.0)
                for slot, x in x_t.items()
            }

        return field

    field = field_given(instructions)
    if guidance_scale != 1.0 and instructions is not None:
        empty = field_given([""] * len(instructions))
        field = guide(field, empty, guidance_scale, guidance_interval)
    return solve_ode(field, noise, sampling_times(num_steps, shift), method)
