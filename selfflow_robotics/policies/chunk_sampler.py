"""Asks the network for action chunks, or for one denoising step of a stream of actions."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from selfflow_robotics.errors import UserError, unknown
from selfflow_robotics.flow.inpainting import Inpainting
from selfflow_robotics.flow.solvers import METHODS, Method
from selfflow_robotics.flow.staircase import descent, stairs
from selfflow_robotics.inference.bundle import Bundle
from selfflow_robotics.inference.velocity import Velocity, check_heads
from selfflow_robotics.modalities.base import first_frame
from selfflow_robotics.models.network import ModulationTable
from selfflow_robotics.rng import torch_generator
from selfflow_robotics.timesteps import Timesteps

NUM_STEPS = 5  # Euler steps for a chunk; 2, 5 and 10 succeed equally often
# Matrix products of other sizes round differently. On a CPU, every batch has this size, so that an
# episode does not depend on the others running at the same time; a GPU takes a multiple at once.
BATCH = 4
STREAMED = ("staircase", "per_token")  # training schedules that streaming works with

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Seen:
    """What a policy sees: an image uint8 [h, w, 3] of the network's size, and the instruction."""

    frame: np.ndarray
    instruction: str


class ChunkSampler:
    """The role `policy` or `joint` of a network. Tokens are float32 on its device."""

    def __init__(
        self,
        bundle: Bundle,
        num_steps: int | None = None,
        guidance_scale: float | None = None,
        joint: bool = False,
        solver: Method = "euler",
        extrapolation: float | None = None,
    ) -> None:
        """Raises UserError for a role that the network was not trained on, another solver, and
        extrapolation without auxiliary heads."""
        self.bundle, self.joint, self.solver = bundle, joint, solver
        self.actions = bundle.require("joint" if joint else "policy")
        if solver not in METHODS:
            raise unknown("solver", solver, METHODS)
        self.given_steps = num_steps
        self.num_steps = NUM_STEPS if num_steps is None else num_steps
        self.guidance_scale = 1.0 if guidance_scale is None else guidance_scale
        self.extrapolation = 1.0 if extrapolation is None else extrapolation
        check_heads(bundle.network, self.extrapolation)
        self._stair_tables: dict[int, ModulationTable] = {}

    @property
    def horizon(self) -> int:
        """H, the actions of a chunk."""
        return self.bundle.horizon

    def noise(self, seed: int, look: int) -> Tensor:
        """Standard normal numbers [n] for an episode's observation: for the actions, then the later
        frames."""
        bundle, count = self.bundle, self.actions.channels * self.horizon
        if self.joint:
            count += bundle.later_steps * bundle.frames.tokens_per_step * bundle.frames.channels
        return torch.randn(count, generator=torch_generator("policy noise", seed, look))

    def action_noise(self, seed: int, look: int) -> Tensor:
        """The part of `noise` for the actions, [H, C] on the device."""
        numbers = self.noise(seed, look)[: self.actions.channels * self.horizon]
        return numbers.unflatten(0, (self.horizon, -1)).to(self.bundle.device)

    def chunks(
        self,
        seen: Sequence[Seen],
        noise: Sequence[Tensor],
        targets: Sequence[Tensor] | None = None,
        weights: Tensor | None = None,
    ) -> Tensor:
        """Chunks of action tokens [B, H, C], one per observation and its `noise`.

        `targets` [H, C] each: what the actions should be where `weights` [H] are above 0
        (`flow.inpainting`).
        """
        found = []
        for part in self._parts(len(seen)):
            inpainting = None
            if targets is not None and weights is not None:
                target = torch.stack([targets[i] for i in part]).to(self.bundle.device)
                mask = weights.to(target.device)[None, :, None]
                inpainting = Inpainting({"actions": target}, {"actions": mask})
            shown = [seen[i] for i in part]
            found.append(self._chunks(shown, torch.stack([noise[i] for i in part]), inpainting))
        return torch.cat(found)[: len(seen)]

    @torch.no_grad()
    def down_the_stairs(self, seen: Sequence[Seen], tokens: Sequence[Tensor], late: int) -> Tensor:
        """Action tokens [B, H, C] after one evaluation, from [H, C] each at `stairs(H, late)`."""
        found = []
        for part in self._parts(len(seen)):
            shown = [seen[i] for i in part]
            found.append(self._stair(shown, torch.stack([tokens[i] for i in part]), late))
        return torch.cat(found)[: len(seen)]

    def decode(self, tokens: Tensor) -> np.ndarray:
        """Policy vectors float32 [B, N, 7] in metres and radians."""
        return self.actions.decode(tokens).cpu().numpy()

    def check_streaming(self) -> None:
        """Raise UserError for settings that `down_the_stairs` would ignore; warn about a network
        that has only seen actions at one common timestep."""
        changed = (self.guidance_scale, self.extrapolation, self.solver) != (1.0, 1.0, "euler")
        if self.joint or changed:
            raise UserError(
                "execution=streaming does without joint, guidance_scale, extrapolation and solver; "
                "remove them"
            )
        if self.given_steps not in (None, self.horizon):
            raise UserError(
                f"execution=streaming denoises every action in {self.horizon} steps (the chunk); "
                f"remove num_steps={self.given_steps}"
            )
        if self.bundle.schedule not in STREAMED:
            logger.warning(
                "execution=streaming: %s was trained with the same timestep for all actions of a "
                "chunk; fine-tune it with policy_objective.schedule=staircase",
                self.bundle.origin,
            )

    def _parts(self, count: int) -> list[list[int]]:
        """The indices of each batch; the first sample fills up the last one."""
        padded = [*range(count), *[0] * (-count % BATCH)]
        size = BATCH if self.bundle.device.type == "cpu" else len(padded)
        return [padded[start : start + size] for start in range(0, len(padded), size)]

    def _first_frame(self, seen: Sequence[Seen]):
        frames = torch.from_numpy(np.stack([one.frame for one in seen]))
        return first_frame(self.bundle.frames, frames.to(self.bundle.device))

    def _chunks(self, seen: Sequence[Seen], noise: Tensor, inpainting: Inpainting | None) -> Tensor:
        count = self.actions.channels * self.horizon
        tokens = {"actions": noise[:, :count].unflatten(1, (self.horizon, -1))}
        if self.joint:
            # Tokens have the order of training.
            later = noise[:, count:].unflatten(1, (-1, self.bundle.frames.channels))
            tokens = {"later_frames": later, **tokens}
        tokens = self.bundle.ask(
            tokens,
            {"first_frame": self._first_frame(seen)},
            words=[one.instruction for one in seen],
            num_steps=self.num_steps,
            guidance_scale=self.guidance_scale,
            extrapolation=self.extrapolation,
            method=self.solver,
            inpainting=inpainting,
        )
        return tokens["actions"]

    def _stair(self, seen: Sequence[Seen], tokens: Tensor, late: int) -> Tensor:
        bundle = self.bundle
        slot = bundle.slot("actions", tokens)
        velocity = Velocity(
            bundle.network,
            {"actions": slot},
            {"first_frame": self._first_frame(seen)},
            bundle.words([one.instruction for one in seen]),
            attention=bundle.attention,
        )
        count, horizon = slot.tokens.shape[:2]
        times = stairs(horizon, late).to(bundle.device)
        tau = Timesteps(
            times.expand(count, -1), torch.arange(horizon, device=times.device).expand(count, -1)
        )
        table = None
        if velocity.context.tokens is None:  # always the same, so it is computed once
            if late not in self._stair_tables:
                self._stair_tables[late] = velocity.table(times)
            table = self._stair_tables[late].expand(count)
        v = velocity({"actions": slot.tokens}, tau, table)["actions"]
        return slot.tokens - descent(horizon, late).to(v.device)[:, None] * v
