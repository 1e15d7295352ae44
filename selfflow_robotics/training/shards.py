"""Shards of a checkpoint, by torch.distributed.checkpoint (DCP) with its safetensors back end.

Every process writes one file with its parts of all tensors, named PART/NAME; the header of a file
has their offsets. So any number of processes can load what any other number wrote. DCP's default
format is not used, because it pickles.
"""

import warnings
from pathlib import Path

import torch
from torch import Tensor
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load

SHARDS = "shards"


def load_shards(folder: Path, part: str) -> dict[str, Tensor]:
    """The whole tensors of a part, merged from the files of all processes."""
    reader = HuggingFaceStorageReader(str(folder))
    wanted = {}
    for key, found in reader.read_metadata().state_dict_metadata.items():
        if key.startswith(f"{part}/") and isinstance(found, TensorStorageMetadata):
            wanted[key] = torch.empty(found.size, dtype=found.properties.dtype)
    with warnings.catch_warnings():  # that there is only one process, as `no_dist` says
        warnings.simplefilter("ignore", UserWarning)
        load(wanted, storage_reader=reader, no_dist=True)
    return {key.removeprefix(f"{part}/"): tensor for key, tensor in wanted.items()}
