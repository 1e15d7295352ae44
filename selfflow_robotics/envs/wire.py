"""Messages between a simulator's process and ours: JSON followed by raw arrays, no pickle.

A message is two little-endian integers (u32 length of the header, u64 length of the body), the
header (JSON), and the body (the arrays' bytes one after another). In the header an array is
`{"$array": [offset, dtype, shape]}`. The receiver only accepts the dtypes listed here and checks
all offsets, so a damaged message raises ValueError.
"""

import json
import os
import struct
from typing import Any

import numpy as np

DTYPES = {"bool", "uint8", "int32", "int64", "float32", "float64"}
PREFIX = struct.Struct("<IQ")
MAX_HEADER_BYTES = 1 << 26
MAX_BODY_BYTES = 1 << 32


def encode(value: Any) -> bytes:
    """`value` (dicts with str keys, lists, scalars, arrays) as one message."""
    arrays: list[np.ndarray] = []
    offset = 0

    def replace(item: Any) -> Any:
        nonlocal offset
        if isinstance(item, np.generic):
            return item.item()
        if not isinstance(item, np.ndarray):
            raise TypeError(f"{type(item).__name__} cannot be sent to another process")
        if item.dtype.name not in DTYPES:
            raise TypeError(f"arrays of {item.dtype} cannot be sent to another process")
        arrays.append(np.ascontiguousarray(item))
        start, offset = offset, offset + item.nbytes
        return {"$array": [start, item.dtype.name, list(item.shape)]}

    header = json.dumps(value, default=replace).encode()
    body = b"".join(array.tobytes() for array in arrays)
    return PREFIX.pack(len(header), len(body)) + header + body


def decode(header: bytes, body: bytes) -> Any:
    """The value of a message; its arrays are writable copies. Raises ValueError if damaged."""

    def restore(item: dict[str, Any]) -> Any:
        if "$array" not in item:
            return item
        offset, dtype, shape = item["$array"]
        if dtype not in DTYPES or offset < 0 or any(size < 0 for size in shape):
            raise ValueError(f"refused array header {item['$array']}")
        count = int(np.prod(shape, dtype=np.int64))
        return np.frombuffer(body, dtype, count, offset).reshape(shape).copy()

    return json.loads(header, object_hook=restore)


def lengths(prefix: bytes) -> tuple[int, int]:
    """Header and body length of the message that starts with `prefix`. Raises ValueError."""
    header, body = PREFIX.unpack(prefix)
    if header > MAX_HEADER_BYTES or body > MAX_BODY_BYTES:
        raise ValueError(f"refused a message of {header} + {body} bytes")
    return header, body


def read_message(fd: int) -> Any | None:
    """Block until a complete message has arrived; None at the end of the stream."""
    prefix = _read_exactly(fd, PREFIX.size)
    if prefix is None:
        return None
    header_length, body_length = lengths(prefix)
    content = _read_exactly(fd, header_length + body_length)
    return None if content is None else decode(content[:header_length], content[header_length:])


def write_message(fd: int, value: Any) -> None:
    """Write a complete message, blocking. Raises BrokenPipeError if the reader is gone."""
    rest = memoryview(encode(value))
    while rest:
        rest = rest[os.write(fd, rest) :]


def _read_exactly(fd: int, count: int) -> bytes | None:
    parts = []
    while count:
        part = os.read(fd, min(count, 1 << 20))
        if not part:
            return None
        parts.append(part)
        count -= len(part)
    return b"".join(parts)
