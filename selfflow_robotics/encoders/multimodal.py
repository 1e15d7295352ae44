"""Feature networks of the transformers library for captions, videos and sounds.

Images and frames that are not square are resized to the network's square input as they are, not
cropped.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from selfflow_robotics.encoders.frames import resize_frames
from selfflow_robotics.encoders.pretrained import (
    fingerprint,
    load_network,
    transformers_files,
    whole,
)
from selfflow_robotics.errors import UserError


class Clip:
    """As `encoders.features.FeatureNetwork`: CLIP's embeddings of images, and of captions."""

    reads = "images"

    def __init__(self, name: str, download: bool, device: torch.device) -> None:
        """Raises UserError as `transformers_files`."""
        with transformers_files(name, download) as where:
            from transformers import AutoTokenizer, CLIPModel
            from transformers.image_processing_base import ImageProcessingMixin

            self._pixels = _Pixels(
                ImageProcessingMixin.get_image_processor_dict(name, **where)[0], device
            )
            self._tokenizer: Any = AutoTokenizer.from_pretrained(name, **where)
            loaded = load_network(CLIPModel, name, where)
        self._network = whole(loaded, name).to(device)
        self._most_tokens: int = self._network.config.text_config.max_position_embeddings
        self._device = device
        self.identity = fingerprint(self._network, *self._pixels.settings)

    @torch.no_grad()
    def __call__(self, batch: Tensor) -> dict[str, Tensor]:
        seen = self._network.vision_model(pixel_values=self._pixels(batch)).pooler_output
        return {"features": self._network.visual_projection(seen).float()}

    @torch.no_grad()
    def captions(self, texts: Sequence[str]) -> Tensor:
        """Embeddings float32 [B, D]; captions that are too long are cut, as usual for CLIP."""
        words = self._tokenizer(
            list(texts),
            padding=True,
            truncation=True,
            max_length=self._most_tokens,
            return_tensors="pt",
        ).to(self._device)
        read = self._network.text_model(**words).pooler_output
        return self._network.text_projection(read).float()


class Videos:
    """As `encoders.features.FeatureNetwork`: VideoMAE's tokens, averaged, of videos uint8
    [B, T, H, W, 3]; of longer ones it sees frames at equal distances."""

    reads = "videos"

    def __init__(self, name: str, download: bool, device: torch.device) -> None:
        """Raises UserError as `transformers_files`."""
        with transformers_files(name, download) as where:
            from transformers import VideoMAEModel
            from transformers.image_processing_base import ImageProcessingMixin

            self._pixels = _Pixels(
                ImageProcessingMixin.get_image_processor_dict(name, **where)[0], device
            )
            loaded = load_network(VideoMAEModel, name, where)
        self._network = whole(loaded, name).to(device)
        self._num_frames: int = self._network.config.num_frames
        self.identity = fingerprint(self._network, *self._pixels.settings)

    @torch.no_grad()
    def __call__(self, batch: Tensor) -> dict[str, Tensor]:
        count = batch.shape[1]
        if count < self._num_frames:
            raise UserError(
                f"the videos have {count} frames, the feature network reads {self._num_frames}"
            )
        chosen = torch.linspace(0, count - 1, self._num_frames).round().long()
        frames = rearrange(batch[:, chosen], "b t h w c -> (b t) h w c")
        pixels = rearrange(self._pixels(frames), "(b t) c h w -> b t c h w", t=self._num_frames)
        tokens = self._network(pixel_values=pixels).last_hidden_state
        return {"features": tokens.mean(dim=1).float()}


class Sounds:
    """As `encoders.features.FeatureNetwork`: CLAP's embeddings, of unit length, of sounds float
    [B, samples] in [-1, 1]; of longer ones, it hears the beginning (10 s)."""

    reads = "sounds"

    def __init__(self, name: str, download: bool, device: torch.device) -> None:
        """Raises UserError as `transformers_files`."""
        with transformers_files(name, download) as where:
            from transformers import AutoFeatureExtractor, ClapModel

            self._spectrogram: Any = AutoFeatureExtractor.from_pretrained(name, **where)
            loaded = load_network(ClapModel, name, where)
        self._network = whole(loaded, name).to(device)
        self._device = device
        self.sample_rate: int = self._spectrogram.sampling_rate  # Hz
        self.identity = fingerprint(self._network, self.sample_rate)

    @torch.no_grad()
    def __call__(self, batch: Tensor) -> dict[str, Tensor]:
        # Cut here: the library would cut at random.
        sounds = [sound.numpy() for sound in batch[:, : self._spectrogram.nb_max_samples].float()]
        heard = self._spectrogram(
            sounds, sampling_rate=self.sample_rate, truncation="rand_trunc", return_tensors="pt"
        ).to(self._device)
        embedded = self._network.audio_projection(self._network.audio_model(**heard).pooler_output)
        return {"features": F.normalize(embedded.float(), dim=-1)}


class _Pixels:
    """Frames uint8 [B, H, W, 3] -> the normalised input [B, 3, S, S] of a vision network, from the
    settings of its image processor."""

    def __init__(self, settings: dict[str, Any], device: torch.device) -> None:
        size = settings.get("crop_size") or settings["size"]
        if isinstance(size, dict):
            size = size.get("shortest_edge") or size["height"]
        self._size = int(size)
        self._device = device
        self.settings = (self._size, *settings["image_mean"], *settings["image_std"])
        self._mean, self._std = (
            torch.tensor(settings[name], device=device).view(1, -1, 1, 1)
            for name in ("image_mean", "image_std")
        )

    def __call__(self, frames: Tensor) -> Tensor:
        pixels = resize_frames(frames.to(self._device), (self._size, self._size))
        return (pixels / 255 - self._mean) / self._std
