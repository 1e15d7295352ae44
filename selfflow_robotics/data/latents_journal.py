"""The journal of an unfinished latent cache: one line per finished shard.

    encoding.jsonl      first line: what is being made; then {"shard", "rows", "bytes", "sha256",
                        "skipped"} of each finished shard, in the order in which they got finished;
                        with captions also {"captions": {"bytes", "sha256"}} of their file

When all shards are finished, it becomes cache.json (`data.latents`).
"""

import json
import os
from pathlib import Path
from typing import Any

from tqdm import tqdm

from selfflow_robotics.data.latents import captions_path, check_shard, shard_path, used_labels
from selfflow_robotics.data.latents_encode import Shard
from selfflow_robotics.data.latents_record import (
    DAMAGE,
    RECORD,
    check_entry,
    is_labelled,
    read_record,
)
from selfflow_robotics.data.skips import Skips
from selfflow_robotics.errors import UserError
from selfflow_robotics.json_file import parse, read_text
from selfflow_robotics.whole_file import whole_file

JOURNAL = "encoding.jsonl"
OURS = ("shard-*.npy", "shard-*.jsonl", "*.tmp", ".lock", JOURNAL, RECORD)


class Journal:
    """Description of an unfinished cache, and its finished shards: `entries`, by number.

    Raises UserError if the folder contains something else or a damaged shard.
    """

    def __init__(self, folder: Path, identity: dict[str, Any], num_shards: int) -> None:
        self._folder, self._identity, self._num_shards = folder, identity, num_shards
        self._path = folder / JOURNAL
        self._finished: dict[str, Any] | None = None  # cache.json if nothing is missing
        self.entries: dict[int, dict[str, Any]] = {}
        for stale in folder.glob("*.tmp"):
            stale.unlink()
        if (folder / RECORD).exists():
            found = read_record(folder)
            self._accept(found, dict(enumerate(found["shards"])))
            if len(self.entries) == num_shards and ("labels" in found or not is_labelled(found)):
                self._finished = found
                self._path.unlink(missing_ok=True)
                return
        elif self._path.exists():
            self._accept(*_read_journal(self._path))
        else:
            strangers = {path.name for path in folder.iterdir()}
            strangers -= {path.name for pattern in OURS for path in folder.glob(pattern)}
            if strangers:
                raise UserError(
                    f"{folder} contains other files ({min(strangers)}); choose another output"
                )
        # From here on the folder is unfinished and only the journal describes it.
        lines = [identity, *({"shard": n, **self.entries[n]} for n in sorted(self.entries))]
        self._write(self._path, "".join(json.dumps(line) + "\n" for line in lines))
        (folder / RECORD).unlink(missing_ok=True)

    def add(self, shard: Shard) -> None:
        """Record a finished shard."""
        self.entries[shard.number] = shard.entry
        with self._path.open("a") as file:
            file.write(json.dumps({"shard": shard.number, **shard.entry}) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def finish(self, skips: Skips) -> dict[str, Any]:
        """Write cache.json, including everything that was skipped: `skips` from listing, and those
        of each shard."""
        if self._finished:
            return self._finished
        everything = Skips()
        everything.merge(skips)
        shards = [self.entries[number] for number in sorted(self.entries)]
        for entry in shards:
            everything.merge(Skips.from_record(entry["skipped"]))
        record = {**self._identity, "skipped": everything.record(), "shards": shards}
        if is_labelled(record):
            record["labels"] = used_labels(self._folder, record)
        self._write(self._folder / RECORD, json.dumps(record, indent=1) + "\n")
        self._path.unlink()
        return record

    def _accept(self, found: dict[str, Any], entries: dict[int, dict[str, Any]]) -> None:
        """Accept the shards of an earlier call whose files still exist."""
        _refuse_other(self._folder, found, self._identity)
        if strays := entries.keys() - range(self._num_shards):
            raise UserError(
                f"{self._folder} records shard {min(strays)}, but there are only "
                f"{self._num_shards}; remove the folder and encode again"
            )
        for number in tqdm(sorted(entries), desc="checking", unit="shard", leave=False):
            path, entry = shard_path(self._folder, number), entries[number]
            captions = captions_path(path)
            if path.exists() and ("captions" not in entry or captions.exists()):
                check_shard(path, entry)
                if "captions" in entry:
                    check_shard(captions, entry["captions"])
                self.entries[number] = entry

    def _write(self, path: Path, text: str) -> None:
        """Replace a file atomically and durably."""
        with whole_file(path) as file:
            file.write(text.encode())
        descriptor = os.open(self._folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _read_journal(path: Path) -> tuple[dict[str, Any], dict[int, dict[str, Any]]]:
    """The description and the finished shards; an incomplete last line is ignored."""
    try:
        first, *rest = read_text(path).split("\n")[:-1]
        lines = [parse(line) for line in rest]
        for line in lines:
            check_entry(line)
        found, entries = parse(first), {int(line.pop("shard")): line for line in lines}
        if not all(isinstance(found.get(key), dict) for key in ("autoencoder", "source")):
            raise KeyError("autoencoder or source")
        return found, entries
    except DAMAGE as error:
        raise UserError(f"{path} is damaged; remove its folder and encode again") from error


def _refuse_other(folder: Path, found: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Raise UserError naming what differs from the folder's cache."""
    differences = {
        "autoencoder": ("autoencoder", "fingerprint"),
        "image_size": ("image_size",),
        "mirror": ("mirror",),
        "clip or sound": ("parts",),
        "shard_size": ("shard_size",),
        "list of images" if is_labelled(wanted) else "data set": ("source", "fingerprint"),
        "format": ("format",),
    }
    for name, keys in differences.items():
        old, new = found, wanted
        for key in keys:
            old, new = old.get(key, {}), new.get(key, {})
        if old != new:
            values = "" if len(keys) > 1 else f" ({old}, now {new})"
            raise UserError(
                f"{folder} has latents of a different {name}{values}; choose another output or "
                "remove the folder"
            )
