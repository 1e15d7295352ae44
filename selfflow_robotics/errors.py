"""The one exception that a command line shows as a single line instead of a traceback."""

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any


class UserError(Exception):
    """Invalid user input.

    The message is one line: what is wrong, where, and how to fix it. Commands print it to stderr
    and exit with status 2 (`cli.app`); library callers catch it like any other exception. `advice`,
    if any, is printed above that line.
    """

    advice: str | None = None


def unknown(kind: str, word: str, options: Iterable[str]) -> UserError:
    """The error for a name that is not in `options`, with suggestions."""
    options = sorted(options)
    near = get_close_matches(word, options, n=3, cutoff=0.5)
    if near:
        return UserError(f"unknown {kind} '{word}'; did you mean {' or '.join(near)}?")
    return UserError(f"unknown {kind} '{word}'; there are: {', '.join(options) or 'none'}")


def check_least(settings: Any, least: int, *names: str, prefix: str = "") -> None:
    """Raise UserError for the first of these settings that is below `least`; None passes."""
    for name in names:
        value = getattr(settings, name)
        if value is not None and value < least:
            raise UserError(f"{prefix}{name} must be at least {least}, got {value}")
