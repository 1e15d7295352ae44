"""SiT for pictures of labelled classes (arXiv 2401.08740), every token at its own timestep.

The network of Self-Flow's ImageNet experiment (arXiv 2603.06507): latents of an autoencoder in
patches, one label a picture, velocity out. `models.convert` reads the paper's released weights.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from einops import rearrange
from torch import Tensor, nn

from selfflow_robotics.errors import UserError
from selfflow_robotics.models.embeddings import TimestepEmbedder, sincos_positions_2d
from selfflow_robotics.models.layers import FinalLayer, Projector
from selfflow_robotics.models.sit import MOST_TOKENS, SiT, SiTConfig, Timesteps

# The family of DiT and SiT; XL is the paper's (675 M).
SIZES = {
    "S": SiTConfig(width=384, depth=12, heads=6),
    "B": SiTConfig(width=768, depth=12, heads=12),
    "L": SiTConfig(width=1024, depth=24, heads=16),
    "XL": SiTConfig(width=1152, depth=28, heads=16),
}


MAX_POSITIONS = 1 << 30  # numbers; more are a mistake that would fill the memory


@dataclass(frozen=True)
class ImageSiTConfig:
    """The network's shape. The defaults around `sit` are those of ImageNet at 256 px."""

    sit: SiTConfig = field(default_factory=SiTConfig)
    latent_size: int = 32  # height and width of the latents
    channels: int = 4  # of the latents
    patch: int = 2
    num_classes: int = 1000  # label `num_classes` is the null label
    # SiT's habit: the last layer has as many rows again for a variance that flow matching ignores.
    learn_sigma: bool = True
    # Channels that the train-only head predicts: of a frozen encoder. None: the network's width.
    feature_channels: int | None = None

    def __post_init__(self) -> None:
        if min(self.latent_size, self.channels, self.patch, self.num_classes) < 1:
            raise UserError(
                "model.latent_size, channels, patch and num_classes must be at least 1, got "
                f"{self.latent_size}, {self.channels}, {self.patch}, {self.num_classes}"
            )
        if self.feature_channels is not None and self.feature_channels < 1:
            raise UserError(
                f"model.feature_channels must be at least 1, got {self.feature_channels}"
            )
        if self.latent_size % self.patch:
            raise UserError(
                f"model.latent_size must be divisible by model.patch, got {self.latent_size} and "
                f"{self.patch}"
            )
        if self.grid**2 > MOST_TOKENS:
            raise UserError(
                f"model.latent_size {self.latent_size} makes {self.grid**2} patches; at most "
                f"{MOST_TOKENS} are possible"
            )
        if self.sit.width % 4:  # two sine-cosine pairs an axis of the positions
            raise UserError(f"model.sit.width must be divisible by 4, got {self.sit.width}")
        if self.grid**2 * self.sit.width > MAX_POSITIONS:
            raise UserError(
                f"model.latent_size {self.latent_size} in patches of {self.patch} is too large for "
                f"a network of width {self.sit.width}"
            )

    @property
    def token_channels(self) -> int:
        """C of a token: channels * patch * patch."""
        return self.channels * self.patch**2

    @property
    def grid(self) -> int:
        """Patches along a side; a picture has grid * grid tokens."""
        return self.latent_size // self.patch

    @property
    def null_label(self) -> int:
        """The label that stands for "any": the unconditional half of guidance."""
        return self.num_classes


def patchify(latents: Tensor, patch: int) -> Tensor:
    """Latents [B, C, H, W] -> tokens [B, H W / patch^2, C patch^2], channels in (c p q) order."""
    return rearrange(latents, "b c (h p) (w q) -> b (h w) (c p q)", p=patch, q=patch)


def unpatchify(tokens: Tensor, patch: int) -> Tensor:
    """The inverse of `patchify` for square latents."""
    side = round(tokens.shape[1] ** 0.5)
    return rearrange(tokens, "b (h w) (c p q) -> b c (h p) (w q)", h=side, w=side, p=patch, q=patch)


class ImageSiT(nn.Module):
    """Tokens, timesteps and labels in; velocities and a layer's features out."""

    positions: Tensor  # [N, D], fixed

    def __init__(self, config: ImageSiTConfig) -> None:
        super().__init__()
        self.config = config
        width, outputs = config.sit.width, config.token_channels * (1 + config.learn_sigma)
        self.x_embedder = nn.Linear(config.token_channels, width)
        self.label_table = nn.Embedding(config.num_classes + 1, width)
        self.register_buffer(
            "positions", sincos_positions_2d(width, config.grid, config.grid), persistent=False
        )
        # The released weights embed the distance from noise without DiT's factor of 1000.
        self.sit = SiT(config.sit, TimestepEmbedder(width, scale=1.0, origin=1.0))
        self.final_layer = FinalLayer(width, outputs)
        self.projector = Projector(width, config.feature_channels)
        nn.init.normal_(self.label_table.weight, std=0.02)
        for linear in (self.x_embedder, self.projector.linear1, self.projector.linear2):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def embed(self, tokens: Tensor) -> Tensor:
        """Hidden tokens [B, N, D] before the first block, of noised tokens [B, N, C]."""
        return self.x_embedder(tokens) + self.positions

    def forward(
        self,
        tokens: Tensor,
        timesteps: Timesteps,
        labels: Tensor,
        layers: Sequence[int] = (),
        features_only: bool = False,
        separate_attention: bool = False,
        table: Sequence[Tensor] | None = None,
    ) -> tuple[Tensor | None, dict[int, Tensor]]:
        """Velocities [B, N, C] and the raw features [B, N, D] after so many blocks of `layers`.

        Args:
            tokens: noised tokens x_t [B, N, C] as `patchify` makes them.
            timesteps: `(values [B, V], index [B, N])`, t in [0, 1]; see `sit.constant_timestep`.
            labels: int64 [B], in [0, num_classes]; `config.null_label` hides the class.
            layers: which features to return, 1 to depth.
            features_only: stop after the last of them; the velocity is then None.
            separate_attention: tokens see only those at their own timestep.
            table: the rows of `modulation_table` for these timesteps and labels, [B, V, ...] each.
        """
        hidden, mod, features = self.sit(
            self.embed(tokens),
            timesteps,
            layers=layers,
            features_only=features_only,
            separate_attention=separate_attention,
            condition=self.label_table(labels),
            table=table,
        )
        if features_only:
            return None, features
        rows = None if table is None else table[-1]
        return self.final_layer(hidden, mod, self.config.token_channels, rows), features

    def modulation_table(self, times: Tensor, labels: Tensor) -> list[Tensor]:
        """What adaLN makes of times [S] and labels [B]: [B, S, 6 D] for each block and [B, S, 2 D]
        for the last layer. One product each reads adaLN's weights, a third of all, once for all S.
        """
        timesteps = times.expand(len(labels), -1), times.new_zeros(0)
        cond = self.sit.modulation(timesteps, self.label_table(labels)).cond
        layers = (*self.sit.blocks, self.final_layer)
        return [layer.adaLN_modulation(cond) for layer in layers]  # pyright: ignore
