"""The command line: flags, overrides, typed configuration, one-line mistakes, help."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest
import yaml

from selfflow_robotics.cli import app
from selfflow_robotics.cli.app import Flag, hydra_app
from selfflow_robotics.cli.arguments import quoted, to_overrides
from selfflow_robotics.cli.typed import takes_list
from selfflow_robotics.errors import UserError


@dataclass(frozen=True)
class Sampler:
    num_steps: int = 4
    kind: Literal["euler", "heun"] = "euler"
    betas: tuple[float, float] = (0.9, 0.95)

    def __post_init__(self):
        if self.num_steps < 1:
            raise ValueError(f"num_steps must be at least 1, got {self.num_steps}")


@dataclass(frozen=True)
class Config:
    task: str
    checkpoint: Path | None = None
    steps: int = 100
    lr: float = 1e-3
    sampler: Sampler = Sampler()
    teacher: Sampler | None = None
    names: tuple[str, ...] = ("a",)
    weights: dict[str, float] = field(default_factory=dict)


YAML = """\
defaults:
  - demo_schema
  - _self_
  - experiment/demo@_global_: null

task: pick
sampler:
  num_steps: 5  # function evaluations
"""


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Runs a command line, returns the configurations that reached `main`."""
    configs = tmp_path / "configs"
    (configs / "experiment" / "demo").mkdir(parents=True)
    (configs / "demo.yaml").write_text(YAML)
    debug = "# seconds, to try things\nsteps: 2\nsampler:\n  num_steps: 1\n"
    (configs / "experiment" / "demo" / "debug.yaml").write_text(debug)
    monkeypatch.setattr(app, "config_dir", lambda: configs)
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)

    def run(*argv, body=lambda config: None, after=None):
        if after:
            after(configs)
        seen = []

        @hydra_app("demo", Config, (Flag("--task"), Flag("--checkpoint", literal=True)))
        def main(config):
            seen.append(config)
            return body(config)

        main(list(argv))
        return seen

    yield run
    assert list(work.iterdir()) == [], "hydra left something behind"


def test_the_config_is_the_frozen_dataclass_with_its_types(run):
    [config] = run("sampler.betas=[0.5,0.6]", "names=[b,c]", "+weights.flow=2")
    assert config == Config(
        task="pick",
        sampler=Sampler(num_steps=5, betas=(0.5, 0.6)),
        names=("b", "c"),
        weights={"flow": 2.0},
    )
    assert isinstance(config.sampler.betas, tuple)


@pytest.mark.parametrize("argv", [["--task", "move"], ["--task=move"], ["task=move"]])
def test_a_flag_is_a_spelling_of_an_override(run, argv):
    [config] = run(*argv)
    assert config.task == "move"


@pytest.mark.parametrize("path", ["a=1,b", "it's", "a\\", "a\\'b", "${z}", "\\${z}", "a b#c"])
def test_a_literal_flag_means_exactly_what_is_typed(run, path):
    [config] = run("--checkpoint", path)
    assert config.checkpoint == Path(path)
    assert quoted(path).startswith("'")


def test_positional_words_are_the_items_of_a_list():
    words = ["a", "x/y=1", "it's", "steps=3", "hydra/launcher=b", "--cfg", "job", "~c"]
    overrides = to_overrides(words, (), "demo", positional="names")
    options, names = overrides[:2], overrides[-1]
    assert options == ["--cfg", "job"]
    assert names == "names=[" + ",".join(map(quoted, ["a", "x/y=1", "it's"])) + "]"
    assert overrides[2:-1] == ["steps=3", "hydra/launcher=b", "~c"]
    with pytest.raises(UserError, match="names is empty"):
        to_overrides([""], (), "demo", positional="names")
    with pytest.raises(UserError, match="neither an option nor key=value"):
        to_overrides(["a"], (), "demo")


@pytest.mark.parametrize("word", ["experiment=debug", "+experiment=debug"])
def test_an_experiment_changes_the_config_and_overrides_change_the_experiment(run, word):
    [config] = run(word, "sampler.num_steps=3")
    assert (config.steps, config.sampler.num_steps) == (2, 3)


def test_multirun_runs_each(run):
    assert [config.task for config in run("-m", "--task", "a,b")] == ["a", "b"]


