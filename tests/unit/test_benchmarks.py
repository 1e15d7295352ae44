"""The benchmarks' command lines: a mistake is one line and exit code 2, before any work."""

import json
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from benchmarks import (
    convergence,
    decoding,
    execution,
    latency,
    pretraining,
    rlds_index,
    speed,
    throughput,
)
from benchmarks.speed_sides import GROUPS, Setup, variants
from selfflow_robotics.errors import UserError
from selfflow_robotics.policies.execution import ExecutionConfig

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def refused(capsys):
    def run(main, *arguments):
        with pytest.raises(SystemExit) as stopped:
            main(arguments)
        line = capsys.readouterr().err
        assert stopped.value.code == 2
        assert line.count("\n") == 1
        return line

    return run


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--device", "foo"], "'foo' is unknown"),
        (["--device", "meta"], "'meta' is not supported"),
        (["--threads", "0"], "--threads: must be a whole number of at least 1, got '0'"),
        (["--sample-steps", "x"], "--sample-steps: must be"),
        (["--batch", "0"], "--batch: must be"),
        (["--quick", "--batch", "-1"], "--batch: must be"),
        (["--quick", "--rounds", "0"], "--rounds: must be"),
        (["--backbone", "foo"], "'flux'"),
        (["--backbone", "flux", "--size", "XL"], "--size of flux 'XL'"),
        (["--size", "625M"], "--size of sit '625M'"),
        (["--only", "foo"], "'optimiser and average'"),
        (["--output", ""], "must name a file"),
        (["--output", "file/y"], "cannot write --output file/y"),
        (["--output", "folder"], "cannot write --output folder"),
    ],
)
def test_speed_refuses(refused, arguments, says):
    Path("file").touch()
    Path("folder.json").mkdir()
    assert says in refused(speed.main, *arguments)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_speed_refuses_a_gpu_that_is_not_there(refused):
    assert "no GPU" in refused(speed.main, "--device", "cuda")


def test_speed_writes_what_it_was_told_to(capsys):
    threads = torch.get_num_threads()
    try:
        speed.main(["--quick", "--only", "teacher", "--batch", "3", "--output", "sp/a.b.c"])
    finally:
        torch.set_num_threads(threads)
    assert "| teacher | ours, fp32 | 3 |" in capsys.readouterr().out
    assert sorted(path.name for path in Path("sp").iterdir()) == ["a.b.c.json", "a.b.c.md"]
    assert json.loads(Path("sp/a.b.c.json").read_text())["rounds"] == "1"
    assert speed.writable(Path("sp/a.md")) == Path("sp/a")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--device", "foo"], "'foo' is unknown"),
        (["--size", "foo"], "--size: invalid choice"),
        (["--steps", "0"], "--steps: must be"),
        (["--horizon", "1"], "--horizon must be at least 2"),
        (["--quick", "--image-tokens", "0"], "--image-tokens: must be"),
    ],
)
def test_latency_refuses(refused, arguments, says):
    assert says in refused(latency.main, *arguments)


def test_latency_has_a_row_for_every_execution_and_kept_equals_recomputed(capsys):
    threads = torch.get_num_threads()
    try:
        latency.main(["--quick", "--steps", "2", "--samples", "1"])
    finally:
        torch.set_num_threads(threads)
    rows = [line.split(" | ") for line in capsys.readouterr().out.splitlines() if " | " in line]
    evaluations = {row[0].strip("| "): row[3] for row in rows if len(row) > 3}
    assert evaluations == {
        "execution": "evaluations", "receding": "2", "open_loop": "2", "rtc": "2", "ensemble": "2",
        "streaming": "1",
    }  # fmt: skip


@pytest.mark.parametrize("horizon", [4, 16])
def test_decoding_with_kept_keys_and_values_equals_recomputing_them(horizon):
    bundle = latency.random_bundle(latency.ALL_SIZES["tiny"], 32, horizon, torch.device("cpu"))
    decoding = latency.Decoding(bundle, num_steps=10)
    assert decoding.kept().abs().max() > 0.5
    torch.testing.assert_close(decoding.kept(), decoding.recomputed(), rtol=0, atol=1e-5)


def test_executions_refuse_a_run_that_is_not_there(refused):
    assert "no/where" in refused(execution.main, "--checkpoint", "no/where")


def test_every_execution_has_a_row_that_its_chunks_allow():
    for horizon in (6, 8, 16):
        for settings in execution.rows_of(horizon).values():
            how = {"replan_steps": 1, **settings}
            how["mode"] = how.pop("execution", "receding")
            assert ExecutionConfig(**how).build(SimpleNamespace(
                horizon=horizon, check_streaming=lambda: None
            )).steps >= 1  # fmt: skip


@pytest.fixture
def soak():
    for package in ("msgpack", "websockets"):
        pytest.importorskip(package, reason="the extra 'serve' is not installed")
    return import_module("benchmarks.soak")


