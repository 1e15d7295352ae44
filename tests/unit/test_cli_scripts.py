"""The scripts, their configs, and the console commands that run them."""

import json
import re
import runpy
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch

from selfflow_robotics.autoencoders.load import AutoencoderConfig
from selfflow_robotics.cli import launch
from selfflow_robotics.cli.app import compose, config_dir
from selfflow_robotics.cli.arguments import to_overrides
from selfflow_robotics.cli.help import headers
from selfflow_robotics.cli.job import JobConfig
from selfflow_robotics.cli.runs import (
    continue_run,
    find_checkpoint,
    open_run,
    recorded_settings,
    run_folder,
    run_of,
    runs_of_kind,
)
from selfflow_robotics.errors import UserError
from selfflow_robotics.training.checkpoint import save_checkpoint

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted(
    path for folder in ("pretrain", "finetune", "eval") for path in (ROOT / folder).glob("*.py")
)


def _main(path):
    return runpy.run_path(str(path), run_name="imported").get("main")


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_the_config_composes_and_converts_with_each_of_its_experiments(path):
    main = _main(path)
    found = headers(config_dir() / "experiment" / main.config_name)
    assert all(header for _, header in found), "an experiment has no header line"
    for arguments in [[], *([f"experiment={name}"] for name, _ in found)]:
        overrides = to_overrides(arguments, (), main.config_name)
        [config] = compose(main.config_name, main.schema, overrides)
        assert isinstance(config, main.schema)


def test_the_papers_network_is_never_trained_on_shapes_by_mistake():
    main = _main(ROOT / "pretrain/images.py")
    for name, _ in headers(config_dir() / "experiment" / "images"):
        overrides = to_overrides([f"experiment={name}"], (), "images")
        [config] = compose("images", main.schema, overrides)
        full_size = config.model.transformer.width == 1152
        assert (config.data is not None) == (full_size or config.captions), name


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_help_fits_into_a_hundred_columns(path, capsys):
    _main(path)(["--help"])
    assert [line for line in capsys.readouterr().out.splitlines() if len(line) > 100] == []


def test_help_lists_the_choices_of_each_group(capsys):
    _main(ROOT / "pretrain/images.py")(["--help"])
    text = capsys.readouterr().out
    assert "  objective=vanilla               plain flow matching" in text
    assert re.search(r"  size=XL +SiT-XL", text)
    assert "selfflow_robotics/objective/self_flow.py" in " ".join(text.split())


def test_each_config_belongs_to_a_script():
    used = {_main(path).config_name for path in SCRIPTS}
    assert {path.stem for path in config_dir().glob("*.yaml")} == used
    assert {path.name for path in (config_dir() / "experiment").iterdir()} <= used


@pytest.mark.parametrize(
    "command",
    [
        "pretrain",
        "encode",
        "pretrain_images",
        "pretrain_media",
        "finetune_rt1",
        "collect",
        "inspect_data",
        "simpler",
        "serve",
        "compare",
        "world_model",
        "play",
        "generation",
        "media",
        "metrics",
        "probe",
        "class_probe",
        "run_page",
        "verify",
        "doctor",
        "report",
        "correlate",
    ],
)
def test_each_console_command_runs_a_script_that_is_there(command, monkeypatch):
    ran = []
    monkeypatch.setattr(launch.runpy, "run_path", lambda path, run_name: ran.append(path))
    getattr(launch, command)()
    assert Path(ran[0]).is_file()


def test_ctrl_c_while_a_console_command_imports_is_one_line(monkeypatch, capsys):
    def interrupted(path, run_name):
        raise KeyboardInterrupt

    monkeypatch.setattr(launch.runpy, "run_path", interrupted)
    with pytest.raises(SystemExit) as stop:
        launch.pretrain()
    assert stop.value.code == 130
    assert capsys.readouterr().err == "interrupted; repeat the command to resume\n"


def _write_run(root, name, **run):
    folder = root / name
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps(run))
    return folder


def _write_checkpoint(run, step):
    save_checkpoint(run / "checkpoints", step, {"teacher": {"w": torch.zeros(1)}}, {})
    return run / "checkpoints" / f"step_{step:07}"


def test_runs_are_listed_by_kind_newest_first(tmp_path):
    old = _write_run(tmp_path, "z", kind="finetune", created="2026-02-01T00:00:00")
    new = _write_run(tmp_path, "b", kind="finetune", created="2026-03-01T00:00:00")
    _write_run(tmp_path, "c", kind="pretrain", created="2026-04-01T00:00:00")
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "run.json").write_text("{ torn")
    assert runs_of_kind("finetune", tmp_path) == [new, old]


def test_a_checkpoint_is_found_from_a_run_a_path_or_nothing(tmp_path):
    with pytest.raises(UserError, match=r"no finetune run in .* has a checkpoint"):
        find_checkpoint(None, "finetune", tmp_path)
    with pytest.raises(UserError, match="no checkpoint at nowhere"):
        find_checkpoint("nowhere", "finetune", tmp_path)
    run = _write_run(tmp_path, "a", kind="finetune", created="2026-01")
    _write_run(tmp_path, "just_begun", kind="finetune", created="2026-02")
    _write_checkpoint(run, 900)
    last = _write_checkpoint(run, 1000)
    for given in (None, str(run), str(last)):
        assert find_checkpoint(given, "finetune", tmp_path) == last
    assert run_of(last) == run


@dataclass(frozen=True)
class _Collect:
    processes: int | None = None
    seed: int = 0


@dataclass(frozen=True)
class _Config:
    lr: float = 0.1
    threads: int = 1
    device: str = "auto"
    collect: _Collect = field(default_factory=_Collect)


def test_a_run_with_a_checkpoint_keeps_its_configuration(tmp_path):
    run = open_run("finetune", tmp_path / "a", _Config())
    assert open_run("finetune", run, _Config(lr=0.2)) == run  # nothing to lose yet
    _write_checkpoint(run, 1)
    other_way = _Config(lr=0.2, threads=2, device="cpu", collect=_Collect(processes=8))
    assert open_run("finetune", run, other_way) == run
    with pytest.raises(UserError, match=r"holds a run with lr=0\.2, not 0\.1"):
        open_run("finetune", run, _Config())
    with pytest.raises(UserError, match=r"collect\.seed=0, not 1"):
        open_run("finetune", run, _Config(lr=0.2, collect=_Collect(seed=1)))


@dataclass(frozen=True)
class _NewConfig(_Config):
    stride: int = 1


def test_a_setting_that_is_newer_than_the_run_had_its_default(tmp_path):
    run = open_run("finetune", tmp_path / "a", _Config())
    _write_checkpoint(run, 1)
    assert open_run("finetune", run, _NewConfig()) == run
    with pytest.raises(UserError, match="stride=1, not 2"):
        open_run("finetune", run, _NewConfig(stride=2))


@dataclass(frozen=True)
class _Train:
    steps: int = 100
    save_every: int = 10
    log_every: int = 5
    sample_every: int = 0


@dataclass(frozen=True)
class _Model:
    autoencoder: AutoencoderConfig


@dataclass(frozen=True)
class _Moved:
    name: str = "a"
    runs_dir: str = "runs"
    data: str | None = None
    lr: float = 0.1
    train: _Train = field(default_factory=_Train)
    model: _Model = _Model(AutoencoderConfig("small", "here"))


def _saved_run(folder, config, data):
    run = open_run("finetune", folder, config)
    save_checkpoint(run / "checkpoints", 1, {"teacher": {"w": torch.zeros(1)}}, {"data": data})
    return run


def test_a_run_that_was_moved_goes_on_longer_and_with_moved_data(tmp_path):
    before = _saved_run(tmp_path / "a", _Moved(data="here"), {"data": "1f"})
    run = shutil.copytree(before, tmp_path / "disk" / "b")  # this process still holds the former
    model = _Model(AutoencoderConfig("small", "there"))
    now = _Moved("b", "disk", "../there", train=_Train(200, 20, 1, 50), model=model)
    assert open_run("finetune", run, now) == run
    continue_run(run, now, {"data": "1f"})
    assert recorded_settings(run)["train"]["steps"] == 200
    assert recorded_settings(run)["data"] == "../there"
    assert recorded_settings(run)["model"]["autoencoder"]["weights"] == "there"
    with pytest.raises(UserError, match=r"model\.autoencoder\.kind=small, not rae"):
        open_run("finetune", run, _Moved(model=_Model(AutoencoderConfig("rae", "there"))))


