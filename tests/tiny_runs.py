"""Runs of a tiny robot network with any number of processes; in processes of its own:

    torchrun --nproc-per-node=2 -m tests.tiny_runs '[{"folder": "runs/a", "parallel": "fsdp"}]'

Each entry is a call of `run`; `batch` seeks what several processes could get wrong: roles that use
different parts of the network, and samples of which different numbers of tokens count.
"""

import hashlib
import json
import os
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import torch

from selfflow_robotics.batch import Batch
from selfflow_robotics.evaluation.during_training import DuringTraining, DuringTrainingConfig
from selfflow_robotics.models.network import Network
from selfflow_robotics.models.presets import RobotConfig
from selfflow_robotics.models.sit import SiTConfig
from selfflow_robotics.objective.loss import ConditioningConfig, loss
from selfflow_robotics.objective.roles import ROLES
from selfflow_robotics.objective.self_flow import LossTerms, ObjectiveConfig
from selfflow_robotics.training.checkpoint import latest_checkpoint
from selfflow_robotics.training.distributed import ALONE, Ranks, start_ranks
from selfflow_robotics.training.loop import StepLoss, TrainConfig, train
from selfflow_robotics.training.optimizer import OptimizerConfig, build_optimizers
from selfflow_robotics.training.parallel import DataParallel, Parallel, whole
from selfflow_robotics.training.state import TrainState
from tests.networks import as_slots, robot_network

SIZE = 6  # of a batch: for one, two or three processes
TURNS = ("policy", "world_model", "joint")
NETWORK = robot_network(
    RobotConfig(SiTConfig(width=24, depth=3, heads=3), image_size=(32, 32), later_frames=2)
)
CPU = torch.device("cpu")
RATE = {"success": 0.5, "low": 0.2, "high": 0.8, "episodes": 4, "errors": 0}
# Stands in for `evaluation.play_checkpoint`: reads the request, writes a result.
INSTANT = f"""
import json, pathlib, sys
request = json.loads(sys.argv[1])
result = {{"tasks": {{"pick_coke_can": {RATE}}}}}
pathlib.Path(request["result"]).write_text(json.dumps(result))
"""


def evaluator(folder: Path | str, every: int, steps: int, script: str = INSTANT) -> DuringTraining:
    command = (sys.executable, "-I", "-S", "-c", script)
    return DuringTraining(Path(folder), DuringTrainingConfig(), every, steps, command=command)


def batch(network: Network, step: int, ranks: Ranks) -> Batch:
    """The process's samples of a step; of sample n, n of the later frames' 8 tokens count."""
    mine = torch.tensor(ranks.share(range(SIZE)))
    generator = torch.Generator().manual_seed(step)
    tokens = {
        "first_frame": torch.randn(SIZE, 4, 768, generator=generator)[mine],
        "later_frames": torch.randn(SIZE, 8, 768, generator=generator)[mine],
        "actions": torch.randn(SIZE, 6, 7, generator=generator)[mine],
    }
    slots = as_slots(network, tokens)
    counted = torch.arange(8).expand(len(mine), -1) < mine[:, None]
    slots["later_frames"] = replace(slots["later_frames"], valid=counted)
    return Batch(slots, [("pick", "place it", "")[sample % 3] for sample in mine.tolist()])


