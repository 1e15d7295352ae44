"""`launch=slurm`: queue a command on a SLURM cluster instead of starting it here.

    python pretrain/images.py --data DIR experiment=imagenet256_xl launch=slurm launch.nodes=8

The batch script starts the command by torchrun on every node. Shortly before its time is up, SLURM
sends the script SIGUSR1: it ends the run, which saves a checkpoint, and queues the job again, where
the repeated command resumes. `launch=script` prints the script.
"""

import math
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from selfflow_robotics.cli.typed import build, explain, mirror
from selfflow_robotics.errors import UserError, check_least


@dataclass(frozen=True)
class LaunchConfig:
    """A job of a cluster; `launch.nodes=8` and so on."""

    launch: Literal["slurm", "script"]
    nodes: int = 1
    gpus: int = 8  # per node, each with a process; 0: one process without
    cpus: int | None = None  # per node
    hours: float = 24.0  # time limit
    save_s: int = 180  # so long before it, the run saves and the job is queued again
    logs: str = "launches"  # folder of what the job prints
    options: dict[str, str] = field(default_factory=dict)  # others of sbatch: partition, account

    def __post_init__(self) -> None:
        check_least(self, 1, "nodes", "cpus", "save_s", prefix="launch.")
        check_least(self, 0, "gpus", prefix="launch.")
        if not 60 * self.hours > self.save_s / 60:
            raise UserError(f"launch.hours={self.hours:g} is less than launch.save_s")
        for word in (*self.options, *self.options.values()):
            if not re.fullmatch(r"[\w.,:=@%/+*()\[\]-]+", str(word)):
                raise UserError(f"launch.options has '{word}', which is no option of sbatch")


def split_launch(arguments: Sequence[str]) -> tuple[LaunchConfig | None, list[str]]:
    """(the job that the words `launch=...` and `launch.key=...` describe; None without them, the
    other words). Raises UserError for wrong settings."""
    told = [word for word in arguments if word.startswith(("launch=", "launch."))]
    if not told:
        return None, list(arguments)
    words = [word if word.startswith("launch=") else word.removeprefix("launch.") for word in told]
    if not any(word.startswith("launch=") for word in words):
        raise UserError(f"{told[0]} needs launch=slurm, or launch=script to print the script")
    try:
        given = OmegaConf.from_dotlist(words)
        config = OmegaConf.merge(OmegaConf.structured(mirror(LaunchConfig)), given)
    except OmegaConfBaseException as error:
        raise explain(LaunchConfig, error) from None
    assert isinstance(config, DictConfig)
    return build(LaunchConfig, config), [word for word in arguments if word not in told]


def batch_script(job: LaunchConfig, name: str, command: Sequence[str]) -> str:
    """A script for sbatch that runs `command`, the words of a training command without Python."""
    options = {
        "job-name": shlex.quote(name),  # sbatch reads quotes as a shell does
        "nodes": job.nodes,
        "ntasks-per-node": 1,
        "gpus-per-node": job.gpus or None,
        "cpus-per-task": job.cpus,
        "time": f"{math.ceil(60 * job.hours)}",
        "signal": f"B:USR1@{job.save_s}",
        "open-mode": "append",
        "output": shlex.quote(f"{job.logs}/%j.txt"),
    }
    told = {key: value for key, value in options.items() if value is not None} | job.options
    lines = ["#!/bin/bash", "#SBATCH --requeue"]
    lines += [f"#SBATCH --{key}={value}" for key, value in told.items()]
    torchrun = [sys.executable, "-m", "torch.distributed.run"]
    torchrun += [f"--nproc-per-node={max(1, job.gpus)}", "--max-restarts=3"]
    return "\n".join(lines) + _BODY.format(
        save_s=job.save_s, torchrun=shlex.join(torchrun), command=shlex.join(command)
    )


# Restarts get a store of their own, without the addresses of dead processes; torchrun gives the run
# time to save. A srun that gets SIGTERM kills its tasks at once, so scancel sends it to the tasks
# instead: to all processes of step 0, the only one. If that has not begun, there is nothing to
# save; scancel then succeeds without doing anything, so scontrol is asked first.
_BODY = """
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 TORCH_ELASTIC_SHUTDOWN_TIMEOUT={save_s}
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
stopped=
stop() {{
    stopped=yes
    scontrol show step "$SLURM_JOB_ID.0" >/dev/null 2>&1 &&
        scancel --signal=TERM "$SLURM_JOB_ID.0" || kill -TERM "$run"
}}
trap stop USR1
srun ${{SLURM_CPUS_PER_TASK:+--cpus-per-task=$SLURM_CPUS_PER_TASK}} \\
    {torchrun} --nnodes="$SLURM_NNODES" --rdzv-backend=c10d \\
    --rdzv-endpoint="$head:$((20000 + SLURM_JOB_ID % 20000))" --rdzv-id="$SLURM_JOB_ID" \\
    {command} &
run=$!
wait "$run"
code=$?
if [ "$stopped" ]; then  # the signal interrupted `wait`
    wait "$run"
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
"""


def submit(job: LaunchConfig, name: str, command: Sequence[str]) -> int:
    """Queue a job that runs `command`, or print its script; returns an exit code.

    Raises UserError if SLURM is missing or refuses the job.
    """
    script = batch_script(job, name, command)
    if job.launch == "script":
        print(script, end="")
        return 0
    if shutil.which("sbatch") is None:
        raise UserError(
            "launch=slurm needs sbatch, which is missing; run it on a login node of the cluster"
        )
    Path(job.logs).mkdir(parents=True, exist_ok=True)  # sbatch does not
    done = subprocess.run(["sbatch"], input=script, capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"sbatch refused the job: {' '.join(done.stderr.split())}")
    number = re.search(r"\d+", done.stdout)  # "Submitted batch job 17 on cluster b"
    log = f"{job.logs}/{number[0] if number else '*'}.txt"
    print(f"{done.stdout.strip()}; its output: {log}")
    return 0
