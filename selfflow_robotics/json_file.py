"""Read JSON files from untrusted sources, with size limits."""

import json
from pathlib import Path
from typing import Any

MOST_BYTES = 1 << 28
MOST_LEVELS = 64


def read_text(path: Path, most_bytes: int = MOST_BYTES) -> str:
    """The text of a regular file. Raises OSError, and ValueError if it is too large or not text."""
    if path.exists() and not path.is_file():  # a pipe would block
        raise ValueError("no regular file")
    if (size := path.stat().st_size) > most_bytes:
        raise ValueError(f"{size} bytes are too many for this kind of file")
    return path.read_text(encoding="utf-8")


def parse(text: str) -> Any:
    """Parse JSON text. Raises ValueError if it is invalid or nested too deeply."""
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
    """The content of a JSON file. Raises OSError and ValueError as `read_text` and `parse` do."""
    return parse(read_text(path, most_bytes))


def _children(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []
