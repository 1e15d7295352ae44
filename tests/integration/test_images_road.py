"""The road of labelled pictures as a user goes it, with a tiny random SD-VAE: encode by two
processes, pretrain, generate alone and by two.
"""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from selfflow_robotics.data.shapes import ensure_shapes
from tests.unit.test_sd_vae import write_vae

ROOT = Path(__file__).resolve().parents[2]
TINY = [
    *(
        "model.sit.width=48",
        "model.sit.depth=2",
        "objective.student_layer=1",
        "objective.teacher_layer=2",
    ),
    *("train.steps=20", "train.save_every=20", "batch_size=8"),
]
GENERATE = ["num_images=10", "batch_size=4", "num_steps=4", "device=cpu"]


def run(folder: Path, *words: str) -> str:
    done = subprocess.run(
        [sys.executable, *words],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder in which pictures were encoded and a network was trained on them."""
    folder = tmp_path_factory.mktemp("images")
    pictures = ensure_shapes(folder, 240, 64)
    write_vae(folder / "vae")
    encode = [str(ROOT / "pretrain/encode.py"), "--data", str(pictures), "--output", "latents"]
    said = run(folder, *encode, "weights=vae", "image_size=64", "processes=2", "shard_size=60")
    assert "latents of 240 images in latents: 0 skipped" in said
    run(folder, str(ROOT / "pretrain/images.py"), "--data", "latents", "name=tiny", *TINY)
    return folder


def test_from_a_folder_of_pictures_to_an_npz_by_one_process_and_by_two(folder):
    script = str(ROOT / "eval/generation.py")
    said = run(folder, script, *GENERATE, "--output", "one")
    assert "10 images of runs/tiny/checkpoints/step_0000020: sde, 4 steps" in said
    pictures = np.load(folder / "one/samples.npz")["arr_0"]
    assert pictures.shape == (10, 64, 64, 3)
    assert pictures.dtype == np.uint8
    assert pictures.std() > 1
    assert (folder / "one/samples.png").exists()

    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    said = run(folder, *torchrun, script, *GENERATE, "--output", "two")
    assert "2 processes" in said
    assert (folder / "two/samples.npz").read_bytes() == (folder / "one/samples.npz").read_bytes()
