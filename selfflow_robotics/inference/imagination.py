"""The world model one action at a time, without end: an open-loop rollout from one real frame.

The network imagines at most `most_imagined` frames after a frame. To go on, an imagined frame takes
the real one's place, and every such change of the start costs quality: the next frames are imagined
from a frame that was imagined itself. So the start stays for `window` steps; each step imagines all
frames since the start again, of which the last one is new.
"""

import numpy as np

from selfflow_robotics.errors import UserError
from selfflow_robotics.inference.bundle import Bundle
from selfflow_robotics.inference.imagine import imagine


class Imagination:
    """What the camera would show, imagined from the last real frame and all actions since then.

    `steps`: steps imagined since the real frame. `control_steps`: actions of a step (the frame
    stride, times the frames of a latent frame for video autoencoders).
    """

    def __init__(
        self, bundle: Bundle, num_steps: int = 1, window: int | None = None, seed: int = 0
    ) -> None:
        """`num_steps`: solver steps. `window`: steps before an imagined frame becomes the start, 1
        to `longest(bundle)`, which None means.

        Raises UserError if the network is no world model, or for a window outside that range.
        """
        bundle.require("world_model")
        most = longest(bundle)
        if window is not None and not 1 <= window <= most:
            raise UserError(f"window must be 1 to {most} for this network, got {window}")
        self.bundle, self.num_steps, self.seed = bundle, num_steps, seed
        self.window = window or most
        self.control_steps = bundle.frame_stride * bundle.frames.stride
        self.steps = 0

    def start(self, frame: np.ndarray, instruction: str) -> None:
        """Begin at a real frame, uint8 [h, w, 3] at the network's image size."""
        self.frame, self.instruction = frame, instruction
        self.steps = 0
        self._start, self._actions = frame, np.zeros((0, 7), np.float32)

    def step(self, actions: np.ndarray) -> np.ndarray:
        """The frame uint8 [h, w, 3] after policy vectors [control_steps, 7] (`robot.actions`)."""
        if len(self._actions) == self.window * self.control_steps:
            self._start, self._actions = self.frame, self._actions[:0]
        told = np.concatenate([self._actions, actions])
        self.frame = imagine(
            self.bundle,
            self._start[None],
            told[None],
            [self.instruction],
            num_steps=self.num_steps,
            seed=self.seed,  # the same noise at every step, so that nothing flickers
        )[0, -1]
        self._actions = told
        self.steps += 1
        return self.frame


def longest(bundle: Bundle) -> int:
    """Most steps of `Imagination` from one start."""
    return bundle.most_imagined // bundle.frames.stride
