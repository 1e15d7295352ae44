"""From what is typed to hydra's overrides: flags, quoting, the name `experiment`."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from selfflow_robotics.errors import UserError, unknown

# Hydra's own options; the second set takes a value that may be the next word.
HYDRA_SWITCHES = {
    *("--hydra-help", "--version", "--resolve", "--run", "-r", "--multirun", "-m"),
    *("--shell-completion", "-sc", "--info", "-i"),
}
HYDRA_OPTIONS = {"--cfg", "-c", "--package", "-p", "--config-dir", "-cd"}


@dataclass(frozen=True)
class Flag:
    """A first-class option of a script: `--name VALUE`, a spelling of the override `name=VALUE`."""

    name: str  # with the dashes
    key: str = ""  # config key, if it is not the name
    literal: bool = False  # quote the value: for paths and free text
    help: str = ""

    @property
    def config_key(self) -> str:
        return self.key or self.name.lstrip("-").replace("-", "_")

    def override(self, value: str) -> str:
        return f"{self.config_key}={quoted(value) if self.literal else value}"


def quoted(value: str) -> str:
    """`value` in hydra's single quotes, meaning exactly itself (no interpolation either)."""
    value = re.sub(r"(\\*)\$\{", lambda m: m.group(1) * 2 + r"\${", value)
    value = re.sub(r"(\\*)'", lambda m: m.group(1) * 2 + r"\'", value)
    value = re.sub(r"(\\+)$", lambda m: m.group(1) * 2, value)
    return f"'{value}'"


def to_overrides(argv: Sequence[str], flags: Sequence[Flag], config_name: str) -> list[str]:
    """`argv` with flags rewritten and `experiment=X` pointed at the command's own experiments.

    Hydra's own options come first: its parser takes all overrides in one run of words.

    Raises UserError for an option that neither the script nor hydra has, or one without a value.
    """
    by_name = {flag.name: flag for flag in flags}
    words, options, overrides = list(argv), [], []
    while words:
        word = words.pop(0)
        name, equals, value = word.partition("=")
        if name in by_name:
            if not equals:
                if not words or words[0].startswith("--"):
                    raise UserError(f"{name} needs a value: {name} VALUE")
                value = words.pop(0)
            overrides.append(by_name[name].override(value))
        elif name in HYDRA_OPTIONS:
            options += [word] if equals or not words else [word, words.pop(0)]
        elif word.startswith("-") and name not in HYDRA_SWITCHES:
            raise unknown("option", name, [*by_name, "--help", "--cfg", "--multirun"])
        elif word.startswith("-"):
            options.append(word)
        elif name.lstrip("+") == "experiment":
            overrides.append(f"experiment/{config_name}@_global_={value}")
        elif not equals and not word.startswith("~"):
            raise UserError(f"'{word}' is neither an option nor key=value; --help shows both")
        else:
            overrides.append(word)
    return options + overrides
