"""Generate images for FID: an npz for ADM's evaluation suite, and a grid of samples.

    python eval/generation.py                                      # the newest run, a few images
    python eval/generation.py --checkpoint runs/images num_images=5000 batch_size=128
    python eval/generation.py --checkpoint selfflow_imagenet256.pt download=true   # 50 000 images
    python eval/generation.py --checkpoint released download=true  # downloads the weights too
    torchrun --nproc-per-node=8 eval/generation.py --checkpoint selfflow_imagenet256.pt
    python eval/generation.py --checkpoint runs/words --prompts FILE guidance_scale=3 metrics=[ocr]

A checkpoint is a run of pretrain/images.py, a run of pretrain/run.py (first frames, no classes), or
the paper's released weights. From a training checkpoint in that layout ({"model", "ema", ...}, with
or without prefixes), the command samples with the moving average and says so. Published numbers use
50 000 images with 250 stochastic steps, no guidance and random classes. Image k is a function of
(seed, k), and processes share the batches: with equal batch_size, precision and device type, the
bits do not depend on the number of processes or on interruptions. Repeat an interrupted command to
resume it. Results are written to RUN/eval/generation-...: samples.npz (arr_0, uint8 [N, H, W, 3])
and samples.png. Writing the npz temporarily needs twice its size on disk.

A network that was trained on captions needs texts: PROMPTS is a file with one per line, the k-th
for image k; samples.txt repeats them in the order of the images. metrics=[ocr] reads the images and
compares what they say with what their prompts have in double quotes (evaluation/ocr.py): ocr.json.
"""

import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from tqdm import tqdm

from selfflow_robotics.cli.app import Flag, hydra_app
from selfflow_robotics.cli.runs import run_of, runs_of_kind
from selfflow_robotics.commands import command
from selfflow_robotics.envs.episodes import draw_start
from selfflow_robotics.envs.tasks.catalog import TASKS
from selfflow_robotics.errors import UserError, check_least
from selfflow_robotics.evaluation.generation import Generation
from selfflow_robotics.evaluation.ocr import (
    Reader,
    open_reader,
    read_images,
    score_text,
    text_line,
)
from selfflow_robotics.evaluation.processes import Process
from selfflow_robotics.evaluation.prompts import prompts_hash, read_prompts, write_prompts
from selfflow_robotics.evaluation.results import folder_name, write_report, writing
from selfflow_robotics.inference.bundle import (
    Bundle,
    is_released_file,
    load_bundle,
    resolve_weights,
    weights_hash,
)
from selfflow_robotics.inference.generate import NumberedPictures, Sampling
from selfflow_robotics.inference.sample import SampleMethod
from selfflow_robotics.modalities.base import ACTIONS, FRAMES
from selfflow_robotics.modalities.latents import ImageLatents
from selfflow_robotics.rng import check_seed
from selfflow_robotics.training.checkpoint import MANIFEST, latest_checkpoint
from selfflow_robotics.training.device import choose_precision

IMAGENET = 1000  # classes of a network that is evaluated as in the paper
FOR_FID, FOR_A_LOOK = 50_000, 64  # images
MOST_IMAGES, MOST_BATCH = 10_000_000, 65_536


@dataclass(frozen=True)
class GenerationConfig:
    checkpoint: str | None = None
    num_images: int | None = None
    method: SampleMethod | None = None
    num_steps: int | None = None
    shift: float = 1.0
    guidance_scale: float = 1.0
    guidance_low: float = 0.0
    guidance_high: float = 1.0
    extrapolation: float = 1.0
    labels: list[int] | None = None
    instruction: str | None = None
    prompts: str | None = None
    metrics: tuple[Literal["ocr"], ...] = ()
    seed: int = 0
    batch_size: int = 64
    autoencoder_weights: str | None = None
    download: bool = False
    heads: int | None = None
    device: str = "auto"
    precision: str = "auto"
    output: str | None = None

    def __post_init__(self) -> None:
        check_least(self, 1, "num_images", "num_steps", "batch_size", "heads")
        if self.num_images is not None and self.num_images > MOST_IMAGES:
            raise UserError(f"num_images must be at most {MOST_IMAGES}, got {self.num_images}")
        if self.batch_size > MOST_BATCH:
            raise UserError(f"batch_size must be at most {MOST_BATCH}, got {self.batch_size}")
        if self.prompts is not None and self.instruction is not None:
            raise UserError("instruction= and prompts= exclude each other; leave one out")
        check_seed(self.seed)


