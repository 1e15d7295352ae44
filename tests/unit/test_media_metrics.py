"""eval/metrics.py on clips and sounds of eval/media.py."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from selfflow_robotics.data.sounds import SoundShape
from selfflow_robotics.evaluation.metrics.measure import read
from selfflow_robotics.evaluation.metrics.media_sources import (
    Frames,
    PartOfSamples,
    open_generated,
    open_recorded,
)
from selfflow_robotics.evaluation.metrics.precision_recall import Share
from selfflow_robotics.evaluation.metrics.sources import Source
from selfflow_robotics.evaluation.statistics import wilson_interval
from tests.media_runs import FRAMES_OF, QUICK, RATE, SIZE, generate, make_all, measure, script

OTHERS = ["--reference", "films"]
MEASURE = ["few_samples=true", "metrics=[frechet]", "device=cpu"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make_all(tmp_path_factory.mktemp("media"))


@pytest.fixture
def folder(made, monkeypatch):
    monkeypatch.chdir(made)
    return made


def distances(folder):
    """The rows of all measurements beside some samples, by kind of features."""
    found = [json.loads(path.read_text()) for path in Path(folder).glob("metrics-*/metrics.json")]
    return {row["features"]: row for report in found for row in report["rows"]}


def test_clips_and_sounds_are_measured_against_files(folder, tmp_path, capsys):
    made = "runs/tiny/eval/films"
    generate([*QUICK, "role=film", "--prompts", str(prompts(tmp_path)), "--output", made])
    for features in ("pixels:2", "bands:4"):
        measure([made, f"features={features}", *MEASURE])  # what the run was trained on
    assert "5 videos of 4 x 8 x 12 x 3, 20 images of 8 x 12 x 3" in capsys.readouterr().out
    rows = distances("runs/tiny/eval")
    # Framewise: every frame of the five films is an image.
    assert (rows["pixels:2"]["num_samples"], rows["pixels:2"]["num_reference"]) == (20, 20)
    assert rows["bands:4"]["num_reference"] == 5
    assert all(row["value"] > 0 for row in rows.values())
    measure([made, "features=bands:4", *MEASURE, "--reference", made, f"output={tmp_path}"])
    assert distances(tmp_path)["bands:4"]["value"] == pytest.approx(0, abs=1e-6)


def test_a_true_film_is_at_no_distance_from_its_files(folder, tmp_path):
    """What is written as samples are the films themselves: frames and sounds are read alike."""
    made = tmp_path / "made"
    generate([*QUICK, "role=film", "--prompts", str(prompts(tmp_path)), "--output", str(made)])
    for number in range(5):
        frames = np.full((FRAMES_OF, *SIZE, 3), 40 * number, np.uint8)
        frames[:, :, :3] = 255 - 20 * np.arange(FRAMES_OF)[:, None, None, None]
        sound = SoundShape(0.8, RATE).read(folder / f"films/{number}.wav")
        np.savez(made / f"{number:06d}.npz", frames=frames, sound=sound)
    for features in ("pixels:2", "bands:4"):
        measure([str(made), f"features={features}", *MEASURE, "--reference", "films"])
    rows = distances(tmp_path)
    assert rows["pixels:2"]["value"] == pytest.approx(0, abs=1e-4)
    assert rows["bands:4"]["value"] == pytest.approx(0, abs=1e-4)


def test_unusable_files_of_a_reference_are_left_out(folder, tmp_path, capsys):
    made, real = str(tmp_path / "made"), shutil.copytree("films", tmp_path / "real")
    generate([*QUICK, "role=film", "instruction=x", "num_samples=3", "--output", made])
    (real / "0.mp4").write_bytes(b"x")
    (real / "3.wav").write_bytes(b"x")
    for features in ("pixels:2", "bands:4"):
        measure([made, f"features={features}", *MEASURE, "--reference", str(real)])
        out = capsys.readouterr().out
        assert "real (3 videos of 4 x 8 x 12 x 3, 12 images of" in out
        assert "1 unreadable sound (e.g. 3.mp4); 1 unreadable video (e.g. 0.mp4)" in out
    rows = distances(tmp_path)
    assert (rows["pixels:2"]["num_reference"], rows["bands:4"]["num_reference"]) == (12, 3)
    source = open_recorded(str(real), open_generated(made))
    read = [sum(map(len, part.batches(2))) for part in source.parts.values()]
    assert (read, source.skips.total) == ([3, 12, 3], 2)
    for number in (1, 2, 4):
        (real / f"{number}.wav").write_bytes(b"x")
    with pytest.raises(SystemExit) as stop:
        measure([made, "features=bands:4", *MEASURE, "--reference", str(real)])
    assert stop.value.code == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: no file in")
    assert "4 unreadable sound" in error


def test_pictures_are_measured_against_folders_of_images(folder, tmp_path, capsys):
    made = str(tmp_path / "made")
    generate([*QUICK, "role=picture", "instruction=x", "num_samples=5", "--output", made])
    measure([made, "features=pixels:1", *MEASURE, "--reference", "pictures"])
    assert "4 of 8 x 8 x 3" in capsys.readouterr().out
    captions_of = script("eval/metrics.py", "captions_of")
    assert captions_of(open_generated(made), None) == ["x"] * 5


class Levels:
    """The mean of each image."""

    reads = identity = "images"

    def __call__(self, batch):
        return {"features": batch.float().mean((1, 2, 3))[:, None]}


def test_the_frames_of_a_clip_are_not_independent():
    """Halves have whole clips, and intervals are those of as many images as there are clips."""

    def clip(number):
        levels = np.array([10 * number, 10 * number + 2], np.uint8)
        return np.broadcast_to(levels[:, None, None, None], (2, 4, 4, 3))

    clips = PartOfSamples([0, 1, 2, 3], clip, (2, 4, 4, 3), np.dtype(np.uint8))
    source = Source("clips", None, {}, parts={"images": Frames(clips)})
    reading = read(Levels(), source, ["frechet"], batch_size=3)
    means = [half.gaussian(few=True).mean.item() for half in reading.halves["features"]]
    assert (reading.count, means) == (8, [11, 21])
    assert Share(6, 8, together=2).interval == wilson_interval(3, 4)


def prompts(folder):
    path = folder / "prompts.txt"
    path.write_text("".join(f"film {number}\n" for number in range(5)))
    return path


def unfinished(folder, change):
    """Results of eval/media.py, changed."""
    if not Path("results").exists():
        generate([*QUICK, "role=sound", "instruction=x", "num_samples=3", "--output", "results"])
    shutil.copytree("results", folder, dirs_exist_ok=True)
    change(Path(folder))
    return str(folder)


def faster(made):
    settings = json.loads((made / "settings.json").read_text())
    (made / "settings.json").write_text(json.dumps({**settings, "sample_rate": 2 * RATE}))


@pytest.mark.parametrize(
    ("change", "settings", "message"),
    [
        (lambda made: (made / "000001.npz").unlink(), ["features=bands"], "1 of 3 samples"),
        (
            lambda made: (made / "000001.npz").write_bytes(b"x"),
            ["features=bands", *OTHERS],
            "damaged",
        ),
        (lambda made: (made / "settings.json").write_text("{}"), ["features=bands"], "earlier"),
        (
            lambda made: None,
            ["features=pixels", *OTHERS],
            "has sounds; the feature network reads images",
        ),
        (lambda made: None, ["features=bands", "--reference", "pictures"], "no files in pictures"),
        (lambda made: None, ["features=bands", "other.npz"], "measure them one at a time"),
        (faster, ["features=bands", "--reference", "results"], "8000 Hz, results 4000"),
    ],
)
def test_samples_that_cannot_be_measured(folder, tmp_path, capsys, change, settings, message):
    made = unfinished(tmp_path / "made", change)
    with pytest.raises(SystemExit) as stop:
        measure([made, *MEASURE, *settings])
    assert stop.value.code == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("error: ")
    assert message in last
