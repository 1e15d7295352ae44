"""Save codecs in a checkpoint's manifest, and load them."""

from typing import Any

from selfflow_robotics.errors import unknown
from selfflow_robotics.modalities.actions import Actions
from selfflow_robotics.modalities.base import Codec
from selfflow_robotics.modalities.latents import ImageLatents, LatentsBehindPixels, VideoLatents
from selfflow_robotics.modalities.pixels import PixelPatches
from selfflow_robotics.modalities.sound import SoundLatents

# Entries that are sizes: whole numbers above 0, or a list of them.
COUNTED = (
    "image_size",
    "latent_size",
    "latent_channels",
    "patch",
    "downsample",
    "channels",
    "sample_rate",
)
CODECS = {
    codec.kind: codec
    for codec in (
        PixelPatches,
        ImageLatents,
        LatentsBehindPixels,
        VideoLatents,
        Actions,
        SoundLatents,
    )
}


def codec_to_json(codec: Codec) -> dict[str, Any]:
    """A JSON-compatible dict, for `codec_from_json`."""
    return {"kind": codec.kind, **codec.to_json()}


def codec_from_json(record: dict[str, Any]) -> Codec:
    """The inverse of `codec_to_json`. Raises UserError for an unknown kind, KeyError or TypeError
    for a damaged record."""
    kind = record["kind"]
    if kind not in CODECS:
        raise unknown("codec", kind, CODECS)
    for name in COUNTED:
        value = record.get(name, 1)
        parts = value if isinstance(value, list | tuple) else [value]
        if not all(type(part) is int and part > 0 for part in parts):
            raise TypeError(f"{name} is {value!r:.40}")
    return CODECS[kind].from_json({k: v for k, v in record.items() if k != "kind"})


# Entries of a record that do not change the meaning of a token.
_SIZES = {"image_size", "latent_size", "stats", "frame_rate"}


def same_tokens(one: Codec, other: Codec) -> bool:
    """Whether tokens of both codecs mean the same; image sizes, frame rates and action statistics
    may differ."""
    records = [codec_to_json(codec) for codec in (one, other)]
    is_known = all(record.get("fingerprint") for record in records)
    for record in records:
        source = record.pop("source", None)
        if not is_known:  # the released weights do not record their SD-VAE's fingerprint
            record["fingerprint"] = source and source["kind"]
    first, second = ({k: v for k, v in r.items() if k not in _SIZES} for r in records)
    return first == second
