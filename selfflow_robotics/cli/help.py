"""Text of `--help`: the script's docstring, flags, experiments, choices and options."""

import textwrap
from collections.abc import Sequence
from pathlib import Path

import yaml

from selfflow_robotics.cli.arguments import Flag


def help_text(
    configs: Path, config_name: str, doc: str, flags: Sequence[Flag], modules: Sequence[str] = ()
) -> str:
    """Help of the command with config `<configs>/<config_name>.yaml`; `modules` define parts of its
    schema."""
    parts = [doc.strip()]
    if flags:
        rows = [(f"{f.name} VALUE", f.help or f"same as {f.config_key}=VALUE") for f in flags]
        parts.append("Flags:\n" + _table(rows))
    if experiments := headers(configs / "experiment" / config_name):
        rows = [(f"experiment={name}", header) for name, header in experiments]
        parts.append("Experiments (presets):\n" + _table(rows))
    for group in groups(configs, config_name):
        folder, _, _ = group.partition("@")  # group@key: where its settings go
        rows = [(f"{group}={name}", header) for name, header in headers(configs / folder)]
        parts.append(f"Choices of {group} (configs/{folder}):\n" + _table(rows))
    parts.append(
        f"Options (configs/{config_name}.yaml; change with key=value, nested ones a.b=value)"
        ":\n" + _indented(_without_defaults(configs / f"{config_name}.yaml"))
    )
    last = (
        "--cfg job prints all settings without running; -m key=a,b runs the command for each "
        "value; launch=slurm queues it on a cluster (docs/scale.md)."
    )
    if modules:
        files = ", ".join(f"{name.replace('.', '/')}.py" for name in modules)
        last += f" For settings not explained above, see the Config classes in {files}."
    parts.append(_filled(last, "  ", "  "))
    return "\n\n".join(parts)


def headers(folder: Path) -> list[tuple[str, str]]:
    """(name, first comment line) of each YAML file, ignoring hydra's "@package" line."""
    rows = []
    for path in sorted(folder.glob("*.yaml")):
        lines = path.read_text().removeprefix("# @package _global_\n").splitlines() or [""]
        rows.append((path.stem, lines[0].lstrip("# ").strip()))
    return rows


def groups(configs: Path, config_name: str) -> list[str]:
    """The config groups in the command's defaults list, by name."""
    defaults = yaml.safe_load((configs / f"{config_name}.yaml").read_text())["defaults"]
    words = [word for entry in defaults if isinstance(entry, dict) for word in entry]
    # An optional group follows the choice of another group.
    return [word for word in words if not word.startswith(("experiment/", "optional "))]


def _without_defaults(path: Path) -> str:
    """The YAML without hydra's defaults list."""
    kept, inside = [], False
    for line in path.read_text().splitlines():
        if line.startswith("defaults:"):
            inside = True
        elif inside and line.startswith((" ", "-")):
            continue
        else:
            inside = False
            kept.append(line)
    return "\n".join(kept).strip()


def _table(rows: list[tuple[str, str]]) -> str:
    width = max(len(left) for left, _ in rows)
    return "\n".join(
        _filled(right, f"  {left:<{width}}  ", " " * (width + 4)) for left, right in rows
    )


def _filled(text: str, first: str, later: str) -> str:
    return textwrap.fill(
        text, 100, initial_indent=first, subsequent_indent=later, break_on_hyphens=False
    )


def _indented(text: str) -> str:
    return "\n".join(f"  {line}" if line else "" for line in text.splitlines())
