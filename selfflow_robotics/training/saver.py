"""Save checkpoints while training goes on.

Training waits only for a copy of the state in host memory (pinned, for a GPU); a thread writes it.
A single process, or the first one of processes that all have the whole state, writes
`checkpoint.save_checkpoint`. Processes that share a state write their shards at the same time, by
`torch.distributed.checkpoint.async_save`, and the first one makes them a checkpoint.
"""

import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
from torch.distributed.checkpoint.metadata import Metadata
from torch.distributed.checkpoint.planner import SavePlan
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions
from torch.distributed.checkpoint.state_dict_saver import async_save
from torch.distributed.checkpoint.storage import WriteResult

from selfflow_robotics.errors import UserError
from selfflow_robotics.training.checkpoint import (
    commit,
    prune_checkpoints,
    save_checkpoint,
    unfinished,
    write_part,
)
from selfflow_robotics.training.distributed import Ranks
from selfflow_robotics.training.shards import SHARDS, load_shards
from selfflow_robotics.training.state import TrainState


class Settings(Protocol):
    """The settings of `training.loop.TrainConfig` that matter here."""

    @property
    def keep_checkpoints(self) -> int: ...
    @property
    def keep_every(self) -> int: ...
    @property
    def async_save(self) -> bool: ...


class Saver:
    """Writes the checkpoints of a run, one at a time; leaving its context waits for the last."""

    def __init__(
        self,
        folder: Path,
        settings: Settings,
        ranks: Ranks,
        sharded: bool,
        device: torch.device,
        is_needed: Callable[[int], bool],
    ) -> None:
        """`sharded`: every process has a part of the state, else the whole. All processes must
        create it, since they then get a process group of their own: collectives of a thread must
        not mix with those of training. `is_needed`: whether the checkpoint of a step must stay
        although it is old."""
        self._folder, self._settings, self._ranks = folder, settings, ranks
        self._is_needed = is_needed
        self._group: Any = dist.new_group(backend="gloo") if sharded else None
        gpu = device.type == "cuda"
        self._stager = DefaultStager(StagingOptions(gpu, False, False, gpu))
        self._thread = ThreadPoolExecutor(1)
        self._pending: Any = None  # a Future

    def __enter__(self) -> "Saver":
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        if kind is None:
            self.wait()
        elif self._pending is not None:  # an error is on its way, but this checkpoint is good
            wait([self._pending])
        self._thread.shutdown()
        self._stager.close()

    def save(self, state: TrainState, extra: dict[str, Any]) -> None:
        """Start to save the state, after waiting for the previous checkpoint. All processes call
        it. Raises UserError if that one could not be written."""
        self.wait()
        parts = state.parts() if self._group is not None or self._ranks.is_first else {}
        if self._group is not None:
            flat = {
                f"{part}/{key}": x for part, tensors in parts.items() for key, x in tensors.items()
            }
            self._pending = async_save(
                flat,
                storage_writer=_Writer(self._folder, state.step, extra, self._prune, list(flat)),
                process_group=self._group,
                async_stager=self._stager,
            )
        elif self._ranks.is_first:
            copies: Any = self._stager.stage(parts)
            self._pending = self._thread.submit(self._write, state.step, copies, extra)
        if not self._settings.async_save:
            self.wait()

    def wait(self) -> None:
        """Wait until the last checkpoint is written. Raises UserError if it could not be."""
        pending, self._pending = self._pending, None
        if pending is None:
            return
        try:
            pending.result()
        except CheckpointException as error:
            for temporary in self._folder.glob(".step_*.tmp") if self._ranks.is_first else ():
                shutil.rmtree(temporary, ignore_errors=True)
            reason = next(iter(error.failures.values()))[0]
            raise UserError(
                f"cannot write a checkpoint in {self._folder}: {reason}; free space or choose "
                "another run folder"
            ) from error

    def _write(self, step: int, parts: dict[str, dict[str, Tensor]], extra: dict[str, Any]) -> None:
        save_checkpoint(self._folder, step, parts, extra)
        self._prune()

    def _prune(self) -> None:
        keep, every = self._settings.keep_checkpoints, self._settings.keep_every
        prune_checkpoints(self._folder, keep, every, self._is_needed)


class _Writer(HuggingFaceStorageWriter):
    """DCP's writer, which in the end turns the shards into a checkpoint."""

    def __init__(
        self,
        folder: Path,
        step: int,
        extra: dict[str, Any],
        prune: Callable[[], None],
        keys: list[str],
    ) -> None:
        self._step, self._extra, self._prune = step, extra, prune
        self._temporary = unfinished(folder, step)
        # The moving average goes into files of its own: index 2.
        files = {key: 1 + key.startswith("teacher/") for key in keys}
        super().__init__(
            str(self._temporary / SHARDS), fqn_to_index_mapping=files, save_distributed=True
        )

    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        """In the first process, before any writes: remove what an interrupted save left."""
        shutil.rmtree(self._temporary, ignore_errors=True)
        (self._temporary / SHARDS).mkdir(parents=True)
        return super().prepare_global_plan(plans)

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        """In the first process, after all have written: merge the moving average, which is what
        other commands read, and commit."""
        shards = self._temporary / SHARDS
        write_part(self._temporary, "teacher", load_shards(shards, "teacher"))
        for path in shards.glob("*-model-00002-of-00002.safetensors"):
            path.unlink()
        commit(self._temporary, self._step, self._extra)
        self._prune()
