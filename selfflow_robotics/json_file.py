"""JSON files that anyone may have written: bounded before they are read."""

import json
from pathlib import Path
from typing import Any

MOST_BYTES = 1 << 28
MOST_LEVELS = 64


def read_text(path: Path, most_bytes: int = MOST_BYTES) -> str:
    """A regular file's text. Raises OSError, and ValueError where it is too large or no text."""
    if path.exists() and not path.is_file():  # a pipe would wait for a writer
        raise ValueError("no regular file")
    if (size := path.stat().st_size) > most_bytes:
        raise ValueError(f"{size} bytes are more than any such file has")
    return path.read_text()


def parse(text: str) -> Any:
    """What JSON text says. Raises ValueError where it says nothing, or is nested without end."""
    try:
        content = json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    level = [content]
    for _ in range(MOST_LEVELS):
        level = [child for value in level for child in _children(value)]
    if level:
        raise ValueError(f"nested more than {MOST_LEVELS} levels deep")
    return content


def read_json(path: Path, most_bytes: int = MOST_BYTES) -> Any:
    """What a JSON file says. Raises OSError and ValueError as `read_text` and `parse` do."""
    return parse(read_text(path, most_bytes))


def _children(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []
