r"""Compare robot networks: initial weights, objectives, and actions decoded alone or with frames.

    python benchmarks/decoding.py                   # 3 seeds of 5 networks: hours on two cores
    python benchmarks/decoding.py --seeds 1 --steps 4 --pretrain-steps 4 --episodes 2 \
        --recorded 20 --play 10 --name quick        # minutes

Each network is fine-tuned on the same demonstrations of pick_coke_can, with all roles:

    scratch      Self-Flow, from random weights
    image        Self-Flow, from a run on single frames, as the released weights are of images
    video        Self-Flow, from a run on frames and short clips
    vanilla      as video, but both runs with vanilla flow matching
    reworld      as video, but both runs with objective=reworld

Each is evaluated on the same fresh episodes, with actions decoded alone and together with later
frames (joint=true); its world model imagines six frames, in ten solver steps and in one. reworld's
world model is also sampled with extrapolation=1.4. Latency is that of a chunk for one observation,
on one thread. Intervals: 95 %, bootstrap over seeds and, within them, episodes. Commands run in
runs/decoding, with logs in logs/; finished ones are not repeated. The result is NAME.md.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # if run as a file

from benchmarks.arguments import Parser, check_name, check_unique, positive
from benchmarks.commands import run_logged
from benchmarks.pretraining import interval, successes
from selfflow_robotics.envs.tasks.catalog import DEFAULT_TASK
from selfflow_robotics.errors import UserError
from selfflow_robotics.evaluation.tables import markdown_table
from selfflow_robotics.inference.bundle import load_bundle
from selfflow_robotics.policies.chunk_sampler import ChunkSampler, Seen

ROOT = Path(__file__).resolve().parents[1]
STUDY = Path("runs/decoding")
DEMONSTRATIONS, PLAY = STUDY / "demonstrations/0.1.0", STUDY / "play/0.1.0"
# Network -> objective, and the roles of the run that it starts from.
NETWORKS = {
    "scratch": ("self_flow", None),
    "image": ("self_flow", "{image: 1.0, clip: 0.0}"),
    "video": ("self_flow", "{image: 1.0, clip: 1.0}"),
    "vanilla": ("vanilla", "{image: 1.0, clip: 1.0}"),
    "reworld": ("reworld", "{image: 1.0, clip: 1.0}"),
}
ROLES = "{policy: 0.5, world_model: 0.2, joint: 0.2, inverse_dynamics: 0.05, video: 0.05}"
DECODED = {"alone": "joint=false", "with frames": "joint=true"}
IMAGINED = {"ten steps": ["num_steps=10"], "one step": ["num_steps=1"]}
EXTRAPOLATED = {"ten steps, extrapolated": ["num_steps=10", "extrapolation=1.4"]}
CHUNKS = 20  # timed


def run(name: str, script: str, *arguments: str) -> None:
    """Run one command of the project, with its output in logs/NAME.txt of the study's folder."""
    run_logged(STUDY / f"logs/{name}.txt", ROOT / script, *arguments)


def train(network: str, seed: int, options: argparse.Namespace) -> Path:
    """Pretrain, unless it starts from scratch, and fine-tune; the run's folder."""
    (objective, roles), name, init = NETWORKS[network], f"{network}-{seed}", "none"
    if roles is not None:
        init = str(STUDY / f"start-{name}")
        run(
            f"start-{name}", "pretrain/run.py", "--data", str(PLAY), f"runs_dir={STUDY}",
            f"name=start-{name}", f"objective={objective}", f"roles={roles}", f"seed={seed}",
            "threads=1", f"train.steps={options.pretrain_steps}",
        )  # fmt: skip
    run(
        name, "finetune/rt1.py", f"runs_dir={STUDY}", f"name={name}", f"seed={seed}", "threads=1",
        "--init", init, "--data", str(DEMONSTRATIONS), "validation=0", f"play_data={PLAY}",
        f"objective@frame_objective={objective}", f"roles={ROLES}", f"train.steps={options.steps}",
    )  # fmt: skip
    return STUDY / name


