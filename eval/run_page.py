"""Plot a training run as one HTML page: curves, samples, settings and warnings.

    python eval/run_page.py                       # the newest run
    python eval/run_page.py --run runs/pretrain

The page is RUN/page.html, a single self-contained file. It shows the loss by step, timestep and
noise group, the teacher-student cosine, norm and diversity of the features, speed, samples and
configuration, with warnings at the top. It also works while the run is still training.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from selfflow_robotics.cli.app import Flag, hydra_app
from selfflow_robotics.cli.runs import Kind, runs_of_kind
from selfflow_robotics.errors import UserError
from selfflow_robotics.evaluation.pages.run_page import page_html, read_run
from selfflow_robotics.evaluation.pages.run_warnings import run_warnings
from selfflow_robotics.evaluation.pages.template import save


@dataclass(frozen=True)
class RunPageConfig:
    run: str | None = None
    runs_dir: str = "runs"
    output: str | None = None


@hydra_app(
    "run_page",
    RunPageConfig,
    flags=(Flag("--run", literal=True, help="a run folder"),),
)
def main(config: RunPageConfig) -> None:
    folder = Path(config.run) if config.run else newest_run(Path(config.runs_dir))
    run = read_run(folder)
    path = Path(config.output) if config.output else folder / "page.html"
    save(path, page_html(run))
    for warning in run_warnings(run.records):
        print(f"warning: {warning}")
    print(f"{len(run.records)} records, {len(run.samples)} images: {path}")


def newest_run(root: Path) -> Path:
    """The run with the latest log. Raises UserError if there is none."""
    logs = [
        log
        for kind in get_args(Kind)
        for run in runs_of_kind(kind, root)
        if (log := run / "metrics.jsonl").exists()
    ]
    if not logs:
        raise UserError(f"no run in {root}/ has logged anything; train one or give --run RUN")
    return max(logs, key=lambda log: log.stat().st_mtime).parent


if __name__ == "__main__":
    main()
