"""Does pretraining help a policy that has few demonstrations? Success by start weights and data.

    python benchmarks/pretraining.py                   # 27 policies; about 80 minutes on two cores
    python benchmarks/pretraining.py --steps 4 --episodes 3 --seeds 1 --demonstrations 20

Three starts (Self-Flow pretraining, vanilla flow-matching pretraining, none), three numbers of
demonstrations, three training seeds, the same budget and the same evaluation episodes for all.
Every part is one of the project's own commands in runs/study; what is finished is not repeated.
Ends in runs/study/table.md and plot.png: mean success, every seed's rate, and 95 % intervals by a
bootstrap over training seeds and, within them, episodes. Needs `pip install -e '.[benchmarks]'`.
"""

import argparse
import json
import os
import subprocess
import sys
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from selfflow_robotics.rng import numpy_generator

ROOT = Path(__file__).resolve().parents[1]
STUDY = Path("runs/study")
DEMONSTRATIONS, PLAY = STUDY / "demonstrations/0.1.0", STUDY / "play/0.1.0"
PRETRAINING = {"selfflow": [], "vanilla": ["objective.gamma=0", "objective.mask_ratio=0"]}
STARTS = (*PRETRAINING, "none")


def run(script: str, *arguments: str) -> None:
    """One command of the project; its output goes to a log in the study's folder."""
    STUDY.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with (STUDY / "log.txt").open("a") as log:
        subprocess.run(
            [sys.executable, str(ROOT / script), *arguments],
            env=environment, stdout=log, stderr=log, check=True,
        )  # fmt: skip


def pretrain(start: str, options: argparse.Namespace) -> None:
    run(
        "pretrain/run.py", "--data", str(PLAY), f"runs_dir={STUDY}", f"name={start}", "threads=1",
        f"train.steps={options.pretrain_steps}", *PRETRAINING[start],
    )  # fmt: skip


def one_policy(start: str, count: int, seed: int, options: argparse.Namespace) -> Path:
    """Fine-tune and evaluate one policy; the folder of its results."""
    name = f"{start}-{count}-{seed}"
    init = "none" if start == "none" else str(STUDY / start)
    run(
        "finetune/rt1.py", f"runs_dir={STUDY}", f"name={name}", f"seed={seed}", "threads=1",
        "--init", init, "--data", str(DEMONSTRATIONS), "validation=0",
        f"num_episodes={count}", f"train.steps={options.steps}",
        "roles.world_model=0", "roles.joint=0", "roles.inverse_dynamics=0", "roles.video=0",
    )  # fmt: skip
    output = STUDY / name / "evaluation"
    run(
        "eval/simpler.py", "--task", "pick_coke_can", "--checkpoint", str(STUDY / name),
        "sim=tabletop", "baselines=[]", "videos=0", "processes=1",
        f"num_episodes={options.episodes}", f"output={output}",
    )  # fmt: skip
    return output


def successes(folder: Path) -> list[bool]:
    lines = (folder / "episodes.jsonl").read_text().splitlines()
    return [record["success"] for record in map(json.loads, lines) if record["error"] is None]


def interval(runs: list[list[bool]]) -> tuple[float, float]:
    """95 % interval of the mean rate: training seeds drawn anew, then episodes within each."""
    rng = numpy_generator(0)
    means = []
    for _ in range(4000):
        drawn = [runs[i] for i in rng.integers(len(runs), size=len(runs))]
        means.append(np.mean([rng.choice(won, len(won)).mean() for won in map(np.array, drawn)]))
    return float(np.quantile(means, 0.025)), float(np.quantile(means, 0.975))


def report(outcomes: dict[tuple[str, int], list[list[bool]]], counts: list[int]) -> str:
    """The table, and the plot beside it. `outcomes` holds one list of episodes a training seed."""
    rows = ["| start | " + " | ".join(f"{n} demonstrations" for n in counts) + " |"]
    rows.append("|---" * (1 + len(counts)) + "|")
    plt.figure(figsize=(5, 3.5))
    for start in STARTS:
        cells, rates, bars = [], [], []
        for count in counts:
            runs = outcomes[start, count]
            low, high = interval(runs)
            each = [np.mean(won) for won in runs]
            rate = float(np.mean(each))
            seeds = ", ".join(f"{one:.0%}" for one in each)
            cells.append(f"{rate:.0%} [{low:.0%}, {high:.0%}] ({seeds})")
            rates.append(rate)
            bars.append((rate - low, high - rate))
        rows.append(f"| {start} | " + " | ".join(cells) + " |")
        plt.errorbar(counts, rates, np.array(bars).T, label=start, capsize=3)
    plt.xscale("log")
    plt.xticks(counts, [str(n) for n in counts])
    plt.xlabel("demonstrations")
    plt.ylabel("success on the MuJoCo tabletop")
    plt.ylim(0, 1)
    plt.legend()
    plt.tight_layout()
    plt.savefig(STUDY / "plot.png", dpi=120)
    return "\n".join(rows) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--demonstrations", type=int, nargs="+", default=[50, 100, 300])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=400, help="of fine-tuning")
    parser.add_argument("--play", type=int, default=400, help="episodes to pretrain on")
    parser.add_argument("--pretrain-steps", type=int, default=400)
    parser.add_argument("--episodes", type=int, default=100, help="of each evaluation")
    parser.add_argument("--jobs", type=int, default=2, help="runs side by side, one thread each")
    options = parser.parse_args()
    count = max(options.demonstrations)
    run(
        "finetune/collect.py", "recovery=0", f"num_episodes={count}",
        f"root={STUDY}", "name=demonstrations",
    )  # fmt: skip
    run(
        "finetune/collect.py", "mode=play", f"num_episodes={options.play}", "seed=2000000",
        f"root={STUDY}", "name=play",
    )  # fmt: skip
    with ThreadPoolExecutor(options.jobs) as pool:
        list(pool.map(lambda start: pretrain(start, options), PRETRAINING))
        grid = [
            (start, count, seed)
            for seed in range(options.seeds)
            for count in options.demonstrations
            for start in STARTS
        ]
        folders = list(pool.map(lambda cell: one_policy(*cell, options), grid))
    outcomes = defaultdict(list)
    for (start, count, _), folder in zip(grid, folders, strict=True):
        outcomes[start, count].append(successes(folder))
    table = report(outcomes, options.demonstrations)
    (STUDY / "table.md").write_text(table)
    print(table)


if __name__ == "__main__":
    main()
