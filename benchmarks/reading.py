"""Time reading robot data, in this process and with workers, and measure its memory.

    python -m benchmarks.reading                       # minutes
    python -m benchmarks.reading --samples 2000        # seconds
    python -m benchmarks.reading --samples 100000 --only jpeg

Makes data sets of 256 x 320 px from an episode that it records on the tabletop: as RLDS, as LeRobot
(one AV1 video per episode, or several in one), and as latents of the size of SD-VAE's. Each row is
a process of its own that reads windows of one frame (or seven) and six actions in random order, in
batches of 32, without keeping frames in memory. CPU seconds are those of all processes together.
Memory is that of the main process, and what a worker adds to it; after a tenth of the samples and
at the end.
"""

import argparse
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from benchmarks.lerobot_sets import write_lerobot
from selfflow_robotics.autoencoders.load import AutoencoderConfig, load_autoencoder
from selfflow_robotics.data.latents_encode import Encoding
from selfflow_robotics.data.latents_encode import Workers as Encoders
from selfflow_robotics.data.latents_writer import write_latents
from selfflow_robotics.data.mixture import Mixture
from selfflow_robotics.data.rlds.index import RldsIndex
from selfflow_robotics.data.rlds.latents import FrameLatents, RldsFrames
from selfflow_robotics.data.rlds.windows import WindowReader
from selfflow_robotics.data.rlds.writer import RldsWriter
from selfflow_robotics.data.robot_data import open_robot_data
from selfflow_robotics.data.workers import Workers
from selfflow_robotics.rollouts.demonstrations import CollectConfig, ensure_demonstrations

BATCH = 32
EPISODES, MEDIAN_STEPS = 12, 41
AV1 = {"crf": "30", "svtav1-params": "lp=1"}
LATENT_PX = (32, 40)  # 3 x 32 x 40 float16; SD-VAE has 4 x 32 x 40 for 256 x 320 px


@dataclass(frozen=True)
class Case:
    """What to read: a folder made by `make_sets`, at a size in px, with later frames."""

    name: str
    folder: str
    size: tuple[int, int]
    later_frames: int = 0


FULL, SMALL = (256, 320), (64, 80)
CASES = {
    "jpeg-small": Case("JPEG, resized to 64 x 80 px", "rlds/episodes/0.1.0", SMALL),
    "jpeg": Case("JPEG, 256 x 320 px", "rlds/episodes/0.1.0", FULL),
    "jpeg-7": Case("JPEG, 256 x 320 px, 7 frames", "rlds/episodes/0.1.0", FULL, 6),
    "latents": Case("latents", "latents", FULL),
    "latents-7": Case("latents, 7 frames", "latents", FULL, 6),
    "v2.0-g2": Case("AV1, 1 video per episode, keyframe every 2", "v2.0-g2", FULL),
    "v2.0-g2-7": Case("the same, 7 frames", "v2.0-g2", FULL, 6),
    "v3.0-g2": Case("AV1, all episodes in 2 videos, keyframe every 2", "v3.0-g2", FULL),
    "v3.0-g2-7": Case("the same, 7 frames", "v3.0-g2", FULL, 6),
    "v3.0-g40": Case("AV1, all episodes in 2 videos, keyframe every 40", "v3.0-g40", FULL),
    "v3.0-g40-7": Case("the same, 7 frames", "v3.0-g40", FULL, 6),
}


