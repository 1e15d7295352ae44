"""Films, latents of every modality, and a tiny network that was trained on them."""

import runpy
from pathlib import Path

import numpy as np
import pytest

from selfflow_robotics.data.films import lossless_mp4, wav_bytes
from tests.pictures import picture_bytes

ROOT = Path(__file__).parents[1]
SIZE, FRAMES_OF, FPS, RATE = (8, 12), 4, 5.0, 4000
CLIP = ["clip.frames=4", "clip.fps=5", "image_size=[8,12]", "autoencoder=pixel"]
HEARD = ["sound.seconds=0.8", f"sound.sample_rate={RATE}"]
ALL = ["images", "clips", "sounds", "films"]
DATA = [f"{name}.data=latents/{name}" for name in ALL]
TINY = [
    "device=cpu", "precision=fp32", "name=tiny", "model.sit={width: 24, depth: 2, heads: 2}",
    "model.image_patch=4", "model.clip_patch=4", "objective.student_layer=1",
    "objective.teacher_layer=2", "train.steps=6", "train.save_every=3", "train.log_every=1",
    *(f"{name}.batch_size=2" for name in ALL),
]  # fmt: skip
QUICK = ["num_steps=2", "device=cpu", "precision=fp32", "--checkpoint", "runs/tiny"]


def script(name, function="main"):
    return runpy.run_path(str(ROOT / name), run_name="imported")[function]


encode, train, generate, images, measure = (
    script(name)
    for name in (
        "pretrain/encode.py", "pretrain/media.py", "eval/media.py", "eval/generation.py",
        "eval/metrics.py",
    )
)  # fmt: skip


def write_films(root, count=5):
    """NAME.mp4, NAME.wav and NAME.txt: grey levels and tones that grow with the number."""
    root.mkdir(parents=True)
    for number in range(count):
        frames = np.full((FRAMES_OF, *SIZE, 3), 40 * number, np.uint8)
        frames[:, :, :3] = 255 - 20 * np.arange(FRAMES_OF)[:, None, None, None]
        tone = 0.5 * np.sin(2 * np.pi * 200 * (1 + number) * np.arange(3200) / RATE)
        (root / f"{number}.mp4").write_bytes(lossless_mp4(frames, FPS))
        (root / f"{number}.wav").write_bytes(wav_bytes(tone.astype(np.float32), RATE))
        (root / f"{number}.txt").write_text(f"film {number}\nnumber {number}\n")
    return root


def make_all(folder):
    """Fill a folder with latents of every modality, and a network that was trained on them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        write_films(folder / "films")
        (folder / "pictures").mkdir()
        for number in range(4):
            (folder / f"pictures/{number}.png").write_bytes(picture_bytes(number))
            (folder / f"pictures/{number}.txt").write_text(f"picture {number}")
        one = ["processes=1", "device=cpu"]
        encode(["--data", "pictures", "captions=true", "autoencoder=pixel", "image_size=8",
                "--output", "latents/images", *one])  # fmt: skip
        for media in ALL[1:]:
            encode(["--data", "films", f"media={media}", *CLIP, *HEARD,
                    "--output", f"latents/{media}", *one])  # fmt: skip
        train([*DATA, *TINY])
    return folder