@hydra_app(
    "generation",
    GenerationConfig,
    flags=(
        Flag("--checkpoint", literal=True, help="a run, a checkpoint, a weights file, or released"),
        Flag("--prompts", literal=True, help="a file with a text per line, for image 0, 1, ..."),
        Flag("--output", literal=True, help="results folder"),
    ),
)
def main(config: GenerationConfig) -> None:
    process = Process.from_environment()
    torch.set_num_threads(1)  # more threads would change the rounding; use torchrun for more cores
    device = process.device(config.device)
    path = chosen_checkpoint(config)
    bundle = load(path, config, device)
    if process.is_first and bundle.taken:
        print(f"weights of {path}: {bundle.taken}")
    how = sampling(bundle, config, choose_precision(config.precision, device))
    prompts = None if config.prompts is None else read_prompts(Path(config.prompts))
    maker, told = picture_maker(bundle, config, how, prompts)
    num_images = config.num_images or (len(prompts) if prompts else default_number(bundle))
    settings = {
        "weights": weights_hash(bundle.origin),
        **told,
        **{k: v for k, v in asdict(how).items() if (k, v) != ("extrapolation", 1.0)},
        "seed": config.seed,
        "device": device.type,
    }
    batch_size = min(config.batch_size, num_images)
    folder = output_folder(config, bundle, {**settings, "of": [num_images, batch_size]})
    job = Generation(folder, settings, num_images, batch_size, maker.size)
    if process.is_first:
        print(
            f"{num_images} images of {bundle.origin}: {how.method}, {how.num_steps} steps, "
            f"{device.type} {how.precision}, {process.count} processes"
        )
    reader = open_reader() if "ocr" in config.metrics and process.is_first else None
    if not job.open(process):
        generate(job, maker, process)
    elif process.is_first:
        print(f"already generated: {job.result}")
    if process.is_first and prompts:
        write_prompts(job.folder, [maker.prompt(number) for number in range(num_images)])
    if reader is not None:
        print(f"ocr: {text_line(read_result(job, maker, reader))}")


def read_result(job: Generation, maker: NumberedPictures, reader: Reader) -> dict[str, Any]:
    """What OCR finds in the images, also written to ocr.json."""
    prompts = [maker.prompt(number) for number in range(job.num_images)]
    rows = read_images(tqdm(job.images(), "reading", job.num_images), prompts, reader)
    score = score_text(rows)
    with writing(job.folder):
        write_report(job.folder / "ocr.json", {**score, "images": rows})
    return score


def generate(job: Generation, maker: NumberedPictures, process: Process) -> None:
    """Generate this process's share; the first process shows the progress and writes the result."""
    began, before = time.monotonic(), job.num_made()
    with tqdm(
        total=job.num_images,
        initial=before,
        unit="image",
        desc="generating",
        disable=not process.is_first,
    ) as bar:

        def show() -> None:
            if process.is_first:
                bar.update(job.num_made() - bar.n)

        job.make_batches(maker, process, show)
        if not process.is_first:
            return
        job.wait(show)
        show()
    rate = (job.num_images - before) / (time.monotonic() - began)
    job.collect()
    height, width = job.size
    print(
        f"{job.num_images} images of {height} x {width} px in {job.result} "
        f"({job.result.stat().st_size / 1e6:.1f} MB), {rate:.3g} images/s; the first are in "
        f"{job.folder / 'samples.png'}"
    )


def chosen_checkpoint(config: GenerationConfig) -> Path:
    """The weights file or checkpoint folder to use; null means the newest checkpoint of either kind
    of run."""
    if config.checkpoint:
        return resolve_weights(config.checkpoint, config.download)
    runs = [run for kind in ("images", "pretrain") for run in runs_of_kind(kind)]
    found = [checkpoint for run in runs if (checkpoint := latest_checkpoint(run))]
    if not found:
        raise UserError(
            f"no run in runs/ can generate images; train one ({command('pretrain/images.py')}) or "
            "pass --checkpoint PATH"
        )
    return max(found, key=lambda checkpoint: (checkpoint / MANIFEST).stat().st_mtime)


