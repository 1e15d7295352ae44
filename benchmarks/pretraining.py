r"""Does pretraining help a policy with few demonstrations? Success by pretraining and data.

    python benchmarks/pretraining.py                   # 27 policies; about an hour on two cores
    python benchmarks/pretraining.py --starts vanilla dts self_flow sra repa attention_separation \
        --demonstrations 100 --probe --name objectives # all objectives, with probes
    python benchmarks/pretraining.py --steps 4 --episodes 3 --seeds 1 --demonstrations 20 \
        --recorded 20 --play 20 --pretrain-steps 4

A start is a file in configs/objective, or none. Every seed repeats pretraining and fine-tuning;
budget and evaluation episodes are shared. The encoder of `repa` is the frozen vanilla network of
the same seed. Training and evaluation run the project's own commands in runs/study, with logs in
runs/study/logs; finished ones are not repeated. The result is NAME.md and NAME.png in runs/study:
mean success, the rate of each seed, and 95 % intervals (bootstrap over seeds and, within them,
episodes). --probe adds NAME_probes.md. Needs `pip install -e '.[benchmarks]'`.
"""

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # if run as a file

from benchmarks.arguments import Parser, check_name, check_unique, positive
from benchmarks.commands import run_logged
from selfflow_robotics.envs.client import SimulatorClient
from selfflow_robotics.envs.spec import SimplerInstall
from selfflow_robotics.envs.tasks.catalog import DEFAULT_TASK, get_task
from selfflow_robotics.errors import UserError
from selfflow_robotics.evaluation.home import own_spec
from selfflow_robotics.evaluation.probing.frames import play_frames, probe_episodes
from selfflow_robotics.evaluation.probing.probes import probe
from selfflow_robotics.inference.bundle import load_bundle
from selfflow_robotics.rng import numpy_generator

ROOT = Path(__file__).resolve().parents[1]
STUDY = Path("runs/study")
DEMONSTRATIONS, PLAY = STUDY / "demonstrations/0.1.0", STUDY / "play/0.1.0"
OBJECTIVES = sorted(path.stem for path in (ROOT / "configs/objective").glob("*.yaml"))
STARTS = ("self_flow", "vanilla", "none")
PROBED_AT = (0.0, 0.5)  # noise levels of the probed frames


def run(name: str, script: str, *arguments: str) -> None:
    """Run one command of the project, with its output in logs/NAME.txt of the study's folder."""
    run_logged(STUDY / f"logs/{name}.txt", ROOT / script, *arguments)


def pretrain(start: str, seed: int, options: argparse.Namespace) -> Path:
    """The run of one pretraining."""
    follows = [f"encoder=run:{STUDY / f'vanilla-{seed}'}"] if start == "repa" else []
    name = f"{start}-{seed}"
    run(
        name, "pretrain/run.py", "--data", str(PLAY), f"runs_dir={STUDY}", f"name={name}",
        f"objective={start}", f"seed={seed}", "threads=1",
        f"train.steps={options.pretrain_steps}", *follows,
    )  # fmt: skip
    return STUDY / name


def one_policy(start: str, count: int, seed: int, options: argparse.Namespace) -> Path:
    """Fine-tune and evaluate one policy; the folder of its results."""
    name = f"policy-{start}-{count}-{seed}"
    init = "none" if start == "none" else str(STUDY / f"{start}-{seed}")
    run(
        name, "finetune/rt1.py", f"runs_dir={STUDY}", f"name={name}", f"seed={seed}", "threads=1",
        "--init", init, "--data", str(DEMONSTRATIONS), "validation=0",
        f"num_episodes={count}", f"train.steps={options.steps}",
        "roles.world_model=0", "roles.joint=0", "roles.inverse_dynamics=0", "roles.video=0",
    )  # fmt: skip
    output = STUDY / name / "evaluation"
    run(
        f"{name}-evaluation", "eval/simpler.py", "--task", DEFAULT_TASK,
        "--checkpoint", str(STUDY / name), "sim=tabletop", "baselines=[]", "videos=0",
        "processes=1", f"num_episodes={options.episodes}", f"output={output}",
    )  # fmt: skip
    return output


