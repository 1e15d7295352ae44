"""The network as a policy: observe, denoise actions, execute them."""

from copy import copy
from pathlib import Path
from typing import Any, Literal

import numpy as np

from selfflow_robotics.envs.episodes import EpisodeSpec
from selfflow_robotics.errors import UserError, unknown
from selfflow_robotics.flow.solvers import Method
from selfflow_robotics.inference.bundle import Bundle, load_bundle
from selfflow_robotics.policies.chunk_sampler import ChunkSampler, Seen
from selfflow_robotics.policies.chunking import Chunking
from selfflow_robotics.policies.execution import ExecutionConfig, Mode
from selfflow_robotics.robot.actions import environment_from_policy
from selfflow_robotics.robot.observation import resize_image
from selfflow_robotics.training.compile import compile_blocks, missing_compiler
from selfflow_robotics.training.device import choose_device

Precision = Literal["fp32", "bf16"]


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
        *,
        execution: Mode = "receding",
        delay: int = 0,
        ensemble_decay: float = 0.01,
        solver: Method = "euler",
        precision: Precision = "fp32",
        compiled: bool = False,
    ) -> None:
        """
        Args:
            bundle: the network, with its autoencoder.
            replan_steps, execution, delay, ensemble_decay: `policies.execution.ExecutionConfig`.
            num_steps: solver steps for a chunk; None: 5.
            guidance_scale: classifier-free guidance; None: 1, none.
            joint: denoise later frames and actions together (role "joint") instead of only actions
                (role "policy").
            instruction: replaces the task's instruction.
            extrapolation: from the auxiliary heads (`inference.sample.sample`); None: 1, none.
            solver: `flow.solvers`.
            precision: "bf16": a copy of the weights in bfloat16.
            compiled: compile the network's blocks at their first use.

        Raises UserError for a role that the network was not trained on, too many steps, settings
        that contradict each other, an instruction that it cannot read, and extrapolation without
        auxiliary heads.
        """
        if precision not in ("fp32", "bf16"):
            raise unknown("precision", precision, ("fp32", "bf16"))
        if precision == "bf16":
            bundle = bundle.in_bfloat16()
        if compiled:
            if missing := missing_compiler():
                raise UserError(f"compile=true needs {missing}; install it, or use compile=false")
            compile_blocks(bundle.network)
        self.bundle = bundle
        self.sampler = ChunkSampler(bundle, num_steps, guidance_scale, joint, solver, extrapolation)
        self._how = ExecutionConfig(execution, replan_steps, delay, ensemble_decay)
        self.execution = self._how.build(self.sampler)
        self.replan_steps = self.execution.steps  # actions between observations
        if instruction is not None:
            self.check_instruction(instruction)
        if instruction == "" and guidance_scale not in (None, 1.0):
            raise UserError("guidance_scale has no effect with an empty instruction; remove one")
        self.instruction = instruction

    @classmethod
    def from_checkpoint(
        cls, path: Path | str, *, device: str = "auto", **settings: Any
    ) -> "FlowPolicy":
        """Load the policy of a run or checkpoint folder; `settings` as above. Raises UserError if
        that fails."""
        bundle = load_bundle(Path(path), choose_device(device)).with_autoencoder()
        return cls(bundle, **settings)

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

    def with_whole_chunks(self) -> "FlowPolicy":
        """The same policy, but `act` returns whole chunks, of which the first `replan_steps` are
        for the time until the next observation. For a clock that does not wait (`rollouts.clock`).

        Raises UserError for an execution that decides more than that.
        """
        self._how.check_real_time()
        twin = copy(self)
        twin.execution = Chunking(self.sampler, self.sampler.horizon)
        return twin

    def begin(self, slot: int, episode: EpisodeSpec) -> None:
        self.execution.begin(slot, episode.seed)

    def act(
        self,
        slots: list[int],
        observations: list[dict[str, Any]],
        infos: list[dict[str, Any]] | None = None,
    ) -> list[np.ndarray]:
        """`replan_steps` environment actions for each slot, float32 [replan_steps, 7]; with whole
        chunks, float32 [H, 7]."""
        seen = [
            Seen(
                resize_image(observation["image"], self.image_size),
                observation["instruction"] if self.instruction is None else self.instruction,
            )
            for observation in observations
        ]
        vectors = np.stack(self.execution.act(slots, seen))
        return list(environment_from_policy(vectors))