def run(
    folder: Path | str,
    ranks: Ranks = ALONE,
    *,
    steps: int = 6,
    precision: str = "fp32",
    poison: list[int] | None = None,
    send: Sequence[Sequence[int]] = (),
    evaluate_every: int = 0,
    script: str = INSTANT,
    **settings,
) -> TrainState:
    """Train to `steps`, resuming what is in `folder`; its losses go to metrics.jsonl there.

    `poison` = [rank, step]: there the loss is not finite. `send` = [rank, step, signal] of each
    signal that a process gets there, once for a folder. `script` evaluates.
    """
    Path(folder).mkdir(parents=True, exist_ok=True)
    config = TrainConfig(
        **{
            "steps": steps,
            "log_every": 1,
            "save_every": 3,
            "keep_checkpoints": 9,
            "optimizer": OptimizerConfig(warmup_steps=2),
            **settings,
        }
    )
    torch.manual_seed(0)
    state = TrainState.start(Network(NETWORK), config.optimizer)

    def terms_of(number: int, generator: torch.Generator, ranks: Ranks) -> LossTerms:
        return loss(
            state.model,
            state.teacher,
            batch(state.model, number, ranks),
            ROLES[TURNS[number % len(TURNS)]],
            ObjectiveConfig(),
            ConditioningConfig(frame_noise=0.2, draws=2),
            generator,
            step=state.step,
        )

    @torch.no_grad()
    def evaluate() -> dict[str, float]:  # in the first process only
        return {"held_out": terms_of(0, torch.Generator().manual_seed(0), ALONE).loss.item()}

    def loss_fn(number: int, generator: torch.Generator) -> StepLoss:
        for rank, step, sent in send:
            mark = Path(folder) / f"sent-{step}"
            if (rank, step) == (ranks.rank, state.step) and not mark.exists():
                mark.touch()
                os.kill(os.getpid(), sent)
        terms = terms_of(number, generator, ranks)
        bad = float("nan") if poison == [ranks.rank, state.step] else 1.0
        means = [(bad * mean, count) for mean, count in terms.means]
        role = {"role": TURNS[number % len(TURNS)]}
        return StepLoss(bad * terms.loss, terms.num_tokens, lambda: role, means)

    watching = evaluator(folder, evaluate_every, steps, script) if evaluate_every else None
    try:
        with watching or nullcontext():
            train(
                config, state, lambda number: number, loss_fn, Path(folder),
                seed=0, device=CPU, precision=precision, extra={}, ranks=ranks,
                on_checkpoint=evaluate, evaluator=watching,
            )  # fmt: skip
    finally:
        digest = state_digest(state)
        if ranks.is_first:
            (Path(folder) / "digest").write_text(digest)
    return state


def loaded(folder: Path | str, ranks: Ranks = ALONE, parallel: Parallel = "replicate") -> str:
    """The digest of the newest checkpoint of a run, as these processes load it."""
    newest = latest_checkpoint(Path(folder))
    assert newest is not None
    state = TrainState.start(Network(NETWORK), OptimizerConfig())
    DataParallel(state.model, state.teacher, lambda *_: None, parallel, ranks, "fp32")
    state.optimizers = build_optimizers(state.model, OptimizerConfig())
    state.load(newest)
    digest = state_digest(state)
    if ranks.is_first:
        (Path(folder) / f"loaded-{ranks.size}").write_text(digest)
    return digest


def records(folder: Path | str) -> list[dict]:
    return [json.loads(line) for line in (Path(folder) / "metrics.jsonl").read_text().splitlines()]


def losses(folder: Path | str) -> list[float]:
    return [record["loss"] for record in records(folder)]


def state_digest(state: TrainState) -> str:
    """SHA-256 of all tensors of a checkpoint; all processes of a sharded state must call it."""
    digest = hashlib.sha256()
    for part, tensors in sorted(state.parts().items()):
        for name, tensor in sorted(tensors.items()):
            digest.update(f"{part}/{name}".encode())
            digest.update(whole(tensor).contiguous().numpy().tobytes())
    return digest.hexdigest()


def main() -> None:
    ranks, _ = start_ranks(CPU)
    for settings in json.loads(sys.argv[1]):
        call = loaded if settings.pop("load", False) else run
        try:
            call(ranks=ranks, **settings)
        except KeyboardInterrupt:  # as asked
            pass
        except Exception as error:
            (Path(settings["folder"]) / f"error-{ranks.rank}").write_text(str(error))
            if settings.get("poison") is None:
                raise


if __name__ == "__main__":
    main()
