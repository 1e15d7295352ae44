"""What benchmarks/convergence.py measures of a run's checkpoints, on held-out samples.

python benchmarks/convergence_measures.py RUN HELD_OUT_LATENTS ROLE SAMPLES
"""

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # if run as a file

from selfflow_robotics.cli.media_input import (
    MediaInput,
    ModalityConfig,
    media_places,
    open_readers,
    sizes_of,
    slot_weights,
)
from selfflow_robotics.encoders.features import BandFeatures, PixelFeatures
from selfflow_robotics.evaluation.metrics.frechet import Gaussian, Moments, frechet_distance
from selfflow_robotics.evaluation.results import write_whole
from selfflow_robotics.flow.timesteps import TimestepConfig
from selfflow_robotics.inference.bundle import Bundle, load_bundle
from selfflow_robotics.inference.generate import Sampling
from selfflow_robotics.inference.generate_media import NumberedMedia, Sample, codecs_for
from selfflow_robotics.modalities.base import FRAMES, SOUND
from selfflow_robotics.models.text import TextConfig
from selfflow_robotics.objective.loss import ConditioningConfig, loss
from selfflow_robotics.objective.roles import ROLES, modality_of
from selfflow_robotics.objective.self_flow import ObjectiveConfig
from selfflow_robotics.rng import torch_generator
from selfflow_robotics.training.checkpoint import read_manifest
from selfflow_robotics.training.distributed import ALONE

BATCH = 32
DRAWS = 4  # noise draws of each held-out sample
GUIDANCE, SOLVER_STEPS = 2.0, 20
METRICS = "metrics.jsonl"
SIDE = 4  # of the coarse features
PLAIN = ObjectiveConfig(gamma=0.0, mask_ratio=0.0, timesteps=TimestepConfig())


def measure_run(run: Path, held_out: str, role: str, samples: int) -> None:
    """Write measured.json: {"step", "loss", "distance", "step_s"} of each checkpoint; step_s is the
    median over the run."""
    lines = [json.loads(line) for line in (run / METRICS).read_text().splitlines()]
    step_s = float(np.median([line["step_s"] for line in lines]))
    rows = []
    for checkpoint in sorted((run / "checkpoints").iterdir()):
        step = read_manifest(checkpoint)["step"]
        found = measure(checkpoint, held_out, role, samples)
        rows.append({"step": step, **found, "step_s": step_s})
    rows.sort(key=lambda row: row["step"])
    write_whole(run / "measured.json", json.dumps(rows, indent=1))


def measure(checkpoint: Path, held_out: str, role: str, samples: int) -> dict[str, float]:
    """loss and distance of the moving average; as many held-out samples as generated ones."""
    bundle = load_bundle(checkpoint, "cpu").with_autoencoder()
    given = _held_out(bundle, held_out, role)
    return {
        "loss": held_out_loss(bundle, given, role, samples),
        "distance": distance(bundle, given, role, samples),
    }


def held_out_loss(bundle: Bundle, given: MediaInput, role: str, count: int) -> float:
    """The flow-matching loss of plain noise, t uniform; the same noise for every network."""
    generator = torch_generator("held-out loss", 0)
    conditioning = ConditioningConfig(bundle.attention, draws=1, text_dropout=0.0)
    modality = modality_of(role)
    weights = slot_weights(ROLES[role], given.steps(modality), 1.0)
    total, seen = 0.0, 0
    with torch.no_grad():
        for rows in list(_batches(given, role, count)) * DRAWS:
            batch = given.tokens(given.read(role, rows, ALONE, 0, 0), bundle.device, generator)
            terms = loss(
                bundle.network, bundle.network, batch, ROLES[role], PLAIN, conditioning, generator,
                weights=weights,
            )  # fmt: skip
            total, seen = total + float(terms.flow_loss) * len(rows), seen + len(rows)
    return total / seen


def distance(bundle: Bundle, given: MediaInput, role: str, count: int) -> float:
    """Frechet distance of samples from held-out captions to the held-out samples, both decoded."""
    captions = given.readers[modality_of(role)].first_captions(count)
    how = Sampling("euler", SOLVER_STEPS, GUIDANCE)
    maker = NumberedMedia(bundle, how, 0, role, captions)
    made = Moments("generated samples")
    for rows in _batches(given, role, count):
        made.add(coarse_features(maker(rows)))
    return frechet_distance(_true(bundle, given, role, count), made.gaussian())


def coarse_features(samples: list[Sample]) -> np.ndarray:
    """Of sounds [B, SIDE^2]; of images and of all frames [B T, 3 SIDE^2]."""
    if "sound" in samples[0]:
        sounds = torch.from_numpy(np.stack([sample["sound"] for sample in samples]))
        return BandFeatures(SIDE, torch.device("cpu"))(sounds)["features"].numpy()
    part = "frames" if "frames" in samples[0] else "picture"
    pixels = torch.from_numpy(np.stack([sample[part] for sample in samples]))
    if part == "frames":
        pixels = rearrange(pixels, "b t h w c -> (b t) h w c")
    return PixelFeatures(SIDE, torch.device("cpu"))(pixels)["features"].numpy()


def _true(bundle: Bundle, given: MediaInput, role: str, count: int) -> Gaussian:
    codecs, kinds = codecs_for(bundle.codecs, role), bundle.network.config.slots
    true = Moments("held-out samples")
    for rows in _batches(given, role, count):
        batch = given.tokens(
            given.read(role, rows, ALONE, 0, 0), bundle.device, torch_generator("true", 0)
        )
        tokens: Mapping[str, Tensor] = {slot: x.tokens for slot, x in batch.slots.items()}
        if "sound" in tokens:
            part, decoded = "sound", codecs[SOUND].decode(tokens["sound"])
        elif "picture" in tokens:
            part, decoded = "picture", codecs[kinds["picture"]].decode(tokens["picture"])[:, 0]
        else:
            both = torch.cat([tokens["first_frame"], tokens["later_frames"]], dim=1)
            part, decoded = "frames", codecs[FRAMES].decode(both)
        true.add(coarse_features([{part: x} for x in decoded.cpu().numpy()]))
    return true.gaussian()


def _batches(given: MediaInput, role: str, count: int) -> Iterator[list[int]]:
    """Rows, in batches of one size, since noise is drawn batch by batch."""
    count = min(count, len(given.readers[modality_of(role)]))
    for first in range(0, count, BATCH):
        yield list(range(first, min(first + BATCH, count)))


def _held_out(bundle: Bundle, folder: str, role: str) -> MediaInput:
    """Held-out latents as the network of `bundle` reads them."""
    modality = modality_of(role)
    readers = open_readers({modality: ModalityConfig(data=folder)})
    sizes = {modality: sizes_of(readers[modality])}
    codecs = dict(bundle.codecs)
    return MediaInput(
        readers, sizes, codecs, media_places(sizes, codecs), TextConfig("bytes"), None
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    measure_run(Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4]))
