"""First weights from another network: what is loaded, and that nothing is lost on the way."""

import json
import runpy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from selfflow_robotics.cli.app import compose
from selfflow_robotics.cli.arguments import to_overrides
from selfflow_robotics.cli.start import find_start
from selfflow_robotics.errors import UserError
from selfflow_robotics.inference.bundle import load_bundle
from selfflow_robotics.modalities.base import ACTIONS, FRAMES
from selfflow_robotics.models.adapters import AdapterConfig
from selfflow_robotics.models.flux import FluxConfig
from selfflow_robotics.models.network import Network, NetworkConfig
from selfflow_robotics.models.presets import RELEASED_TIME, RobotConfig, image_config
from selfflow_robotics.models.sit import SiTConfig
from selfflow_robotics.models.text import TextConfig
from selfflow_robotics.models.warm_start import Source, adopt, warm_start
from selfflow_robotics.rng import torch_generator
from selfflow_robotics.text.encoder import TextEncoderConfig
from selfflow_robotics.text.store import TextStore
from selfflow_robotics.timesteps import Timesteps
from selfflow_robotics.training.checkpoint import read_manifest, save_checkpoint
from tests.networks import (
    ask_image,
    frames_slot,
    image_record,
    pixel_latents,
    robot_codecs,
    robot_network,
    waken,
)
from tests.unit.test_training_scripts import write_set

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests/golden/official_tiny.safetensors"
SMALL = SiTConfig(width=16, depth=2, heads=2)


def robot(backbone, frames: AdapterConfig) -> NetworkConfig:
    """A robot network whose frames are latents, as the image network's are."""
    return NetworkConfig(
        backbone=backbone,
        adapters={
            FRAMES: replace(frames, steps=4, learn_sigma=False),
            ACTIONS: AdapterConfig(7, steps=5),
        },
        slots={"first_frame": FRAMES, "later_frames": FRAMES, "actions": ACTIONS},
        prediction=dict.fromkeys(("first_frame", "later_frames", "actions"), "velocity"),
        text=TextConfig(),
    )


def image_source(folder: Path, backbone: SiTConfig | FluxConfig = SMALL, **settings) -> Path:
    """A checkpoint as pretrain/images.py writes it."""
    torch.manual_seed(3)
    config = image_config(backbone, 8, 3, 2, 5, **settings)
    tensors = waken(Network(config)).state_dict()
    record = image_record(config, 2)
    return save_checkpoint(folder / "checkpoints", 1, {"teacher": tensors}, record)


def assert_same_frames(path: Path, backbone) -> None:
    """One noised frame, the null label, no other slot."""
    image = load_bundle(path, "cpu", heads=backbone.heads).network
    frames = image.config.adapters[FRAMES]
    start = find_start(str(path), robot(backbone, frames), Path("no run"), "runs")
    torch.manual_seed(8)
    network = Network(start.config)
    start.load(network, {})
    n = frames.grid[0] * frames.grid[1]
    x = torch.randn(3, n, frames.channels, generator=torch_generator("test", 1))
    t = torch.rand(3, n, generator=torch_generator("test", 2)), torch.arange(n).expand(3, -1)
    with torch.no_grad():
        expected, _ = ask_image(image, x, t)
        slots, context = {"first_frame": frames_slot(network, x)}, network.encode_context({})
        outputs, _ = network(slots, Timesteps(*t), context)
    assert expected.abs().max() > 0.1
    torch.testing.assert_close(outputs["first_frame"], expected, rtol=0, atol=1e-6)
    assert network.config.num_classes == 0
    assert not network.adapters[FRAMES].times.any()
    assert start.record["source"] == str(path)
    assert len(start.record["sha256"]) == 64
    assert "adapters.actions.stem" in start.record["new"]
    assert "label_table" in start.record["mapped"]


def test_a_robot_network_begins_as_the_released_one(tmp_path):
    state = load_file(GOLDEN)
    path = tmp_path / "released.safetensors"
    save_file(
        {k.removeprefix("model."): v for k, v in state.items() if k.startswith("model.")}, path
    )
    ours = load_bundle(path, "cpu", heads=4).network.config.backbone
    assert (ours.timestep_scale, ours.timestep_origin) == (1, 1)
    assert_same_frames(path, replace(ours, timestep_scale=1000.0, timestep_origin=0.0))


@pytest.mark.parametrize("time", [{}, RELEASED_TIME], ids=["ours", "released"])
def test_a_robot_network_begins_as_an_image_run(tmp_path, time):
    assert_same_frames(image_source(tmp_path, replace(SMALL, **time)), SMALL)


def test_a_flux_network_begins_as_an_image_run(tmp_path):
    flux = FluxConfig(width=24, double=1, single=1, heads=2)
    source = image_source(tmp_path, flux)
    config = robot(flux, AdapterConfig(12, grid=(4, 4)))
    start = find_start(str(source), config, Path("no run"), "runs")
    network = Network(start.config)
    start.load(network, {})
    theirs = load_bundle(source, "cpu").network.state_dict()
    assert all(
        v.equal(theirs[k]) for k, v in network.state_dict().items() if k.startswith("backbone")
    )


