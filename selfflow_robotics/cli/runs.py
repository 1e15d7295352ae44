"""Run folders: `runs/<name>/` with config.yaml, run.json, metrics.jsonl and checkpoints/."""

import json
from pathlib import Path
from typing import Literal


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
