"""Evaluate checkpoints while training goes on (`train.evaluate_every`).

A child process of low priority loads the checkpoint and plays the same few episodes each time
(`evaluation.play_checkpoint`), so that training neither waits nor computes anything differently.
While it plays, the run keeps the checkpoint. If the next one is due before it has finished, only
the newest waits for its turn.

    eval/in_training/step_0000450.json   the result of a checkpoint, written last
    eval/in_training/SIM-TASK-.../       its episodes and report, as from eval/simpler.py
    eval/in_training/log.txt             what the last child printed

What was cut off goes on when the run's command is repeated: the ledger keeps the episodes.
"""

import json
import logging
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from selfflow_robotics.envs.tasks.catalog import get_tasks, own_names
from selfflow_robotics.errors import UserError, check_least
from selfflow_robotics.evaluation.results import IN_TRAINING
from selfflow_robotics.evaluation.settings import EpisodesConfig
from selfflow_robotics.json_file import read_json
from selfflow_robotics.training.checkpoint import MANIFEST
from selfflow_robotics.training.evaluator import Evaluator
from selfflow_robotics.training.loop import TrainConfig
from selfflow_robotics.training.trackers import EVALUATION

STEP = f"{EVALUATION}step"
NICENESS = 10  # of the child, whose simulators inherit it; training has 0
COMMAND = (sys.executable, "-m", "selfflow_robotics.evaluation.play_checkpoint")
CLOSE_S = 5.0

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class EvaluatedTrainConfig(TrainConfig):
    """`train` of a command that can evaluate."""

    evaluate_every: int = 0  # steps between evaluations; 0: none

    def __post_init__(self) -> None:
        super().__post_init__()
        check_least(self, 0, "evaluate_every", prefix="train.")


@dataclass(frozen=True, kw_only=True)
class DuringTrainingConfig(EpisodesConfig):
    """What each checkpoint plays; see configs/finetune.yaml."""

    task: str | None = None  # None: that of the training data
    num_episodes: int | None = 20
    videos: int = 0
    processes: int | None = 1
    replan_steps: int | None = None  # None: 6, or the whole chunk if it is shorter
    device: str = "cpu"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_least(self, 1, "replan_steps")
        if self.task is not None:
            object.__setattr__(self, "task", own_names(self.task))
            get_tasks(self.task)
        if self.stop != "never" or self.shard is not None:
            raise UserError("every checkpoint plays the same episodes; remove stop and shard")


