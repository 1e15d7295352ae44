"""pretrain/encode.py as it is typed: what it makes, and every mistake as one line."""

import os
import re
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from selfflow_robotics.data.latents import LatentReader
from selfflow_robotics.locks import hold
from selfflow_robotics.training.checkpoint import read_manifest, resolve_checkpoint
from tests.pictures import picture_bytes, samples, write_folder, write_tar

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "pretrain" / "encode.py"


def script(name):
    return runpy.run_path(str(ROOT / name), run_name="imported")["main"]


main = script("pretrain/encode.py")
TINY = [
    *(
        "name=tiny",
        "model.sit={width: 32, depth: 2, heads: 2}",
        "batch_size=2",
        "model.patch=4",
        "device=cpu",
    ),
    *("objective.student_layer=1", "objective.teacher_layer=2", "train.steps=1"),
]
SMALL = ["autoencoder=pixel", "image_size=16", "processes=1", "device=cpu"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_folder(tmp_path / "set", {"cat": 3, "dog": 3})
    return tmp_path


def test_debug_encodes_drawn_shapes_without_any_download(folder, capsys):
    main(["experiment=debug"])
    first, line = capsys.readouterr().out.splitlines()
    assert first == "64 images of 4 classes in datasets/shapes_64_32px_0"
    assert re.fullmatch(
        r"latents of 64 images in datasets/shapes_64_32px_0_pixel_32: 0 skipped, 0\.8 MB, "
        r"\d+\.\d s, \d+\.\d images/s",
        line,
    )
    reader = LatentReader("datasets/shapes_64_32px_0_pixel_32")
    assert (len(reader), reader.num_classes, reader.latent_size) == (64, 4, (32, 32))
    main(["experiment=debug"])
    assert capsys.readouterr().out.splitlines()[1].endswith("nothing new")


def test_the_summary_counts_what_was_skipped(folder, capsys):
    (folder / "set" / "cat" / "000.png").write_bytes(b"no picture")
    main([*SMALL, "--data", "set", "mirror=true"])
    line = capsys.readouterr().out.splitlines()[1]
    assert "latents of 5 images in datasets/set_pixel_16_mirror: 1 skipped (1 not an" in line
    assert len(LatentReader("datasets/set_pixel_16_mirror")) == 10


def test_tars_are_taken_by_pattern(folder):
    for number in range(2):
        write_tar(folder / f"s-{number}.tar", samples(range(4 * number, 4 * number + 4)))
    main([*SMALL, "--data", "s-*.tar", "--output", "out"])
    assert len(LatentReader("out")) == 8


def test_classes_without_pictures_are_said_and_never_sampled(folder, capsys):
    (folder / "set" / "__MACOSX").mkdir()
    files = {}
    for key, label in (("a.v2", 1), ("b.v2", 1), ("c", 4), ("d", 4)):
        files |= {f"{key}.png": picture_bytes(label), f"{key}.cls": str(label).encode()}
    write_tar(folder / "gaps.tar", files | {"about.txt": b"x"})
    main([*SMALL, "--data", "set", "--output", "one"])
    assert "__MACOSX" in capsys.readouterr().out
    assert LatentReader("one").class_names == ["cat", "dog"]
    main([*SMALL, "--data", "gaps.tar", "--output", "two", "max_skipped=0"])
    said = capsys.readouterr().out
    assert ".txt" in said
    assert "3 of 5 classes" in said
    assert LatentReader("two").labels == [1, 4]
    script("pretrain/images.py")(["--data", "two", *TINY])
    assert "3 of 5 classes" in capsys.readouterr().out
    quick = ["--checkpoint", "runs/tiny", "num_images=4", "num_steps=2", "device=cpu"]
    generate = script("eval/generation.py")
    with pytest.raises(SystemExit) as stop:
        generate([*quick, "labels=[0]"])
    assert stop.value.code == 2
    assert "without images of class 0" in capsys.readouterr().err
    generate([*quick, "--output", "seen"])
    record = read_manifest(resolve_checkpoint(Path("runs/tiny")))["extra"]
    assert record["labels"] == [1, 4]


def _joined_tars(folder):
    one = write_tar(folder / "one.tar", samples(range(2)))
    (folder / "joined.tar").write_bytes(one.read_bytes() * 2)


def _dotted_picture_without_label(folder):
    write_tar(folder / "dots.tar", samples(range(4)) | {"x.y.png": picture_bytes(1)})


def _nested_record(folder):
    _made(folder)
    (folder / "out" / "cache.json").write_text("[" * 100_000)


def _cut_tar(folder):
    tar = write_tar(folder / "cut.tar", samples(range(4)))
    tar.write_bytes(tar.read_bytes()[:3000])


def _bad_pictures(folder):
    for name in ("cat/000.png", "cat/001.png"):
        (folder / "set" / name).write_bytes(picture_bytes(0)[:-40])


def _no_labels(folder):
    write_tar(folder / "bare.tar", {"a.png": picture_bytes(0), "b.png": picture_bytes(1)})


def _made(folder):
    main([*SMALL, "--data", "set", "--output", "out"])


def _damaged_shard(folder):
    _made(folder)
    shard = folder / "out" / "shard-00000.npy"
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)


