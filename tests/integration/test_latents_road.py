"""The road of the full size with tiny networks of the same classes: an RLDS data set, its frames as
SD-VAE latents, words by T5, released weights; then world model, policy and their evaluations."""

import json
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from selfflow_robotics.errors import UserError
from selfflow_robotics.inference.bundle import load_bundle
from selfflow_robotics.inference.imagine import imagine
from selfflow_robotics.policies.chunk_sampler import Seen
from selfflow_robotics.policies.flow_policy import FlowPolicy
from selfflow_robotics.training.checkpoint import read_manifest, resolve_checkpoint
from tests.rlds_sets import make_set

pytest.importorskip("diffusers", reason="the extra 'images' is not installed")
pytest.importorskip("transformers", reason="the extra 'text' is not installed")

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests/golden/official_tiny.safetensors"
SIZE = "[32,48]"
# Of the released tiny weights.
BACKBONE = ("model.sit.width", "model.sit.depth", "model.sit.heads")


def run(script: str, *arguments: str) -> None:
    threads = torch.get_num_threads()
    try:
        main = runpy.run_path(str(ROOT / script), run_name="imported")["main"]
        main(list(arguments))
    finally:
        torch.set_num_threads(threads)


def finetune(*changes: str) -> None:
    run(
        "finetune/rt1.py",
        "experiment=debug",
        "name=robot",
        "--data",
        "sets/toy/0.1.0",
        "--latents",
        "latents",
        "--init",
        "released.safetensors",
        "model.frames=latents",
        f"model.image_size={SIZE}",
        "text.encoder=hf:words",
        "text.tokens=8",
        "threads=1",
        "train.steps=4",
        *(Path("backbone.txt").read_text().split()),
        *changes,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    from tests.unit.test_sd_vae import write_vae
    from tests.unit.test_text_encoders import write_text_encoder

    folder = tmp_path_factory.mktemp("latents")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        make_set(Path("sets"), [9, 8, 7, 8, 9])
        write_vae(Path("vae"))
        write_text_encoder(Path("words"))
        state = load_file(GOLDEN)
        weights = {k.removeprefix("model."): v for k, v in state.items() if k.startswith("model.")}
        save_file(weights, "released.safetensors")
        ours = load_bundle(Path("released.safetensors"), "cpu", heads=4).network.config.backbone
        values = (ours.width, ours.depth, ours.heads)
        settings = [f"{key}={value}" for key, value in zip(BACKBONE, values, strict=True)]
        settings += ["model.sit.mlp_ratio=" + str(ours.mlp_ratio)]
        Path("backbone.txt").write_text(" ".join(settings))
        run(
            "pretrain/encode.py",
            "--data",
            "sets/toy/0.1.0",
            "--output",
            "latents",
            "autoencoder=sd_vae",
            "weights=vae",
            f"frame_size={SIZE}",
            "processes=1",
        )
        finetune()
    return folder


@pytest.fixture
def here(folder, monkeypatch):
    monkeypatch.chdir(folder)
    return folder


def test_the_released_weights_begin_it_and_the_record_says_so(here):
    extra = read_manifest(resolve_checkpoint(Path("runs/robot")))["extra"]
    assert extra["codecs"]["frames"]["kind"] == "image_latents"
    assert extra["start"]["source"] == "released.safetensors"
    assert "adapters.frames.stem" in extra["start"]["loaded"]
    assert {"backbone.blocks"} <= set(extra["start"]["loaded"])
    assert set(extra["data"]) == {"data", "frames", "text"}
    assert extra["texts"] == extra["data"]["text"]
    assert list(Path("runs/robot/samples").glob("*.png"))


def test_world_model_and_policy_act_on_frames_and_new_words(here):
    bundle = load_bundle(Path("runs/robot"), "cpu").with_autoencoder()
    assert bundle.texts is not None
    frames = np.zeros((2, 32, 48, 3), np.uint8)
    actions = np.zeros((2, 3, 7), np.float32)
    words = ["pick coke can", "move apple near orange"]  # the second one was not trained on
    later = imagine(bundle, frames, actions, words, num_steps=2)
    assert later.shape == (2, 3, 32, 48, 3)
    policy = FlowPolicy(bundle, replan_steps=3, num_steps=2)
    seen = [Seen(frame, text) for frame, text in zip(frames, words, strict=True)]
    sampler = policy.sampler
    chunks = sampler.decode(sampler.chunks(seen, [sampler.noise(seed, 0) for seed in (0, 1)]))
    assert chunks.shape == (2, bundle.horizon, 7)
    assert np.isfinite(chunks).all()
    with pytest.raises(UserError, match="longer than the 8 tokens"):
        bundle.words(["pick coke can near apple near orange near can near apple"])


def test_both_evaluations_run(here, capsys):
    run(
        "eval/simpler.py",
        "--task",
        "pick_coke_can",
        "--checkpoint",
        "runs/robot",
        "num_episodes=1",
        "baselines=[]",
    )
    run(
        "eval/world_model.py",
        "--checkpoint",
        "runs/robot",
        "num_episodes=2",
        "num_steps=1",
        "num_frames=2",
    )
    (report,) = Path("runs/robot/eval").glob("world_model-*/report.json")
    assert len(json.loads(report.read_text())["psnr_db"]) == 2


def small(*changes: str, steps: int = 2) -> list[str]:
    """What makes an experiment of full size a tiny one."""
    return [
        *("--data", "sets/toy/0.1.0", "--latents", "latents", "threads=1", "text.tokens=8"),
        *("text.encoder=hf:words", f"model.image_size={SIZE}", "model.later_frames=4"),
        *(f"train.steps={steps}", f"train.save_every={steps}"),
        *Path("backbone.txt").read_text().split(),
        *changes,
    ]


LAYERS = [f"{key}.{layer}" for key in ("policy_objective", "frame_objective")
          for layer in ("student_layer=1", "teacher_layer=2")]  # fmt: skip
ROBOT = ["validation=0.2", "policy_batch=2", "frame_batch=2", *LAYERS]
SELF_FLOW = ["objective@frame_objective=self_flow", "frame_objective.mask_ratio=0.1"]


@pytest.fixture(scope="module")
def video(folder):
    """A run of experiment=rt1_video."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        changes = ["name=video", "clip_frames=3", "image_batch=2", "clip_batch=2"]
        layers = ["objective.student_layer=1", "objective.teacher_layer=2"]
        run("pretrain/run.py", "experiment=rt1_video", *small(*changes, *layers))
    return "runs/video"


@pytest.mark.parametrize(
    ("experiment", "start", "changes", "loaded"),
    [
        ("rt1_joint", "released.safetensors", [], {"adapters.frames.stem", "backbone.blocks"}),
        ("rt1_joint", "runs/video", SELF_FLOW, {"adapters.frames.stem", "text", "projector"}),
        ("rt1_joint", "none", [], set()),
        ("rt1_policy", "released.safetensors", ["policy_objective.gamma=0.8"], {"backbone.blocks"}),
        (
            "rt1_world_model",
            "released.safetensors",
            ["objective@frame_objective=reworld", "model.action_horizon=4"],
            {"backbone.blocks"},
        ),
        ("rt1_world_model", "runs/video", ["objective@frame_objective=sra2"], {"backbone.blocks"}),
        ("rt1_joint", "runs/video", ["lora.rank=2"], {"backbone.blocks"}),
    ],
)
def test_the_robot_experiments_run_from_every_start(
    here, video, experiment, start, changes, loaded
):
    name = f"{experiment}-{Path(start).stem}-{len(changes)}"
    settings = small(f"name={name}", "--init", start, *ROBOT, *changes)
    run("finetune/rt1.py", f"experiment={experiment}", *settings)
    record = read_manifest(resolve_checkpoint(Path("runs") / name))["extra"]
    assert set(record["start"].get("loaded", ())) >= loaded
    assert (record["start"]["source"] is None) == (start == "none")
    assert record["roles"] == [experiment.removeprefix("rt1_")]
    lines = Path("runs", name, "metrics.jsonl").read_text().splitlines()
    lines = [json.loads(line) for line in lines]
    assert all(np.isfinite(line["loss"]) for line in lines)
    has = {key for key in lines[-1] if key in ("auxiliary_loss", "teacher_student_cosine")}
    gamma = any("gamma" in c or "self_flow" in c or "sra2" in c for c in changes)
    assert has == {
        *(["teacher_student_cosine"] if gamma else []),
        *(["auxiliary_loss"] if "objective@frame_objective=reworld" in changes else []),
    }
    if "lora.rank=2" in changes:
        assert record["start"]["frozen"] == ["backbone.blocks", "backbone.t_embedder"]


WORLD_MODEL = ("eval/world_model.py", "num_episodes=1", "num_frames=2", "num_steps=1",
               "--checkpoint")  # fmt: skip


def test_reworld_s_world_model_is_extrapolated_and_others_are_not(here, capsys):
    reworld = ["objective@frame_objective=reworld", "model.action_horizon=4"]
    settings = small("name=reworld", "--init", "none", *ROBOT, *reworld)
    run("finetune/rt1.py", "experiment=rt1_world_model", *settings)
    run(*WORLD_MODEL, "runs/reworld", "extrapolation=1.4")
    assert list(Path("runs/reworld/eval").glob("world_model-*/report.json"))
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        run(*WORLD_MODEL, "runs/robot", "extrapolation=1.4")
    assert stopped.value.code == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_another_autoencoder_or_text_encoder_does_not_go_on(here, tmp_path):
    from tests.unit.test_sd_vae import write_vae
    from tests.unit.test_text_encoders import write_text_encoder

    finetune()  # finished already
    write_text_encoder(tmp_path / "other", seed=1)
    with pytest.raises(SystemExit) as stopped:
        finetune(f"text.encoder=hf:{tmp_path / 'other'}", "train.steps=6")
    assert stopped.value.code == 2
    write_vae(tmp_path / "vae", seed=1)
    run(
        "pretrain/encode.py",
        "--data",
        "sets/toy/0.1.0",
        "--output",
        str(tmp_path / "latents"),
        "autoencoder=sd_vae",
        f"weights={tmp_path / 'vae'}",
        f"frame_size={SIZE}",
        "processes=1",
    )
    with pytest.raises(SystemExit) as stopped:
        finetune("--latents", str(tmp_path / "latents"), "train.steps=6")
    assert stopped.value.code == 2


@pytest.mark.parametrize(
    "changes",
    [
        ["model.image_size=[64,80]"],
        ["model.frames=pixels"],
        ["model.patch=4"],
        ["augment.shift_px=2"],
        ["play_data=sets/toy/0.1.0"],
        ["play_latents=latents"],
        ["model.autoencoder.kind=rae"],
        ["model.autoencoder={kind: sd_vae, weights: elsewhere}"],
        ["text.encoder=hf:nowhere"],
        ["text.tokens=1"],
        ["freeze=backbone", "--init", "none"],
        ["lora.rank=-1"],
        ["lora={rank: 2, targets: [query]}"],
        ["policy_objective.target=latents"],
        ["conditioning.attention=causal", "model.backbone=flux"],
        ["frame_objective.auxiliary=0.5", "policy_objective={auxiliary: 0.5, student_layer: 2}"],
    ],
)
def test_what_does_not_fit_is_refused_with_exit_code_2(changes, here, capsys):
    with pytest.raises(SystemExit) as stopped:
        finetune("name=refused", *changes)
    assert stopped.value.code == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
