"""Generate clips, sounds, clips with sound, or images from texts, with a run of pretrain/media.py.

    python eval/media.py --prompts FILE                            # the newest run
    python eval/media.py --checkpoint runs/clips --prompts FILE metrics=[persistence]
    python eval/media.py --checkpoint runs/films instruction='a ball bounces' num_samples=8
    python eval/media.py --checkpoint runs/films role=film_from_frame --given FOLDER
    python eval/media.py experiment=debug --prompts FILE           # two samples, ten steps

Each sample is written as 000000.mp4 (with its sound, if there is one), 000000.wav or 000000.png,
and losslessly as 000000.npz; samples.png is a contact sheet of the first ones, samples.txt has the
texts.
PROMPTS is a file with a text per line, the k-th for sample k. GIVEN is a folder of captioned videos
(as for pretrain/encode.py): its captions are the texts, and roles that continue a frame, or add a
sound to a clip, take those of its clips. Sample k is a function of (seed, k). Repeat an interrupted
command to resume it.

metrics=[persistence] counts the clips whose objects neither vanish nor appear, for clips like those
of pretrain/render.py set=clips (evaluation/persistence.py). With GIVEN it also measures GIVEN's
clips with their own captions and with those of other clips, as upper and lower references.
metrics=[synchrony] counts the impacts that are heard when they are seen, in films (clips with
sound) like those of set=impacts (evaluation/synchrony.py), also with the sounds of other films, and
draws some as film_000000.png.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from tqdm import tqdm

from selfflow_robotics.cli.app import Flag, hydra_app
from selfflow_robotics.cli.runs import run_of, runs_of_kind
from selfflow_robotics.commands import command
from selfflow_robotics.data.captioned_files import list_media
from selfflow_robotics.data.skips import Skips, Unusable
from selfflow_robotics.data.videos import VIDEOS, ClipShape
from selfflow_robotics.errors import UserError, check_least, unknown
from selfflow_robotics.evaluation.contact_sheet import write_sheet
from selfflow_robotics.evaluation.media_files import MediaSamples
from selfflow_robotics.evaluation.persistence import (
    check_captions,
    persistence_line,
    score_persistence,
)
from selfflow_robotics.evaluation.prompts import prompts_hash, read_prompts, write_prompts
from selfflow_robotics.evaluation.results import folder_name, write_report, writing
from selfflow_robotics.evaluation.sample_media import rate_of, sample_rows
from selfflow_robotics.evaluation.sound_picture import write_film_picture
from selfflow_robotics.evaluation.synchrony import (
    find_impacts,
    score_synchrony,
    synchrony_line,
    with_other_sounds,
)
from selfflow_robotics.inference.bundle import Bundle, load_bundle, weights_hash
from selfflow_robotics.inference.generate import Sampling
from selfflow_robotics.inference.generate_media import NumberedMedia, clip_frames, media_size
from selfflow_robotics.inference.sample import SampleMethod
from selfflow_robotics.modalities.base import FRAMES
from selfflow_robotics.objective.roles import ROLES
from selfflow_robotics.rng import check_seed
from selfflow_robotics.training.checkpoint import latest_checkpoint, resolve_checkpoint
from selfflow_robotics.training.device import choose_device, choose_precision

MOST_SAMPLES, MOST_BATCH = 1_000_000, 4096
SHOWN = 16  # samples in the contact sheet
PICTURED = 4  # films that metrics=[synchrony] draws


@dataclass(frozen=True)
class MediaEvalConfig:
    checkpoint: str | None = None
    role: str | None = None
    instruction: str | None = None
    prompts: str | None = None
    given: str | None = None
    num_samples: int | None = None
    method: SampleMethod = "euler"
    num_steps: int | None = None
    shift: float = 1.0
    guidance_scale: float = 1.0
    guidance_low: float = 0.0
    guidance_high: float = 1.0
    extrapolation: float = 1.0
    metrics: tuple[Literal["persistence", "synchrony"], ...] = ()
    seed: int = 0
    batch_size: int = 16
    download: bool = False
    device: str = "auto"
    precision: str = "auto"
    output: str | None = None

    def __post_init__(self) -> None:
        check_least(self, 1, "num_samples", "num_steps", "batch_size")
        if (self.num_samples or 1) > MOST_SAMPLES or self.batch_size > MOST_BATCH:
            raise UserError(
                f"num_samples must be at most {MOST_SAMPLES} and batch_size at most {MOST_BATCH}"
            )
        if sum(x is not None for x in (self.instruction, self.prompts, self.given)) > 1:
            raise UserError("instruction=, prompts= and given= exclude each other; leave one")
        if self.role is not None and self.role not in ROLES:
            raise unknown("role", self.role, ROLES)
        check_seed(self.seed)


@hydra_app(
    "media_samples",
    MediaEvalConfig,
    flags=(
        Flag("--checkpoint", literal=True, help="a run or checkpoint of pretrain/media.py"),
        Flag("--prompts", literal=True, help="a file with a text per line, for sample 0, 1, ..."),
        Flag("--given", literal=True, help="a folder of captioned videos: texts and clips"),
        Flag("--output", literal=True, help="results folder"),
    ),
)
def main(config: MediaEvalConfig) -> None:
    torch.set_num_threads(1)  # more threads would change the rounding
    device = choose_device(config.device)
    bundle = load_bundle(chosen_checkpoint(config), device)
    role = config.role or default_role(bundle)
    size = media_size(bundle, role)
    if "persistence" in config.metrics and "steps" not in size:
        raise UserError(f"metrics=[persistence] is for clips; the role {role} has no frames")
    if "synchrony" in config.metrics and not {"steps", "sound_steps"} <= set(size):
        raise UserError(
            f"metrics=[synchrony] is for clips with sound; the role {role} does not have both"
        )
    prompts, clips = read_texts(config, bundle, size)
    if "persistence" in config.metrics:
        check_captions(prompts[: config.num_samples])
    bundle = bundle.with_autoencoder(config.download)
    how = Sampling(
        config.method,
        config.num_steps or (250 if config.method == "sde" else 50),
        config.guidance_scale,
        (config.guidance_low, config.guidance_high),
        config.extrapolation,
        config.shift,
        choose_precision(config.precision, device),
    )
    maker = NumberedMedia(bundle, how, config.seed, role, prompts, clips)
    count = config.num_samples or len(prompts)
    settings: dict[str, Any] = {
        "weights": weights_hash(bundle.origin),
        "role": role,
        "prompts": prompts_hash(prompts),
        "given": None if clips is None else hashlib.sha256(clips.tobytes()).hexdigest(),
        **asdict(how),
        "seed": config.seed,
        "device": device.type,
    }
    batch_size = min(config.batch_size, count)
    folder = output_folder(config, bundle, {**settings, "of": [count, batch_size]})
    job = MediaSamples(folder, settings, count, batch_size, size.get("fps"), rate_of(bundle))
    print(
        f"{count} samples ({role}) of {bundle.origin}: {how.method}, {how.num_steps} steps, "
        f"{device.type} {how.precision}"
    )
    with tqdm(total=count, unit="sample", desc="generating") as bar:
        job.make(maker, bar.update)
    texts = [maker.prompt(number) for number in range(count)]
    write_prompts(folder, texts)
    with writing(folder):
        shown = range(min(SHOWN, count))
        rows = [row for k in shown for row in sample_rows(texts[k], job.load(k))]
        write_sheet(folder / "samples.png", rows)
    print(f"{count} samples in {folder}; the first are in {folder / 'samples.png'}")
    if "persistence" in config.metrics:
        measure_persistence(job, texts, clips, prompts)
    if "synchrony" in config.metrics:
        measure_synchrony(job, texts)


def measure_persistence(
    job: MediaSamples, texts: Sequence[str], clips: np.ndarray | None, captions: Sequence[str]
) -> None:
    """Print and write how many clips keep their objects."""
    score, rows = score_persistence((job.load(k)["frames"] for k in range(job.count)), texts)
    report: dict[str, Any] = {"generated": score}
    print(f"persistence: {persistence_line(score)}")
    if clips is not None:
        given: dict[str, Sequence[str]] = {"true clips": captions}
        if len(captions) > 1:
            given["captions of others"] = [*captions[1:], *captions[:1]]
        for name, texts_of in given.items():
            report[name] = score_persistence(clips, texts_of)[0]
            print(f"persistence, {name}: {persistence_line(report[name])}")
    with writing(job.folder):
        write_report(job.folder / "persistence.json", {**report, "clips": rows})


def measure_synchrony(job: MediaSamples, texts: Sequence[str]) -> None:
    """Print and write how many impacts are heard when they are seen, and how many by chance; draw
    some films."""
    assert job.fps is not None
    films = []
    for number in range(job.count):
        sample = job.load(number)
        heard = (sample["sound"], job.sample_rate)
        films.append(find_impacts(sample["frames"], job.fps, *heard))
        if number < PICTURED:
            with writing(job.folder):
                write_film_picture(
                    job.folder / f"film_{number:06d}.png",
                    sample["frames"],
                    job.fps,
                    *heard,
                    texts[number],
                    films[-1].seen,
                    films[-1].heard,
                )
    report = {"generated": score_synchrony(films, job.fps)}
    if len(films) > 1:
        report["sounds of others"] = score_synchrony(with_other_sounds(films), job.fps)
    for name, score in report.items():
        print(f"synchrony, {name}: {synchrony_line(score)}")
    with writing(job.folder):
        write_report(job.folder / "synchrony.json", report)


def chosen_checkpoint(config: MediaEvalConfig) -> Path:
    """The checkpoint folder to use; null means that of the newest run."""
    if config.checkpoint:
        return resolve_checkpoint(Path(config.checkpoint))
    found = [path for run in runs_of_kind("media") if (path := latest_checkpoint(run))]
    if not found:
        raise UserError(
            f"no run in runs/ can generate clips or sounds; train one "
            f"({command('pretrain/media.py')}) or pass --checkpoint PATH"
        )
    return found[0]


def default_role(bundle: Bundle) -> str:
    """The first role that starts from words alone."""
    for role in bundle.roles:
        if role in ROLES and "clean" not in ROLES[role].values():
            return role
    raise UserError(
        f"{bundle.origin} was trained with the roles {', '.join(bundle.roles)}: choose role=..."
    )


def read_texts(
    config: MediaEvalConfig, bundle: Bundle, size: dict[str, Any]
) -> tuple[list[str], np.ndarray | None]:
    """The texts, and the given clips uint8 [K, T, H, W, 3], if any."""
    if config.prompts is not None:
        return read_prompts(Path(config.prompts)), None
    if config.instruction is not None:
        return [config.instruction], None
    if config.given is None:
        raise UserError(
            "give texts: --prompts FILE (one per line), instruction=..., or --given FOLDER of "
            "captioned videos"
        )
    if FRAMES not in bundle.codecs or "steps" not in size:
        raise UserError("--given is for roles with frames; give --prompts FILE")
    shape = ClipShape(clip_frames(bundle, size), size["fps"], bundle.frames.image_size)
    files = list_media(config.given, VIDEOS, {"frames": shape})
    texts, clips, skips = [], [], Skips()
    skips.merge(files.skips)
    for number in range(len(files)):
        if len(clips) == config.num_samples:
            break
        try:
            clips.append(files.read(number)["frames"])
            texts.append(files.items[number].captions[0])
        except Unusable as cause:
            skips.add(str(cause), files.name(number))
        except OSError:
            skips.add("unreadable file", files.name(number))
    if skips.total:
        print(f"skipped of {config.given}: {skips.text()}")
    if not clips:
        raise UserError(f"no video in {config.given} can be used ({skips.text()})")
    return texts, np.stack(clips)


def output_folder(config: MediaEvalConfig, bundle: Bundle, settings: dict[str, Any]) -> Path:
    """The results folder: `output`, or one named after the settings."""
    if config.output:
        return Path(config.output)
    kind = f"{settings['role']}-{settings['method']}{settings['num_steps']}"
    return run_of(bundle.origin) / "eval" / folder_name(kind, settings)


if __name__ == "__main__":
    main()