def _other_files(folder):
    (folder / "out").mkdir()
    (folder / "out" / "thesis.txt").write_text("")


def _nothing(folder):
    pass


@pytest.mark.parametrize(
    ("prepare", "arguments", "message"),
    [
        (_nothing, ["--data", "nowhere"], "nowhere does not exist"),
        (
            _cut_tar,
            ["--data", "cut.tar"],
            "cut.tar is damaged or truncated at byte 2560",
        ),
        (_joined_tars, ["--data", "joined.tar"], "several tars in one file"),
        (
            _dotted_picture_without_label,
            ["--data", "dots.tar", "max_skipped=0"],
            "1 no label (e.g. dots.tar/x.y)",
        ),
        (_nested_record, [], "cache.json is damaged"),
        (
            _bad_pictures,
            [],
            "2 of 6 images are unusable, but max_skipped=0.001 allows only 1: 2 trunc",
        ),
        (_no_labels, ["--data", "bare.tar"], "2 no label (e.g. bare.tar/a)"),
        (_made, ["image_size=32"], "of a different image_size (16, now 32)"),
        (_damaged_shard, [], "shard-00000.npy is damaged"),
        (_other_files, [], "out contains other files (thesis.txt)"),
        (_nothing, ["--output", "/proc/no"], "cannot write latents to /proc/no"),
        (_nothing, ["--output", "set/latents"], "one of the class folders of set"),
        (_nothing, ["image_size=0"], "image_size must be from 1 to 4096 px, got 0"),
        (_nothing, ["frame_size=[16,24]"], "image_size=SIDE"),
        (_nothing, ["split=val"], "split is for"),
        (_nothing, ["media=sounds", "captions=true"], "captions is for images"),
        (_nothing, ["media=clips", "split=val"], "split is for robot data"),
        (_nothing, ["media=films", "frame_size=[16,24]"], "frame_size is for robot data"),
        (_nothing, ["media=clips", "mirror=true"], "mirror is for images"),
        (_nothing, ["image_size=4097"], "image_size must be from 1 to 4096 px, got 4097"),
        (_nothing, ["max_skipped=1"], "max_skipped must be in [0, 1), got 1.0"),
        (_nothing, ["processes=0"], "processes must be from 1"),
        (_nothing, ["autoencoder=vae"], "did you mean sd_vae or rae?"),
        (_nothing, ["device=tpu9"], "device 'tpu9' is unknown"),
        (_nothing, ["data=null", "num_shapes=2"], "at least 4 images"),
    ],
)
def test_a_mistake_is_one_line(folder, capsys, prepare, arguments, message):
    prepare(folder)
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main([*SMALL, "data=set", "output=out", *arguments])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    last = error.splitlines()[-1]  # what stands before is the progress bar
    assert last.startswith("error: ")
    assert message in last
    assert "Traceback" not in error


def command(*arguments, **environment):
    return subprocess.run(
        [sys.executable, str(SCRIPT), *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.parametrize(
    ("download", "message"),
    [
        ("false", "download=true"),
        ("true", "cannot download the autoencoder's weights 'stabilityai/sd-vae-ft-ema'"),
    ],
)
def test_absent_weights_are_one_line(folder, download, message):
    pytest.importorskip("diffusers", reason="the extra 'images' is not installed")
    # Nothing listens on port 9: no test goes to the network.
    nowhere = {"HF_HOME": str(folder / "hub"), "HF_ENDPOINT": "http://127.0.0.1:9"}
    done = command("--data", "set", f"download={download}", "device=cpu", **nowhere)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_folder_in_use_is_refused(folder):
    (folder / "out").mkdir()
    hold(folder / "out")
    done = command(*SMALL, "--data", "set", "--output", "out")
    assert done.returncode == 2
    assert done.stderr.startswith("error: another process is using")


def test_killed_and_repeated_is_straight_through(folder, capsys):
    write_folder(folder / "many", {"a": 400})
    arguments = [*SMALL[:2], "processes=2", "device=cpu", "shard_size=4", "--data", "many"]
    main([*arguments, "processes=1", "--output", "straight"])
    killed = subprocess.Popen(
        [sys.executable, str(SCRIPT), *arguments, "--output", "killed"],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 100
    while not list(folder.glob("killed/*.npy")) and time.monotonic() < deadline:
        time.sleep(0.002)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    main([*arguments, "processes=1", "--output", "killed"])
    one, two = (
        {path.name: path.read_bytes() for path in (folder / name).glob("[!.]*")}
        for name in ("straight", "killed")
    )
    assert one == two
    assert len(one) == 101
