"""Compare plans for this computer (`plan.machine=cpu`) with whole commands.

    python -m benchmarks.planning                  # minutes; one thread
    python -m benchmarks.planning --only width-192 demo

For each case, a process of its own runs the command for a few steps, and plans it in the seconds
after, so that other programs disturb both about equally. Times are processor time: the plan's step
time, and the median of the steps after the first two, with reading, logging and metrics. With
several roles, it is the mean of their medians, as the cases draw them equally often. Memory is the
peak of the resident memory of the whole command, which goes on training while it saves.
"""

import argparse
import itertools
import json
import resource
import runpy
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from selfflow_robotics.cli.app import compose
from selfflow_robotics.cli.plan import plan_for_this_computer, resident_bytes
from selfflow_robotics.training.metrics import MetricsLog

ROOT = Path(__file__).resolve().parents[1]
IMAGES, FINETUNE = "pretrain/images.py", "finetune/rt1.py"
ROLES = ("policy", "world_model", "joint", "inverse_dynamics", "video")
# The demo's network and batches; few episodes, and roles that few steps would not draw otherwise.
DEMO = [f"roles.{role}=1" for role in ROLES]
DEMO += ["collect.num_episodes=24", "play.num_episodes=12", "init=none"]
CASES = {  # name -> script, steps, settings
    "width-192": (IMAGES, 8, ["batch_size=32"]),
    "S": (IMAGES, 8, ["size=S", "batch_size=8"]),
    "B": (IMAGES, 8, ["size=B", "batch_size=2"]),
    "demo": (FINETUNE, 20, DEMO),
}


def settings_of(name: str) -> list[str]:
    """The overrides of a case."""
    _, steps, own = CASES[name]
    common = [f"train.steps={steps}", f"train.save_every={steps // 2}", "train.sample_every=0"]
    return [*own, *common, "device=cpu", "precision=fp32", "threads=1", f"name={name}"]


def compare(name: str) -> dict[str, tuple[float, float]]:
    """(planned, measured) seconds of a step, and bytes of the peak."""
    script = runpy.run_path(str(ROOT / CASES[name][0]), run_name="imported")
    before = resident_bytes()
    seconds, peak = measured(script, settings_of(name))
    main = script["main"]
    (config,) = compose(main.config_name, main.schema, settings_of(name))
    plan = plan_for_this_computer(config, script["workload"](config)[0], before)
    return {"seconds": (plan[0].total, seconds), "bytes": (plan[1], peak)}


def measured(script: dict[str, Any], overrides: list[str]) -> tuple[float, float]:
    """Seconds of a step of the command, and bytes of its peak."""
    times: list[tuple[float, str]] = []
    write = MetricsLog.write

    def noting(self: MetricsLog, record: dict[str, Any], roles: Any = ()) -> None:
        times.append((time.process_time(), roles[0].get("role", "")))
        write(self, record, roles)

    MetricsLog.write = noting
    script["main"](overrides)
    took = defaultdict(list)
    for (before, _), (after, role) in itertools.pairwise(times[1:]):
        took[role].append(after - before)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return statistics.mean(map(statistics.median, took.values())), peak


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=CASES, nargs="+", default=list(CASES))
    parser.add_argument("--child", choices=CASES, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.child:
        print(json.dumps(compare(options.child)))
        return
    print("| command | step planned, s | measured | ratio | GB planned | measured | ratio |")
    print("|---|---|---|---|---|---|---|")
    for name in options.only:
        with tempfile.TemporaryDirectory() as folder:
            call = [sys.executable, "-m", "benchmarks.planning", "--child", name]
            done = subprocess.run(call, cwd=folder, capture_output=True, text=True)
        if done.returncode:
            sys.exit(done.stderr[-2000:])
        found = json.loads(done.stdout.splitlines()[-1])
        cells = [name]
        for key, unit in (("seconds", 1), ("bytes", 1e9)):
            plan, real = found[key]
            cells += [f"{plan / unit:.3g}", f"{real / unit:.3g}", f"{plan / real:.2f}"]
        print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