def test_cfg_job_prints_and_does_not_run(run, capsys):
    assert run("--cfg", "job", "steps=7") == []
    assert yaml.safe_load(capsys.readouterr().out)["steps"] == 7


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        (["--taks", "x"], "unknown option '--taks'; did you mean --task?"),
        (["--task"], "--task needs a value: --task VALUE"),
        (["pick"], "'pick' is neither an option nor key=value; see --help"),
        (["stepz=3"], "unknown config key 'stepz'; did you mean steps?"),
        (
            ["sampler.num_setps=3"],
            "unknown config key 'sampler.num_setps'; did you mean sampler.num_steps?",
        ),
        (["+stepz=3"], "unknown config key 'stepz'; did you mean steps?"),
        (["experiment=debgu"], "unknown experiment 'debgu'; did you mean debug?"),
        (["steps=abc"], "steps: Value 'abc' of type 'str' could not be converted to Integer"),
        (["steps=1.5"], "steps: Value '1.5' of type 'float' could not be converted to Integer"),
        (["lr=nan"], "lr: must be finite, got nan"),
        (["lr=inf"], "lr: must be finite, got inf"),
        (["sampler.kind=heum"], "sampler.kind: unknown value 'heum'; did you mean heun?"),
        (["sampler.betas=[1,2,3]"], "sampler.betas: takes 2 values, got 3"),
        (["sampler.num_steps=-1"], "sampler: num_steps must be at least 1, got -1"),
        (["task=???"], "'task' must be given: task=..."),
        (["--names", "b"], "--names is a setting, not an option; write names=b"),
        (
            ["--sampler.num-steps=3"],
            "--sampler.num-steps is a setting, not an option; write sampler.num_steps=3",
        ),
        (["--experiment"], "--experiment is a setting, not an option; write experiment=VALUE"),
        (["--cfg"], "--cfg needs a value: --cfg job"),
        (["--cfg", "steps=3"], "--cfg takes job, hydra, all, not 'steps=3'"),
        (["--info"], "--info needs a value: --info all"),
        (["names=b"], "names: takes a list; write names=[b]"),
        (
            ["sampler=5"],
            "sampler: is a group of settings; write sampler.num_steps=... (--cfg job lists them)",
        ),
        (
            ["teacher=[5]"],
            "teacher: is a group of settings; write teacher.num_steps=... (--cfg job lists them)",
        ),
        (
            ["weights=5"],
            "weights: is a group of settings; write weights.NAME=... (--cfg job lists them)",
        ),
        (["+weights.flow=1", "weights.flwo=5"], "weights: unknown key 'flwo'; did you mean flow?"),
        (["samplr.kind=heun"], "unknown config key 'samplr'; did you mean sampler.*?"),
        (["task=Ünï"], """cannot read 'task=Ünï'; write task='"Ünï"'"""),
        (["task=a=b"], """cannot read 'task=a=b'; write task='"a=b"'"""),
        (["task=a\nb"], r"cannot read 'task=a\nb': leave out its control characters"),
        (["task=a,b"], """cannot read 'task=a,b'; write task='"a,b"'"""),
        (
            ["names=a,b"],
            """cannot read 'names=a,b'; write names='"a,b"', or as a list names=[a,b]""",
        ),
        (["experiment=5"], "a number or null is not a choice for experiment; give a file name"),
        (["names=[a"], "cannot read 'names=[a': no viable alternative at input '[a'"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(run, capsys, argv, line):
    with pytest.raises(SystemExit) as stop:
        run(*argv)
    captured = capsys.readouterr()
    assert stop.value.code == 2
    assert captured.err == f"error: {line}\n"
    assert captured.out == ""


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("names", True),
        ("sampler.betas", True),
        ("teacher.betas", True),  # of a group that may be missing
        ("task", False),
        ("sampler.kind", False),
        ("weights.flow", False),
        ("unknown", False),
    ],
)
def test_settings_that_take_a_list_are_known(key, expected):
    assert takes_list(Config, key) == expected


@pytest.mark.parametrize("argv", [["--checkpoint", ""], ["--checkpoint="], ["checkpoint=''"]])
def test_an_empty_value_is_no_default(run, capsys, argv):
    with pytest.raises(SystemExit):
        run(*argv)
    assert "checkpoint is empty" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("stepz: 3\n", "stepz"),
        ("steps: [1\n", "not YAML"),
        ("steps: many\n", "steps: Value 'many'"),
    ],
)
def test_a_mistake_in_an_experiment_file_is_one_line_too(run, capsys, text, part):
    def spoil(configs):
        (configs / "experiment" / "demo" / "debug.yaml").write_text(text)

    with pytest.raises(SystemExit):
        run("experiment=debug", after=spoil)
    error = capsys.readouterr().err
    assert part in error
    assert error.count("\n") == 1


def test_errors_of_main(run, capsys):
    def raises(error):
        def body(config):
            raise error

        return body

    with pytest.raises(SystemExit) as stop:
        run(body=raises(UserError("no such robot")))
    assert (stop.value.code, capsys.readouterr().err) == (2, "error: no such robot\n")
    with pytest.raises(SystemExit) as stop:
        run(body=raises(KeyboardInterrupt()))
    assert stop.value.code == 130
    assert capsys.readouterr().err == "interrupted; repeat the command to resume\n"
    with pytest.raises(ValueError, match="a bug"):
        run(body=raises(ValueError("a bug")))
    with pytest.raises(SystemExit) as stop:
        run(body=lambda config: 3)
    assert stop.value.code == 3


def test_help_shows_flags_experiments_and_options(run, capsys):
    assert run("--help") == []
    text = capsys.readouterr().out
    assert "--checkpoint VALUE" in text
    assert "experiment=debug  seconds, to try things" in text
    assert "num_steps: 5  # function evaluations" in text
    assert "defaults" not in text
    assert __doc__.strip() in text


def test_hydra_options_keep_their_values():
    argv = ["--cfg", "job", "-m", "--resolve", "a=1"]
    assert to_overrides(argv, (), "demo") == argv