def measured(network: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """Train and measure one network: {"success", "psnr_db", "copy_psnr_db"}."""
    folder = train(network, seed, options)
    found: dict[str, Any] = {"success": {}, "psnr_db": {}, "copy_psnr_db": []}
    for number, (decoded, setting) in enumerate(DECODED.items()):
        output = folder / f"evaluation-{number}"
        run(
            f"{folder.name}-evaluation-{number}", "eval/simpler.py", "--task", DEFAULT_TASK,
            "--checkpoint", str(folder), "sim=tabletop", "baselines=[]", "videos=0", "processes=1",
            f"num_episodes={options.episodes}", setting, f"output={output}",
        )  # fmt: skip
        found["success"][decoded] = successes(output)
    ways = IMAGINED | (EXTRAPOLATED if network == "reworld" else {})
    for number, (way, settings) in enumerate(ways.items()):
        output = folder / f"world-model-{number}"
        run(
            f"{folder.name}-world-model-{number}", "eval/world_model.py",
            "--checkpoint", str(folder), f"num_episodes={options.episodes}", *settings,
            f"output={output}",
        )  # fmt: skip
        score = json.loads((output / "report.json").read_text())
        found["psnr_db"][way], found["copy_psnr_db"] = score["psnr_db"], score["copy_psnr_db"]
    return found


def latencies(folder: Path) -> dict[str, float]:
    """Median milliseconds of a chunk for one observation, by what is decoded."""
    bundle = load_bundle(folder, "cpu").with_autoencoder()
    seen = Seen(np.zeros((*bundle.frames.image_size, 3), np.uint8), "pick coke can")
    found = {}
    for decoded, setting in DECODED.items():
        sampler, took = ChunkSampler(bundle, joint=setting == "joint=true"), []
        noise = sampler.noise(0, 0)
        for _ in range(CHUNKS + 2):
            began = time.perf_counter()
            sampler.chunks([seen], [noise])
            took.append(1000 * (time.perf_counter() - began))
        found[decoded] = float(np.median(took[2:]))
    return found


def report(rows: dict[tuple[str, int], dict[str, Any]], networks: list[str], seeds: int) -> str:
    """Success, then PSNR by frame, as Markdown; every seed in parentheses."""
    lines = [["network", *(f"success, actions decoded {how}" for how in DECODED)]]
    for network in networks:
        cells = [network]
        for how in DECODED:
            runs = [rows[network, seed]["success"][how] for seed in range(seeds)]
            low, high = interval(runs)
            each = [float(np.mean(won)) for won in runs]
            inside = ", ".join(f"{100 * one:.0f}" for one in each)
            cells.append(f"{np.mean(each):.0%} [{low:.0%}, {high:.0%}] ({inside})")
        lines.append(cells)
    copy = np.mean([row["copy_psnr_db"] for row in rows.values()], axis=0)
    frames = [["imagined frames, dB", *(str(k + 1) for k in range(len(copy))), "last, each seed"]]
    frames.append(["copy of the first frame", *(f"{value:.2f}" for value in copy), ""])
    for network in networks:
        for way in rows[network, 0]["psnr_db"]:
            each = np.array([rows[network, seed]["psnr_db"][way] for seed in range(seeds)])
            last = ", ".join(f"{value:.2f}" for value in each[:, -1])
            means = (f"{value:.2f}" for value in each.mean(axis=0))
            frames.append([f"{network}, {way}", *means, last])
    return f"{markdown_table(lines)}\n\n{markdown_table(frames)}\n"


def study(options: argparse.Namespace) -> None:
    """Record, train, measure, report."""
    run(
        "demonstrations", "finetune/collect.py", "recovery=0.5", f"num_episodes={options.recorded}",
        f"root={STUDY}", "name=demonstrations",
    )  # fmt: skip
    run(
        "play", "finetune/collect.py", "mode=play", f"num_episodes={options.play}", "seed=2000000",
        f"root={STUDY}", "name=play",
    )  # fmt: skip
    cells = [(network, seed) for seed in range(options.seeds) for network in options.networks]
    rows = {}
    with ThreadPoolExecutor(options.jobs) as pool:
        found = pool.map(lambda cell: measured(*cell, options), cells)
        for cell, row in zip(cells, found, strict=True):
            rows[cell] = row
            won = {how: sum(episodes) for how, episodes in row["success"].items()}
            print(f"{cell[0]}, seed {cell[1]}: {won} of {options.episodes}", flush=True)
    torch.set_num_threads(1)
    took = latencies(STUDY / f"{options.networks[0]}-0")
    table = report(rows, options.networks, options.seeds)
    told = ", ".join(f"{ms:.0f} ms with actions decoded {how}" for how, ms in took.items())
    table += f"\nA chunk takes {told}.\n"
    (STUDY / f"{options.name}.md").write_text(table)
    print(table)


def check(options: argparse.Namespace) -> None:
    """Raise UserError for mistakes that argparse does not catch, before any work."""
    check_unique("networks", options.networks)
    check_name(options.name)


def main(argv: Sequence[str] | None = None) -> None:
    parser = Parser(__doc__)
    parser.add_argument(
        "--networks", nargs="+", choices=NETWORKS, metavar="NETWORK", default=list(NETWORKS),
        help=", ".join(NETWORKS),
    )  # fmt: skip
    parser.add_argument("--seeds", type=positive, default=3, help="number of them")
    parser.add_argument("--steps", type=positive, default=1200, help="of fine-tuning")
    parser.add_argument("--pretrain-steps", type=positive, default=300, help="of pretraining")
    parser.add_argument("--recorded", type=positive, default=1000, help="demonstrations")
    parser.add_argument("--play", type=positive, default=300, help="episodes of play")
    parser.add_argument("--episodes", type=positive, default=60, help="of each evaluation")
    parser.add_argument("--jobs", type=positive, default=os.cpu_count() or 1, help="parallel runs")
    parser.add_argument("--name", default="decoding", help="name of the table")
    options = parser.parse_args(argv)
    try:
        check(options)
        study(options)
    except UserError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
