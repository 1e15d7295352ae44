"""Samples that a run of pretrain/media.py writes while it trains: a contact sheet, the sounds and
films, and a page of all sheets. Where an autoencoder is missing, there are none, and training goes
on."""

import base64
import html
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from selfflow_robotics.data.films import wav_bytes
from selfflow_robotics.errors import UserError
from selfflow_robotics.evaluation.contact_sheet import Row, spectrogram_picture, write_sheet
from selfflow_robotics.evaluation.results import write_whole
from selfflow_robotics.evaluation.video import write_video
from selfflow_robotics.inference.bundle import Bundle
from selfflow_robotics.inference.generate import Sampling
from selfflow_robotics.inference.generate_media import NumberedMedia, Sample
from selfflow_robotics.modalities.base import SOUND
from selfflow_robotics.objective.roles import ROLES, modality_of

SAMPLES = 4  # of each role
FOLDER, NEWEST, PAGE = "samples", "newest_samples", "samples.html"  # in a run


def write_media(
    path: Path, bundle: Bundle, *, seed: int, prompts: Mapping[str, Sequence[str]]
) -> None:
    """The samples of every role that starts from words alone: a sheet at `path`, the newest sounds
    and films in the run's `NEWEST`, and the page.

    bundle: of a run, its origin.
    prompts: some for each modality.
    """
    run = bundle.origin
    try:
        ready = bundle.with_autoencoder()
    except UserError as error:
        print(f"no samples: {error}")
        return
    rows: list[Row] = []
    for role in ready.roles:
        if "clean" in ROLES[role].values():
            continue
        texts = prompts[modality_of(role)]
        maker = NumberedMedia(ready, Sampling("euler", 50), seed, role, texts)
        for number, sample in enumerate(maker(range(min(SAMPLES, len(texts))))):
            rows += sample_rows(f"{role}: {maker.prompt(number)}", sample)
            if "sound" in sample:
                (run / NEWEST).mkdir(exist_ok=True)
                stem = run / NEWEST / f"{role}_{number}"
                write_sample(stem, sample, maker.size.get("fps"), rate_of(ready))
    if rows:
        write_sheet(path, rows)
        _write_page(run, path)


def rate_of(bundle: Bundle) -> int:
    """The sample rate of its sounds in Hz; 0 if it has none."""
    return getattr(bundle.codecs.get(SOUND), "sample_rate", 0)


def sample_rows(label: str, sample: Sample) -> list[Row]:
    """The rows of a sample in a contact sheet."""
    rows: list[Row] = []
    if "frames" in sample:
        rows.append((label, sample["frames"]))
    if "picture" in sample:
        rows.append((label, sample["picture"][None]))
    if "sound" in sample:
        rows.append(("" if rows else label, spectrogram_picture(sample["sound"])[None]))
    return rows


def write_sample(stem: Path, sample: Sample, fps: float | None, sample_rate: int) -> Path:
    """Write STEM.mp4 (with sound, if there is one), STEM.wav or STEM.png; returns which."""
    if "frames" in sample:
        assert fps is not None
        path = stem.with_suffix(".mp4")
        if "sound" in sample:
            write_video(path, sample["frames"], fps, sample["sound"], sample_rate)
        else:
            write_video(path, sample["frames"], fps)
    elif "sound" in sample:
        path = stem.with_suffix(".wav")
        write_whole(path, wav_bytes(sample["sound"], sample_rate))
    else:
        path = stem.with_suffix(".png")
        write_sheet(path, [("", np.asarray(sample["picture"])[None])])
    return path


def _write_page(run: Path, newest: Path) -> None:
    """A page with all sheets of a run, the newest first; it needs no other file."""
    parts = ["<!doctype html><meta charset=utf-8><title>Samples</title>"]
    earlier = sorted((run / FOLDER).glob("step_*.png"), reverse=True)
    for sheet in [newest, *earlier]:
        data = base64.b64encode(sheet.read_bytes()).decode()
        name = "newest" if sheet == newest else html.escape(sheet.stem.replace("_", " "))
        parts.append(f'<h2>{name}</h2><img alt="{name}" src="data:image/png;base64,{data}">')
    write_whole(run / PAGE, "\n".join(parts) + "\n")