@pytest.mark.parametrize("option", ["--minutes", "--clients", "--hz", "--messages"])
def test_soak_refuses(soak, refused, option):
    assert f"{option}: must be" in refused(soak.main, option, "0")


def test_soak_counts_what_a_server_answers(soak, capsys, monkeypatch):
    monkeypatch.setattr(soak, "MINUTE_S", 1.0)
    monkeypatch.setattr(soak, "QUIET_S", 0.2)
    monkeypatch.setattr(soak, "TURNS", 1)
    assert soak.main(["--minutes", "1", "--clients", "2", "--messages", "20"]) == 0
    out = capsys.readouterr().out
    assert "20 hostile messages" in out
    assert "; 0 errors" in out
    row = next(line for line in out.splitlines() if line.startswith("| 1 |"))
    assert int(row.split(" | ")[1]) > 0


def test_soak_finds_wrong_answers(soak):
    good = {"actions": np.zeros((6, 7), np.float32)}
    assert soak.fault(soak.pack(good, "bytes"), True) is None
    assert soak.fault(soak.pack({"payload": good}), False) is None
    for bad in ({}, {"actions": np.zeros((6, 6))}, {"actions": np.full((1, 7), np.nan)}):
        assert soak.fault(soak.pack(bad, "bytes"), True)
    assert soak.fault("error: refused", True) == "error: refused"


def test_groups_are_those_of_the_table():
    options = speed.argparse.Namespace(compile=False, sample_steps=1, batch=1)
    found = variants(Setup(speed.quick("flux"), (1, 2), torch.device("cpu")), options)
    assert tuple(dict.fromkeys(variant.group for variant in found)) == GROUPS


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--starts", "foo"], "'self_flow'"),
        (["--starts", "none", "none"], "--starts has duplicates: none"),
        (["--starts", "repa"], "add vanilla"),
        (["--starts", "none", "--probe"], "--probe needs a pretrained network"),
        (["--demonstrations", "50", "0"], "--demonstrations: must be"),
        (["--demonstrations", "301"], "--demonstrations must not exceed --recorded"),
        (["--jobs", "0"], "--jobs: must be"),
        (["--seeds", "0"], "--seeds: must be"),
        (["--steps", "0"], "--steps: must be"),
        (["--name", "a/b"], "without a folder, got 'a/b'"),
        (["--name", "a\nb"], "without a folder, got 'a\\nb'"),
    ],
)
def test_pretraining_refuses_before_it_records(refused, arguments, says):
    assert says in refused(pretraining.main, *arguments)
    assert not Path("runs").exists()


def test_pretraining_refuses_another_number_of_recorded_episodes(refused):
    pretraining.DEMONSTRATIONS.mkdir(parents=True)
    (pretraining.DEMONSTRATIONS / "dataset_info.json").touch()
    (pretraining.DEMONSTRATIONS / "metadata.json").write_text(json.dumps({"episodes": [{}] * 20}))
    line = refused(pretraining.main)
    assert "recorded with --recorded 20, not 300: say --recorded 20" in line


def test_pretraining_needs_matplotlib_from_the_start(refused, monkeypatch):
    monkeypatch.setattr(pretraining, "find_spec", lambda name: None)
    assert "pip install -e '.[benchmarks]'" in refused(pretraining.main)
    assert not Path("runs").exists()


def test_a_failing_command_of_pretraining_is_one_line(refused, monkeypatch, tmp_path):
    (tmp_path / "finetune").mkdir()
    (tmp_path / "finetune/collect.py").write_text(
        "import sys; print('so far, so good'); print('error: no room', file=sys.stderr); "
        "print('bye', file=sys.stderr); sys.exit(2)"
    )
    monkeypatch.setattr(pretraining, "ROOT", tmp_path)
    monkeypatch.setattr(pretraining, "find_spec", lambda name: name)
    line = refused(pretraining.main)
    assert "finetune/collect.py failed with exit code 2: no room" in line
    assert "runs/study/logs/demonstrations.txt" in line


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--of", "poems"], "invalid choice: 'poems'"),
        (["--objectives", "self_flow"], "add it to --objectives"),
        (["--objectives", "vanilla", "vanilla"], "has duplicates"),
        (["--steps", "100", "--milestones", "6"], "multiple of --milestones"),
        (["--depth", "2"], "no two layers"),
        (["--held-out", "48"], "needs --held-out 49"),
        (["--name", "a/b"], "without a folder"),
        (["--seeds", "0"], "--seeds: must be"),
    ],
)
def test_convergence_refuses_before_it_renders(refused, arguments, says):
    assert says in refused(convergence.main, *arguments)
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--networks", "big"], "invalid choice: 'big'"),
        (["--networks", "video", "video"], "has duplicates"),
        (["--name", ".."], "without a folder"),
        (["--episodes", "0"], "--episodes: must be"),
    ],
)
def test_decoding_refuses_before_it_records(refused, arguments, says):
    assert says in refused(decoding.main, *arguments)
    assert not Path("runs").exists()


