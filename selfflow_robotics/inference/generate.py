"""Generate numbered images with a trained network: the k-th is a function of (seed, k).

Its class and noise are drawn from (seed, k), or it has the k-th of the given prompts. The other
images of its batch do not matter, but the batch size does, because matrix products of different
shapes round differently. For the same bits, use the same batch size, precision and device type.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from selfflow_robotics.errors import UserError
from selfflow_robotics.flow.guidance import check_extrapolation, check_scale
from selfflow_robotics.flow.solvers import check_num_steps
from selfflow_robotics.flow.timesteps import check_shift
from selfflow_robotics.inference.bundle import Bundle
from selfflow_robotics.inference.sample import SampleMethod, SeededNormal
from selfflow_robotics.inference.velocity import check_heads
from selfflow_robotics.rng import numpy_generator


@dataclass(frozen=True)
class Sampling:
    """Sampling settings; see `inference.sample.sample`."""

    method: SampleMethod = "sde"
    num_steps: int = 250
    guidance_scale: float = 1.0
    guidance_interval: tuple[float, float] = (0.0, 1.0)
    extrapolation: float = 1.0
    shift: float = 1.0
    precision: str = "fp32"  # or bf16, for the network; autoencoders decode in float32

    def __post_init__(self) -> None:
        check_num_steps(self.num_steps, least=2 if self.method == "sde" else 1)
        check_shift(self.shift, "shift")
        check_scale(self.guidance_scale)
        check_extrapolation(self.extrapolation)
        low, high = self.guidance_interval
        if not 0 <= low <= high <= 1:
            raise UserError(
                f"guidance must be 0 <= guidance_low <= guidance_high <= 1, got {low} and {high}"
            )


class NumberedPictures:
    """Images (first frames) generated from noise, given a class or a text.

    For a network with classes, the class is drawn uniformly from (seed, k) among the trained ones,
    as in ADM's protocol (not balanced), or it is the k-th of `labels`, repeated. For others, the
    text is the k-th of `prompts`, repeated; None: no text. Raises UserError for labels that the
    network does not have or was not trained on, for networks that were not trained to generate
    images, and for extrapolation without auxiliary heads.
    """

    def __init__(
        self,
        bundle: Bundle,
        sampling: Sampling,
        seed: int,
        labels: Sequence[int] | None = None,
        prompts: Sequence[str] | None = None,
    ) -> None:
        """The bundle's codec of frames must have its autoencoder."""
        if "image" not in bundle.roles:
            raise UserError(
                f"{bundle.origin} was trained with the roles {', '.join(bundle.roles)}, not "
                "image; use a run of pretrain/run.py"
            )
        check_heads(bundle.network, sampling.extrapolation)
        self._num_classes = bundle.network.config.num_classes or 0
        last = self._num_classes - 1
        if labels is not None and not (labels and 0 <= min(labels) <= max(labels) <= last):
            raise UserError(f"labels must be numbers from 0 to {last}, got {list(labels)}")
        self._trained = bundle.labels or range(self._num_classes)
        if untrained := sorted(set(labels or ()) - set(self._trained)):
            raise UserError(
                f"{bundle.origin} was trained without images of class {untrained[0]}; choose "
                "other labels"
            )
        # Convert once; autocast would convert the weights at every step.
        self._bundle = bundle.in_bfloat16() if sampling.precision == "bf16" else bundle
        self._sampling, self._seed = sampling, seed
        self._labels, self._prompts = labels, prompts or [""]

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) px."""
        return self._bundle.frames.image_size

    def label(self, number: int) -> int:
        """The class of an image."""
        if self._labels is not None:
            return self._labels[number % len(self._labels)]
        generator = numpy_generator("picture label", self._seed, number)
        return self._trained[generator.integers(len(self._trained))]

    def prompt(self, number: int) -> str:
        """The text of an image; empty for networks with classes."""
        return self._prompts[number % len(self._prompts)]

    def __call__(self, numbers: Sequence[int]) -> np.ndarray:
        """The images with these numbers, uint8 [B, H, W, 3]."""
        bundle, how, codec = self._bundle, self._sampling, self._bundle.frames
        words = labels = None
        if bundle.labelled:
            labels = torch.tensor([self.label(number) for number in numbers], device=bundle.device)
        if bundle.network.text is not None:
            words = [self.prompt(number) for number in numbers]
        normal = SeededNormal([self._seed << 32 | number for number in numbers], bundle.device)
        shape = torch.Size([len(numbers), codec.tokens_per_step, codec.channels])
        try:
            tokens = bundle.ask(
                {"first_frame": normal(shape)},
                words=words,
                labels=labels,
                normal=normal,
                method=how.method,
                num_steps=how.num_steps,
                guidance_scale=how.guidance_scale,
                guidance_interval=how.guidance_interval,
                extrapolation=how.extrapolation,
                shift=how.shift,
            )["first_frame"]
            if not tokens.isfinite().all():
                raise UserError(
                    "the network's output is not finite; check its weights or use precision=fp32"
                )
            return codec.decode(tokens)[:, 0].cpu().numpy()
        except torch.OutOfMemoryError as error:
            raise UserError("the device is out of memory; lower batch_size") from error
