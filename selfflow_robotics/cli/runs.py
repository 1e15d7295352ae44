"""Run folders: `runs/<name>/` with config.yaml, run.json, metrics.jsonl and checkpoints/."""

import json
from pathlib import Path
from typing import Literal

from selfflow_robotics.errors import UserError


def latest_run(kind: Literal["pretrain", "finetune"], root: Path = Path("runs")) -> Path | None:
    """The newest run folder under `root` whose run.json says `kind`, or None.

    run.json is written by the training scripts: {"kind": ..., "created": ISO 8601 time, ...}.
    Folders without a readable run.json are no runs.
    """
    found = []
    for path in sorted(root.glob("*/run.json")):
        try:
            run = json.loads(path.read_text())
        except (OSError, ValueError):
            continue
        if isinstance(run, dict) and run.get("kind") == kind:
            found.append((str(run.get("created", "")), path.parent))
    return max(found)[1] if found else None


def find_checkpoint(given: str | None, kind: Literal["pretrain", "finetune"]) -> Path:
    """The checkpoint folder that is meant: `given` itself, the last one of a run folder `given`,
    or the last one of the latest run of this kind. Raises UserError if there is none."""
    run = Path(given) if given else latest_run(kind)
    if run is None:
        raise UserError(f"there is no {kind} run in runs/: train one, or give --checkpoint PATH")
    if not run.exists():
        raise UserError(f"there is no checkpoint at {run}")
    if not (run / "checkpoints").is_dir():
        return run
    steps = sorted((run / "checkpoints").glob("step_*"))
    if not steps:
        raise UserError(
            f"{run} has no checkpoint yet; repeat the training command to go on with it"
        )
    return steps[-1]


def run_of(checkpoint: Path) -> Path:
    """The run folder that a checkpoint lies in; the checkpoint's own folder if it is in none."""
    is_in_run = checkpoint.parent.name == "checkpoints"
    return checkpoint.parent.parent if is_in_run else checkpoint.parent
