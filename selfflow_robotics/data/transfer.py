"""Copy arrays to the device."""

import numpy as np
import torch
from torch import Tensor


def to_device(array: np.ndarray, device: torch.device) -> Tensor:
    """`array` as a tensor on `device`; copies to a GPU are asynchronous."""
    tensor = torch.from_numpy(array)
    if device.type == "cuda":  # only pinned memory is copied asynchronously
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)
