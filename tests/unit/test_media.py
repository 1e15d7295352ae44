"""Mixed modalities as they are typed: encode, train, generate; and every mistake as one line."""

import io
import json
import shutil
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from selfflow_robotics.cli.media_input import (
    ModalityConfig,
    open_readers,
    role_weights,
    slot_weights,
)
from selfflow_robotics.cli.media_workload import media_workload
from selfflow_robotics.data.media_latents import MediaReader
from selfflow_robotics.encoders.media import MediaEncoder
from selfflow_robotics.errors import UserError
from selfflow_robotics.evaluation.media_files import MediaSamples
from selfflow_robotics.inference.bundle import load_bundle
from selfflow_robotics.inference.generate import Sampling
from selfflow_robotics.inference.generate_media import NumberedMedia
from selfflow_robotics.modalities.base import FRAMES, SOUND
from selfflow_robotics.models.presets import MediaConfig
from selfflow_robotics.objective.loss import ConditioningConfig
from selfflow_robotics.objective.roles import MEDIA_ROLES, ROLES, modality_of
from selfflow_robotics.objective.self_flow import ObjectiveConfig
from selfflow_robotics.text.encoder import TextEncoderConfig
from selfflow_robotics.timesteps import Timesteps
from selfflow_robotics.training.checkpoint import read_manifest, resolve_checkpoint
from selfflow_robotics.training.optimizer import OptimizerConfig
from tests.media_runs import (
    CLIP,
    DATA,
    HEARD,
    QUICK,
    RATE,
    TINY,
    encode,
    generate,
    images,
    make_all,
    train,
    write_films,
)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make_all(tmp_path_factory.mktemp("media"))


@pytest.fixture
def folder(made, monkeypatch):
    monkeypatch.chdir(made)
    return made


def test_the_cache_has_what_the_files_show_and_sound(folder):
    reader = MediaReader("latents/films", ("frames", "sound"))
    rows = reader.read([2])
    assert (rows["frames"].shape, rows["sound"].shape) == ((1, 4, 3, 8, 12), (1, 20, 64))
    assert np.abs(rows["frames"][0, :, :, 0, 11] - (80 / 127.5 - 1)).max() < 0.01
    codec = reader.sound_codec(None).load("cpu")
    sound = codec.decode(torch.from_numpy(rows["sound"]).float())[0].numpy()
    spectrum = np.abs(np.fft.rfft(sound))
    assert abs(spectrum.argmax() * RATE / len(sound) - 600) < 60
    assert reader.captions([3]) == [("film 3", "number 3")]
    frames = reader.frame_codec(4)
    assert (frames.channels, frames.tokens_per_step) == (48, 6)


def test_an_interrupted_encoding_gives_the_same_bytes(folder):
    command = ["--data", "films", "media=films", *CLIP, *HEARD, "device=cpu", "shard_size=2"]
    encode([*command, "--output", "one", "processes=1"])
    shutil.copytree("one", "two")
    Path("two/shard-00001.npy").unlink()
    encode([*command, "--output", "two", "processes=1"])
    for path in Path("one").glob("shard-*"):
        assert path.read_bytes() == (Path("two") / path.name).read_bytes()


def test_the_sound_of_a_film_may_be_its_own(folder, tmp_path):
    write_films(tmp_path / "own", count=1)
    film = io.BytesIO()
    with av.open(film, "w", format="mp4") as container:
        video = container.add_stream("libx264", rate=5)
        video.width, video.height, video.pix_fmt = 16, 16, "yuv420p"
        audio = container.add_stream("aac", rate=16000, layout="mono")
        for _ in range(5):
            frame = av.VideoFrame.from_ndarray(np.zeros((16, 16, 3), np.uint8), format="rgb24")
            container.mux(video.encode(frame))
        tone = 0.5 * np.sin(2 * np.pi * 400 * np.arange(16000) / 16000)
        heard = av.AudioFrame.from_ndarray(tone[None].astype(np.float32), "fltp", "mono")
        heard.sample_rate = 16000
        container.mux(audio.encode(heard))
        for stream in (video, audio):
            container.mux(stream.encode())
    (tmp_path / "own/0.mp4").write_bytes(film.getvalue())
    Path(tmp_path / "own/0.wav").unlink()
    encode(["--data", str(tmp_path / "own"), "media=films", *CLIP, *HEARD, "processes=1",
            "device=cpu", "--output", str(tmp_path / "out")])  # fmt: skip
    rows = MediaReader(str(tmp_path / "out"), ("frames", "sound")).read([0])
    assert rows["sound"].max() > 0


