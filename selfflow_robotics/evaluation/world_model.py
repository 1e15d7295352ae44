"""Evaluate a world model: imagined frames against the simulator's, for likely and unlikely actions.

From one frame of an episode outside the training data, the simulator plays two futures: with the
expert's actions, and with the same actions mirrored (left and right exchanged). A world model must
follow its actions: its frames for each should be closer to that future than to the other one. The
baseline is a copy of the first frame.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from selfflow_robotics.envs.client import SimulatorClient
from selfflow_robotics.envs.episodes import EpisodeSpec
from selfflow_robotics.inference.bundle import Bundle
from selfflow_robotics.inference.imagine import imagine, psnr
from selfflow_robotics.policies.expert import ScriptedExpert
from selfflow_robotics.rng import numpy_generator
from selfflow_robotics.robot.actions import policy_from_environment
from selfflow_robotics.robot.observation import resize_image

MAX_PREFIX_STEPS = 12  # the frame is taken after 0 to this many steps of the expert
# Exchanging left and right: y of a translation, and rotations about the base's x and z axes.
MIRROR = np.array([1, -1, 1, -1, 1, -1, 1], np.float32)


@dataclass
class Future:
    """One start and two futures of F frames, uint8 [F, h, w, 3], n control steps apart."""

    spec: EpisodeSpec
    instruction: str
    first: np.ndarray  # uint8 [h, w, 3]
    actions: np.ndarray  # environment actions float32 [F * n, 7]; mirrored: actions * MIRROR
    frames: np.ndarray
    mirrored_frames: np.ndarray


def record_future(
    client: SimulatorClient,
    spec: EpisodeSpec,
    num_frames: int,
    size: tuple[int, int],
    frame_stride: int = 1,
) -> Future:
    """Play `spec` with the expert to a random step, then play both futures from there.

    Frames are `frame_stride` control steps apart.
    """
    prefix_steps = int(numpy_generator("future prefix", spec.seed).integers(MAX_PREFIX_STEPS + 1))
    expert = ScriptedExpert()
    expert.begin(0, spec)
    start = client.call("reset", **_reset(spec))
    first, info = start["observation"], start["info"]
    actions, seen = [], [first]
    for _ in range(prefix_steps + num_frames * frame_stride):
        (action,) = expert.act([0], [seen[-1]], [info])[0]
        reply = client.call("run", actions=action[None], observe="last")
        info = reply["infos"][-1]
        seen.append(reply["observations"][-1])
        actions.append(action)
    prefix, ahead = np.stack(actions[:prefix_steps] or [[]]), np.stack(actions[prefix_steps:])
    client.call("reset", **_reset(spec))
    if prefix_steps:
        client.call("run", actions=prefix, observe="none")
    mirrored = client.call("run", actions=ahead * MIRROR, observe="all")["observations"]

    def small(observations: Sequence[dict]) -> np.ndarray:
        return np.stack([resize_image(seen["image"], size) for seen in observations])

    frames = small(seen[prefix_steps::frame_stride])
    mirrored_frames = small(mirrored[frame_stride - 1 :: frame_stride])
    return Future(spec, first["instruction"], frames[0], ahead, frames[1:], mirrored_frames)


def _reset(spec: EpisodeSpec) -> dict:
    return {"seed": spec.seed, "options": {"variant": spec.variant, **spec.options}}


@dataclass
class Imagined:
    """The network's frames for both futures: uint8 [B, F, h, w, 3] each."""

    frames: np.ndarray
    mirrored_frames: np.ndarray


def imagine_futures(
    bundle: Bundle, futures: list[Future], num_steps: int, seed: int, extrapolation: float = 1.0
) -> Imagined:
    """Imagined frames for the expert's and the mirrored actions, with the same noise."""
    first = np.stack([future.first for future in futures])
    words = [future.instruction for future in futures]
    actions = np.stack([future.actions for future in futures])
    how = {"num_steps": num_steps, "seed": seed, "extrapolation": extrapolation}
    both = [
        imagine(bundle, first, policy_from_environment(a), words, **how)
        for a in (actions, actions * MIRROR)
    ]
    return Imagined(*both)


def score(futures: list[Future], imagined: Imagined) -> dict:
    """PSNR in dB by frame, averaged over episodes, and how often the actions were followed.

    `margin_db`: how much closer the last imagined frames are to the future of their own actions
    than to the other future, averaged over both and over episodes; `follows_actions`: the share of
    episodes in which it is positive. Both frames count, as a mirrored future often differs less
    from the first frame than the expert's does: with the mirrored one alone, a copy would seem to
    follow the actions. A model that ignores them has a margin of 0, and such ties count half.
    """
    truth = np.stack([future.frames for future in futures])
    mirrored = np.stack([future.mirrored_frames for future in futures])
    copy = np.stack([future.first for future in futures])[:, None]
    own = psnr(imagined.frames, truth) + psnr(imagined.mirrored_frames, mirrored)
    other = psnr(imagined.frames, mirrored) + psnr(imagined.mirrored_frames, truth)
    margin = (own - other)[:, -1] / 2
    return {
        "episodes": len(futures),
        "psnr_db": psnr(imagined.frames, truth).mean(axis=0).tolist(),
        "copy_psnr_db": psnr(np.broadcast_to(copy, truth.shape), truth).mean(axis=0).tolist(),
        "mirrored_psnr_db": psnr(imagined.mirrored_frames, mirrored).mean(axis=0).tolist(),
        "mirrored_copy_psnr_db": psnr(np.broadcast_to(copy, mirrored.shape), mirrored)
        .mean(axis=0)
        .tolist(),
        "follows_actions": float(((margin > 0) + 0.5 * (margin == 0)).mean()),
        "margin_db": float(margin.mean()),
    }