def probe_networks(cells: list[tuple[str, int]]) -> None:
    """Linear probes of pretrained networks, all on the same images, to probe.json of each run."""
    runs = [STUDY / f"{start}-{seed}" for start, seed in cells]
    left = [run for run in runs if not (run / "probe.json").exists()]
    frames = None
    for run in tqdm(left, desc="probing", unit="network", disable=not left):
        bundle = load_bundle(run, torch.device("cpu"))
        if frames is None:
            task = get_task(DEFAULT_TASK)
            size = bundle.frames.image_size
            spec = own_spec(task.name, SimplerInstall(), bundle.provenance, size, None)
            with SimulatorClient(spec) as client:
                frames = play_frames([client], probe_episodes(task, 240, 0), size)
        layers = list(range(bundle.network.config.backbone.depth + 1))
        rows = probe(bundle, frames, layers, list(PROBED_AT), seed=0)
        partial = run / "probe.partial"
        partial.write_text(json.dumps(rows))
        partial.replace(run / "probe.json")


def successes(folder: Path) -> list[bool]:
    lines = (folder / "episodes.jsonl").read_text().splitlines()
    return [record["success"] for record in map(json.loads, lines) if record["error"] is None]


def interval(runs: list[list[bool]]) -> tuple[float, float]:
    """95 % bootstrap interval of the mean rate: over training seeds, then episodes within each."""
    rng = numpy_generator("benchmark", 0)
    means = []
    for _ in range(4000):
        drawn = [runs[i] for i in rng.integers(len(runs), size=len(runs))]
        means.append(np.mean([rng.choice(won, len(won)).mean() for won in map(np.array, drawn)]))
    return float(np.quantile(means, 0.025)), float(np.quantile(means, 0.975))


def report(
    outcomes: dict[tuple[str, int], list[list[bool]]],
    starts: list[str],
    counts: list[int],
    plot: Path,
) -> str:
    """Write the table and its plot. `outcomes` has one list of episodes per seed."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    rows = ["| start | " + " | ".join(f"{n} demonstrations" for n in counts) + " |"]
    rows.append("|---" * (1 + len(counts)) + "|")
    plt.figure(figsize=(5, 3.5))
    for start in starts:
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
    plt.minorticks_off()
    plt.xlabel("demonstrations")
    plt.ylabel("success on the MuJoCo tabletop")
    plt.ylim(0, 1)
    plt.legend()
    plt.tight_layout()
    plt.savefig(plot, dpi=120)
    return "\n".join(rows) + "\n"


def probe_report(starts: list[str], seeds: int) -> str:
    """Median test errors of the linear probes by layer: mean over seeds, with every seed's."""
    blocks = []
    rows = {
        (start, seed): json.loads((STUDY / f"{start}-{seed}/probe.json").read_text())
        for start in starts
        for seed in range(seeds)
    }
    some = rows[starts[0], 0]
    for target in dict.fromkeys(row["target"] for row in some):
        for t in PROBED_AT:
            sources = [r for r in some if r["target"] == target and r["t"] == t]
            blocks.append(f"## {target}, t = {t:g}\n")
            blocks.append("| features | " + " | ".join(starts) + " |")
            blocks.append("|---" * (1 + len(starts)) + "|")
            for source in sources:
                key = (target, t, source["source"], source["layer"])
                cells = []
                for start in starts:
                    found = [
                        next(
                            r["median_error"]
                            for r in rows[start, seed]
                            if (r["target"], r["t"], r["source"], r["layer"]) == key
                        )
                        for seed in range(seeds)
                    ]
                    each = ", ".join(f"{error:.2g}" for error in found)
                    cells.append(f"{np.mean(found):.2g} ({each})")
                label = source["source"] if source["layer"] is None else f"layer {source['layer']}"
                blocks.append(f"| {label} | " + " | ".join(cells) + " |")
            blocks.append("")
    return "\n".join(blocks)


