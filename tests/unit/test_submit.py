"""launch=slurm: the words, and the batch script with shell scripts in place of SLURM's commands."""

import os
import shlex
import signal
import subprocess
import sys
import time

import pytest

from selfflow_robotics.cli.submit import LaunchConfig, batch_script, split_launch, submit
from selfflow_robotics.errors import UserError

COMMAND = ["pretrain/images.py", "--data", "my data", "name=a"]
# A run that saves for a moment once its step, that is scancel, tells it to stop.
RUN = """#!/bin/bash
[ -e fails ] && exit 3
trap 'sleep 0.2; echo > saved; exit 1' TERM
echo $$ > pid
echo "$@" > started
for n in $(seq 50); do [ -e done ] && exit 0; sleep 0.05; done
exit 9
"""
# Of SLURM's, scancel succeeds for a step that has not begun, and `scontrol show step` fails.
ASK = """#!/bin/bash
[ "$2" = hostnames ] && echo node1
[ "$1" = requeue ] && echo "$@" > requeued
[ "$1 $2 $3" = "show step 17.0" ] && [ ! -e queued ]
"""
STOP = """#!/bin/bash
echo "$@" > cancelled
[ -e refuses ] && exit 1
[ "$*" = "--signal=TERM 17.0" ] && kill -TERM "$(cat pid)"
"""
TOOLS = {
    "srun": RUN,
    "scancel": STOP,
    "scontrol": ASK,
    "sbatch": '#!/bin/bash\ncat > submitted\n[ -e full ] && { echo "queue is full" >&2; exit 1; }\n'
    'echo "Submitted batch job 17"\n',
}


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    for name, text in TOOLS.items():
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    for key, value in {"NODELIST": "node[1-2]", "ID": "17"}.items():
        monkeypatch.setenv(f"SLURM_JOB_{key}", value)
    monkeypatch.setenv("SLURM_NNODES", "2")
    return tmp_path


def started():
    script = batch_script(LaunchConfig("slurm", nodes=2, gpus=4), "a", COMMAND)
    return subprocess.Popen(["bash", "-c", script])


def wait_for(path):
    end = time.monotonic() + 20
    while not path.exists():
        assert time.monotonic() < end, f"{path} is missing"
        time.sleep(0.02)


def test_the_script_starts_the_command_on_every_node(cluster):
    (cluster / "done").touch()
    assert started().wait() == 0
    words = (cluster / "started").read_text()
    assert words.startswith(f"{sys.executable} -m torch.distributed.run --nproc-per-node=4")
    assert "--nnodes=2" in words
    assert "--rdzv-endpoint=node1:20017" in words
    assert words.endswith("pretrain/images.py --data my data name=a\n")
    assert not (cluster / "requeued").exists()


def test_before_the_time_is_up_the_run_saves_and_the_job_is_queued_again(cluster):
    job = started()
    wait_for(cluster / "started")
    job.send_signal(signal.SIGUSR1)
    job.wait()
    assert (cluster / "saved").exists()  # it waits for the run to end
    assert (cluster / "cancelled").read_text() == "--signal=TERM 17.0\n"
    assert (cluster / "requeued").read_text() == "requeue 17\n"


@pytest.mark.parametrize("why", ["queued", "refuses"])
def test_a_step_that_gets_no_signal_is_ended_and_queued_again(cluster, why):
    (cluster / why).touch()
    job = started()
    wait_for(cluster / "started")
    job.send_signal(signal.SIGUSR1)
    job.wait()
    assert (cluster / "saved").exists()  # srun itself was told
    assert (cluster / "cancelled").exists() == (why == "refuses")
    assert (cluster / "requeued").read_text() == "requeue 17\n"


def test_a_run_that_fails_is_not_queued_again(cluster):
    (cluster / "fails").touch()
    assert started().wait() == 3
    assert not (cluster / "requeued").exists()


def test_settings_become_options_of_sbatch():
    words = ["launch=slurm", "launch.nodes=2", "launch.hours=1.5", "launch.cpus=64"]
    words += ["launch.options.partition=h100", "a.launch=1"]
    job, others = split_launch(["--data", "d", *words])
    assert others == ["--data", "d", "a.launch=1"]
    assert job is not None
    options = [
        line.split()[1]
        for line in batch_script(job, "xl", COMMAND).splitlines()
        if line.startswith("#SBATCH")
    ]
    for option in ("nodes=2", "time=90", "cpus-per-task=64", "partition=h100", "job-name=xl"):
        assert f"--{option}" in options
    assert split_launch(["name=a"]) == (None, ["name=a"])
    words = batch_script(LaunchConfig("slurm", logs="my logs"), "my run", COMMAND).splitlines()
    told = [shlex.split(line)[1] for line in words if line.startswith("#SBATCH")]
    assert {"--job-name=my run", "--output=my logs/%j.txt"} <= set(told)


@pytest.mark.parametrize(
    "words",
    [
        ["launch.nodes=2"],
        ["launch=condor"],
        ["launch=slurm", "launch.nodes=0"],
        ["launch=slurm", "launch.nods=2"],
        ["launch=slurm", "launch.hours=0.01"],
        ["launch=slurm", "launch.options.comment='a b'"],
    ],
)
def test_wrong_settings_are_refused(words):
    with pytest.raises(UserError):
        split_launch(words)


def test_a_job_is_submitted(cluster, capsys):
    assert submit(LaunchConfig("slurm"), "a", COMMAND) == 0
    assert "launches/17.txt" in capsys.readouterr().out
    assert (cluster / "launches").is_dir()
    (cluster / "bin/sbatch").write_text(TOOLS["sbatch"].replace("job 17", "job 17 on cluster b"))
    assert submit(LaunchConfig("slurm"), "a", COMMAND) == 0
    assert "launches/17.txt" in capsys.readouterr().out
    assert (cluster / "submitted").read_text() == batch_script(LaunchConfig("slurm"), "a", COMMAND)
    (cluster / "full").touch()
    with pytest.raises(UserError, match="queue is full"):
        submit(LaunchConfig("slurm"), "a", COMMAND)


def test_without_a_cluster_the_script_can_be_printed(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="sbatch"):
        submit(LaunchConfig("slurm"), "a", COMMAND)
    assert submit(LaunchConfig("script"), "a", COMMAND) == 0
    assert capsys.readouterr().out.startswith("#!/bin/bash\n")
