r"""Does Self-Flow converge faster? Held-out loss and samples over training, six objectives.

    python benchmarks/convergence.py --of words       # 5 seeds of 6 objectives: hours on two cores
    python benchmarks/convergence.py --of clips --seeds 3 --objectives vanilla self_flow
    python benchmarks/convergence.py --of sounds --steps 40 --milestones 2 --seeds 2 --train 200 \
        --held-out 60 --name quick                    # minutes

Data are rendered sets (words: text to image; clips: text to video; sounds: text to sound). A run is
pretrain/media.py with a file of configs/objective and --depth blocks, so that the student's and the
teacher's layer (0.3 and 0.7 of the depth) are far apart. Runs of one seed share initial weights and
batches. The encoder of repa is the finished vanilla run of the same seed; its training is not
counted. At each milestone, the moving average is measured on the held-out samples:

    loss       flow-matching loss, one timestep per sample; the same noise for all
    distance   Frechet distance of generated samples to the held-out ones, in few coarse features
               (pixels:4 of images and frames, bands:4 of sounds)

The table tells after which share of vanilla's steps, and of its time, an objective reaches the
values that vanilla has at its end, with 95 % intervals (bootstrap over seeds, if there
are several). Time is steps times the median seconds of a step, over all seeds. Everything is in
runs/convergence/SET: finished runs and measurements are not repeated. Results: NAME.csv, NAME.md,
NAME.png.
Needs `pip install -e '.[benchmarks]'`, and '.[fonts]' for words.
"""

import argparse
import csv
import json
import math
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # if run as a file

from benchmarks.arguments import Parser, check_name, check_unique, positive
from benchmarks.commands import run_logged
from selfflow_robotics.errors import UserError
from selfflow_robotics.rng import numpy_generator

ROOT = Path(__file__).resolve().parents[1]
STUDY = Path("runs/convergence")
OBJECTIVES = ("vanilla", "dts", "self_flow", "sra", "repa", "reworld")
MEASURES = {"loss": "held-out loss", "distance": "Frechet distance of samples"}
RESAMPLES = 4000
LOGIT = "{distribution: logit_normal, mean: 0.5, std: 1.0}"  # p(t), for pixels in large patches


@dataclass(frozen=True)
class Set:
    """A rendered set, and how it is encoded and trained on."""

    modality: str
    role: str
    render: tuple[str, ...]
    encode: tuple[str, ...]
    train: tuple[str, ...]
    least: int  # held-out samples: more numbers than the coarse features have


SETS = {
    "words": Set(
        "images",
        "picture",
        ("set=words",),
        ("captions=true", "autoencoder=pixel", "image_size=[24,48]"),
        (
            "model.image_patch=6", "model.image_prediction=data", "images.batch_size=32",
            f"images.timesteps={LOGIT}",
        ),
        49,
    ),
    "clips": Set(
        "clips",
        "clip",
        ("set=clips",),
        ("media=clips", "autoencoder=pixel", "image_size=[32,48]", "clip.frames=5", "clip.fps=4"),
        (
            "model.clip_patch=8", "model.clip_prediction=data", "clips.batch_size=16",
            f"clips.timesteps={LOGIT}",
        ),
        10,  # of five frames each
    ),
    "sounds": Set(
        "sounds",
        "sound",
        ("set=impacts",),
        ("media=sounds",),
        ("sounds.batch_size=32", "sounds.timesteps={distribution: logit_normal}"),
        17,
    ),
}  # fmt: skip
Curves = dict[str, list[list[float]]]  # objective -> seed -> milestone


def latents(folder: Path, split: str) -> Path:
    return folder / f"latents-{split}"


def prepare(folder: Path, options: argparse.Namespace) -> None:
    """Render and encode the data."""
    chosen, data = SETS[options.of], folder / "data"
    run_logged(
        folder / "logs/render.txt", ROOT / "pretrain/render.py", *chosen.render, f"output={data}",
        f"num_images={options.train}", f"num_held_out={options.held_out}",
    )  # fmt: skip
    for split in ("train", "held_out"):
        run_logged(
            folder / f"logs/encode-{split}.txt", ROOT / "pretrain/encode.py",
            "--data", str(data / split), "--output", str(latents(folder, split)), *chosen.encode,
        )  # fmt: skip


