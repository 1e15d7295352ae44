"""Convert OmegaConf configurations to the frozen dataclasses that the code uses.

OmegaConf checks names and types of overrides, but it does not support `Literal`, turns tuples into
lists, locks everything below a frozen dataclass and accepts keys added with a plus sign. So it gets
a mutable copy of each dataclass (`mirror`), and `build` constructs the result from the type hints,
with errors that name the key.
"""

import dataclasses
import functools
import math
import re
import types
from difflib import get_close_matches
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from selfflow_robotics.errors import UserError, unknown


@functools.cache
def mirror(schema: type) -> type:
    """A mutable copy of the dataclass: same names, types that OmegaConf supports, no checks."""
    hints = get_type_hints(schema)
    fields = []
    for field in dataclasses.fields(schema):
        hint = _mirror_hint(hints[field.name])
        if field.default_factory is not dataclasses.MISSING:
            spec = dataclasses.field(default_factory=_mirrored(field.default_factory))
        elif field.default is dataclasses.MISSING:
            spec = dataclasses.field(default="???")  # OmegaConf's marker for a required value
        elif dataclasses.is_dataclass(field.default):
            spec = dataclasses.field(default_factory=_mirrored(lambda value=field.default: value))
        else:
            spec = dataclasses.field(default=field.default)
        fields.append((field.name, hint, spec))
    return dataclasses.make_dataclass(schema.__name__, fields)


def _mirror_hint(hint: Any) -> Any:
    if dataclasses.is_dataclass(hint):
        return mirror(hint)
    origin: Any = get_origin(hint)
    args = get_args(hint)
    if origin is Literal:
        return type(args[0])
    if origin in (Union, types.UnionType):
        if _list_arm(args) is not None and len({*args} - {types.NoneType}) > 1:
            return Any  # OmegaConf has no union of a text and a list; `_build` checks it
        return Union[tuple(_mirror_hint(arg) for arg in args)]  # noqa: UP007
    if origin in (tuple, list, dict):
        plain = (arg if arg is Ellipsis else _mirror_hint(arg) for arg in args)
        return types.GenericAlias(origin, tuple(plain))
    return hint


def _mirrored(make: Any) -> Any:
    def twin() -> Any:
        return _mirror_value(make())

    return twin


def _mirror_value(value: Any) -> Any:
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        return value
    values = {f.name: _mirror_value(getattr(value, f.name)) for f in dataclasses.fields(value)}
    return mirror(type(value))(**values)


def build(schema: type, config: DictConfig) -> Any:
    """An instance of `schema` from the composed `config`.

    Raises UserError, naming the key, for an unknown key, for a value that is missing, not in its
    `Literal`, of the wrong length or not finite, and for errors of `__post_init__`.
    """
    try:
        values = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except MissingMandatoryValue as error:
        raise UserError(f"'{error.full_key}' must be given: {error.full_key}=...") from None
    except OmegaConfBaseException as error:
        raise explain(schema, error) from None
    return _build(schema, values, "")


