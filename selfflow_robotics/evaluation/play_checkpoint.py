"""Evaluate one checkpoint in a process of its own, for a training run (`during_training`).

    python -m selfflow_robotics.evaluation.play_checkpoint REQUEST

REQUEST is JSON: `checkpoint`, `result` (the file to write), `joint`, and `config`, the settings of
`during_training.DuringTrainingConfig`. The process ends when its standard input does, which is a
pipe from the training run.
"""

import json
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

import torch

from selfflow_robotics.envs.spec import SimplerInstall
from selfflow_robotics.envs.tasks.catalog import DEFAULT_TASK, get_tasks
from selfflow_robotics.errors import UserError
from selfflow_robotics.evaluation.domain import check_robot
from selfflow_robotics.evaluation.during_training import DuringTrainingConfig
from selfflow_robotics.evaluation.evaluate import evaluate_plan, make_plan
from selfflow_robotics.evaluation.protocol import tasks_of
from selfflow_robotics.evaluation.report import Rate
from selfflow_robotics.evaluation.results import folder_name, write_report
from selfflow_robotics.inference.bundle import load_bundle
from selfflow_robotics.policies.flow_policy import FlowPolicy
from selfflow_robotics.training.device import choose_device

USUAL_REPLAN_STEPS = 6


def play(checkpoint: Path, config: DuringTrainingConfig, root: Path, joint: bool) -> dict[str, Any]:
    """The result of a checkpoint, JSON-able: the success rate of each task. Its episodes go to
    folders in `root`. Raises UserError as `evaluate_plan`."""
    bundle = load_bundle(checkpoint, choose_device(config.device)).with_autoencoder()
    steps = config.replan_steps or min(USUAL_REPLAN_STEPS, bundle.horizon)
    policy = FlowPolicy(bundle, steps, joint=joint)
    data, started = policy.data_provenance, time.monotonic()
    names = config.task or str(data.get("task", DEFAULT_TASK))
    tasks = [own for one in get_tasks(names) for own in tasks_of(one, config.protocol)]
    rates, settings = {}, {"joint": True} if joint else {}
    for task in tasks:
        check_robot(task, data)
        plan = make_plan(config, task, data)
        kind = f"{plan.simulator}-{task.name}-{plan.protocol}"
        folder, report = evaluate_plan(
            config,
            plan,
            [policy],
            lambda settings, kind=kind: root / folder_name(kind, settings),
            replan_steps=steps,
            checkpoint=checkpoint,
            settings=settings,
        )
        rates[task.name] = {**rate_json(report.rate(policy.name)), "folder": folder.name}
    return {"seconds": round(time.monotonic() - started, 1), "tasks": rates}


def rate_json(rate: Rate) -> dict[str, Any]:
    """Success over the episodes that could be played, and Wilson's 95 % interval."""
    low, high = rate.interval
    return {
        "success": rate.successes / rate.count if rate.count else None,
        "low": low,
        "high": high,
        "episodes": rate.count,
        "errors": rate.errors,
    }


def end_with_input() -> None:
    """End this process when its standard input ends: the training run is gone."""

    def watch() -> None:
        while os.read(0, 1024):  # not sys.stdin, whose lock would stop the interpreter's shutdown
            pass
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def main(arguments: list[str]) -> int:
    """Exit code 0, or 2 after one line that says why there is no result."""
    request = json.loads(arguments[0])
    torch.set_num_threads(1)
    settings = request["config"]
    settings["simpler"] = SimplerInstall(**settings["simpler"])
    result = Path(request["result"])
    try:
        found = play(
            Path(request["checkpoint"]),
            DuringTrainingConfig(**settings),
            result.parent,
            request["joint"],
        )
        if not any(rate["episodes"] for rate in found["tasks"].values()):
            raise UserError("no episode could be played")
        write_report(result, {"checkpoint": request["checkpoint"], **found})
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    end_with_input()
    sys.exit(main(sys.argv[1:]))