class DuringTraining(Evaluator):
    """Use as a context manager, which ends the child."""

    def __init__(
        self,
        run: Path,
        config: DuringTrainingConfig,
        every: int,
        steps: int,
        joint: bool = False,
        command: Sequence[str] = COMMAND,
    ) -> None:
        """Of every `every`-th step, and the last of `steps`. `joint`: sample with the role joint.

        `command`: gets what to play as JSON, and writes the result.
        """
        self._run, self._config, self._every, self._steps = run, config, every, steps
        self._joint, self._command = joint, command
        self._folder = run / "eval" / IN_TRAINING
        self._child: subprocess.Popen | None = None
        self._playing: int | None = None  # a step
        self._waiting: int | None = None
        self._unlogged: list[int] = []  # steps with a result
        self._newest: dict[str, Any] = {}
        self._has_resumed = self._has_warned = self._has_left_out = False

    def __enter__(self) -> "DuringTraining":
        return self

    def __exit__(self, *_: object) -> None:
        if self._child is not None and self._child.poll() is None:
            _end(self._child)
            newer = self._waiting is not None
            logger.warning(
                "the evaluation of step %d was cut off; the repeated command %s",
                *(self._playing, "evaluates a newer one" if newer else "goes on with it"),
            )
        self._child = None

    @property
    def shown(self) -> dict[str, str]:
        if not self._newest:
            return {}
        rates = [value for key, value in self._newest.items() if key.endswith("/success")]
        text = "/".join("-" if rate is None else f"{100 * rate:.0f}" for rate in rates)
        return {"success": f"{text}% at {self._newest[STEP]}"}

    def is_due(self, step: int) -> bool:
        return step % self._every == 0 or step == self._steps

    def is_needed(self, step: int) -> bool:
        return step in (self._playing, self._waiting)

    def resume(self, step: int) -> None:
        """Take up the newest due checkpoint if it has no result, and log results that are not in
        metrics.jsonl. Results of later steps are forgotten: training repeats these."""
        self._has_resumed = True
        known = _steps(self._folder.glob("step_*.json"))
        for later in [one for one in known if one > step]:
            known.pop(later).unlink(missing_ok=True)
        self._unlogged = sorted(known.keys() - _logged_steps(self._run / "metrics.jsonl"))
        saved = _steps(path.parent for path in self._run.glob(f"checkpoints/*/{MANIFEST}"))
        newest = max((n for n in saved if self.is_due(n) and n <= step), default=None)
        if newest is not None and newest not in known:
            self._waiting = newest
            print(f"the checkpoint of step {newest} is still to be evaluated")

    def saving(self, step: int) -> None:
        if self._waiting is not None:
            self._leave_out(self._waiting)
        self._waiting = step

    def poll(self) -> dict[str, Any]:
        if self._child is not None and self._child.poll() is not None:
            self._finish(self._child.returncode)
        if self._child is None and self._is_written(self._waiting):
            self._begin()
        if not self._unlogged:
            return {}
        return self._metrics(self._unlogged.pop(0))

    def rest(self) -> Iterator[dict[str, Any]]:
        """The metrics of all results that are still to come; waits for them. Also of a run that
        has finished before."""
        if not self._has_resumed:
            self.resume(self._steps)
        while True:
            if found := self.poll():
                yield found
            elif self._child is None:
                return
            else:
                print(f"waiting for the evaluation of step {self._playing}")
                self._child.wait()

    def _is_written(self, step: int | None) -> bool:
        return step is not None and (self._checkpoint(step) / MANIFEST).exists()

    def _checkpoint(self, step: int) -> Path:
        return self._run / "checkpoints" / f"step_{step:07d}"

    def _result(self, step: int) -> Path:
        return self._folder / f"step_{step:07d}.json"

    def _begin(self) -> None:
        """Play the checkpoint that waits."""
        step = self._waiting
        assert step is not None
        request = {
            "checkpoint": str(self._checkpoint(step)),
            "result": str(self._result(step)),
            "joint": self._joint,
            "config": asdict(self._config),
        }
        self._playing, self._waiting = step, None
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with (self._folder / "log.txt").open("wb") as log:
                self._child = subprocess.Popen(
                    [*self._command, json.dumps(request)],
                    stdin=subprocess.PIPE,  # its end tells the child that training has ended
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,  # Ctrl-C is for training, which then ends the child
                    env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"},
                )
        except OSError as error:
            self._fail(step, str(error))
            return
        with suppress(OSError):  # it may have ended already
            os.setpriority(os.PRIO_PROCESS, self._child.pid, NICENESS)

    def _finish(self, status: int) -> None:
        step, self._child = self._playing, None
        assert step is not None
        if status or not self._metrics(step):
            self._fail(step, _last_line(self._folder / "log.txt") or f"exit status {status}")
            return
        self._playing = None
        self._unlogged.append(step)

    def _fail(self, step: int, why: str) -> None:
        """Training goes on. Later failures usually have the same cause: one warning is enough."""
        self._playing = None
        if not self._has_warned:
            self._has_warned = True
            logger.warning(
                "the evaluation of step %d failed (%s); training goes on. See %s",
                *(step, why, self._folder / "log.txt"),
            )

    def _leave_out(self, step: int) -> None:
        if not self._has_left_out:
            self._has_left_out = True
            logger.warning(
                "the checkpoint of step %d is not evaluated, as that of step %s takes longer than "
                "train.evaluate_every=%d steps; later ones are left out without a word",
                *(step, self._playing, self._every),
            )

    def _metrics(self, step: int) -> dict[str, Any]:
        """The metrics of a result; {} if there is none that can be read."""
        try:
            result = read_json(self._result(step))
            found = {STEP: step}
            for task, rate in result["tasks"].items():
                names = ("success", "low", "high", "episodes", "errors")
                found |= {f"{EVALUATION}{task}/{name}": rate[name] for name in names}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return {}
        self._newest = found
        return found


def result_text(metrics: dict[str, Any]) -> str:
    """The metrics of a result in one line."""
    rates = []
    for key in (key for key in metrics if key.endswith("/success")):
        task = key.removesuffix("/success")
        low, high, count = (metrics[f"{task}/{name}"] for name in ("low", "high", "episodes"))
        rate = "-" if metrics[key] is None else f"{100 * metrics[key]:.0f} %"
        name = task.removeprefix(EVALUATION)
        rates.append(f"{name} {rate} [{100 * low:.0f}, {100 * high:.0f}] in {count} episodes")
    return f"step {metrics[STEP]}: {', '.join(rates)}"


def _end(child: subprocess.Popen) -> None:
    """End a child and its simulators."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(child.pid, number)
        with suppress(subprocess.TimeoutExpired):
            child.wait(CLOSE_S)
            return


def _steps(paths: Iterable[Path]) -> dict[int, Path]:
    """The paths that are named after a step."""
    named = ((re.fullmatch(r"step_(\d+)", path.stem), path) for path in paths)
    return {int(match[1]): path for match, path in named if match}


def _logged_steps(path: Path) -> set[int]:
    """The steps whose results are in metrics.jsonl."""
    try:
        with path.open() as lines:
            return {json.loads(line).get(STEP) for line in lines if f'"{STEP}"' in line}
    except (OSError, ValueError, AttributeError):
        return set()


def _last_line(path: Path) -> str:
    try:
        lines = path.read_text(errors="replace").strip().splitlines()
    except OSError:
        return ""
    return lines[-1] if lines else ""
