"""Numbered pictures of a trained network: the k-th is a function of (seed, k).

Its class and every noise it is made of are drawn from (seed, k). What stands beside it in the batch
changes nothing, the batch's size does: matrix products of other shapes round differently. Whoever
wants the same bits again asks for batches of one size, in one precision, on one kind of device.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from selfflow_robotics.autoencoders.latent import LatentAutoencoder
from selfflow_robotics.errors import UserError
from selfflow_robotics.flow.guidance import check_scale
from selfflow_robotics.flow.solvers import Method, check_num_steps
from selfflow_robotics.flow.timesteps import check_shift
from selfflow_robotics.rng import numpy_generator
from selfflow_robotics.training.device import autocast
from selfflow_robotics.world.answer import answer
from selfflow_robotics.world.generate import SampleMethod, SeededNormal, sample_images
from selfflow_robotics.world.image_network import ImageNetwork
from selfflow_robotics.world.network import Network


@dataclass(frozen=True)
class Sampling:
    """How noise becomes pictures; `world.generate.sample_images` explains each."""

    method: SampleMethod = "sde"
    num_steps: int = 250
    guidance_scale: float = 1.0
    guidance_interval: tuple[float, float] = (0.0, 1.0)
    shift: float = 1.0
    precision: str = "fp32"  # or bf16, of the network; autoencoders decode in float32

    def __post_init__(self) -> None:
        check_num_steps(self.num_steps, least=2 if self.method == "sde" else 1)
        check_shift(self.shift, "shift")
        check_scale(self.guidance_scale)
        low, high = self.guidance_interval
        if not 0 <= low <= high <= 1:
            raise UserError(
                f"guidance must be 0 <= guidance_low <= guidance_high <= 1, got {low} and {high}"
            )


class PictureMaker(Protocol):
    """A network and all that turns numbers into its pictures."""

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) px."""
        ...

    def __call__(self, numbers: Sequence[int]) -> np.ndarray:
        """The pictures of these numbers, uint8 [B, H, W, 3]."""
        ...


class ClassPictures:
    """Pictures of a network of labelled classes.

    The class is drawn uniformly from (seed, k) among those that training had, as ADM's protocol
    wants it (not balanced), or it is the k-th of `labels`, which repeat. Raises UserError for
    labels that the network does not have or never saw, and for an autoencoder of other latents.
    """

    def __init__(
        self,
        network: ImageNetwork,
        autoencoder: LatentAutoencoder,
        sampling: Sampling,
        seed: int,
        labels: Sequence[int] | None = None,
    ) -> None:
        self.config = network.model.config
        last = self.config.num_classes - 1
        if labels is not None and not (labels and 0 <= min(labels) <= max(labels) <= last):
            raise UserError(f"labels must be numbers from 0 to {last}, got {list(labels)}")
        self._trained = network.labels or range(self.config.num_classes)
        if untrained := sorted(set(labels or ()) - set(self._trained)):
            raise UserError(
                f"{network.checkpoint} was trained without pictures of class {untrained[0]}; ask "
                "for other labels"
            )
        if autoencoder.channels != self.config.channels:
            raise UserError(
                f"the network makes latents of {self.config.channels} channels, the autoencoder "
                f"reads {autoencoder.channels}; give the one that it was trained with"
            )
        self._model, self._autoencoder = network.model, autoencoder
        if sampling.precision == "bf16":  # once; autocast would convert the weights at every step
            self._model = copy.deepcopy(network.model).bfloat16()
        self._sampling, self._seed, self._labels = sampling, seed, labels
        self._device = next(network.model.parameters()).device

    @property
    def size(self) -> tuple[int, int]:
        side = self.config.latent_size * self._autoencoder.downsample
        return side, side

    def label(self, number: int) -> int:
        """The class of a picture."""
        if self._labels is not None:
            return self._labels[number % len(self._labels)]
        generator = numpy_generator("picture label", self._seed, number)
        return self._trained[generator.integers(len(self._trained))]

    def __call__(self, numbers: Sequence[int]) -> np.ndarray:
        how = self._sampling
        labels = torch.tensor([self.label(number) for number in numbers], device=self._device)
        try:
            latents = sample_images(
                self._model,
                labels,
                _normal(self._seed, numbers, self._device),
                method=how.method,
                num_steps=how.num_steps,
                guidance_scale=how.guidance_scale,
                guidance_interval=how.guidance_interval,
                shift=how.shift,
            )
            _check_finite(latents)
            return self._autoencoder.decode(latents).cpu().numpy()
        except torch.OutOfMemoryError as error:
            raise _memory_full() from error


class ScenePictures:
    """First frames that a multimodal network imagines, conditioned on an instruction alone.

    Raises UserError for a network that was not trained on pictures, and for the stochastic sampler,
    which only networks of labelled pictures have.
    """

    def __init__(self, network: Network, sampling: Sampling, seed: int, instruction: str) -> None:
        if "image" not in network.roles:
            raise UserError(
                f"{network.checkpoint} was trained on {', '.join(network.roles)}, never to make "
                "pictures (role image); give a run of pretrain/run.py"
            )
        if sampling.method == "sde":
            raise UserError(
                "method=sde samples networks of labelled pictures; for this one choose euler, "
                "heun or multistep"
            )
        self._model, self._sampling = network.model, sampling
        self._method: Method = sampling.method
        self._seed, self._instruction = seed, instruction
        self._device = network.device

    @property
    def size(self) -> tuple[int, int]:
        return self._model.config.image_size

    def __call__(self, numbers: Sequence[int]) -> np.ndarray:
        auto, how = self._model.autoencoder, self._sampling
        shape = torch.Size([len(numbers), auto.tokens_per_frame, auto.token_channels])
        noise = _normal(self._seed, numbers, self._device)(shape)
        try:
            with autocast(self._device, how.precision):
                tokens = answer(
                    self._model,
                    {},
                    [self._instruction] * len(numbers),
                    {"first_frame": noise},
                    num_steps=how.num_steps,
                    guidance_scale=how.guidance_scale,
                    guidance_interval=how.guidance_interval,
                    method=self._method,
                    shift=how.shift,
                )["first_frame"]
            _check_finite(tokens)
            return auto.decode(tokens)[:, 0].cpu().numpy()
        except torch.OutOfMemoryError as error:
            raise _memory_full() from error


def _normal(seed: int, numbers: Sequence[int], device: torch.device) -> SeededNormal:
    """Noise of each picture, a stream for each (seed, number)."""
    return SeededNormal([seed << 32 | number for number in numbers], device)


def _check_finite(latents: Tensor) -> None:
    if not latents.isfinite().all():
        raise UserError(
            "the network makes numbers that are not finite; its weights or the precision are unfit"
        )


def _memory_full() -> UserError:
    return UserError("the device's memory is full; lower batch_size")
