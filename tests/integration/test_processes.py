"""Training commands under torchrun: two processes make one run."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("script", "run"),
    [
        ("pretrain/run.py", "debug-pretrain"),
        ("pretrain/images.py", "debug-images"),
        ("finetune/rt1.py", "debug-rt1"),
    ],
)
def test_two_processes_train_one_run(tmp_path, script, run):
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2",
         str(ROOT / script), "experiment=debug", "threads=1", "train.steps=4"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    lines = (tmp_path / "runs" / run / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [0, 1, 2, 3]
    assert (tmp_path / "runs" / run / "checkpoints/step_0000004").is_dir()
    assert done.stdout.count("done:") == 1