def study(options: argparse.Namespace) -> None:
    """Record, train, evaluate, report."""
    starts = [start for start in options.starts if start != "none"]
    run(
        "demonstrations", "finetune/collect.py", "recovery=0", f"num_episodes={options.recorded}",
        f"root={STUDY}", "name=demonstrations",
    )  # fmt: skip
    run(
        "play", "finetune/collect.py", "mode=play", f"num_episodes={options.play}", "seed=2000000",
        f"root={STUDY}", "name=play",
    )  # fmt: skip
    with ThreadPoolExecutor(options.jobs) as pool:
        # Networks that need another network come after it.
        for late in (False, True):
            cells = [(start, seed) for start in starts for seed in range(options.seeds)]
            cells = [cell for cell in cells if (cell[0] == "repa") == late]
            list(pool.map(lambda cell: pretrain(*cell, options), cells))
        grid = [
            (start, count, seed)
            for seed in range(options.seeds)
            for count in options.demonstrations
            for start in options.starts
        ]
        networks = [(start, seed) for start in starts for seed in range(options.seeds)]
        probing = pool.submit(probe_networks, networks if options.probe else [])
        folders = list(pool.map(lambda cell: one_policy(*cell, options), grid))
        probing.result()
    outcomes = defaultdict(list)
    for (start, count, _), folder in zip(grid, folders, strict=True):
        outcomes[start, count].append(successes(folder))
    plot = STUDY / f"{options.name}.png"
    table = report(outcomes, options.starts, options.demonstrations, plot)
    plot.with_suffix(".md").write_text(table)
    print(table)
    if options.probe:
        (STUDY / f"{options.name}_probes.md").write_text(probe_report(starts, options.seeds))


def check(options: argparse.Namespace) -> None:
    """Raise UserError for mistakes that argparse does not catch, before any work."""
    for name in ("starts", "demonstrations"):
        check_unique(name, getattr(options, name))
    if "repa" in options.starts and "vanilla" not in options.starts:
        raise UserError("repa uses the vanilla network as its encoder: add vanilla to --starts")
    if options.probe and options.starts == ["none"]:
        raise UserError("--probe needs a pretrained network: add one to --starts")
    if max(options.demonstrations) > options.recorded:
        raise UserError(f"--demonstrations must not exceed --recorded ({options.recorded})")
    check_name(options.name)
    for name, folder in (("recorded", DEMONSTRATIONS), ("play", PLAY)):
        if not (folder / "dataset_info.json").exists():
            continue
        had = len(json.loads((folder / "metadata.json").read_text())["episodes"])
        if getattr(options, name) != had:
            raise UserError(
                f"{folder} was recorded with --{name} {had}, not {getattr(options, name)}: "
                f"say --{name} {had}, or move {STUDY} away"
            )
    if find_spec("matplotlib") is None:
        raise UserError("the plot needs matplotlib: pip install -e '.[benchmarks]'")


def main(argv: Sequence[str] | None = None) -> None:
    parser = Parser(__doc__)
    parser.add_argument(
        "--starts", nargs="+", choices=[*OBJECTIVES, "none"], metavar="START",
        default=list(STARTS), help=f"{', '.join(OBJECTIVES)} or none",
    )  # fmt: skip
    parser.add_argument(
        "--demonstrations", type=positive, nargs="+", default=[50, 100, 300], metavar="NUMBER",
        help="numbers of demonstrations to fine-tune on, one column each",
    )  # fmt: skip
    parser.add_argument("--name", default="study", help="name of the table and the plot")
    parser.add_argument(
        "--recorded",
        type=positive,
        default=300,
        help="demonstrations to record; a policy uses the first ones",
    )
    parser.add_argument("--seeds", type=positive, default=3, help="number of them")
    parser.add_argument("--steps", type=positive, default=400, help="of fine-tuning")
    parser.add_argument("--play", type=positive, default=400, help="episodes to pretrain on")
    parser.add_argument("--pretrain-steps", type=positive, default=400, help="of pretraining")
    parser.add_argument(
        "--probe", action="store_true", help="probe the pretrained networks' layers"
    )
    parser.add_argument("--episodes", type=positive, default=100, help="of each evaluation")
    parser.add_argument("--jobs", type=positive, default=2, help="parallel runs, one thread each")
    options = parser.parse_args(argv)
    try:
        check(options)
        study(options)
    except UserError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
