"""How long a world model can be played: its frames against the simulator's, and their rate.

    python -m benchmarks.play --checkpoint runs/rt1
    python -m benchmarks.play --checkpoint runs/rt1 --steps 1 2 5 --windows 1 3 6

Keys are held at random, as a person would on the page of eval/play.py; simulator and world model
get the same actions, and the world model never sees a real frame again. A row is one setting:
solver steps of a frame, and steps until an imagined frame becomes the start of the next ones. The
row "copy" repeats the first frame. Prints a Markdown table with the mean PSNR after 1, 6, 12 and 24
steps; the processor time for a frame; and what a tab gets over loopback, from key to frames, with
the simulator and the policy's future at work. Tab, server and simulator share the processors.
"""

import asyncio
import json
import struct
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # if run as a file

from benchmarks.arguments import Parser, positive
from selfflow_robotics.envs.client import SimulatorClient
from selfflow_robotics.envs.spec import SimplerInstall, SimulatorSpec
from selfflow_robotics.envs.tasks.catalog import get_task
from selfflow_robotics.errors import UserError
from selfflow_robotics.evaluation.home import own_spec
from selfflow_robotics.evaluation.tables import markdown_table
from selfflow_robotics.inference.bundle import Bundle, load_bundle
from selfflow_robotics.inference.imagination import Imagination, longest
from selfflow_robotics.inference.imagine import psnr
from selfflow_robotics.policies.flow_policy import FlowPolicy
from selfflow_robotics.robot.actions import policy_from_environment
from selfflow_robotics.robot.observation import resize_image
from selfflow_robotics.serving.access import Access
from selfflow_robotics.serving.play.controls import MOTIONS, action_of
from selfflow_robotics.serving.play.session import PlaySession

try:
    from websockets.asyncio.client import connect

    from selfflow_robotics.serving.play.server import PlayServer, playing
except (ImportError, UserError) as error:  # the extra is not installed
    print(f"error: {error}", file=sys.stderr)
    sys.exit(2)

FIRST_SEED = 3_000_000
LENGTH = 24
SHOWN = (1, 6, 12, 24)
HELD_STEPS = (1, 7)  # a key is held for so many steps


def random_actions(seed: int, count: int) -> np.ndarray:
    """Environment actions [count, 7] of keys held at random; the gripper changes now and then."""
    rng, actions, is_closed = np.random.default_rng(seed), [], False
    while len(actions) < count:
        keys = rng.choice([*MOTIONS], size=int(rng.integers(1, 3)), replace=False)
        is_closed ^= bool(rng.random() < 0.2)
        actions += [action_of(keys, is_closed)] * int(rng.integers(*HELD_STEPS))
    return np.stack(actions[:count])


def play(client: SimulatorClient, size: tuple[int, int], steps: int, seed: int):
    """(instruction, frames uint8 [1 + LENGTH, h, w, 3], environment actions), `steps` control steps
    between frames."""
    start = client.call("reset", seed=seed, options={})["observation"]
    actions = random_actions(seed, LENGTH).repeat(steps, axis=0)
    seen = client.call("run", actions=actions, observe="all")["observations"][steps - 1 :: steps]
    frames = np.stack([resize_image(look["image"], size) for look in (start, *seen)])
    return start["instruction"], frames, actions


def score(bundle: Bundle, played: list, num_steps: int, window: int) -> tuple[np.ndarray, float]:
    """Mean PSNR after each step, and seconds of processor time for a frame."""
    values, seconds = [], 0.0
    for instruction, frames, actions in tqdm(played, desc=f"{num_steps} steps, window {window}"):
        imagination = Imagination(bundle, num_steps, window)
        imagination.start(frames[0], instruction)
        told = policy_from_environment(actions).reshape(LENGTH, imagination.control_steps, 7)
        began = time.process_time()
        imagined = np.stack([imagination.step(part) for part in told])
        seconds += time.process_time() - began
        values.append(psnr(imagined, frames[1:]))
    return np.mean(values, axis=0), seconds / len(played) / LENGTH


async def tab_rate(
    bundle: Bundle, spec: SimulatorSpec, num_steps: int, window: int, seconds: float
) -> float:
    """Frames per second of one tab that acts as soon as it has the last frames."""

    def new_session() -> PlaySession:
        policy = FlowPolicy(bundle, bundle.horizon) if "policy" in bundle.roles else None
        imagination = Imagination(bundle, num_steps, window)
        return PlaySession(
            SimulatorClient(spec), {spec.task: get_task(spec.task)}, imagination, policy, None
        )

    server = PlayServer(new_session, {}, Access(None), max_tabs=1, future_steps=num_steps)
    async with (
        playing(server) as port,
        connect(f"ws://127.0.0.1:{port}/play", compression=None) as tab,
    ):
        await tab.recv()

        async def ask(**message) -> None:
            await tab.send(json.dumps(message))
            while True:  # futures come in between
                data = await tab.recv()
                assert isinstance(data, bytes), data
                (length,) = struct.unpack("<I", data[:4])
                if json.loads(data[4 : 4 + length])["type"] == "view":
                    return

        await ask(type="reset", task=spec.task, seed=FIRST_SEED)
        await ask(type="act", keys=["w"])
        count, began = 0, time.perf_counter()
        while time.perf_counter() - began < seconds:
            await ask(type="act", keys=[("w", "s")[count % 2]])
            count += 1
            if count % 400 == 0:  # before the episode is full
                await ask(type="reset", task=spec.task, seed=FIRST_SEED)
        return count / (time.perf_counter() - began)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = Parser(__doc__)
    parser.add_argument("--checkpoint", type=Path, required=True, help="a run or checkpoint")
    parser.add_argument("--task", default="pick_coke_can", help="the task whose scene is played")
    parser.add_argument("--episodes", type=positive, default=32, help="episodes for the PSNR")
    parser.add_argument("--steps", type=positive, nargs="+", default=[1, 2, 5])
    parser.add_argument("--windows", type=positive, nargs="+", help="default: the longest")
    parser.add_argument("--seconds", type=positive, default=5, help="for each frames/s")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    try:
        bundle = load_bundle(options.checkpoint, "cpu").with_autoencoder()
        bundle.require("world_model")
        size = bundle.frames.image_size
        spec = own_spec(options.task, SimplerInstall(), bundle.provenance, size, None)
        steps = bundle.frame_stride * bundle.frames.stride
        with SimulatorClient(spec) as client:
            seeds = range(FIRST_SEED, FIRST_SEED + options.episodes)
            played = [play(client, size, steps, seed) for seed in tqdm(seeds, desc="playing")]
        still = np.mean([psnr(f[:1].repeat(LENGTH, 0), f[1:]) for _, f, _ in played], axis=0)
        rows = [["copy", "", *(f"{still[t - 1]:.1f}" for t in SHOWN), "", ""]]
        for window in options.windows or [longest(bundle)]:
            for num_steps in options.steps:
                values, cpu_s = score(bundle, played, num_steps, window)
                rate = asyncio.run(tab_rate(bundle, spec, num_steps, window, options.seconds))
                shown = [f"{values[t - 1]:.1f}" for t in SHOWN]
                rows.append(
                    [str(num_steps), str(window), *shown, f"{1e3 * cpu_s:.0f}", f"{rate:.1f}"]
                )
    except UserError as error:
        parser.error(str(error))
    head = ["solver steps", "window", *(f"PSNR, step {t} (dB)" for t in SHOWN)]
    print(markdown_table([[*head, "CPU ms/frame", "frames/s in a tab"], *rows]))


if __name__ == "__main__":
    main()
