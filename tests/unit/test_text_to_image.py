"""Text to image as it is typed: render, encode, train, generate; and every mistake as one line."""

import json
import runpy
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from selfflow_robotics.batch import Batch
from selfflow_robotics.data.latents import LatentReader
from selfflow_robotics.inference.bundle import load_bundle
from selfflow_robotics.models.flux import FluxConfig
from selfflow_robotics.models.network import Network
from selfflow_robotics.models.presets import image_config
from selfflow_robotics.models.sit import SiTConfig
from selfflow_robotics.models.text import TextConfig
from selfflow_robotics.objective.loss import ConditioningConfig, loss
from selfflow_robotics.objective.roles import ROLES
from selfflow_robotics.objective.self_flow import ObjectiveConfig
from selfflow_robotics.training.checkpoint import read_manifest, resolve_checkpoint
from selfflow_robotics.training.teacher import make_teacher
from tests.networks import frames_slot

ROOT = Path(__file__).parents[2]
OBJECTIVES = {
    path.stem: yaml.safe_load(path.read_text())
    for path in sorted((ROOT / "configs/objective").glob("*.yaml"))
}
TINY = [
    "captions=true", "name=tiny", "device=cpu", "precision=fp32", "model.patch=6", "batch_size=4",
    "model.sit={width: 24, depth: 2, heads: 2}", "model.prediction=data", "train.save_every=2",
    "objective.student_layer=1", "objective.teacher_layer=2", "train.steps=2",
]  # fmt: skip
QUICK = ["num_steps=2", "device=cpu", "precision=fp32", "--checkpoint", "runs/tiny"]


def script(name):
    return runpy.run_path(str(ROOT / name), run_name="imported")["main"]