def test_decoding_reports_every_seed():
    def row(won, lost, psnr):
        episodes = [True] * won + [False] * lost
        success = {"alone": episodes, "with frames": episodes[::-1]}
        return {"success": success, "psnr_db": {"one step": psnr}, "copy_psnr_db": [10.0, 9.0]}

    rows = {("video", 0): row(3, 1, [20.0, 19.0]), ("video", 1): row(1, 3, [22.0, 20.0])}
    table = decoding.report(rows, ["video"], 2)
    assert "50% [" in table
    assert "(75, 25)" in table
    found = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()]
    assert ["copy of the first frame", "10.00", "9.00", ""] in found
    assert ["video, one step", "21.00", "19.50", "19.00, 20.00"] in found


def test_convergence_finds_when_a_curve_reaches_the_target():
    times = [1.0, 2.0, 3.0]
    assert convergence.reached([5, 3, 1], 4, times) == pytest.approx(1.5)
    assert convergence.reached([5, 3, 1], 5, times) == 1.0
    assert convergence.reached([5, 3, 1], 0.5, times) == float("inf")


def test_convergence_does_not_mix_milestones(tmp_path):
    options = SimpleNamespace(depth=8, steps=60, milestones=3)
    run = convergence.run_folder(tmp_path, "vanilla", 0, options)
    run.mkdir(parents=True)
    rows = [{"step": step} for step in (20, 40, 60)]
    (run / "measured.json").write_text(json.dumps(rows))
    assert convergence.measured(tmp_path, "vanilla", 0, options) == rows
    options.milestones = 2
    with pytest.raises(UserError, match="take --milestones 3"):
        convergence.measured(tmp_path, "vanilla", 0, options)


def rows(values, seconds):
    return [
        {"step": 10 * (k + 1), "loss": value, "distance": value, "step_s": seconds}
        for k, value in enumerate(values)
    ]


def test_convergence_reports_shares_with_intervals():
    pytest.importorskip("matplotlib", reason="the extra 'benchmarks' is not installed")
    found = {("vanilla", 0): rows([4, 3, 2], 1.0), ("vanilla", 1): rows([4, 3, 2], 1.0)}
    found |= {("dts", 0): rows([3, 2, 1], 1.5), ("dts", 1): rows([5, 4, 3], 1.5)}
    table = convergence.report(found, ["vanilla", "dts"], 2, Path("made.v1"))
    vanilla, dts = table.splitlines()[2:]
    assert "| 1.00 | 2 +- 0 | 1.00 [1.00, 1.00] | 1.00 [1.00, 1.00] |" in vanilla
    # One seed is at 2 after two thirds of the steps, the other never, their mean at the end.
    assert "| 1.50 | 2 +- 1 | 1.00 [0.67, never] | 1.50 [1.00, never] |" in dts
    lines = Path("made.v1.csv").read_text().splitlines()
    assert lines[0] == "objective,seed,step,loss,distance,step_s"
    assert len(lines) == 13
    assert Path("made.v1.png").stat().st_size > 1000


def test_convergence_of_one_seed_has_no_intervals(monkeypatch):
    monkeypatch.setattr(convergence, "plot", lambda *arguments: None)
    found = {("vanilla", 0): rows([4, 3, 2], 1.0), ("dts", 0): rows([3, 2, 1], 1.5)}
    table = convergence.report(found, ["vanilla", "dts"], 1, Path("made"))
    assert table.splitlines()[3].startswith("| dts | 1.50 | 1 | 0.67 | 1.00 |")
    assert "[" not in table
    assert table.count("No intervals") == 1


@pytest.mark.parametrize("main", [speed.main, pretraining.main, convergence.main, decoding.main])
def test_help_has_the_defaults_and_the_examples_as_written(main, capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    text = capsys.readouterr().out
    assert sys.modules[main.__module__].__doc__.strip() in text
    assert "(default: " in text
    assert "None" not in text


@pytest.mark.parametrize("name", ["speed", "pretraining", "convergence", "decoding"])
def test_benchmarks_run_as_files(name):
    command = [sys.executable, str(ROOT / f"benchmarks/{name}.py"), "--help"]
    without = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(command, env=without, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "arguments", [["--task", "pick_coke"], ["--workers", "0"], ["--sim", "other"]]
)
def test_throughput_refuses(refused, arguments):
    refused(throughput.main, *arguments)


def test_throughput_has_a_row_per_number_of_workers(capsys):
    throughput.main(["--workers", "1", "2", "--episodes", "1", "--repeats", "1"])
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert [row.split("|")[1].strip() for row in rows[2:]] == ["1", "2"]
    assert all(float(cell) > 0 for row in rows[2:] for cell in row.split("|")[2:4])


def test_the_index_benchmark_opens_what_it_makes(tmp_path):
    rlds = rlds_index.make_set(tmp_path / "rlds", 6, 2, 3)
    for folder in (rlds, rlds_index.make_lerobot(rlds, tmp_path / "lerobot", "v2.1")):
        told = rlds_index.measure(folder, 1)
        assert told["wall_s"] > 0
        assert told["peak_mb"] > 0
