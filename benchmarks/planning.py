"""Compare plans for this computer (`plan.machine=cpu`) with whole commands.

    python -m benchmarks.planning                  # minutes; one thread
    python -m benchmarks.planning --only width-192

For each case a process plans, and another runs the command for a few steps. Times are processor
time, which other programs on the computer change least: the plan's step time, and the median of the
steps after the first two, with reading, logging and metrics but without saving. Memory is the peak
of the resident memory of the whole command, which saves a checkpoint at its end.
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
from pathlib import Path
from typing import Any

from selfflow_robotics.cli.app import compose
from selfflow_robotics.cli.plan import plan_for_this_computer
from selfflow_robotics.training.metrics import MetricsLog

ROOT = Path(__file__).resolve().parents[1]
STEPS = 8
IMAGES = "pretrain/images.py"
CASES = {
    "width-192": (IMAGES, ["batch_size=32"]),
    "S": (IMAGES, ["size=S", "batch_size=8"]),
    "B": (IMAGES, ["size=B", "batch_size=2"]),
}
COMMON = [f"train.steps={STEPS}", f"train.save_every={STEPS}", "train.sample_every=0"]
COMMON += ["device=cpu", "precision=fp32", "threads=1", "name=planned"]


def planned(script: dict[str, Any], overrides: list[str]) -> dict[str, float]:
    """Seconds of a step and bytes of the peak, as `plan.machine=cpu` prints them."""
    main = script["main"]
    (config,) = compose(main.config_name, main.schema, overrides)
    seconds, memory = plan_for_this_computer(config, script["workload"](config)[0])
    return {"seconds": seconds.total, "bytes": memory.peak()} | seconds._asdict()


def measured(script: dict[str, Any], overrides: list[str]) -> dict[str, float]:
    """The same of the command itself."""
    times: list[float] = []
    write = MetricsLog.write

    def noting(self: MetricsLog, record: dict[str, Any]) -> None:
        times.append(time.process_time())
        write(self, record)

    MetricsLog.write = noting
    script["main"](overrides)
    steps = [after - before for before, after in itertools.pairwise(times[1:])]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"seconds": statistics.median(steps), "bytes": peak}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=CASES)
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.measure:
        how, name = options.measure
        path, overrides = CASES[name]
        script = runpy.run_path(str(ROOT / path), run_name="imported")
        told = {"planned": planned, "measured": measured}[how](script, [*overrides, *COMMON])
        print(json.dumps(told))
        return
    print("| command | step planned, s | measured | ratio | GB planned | measured | ratio |")
    print("|---|---|---|---|---|---|---|")
    for name in [options.only] if options.only else CASES:
        plan, found = (child(how, name) for how in ("planned", "measured"))
        cells = [name]
        for key, unit in (("seconds", 1), ("bytes", 1e9)):
            one, other = plan[key] / unit, found[key] / unit
            cells += [f"{one:.3g}", f"{other:.3g}", f"{one / other:.2f}"]
        print(f"| {' | '.join(cells)} |", flush=True)


def child(how: str, name: str) -> dict[str, float]:
    """What a process of its own tells."""
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.planning", "--measure", how, name],
            cwd=folder,
            capture_output=True,
            text=True,
            check=True,
        )
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    main()
