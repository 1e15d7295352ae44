"""One loop for pretraining and fine-tuning: any loss becomes a run that can stop and go on.

The loop knows neither images nor robots nor the objective. It is handed batches as a function of
the step and a loss as a function of batch and generator, so the whole run is a function of its
config: resuming is repeating the command, and on a CPU gives the same numbers to the last bit (some
of a GPU's sums have no fixed order).
"""

import math
import queue
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from tqdm import tqdm

from selfflow_robotics.errors import UserError
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
from selfflow_robotics.training.metrics import MetricsLog
from selfflow_robotics.training.optimizer import OptimizerConfig, lr_factor
from selfflow_robotics.training.state import TrainState
from selfflow_robotics.training.teacher import ema_decay, update_teacher


@dataclass(frozen=True)
class TrainConfig:
    """How long, how often, how safe."""

    steps: int = 1000
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    ema_decay: float = 0.999
    log_every: int = 20
    save_every: int = 500
    sample_every: int = 0  # 0: only at the end
    keep_checkpoints: int = 2
    compile: Literal["auto", "on", "off"] = "auto"  # `training.compile`; auto: on a GPU

    def __post_init__(self) -> None:
        if self.steps > MOST_STEPS:
            raise UserError(f"train.steps must be at most {MOST_STEPS}, got {self.steps}")
        least = dict(steps=1, log_every=1, save_every=1, keep_checkpoints=1, sample_every=0)
        for name, value in least.items():
            if getattr(self, name) < value:
                raise UserError(f"train.{name} must be at least {value}, got {getattr(self, name)}")
        if not 0 <= self.ema_decay < 1:
            raise UserError(f"train.ema_decay must be in [0, 1), got {self.ema_decay}")
        check_compiler(self.compile)


@dataclass
class StepLoss:
    """What a loss function returns: the scalar to descend, tokens seen, and what to log, which is
    computed only at the steps that are logged."""

    loss: Tensor
    num_tokens: int
    metrics: Callable[[], dict[str, Any]] = dict


AGREE_EVERY = 10  # steps between two looks at whether another process was asked to stop

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
) -> None:
    """Train `state` to `config.steps`, resuming from the newest checkpoint in `run`.

    Args:
        batch_at: the batch of a step (a pure function; called from a background thread).
        loss_fn: (batch, generator) -> StepLoss; it holds the model and the teacher itself.
        extra: stored in every checkpoint's manifest.
        on_checkpoint: what else to log with each checkpoint.
        on_sample: writes sample images to the path that it is given, every `sample_every` steps
            and at the end; also those that an interrupted run did not come to.
        ranks: the processes that train together; `batch_at` gives this one's share, and the first
            alone logs, saves and calls the two above.

    Raises UserError when a loss or gradient is not finite or a checkpoint cannot be written. On a
    CPU that is before the weights change. A GPU is not waited for between two logged steps: there
    it is at the next of these, before anything is logged or saved. Ctrl-C, SIGTERM and SIGHUP end
    the run after the present step, with a checkpoint, as KeyboardInterrupt.
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
            print(f"{run} is finished already: {manifest['step']} steps")
            ranks.wait()
            return
        print(f"resuming {run} at step {state.step} of {config.steps}")
    log = MetricsLog(run / "metrics.jsonl", state.step) if ranks.is_first else None
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
    with bar, _Prefetch(batch_at, state.step, config.steps) as batches, _stop_request() as stop:
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
                    "step_s": seconds / len(waits),
                    "data_wait_s": sum(waits) / len(waits),
                }
                if on_checkpoint is not None and saved:
                    record |= on_checkpoint()
                log.write(record)
                bar.set_postfix(loss=f"{loss.item():.3f}", refresh=False)
            paused = time.perf_counter()  # saving and sampling are no part of a step's time
            state.step = done
            bar.update()
            if saved and ranks.is_first:
                state.save(folder, extra)
                prune_checkpoints(folder, config.keep_checkpoints)
            if stopping:
                ranks.wait()  # torchrun kills all that are left soon after the first has gone
                raise KeyboardInterrupt(stop.signal)  # the command's exit code says which
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
    """The samples of a step, whole or not at all; `on_sample` may find that it can make none."""
    unfinished, final = run / ".samples.png", _sample_path(run, step)
    on_sample(unfinished)
    if unfinished.exists():
        final.parent.mkdir(exist_ok=True)
        unfinished.replace(final)


def _all_stop(requested: bool, done: int, ranks: Ranks, device: torch.device) -> bool:
    """Whether to stop now; several processes agree on it every so many steps."""
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
    """Remembers the first step that was not finite, on the device; `check` waits for it."""

    def __init__(self, run: Path, device: torch.device) -> None:
        self._run = run
        # (loss, gradient norm, step) of the latest step, or of the first that was not finite
        self._seen = torch.zeros(3, device=device)

    @torch.no_grad()
    def note(self, loss: Tensor, grad_norm: Tensor, step: int) -> None:
        now = torch.stack([loss.float(), grad_norm.float(), torch.full_like(self._seen[2], step)])
        self._seen = torch.where(self._seen.isfinite().all(), now, self._seen)

    def check(self) -> None:
        loss, grad_norm, step = self._seen.tolist()
        if not (math.isfinite(loss) and math.isfinite(grad_norm)):
            raise UserError(
                f"the loss or its gradient is not finite at step {step:.0f} of {self._run} "
                f"(loss {loss}, gradient norm {grad_norm}); its checkpoints are untouched: start "
                "again with a lower learning rate under another name"
            )


def _check_precision(extra: dict[str, Any], precision: str, run: Path) -> None:
    """precision=auto may mean another thing on another machine; a run keeps to one."""
    before = extra.get("precision", precision)
    if before != precision:
        raise UserError(f"{run} was begun in {before}; go on with precision={before}")


@dataclass
class _StopRequest:
    requested: bool = False
    signal: int = signal.SIGINT  # also where another process of torchrun was told


@contextmanager
def _stop_request() -> Iterator[_StopRequest]:
    """Turns Ctrl-C, SIGTERM and SIGHUP into a flag: no weight is ever saved half updated."""
    stop = _StopRequest()

    def request(number: int, _: object) -> None:
        stop.requested, stop.signal = True, number

    with endings_call(request):
        yield stop


class _Prefetch:
    """Makes the next batches in a thread while the present one is trained on."""

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
            except Exception as error:  # handed to the training thread, which raises it
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
