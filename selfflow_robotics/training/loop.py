"""The training loop for all commands: any loss becomes a resumable run.

The loop is independent of images, robots and objectives. It gets batches as a function of the step
and a loss as a function of batch and generator, so the whole run is a function of its config.
Repeating a command resumes it, with bit-identical results on a CPU (some GPU sums have no fixed
order), also with another number of processes, which changes only rounding.
"""

import math
import time
from collections.abc import Callable
from contextlib import closing, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from tqdm import tqdm

from selfflow_robotics.errors import UserError, check_least
from selfflow_robotics.rng import torch_generator
from selfflow_robotics.training.activations import check_mode, checkpoint_activations
from selfflow_robotics.training.checkpoint import (
    MOST_STEPS,
    latest_checkpoint,
    read_manifest,
    resuming,
)
from selfflow_robotics.training.compile import check_compiler, compile_blocks, compiles
from selfflow_robotics.training.device import autocast, enough_memory
from selfflow_robotics.training.distributed import ALONE, Ranks
from selfflow_robotics.training.evaluator import Evaluator
from selfflow_robotics.training.interrupts import Requests, requests
from selfflow_robotics.training.metrics import MetricsLog, Work, by_role, live
from selfflow_robotics.training.optimizer import OptimizerConfig, build_optimizers, lr_factor
from selfflow_robotics.training.parallel import DataParallel, check_parallel, whole
from selfflow_robotics.training.prefetch import Prefetch
from selfflow_robotics.training.saver import Saver
from selfflow_robotics.training.state import TrainState
from selfflow_robotics.training.step import LossFunction, StepLoss
from selfflow_robotics.training.teacher import ema_decay, update_teacher
from selfflow_robotics.training.trackers import Tracker, check_trackers

__all__ = ["StepLoss", "TrainConfig", "train"]


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
    keep_checkpoints: int = 2  # the newest ones
    keep_every: int = 0  # also keep those whose step is a multiple of this; 0: none
    async_save: bool = True  # write checkpoints while training goes on; takes a copy in memory
    accumulate: int = 1  # batches per step, whose losses are averaged
    parallel: Literal["replicate", "fsdp"] = "replicate"  # weights of several processes
    activation_checkpoint: Literal["none", "selective", "full"] = "none"
    compile: Literal["auto", "on", "off"] = "auto"  # `training.compile`; auto: on a GPU

    def __post_init__(self) -> None:
        if self.steps > MOST_STEPS:
            raise UserError(f"train.steps must be at most {MOST_STEPS}, got {self.steps}")
        names = ("steps", "log_every", "save_every", "keep_checkpoints", "accumulate")
        check_least(self, 1, *names, prefix="train.")
        check_least(self, 0, "sample_every", "keep_every", prefix="train.")
        if not 0 <= self.ema_decay < 1:
            raise UserError(f"train.ema_decay must be in [0, 1), got {self.ema_decay}")
        check_parallel(self.parallel)
        check_mode(self.activation_checkpoint)
        check_compiler(self.compile)
        check_trackers(self.log_to)


