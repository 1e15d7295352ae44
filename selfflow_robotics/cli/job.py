"""Common parts of all training commands: run folder, processes, initial weights, training loop."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from selfflow_robotics.batch import Batch
from selfflow_robotics.cli.runs import Kind, continue_run, open_run, run_folder
from selfflow_robotics.evaluation.during_training import DuringTraining, result_text
from selfflow_robotics.models.network import Network
from selfflow_robotics.objective.agreement import cosine_by_layer
from selfflow_robotics.objective.metrics import loss_metrics
from selfflow_robotics.objective.roles import ROLES
from selfflow_robotics.objective.self_flow import LossTerms
from selfflow_robotics.planning.machines import peak_of
from selfflow_robotics.planning.trace import Workload, trace_step
from selfflow_robotics.rng import check_seed, torch_seed
from selfflow_robotics.training.checkpoint import MOST_STEPS
from selfflow_robotics.training.device import autocast, enough_memory
from selfflow_robotics.training.distributed import start_training
from selfflow_robotics.training.loop import LossFunction, StepLoss, TrainConfig, train
from selfflow_robotics.training.metrics import MetricsLog
from selfflow_robotics.training.state import TrainState

Model = TypeVar("Model", bound=nn.Module)


@dataclass(frozen=True)
class JobConfig:
    """Settings that all training commands have."""

    name: str
    runs_dir: str = "runs"
    seed: int = 0
    train: TrainConfig = field(default_factory=TrainConfig)
    device: str = "auto"
    precision: str = "auto"
    threads: int = 1

    def __post_init__(self) -> None:
        check_seed(self.seed)
        run_folder(self.runs_dir, self.name)  # raises for an invalid name, also before a launch


class Job:
    """A running training command."""

    run: Path  # the run folder

    def __init__(self, kind: Kind, config: JobConfig) -> None:
        """Join the other processes, if torchrun started any."""
        self._kind: Kind = kind
        self._config = config
        self.run = run_folder(config.runs_dir, config.name)
        self.ranks, self.device, self.precision = start_training(
            config.threads, config.device, config.precision
        )

    @contextmanager
    def opening(self) -> Iterator[None]:
        """Open the run folder, then run the body, which opens the data; the first process goes
        before the others. Raises UserError as `open_run`."""
        with self.ranks.first_alone():
            open_run(self._kind, self.run, self._config, self.ranks)
            yield

    def compare(self, fingerprints: dict[str, str]) -> None:
        """Raise UserError if a resumed run was trained on different data (`continue_run`). Call it
        inside `opening`."""
        continue_run(self.run, self._config, fingerprints, self.ranks)

    def first_state(self, make: Callable[[], Model], kind: str) -> TrainState[Model]:
        """The training state of the network that `make` builds, with initial weights drawn from the
        seed. Raises UserError, with the advice to choose a smaller `kind`, if memory is too small.
        """
        # Initialization of modules is the only use of torch's global generator.
        torch.manual_seed(torch_seed("first weights", self._config.seed))
        with enough_memory(f"choose a smaller {kind}"):
            return TrainState.start(make().to(self.device), self._config.train.optimizer)

    @property
    def peak_flops(self) -> float | None:
        """Peak FLOP/s of this process's GPU; None if it is unknown, and for CPUs."""
        if self.device.type != "cuda":
            return None
        return peak_of(torch.cuda.get_device_name(self.device), self.precision)

    def flops_of(self, work: Workload) -> dict[str, float]:
        """FLOPs of this process's share of each role's step, to log MFU; empty if the peak is
        unknown."""
        if self.peak_flops is None:
            return {}
        work = replace(work, precision=self.precision)
        return {
            role.role: trace_step(work, role, role.batch, gpu=True).flops / self.ranks.size
            for role in work.roles
        }

    def autocast(self) -> Any:
        """A context with the precision of training, for evaluations during training."""
        return autocast(self.device, self.precision)

    def agreement(
        self,
        state: TrainState[Network],
        batch: Batch,
        generator: torch.Generator,
        role: str = "image",
    ) -> dict[str, list[float]]:
        """Student against teacher, layer by layer, on images or on what else a role denoises."""
        with self.autocast():
            return cosine_by_layer(state.model, state.teacher, batch, ROLES[role], generator)

    def train(
        self,
        state: TrainState,
        batch_at: Callable[[int], Any],
        loss_fn: LossFunction,
        record: dict[str, Any],
        on_checkpoint: Callable[[], dict[str, Any]] | None = None,
        on_sample: Callable[[Path], None] | None = None,
        evaluator: DuringTraining | None = None,
    ) -> None:
        """`training.loop.train` with this command's settings; `record` is stored in checkpoints.
        In the end, waits for the last evaluation."""
        train(
            self._config.train,
            state,
            batch_at,
            loss_fn,
            self.run,
            seed=self._config.seed,
            device=self.device,
            precision=self.precision,
            extra=record,
            on_checkpoint=on_checkpoint,
            on_sample=on_sample,
            ranks=self.ranks,
            peak_flops=self.peak_flops,
            evaluator=evaluator,
        )
        if evaluator is not None and self.ranks.is_first:
            self._log_rest(evaluator)

    def _log_rest(self, evaluator: DuringTraining) -> None:
        """Log the evaluations that end after the training."""
        config, log = self._config.train, None
        for number, result in enumerate(evaluator.rest()):
            print(result_text(result))
            if log is None:
                log = MetricsLog(self.run / "metrics.jsonl", MOST_STEPS + 1, config.log_to)
            log.write({"step": config.steps + number, **result})  # trackers take a step once
        if log is not None:
            log.close()


def step_loss(terms: LossTerms, samples: int, flops: float = 0.0, **told: str) -> StepLoss:
    """Convert a loss for the training loop; `told` is logged with its metrics. `samples` and
    `flops` of the step in this process, if known, are for its rates."""

    def metrics() -> dict[str, Any]:
        return {**told, **loss_metrics(terms)}

    return StepLoss(terms.loss, terms.num_tokens, metrics, terms.means, samples, flops)


def millions(network: nn.Module) -> str:
    """The number of parameters as text, "4.0 M parameters", and how many are trained if not all."""
    total = sum(p.numel() for p in network.parameters())
    trained = sum(p.numel() for p in network.parameters() if p.requires_grad)
    text = f"{total / 1e6:.1f} M parameters"
    return text if trained == total else f"{text} ({trained / 1e6:.1f} M trained)"