def test_tokens_of_another_codec_get_a_new_adapter():
    image = image_config(SMALL, 8, 3, 2, 5)
    config = adopt(robot(SMALL, image.adapters[FRAMES]), image)
    codecs = {FRAMES: pixel_latents(image, 2)}
    other = {FRAMES: pixel_latents(image, 2, fingerprint="another")}
    for theirs, fits in ((codecs, True), (other, False)):
        source = Source(image, Network(image).state_dict(), codecs=theirs)
        report = warm_start(Network(config), source, codecs)
        assert ("adapters.frames.stem.weight" in report.loaded) is fits
        assert ("adapters.frames.stem.weight" in report.left_over) is not fits


def test_words_of_another_text_encoder_get_a_new_layer():
    image = image_config(SMALL, 8, 3, 2, 5)
    config = replace(
        robot(image.backbone, image.adapters[FRAMES]), text=TextConfig("embeddings", channels=4)
    )
    stores = [
        TextStore(TextEncoderConfig(name, tokens), key, {"": torch.zeros(tokens, 4)})
        for name, tokens, key in (
            ("hf:a", 8, "one"), ("hf:moved", 8, "one"), ("hf:a", 9, "two"),
            ("hf:a", 8, "other"), ("hf:b", 8, "third"),
        )
    ]  # fmt: skip
    for store, fits in zip(stores, (True, True, True, False, False), strict=True):
        source = Source(config, Network(config).state_dict(), texts=stores[0])
        report = warm_start(Network(config), source, texts=store)
        assert ("text.weight" in report.loaded) is fits
        assert ("text.weight" in report.new) is not fits


def test_pixels_do_not_take_the_weights_of_latents(tmp_path):
    config = RobotConfig(SMALL, image_size=(32, 32))
    start = find_start(str(image_source(tmp_path)), robot_network(config), Path("no run"), "runs")
    start.load(Network(start.config), robot_codecs(config))
    assert {"adapters.frames.stem", "adapters.frames.final_layer"} <= set(start.record["new"])
    assert "adapters.frames.stem" in start.record["left_over"]
    assert "backbone.blocks" in start.record["loaded"]


@pytest.mark.parametrize(
    "other",
    [
        SiTConfig(width=32, depth=2, heads=2),
        SiTConfig(width=16, depth=3, heads=2),
        SiTConfig(width=16, depth=2, heads=4),
        SiTConfig(width=16, depth=2, heads=2, mlp_ratio=2),
        FluxConfig(width=24, double=1, single=1, heads=2),
    ],
    ids=["width", "depth", "heads", "mlp_ratio", "backbone"],
)
def test_weights_of_another_backbone_are_refused(tmp_path, other):
    source = image_source(tmp_path)
    with pytest.raises(UserError, match=r"init=") as error:
        find_start(
            str(source),
            robot_network(RobotConfig(other))
            if isinstance(other, SiTConfig)
            else robot(other, AdapterConfig(12)),
            Path("no run"),
            "runs",
        )
    assert "\n" not in str(error.value)


def test_labels_of_other_classes_are_new():
    many, few = (image_config(SMALL, 8, 3, 2, classes) for classes in (5, 3))
    report = warm_start(Network(few), Source(many, Network(many).state_dict()))
    assert "label_table.weight" in report.new


@pytest.fixture(scope="module")
def mains():
    paths = ("pretrain/images.py", "pretrain/run.py", "finetune/rt1.py")
    return [runpy.run_path(str(ROOT / path), run_name="imported")["main"] for path in paths]


MODEL = ["model.sit.width=16", "model.sit.depth=2", "model.sit.heads=2", "model.image_size=[16,32]"]
SHARED = ["device=cpu", "threads=1", "train.save_every=1", "train.sample_every=0", "train.steps=1"]
PRETRAIN = [
    *MODEL, *SHARED, "image_batch=2", "clip_batch=2", "clip_frames=2", "objective.teacher_layer=2",
]  # fmt: skip
FINETUNE = [
    *MODEL, *SHARED, "policy_batch=2", "frame_batch=2", "validation=0",
    "policy_objective.teacher_layer=2", "frame_objective.teacher_layer=2",
]  # fmt: skip


def start_of(run: str) -> dict:
    checkpoint = sorted(Path(run, "checkpoints").glob("step_*"))[-1]
    return read_manifest(checkpoint)["extra"]["start"]


