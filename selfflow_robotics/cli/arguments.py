"""Turn command-line arguments into hydra overrides: flags, quoting, `experiment`."""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from selfflow_robotics.errors import UserError, unknown

# Hydra's options; those of the second set take a value, one of the listed choices if any.
HYDRA_SWITCHES = {
    *("--hydra-help", "--version", "--resolve", "--run", "-r", "--multirun", "-m"),
    *("--shell-completion", "-sc"),
}
CFG = ("job", "hydra", "all")
INFO = ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")
HYDRA_OPTIONS: dict[str, tuple[str, ...]] = {
    **{"--cfg": CFG, "-c": CFG, "--info": INFO, "-i": INFO},
    **dict.fromkeys(("--package", "-p", "--config-dir", "-cd"), ()),
}


@dataclass(frozen=True)
class Flag:
    """An option of a script: `--name VALUE` means the override `name=VALUE`.

    A name without dashes is an operand: the first word that is neither an option nor key=value.
    """

    name: str  # with the dashes
    key: str = ""  # config key, if different from the name
    literal: bool = False  # quote the value: for paths and free text
    help: str = ""

    @property
    def is_operand(self) -> bool:
        return not self.name.startswith("-")

    @property
    def config_key(self) -> str:
        return self.key or self.name.lstrip("-").replace("-", "_")

    def override(self, value: str) -> str:
        return f"{self.config_key}={quoted(value) if self.literal else value}"


def quoted(value: str) -> str:
    """`value` in hydra's single quotes, taken literally (no interpolation)."""
    value = re.sub(r"(\\*)\$\{", lambda m: m.group(1) * 2 + r"\${", value)
    value = re.sub(r"(\\*)'", lambda m: m.group(1) * 2 + r"\'", value)
    value = re.sub(r"(\\+)$", lambda m: m.group(1) * 2, value)
    return f"'{value}'"


def to_overrides(
    argv: Sequence[str], flags: Sequence[Flag], config_name: str, keys: Collection[str] = ()
) -> list[str]:
    """`argv` with flags rewritten and `experiment=X` resolved to the command's experiments.

    Hydra's options come first, since its parser expects all overrides in one block. `keys` are
    settings that users may mistake for options.

    Raises UserError for an unknown option, or one without a value.
    """
    by_name = {flag.name: flag for flag in flags if not flag.is_operand}
    operands = [flag for flag in flags if flag.is_operand]
    words, options, overrides = list(argv), [], []
    while words:
        word = words.pop(0)
        name, equals, value = word.partition("=")
        if name in by_name:
            if not equals:
                value = _next_value(words, name, "VALUE")
            _refuse_empty(name, value)
            overrides.append(by_name[name].override(value))
        elif name in HYDRA_OPTIONS:
            choices = HYDRA_OPTIONS[name]
            if not equals:
                value = _next_value(words, name, choices[0] if choices else "VALUE")
            if choices and value not in choices:
                raise UserError(f"{name} takes {', '.join(choices)}, not '{value}'")
            options += [word] if equals else [word, value]
        elif word.startswith("-") and name not in HYDRA_SWITCHES:
            key = name.lstrip("-").replace("-", "_")
            if key in keys:
                value = value if equals else (words or ["VALUE"])[0]
                raise UserError(f"{name} is a setting, not an option; write {key}={value}")
            raise unknown("option", name, [*by_name, "--help", "--cfg", "--multirun"])
        elif word.startswith("-"):
            options.append(word)
        elif operands and (not equals or Path(word).exists()) and not word.startswith("~"):
            _refuse_empty(operands[0].name, word)
            overrides.append(operands.pop(0).override(word))
        elif name.lstrip("+") == "experiment":
            overrides.append(f"experiment/{config_name}@_global_={value}")
        elif not equals and not word.startswith("~"):
            raise UserError(f"'{word}' is neither an option nor key=value; see --help")
        else:
            if name in {flag.config_key for flag in flags}:
                _refuse_empty(name, value.strip("'\""))
            overrides.append(word)
    return options + overrides


def _next_value(words: list[str], name: str, example: str) -> str:
    """The word after the option `name`, taken from `words`."""
    if not words or words[0].startswith("--"):
        raise UserError(f"{name} needs a value: {name} {example}")
    return words.pop(0)


def _refuse_empty(name: str, value: str) -> None:
    """Refuse an empty value: it would mean the default, but is usually an unset shell variable."""
    if not value.strip():
        raise UserError(
            f"{name} is empty (an unset shell variable?); give it a value or leave it out"
        )
