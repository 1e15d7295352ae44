"""TensorBoard and Weights & Biases, beside metrics.jsonl (train.log_to).

Both get the numbers of each line of metrics.jsonl; lists (losses by timestep, cosines by layer) are
only in metrics.jsonl and on the run page. Metrics of a step's role are named `loss/policy`. A
resumed run continues both without logging a step twice.
"""

import importlib.util
import json
import os
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import yaml

from selfflow_robotics.errors import UserError

Tracker = Literal["tensorboard", "wandb"]

# Metrics of the whole run, whatever role a step trains.
COMMON = {"lr_factor", "tokens_per_s", "samples_per_s", "step_s", "data_wait_s", "mfu"}
COMMON |= {"held_out_policy_loss"}  # of a checkpoint
EVALUATION = "evaluation/"  # how their names begin; they are of the whole run, too
PROJECT = "selfflow_robotics"


class Log(Protocol):
    """Something that gets the metrics of each logged step."""

    def write(self, step: int, numbers: dict[str, float]) -> None:
        """Log one step."""
        ...

    def close(self) -> None:
        """Write what is not yet written."""
        ...


def check_trackers(names: Sequence[Tracker]) -> None:
    """Raise UserError if a tracker is not installed or named twice."""
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise UserError(
                f"train.log_to={name} needs {name}: pip install 'selfflow_robotics[{name}]', or "
                "leave it out"
            )
    if len(set(names)) < len(names):
        raise UserError(f"train.log_to names a tracker twice: {', '.join(names)}")


def open_trackers(names: Sequence[Tracker], run: Path, resumed_step: int) -> list[Log]:
    """Open the trackers of a run that continues at `resumed_step` (0: from the start).

    Raises UserError if W&B refuses, for example without a login.
    """
    made: dict[Tracker, Any] = {"tensorboard": TensorBoard, "wandb": WandB}
    return [made[name](run, resumed_step) for name in names]


def numbers_of(record: dict[str, Any]) -> dict[str, float]:
    """The finite and infinite numbers of a line of metrics.jsonl, by name and role."""
    role = record.get("role")
    return {
        key
        if role is None or key in COMMON or key.startswith(EVALUATION)
        else f"{key}/{role}": float(value)
        for key, value in record.items()
        if key != "step" and type(value) in (int, float)
    }


class TensorBoard:
    """Event files in the run's folder `tensorboard/`."""

    def __init__(self, run: Path, resumed_step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        # TensorBoard hides what an interrupted run logged from this step on.
        purge = resumed_step if (run / "tensorboard").exists() else None
        self._writer = SummaryWriter(str(run / "tensorboard"), purge_step=purge)

    def write(self, step: int, numbers: dict[str, float]) -> None:
        for name, value in numbers.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class WandB:
    """A W&B run named like the run folder; W&B's own variables (WANDB_MODE, WANDB_PROJECT, ...)
    apply.

    wandb.json in the run folder keeps its id and the last logged step: W&B cannot take steps back,
    and what a resumed run repeats is already there.
    """

    def __init__(self, run: Path, resumed_step: int) -> None:
        import wandb  # pyright: ignore[reportMissingImports]

        self._path = run / "wandb.json"
        known = json.loads(self._path.read_text()) if self._path.exists() else {}
        self._last = known.get("last_step", -1) if resumed_step else -1
        # A run that starts again from step 0 is another one.
        self._id = known["id"] if resumed_step and known else secrets.token_hex(4)
        settings = run / "config.yaml"
        try:
            self._run = wandb.init(
                project=os.environ.get("WANDB_PROJECT", PROJECT),
                name=run.name,
                id=self._id,
                resume="allow",
                dir=str(run),
                settings=wandb.Settings(console="off"),
                config=yaml.safe_load(settings.read_text()) if settings.exists() else None,
            )
        except wandb.Error as error:
            raise UserError(
                f"W&B: {' '.join(str(error).split())}; log in with 'wandb login', or set "
                "WANDB_MODE=offline"
            ) from error
        self._remember()

    def write(self, step: int, numbers: dict[str, float]) -> None:
        if step > self._last:
            self._run.log(numbers, step=step)
            self._last = step
            self._remember()

    def close(self) -> None:
        self._run.finish()

    def _remember(self) -> None:
        unfinished = self._path.with_suffix(".tmp")
        unfinished.write_text(json.dumps({"id": self._id, "last_step": self._last}) + "\n")
        unfinished.replace(self._path)