def _build(hint: Any, value: Any, key: str) -> Any:
    origin, args = get_origin(hint), get_args(hint)
    if isinstance(hint, type) and dataclasses.is_dataclass(hint) and isinstance(value, dict):
        return _build_dataclass(hint, value, key)
    if origin in (Union, types.UnionType) and value is not None:
        given = [arg for arg in args if arg is not type(None)]
        if len(given) == 1:
            return _build(given[0], value, key)
        if (many := _list_arm(given)) is not None:
            return _build_one_or_more(given, many, value, key)
        return value
    if origin is Literal and value not in args:
        raise _at(key, str(unknown("value", str(value), map(str, args))))
    if origin is tuple and value is not None:
        item_hints = [args[0]] * len(value) if args[-1] is Ellipsis else args
        if len(value) != len(item_hints):
            raise _at(key, f"takes {len(item_hints)} values, got {len(value)}")
        return tuple(
            _build(h, v, f"{key}[{i}]")
            for i, (h, v) in enumerate(zip(item_hints, value, strict=True))
        )
    if origin is list and value is not None:
        return [_build(args[0], item, f"{key}[{i}]") for i, item in enumerate(value)]
    if origin is dict and value is not None:
        return {name: _build(args[1], item, f"{key}.{name}") for name, item in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        raise _at(key, f"must be finite, got {value}")
    return value


def _list_arm(args: Any) -> Any:
    """The tuple or list among the arms of a union; None if there is none."""
    return next((arg for arg in args if get_origin(arg) in (tuple, list)), None)


def _build_one_or_more(given: list[Any], many: Any, value: Any, key: str) -> Any:
    """A value of `str | tuple[str, ...]` or the like."""
    plain = tuple(arg for arg in given if arg is not many)
    items = value if isinstance(value, list) else [value]
    if not all(isinstance(item, plain) for item in items):
        names = " or ".join("text" if arg is str else arg.__name__ for arg in plain)
        raise _at(key, f"takes one {names} or a list of them, got {value}")
    return _build(many, value, key) if isinstance(value, list) else value


def _build_dataclass(schema: type, values: dict[str, Any], key: str) -> Any:
    hints = get_type_hints(schema)
    names = [field.name for field in dataclasses.fields(schema)]
    for name in values:
        if name not in names:
            raise unknown("config key", f"{key}.{name}".lstrip("."), _prefixed(key, names))
    built = {n: _build(hints[n], v, f"{key}.{n}".lstrip(".")) for n, v in values.items()}
    try:
        return schema(**built)
    except ValueError as error:
        raise _at(key, str(error)) from None


def _prefixed(key: str, names: list[str]) -> list[str]:
    return [f"{key}.{name}".lstrip(".") for name in names]


def _at(key: str, message: str) -> UserError:
    return UserError(f"{key}: {message}" if key else message)


def keys_of(schema: type, prefix: str = "") -> list[str]:
    """Every dotted key of the dataclass, leaves and branches."""
    hints = get_type_hints(schema)
    keys = []
    for field in dataclasses.fields(schema):
        key = prefix + field.name
        keys.append(key)
        for part in (hints[field.name], *get_args(hints[field.name])):
            if isinstance(part, type) and dataclasses.is_dataclass(part):
                keys += keys_of(part, key + ".")
    return keys


def takes_list(schema: type, key: str) -> bool:
    """Whether the setting `key` is a list or tuple, or may be one."""
    name, _, inner = key.partition(".")
    hint = get_type_hints(schema).get(name)
    arms = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    if not inner:
        return _list_arm(arms) is not None
    groups = (arm for arm in arms if isinstance(arm, type) and dataclasses.is_dataclass(arm))
    return any(takes_list(group, inner) for group in groups)


def modules_of(schema: type) -> list[str]:
    """The modules of the dataclasses nested in `schema`, except its own."""
    modules = []
    for hint in get_type_hints(schema).values():
        for part in (hint, *get_args(hint)):
            if isinstance(part, type) and dataclasses.is_dataclass(part):
                modules += [part.__module__, *modules_of(part)]
    return [name for name in dict.fromkeys(modules) if name != schema.__module__]


def nearest_keys(schema: type, key: str) -> list[str]:
    """Similar keys, compared as a whole or by their last part."""
    keys = keys_of(schema)
    near = get_close_matches(key, keys, n=3, cutoff=0.8)
    last = {k.rpartition(".")[2]: k for k in reversed(keys)}
    near += [last[k] for k in get_close_matches(key.rpartition(".")[2], last, n=3, cutoff=0.6)]
    return list(dict.fromkeys(near))[:3]


def explain(schema: type, error: OmegaConfBaseException, typed: str = "") -> UserError:
    """OmegaConf's error in one line; `typed` is the value concerned, if known."""
    key, parent = error.full_key or "", error.parent_node
    if isinstance(parent, DictConfig) and parent._metadata.object_type is dict:
        group, _, name = key.rpartition(".")  # its keys are free, so the schema does not list them
        if name in parent:
            return _at(key, str(error.msg or error).splitlines()[0])
        return _at(group, str(unknown("key", name, map(str, parent))))
    return complaint(schema, key, str(error.msg or error), typed)


def complaint(schema: type, key: str, text: str, typed: str = "") -> UserError:
    """The error for `key`: suggestions if it is unknown, else `text`."""
    keys = keys_of(schema)
    if key in keys and "is not a ListConfig" in text:
        return _at(key, f"takes a list; write {key}=[{typed or '...'}]")
    if key in keys and re.search("not a subclass|to Dict|Cannot merge DictConfig", text):
        inner = next((k for k in keys if k.startswith(f"{key}.")), f"{key}.NAME")
        return _at(key, f"is a group of settings; write {inner}=... (--cfg job lists them)")
    if not key or key in keys or "[" in key:
        return _at(key, text.splitlines()[0])
    near = nearest_keys(schema, key)
    if near:
        near = [f"{k}.*" if any(o.startswith(f"{k}.") for o in keys) else k for k in near]
        return UserError(f"unknown config key '{key}'; did you mean {' or '.join(near)}?")
    top = [field.name for field in dataclasses.fields(schema)]
    return UserError(f"unknown config key '{key}'; there are: {', '.join(top)}")