def test_each_kind_of_run_starts_the_next_and_keeps_its_choice(
    mains, tmp_path, monkeypatch, capsys
):
    _, pretrain, finetune = mains
    monkeypatch.chdir(tmp_path)
    data = write_set(tmp_path / "data", ["pick coke can", "move sponge"])
    image_source(tmp_path / "images", replace(SMALL, **RELEASED_TIME))
    pretrain([*PRETRAIN, "--data", str(data), "--init", "images", "name=first"])
    assert "backbone.blocks" in capsys.readouterr().out
    assert start_of("runs/first")["source"] == "images/checkpoints/step_0000001"
    finetune([*FINETUNE, "--data", str(data), "name=robot"])
    chosen = start_of("runs/robot")
    assert chosen["source"] == "runs/first/checkpoints/step_0000001"
    assert "adapters.frames.stem" in chosen["loaded"]
    record = json.loads((tmp_path / "runs/first/run.json").read_text())
    pretrain([*PRETRAIN, "--data", str(data), "--init", "runs/first", "name=second"])
    (tmp_path / "runs/second/run.json").write_text(json.dumps(record | {"created": "2999"}))
    finetune([*FINETUNE, "--data", str(data), "name=robot", "train.steps=2"])
    assert start_of("runs/robot") == chosen
    finetune([*FINETUNE, "--data", str(data), "name=other"])
    assert start_of("runs/other")["source"] == "runs/second/checkpoints/step_0000001"
    finetune([*FINETUNE, "--data", str(data), "name=again", "--init", "runs/robot"])
    assert not start_of("runs/again")["new"]
    with pytest.raises(SystemExit) as stop:
        finetune([*FINETUNE, "--data", str(data), "name=wide", "--init", "images",
                  "model.sit.width=32"])  # fmt: skip
    assert stop.value.code == 2
    assert "width=16" in capsys.readouterr().err


def test_a_run_with_another_text_encoder_starts_with_a_new_layer_for_words(
    mains, tmp_path, monkeypatch
):
    pytest.importorskip("transformers", reason="the extra 'text' is not installed")
    from tests.unit.test_text_encoders import write_text_encoder

    monkeypatch.chdir(tmp_path)
    data = write_set(tmp_path / "data", ["pick coke can", "move sponge"])
    for number in (0, 1):
        write_text_encoder(Path(f"words{number}"), "t5", number)
    words = [*FINETUNE, "--data", str(data), "text.tokens=8"]
    mains[2]([*words, "name=first", "--init", "none", "text.encoder=hf:words0"])
    for number, place in enumerate(("loaded", "new")):
        run = ["--init", "runs/first", f"name=next{number}", f"text.encoder=hf:words{number}"]
        mains[2]([*words, *run])
        assert "text" in start_of(f"runs/next{number}")[place]


FLUX = ["model.backbone=flux", "model.flux={width: 24, double: 1, single: 1, heads: 2}"]


def test_every_command_trains_a_flux_network(mains, tmp_path, monkeypatch):
    images, pretrain, finetune = mains
    monkeypatch.chdir(tmp_path)
    data = write_set(tmp_path / "data", ["pick coke can", "move sponge"])
    images([*SHARED, *FLUX, "num_shapes=10", "shape_px=16", "batch_size=2", "name=images",
            "objective.teacher_layer=2", "objective.student_layer=1"])  # fmt: skip
    pretrain([*PRETRAIN, *FLUX, "--data", str(data), "--init", "runs/images", "name=first"])
    assert "backbone.blocks" in start_of("runs/first")["loaded"]
    finetune([*FINETUNE, *FLUX, "--data", str(data), "name=robot"])
    assert start_of("runs/robot")["source"] == "runs/first/checkpoints/step_0000001"
    assert load_bundle(Path("runs/robot"), "cpu").network.config.backbone == FluxConfig(
        width=24, double=1, single=1, heads=2
    )


def test_a_flux_run_does_not_start_a_sit(mains, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    data = write_set(tmp_path / "data", ["pick coke can"])
    image_source(tmp_path / "images")
    with pytest.raises(SystemExit) as stop:
        mains[1]([*PRETRAIN, *FLUX, "--data", str(data), "--init", "images"])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert "model.backbone=sit" in error
    assert len(error.splitlines()) == 1


@pytest.mark.parametrize(("size", "total"), [("XL", 705_936_423), ("625M", 651_127_143)])
def test_the_large_sizes_start_a_robot_network_from_images(mains, size, total):
    """On the meta device: the weights have shapes and no values."""
    main = mains[2]
    [config] = compose(
        main.config_name, main.schema, to_overrides([f"size={size}"], (), "finetune")
    )
    backbone = config.model.transformer
    time = RELEASED_TIME if size == "XL" else {}
    image = image_config(replace(backbone, **time))
    robot_config = adopt(robot_network(config.model), image)
    with torch.device("meta"):
        theirs, network = Network(image), Network(robot_config)
    report = warm_start(network, Source(image, theirs.state_dict()))
    assert sum(p.numel() for p in network.parameters()) == total
    names = dict(network.named_parameters())
    assert {n for n in names if n.startswith("backbone.")} <= set(report.loaded)
    assert report.mapped == ["label_table.weight"]
    assert names["label_table.weight"].shape == (1, 1152)
    assert {n for n in names if n.startswith(("adapters.", "text."))} <= set(report.new)
