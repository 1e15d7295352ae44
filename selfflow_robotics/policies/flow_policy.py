"""The network as a policy: observe, denoise an action chunk, execute it."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from selfflow_robotics.envs.episodes import EpisodeSpec
from selfflow_robotics.errors import UserError
from selfflow_robotics.inference.bundle import Bundle, load_bundle
from selfflow_robotics.inference.sample import check_heads
from selfflow_robotics.modalities.base import first_frame
from selfflow_robotics.rng import torch_generator
from selfflow_robotics.robot.actions import environment_from_policy
from selfflow_robotics.robot.observation import resize_image
from selfflow_robotics.training.device import choose_device

NUM_STEPS = 5  # Euler steps for a chunk; 2, 5 and 10 succeed equally often
# Matrix products of other sizes round differently. On a CPU, every batch has this size, so that an
# episode does not depend on the others running at the same time; a GPU takes a multiple at once.
BATCH = 4


class FlowPolicy:
    """The role `policy` or `joint` of a network, as a `policies.base.Policy`.

    Its noise depends only on the episode's seed and the number of the observation, so episodes are
    independent of each other.
    """

    name = "network"
    privileged = False

    def __init__(
        self,
        bundle: Bundle,
        replan_steps: int = 6,
        num_steps: int | None = None,
        guidance_scale: float | None = None,
        joint: bool = False,
        instruction: str | None = None,
        extrapolation: float | None = None,
    ) -> None:
        """`joint`: denoise later frames and actions together (role "joint") instead of only actions
        (role "policy"). `instruction`: replaces the task's instruction. `guidance_scale` and
        `extrapolation` as in `inference.sample.sample`; None: none.

        Raises UserError for a role that the network was not trained on, too many steps, an
        instruction that it cannot read, and extrapolation without auxiliary heads.
        """
        self._actions = bundle.require("joint" if joint else "policy")
        if not 1 <= replan_steps <= bundle.horizon:
            raise UserError(
                f"replan_steps must be 1 to {bundle.horizon} (the chunk), got {replan_steps}"
            )
        self.bundle, self.joint = bundle, joint
        if instruction is not None:
            self.check_instruction(instruction)
        if instruction == "" and guidance_scale not in (None, 1.0):
            raise UserError("guidance_scale has no effect with an empty instruction; remove one")
        self.replan_steps = replan_steps
        self.num_steps = NUM_STEPS if num_steps is None else num_steps
        self.guidance_scale = 1.0 if guidance_scale is None else guidance_scale
        self.extrapolation = 1.0 if extrapolation is None else extrapolation
        check_heads(bundle.network, self.extrapolation)
        self.instruction = instruction
        self._looks: dict[int, tuple[int, int]] = {}  # slot -> (episode seed, observations so far)

    @classmethod
    def from_checkpoint(
        cls,
        path: Path | str,
        *,
        replan_steps: int = 6,
        num_steps: int | None = None,
        guidance_scale: float | None = None,
        extrapolation: float | None = None,
        joint: bool = False,
        instruction: str | None = None,
        device: str = "auto",
    ) -> "FlowPolicy":
        """Load the policy of a run or checkpoint folder. Raises UserError if that fails."""
        bundle = load_bundle(Path(path), choose_device(device)).with_autoencoder()
        return cls(
            bundle, replan_steps, num_steps, guidance_scale, joint, instruction, extrapolation
        )

    @property
    def data_provenance(self) -> dict[str, Any]:
        """Provenance of the training data; `simulator` is the simulator, if any."""
        return self.bundle.provenance

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) in pixels to which images are averaged down."""
        return self.bundle.frames.image_size

    def check_instruction(self, instruction: str) -> None:
        """Raise UserError for an instruction that the network cannot read."""
        self.bundle.network.encode_words(self.bundle.words([instruction]))

    def begin(self, slot: int, episode: EpisodeSpec) -> None:
        self._looks[slot] = (episode.seed, 0)

    def act(
        self,
        slots: list[int],
        observations: list[dict[str, Any]],
        infos: list[dict[str, Any]] | None = None,
    ) -> list[np.ndarray]:
        """Chunks of `replan_steps` environment actions, float32 [replan_steps, 7] each."""
        padded = [*range(len(slots)), *[0] * (-len(slots) % BATCH)]
        frames = [resize_image(obs["image"], self.image_size) for obs in observations]
        noise = [self._noise(slot) for slot in slots]
        words = [
            obs["instruction"] if self.instruction is None else self.instruction
            for obs in observations
        ]
        size = BATCH if self.bundle.device.type == "cpu" else len(padded)
        chunks = [
            self.chunks(
                np.stack([frames[i] for i in part]),
                [words[i] for i in part],
                torch.stack([noise[i] for i in part]),
            )
            for part in (padded[start : start + size] for start in range(0, len(padded), size))
        ]
        vectors = np.concatenate(chunks)[: len(slots), : self.replan_steps]
        return list(environment_from_policy(vectors))

    def chunks(
        self, frames: np.ndarray, instructions: list[str], noise: torch.Tensor
    ) -> np.ndarray:
        """Policy vectors [B, horizon, 7] in metres and radians for images uint8 [B, h, w, 3] and
        noise [B, n]."""
        bundle, codec = self.bundle, self.bundle.frames
        first = first_frame(codec, torch.from_numpy(frames).to(bundle.device))
        actions = self._actions.channels * bundle.horizon
        tokens = {"actions": noise[:, :actions].unflatten(1, (bundle.horizon, -1))}
        if self.joint:
            # Tokens have the order of training.
            later = noise[:, actions:].unflatten(1, (-1, codec.channels))
            tokens = {"later_frames": later, **tokens}
        tokens = bundle.ask(
            tokens,
            {"first_frame": first},
            words=instructions,
            num_steps=self.num_steps,
            guidance_scale=self.guidance_scale,
            extrapolation=self.extrapolation,
        )
        return self._actions.decode(tokens["actions"]).cpu().numpy()

    def _noise(self, slot: int) -> torch.Tensor:
        """Standard normal numbers [n], for the actions, then the later frames."""
        seed, looks = self._looks[slot]
        self._looks[slot] = (seed, looks + 1)
        bundle, count = self.bundle, self._actions.channels * self.bundle.horizon
        if self.joint:
            count += bundle.later_steps * bundle.frames.tokens_per_step * bundle.frames.channels
        return torch.randn(count, generator=torch_generator("policy noise", seed, looks))
