"""Messages between policy servers and clients: msgpack with numpy arrays, no pickle.

openpi and vla-eval encode arrays as the same map, openpi with bytes as its keys, vla-eval with
strings. `unpack` reads both, `pack` writes either:

| key         | value                                     |
|-------------|-------------------------------------------|
| __ndarray__ | true                                      |
| data        | the elements' bytes, in C order           |
| dtype       | numpy's `dtype.str`, one of `DTYPES`      |
| shape       | list of sizes                             |

A scalar of numpy's is `{__npgeneric__: true, data: number, dtype}` (openpi only). vla-eval sends
images as `{__image__: true, format: "png", "jpeg" or "raw", data, shape}`, with a dtype if raw;
encoded ones become an `EncodedImage`, which is only decoded if someone asks for its pixels.

Other keys become strings. A message may come from anybody: it is checked before memory is spent on
it, and everything that is wrong with it raises `MessageError`.
"""

import math
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from selfflow_robotics.errors import UserError
from selfflow_robotics.messages.images import EncodedImage, MessageError

try:
    import msgpack
except ImportError:
    raise UserError(
        "policy servers and their clients need msgpack and websockets: pip install "
        "'selfflow_robotics[serve]'"
    ) from None

__all__ = ["DTYPES", "MAX_BYTES", "EncodedImage", "Keys", "MessageError", "pack", "unpack"]

# Booleans, integers and floats, little-endian. Never object: its elements would be pointers.
DTYPES = frozenset(
    ("|b1", "|i1", "|u1", "<i2", "<u2", "<i4", "<u4", "<i8", "<u8", "<f2", "<f4", "<f8")
)
MAX_BYTES = 8 << 20  # of a message; a raw camera image of 1920 x 1080 has 6.2 million
MAX_DIMENSIONS = 8
# An empty list takes one byte in a message and 56 in memory.
MAX_CONTAINERS, MAX_ITEMS = 10_000, 100_000

Keys = Literal["bytes", "str"]  # of the maps that encode arrays


def pack(value: Any, keys: Keys = "str") -> bytes:
    """`value` (dicts, lists, str, bytes, numbers, None, numpy arrays and scalars) as one message.

    Raises TypeError for other types, and for arrays that are not of `DTYPES`.
    """
    packer = msgpack.Packer(default=_encode_bytes if keys == "bytes" else _encode_str)
    return bytes(packer.pack(value))


def unpack(data: bytes) -> Any:
    """The value of a message; its arrays are read-only views of `data`.

    Raises MessageError for anything but one complete message within the limits.
    """
    if len(data) > MAX_BYTES:
        raise MessageError(f"a message has at most {MAX_BYTES} bytes, got {len(data)}")
    budget = _Budget()
    try:
        return msgpack.unpackb(
            data,
            object_hook=budget.map,
            list_hook=budget.list,
            ext_hook=_refuse_extension,
            strict_map_key=False,
            max_array_len=MAX_ITEMS,
            max_map_len=MAX_ITEMS,
        )
    except MessageError:
        raise
    except (ValueError, TypeError, RecursionError, OverflowError) as error:
        # msgpack's own exceptions are ValueErrors; a TypeError is an unhashable key.
        cause = " ".join(str(error).split()) or type(error).__name__
        raise MessageError(f"not a msgpack message ({cause[:100]})") from None


class _Budget:
    """Decodes the maps of one message, and counts what it consists of."""

    def __init__(self) -> None:
        self.containers = self.items = 0

    def list(self, value: list) -> list:
        self._spend(len(value))
        return value

    def map(self, value: dict) -> Any:
        self._spend(len(value))
        value = {_text(key): item for key, item in value.items()}
        if "__ndarray__" in value:
            return _array(value)
        if "__npgeneric__" in value:
            return _scalar(value)
        if "__image__" in value:
            return _image(value)
        return value

    def _spend(self, items: int) -> None:
        self.containers += 1
        self.items += items
        if self.containers > MAX_CONTAINERS or self.items > MAX_ITEMS:
            raise MessageError(
                f"a message has at most {MAX_CONTAINERS} maps and lists with {MAX_ITEMS} items"
            )


def _encode_bytes(value: Any) -> Any:
    if isinstance(value, np.generic):
        return {b"__npgeneric__": True, b"data": value.item(), b"dtype": _checked(value)}
    return {key.encode(): item for key, item in _encoded(value).items()}


def _encode_str(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else _encoded(value)


def _encoded(value: Any) -> dict[str, Any]:
    if not isinstance(value, np.ndarray):
        raise TypeError(f"{type(value).__name__} cannot be sent in a message")
    value = value.astype(value.dtype.newbyteorder("<"), copy=False)
    return {
        "__ndarray__": True,
        "data": value.tobytes(),
        "dtype": _checked(value),
        "shape": list(value.shape),
    }


def _checked(value: np.ndarray | np.generic) -> str:
    if value.dtype.str not in DTYPES:
        raise TypeError(f"arrays of {value.dtype} cannot be sent in a message")
    return value.dtype.str


def _array(value: Mapping[str, Any]) -> np.ndarray:
    data, dtype, shape = value.get("data"), _dtype(value), value.get("shape")
    if not isinstance(data, bytes) or not isinstance(shape, list):
        raise MessageError("an array needs data (bytes) and shape (a list)")
    if len(shape) > MAX_DIMENSIONS or not all(type(size) is int and size >= 0 for size in shape):
        raise MessageError(f"refused an array of shape {str(shape)[:100]}")
    if math.prod(shape) * dtype.itemsize != len(data):
        raise MessageError(f"an array of {dtype} {shape} does not have {len(data)} bytes")
    # `np.ndarray(buffer=...)` would accept object arrays; `frombuffer` never does.
    return np.frombuffer(data, dtype).reshape(shape)


def _scalar(value: Mapping[str, Any]) -> np.generic:
    number = value.get("data")
    if not isinstance(number, bool | int | float):
        raise MessageError("a scalar needs data (a number)")
    try:
        return _dtype(value).type(number)
    except (OverflowError, ValueError) as error:
        raise MessageError(f"a scalar does not fit its dtype ({error})") from None


def _image(value: Mapping[str, Any]) -> "np.ndarray | EncodedImage":
    if value.get("format") == "raw":
        return _array(value)
    data, shape = value.get("data"), value.get("shape")
    if value.get("format") not in ("png", "jpeg") or not isinstance(data, bytes):
        raise MessageError("an image needs data (bytes) and format (png, jpeg or raw)")
    if shape is not None and not isinstance(shape, list):
        raise MessageError("an image's shape is a list")
    return EncodedImage(data, None if shape is None else tuple(shape))


def _dtype(value: Mapping[str, Any]) -> np.dtype:
    name = value.get("dtype")
    name = name.decode("latin-1") if isinstance(name, bytes) else name
    if not isinstance(name, str) or name not in DTYPES:
        raise MessageError(f"refused an array of dtype {str(name)[:50]!r}")
    return np.dtype(name)


def _text(key: Any) -> str:
    if isinstance(key, bytes):
        try:
            return key.decode()
        except UnicodeDecodeError:
            raise MessageError("a key is not text") from None
    if not isinstance(key, str):
        raise MessageError(f"a key is {type(key).__name__}, not text")
    return key


def _refuse_extension(code: int, _: bytes) -> Any:
    raise MessageError(f"refused msgpack extension type {code}")