def test_each_kind_of_token_has_layers_of_its_own(folder):
    record = read_manifest(resolve_checkpoint(Path("runs/tiny")))["extra"]
    network = record["network"]
    assert set(network["adapters"]) == {"pictures", "frames", "sound"}
    assert network["slots"] == {
        "first_frame": "frames", "later_frames": "frames", "picture": "pictures", "sound": "sound",
    }  # fmt: skip
    # Sounds alone have 20 places in time, those beside 4 frames 5 latents in each frame.
    assert (network["adapters"]["sound"]["steps"], network["adapters"]["sound"]["grid"]) == (
        20, [5, 1],
    )  # fmt: skip
    assert record["roles"] == ["clip", "film", "film_from_frame", "picture", "sound"]
    assert record["provenance"]["media"]["films"] == {"steps": 4, "fps": 5.0, "sound_steps": 20}
    assert Path("runs/tiny/samples/step_0000006.png").exists()
    assert Path("runs/tiny/samples.html").stat().st_size > 1000
    assert Path("runs/tiny/newest_samples/film_0.mp4").exists()
    assert Path("runs/tiny/newest_samples/sound_0.wav").exists()


def test_every_batch_is_of_one_role_and_a_resumed_run_is_the_same(folder):
    losses = []
    for _ in range(2):
        train([*DATA, *TINY, "name=again"])
        lines = [json.loads(x) for x in Path("runs/again/metrics.jsonl").read_text().splitlines()]
        losses.append([(line["role"], line["loss"]) for line in lines if "loss" in line])
        shutil.rmtree("runs/again/checkpoints/step_0000006")  # as if interrupted before
    assert len(losses[0]) == 6
    assert losses[0] == losses[1]
    assert len({role for role, _ in losses[0]}) > 1


def test_features_of_another_run_are_followed(folder):
    follow = ["objective=repa", "encoder=run:runs/tiny@1", "name=repa"]
    train([*DATA, *TINY, *follow, "model.sit.width=48"])
    lines = [json.loads(x) for x in Path("runs/repa/metrics.jsonl").read_text().splitlines()]
    assert len({line["role"] for line in lines}) > 1
    for line in lines:
        loss = line["flow_loss"] - 0.5 * line["teacher_student_cosine"]
        assert line["loss"] == pytest.approx(loss, rel=1e-3)
    network = load_bundle(Path("runs/repa"), "cpu").network
    assert network.config.feature_channels == 24


def test_a_run_resumes_only_with_the_same_clips_and_the_same_encoder(folder, capsys):
    slow = [part if part != "clip.fps=5" else "clip.fps=4" for part in CLIP]
    encode(["--data", "films", "media=clips", *slow, "processes=1", "device=cpu",
            "--output", "latents/slow"])  # fmt: skip
    with pytest.raises(SystemExit):
        train([*DATA, *TINY, "clips.data=latents/slow"])
    assert "clips size has changed" in capsys.readouterr().err
    shutil.copytree("runs/tiny", "runs/judge")
    follow = [*DATA, *TINY, "objective=repa", "encoder=run:runs/judge", "name=judged"]
    train(follow)
    train([*DATA, *TINY, "name=judge", "train.steps=7"])
    with pytest.raises(SystemExit):
        train(follow)
    assert "the frozen encoder has changed" in capsys.readouterr().err


def test_clean_tokens_have_their_places_and_no_words(folder):
    """Features are those of the network itself, asked plainly."""
    encoder, bundle = (
        MediaEncoder("run:runs/tiny@2", torch.device("cpu")),
        load_bundle(Path("runs/tiny"), "cpu"),
    )
    torch.manual_seed(0)
    tokens = {"first_frame": torch.randn(2, 6, 48), "later_frames": torch.randn(2, 18, 48)}
    found = encoder(tokens, "clip")
    slots = {slot: bundle.slot(slot, x) for slot, x in tokens.items()}
    context = bundle.network.encode_context({}, ["", ""], attention="joint")
    times = Timesteps.constant(0.0, torch.zeros(2, 24, 1))
    _, features = bundle.network(slots, times, context, (2,))
    torch.testing.assert_close(found, features[2].detach())
    alone, beside = (encoder({"sound": torch.ones(1, 20, 64)}, role) for role in ("sound", "film"))
    assert not torch.allclose(alone, beside)  # their places differ
    codecs, places = {FRAMES: bundle.codecs[FRAMES]}, {FRAMES: (4, 2, 3)}
    encoder.check(codecs, places)
    with pytest.raises(UserError, match="was trained on 4 steps of frames, these have 5"):
        encoder.check(codecs, {FRAMES: (5, 2, 3)})