render, encode, train, generate = (
    script(name)
    for name in (
        "pretrain/render.py", "pretrain/encode.py", "pretrain/images.py", "eval/generation.py",
    )
)  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with a rendered set, its latents, and a network that was trained on them."""
    folder = tmp_path_factory.mktemp("words")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        render(["experiment=debug", "num_images=12", "num_held_out=4"])
        encode(
            [
                *("--data", "datasets/words/train", "--output", "latents/words", "captions=true"),
                *("autoencoder=pixel", "image_size=[24,48]", "processes=1", "device=cpu"),
            ]
        )
        train(["--data", "latents/words", *TINY])
    return folder


@pytest.fixture
def folder(made, monkeypatch):
    monkeypatch.chdir(made)
    return made


def test_the_run_reads_captions_and_no_labels(folder):
    record = read_manifest(resolve_checkpoint(Path("runs/tiny")))["extra"]
    network = record["network"]
    assert (network["num_classes"], network["text"]["kind"]) == (None, "bytes")
    assert network["prediction"] == {"first_frame": "data"}
    assert network["adapters"]["frames"]["grid"] == [4, 8]
    assert record["labels"] is None
    assert (folder / "runs/tiny/samples/step_0000002.png").exists()
    assert (folder / "datasets/words/preview.png").exists()


def test_each_image_has_its_prompt(folder, capsys):
    prompts = "datasets/words/held_out.txt"
    lines = Path(prompts).read_text().splitlines()
    generate([*QUICK, "--prompts", prompts, "num_images=5", "guidance_scale=2", "--output", "a"])
    images = np.load("a/samples.npz")["arr_0"]
    assert images.shape == (5, 24, 48, 3)
    assert Path("a/samples.txt").read_text().splitlines() == lines[:5]
    Path("two.txt").write_text(f"{lines[0]}\n\n{lines[1]}\n")
    generate([*QUICK, "--prompts", "two.txt", "guidance_scale=2", "--output", "b"])
    fewer = np.load("b/samples.npz")["arr_0"]
    assert len(fewer) == 2  # one per prompt
    assert np.abs(fewer.astype(int) - images[:2]).max() <= 1  # of another batch size
    generate([*QUICK, "instruction='\"cat\"'", "num_images=1", "--output", "c"])
    assert json.loads(Path("c/settings.json").read_text())["instruction"] == '"cat"'


def test_ocr_compares_with_what_the_prompts_quote(folder, capsys, monkeypatch):
    import selfflow_robotics.evaluation.ocr as ocr

    Path("said.txt").write_text('the word "cat"\nno word\n"dog"\n')
    monkeypatch.setitem(generate.__wrapped__.__globals__, "open_reader", lambda: lambda _: "Cat")
    command = [*QUICK, "--prompts", "said.txt", "metrics=[ocr]", "--output", "ocr"]
    for _ in range(2):  # also of images that were generated before
        generate(command)
        assert f"ocr: {ocr.text_line(json.loads(Path('ocr/ocr.json').read_text()))}" in (
            capsys.readouterr().out
        )
    report = json.loads(Path("ocr/ocr.json").read_text())
    assert (report["right"], report["count"]) == (1, 2)
    assert [row["wanted"] for row in report["images"]] == ["cat", "dog"]


def test_a_resumed_run_draws_the_same_captions(folder):
    losses = []
    for _ in range(2):
        train(["--data", "latents/words", *TINY, "name=again", "train.steps=4"])
        lines = Path("runs/again/metrics.jsonl").read_text().splitlines()
        losses.append([json.loads(line)["loss"] for line in lines])
        shutil.rmtree("runs/again/checkpoints/step_0000004")  # as if interrupted before
    assert len(losses[0]) == 4
    assert losses[0] == losses[1]


def test_a_frozen_encoder_reads_captions_and_stores_none_of_them(folder, monkeypatch):
    import selfflow_robotics.text.store as store
    from tests.unit.test_text_encoders import wordllama

    monkeypatch.setattr(store, "load_text_encoder", lambda config: wordllama(config.tokens))
    frozen = ["name=frozen", "text.encoder=wordllama", "text.tokens=24"]
    train(["--data", "latents/words", *TINY, *frozen])
    bundle = load_bundle(Path("runs/frozen"), "cpu")
    assert bundle.network.config.text == TextConfig("embeddings", channels=16)
    assert bundle.texts is not None
    assert bundle.words(["pick can"]).shape == (1, 24, 16)
    assert '"texts": [""' in (folder / "runs/frozen/text.safetensors").read_bytes().decode(
        errors="replace"
    ).replace("\\", "")


def _labelled(folder):
    encode(["experiment=debug", "--output", "latents/shapes", "device=cpu"])


def _nothing(_folder):
    pass


@pytest.mark.parametrize(
    ("prepare", "command", "message"),
    [
        (_labelled, [train, "--data", "latents/shapes", *TINY], "has no captions"),
        (_nothing, [train, "--data", "latents/words", *TINY, "captions=false"], "captions=true"),
        (_nothing, [train, "--data", "latents/words", *TINY, "name=x", "model.text_bytes=20"],
         "at most 20 bytes"),
        (_labelled, [train, "--data", "latents/shapes", *TINY, "name=y", "captions=false",
                     "text.encoder=wordllama"], "is for captions"),
        (_nothing, [encode, "captions=true"], "captions=true needs data"),
        (_nothing, [generate, *QUICK], "give texts"),
        (_nothing, [generate, *QUICK, "labels=[0]", "instruction=x"], "has no classes"),
        (_nothing, [generate, *QUICK, "instruction=x", "--prompts", "a.txt"], "exclude each"),
        (_nothing, [generate, *QUICK, "--prompts", "nowhere.txt"], "nowhere.txt"),
        (_nothing, [generate, *QUICK, "--prompts", "/dev/null"], "/dev/null"),
        (_nothing, [generate, *QUICK, f"instruction={'x' * 200}", "num_images=1"], "127 bytes"),
        (_nothing, [generate, *QUICK, "instruction=x", "metrics=[fidelity]"], "metrics"),
        (_nothing, [render, "num_images=0"], "num_images must be at least 1"),
        (_nothing, [render, "experiment=debug", "seed=1"], "a set with a different"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line(folder, capsys, prepare, command, message):
    prepare(folder)
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        command[0](command[1:])
    assert stop.value.code == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("error: ")
    assert message in last


BACKBONES = {"sit": SiTConfig(24, 4, 2), "flux": FluxConfig(24, double=2, single=2, heads=2)}


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_every_objective_trains_both_backbones_on_captions(backbone, objective):
    config = ObjectiveConfig(**OBJECTIVES[objective])
    torch.manual_seed(0)
    channels = {"encoder": 24, "latents": 12}.get(config.target)
    network = Network(
        image_config(
            BACKBONES[backbone], (4, 8), 3, 2, None, False, channels, config.auxiliary_layer,
            TextConfig("bytes", 3, 20), "data",
        )
    )  # fmt: skip
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    tokens = torch.randn(3, 8, 12, generator=torch.Generator().manual_seed(0))

    def loss_of(words, attention="joint"):
        batch = Batch({"first_frame": frames_slot(network, tokens)}, words)
        conditioning = ConditioningConfig(attention, text_dropout=0.0)
        return loss(
            network, make_teacher(network), batch, ROLES["image"], config, conditioning,
            torch.Generator().manual_seed(1), step=0, encoder=lambda x: torch.zeros(3, 8, 24),
        ).loss  # fmt: skip

    value = loss_of(["a", "bb", ""])
    value.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.text.parameters())
    for attention in ("joint", "prefix"):
        others = [loss_of(words, attention) for words in (["a", "bb", ""], ["a", "cc", ""])]
        assert others[0] != others[1]


def test_the_papers_row_is_planned_with_its_text(folder, capsys):
    train(["experiment=text_to_image", "data=nowhere", "plan.machine=h100", "plan.gpus=[8]",
           "model.flux={width: 48, double: 1, single: 1, heads: 2}",
           "objective.student_layer=1", "objective.teacher_layer=2"])  # fmt: skip
    said = capsys.readouterr().out
    assert "flux2 latents 128 x 16 x 16" in said


def test_captions_are_those_of_the_pictures(folder):
    reader = LatentReader("latents/words")
    assert len(reader) == 12
    assert all(len(captions) == 4 for captions in reader.captions(range(12)))
