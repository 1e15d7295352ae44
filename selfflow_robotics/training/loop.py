"""The training loop for all commands: any loss becomes a resumable run.

The loop is independent of images, robots and objectives. It gets batches as a function of the step
and a loss as a function of batch and generator, so the whole run is a function of its config.
Repeating a command resumes it, with bit-identical results on a CPU (some GPU sums have no fixed
order).
"""

import math
import queue
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from tqdm import tqdm

from selfflow_robotics.errors import UserError, check_least
from selfflow_robotics.rng import torch_generator
from selfflow_robotics.signals import endings_call
from selfflow_robotics.training.checkpoint import (
    MOST_STEPS,
    latest_checkpoint,
    prune_checkpoints,
    read_manifest,
    resuming,
)
from selfflow_robotics.training.compile import check_compiler, compile_blocks, compiles
from selfflow_robotics.training.device import autocast, enough_memory
from selfflow_robotics.training.distributed import ALONE, Ranks
from selfflow_robotics.training.metrics import MetricsLog, Work, live
from selfflow_robotics.training.optimizer import OptimizerConfig, lr_factor
from selfflow_robotics.training.state import TrainState
from selfflow_robotics.training.teacher import ema_decay, update_teacher
from selfflow_robotics.training.trackers import Tracker, check_trackers


@dataclass(frozen=True)
class TrainConfig:
    """Settings of the training loop."""

    steps: int = 1000
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    ema_decay: float = 0.999
    log_every: int = 20
    log_to: tuple[Tracker, ...] = ()  # beside metrics.jsonl
    save_every: int = 500
    sample_every: int = 0  # 0: only at the end
    keep_checkpoints: int = 2
    compile: Literal["auto", "on", "off"] = "auto"  # `training.compile`; auto: on a GPU

    def __post_init__(self) -> None:
        if self.steps > MOST_STEPS:
            raise UserError(f"train.steps must be at most {MOST_STEPS}, got {self.steps}")
        names = ("steps", "log_every", "save_every", "keep_checkpoints")
        check_least(self, 1, *names, prefix="train.")
        check_least(self, 0, "sample_every", prefix="train.")
        if not 0 <= self.ema_decay < 1:
            raise UserError(f"train.ema_decay must be in [0, 1), got {self.ema_decay}")
        check_compiler(self.compile)
        check_trackers(self.log_to)


@dataclass
class StepLoss:
    """Result of a loss function: the scalar loss, the number of tokens, and metrics, which are
    computed only at logged steps."""

    loss: Tensor
    num_tokens: int
    metrics: Callable[[], dict[str, Any]] = dict
    num_samples: int = 0
    num_flops: float = 0.0  # of matrix products; 0: unknown


AGREE_EVERY = 10  # steps between checks whether another process was asked to stop

LossFunction = Callable[[Any, torch.Generator], StepLoss]