@pytest.mark.parametrize("role", ["picture", "clip", "sound", "film"])
def test_samples_are_written_from_words(folder, role):
    Path("prompts.txt").write_text("film 1\n\na tone\n")
    command = [*QUICK, "--prompts", "prompts.txt", f"role={role}", "guidance_scale=2",
               "guidance_high=0.8", "shift=3", "--output", f"out/{role}"]  # fmt: skip
    generate(command)
    out = Path("out") / role
    suffix = {"picture": ".png", "sound": ".wav"}.get(role, ".mp4")
    assert sorted(path.name for path in out.glob(f"0*{suffix}")) == [
        f"000000{suffix}", f"000001{suffix}",
    ]  # fmt: skip
    assert (out / "samples.txt").read_text().splitlines() == ["film 1", "a tone"]
    assert (out / "samples.png").exists()
    with np.load(out / "000001.npz") as sample:
        parts = dict(sample)
    if role in ("clip", "film"):
        assert parts["frames"].shape == (4, 8, 12, 3)
    if role in ("sound", "film"):
        assert parts["sound"].shape == (3200,)
        assert np.abs(parts["sound"]).max() <= 1
    if role == "film":
        with av.open(str(out / "000000.mp4")) as container:
            assert len(container.streams.audio) == 1
    times = (out / "000000.npz").stat().st_mtime_ns
    (out / "000001.npz").write_bytes(b"damaged")
    generate(command)
    with np.load(out / "000001.npz") as again:
        assert all((again[name] == parts[name]).all() for name in parts)
    assert (out / "000000.npz").stat().st_mtime_ns >= times


def test_no_damage_of_a_sample_stops_the_command(tmp_path):
    job = MediaSamples(tmp_path, {}, 1, 1, None, RATE)
    path = job.stem(0).with_suffix(".npz")
    np.savez(path, sound=np.zeros(3, np.float32))
    whole = path.read_bytes()
    found = []
    for place in range(len(whole)):
        for bit in (1, 8, 64):
            changed = bytes([whole[place] ^ bit])
            path.write_bytes(whole[:place] + changed + whole[place + 1 :])
            found.append(job._is_whole(0))
    assert not all(found)


def test_given_clips_are_told_apart_by_their_content(folder):
    shutil.copytree("films", "others")
    command = [*QUICK, "--given", "others", "role=film_from_frame", "num_samples=1"]
    generate(command)
    made = list(Path("runs/tiny/eval").glob("film_from_frame-*"))
    shutil.move("others/1.mp4", "others/0.mp4")
    generate(command)
    assert len(list(Path("runs/tiny/eval").glob("film_from_frame-*"))) == len(made) + 1


def test_one_film_has_no_others_to_compare_with(folder):
    generate([*QUICK, "instruction=x", "role=film", "metrics=[synchrony]", "--output", "one_film"])
    assert set(json.loads(Path("one_film/synchrony.json").read_text())) == {"generated"}


def test_a_given_first_frame_is_kept(folder):
    generate([*QUICK, "--given", "films", "role=film_from_frame", "num_samples=2", "--output", "g"])
    with np.load("g/000001.npz") as sample:
        assert np.abs(sample["frames"][0, :, 5:].astype(int) - 40).max() <= 1
        assert (sample["frames"].shape, sample["sound"].shape) == ((4, 8, 12, 3), (3200,))
    assert Path("g/samples.txt").read_text().splitlines() == ["film 0", "film 1"]


def test_a_sample_does_not_depend_on_the_others(folder):
    bundle = load_bundle(Path("runs/tiny"), "cpu").with_autoencoder()
    maker = NumberedMedia(bundle, Sampling("euler", 2), 0, "film", ["a", "b"])
    both, alone = maker([0, 1]), maker([1])
    for part in ("frames", "sound"):
        assert np.abs(both[1][part].astype(float) - alone[0][part]).max() <= (
            1 if part == "frames" else 1e-2
        )
        assert (both[0][part] != both[1][part]).any()


