"""Probe the layers of an image network: can a linear classifier predict the class?

    python eval/class_probe.py                            # the newest run of pretrain/images.py
    python eval/class_probe.py --checkpoint runs/images layers=[2,4] timesteps=[0.5]
    python eval/class_probe.py --checkpoint selfflow_imagenet256.pt --data latents/imagenet256
    python eval/class_probe.py experiment=debug           # seconds

Latents of labelled images are noised to each timestep and run through the network with the null
label, so that the class does not leak through the conditioning. A linear (ridge) classifier is fit
on the average of the tokens after each block. The table shows its top-1 accuracy on held-out images
with 95 % intervals, together with two baselines: the most frequent class, and the same classifier
on the noised latents. A run is probed on its training latents unless you pass --data; released
weights need --data. Accuracy grows with num_pictures (for ImageNet the default leaves 7 images per
class for fitting), so only compare results with equal settings. Results are written to
RUN/eval/class_probe-..., one folder per configuration: probe.json and table.md. Repeating a
finished command prints its table. Runs of pretrain/run.py and finetune/rt1.py have no classes; use
eval/probe.py for them.
"""

from dataclasses import dataclass, field
from pathlib import Path

import torch
from tqdm import tqdm

from selfflow_robotics.cli.app import Flag, hydra_app
from selfflow_robotics.cli.runs import find_checkpoint, open_results, recorded_settings, run_of
from selfflow_robotics.data.latents import LatentReader, sha256_of
from selfflow_robotics.data.latents_record import RECORD
from selfflow_robotics.data.shapes import shape_latents
from selfflow_robotics.errors import UserError, check_least
from selfflow_robotics.evaluation.probing.class_probes import (
    MIN_PICTURES,
    check_fits,
    num_batches,
    probe_classes,
    split_pictures,
)
from selfflow_robotics.evaluation.probing.class_report import to_markdown, to_text
from selfflow_robotics.evaluation.probing.probes import check_timesteps, chosen_layers
from selfflow_robotics.evaluation.results import (
    folder_name,
    known_report,
    write_report,
    writing,
)
from selfflow_robotics.inference.bundle import (
    is_released_file,
    load_bundle,
    read_config,
    resolve_weights,
    weights_hash,
)
from selfflow_robotics.rng import check_seed
from selfflow_robotics.training.device import choose_device


@dataclass(frozen=True)
class ClassProbeConfig:
    checkpoint: str | None = None
    data: str | None = None
    layers: list[int] | None = None
    timesteps: list[float] = field(default_factory=lambda: [0.0, 0.25, 0.5, 0.75])
    num_pictures: int = 10_000
    seed: int = 0
    download: bool = False
    heads: int | None = None
    device: str = "auto"
    output: str | None = None

    def __post_init__(self) -> None:
        check_least(self, MIN_PICTURES, "num_pictures")
        check_least(self, 1, "heads")
        check_seed(self.seed)
        check_timesteps(self.timesteps)


@hydra_app(
    "class_probe",
    ClassProbeConfig,
    flags=(
        Flag("--checkpoint", literal=True, help="a run, a checkpoint, a weights file, or released"),
        Flag("--data", literal=True, help="a folder of latents, from pretrain/encode.py"),
        Flag("--output", literal=True, help="results folder"),
    ),
)
def main(config: ClassProbeConfig) -> None:
    torch.set_num_threads(1)
    path = image_checkpoint(config)
    reader = LatentReader(config.data or trained_on(path))
    bundle = load_bundle(path, choose_device(config.device), config.heads)
    layers = chosen_layers(config.layers, bundle)
    check_fits(bundle, reader)
    timesteps = sorted(set(config.timesteps))
    parts = split_pictures(len(reader), reader.copies, config.num_pictures, config.seed)
    settings = {
        "checkpoint": weights_hash(path),
        "data": sha256_of(reader.folder / RECORD),  # which has the checksums of the latents
        "heads": config.heads,
        "layers": layers,
        "timesteps": timesteps,
        "num_pictures": config.num_pictures,
        "seed": config.seed,
    }
    if bundle.taken:
        settings["taken"] = bundle.taken
        print(f"weights of {path}: {bundle.taken}")
    counts = {part: len(rows) for part, rows in parts.items()}
    name = folder_name("class_probe", settings)
    output = open_results(config.output or own_output(path, name), path, name)
    report = known_report(output / "probe.json", settings)
    if report is None:
        print(
            f"{path} on {reader.folder}: {len(reader.labels)} classes, "
            f"{counts['train']} train, {counts['validation']} validation, {counts['test']} test"
        )
        steps = num_batches(sum(counts.values())) + len(layers) + 1
        with tqdm(total=len(timesteps) * steps, desc="probing") as bar:
            rows = probe_classes(bundle, reader, parts, layers, timesteps, config.seed, bar.update)
        report = {"data": str(reader.folder), "counts": counts, "rows": rows, "settings": settings}
        title = f"Class probes of {path} on {reader.folder}"
        with writing(output):
            (output / "table.md").write_text(to_markdown(rows, title))
            write_report(output / "probe.json", report)
    print(to_text(report["rows"]))
    print(f"written to {output}")


def image_checkpoint(config: ClassProbeConfig) -> Path:
    """The weights file or checkpoint folder to probe. Raises UserError if it is not an image
    network."""
    given = config.checkpoint
    checkpoint = (
        resolve_weights(given, config.download) if given else find_checkpoint(None, "images")
    )
    if is_released_file(checkpoint):
        return checkpoint
    if not read_config(checkpoint).num_classes:
        raise UserError(f"{checkpoint} is a robot network without classes; use eval/probe.py")
    if config.heads is not None:
        raise UserError("heads is only for files of released weights; a checkpoint stores its own")
    return checkpoint


def trained_on(path: Path) -> Path:
    """The folder of latents in a run's config.yaml; missing shapes are drawn again. Raises
    UserError if it is unknown or does not exist."""
    if is_released_file(path):
        raise UserError(
            f"{path} does not record its training data; pass latents of labelled images with "
            "--data DIR (pretrain/encode.py makes them)"
        )
    settings = recorded_settings(run_of(path))
    try:
        if settings["data"] is None:
            return shape_latents(
                Path(settings["root"]), settings["num_shapes"], settings["shape_px"]
            )
        folder = Path(settings["data"]).expanduser()
    except (KeyError, TypeError):
        raise UserError(
            f"{run_of(path)}/config.yaml does not record the training data of {path}; pass --data "
            "DIR"
        ) from None
    if not (folder / RECORD).is_file():
        raise UserError(
            f"{path} was trained on {folder}, which does not exist; pass its latents with --data "
            "DIR"
        )
    return folder


def own_output(path: Path, name: str) -> str | None:
    """The results folder for a weights file; None for checkpoints, whose run has one."""
    return f"runs/{path.stem}/eval/{name}" if is_released_file(path) else None


if __name__ == "__main__":
    main()