@pytest.mark.parametrize("data", [{"data": "2f"}, {}, {"data": "1f", "play_data": "3f"}])
def test_a_run_never_goes_on_with_other_data(tmp_path, data):
    config = _Moved(data="here")
    run = _saved_run(tmp_path / "a", config, {"data": "1f"})
    before = recorded_settings(run)
    with pytest.raises(
        UserError, match="play_data" if "play_data" in data else "different data: data"
    ):
        continue_run(run, _Moved(data="there"), data)
    assert recorded_settings(run) == before


def test_what_earlier_versions_did_not_record_is_not_compared(tmp_path):
    config = _Moved(data="here")
    run = _saved_run(tmp_path / "a", config, {"data": "1f"})
    now = {"data": "1f", "clips size": "2f", "encoder": "3f"}
    continue_run(run, config, now)
    run = _saved_run(tmp_path / "b", config, now)
    with pytest.raises(UserError, match="the frozen encoder has changed"):
        continue_run(run, config, {**now, "encoder": "4f"})
    with pytest.raises(UserError, match="clips size has changed"):
        continue_run(run, config, {**now, "clips size": "4f"})


def test_a_folder_of_somebody_else_is_refused_and_left_alone(tmp_path):
    folder = tmp_path / "thesis"
    folder.mkdir()
    for name in ("config.yaml", "run.json", "metrics.jsonl"):
        (folder / name).write_text('{"mine": 1}')
    with pytest.raises(UserError, match="thesis is not empty and not a run"):
        open_run("pretrain", folder, _Config())
    assert {path.name: path.read_text() for path in folder.iterdir()} == dict.fromkeys(
        ("config.yaml", "run.json", "metrics.jsonl"), '{"mine": 1}'
    )


def test_what_an_interrupted_start_left_is_no_obstacle(tmp_path):
    (tmp_path / ".lock").touch()
    (tmp_path / ".run.json").write_text('{"ki')
    open_run("pretrain", tmp_path, _Config())
    (tmp_path / "config.yaml").unlink()
    open_run("pretrain", tmp_path, _Config(lr=0.2))
    assert "lr: 0.2" in (tmp_path / "config.yaml").read_text()


@pytest.mark.parametrize("saved", [False, True])
def test_a_run_of_another_kind_is_named(tmp_path, saved):
    run = open_run("images", tmp_path / "a", _Config())
    if saved:
        _write_checkpoint(run, 1)
    with pytest.raises(
        UserError, match="a is an images run, not a finetune run; choose another name"
    ):
        open_run("finetune", run, _Config())


BOMB = b"".join(
    b"a%d: &a%d [%s]\n" % (n, n, b", ".join([b"*a%d" % (n - 1)] * 9)) for n in range(1, 9)
)
HOSTILE = [b"&a {a: *a}", b"a0: &a0 [x]\n" + BOMB, b"{a: " * 20_000, b"a: " + b"1" * 2**25]


@pytest.mark.parametrize("damage", [None, b"a: [", b"\xff\x00", b"", b"- 1", b"1: 2", *HOSTILE])
def test_a_run_whose_configuration_cannot_be_read_is_never_continued(tmp_path, damage):
    run = open_run("finetune", tmp_path / "a", _Config())
    _write_checkpoint(run, 1)
    (run / "config.yaml").unlink()
    if damage is not None:
        (run / "config.yaml").write_bytes(damage)
    expected = "holds a run with" if damage == b"1: 2" else "config.yaml is missing or damaged"
    with pytest.raises(UserError, match=expected):
        open_run("finetune", run, _Config())


@pytest.mark.parametrize("name", ["", " ", ".", "..", "a/b", "/tmp", "a\nb", "a\x00"])
def test_a_runs_name_is_one_folders_name(name):
    with pytest.raises(
        UserError, match="not a valid folder name in runs; choose another name"
    ) as caught:
        run_folder("runs", name)
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="not a valid folder name"):  # also before launch=slurm
        JobConfig(name)


def test_a_runs_record_that_is_nested_without_end_is_no_run(tmp_path):
    run = _write_run(tmp_path, "a", kind="finetune", created="2026-01")
    (run / "run.json").write_text("[" * 100_000)
    assert runs_of_kind("finetune", tmp_path) == []
