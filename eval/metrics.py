"""Measure generated images, clips and sounds against real ones: FID, FVD, FAD, precision, recall.

    python eval/metrics.py                                # newest samples of eval/generation.py
    python eval/metrics.py samples.npz --reference VIRTUAL_imagenet256_labeled.npz
    python eval/metrics.py a/samples.npz b/samples.npz --reference images/ features=run:runs/judge
    python eval/metrics.py samples.npz --reference ref.npz metrics=[fd_dinov2] download=true
    python eval/metrics.py samples.npz metrics=[clip_score]   # captions in samples.txt
    python eval/metrics.py runs/clips/eval/clip-... --reference videos/ metrics=[fvd,fid]
    python eval/metrics.py --reference imagenet/val --write-reference ref.npz image_size=256
    python eval/metrics.py experiment=debug               # pixels as features; seconds

SAMPLES and --reference are npz files (arr_0, uint8 [N, H, W, 3]) or folders of images, which are
cropped to squares. A reference may also be one of ADM's files, with statistics of a whole data set
and 10 000 of its images; --write-reference makes such a file of your own data, which ADM's
evaluator reads too. Without arguments, the newest samples in runs/ are compared with the images
that their run was trained on.

SAMPLES may also be results folders of eval/media.py, and --reference a folder of captioned videos
or sounds (of images: a folder of images, or an npz), or other results; without it, what the run was
trained on. FID and other metrics of images look at all frames of videos.

metrics:
  fid, sfid             Frechet distances of InceptionV3's features, as in ADM's evaluation suite
  inception_score       of InceptionV3's classes, in parts of 5 000 samples
  precision_recall      of any features, with 3 nearest neighbours
  fd_dinov2, fvd, fad   Frechet distances of DINOv2 (images), VideoMAE (videos), CLAP (sounds)
  frechet               the same distance of any features
  clip_score            100 cos(image, caption)

features: the network of precision_recall and frechet
  inception             the default for images; needs torch-fidelity and its weights on disk
  run:PATH[@LAYER]      a run of this project: needs no download, so it works on a laptop
  efficientnet-lite0    trained on ImageNet; its weights come with a package
  video, sound          VideoMAE and CLAP, the defaults for clips and sounds; or video:NAME, ...
  dinov2-l, hf:NAME, hub:REPO:MODEL, clip[:NAME]
  pixels, bands         baselines: images of 8 x 8 px; sounds in 8 bands and 8 parts of time
  given                 arr_0 already holds features, float [N, D]

Numbers are only comparable with the same features, the same number of samples and the same
reference. The table says for each number whether it follows the protocol of published ones (50 000
samples, ADM's reference file), and shows published numbers only beside those that do. Results are
written next to the samples, to metrics-.../metrics.json and table.md; repeating a command prints
them. The exit code is 2 for errors.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch
from tqdm import tqdm

from selfflow_robotics.cli.app import Flag, hydra_app
from selfflow_robotics.cli.runs import recorded_settings
from selfflow_robotics.commands import command
from selfflow_robotics.data.latents import read_record
from selfflow_robotics.data.shapes import ensure_shapes
from selfflow_robotics.encoders.features import load_features, reads
from selfflow_robotics.errors import UserError, check_least
from selfflow_robotics.evaluation.media_files import SETTINGS
from selfflow_robotics.evaluation.metrics.make_reference import make_reference
from selfflow_robotics.evaluation.metrics.measure import (
    Reading,
    compute,
    is_compared,
    plan,
    read,
    read_reference,
)
from selfflow_robotics.evaluation.metrics.media_sources import (
    is_generated,
    open_generated,
    open_recorded,
)
from selfflow_robotics.evaluation.metrics.report import report, to_markdown, to_text
from selfflow_robotics.evaluation.metrics.sources import (
    Source,
    open_source,
    square_size,
)
from selfflow_robotics.evaluation.results import (
    folder_name,
    known_report,
    write_report,
    writing,
)
from selfflow_robotics.json_file import read_json, read_text
from selfflow_robotics.objective.roles import modality_of
from selfflow_robotics.training.device import choose_device

MOST_BATCH = 4096


@dataclass(frozen=True)
class MetricsConfig:
    samples: tuple[str, ...] = ()
    reference: str | None = None
    metrics: list[str] | None = None
    features: str | None = None
    captions: str | None = None
    image_size: int | None = None
    few_samples: bool = False
    batch_size: int = 64
    write_reference: str | None = None
    download: bool = False
    device: str = "auto"
    output: str | None = None

    def __post_init__(self) -> None:
        check_least(self, 1, "batch_size")
        check_least(self, 8, "image_size")
        if self.batch_size > MOST_BATCH:
            raise UserError(f"batch_size must be at most {MOST_BATCH}, got {self.batch_size}")


@hydra_app(
    "metrics",
    MetricsConfig,
    flags=(
        Flag("--reference", literal=True, help="an npz, one of ADM's files, or a folder of images"),
        Flag("--captions", literal=True, help="a text file, one line for each sample"),
        Flag("--features", literal=True, help="the feature network"),
        Flag("--write-reference", literal=True, help="write the reference to this npz instead"),
        Flag("--output", literal=True, help="parent of the results folders"),
    ),
    positional="samples",
)
def main(config: MetricsConfig) -> None:
    device = choose_device(config.device)
    if config.write_reference:
        return write(config, Path(config.write_reference), device)
    given = [*config.samples] or [str(newest_samples())]
    features = config.features or usual_features(given[0])
    planned = plan(config.metrics, features, config.captions is not None)
    uses_captions = any("clip_score" in names for names in planned.values())
    compares = any(is_compared(name) for names in planned.values() for name in names)
    samples, reference = open_all(given, config.reference, compares, config.image_size)
    for one in samples:
        for name in planned:
            check_sizes(one, reference, reads(name))
    all_captions = [captions_of(one, config.captions) if uses_captions else None for one in samples]
    networks = {name: load_features(name, config.download, device) for name in planned}
    references: dict[str, Reading] = {}
    for one, captions in zip(samples, all_captions, strict=True):
        settings = {
            "samples": one.fingerprint,
            "reference": reference and reference.fingerprint,
            "metrics": {networks[name].identity: names for name, names in planned.items()},
            "captions": captions and hashlib.sha256("\n".join(captions).encode()).hexdigest(),
            "few_samples": config.few_samples,
        }
        parent = Path(config.output) if config.output else Path(one.origin).expanduser().parent
        folder = parent / folder_name("metrics", settings)
        result = known_report(folder / "metrics.json", settings)
        if result is None:
            rows = []
            for name, network in networks.items():
                names, size = planned[name], config.batch_size
                if reference and name not in references and any(map(is_compared, names)):
                    with progress(reference, name) as bar:
                        references[name] = read_reference(
                            network, reference, names, size, bar.update
                        )
                with progress(one, name) as bar:
                    reading = read(network, one, names, size, captions, bar.update)
                few = config.few_samples
                rows += compute(names, name, reading, references.get(name), few, device)
            result = report(one, reference, rows, settings)
            with writing(folder):
                folder.mkdir(parents=True, exist_ok=True)
                (folder / "table.md").write_text(to_markdown(result))
                write_report(folder / "metrics.json", result)
        print(to_text(result))
        print(f"written to {folder}")


def write(config: MetricsConfig, path: Path, device: torch.device) -> None:
    """Write the reference as an npz in ADM's layout, instead of measuring samples."""
    if config.reference is None or config.samples:
        raise UserError(
            "--write-reference writes the images of --reference to an npz; pass --reference IMAGES "
            "and no samples"
        )
    name = config.features or "inception"
    source = open_source(config.reference, config.image_size)
    network = load_features(name, config.download, device)
    with progress(source, name) as bar:
        make_reference(path, network, source, config.batch_size, config.few_samples, bar.update)
    print(f"{source} written to {path}: {open_source(str(path))}")


