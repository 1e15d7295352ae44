"""Fill the templates in this folder, and write the pages."""

from pathlib import Path
from typing import Any

import jinja2
from plotly.offline import get_plotlyjs

from selfflow_robotics.errors import UserError
from selfflow_robotics.evaluation.results import write_whole


def fill(template: str, **values: Any) -> str:
    """A page from one of this folder's templates, with Plotly's script."""
    loader = jinja2.PackageLoader("selfflow_robotics", "evaluation/pages")
    environment = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True)
    return environment.get_template(template).render(plotly=get_plotlyjs(), **values)


def save(path: Path, page: str) -> None:
    """Write a page whole or not at all. Raises UserError if that fails."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, page)
    except OSError as error:
        raise UserError(f"cannot write {path} ({error.strerror}); choose output=...") from error