def load(path: Path, config: GenerationConfig, device: torch.device) -> Bundle:
    """The network of a checkpoint or weights file."""
    if config.heads is not None and not is_released_file(path):
        raise UserError("heads is only for files of released weights; a checkpoint stores its own")
    bundle = load_bundle(path, device, config.heads)
    if "image" not in bundle.roles and "media" in bundle.provenance:
        raise UserError(
            f"{path} is of a run of pretrain/media.py; generate with {command('eval/media.py')}"
        )
    return bundle


def sampling(bundle: Bundle, config: GenerationConfig, precision: str) -> Sampling:
    """Sampling settings; by default those published for image networks."""
    default = "sde" if bundle.labelled else "euler"
    method = config.method or default
    return Sampling(
        method,
        config.num_steps or (250 if method == "sde" else 50),
        config.guidance_scale,
        (config.guidance_low, config.guidance_high),
        config.extrapolation,
        config.shift,
        precision,
    )


def picture_maker(
    bundle: Bundle, config: GenerationConfig, how: Sampling, prompts: list[str] | None
) -> tuple[NumberedPictures, dict[str, Any]]:
    """The generator of the images, and its settings besides `how`."""
    codec, words = bundle.frames, config.instruction
    told: dict[str, Any] = {}
    if isinstance(codec, ImageLatents):
        try:
            codec = codec.load(bundle.device, config.autoencoder_weights, config.download)
        except UserError as error:
            raise UserError(f"{bundle.origin}: {error}") from error
        assert codec.autoencoder is not None
        told = {"autoencoder": codec.autoencoder.fingerprint}
    elif config.autoencoder_weights is not None:
        raise UserError(f"{bundle.origin} generates pixels and does not use autoencoder_weights")
    if bundle.labelled:
        if words is not None or prompts is not None:
            raise UserError(
                f"{bundle.origin} does not read instructions or prompts; choose classes with "
                "labels=[...]"
            )
        trained = bundle.labels or range(bundle.network.config.num_classes or 0)
        if len(trained) == 1 and config.guidance_scale != 1.0:
            raise UserError(
                f"guidance_scale has no effect with one class: leave it out ({bundle.origin} was "
                "trained on images without labels, or all with the same)"
            )
        told["labels"] = config.labels
    else:
        if config.labels is not None:
            raise UserError(f"{bundle.origin} has no classes; labels= does not apply to it")
        task = TASKS.get(str(bundle.provenance.get("task")))
        if prompts is None and words is None and ACTIONS not in bundle.network.config.adapters:
            raise UserError(
                f"{bundle.origin} was trained on captions; give texts: --prompts FILE (one per "
                "line), or instruction=..."
            )
        if prompts is None and words is None:
            words = task.instructions(draw_start(task, 0, {}))[0] if task else ""
        if not (prompts or words) and config.guidance_scale != 1.0:
            raise UserError(
                f"guidance_scale has no effect without an instruction: add instruction=... or "
                f"leave it out ({bundle.origin} has no classes)"
            )
        if prompts is None:
            told["instruction"] = words
        else:
            told["prompts"] = prompts_hash(prompts)
    if bundle.taken:
        told["taken"] = bundle.taken
    bundle = replace(bundle, codecs={**bundle.codecs, FRAMES: codec})
    texts = prompts or [words or ""]
    return NumberedPictures(bundle, how, config.seed, config.labels, texts), told


def default_number(bundle: Bundle) -> int:
    """50 000 images, as in published FIDs, for ImageNet's classes; otherwise a few to look at."""
    return FOR_FID if bundle.network.config.num_classes == IMAGENET else FOR_A_LOOK


def output_folder(config: GenerationConfig, bundle: Bundle, settings: dict[str, Any]) -> Path:
    """The results folder: `output`, or one named after the settings."""
    if config.output:
        return Path(config.output)
    checkpoint = bundle.origin
    run = run_of(checkpoint) if checkpoint.is_dir() else Path("runs") / checkpoint.stem
    kind = f"generation-{settings['method']}{settings['num_steps']}"
    return run / "eval" / folder_name(kind, settings)


if __name__ == "__main__":
    main()
