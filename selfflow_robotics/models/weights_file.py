"""Find a network's weights in another project's checkpoint file.

Training scripts store raw weights, their moving average (EMA), optimizer state and settings in one
file, under various names: {"model", "ema", "opt"}, {"state_dict", "state_dict_ema"},
"ema_model.module.blocks...". A set of weights is recognised by its anchor, a tensor that every such
network has: the prefix of the anchor's name is the set's position in the file. If there is a moving
average, it is used, as in evaluations. Ambiguous files are refused, with advice on how to save
them.
"""

import argparse
import re
import warnings
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from selfflow_robotics.errors import UserError
from selfflow_robotics.finite import check_finite

StateDict = dict[str, Tensor]
SUFFIXES = (".pt", ".pth", ".safetensors")
SAVE = "save only the right one: torch.save({'ema': weights}, 'weights.pt')"

# Inserted into names by torch.compile and FSDP, also in the middle.
_TRANSPARENT = {"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
_AVERAGE = re.compile(r"(?<![a-z])(ema|swa|shadow|averaged?|(?<!exp_)avg)(?![a-z])")
_RAW = re.compile(r"(?<![a-z])(online|raw|student)(?![a-z])")
_OPTIMIZER = re.compile(r"^(opt|optim|optimizers?)(?![a-z])|^exp_avg")
# A checkpoint has thousands of entries in a few levels; more is an attempt to exhaust memory.
_MOST_ENTRIES, _MOST_LEVELS = 200_000, 32


@dataclass(frozen=True)
class FoundWeights:
    """A set of weights under the network's names, and its position in the file ("" for the top)."""

    tensors: StateDict
    place: str

    @property
    def text(self) -> str:
        """A description of which weights in the file these are; "" if there is only one set."""
        kind = " (the moving average)" if _is_average(self.place) else ""
        return f"'{self.place}'{kind}" if self.place else ""


def read_weights_file(path: Path) -> object:
    """The content of a .pt, .pth or .safetensors file. Nothing in the file is executed.

    Raises UserError if it is not such a file, damaged, or contains anything but plain values.
    """
    if path.suffix not in SUFFIXES:
        raise UserError(f"{path} is neither .pt nor .safetensors; expected a released weights file")
    if not path.is_file():  # a pipe would block
        raise UserError(f"{path} does not exist; expected a released weights file")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        _refuse_inflated(path)
        with (
            warnings.catch_warnings(action="ignore"),  # errors are raised
            torch.serialization.safe_globals([argparse.Namespace]),  # a script's settings
        ):
            return torch.load(path, map_location="cpu", weights_only=True)
    except UserError:
        raise
    except Exception as error:  # damaged bytes make unpicklers raise many kinds of exceptions
        # torch's own message is long, and advises running code from the file.
        reason = "is truncated or not a weights file; download it again"
        if "weights_only" in str(error) and _first_byte(path) in (b"P", b"\x80"):  # zip, pickle
            reason = f"contains Python objects, not plain tensors; where it was created, {SAVE}"
        elif isinstance(error, OSError) and error.strerror:
            reason = f"cannot be read ({error.strerror}); check its permissions"
        raise UserError(f"{path} {reason}") from error


def find_weights(content: object, anchor: str) -> FoundWeights:
    """The set of weights in a file's content, the moving average if there is one.

    Args:
        content: a state dict, or dicts and lists with state dicts at any depth.
        anchor: the name of a tensor that each set has.

    Raises UserError if there is none or the choice is ambiguous, for a moving average without
    names, and for tensors that are not floating-point or not finite.
    """
    tensors: StateDict = {}
    for name, tensor in _tensors(content):
        if name in tensors:
            raise UserError(f"the file contains {name} twice; {SAVE}")
        tensors[name] = tensor
    if not tensors:
        raise UserError("the file contains no tensors; expected the released weights")
    # The deepest first: "ema.blocks" belongs to "ema.", not to the top.
    places = {
        name.removesuffix(anchor)
        for name in tensors
        if name == anchor or name.endswith(f".{anchor}")
    }
    sets: dict[str, StateDict] = {place: {} for place in sorted(places, key=len, reverse=True)}
    rest = []
    for name, tensor in tensors.items():
        place = next((place for place in sets if name.startswith(place)), None)
        if place is None or _is_optimizer(name):
            rest.append(name)
        else:
            sets[place][name.removeprefix(place)] = tensor
    sets = {place: found for place, found in sets.items() if not _is_optimizer(place)}
    if not sets:
        raise UserError(f"the file has no {anchor}; expected a released Self-Flow image model")
    averages = [place for place in sets if _is_average(place)]
    if not averages:
        _refuse_nameless_average(tensors, rest, sets)
    candidates = averages or list(sets)
    if len(candidates) > 1:
        names = " and ".join(sorted(f"'{place.rstrip('.')}'" for place in candidates))
        raise UserError(f"the file contains several sets of weights, {names}; {SAVE}")
    (place,) = candidates
    # A set at the top may have counters etc. next to it, which are not part of a network.
    found = {
        name: tensor
        for name, tensor in sets[place].items()
        if not (name == "n_averaged" and tensor.ndim == 0)
    }
    _refuse_odd(found)
    return FoundWeights(found, place.rstrip("."))


def few(names: list[str]) -> str:
    """The first few names, for error messages."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return "; ".join(names[:3]) + more


def _tensors(content: object) -> Iterator[tuple[str, Tensor]]:
    """Each tensor with its dotted path."""
    waiting: list[tuple[str, object, int]] = [("", content, 0)]
    num_seen = 0
    while waiting:
        name, value, level = waiting.pop()
        num_seen += 1
        if num_seen > _MOST_ENTRIES or level > _MOST_LEVELS:
            raise UserError(
                "the file is nested too deeply or refers to itself; expected a weights file"
            )
        if isinstance(value, Tensor):
            parts = [part for part in name.split(".") if part not in _TRANSPARENT]
            yield ".".join(parts), value
        elif isinstance(value, dict | list | tuple):
            pairs = value.items() if isinstance(value, dict) else enumerate(value)
            inside = [(f"{name}.{key}" if name else str(key), v, level + 1) for key, v in pairs]
            waiting += reversed(inside)


def _words(place: str) -> list[str]:
    """The parts of a dotted path in lower case, "modelEma" as "model_ema"."""
    return [re.sub("(?<=[a-z])(?=[A-Z])", "_", part).lower() for part in place.split(".")]


def _is_average(place: str) -> bool:
    """Whether the innermost telling part names a moving average."""
    for word in reversed(_words(place)):
        if _RAW.search(word):
            return False
        if _AVERAGE.search(word):
            return True
    return False


def _is_optimizer(place: str) -> bool:
    return any(_OPTIMIZER.search(word) for word in _words(place))


def _refuse_nameless_average(
    tensors: StateDict, rest: list[str], sets: dict[str, StateDict]
) -> None:
    """A moving average may be a list of tensors, or have unknown names; silently using the raw
    weights instead would be wrong."""
    inside = [f"{place}{name}" for place, found in sets.items() for name in found]
    averaged = [name for name in [*rest, *inside] if _is_average(name) and tensors[name].ndim > 0]
    if averaged:
        raise UserError(
            f"the file contains a moving average that does not match the network's names "
            f"({few(averaged)}); copy it into the network where it was created, then "
            "torch.save({'ema': network.state_dict()}, 'weights.pt')"
        )


def _refuse_odd(found: StateDict) -> None:
    odd = [
        name
        for name, v in found.items()
        if not (v.is_floating_point() and v.layout == torch.strided and v.numel())
    ]
    if odd:
        raise UserError(f"the weights contain non-floating-point tensors: {few(odd)}")
    # A view may repeat a number a billion times; a copy would fill the memory.
    views = [name for name, v in found.items() if v.untyped_storage().nbytes() < v.nbytes]
    if views:
        raise UserError(f"the weights contain tensors larger than their data: {few(views)}")
    check_finite(found, "the weights")


def _refuse_inflated(path: Path) -> None:
    """torch does not compress records; compressed or repeated ones are an attempt to
    fill memory."""
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        records = archive.infolist()
    is_stored = all(record.compress_type == zipfile.ZIP_STORED for record in records)
    if not is_stored or sum(record.file_size for record in records) > path.stat().st_size:
        raise UserError(f"{path} is compressed, unlike torch's files; save it with torch")


def _first_byte(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(1)