AGREE_EVERY = 10  # steps between agreements of processes with GPUs on signals


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
    evaluator: Evaluator | None = None,
) -> None:
    """Train `state` to `config.steps`, resuming from the newest checkpoint in `run`.

    Args:
        batch_at: step -> batch (a pure function, called from a background thread).
        loss_fn: (batch, generator) -> StepLoss; it has the model and the teacher.
        extra: stored in every checkpoint's manifest.
        on_checkpoint: returns extra metrics to log with each checkpoint.
        on_sample: writes sample images to the given path, every `sample_every` steps and at the
            end; on resuming, also those that the interrupted run missed.
        ranks: the processes that train together. `batch_at` returns this process's rows; only the
            first process logs, evaluates and calls `on_checkpoint` and `on_sample`.
        peak_flops: FLOP/s of a process's device, to log MFU; None: unknown.
        evaluator: evaluates checkpoints while training goes on, which never waits for it.

    Raises UserError if a loss or gradient is not finite, in all processes at the same step, or if a
    checkpoint cannot be written. On a CPU, losses are checked before the weights change; on a GPU,
    to avoid synchronization, only at logged steps, before anything is logged or saved. On Ctrl-C,
    SIGTERM and SIGHUP to any process, the run finishes the current step, saves a checkpoint and
    raises KeyboardInterrupt; on SIGUSR1 it saves one and goes on.
    """
    extra = {**extra, "precision": precision}
    newest = latest_checkpoint(run)
    if newest is not None and _is_finished(newest, run, config, state, on_sample, ranks):
        return
    checkpoint_activations(state.model, config.activation_checkpoint)
    if compiles(config.compile, device):
        compile_blocks(state.model)
        compile_blocks(state.teacher)
    networks = DataParallel(state.model, state.teacher, loss_fn, config.parallel, ranks, precision)
    if networks.sharded:  # optimizers keep state of the parts that the process has
        state.optimizers = build_optimizers(state.model, config.optimizer)
    if newest is not None:
        _resume(newest, run, config, state, precision)
        if on_sample and _misses_sample(run, state.step, config):
            with networks.whole_weights():
                _write_samples(on_sample, run, state.step, ranks)
    log, work, evaluator = None, Work(peak_flops), evaluator or Evaluator()
    if ranks.is_first:
        log = MetricsLog(run / "metrics.jsonl", state.step, config.log_to, config.steps)
        evaluator.resume(state.step)
    parameters = [p for p in state.model.parameters() if p.requires_grad]
    finite = _FiniteCheck(run, device)
    saver = Saver(run / "checkpoints", config, ranks, networks.sharded, device, evaluator.is_needed)
    started, tokens, waits = time.perf_counter(), 0, []
    bar = tqdm(
        total=config.steps,
        initial=state.step,
        unit="step",
        dynamic_ncols=True,
        disable=not ranks.is_first,
    )
    batches = Prefetch(batch_at, state.step, config.steps, config.accumulate)
    logging = nullcontext() if log is None else closing(log)
    with bar, logging, batches, requests() as asked, saver:
        for of_step, waited in batches:
            done = state.step + 1
            due = evaluator.is_due(done)
            planned = due or done % config.save_every == 0 or done == config.steps
            logged = planned or state.step % config.log_every == 0
            losses, earlier = [], []
            for number, batch in enumerate(of_step):
                generator = torch_generator(
                    "training", seed, number, state.step,
                    device=device, part=(ranks.rank, ranks.size),
                )  # fmt: skip
                with networks.accumulating(number + 1 < config.accumulate):
                    with autocast(device, precision, config.activation_checkpoint != "none"):
                        out = networks.loss(batch, generator)
                    (out.loss / config.accumulate).backward()
                losses.append(out.loss.detach())
                tokens += out.num_tokens
                work.add(out.num_samples, out.num_flops)
                if logged and number + 1 < config.accumulate:
                    earlier.append(out.metrics())  # now: its tensors take memory
            by_batch = ranks.mean(torch.stack(losses))
            loss = by_batch.mean()
            grad_norm = whole(nn.utils.clip_grad_norm_(parameters, config.optimizer.clip_norm))
            stop, save = _agree(asked, done, ranks, device)
            stopping = stop and done < config.steps
            saved = planned or stopping or save
            logged = logged or saved
            finite.note(loss, grad_norm, state.step)
            if logged or device.type == "cpu":
                finite.check()
            _update(state, config)
            waits.append(waited)
            seconds = time.perf_counter() - started
            evaluated = {}
            if saved and on_checkpoint is not None:
                with networks.whole_weights():
                    evaluated = on_checkpoint() if ranks.is_first else {}
            if logged and log is not None:
                record = {
                    "step": state.step,
                    "loss": loss,  # of all batches of the step
                    "grad_norm": grad_norm,
                    "lr_factor": lr_factor(state.step, config.steps, config.optimizer),
                    "tokens_per_s": ranks.size * tokens / seconds,
                    **work.rates(seconds, ranks.size),
                    "step_s": seconds / len(waits),
                    "data_wait_s": sum(waits) / len(waits),
                }
                metrics = [*earlier, out.metrics()]
                # If a signal logs a step that was not to be, earlier batches' metrics are missing.
                roles = by_role(by_batch, metrics) if len(metrics) == len(losses) else []
                log.write(record | evaluated | evaluator.poll(), roles)
                bar.set_postfix(live(record) | evaluator.shown, refresh=False)
            paused = time.perf_counter()  # exclude saving and sampling from the step time
            state.step = done
            bar.update()
            if due and log is not None:
                evaluator.saving(done)
            if saved:
                saver.save(state, extra)
            if stopping:
                saver.wait()
                ranks.wait()  # torchrun kills the remaining processes soon after the first exit
                raise KeyboardInterrupt(asked.signal)  # determines the command's exit code
            if on_sample and done < config.steps and _is_sampled(done, config):
                with networks.whole_weights():
                    _write_samples(on_sample, run, done, ranks)
            if logged:
                started, tokens, waits = time.perf_counter(), 0, []
            else:
                started += time.perf_counter() - paused
    if on_sample:
        with networks.whole_weights():
            _write_samples(on_sample, run, state.step, ranks)
    ranks.wait()


def _is_finished(
    newest: Path,
    run: Path,
    config: TrainConfig,
    state: TrainState,
    on_sample: Callable[[Path], None] | None,
    ranks: Ranks,
) -> bool:
    """Whether the run has all its steps. If so, write the samples that it may miss."""
    with resuming(run):
        step = read_manifest(newest)["step"]
    if step < config.steps:
        return False
    if on_sample and ranks.is_first and not _sample_path(run, step).exists():
        with resuming(run):
            state.load(newest)
        _write_samples(on_sample, run, step, ranks)
    print(f"{run} is already finished: {step} steps")
    ranks.wait()
    return True


def _resume(
    newest: Path, run: Path, config: TrainConfig, state: TrainState, precision: str
) -> None:
    with resuming(run):
        _check_precision(read_manifest(newest)["extra"], precision, run)
        state.load(newest)
    print(f"resuming {run} at step {state.step} of {config.steps}")


def _is_sampled(step: int, config: TrainConfig) -> bool:
    return config.sample_every > 0 and step > 0 and step % config.sample_every == 0


def _sample_path(run: Path, step: int) -> Path:
    return run / "samples" / f"step_{step:07d}.png"


def _misses_sample(run: Path, step: int, config: TrainConfig) -> bool:
    return _is_sampled(step, config) and not _sample_path(run, step).exists()


def _write_samples(on_sample: Callable[[Path], None], run: Path, step: int, ranks: Ranks) -> None:
    """Write the samples of a step atomically, in the first process; `on_sample` may produce
    none."""
    if not ranks.is_first:
        return
    unfinished, final = run / ".samples.png", _sample_path(run, step)
    on_sample(unfinished)
    if unfinished.exists():
        final.parent.mkdir(exist_ok=True)
        unfinished.replace(final)


def _agree(asked: Requests, done: int, ranks: Ranks, device: torch.device) -> tuple[bool, bool]:
    """Whether any process was asked to stop, and to save; the same in all processes. On GPUs, which
    would have to be waited for, they exchange this only every few steps."""
    if ranks.size > 1 and device.type != "cpu" and done % AGREE_EVERY:
        return False, False
    stop, save = ranks.any([asked.stop, asked.save], device)
    if save:
        asked.save = False
    return stop, save


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