def open_all(
    given: list[str], reference: str | None, compares: bool, image_size: int | None
) -> tuple[list[Source], Source | None]:
    """The samples, and what they are compared with, if they are."""
    media = [is_generated(Path(one).expanduser()) for one in given]
    if any(media):
        if not all(media):
            raise UserError(
                f"{given[media.index(False)]} is no results folder of eval/media.py, "
                f"{given[media.index(True)]} is; measure them one at a time"
            )
        samples = [open_generated(one) for one in given]
        if not compares:
            return samples, None
        where = reference or str(training_media(Path(given[0])))
        if is_generated(Path(where).expanduser()):
            return samples, open_generated(where)
        if set(samples[0].parts) == {"images"}:  # not the frames of clips
            return samples, open_source(where, samples[0].parts["images"].shape[1])
        return samples, open_recorded(where, samples[0])
    size = image_size
    if compares:
        size = size or square_size([*given, *([] if reference is None else [reference])])
    samples = [open_source(one, size) for one in given]  # first: their mistakes show first
    if not compares:
        return samples, None
    return samples, open_source(reference or str(training_images(Path(given[0]))), size)


def usual_features(samples: str) -> str | None:
    """The network of these samples, if the configuration names none: VideoMAE for clips, CLAP for
    sounds, InceptionV3 (None) for images."""
    if not is_generated(Path(samples).expanduser()):
        return None
    parts = open_generated(samples).parts
    return "video" if "videos" in parts else "sound" if "sounds" in parts else None