@enough_memory("choose a smaller batch or network")
def train(
    config: TrainConfig,
    state: TrainState,
    batch_at: Callable[[int], Any],
    loss_fn: LossFunction,
    run: Path,
    *,
    seed: int,
    device: torch.device,
    precision: str,
    extra: dict[str, Any],
    on_checkpoint: Callable[[], dict[str, Any]] | None = None,
    on_sample: Callable[[Path], None] | None = None,
    ranks: Ranks = ALONE,
    peak_flops: float | None = None,
) -> None:
    """Train `state` to `config.steps`, resuming from the newest checkpoint in `run`.

    Args:
        batch_at: step -> batch (a pure function, called from a background thread).
        loss_fn: (batch, generator) -> StepLoss; it has the model and the teacher.
        extra: stored in every checkpoint's manifest.
        on_checkpoint: returns extra metrics to log with each checkpoint.
        on_sample: writes sample images to the given path, every `sample_every` steps and at the
            end; on resuming, also those that the interrupted run missed.
        ranks: the processes that train together. `batch_at` returns this process's share; only the
            first process logs, saves and calls `on_checkpoint` and `on_sample`.
        peak_flops: FLOP/s of a process's device, to log MFU; None: unknown.

    Raises UserError if a loss or gradient is not finite or a checkpoint cannot be written. On a
    CPU, losses are checked before the weights change; on a GPU, to avoid synchronization, only at
    logged steps, before anything is logged or saved. On Ctrl-C, SIGTERM and SIGHUP, the run
    finishes the current step, saves a checkpoint and raises KeyboardInterrupt.
    """
    folder = run / "checkpoints"
    extra = {**extra, "precision": precision}
    newest = latest_checkpoint(run)
    if newest is not None:
        with resuming(run):
            manifest = read_manifest(newest)
        finished = manifest["step"] >= config.steps
        is_due = on_sample and (finished or _is_sampled(manifest["step"], config))
        missing = is_due and not _sample_path(run, manifest["step"]).exists()
        if not finished:
            _check_precision(manifest["extra"], precision, run)
        if missing or not finished:
            with resuming(run):
                state.load(newest)
        if missing and on_sample and ranks.is_first:
            _write_samples(on_sample, run, state.step)
        if finished:
            print(f"{run} is already finished: {manifest['step']} steps")
            ranks.wait()
            return
        print(f"resuming {run} at step {state.step} of {config.steps}")
    log, work = None, Work(peak_flops)
    if ranks.is_first:
        log = MetricsLog(run / "metrics.jsonl", state.step, config.log_to, config.steps)
    if compiles(config.compile, device):
        compile_blocks(state.model)
        compile_blocks(state.teacher)
    parameters = [p for p in state.model.parameters() if p.requires_grad]
    finite = _FiniteCheck(run, device)
    started, tokens, waits = time.perf_counter(), 0, []
    bar = tqdm(
        total=config.steps,
        initial=state.step,
        unit="step",
        dynamic_ncols=True,
        disable=not ranks.is_first,
    )
    logging = nullcontext() if log is None else closing(log)
    batches = _Prefetch(batch_at, state.step, config.steps)
    with bar, logging, batches, _stop_request() as stop:
        for batch, waited in batches:
            generator = torch_generator("training", seed, ranks.rank, state.step, device=device)
            with autocast(device, precision):
                out = loss_fn(batch, generator)
            out.loss.backward()
            ranks.average_gradients(parameters)
            grad_norm = nn.utils.clip_grad_norm_(parameters, config.optimizer.clip_norm)
            done = state.step + 1
            stopping = done < config.steps and _all_stop(stop.requested, done, ranks, device)
            saved = done % config.save_every == 0 or done == config.steps or stopping
            logged = state.step % config.log_every == 0 or saved
            finite.note(out.loss, grad_norm, state.step)
            if logged or device.type == "cpu":
                finite.check()
            _update(state, config)
            tokens += out.num_tokens
            work.add(out.num_samples, out.num_flops)
            waits.append(waited)
            loss = ranks.mean(out.loss) if logged else out.loss
            if logged and log is not None:
                seconds = time.perf_counter() - started
                record = {
                    "step": state.step,
                    "loss": loss,
                    **out.metrics(),
                    "grad_norm": grad_norm,
                    "lr_factor": lr_factor(state.step, config.steps, config.optimizer),
                    "tokens_per_s": ranks.size * tokens / seconds,
                    **work.rates(seconds, ranks.size),
                    "step_s": seconds / len(waits),
                    "data_wait_s": sum(waits) / len(waits),
                }
                if on_checkpoint is not None and saved:
                    record |= on_checkpoint()
                log.write(record)
                bar.set_postfix(live(record), refresh=False)
            paused = time.perf_counter()  # exclude saving and sampling from the step time
            state.step = done
            bar.update()
            if saved and ranks.is_first:
                state.save(folder, extra)
                prune_checkpoints(folder, config.keep_checkpoints)
            if stopping:
                ranks.wait()  # torchrun kills the remaining processes soon after the first exit
                raise KeyboardInterrupt(stop.signal)  # determines the command's exit code
            if on_sample and _is_sampled(done, config) and done < config.steps and ranks.is_first:
                _write_samples(on_sample, run, done)
            if logged:
                started, tokens, waits = time.perf_counter(), 0, []
            else:
                started += time.perf_counter() - paused
    if on_sample and ranks.is_first:
        _write_samples(on_sample, run, state.step)
    ranks.wait()


