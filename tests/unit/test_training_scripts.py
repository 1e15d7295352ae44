"""The training commands on data and runs that are not as they should be."""

import runpy
from pathlib import Path

import pytest

from selfflow_robotics.data.rlds.writer import RldsWriter
from tests.rlds_sets import IMAGE_SIZE, make_steps

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def finetune():
    return runpy.run_path(str(ROOT / "finetune/rt1.py"), run_name="imported")["main"]


@pytest.fixture(scope="module")
def pretrain():
    return runpy.run_path(str(ROOT / "pretrain/run.py"), run_name="imported")["main"]


def write_set(root, instructions):
    with RldsWriter(root, "toy", "0.1.0", IMAGE_SIZE, {"simulator": "none"}, 4) as writer:
        for episode, words in enumerate(instructions):
            writer.write_episode(make_steps(episode, 5, words), {"success": True, "seed": episode})
        return writer.finish()


@pytest.mark.parametrize("command", ["finetune", "pretrain"])
def test_instructions_longer_than_the_network_reads_end_the_command(
    command, request, tmp_path, capsys
):
    long = "pick the green can and place it upright beside the plate"
    data = write_set(tmp_path / "data", ["pick coke can", f"{long} left", f"{long} right"])
    main = request.getfixturevalue(command)
    arguments = ["--data", str(data), f"runs_dir={tmp_path}/runs", "device=cpu"]
    with pytest.raises(SystemExit) as stop:
        main([*arguments, f"model.text_bytes={len(long)}"])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert f"{long} left" in error
    assert f"{long} right" in error
    assert f"model.text_bytes={len(long) + 6}" in error
