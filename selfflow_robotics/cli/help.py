"""What `--help` prints: the script's docstring, its flags, its experiments, its options."""

from collections.abc import Sequence
from pathlib import Path

from selfflow_robotics.cli.arguments import Flag


def help_text(configs: Path, config_name: str, doc: str, flags: Sequence[Flag]) -> str:
    """The help of the command whose config is `<configs>/<config_name>.yaml`."""
    parts = [doc.strip()]
    if flags:
        rows = [(f"{f.name} VALUE", f.help or f"same as {f.config_key}=VALUE") for f in flags]
        parts.append("Flags:\n" + _table(rows))
    experiments = experiment_headers(configs, config_name)
    if experiments:
        rows = [(f"experiment={name}", header) for name, header in experiments]
        parts.append("Experiments (settings for a purpose):\n" + _table(rows))
    parts.append(
        f"Options (configs/{config_name}.yaml; change with key=value, nested ones a.b=value)"
        ":\n" + _indented(_without_defaults(configs / f"{config_name}.yaml"))
    )
    parts.append(
        "  --cfg job prints the whole configuration without running it; -m key=a,b runs each."
    )
    return "\n\n".join(parts)


def experiment_headers(configs: Path, config_name: str) -> list[tuple[str, str]]:
    """(name, first comment line) of each experiment of the command."""
    return [
        (path.stem, path.read_text().partition("\n")[0].lstrip("# ").strip())
        for path in sorted((configs / "experiment" / config_name).glob("*.yaml"))
    ]


def _without_defaults(path: Path) -> str:
    """The YAML without its defaults list, which is hydra's business and nobody else's."""
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
    return "\n".join(f"  {left:<{width}}  {right}" for left, right in rows)


def _indented(text: str) -> str:
    return "\n".join(f"  {line}" if line else "" for line in text.splitlines())