def progress(source: Source, name: str) -> tqdm:
    """A bar for reading a source through a feature network."""
    kept = source.parts.get(reads(name), source.samples)
    total = None if kept is None else len(kept)
    return tqdm(total=total, unit="sample", desc=f"{source.origin[-40:]}: {name}")


def newest_samples() -> Path:
    """The newest samples of eval/generation.py in runs/."""
    found = list(Path("runs").glob("*/eval/generation-*/samples.npz"))
    if not found:
        raise UserError(
            f"no samples in runs/; generate some ({command('eval/generation.py')} num_images=1000) "
            "or pass SAMPLES, an npz or a folder of images"
        )
    return max(found, key=lambda path: path.stat().st_mtime)


def training_images(samples: Path) -> Path:
    """The images that the run of RUN/eval/.../samples.npz was trained on. Raises UserError if they
    are unknown."""
    parents = samples.resolve().parents
    settings = recorded_settings(parents[2]) if len(parents) > 2 else {}
    data = settings.get("data")
    try:
        if data is None:
            shapes = settings["num_shapes"], settings["shape_px"]
            return ensure_shapes(Path(settings["root"]), *shapes)
        images = Path(read_record(Path(data).expanduser())["source"]["path"])
        if images.exists():
            return images
    except (KeyError, TypeError, UserError):
        pass
    raise UserError(
        f"which images should {samples} be compared with? Pass --reference, an npz or a folder of "
        "images"
    )


def training_media(samples: Path) -> Path:
    """The videos, sounds or images that the run of RUN/eval/SAMPLES was trained on. Raises
    UserError if they are unknown."""
    folder = samples.expanduser().resolve()
    try:
        modality = modality_of(read_json(folder / SETTINGS)["role"])
        data = recorded_settings(folder.parents[1])[modality]["data"]
        source = Path(read_record(Path(data).expanduser())["source"]["path"])
        if source.exists():
            return source
    except (OSError, ValueError, IndexError, KeyError, TypeError, UserError):
        pass
    raise UserError(
        f"what should {samples} be compared with? Pass --reference, a folder of captioned videos "
        "or sounds, or of images"
    )


def check_sizes(samples: Source, reference: Source | None, kind: str) -> None:
    """Raise UserError unless samples and reference have one size and one rate of this kind."""
    if reference is None:
        return
    kept = [source.parts.get(kind, source.samples) for source in (samples, reference)]
    if kept[0] is None or kept[1] is None:
        return
    shapes = kept[0].shape[1:], kept[1].shape[1:]
    if shapes[0] != shapes[1]:
        one, other = (" x ".join(map(str, shape)) for shape in shapes)
        raise UserError(
            f"{samples.origin} is of {one}, {reference.origin} of {other}; use a reference of the "
            "samples' size, or folders of images with image_size=..."
        )
    rates = {"videos": ("fps", "frames per second"), "sounds": ("sample_rate", "Hz")}
    name, unit = rates.get(kind, ("", ""))
    found = [getattr(source, name, None) for source in (samples, reference)]
    if None not in found and found[0] != found[1]:
        raise UserError(
            f"{samples.origin} has {found[0]:g} {unit}, {reference.origin} {found[1]:g}; use a "
            "reference of the samples' rate"
        )


def captions_of(samples: Source, given: str | None) -> list[str]:
    """One line for each sample: of the file `given`, or of the .txt with the samples. Raises
    UserError if it cannot be read."""
    origin = Path(samples.origin).expanduser()
    beside = origin / "samples.txt" if is_generated(origin) else origin.with_suffix(".txt")
    path = Path(given).expanduser() if given else beside
    try:
        return read_text(path).splitlines()
    except (OSError, ValueError) as error:
        raise UserError(
            f"cannot read the captions in {path} ({error}); pass a file with one line for each "
            "sample: --captions FILE"
        ) from error


if __name__ == "__main__":
    main()