def _is_sampled(step: int, config: TrainConfig) -> bool:
    return config.sample_every > 0 and step > 0 and step % config.sample_every == 0


def _sample_path(run: Path, step: int) -> Path:
    return run / "samples" / f"step_{step:07d}.png"


def _write_samples(on_sample: Callable[[Path], None], run: Path, step: int) -> None:
    """Write the samples of a step atomically; `on_sample` may produce none."""
    unfinished, final = run / ".samples.png", _sample_path(run, step)
    on_sample(unfinished)
    if unfinished.exists():
        final.parent.mkdir(exist_ok=True)
        unfinished.replace(final)


def _all_stop(requested: bool, done: int, ranks: Ranks, device: torch.device) -> bool:
    """Whether to stop now; several processes agree on it every few steps."""
    if ranks.size == 1:
        return requested
    return done % AGREE_EVERY == 0 and ranks.any(requested, device)


def _update(state: TrainState, config: TrainConfig) -> None:
    factor = lr_factor(state.step, config.steps, config.optimizer)
    for optimizer in state.optimizers:
        for group in optimizer.param_groups:
            group["lr"] = factor * group["peak_lr"]
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    update_teacher(state.teacher, state.model, ema_decay(config.ema_decay, state.step))


class _FiniteCheck:
    """Records the first non-finite step on the device; `check` synchronizes."""

    def __init__(self, run: Path, device: torch.device) -> None:
        self._run = run
        # (loss, gradient norm, step) of the latest step, or of the first non-finite one
        self._seen = torch.zeros(3, device=device)

    @torch.no_grad()
    def note(self, loss: Tensor, grad_norm: Tensor, step: int) -> None:
        now = torch.stack([loss.float(), grad_norm.float(), torch.full_like(self._seen[2], step)])
        self._seen = torch.where(self._seen.isfinite().all(), now, self._seen)

    def check(self) -> None:
        loss, grad_norm, step = self._seen.tolist()
        if not (math.isfinite(loss) and math.isfinite(grad_norm)):
            raise UserError(
                f"the loss or its gradient is not finite at step {step:.0f} of {self._run} (loss "
                f"{loss}, gradient norm {grad_norm}); its checkpoints are not affected: start "
                "again with a lower learning rate and another name=..."
            )


def _check_precision(extra: dict[str, Any], precision: str, run: Path) -> None:
    """precision=auto depends on the machine, but a run must not change its precision."""
    before = extra.get("precision", precision)
    if before != precision:
        raise UserError(f"{run} was started in {before}; resume it with precision={before}")


@dataclass
class _StopRequest:
    requested: bool = False
    signal: int = signal.SIGINT  # also if another torchrun process got the signal


@contextmanager
def _stop_request() -> Iterator[_StopRequest]:
    """Turns Ctrl-C, SIGTERM and SIGHUP into a flag, so that a step is never interrupted."""
    stop = _StopRequest()

    def request(number: int, _: object) -> None:
        stop.requested, stop.signal = True, number

    with endings_call(request):
        yield stop


class _Prefetch:
    """Loads the next batches in a thread while the current one trains."""

    def __init__(self, batch_at: Callable[[int], Any], start: int, stop: int) -> None:
        self._queue: queue.Queue = queue.Queue(maxsize=2)
        self._closed = threading.Event()
        self._steps = range(start, stop)
        self._batch_at = batch_at
        self._thread = threading.Thread(target=self._fill, daemon=True)

    def __enter__(self) -> "_Prefetch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()
        while self._thread.is_alive():
            try:
                self._queue.get(timeout=0.05)
            except queue.Empty:
                continue

    def _fill(self) -> None:
        for step in self._steps:
            if self._closed.is_set():
                return
            try:
                self._queue.put(self._batch_at(step))
            except Exception as error:  # raised again in the training thread
                self._queue.put(error)
                return

    def __iter__(self) -> Iterator[tuple[Any, float]]:
        """(batch, seconds waited for it) of each step."""
        for _ in self._steps:
            started = time.perf_counter()
            batch = self._queue.get()
            if isinstance(batch, Exception):
                raise batch
            yield batch, time.perf_counter() - started