def test_places_of_sounds_beside_frames_share_their_time(folder):
    bundle = load_bundle(Path("runs/tiny"), "cpu")
    beside = bundle.slot("sound", torch.zeros(1, 20, 64)).places
    assert beside[:, 0].tolist() == [k // 5 for k in range(20)]
    alone = replace(bundle.codecs[SOUND], frame_rate=None).places(20)
    assert alone[:, 0].tolist() == list(range(20))
    later = bundle.slot("later_frames", torch.zeros(1, 18, 48)).places
    assert sorted(set(later[:, 0].tolist())) == [1, 2, 3]
    assert bundle.codecs[FRAMES].stride == 1


def test_weights_of_roles_and_slots():
    modalities = {
        "clips": ModalityConfig(weight=3, roles={"clip": 1.0, "video": 1.0}),
        "sounds": ModalityConfig(weight=1, roles={"sound": 5.0}),
    }
    assert role_weights(modalities) == {"clip": 1.5, "video": 1.5, "sound": 1.0}
    assert slot_weights(ROLES["clip"], 4, 1.0) == {"first_frame": 0.25, "later_frames": 0.75}
    assert slot_weights(ROLES["film_from_frame"], 4, 0.5) == {"later_frames": 1.0, "sound": 0.5}
    assert slot_weights(ROLES["sound"], 0, 0.5) == {"sound": 1.0}
    for modality, roles in MEDIA_ROLES.items():
        assert all(modality_of(role) == modality and role in ROLES for role in roles)


def test_clips_of_one_frame_are_refused(folder):
    encode(["--data", "films", "media=clips", *CLIP, "clip.frames=1", "processes=1", "device=cpu",
            "--output", "latents/stills"])  # fmt: skip
    with pytest.raises(UserError, match="stills has clips of one"):
        open_readers({"clips": ModalityConfig("latents/stills")})


def test_a_plan_reads_data_in_the_home_folder(folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder))
    clips = ModalityConfig("~/latents/clips", roles={"clip": 1.0})
    _, facts = media_workload(
        MediaConfig(clip_patch=4),
        TextEncoderConfig(),
        {"clips": clips},
        ObjectiveConfig(),
        ConditioningConfig(),
        OptimizerConfig(),
    )
    assert not facts.assumed


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ([train, *TINY], "no data"),
        ([train, *TINY, "clips.data=latents/sounds"], "not of frames"),
        ([train, *TINY, "clips.data=latents/images"], "not of clips or sounds"),
        ([train, *TINY, "images.data=latents/clips"], "not of images"),
        ([train, *TINY, "clips.data=nowhere"], "no finished latents"),
        ([train, *TINY, *DATA, "clips.weight=0"], "clips.weight"),
        ([train, *TINY, *DATA, "clips.roles.film=1"], "unknown key 'film'"),
        ([train, *TINY, *DATA, "sounds.roles.sound=0"], "sounds have no role"),
        ([train, *TINY, *DATA, "name=x", "model.text_bytes=5"], "at most 5 bytes"),
        ([train, *TINY, *DATA, "name=x", "model.clip_patch=5"], "do not divide into patches"),
        ([train, *TINY, *DATA, "objective=sra2"], "one modality"),
        ([train, *TINY, *DATA, "objective=repa"], "needs an encoder: encoder=run:PATH"),
        ([train, *TINY, *DATA, "objective=repa", "encoder=hf:x"], "must be a run of"),
        ([train, *TINY, *DATA, "objective=repa", "encoder=run:runs/tiny@3"], "layer 3 does not"),
        ([train, *TINY, *DATA, "name=x", "objective=repa", "encoder=run:runs/tiny",
          "model.clip_patch=2"], "was not trained on these latents"),
        ([encode, "media=clips"], "needs data"),
        ([encode, "--data", "pictures", "media=clips", *CLIP], "no files in"),
        ([encode, "--data", "films", "media=clips", *CLIP, "clip.frames=0"], "clip.frames"),
        ([encode, "--data", "films", "media=clips", *CLIP, "clip.frames=40", "processes=1",
          "--output", "long"], "too short"),
        ([encode, "--data", "films", "media=clips", "autoencoder=spectrogram", "--output", "x"],
         "encodes sounds"),
        ([encode, "--data", "films", "media=sounds", "sound_autoencoder=pixel", "--output", "x"],
         "encodes no sounds"),
        ([generate, *QUICK], "give texts"),
        ([generate, *QUICK, "instruction=x", "role=policy"], "unknown role"),
        ([generate, *QUICK, "instruction=x", "role=video"], "was trained with the roles"),
        ([generate, *QUICK, "instruction=x", "role=film_from_frame"], "--given"),
        ([generate, *QUICK, "instruction=x", "role=sound", "metrics=[persistence]"], "for clips"),
        ([generate, *QUICK, "instruction=x", "role=clip", "metrics=[synchrony]"], "with sound"),
        ([images, *QUICK, "instruction=x"], "is of a run of pretrain/media.py"),
        ([generate, *QUICK, "instruction=x", "metrics=[persistence]", "role=clip"], "names an obj"),
        ([generate, *QUICK, "--prompts", "nowhere.txt"], "nowhere.txt"),
        ([generate, *QUICK, f"instruction={'x' * 300}"], "bytes"),
        ([generate, *QUICK, "--given", "pictures", "role=clip"], "no files in"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line(folder, capsys, command, message):
    with pytest.raises(SystemExit) as stop:
        command[0](command[1:])
    assert stop.value.code == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("error: ")
    assert message in last