def make_sets(root: Path) -> None:
    """Write all data sets below `root`."""
    recording = CollectConfig(
        num_episodes=1, recovery=0.0, image_size=FULL, root=str(root / "recorded")
    )
    recorded = RldsIndex.open(ensure_demonstrations(recording))
    frames = [recorded.frame(n) for n in range(recorded.num_frames)]
    # Forth and back, to the median length of the episodes in fractal20220817_data.
    there_and_back = [*range(len(frames)), *range(len(frames) - 2, -1, -1)][:MEDIAN_STEPS]
    generator = np.random.default_rng(0)
    with RldsWriter(root / "rlds", "episodes", "0.1.0", FULL, {"simulator": "none"}) as writer:
        for _ in range(EPISODES):
            brightness = generator.integers(-20, 20)
            steps = [
                {
                    "image": np.clip(frames[n].astype(int) + brightness, 0, 255).astype(np.uint8),
                    "instruction": recorded.instruction_of(n),
                    "proprio": recorded.proprio[n],
                    "world_vector": recorded.actions[n, :3],
                    "rotation_delta": recorded.actions[n, 3:6],
                    "gripper_closedness_action": 0.0,
                }
                for n in there_and_back
            ]
            writer.write_episode(steps, {"success": True})
        folder = writer.finish()
    index = RldsIndex.open(folder)
    for version, keyframes in (("v2.0", "2"), ("v3.0", "2"), ("v3.0", "40")):
        write_lerobot(
            root / f"{version}-g{keyframes}",
            index,
            version,
            codec="libsvtav1",
            options=AV1 | {"g": keyframes},
            per_file=EPISODES // 2,
        )
    kind = AutoencoderConfig("pixel")
    autoencoder = load_autoencoder(kind, torch.device("cpu"))
    source, encoding = RldsFrames.open(folder), Encoding(list(LATENT_PX))
    write_latents(source, root / "latents", autoencoder, Encoders(kind), encoding)


def measure(root: Path, case: Case, workers: int, samples: int) -> dict[str, float]:
    """Read so many samples in this process, or with workers."""
    if case.folder == "latents":
        index = RldsIndex.open(root / CASES["jpeg"].folder)
        frames = FrameLatents(root / "latents", index)
    else:
        index, frames = open_robot_data(root / case.folder), None
    reader = WindowReader(index, 6, case.later_frames, case.size, cache_bytes=0, frames=frames)
    mixture = Mixture([reader], [1.0], BATCH, 0, "benchmark")
    steps = samples // BATCH
    warm = max(2 * workers + 2, steps // 10)
    with Workers(mixture.batch, workers, warm + steps) as batch_at:
        for step in range(warm):
            batch_at(step)
        early, cpu, begin = memory(), cpu_seconds(), time.perf_counter()
        for step in range(warm, warm + steps):
            batch_at(step)
        wall_s, cpu_s, late = time.perf_counter() - begin, cpu_seconds() - cpu, memory()
    count = steps * BATCH
    told = {"per_cpu_s": count / cpu_s, "per_s": count / wall_s, "ms": 1000 * cpu_s / count}
    for when, found in (("early", early), ("late", late)):
        told |= {f"main_{when}": found[0], f"worker_{when}": max(found[1:], default=0.0)}
    return told


def processes() -> list[int]:
    """This process and its workers."""
    return [os.getpid(), *(one.pid for one in multiprocessing.active_children() if one.pid)]


def cpu_seconds() -> float:
    """Of this process and its workers."""
    ticks = 0
    for pid in processes():
        words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(words[11]) + int(words[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def memory() -> list[float]:
    """MB of this process, without files that are mapped, and what each worker adds to it."""
    found = []
    for pid in processes():
        kinds = "Anonymous:" if pid == os.getpid() else "Private_"
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        kb = [int(line.split()[1]) for line in lines if line.startswith(kinds)]
        found.append(sum(kb) / 1024)
    return found


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=20_000, help="for each row")
    parser.add_argument("--only", help="one of the rows: " + ", ".join(CASES))
    parser.add_argument("--workers", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--folder", help="for the data sets; kept, and used again")
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.measure:
        torch.set_num_threads(1)
        name, workers = options.measure
        told = measure(Path(options.folder), CASES[name], int(workers), options.samples)
        print(json.dumps(told))
        return
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(options.folder or scratch)
        if not (root / "latents").exists():
            make_sets(root)
        print("| windows | workers | per CPU s | per s | CPU ms each | main MB | worker MB |")
        print("|---|---|---|---|---|---|---|")
        for name in [options.only] if options.only else CASES:
            for workers in options.workers:
                command = [sys.executable, "-m", "benchmarks.reading", "--folder", str(root)]
                command += ["--samples", str(options.samples), "--measure", name, str(workers)]
                done = subprocess.run(command, capture_output=True, text=True, check=True)
                told = json.loads(done.stdout.splitlines()[-1])
                grown = [
                    f"{told[f'{who}_early']:.0f}, {told[f'{who}_late']:.0f}"
                    for who in ("main", "worker")
                ]
                print(
                    f"| {CASES[name].name} | {workers} | {told['per_cpu_s']:.0f} | "
                    f"{told['per_s']:.0f} | {told['ms']:.2f} | {' | '.join(grown)} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