def train(folder: Path, objective: str, seed: int, options: argparse.Namespace) -> None:
    """One run, with a checkpoint at each milestone."""
    chosen, depth, every = SETS[options.of], options.depth, options.steps // options.milestones
    vanilla = run_folder(folder, "vanilla", seed, options)
    follows = [f"encoder=run:{vanilla}"] if objective == "repa" else []
    run = run_folder(folder, objective, seed, options)
    run_logged(
        folder / f"logs/{run.name}.txt", ROOT / "pretrain/media.py",
        f"runs_dir={run.parent}", f"name={run.name}", f"objective={objective}", f"seed={seed}",
        f"{chosen.modality}.data={latents(folder, 'train')}", *chosen.train, *follows,
        f"model.sit.depth={depth}", f"objective.student_layer={max(1, round(0.3 * depth))}",
        f"objective.teacher_layer={round(0.7 * depth)}", f"train.steps={options.steps}",
        f"train.save_every={every}", f"train.keep_every={every}", "train.keep_checkpoints=1",
        "train.ema_decay=0.99", "train.log_every=1", "threads=1",
    )  # fmt: skip


def run_folder(folder: Path, objective: str, seed: int, options: argparse.Namespace) -> Path:
    return folder / f"depth{options.depth}-steps{options.steps}" / f"{objective}-{seed}"


def measured(folder: Path, objective: str, seed: int, options: argparse.Namespace) -> list[dict]:
    """Train and measure one run: for each milestone {"step", "loss", "distance", "step_s"}.

    Raises UserError if it was measured before at other milestones.
    """
    run = run_folder(folder, objective, seed, options)
    result = run / "measured.json"
    if not result.exists():
        train(folder, objective, seed, options)
        run_logged(
            folder / f"logs/{run.name}-measures.txt", ROOT / "benchmarks/convergence_measures.py",
            str(run), str(latents(folder, "held_out")), SETS[options.of].role,
            str(options.held_out),
        )  # fmt: skip
    found, every = json.loads(result.read_text()), options.steps // options.milestones
    if [row["step"] for row in found] != list(range(every, options.steps + 1, every)):
        raise UserError(
            f"{run} was measured at {len(found)} milestones; take --milestones {len(found)}, or "
            "remove that folder"
        )
    return found


def reached(curve: Sequence[float], target: float, times: Sequence[float]) -> float:
    """The time at which a falling curve reaches the target, interpolated; infinite: never."""
    for k, value in enumerate(curve):
        if value <= target:
            if k == 0:
                return times[0]
            before = curve[k - 1]
            share = (before - target) / (before - value)
            return times[k - 1] + share * (times[k] - times[k - 1])
    return math.inf


def ratios(curves: Curves, objective: str, times: Sequence[float]) -> tuple[float, ...]:
    """When the mean curve of an objective reaches vanilla's last value, in units of `times`; with
    several seeds followed by both ends of the 95 % interval over them."""

    def one(own: np.ndarray, vanilla: np.ndarray) -> float:
        return reached(own.mean(0).tolist(), float(vanilla.mean(0)[-1]), times)

    own, vanilla = np.array(curves[objective]), np.array(curves["vanilla"])
    if len(own) < 2:
        return (one(own, vanilla),)
    rng, found = numpy_generator("convergence", 0), []
    for _ in range(RESAMPLES):
        # Runs of a seed share weights and batches, so seeds are drawn for both together.
        drawn = rng.integers(len(own), size=len(own))
        found.append(one(own[drawn], vanilla[drawn]))
    low, high = np.quantile(found, (0.025, 0.975), method="nearest")
    return one(own, vanilla), float(low), float(high)


def share_text(value: float, *interval: float) -> str:
    """A share of vanilla's training, "0.71 [0.60, 0.80]"; "never": not in as many steps."""

    def text(x: float) -> str:
        return f"{x:.2f}" if math.isfinite(x) else "never"

    return text(value) + (f" [{', '.join(map(text, interval))}]" if interval else "")


