"""Shared by the benchmarks' command lines: help with defaults, positive integers, and one-line
errors with exit code 2."""

import argparse
from collections.abc import Sequence
from typing import NoReturn

from selfflow_robotics.errors import UserError


class _Help(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """The description as it is written; every option's default unless it is None."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default is None else super()._get_help_string(action)


class Parser(argparse.ArgumentParser):
    def __init__(self, description: str | None) -> None:
        super().__init__(description=description, formatter_class=_Help)

    def error(self, message: str) -> NoReturn:
        """As argparse, without the usage above it."""
        self.exit(2, f"{self.prog}: error: {' '.join(message.split())}\n")


def positive(word: str) -> int:
    """The type of options that are whole numbers of at least one."""
    try:
        number = int(word)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, got '{word}'")
    return number


def check_unique(option: str, values: Sequence[object]) -> None:
    """Raise UserError for duplicates among the values of an option."""
    if len(set(values)) < len(values):
        raise UserError(f"--{option} has duplicates: {' '.join(map(str, values))}")


def check_name(name: str) -> None:
    """Raise UserError unless results can be called so."""
    if "/" in name or not name.strip(".") or not name.isprintable():
        raise UserError(f"--name must be a file name without a folder, got {name!r}")
