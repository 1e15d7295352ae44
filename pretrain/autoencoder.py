"""Train a small autoencoder on the frames of a data set, for autoencoder=small in other commands.

    python pretrain/autoencoder.py                     # frames of the tabletop simulator
    python pretrain/autoencoder.py --data DIR channels=8 name=autoencoder8
    python pretrain/autoencoder.py experiment=debug    # seconds
    python pretrain/encode.py --data DIR autoencoder=small weights=runs/autoencoder

The result is runs/NAME/autoencoder.safetensors: the moving average of the weights, the scale of the
latents, and the PSNR on held-out episodes. Repeat the command to resume an interrupted run.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from selfflow_robotics.autoencoders.latent import to_planes
from selfflow_robotics.autoencoders.small import (
    DOWNSAMPLE,
    FILE,
    SmallAutoencoder,
    SmallNetwork,
    psnr,
    small_loss,
)
from selfflow_robotics.cli.app import Flag, hydra_app
from selfflow_robotics.cli.job import Job, JobConfig
from selfflow_robotics.cli.robot_input import open_index
from selfflow_robotics.data.rlds.windows import WindowReader
from selfflow_robotics.data.robot_index import RobotIndex
from selfflow_robotics.data.sampler import EpochSampler
from selfflow_robotics.errors import UserError
from selfflow_robotics.rollouts.demonstrations import CollectConfig
from selfflow_robotics.training.checkpoint import latest_checkpoint, resuming
from selfflow_robotics.training.loop import StepLoss

MEASURED = 512  # most frames, evenly spaced, to measure scale and PSNR on
AT_ONCE = 64  # frames per batch of these


@dataclass(frozen=True)
class AutoencoderTrainConfig(JobConfig):
    name: str = "autoencoder"
    data: str | None = None
    split: str = "train"
    collect: CollectConfig = field(default_factory=CollectConfig)
    image_size: tuple[int, int] = (64, 80)
    channels: int = 4
    kl: float = 5e-4
    batch_size: int = 32
    held_out: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        SmallNetwork(self.channels)  # raises if `channels` is out of range
        if any(side < DOWNSAMPLE or side % DOWNSAMPLE for side in self.image_size):
            raise UserError(
                f"image_size must be multiples of {DOWNSAMPLE} px, got {self.image_size}"
            )
        if self.train.parallel == "fsdp":
            raise UserError("an autoencoder is too small to shard; use train.parallel=replicate")
        if self.train.activation_checkpoint != "none":
            raise UserError("an autoencoder has no blocks: leave out train.activation_checkpoint")
        if self.kl < 0:
            raise UserError(f"kl must not be negative, got {self.kl}")
        if not 0 < self.held_out < 1:
            raise UserError(f"held_out must be between 0 and 1, got {self.held_out}")


@hydra_app(
    "autoencoder",
    AutoencoderTrainConfig,
    flags=(
        Flag("--data", literal=True, help="the version folder of an RLDS data set"),
        Flag("--split", literal=True, help="train, val, train[:90%], train+val, ..."),
    ),
)
def main(config: AutoencoderTrainConfig) -> None:
    job = Job("autoencoder", config)
    with job.opening():
        index = open_index(config.data, config.split, config.collect)
        fingerprints = {"data": index.fingerprint}
        job.compare(fingerprints)
    kept = max(1, round(config.held_out * index.num_episodes))
    if kept == index.num_episodes:
        raise UserError(f"{index.num_episodes} episodes leave none to train on; collect more")
    training, held_out = (
        WindowReader(index, 1, 0, config.image_size, episodes)
        for episodes in (
            range(index.num_episodes - kept),
            range(index.num_episodes - kept, index.num_episodes),
        )
    )
    sampler = EpochSampler(len(training), config.batch_size, config.seed, "autoencoder")
    state = job.first_state(lambda: SmallNetwork(config.channels), "batch_size")

    def batch_at(step: int) -> torch.Tensor:
        return frames_of(training, job.ranks.share(sampler.batch(step)))

    def loss_fn(frames: torch.Tensor, generator: torch.Generator) -> StepLoss:
        planes = to_planes(frames.to(job.device))
        loss, error = small_loss(state.model, planes, config.kl, generator)
        return StepLoss(loss, len(frames), lambda: {"squared_error": error.detach()})

    job.train(state, batch_at, loss_fn, {"kind": "autoencoder", "data": fingerprints})
    if job.ranks.is_first:
        newest = latest_checkpoint(job.run)
        assert newest is not None
        if state.step == 0:  # the run was already finished, and `train` did not load it
            with resuming(job.run):
                state.load(newest)
        export(job.run, state.teacher, training, held_out, index, job.device)


def export(
    run: Path,
    network: SmallNetwork,
    training: WindowReader,
    held_out: WindowReader,
    index: RobotIndex,
    device: torch.device,
) -> None:
    """Measure the moving average's PSNR, write its file, and print both."""
    raw = SmallAutoencoder(network, 1.0, {}, device)
    scale = torch.cat([raw.encode(part)[0].cpu() for part in spread(training)]).std().item()
    both = [(part, raw.decode(raw.encode(part)[0]).cpu()) for part in spread(held_out)]
    frames, decoded = (torch.cat(parts) for parts in zip(*both, strict=True))
    quality = psnr(frames, decoded)
    told = {"psnr": quality, "held_out_frames": len(frames), "data": index.fingerprint}
    try:
        SmallAutoencoder(network, scale, told, device).save(run / FILE)
    except OSError as error:
        raise UserError(f"cannot write {run / FILE} ({error.strerror}); free space") from error
    print(f"done: {run / FILE}, {quality:.1f} dB PSNR on {len(frames)} held-out frames")


def frames_of(reader: WindowReader, numbers: Sequence[int]) -> torch.Tensor:
    """The first frames of windows `numbers`, uint8 [B, H, W, 3]."""
    return torch.from_numpy(reader.read(numbers).frames[:, 0])


def spread(reader: WindowReader) -> list[torch.Tensor]:
    """Frames evenly spaced over all windows, in batches."""
    numbers = torch.linspace(0, len(reader) - 1, min(len(reader), MEASURED)).long().tolist()
    return [frames_of(reader, numbers[i : i + AT_ONCE]) for i in range(0, len(numbers), AT_ONCE)]


if __name__ == "__main__":
    main()