def report(
    rows: dict[tuple[str, int], list[dict]], objectives: list[str], seeds: int, path: Path
) -> str:
    """Write NAME.csv and NAME.png; the table as Markdown."""
    steps = [row["step"] for row in rows[objectives[0], 0]]
    cost = {
        one: float(np.median([rows[one, seed][0]["step_s"] for seed in range(seeds)]))
        for one in objectives
    }
    with Path(f"{path}.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["objective", "seed", "step", *MEASURES, "step_s"])
        for (one, seed), found in rows.items():
            table.writerows(
                [one, seed, row["step"], *(row[name] for name in MEASURES), row["step_s"]]
                for row in found
            )
    shares = [step / steps[-1] for step in steps]
    lines = ["| objective | time of a step | " + " | ".join(
        f"{words} at the end | vanilla's last value after, share of steps | share of time"
        for words in MEASURES.values()
    ) + " |"]  # fmt: skip
    lines.append("|---" * (2 + 3 * len(MEASURES)) + "|")
    curves: dict[str, Curves] = {
        name: {
            one: [[row[name] for row in rows[one, seed]] for seed in range(seeds)]
            for one in objectives
        }
        for name in MEASURES
    }
    for one in objectives:
        slower = cost[one] / cost["vanilla"]
        cells = [one, f"{slower:.2f}"]
        for name in MEASURES:
            last = np.array(curves[name][one])[:, -1]
            spread = f" +- {last.std(ddof=1) / math.sqrt(seeds):.2g}" if seeds > 1 else ""
            cells.append(f"{last.mean():.4g}{spread}")
            for factor in (1.0, slower):
                times = [factor * share for share in shares]
                cells.append(share_text(*ratios(curves[name], one, times)))
        lines.append("| " + " | ".join(cells) + " |")
    plot(curves, steps, Path(f"{path}.png"))
    if seeds < 2:
        lines += ["", "No intervals: they are over seeds, and there is one."]
    return "\n".join(lines) + "\n"


def plot(curves: dict[str, Curves], steps: list[int], path: Path) -> None:
    """One panel per measure: the mean of each objective, every seed as a thin line."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, len(MEASURES), figsize=(5 * len(MEASURES), 3.8))
    for panel, (name, words) in zip(panels, MEASURES.items(), strict=True):
        for number, (one, runs) in enumerate(curves[name].items()):
            colour = f"C{number}"
            for curve in runs:
                panel.plot(steps, curve, color=colour, linewidth=0.5, alpha=0.4)
            panel.plot(steps, np.mean(runs, axis=0), color=colour, label=one)
        panel.set_xlabel("steps")
        panel.set_ylabel(words)
        panel.set_yscale("log")
    panels[0].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def study(options: argparse.Namespace) -> None:
    """Prepare, train, measure, report."""
    folder = STUDY / f"{options.of}-{options.train}-{options.held_out}"
    prepare(folder, options)
    cells = [(one, seed) for seed in range(options.seeds) for one in options.objectives]
    rows: dict[tuple[str, int], list[dict]] = {}
    with ThreadPoolExecutor(options.jobs) as pool:
        for late in (False, True):  # repa follows finished vanilla runs
            chosen = [cell for cell in cells if (cell[0] == "repa") == late]
            found = pool.map(lambda cell: measured(folder, *cell, options), chosen)
            for cell, result in zip(chosen, found, strict=True):
                rows[cell] = result
                print(f"{cell[0]}, seed {cell[1]}: {result[-1]}", flush=True)
    path = STUDY / options.name
    table = report(rows, options.objectives, options.seeds, path)
    Path(f"{path}.md").write_text(table)
    print(table)


def check(options: argparse.Namespace) -> None:
    """Raise UserError for mistakes that argparse does not catch, before any work."""
    check_unique("objectives", options.objectives)
    if "vanilla" not in options.objectives:
        raise UserError("the others are compared with vanilla: add it to --objectives")
    if options.steps % options.milestones:
        raise UserError(
            f"--steps must be a multiple of --milestones, got {options.steps} and "
            f"{options.milestones}"
        )
    if round(0.7 * options.depth) <= max(1, round(0.3 * options.depth)):
        raise UserError(f"--depth {options.depth} has no two layers to compare; take 8 to 12")
    check_name(options.name)
    if options.held_out < SETS[options.of].least:
        raise UserError(
            f"the distance of {options.of} needs --held-out {SETS[options.of].least} or more"
        )
    if find_spec("matplotlib") is None:
        raise UserError("the plot needs matplotlib: pip install -e '.[benchmarks]'")


def main(argv: Sequence[str] | None = None) -> None:
    parser = Parser(__doc__)
    parser.add_argument("--of", choices=SETS, default="words", help=f"the data: {', '.join(SETS)}")
    parser.add_argument(
        "--objectives", nargs="+", choices=OBJECTIVES, metavar="OBJECTIVE",
        default=list(OBJECTIVES), help=", ".join(OBJECTIVES),
    )  # fmt: skip
    parser.add_argument("--seeds", type=positive, default=5, help="number of them")
    parser.add_argument("--steps", type=positive, default=600, help="of each run")
    parser.add_argument("--milestones", type=positive, default=6, help="measured checkpoints")
    parser.add_argument("--depth", type=positive, default=8, help="blocks of the network")
    parser.add_argument("--train", type=positive, default=4000, help="samples to train on")
    parser.add_argument("--held-out", type=positive, default=200, help="samples to measure on")
    parser.add_argument("--jobs", type=positive, default=os.cpu_count() or 1, help="parallel runs")
    parser.add_argument("--name", default=None, help="name of the results; without it, SET")
    options = parser.parse_args(argv)
    options.name = options.of if options.name is None else options.name
    try:
        check(options)
        study(options)
    except UserError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
