"""Let SAPIEN 2.2.2 start on Vulkan drivers that cannot share semaphores with CUDA.

SAPIEN creates its Vulkan device with a fixed list of extensions. One of them,
VK_KHR_external_semaphore_fd, only serves to share images with CUDA, which SIMPLER never does.
Mesa's CPU driver does not have it (seen in 23.2 and 25.0), and creating the device fails with
ErrorExtensionNotPresent. The list is compiled in, so the name is replaced among the loaded
library's constants, in this process's memory, by the name of an extension that is already in the
list and that every driver has. No file is changed, and nothing is replaced if a device has the
extension.
"""

import ctypes
import mmap
from collections.abc import Iterator
from pathlib import Path

from selfflow_robotics.envs.simpler.vulkan import SEMAPHORE_FD, VulkanDevice

_DEMANDED = b"\0" + SEMAPHORE_FD.encode() + b"\0"
# Padded to the same length with zeros.
_HARMLESS = (b"\0" + SEMAPHORE_FD.removesuffix("_fd").encode()).ljust(len(_DEMANDED), b"\0")
_LIBRARIES = ("libsapien", "libkuafu")  # SAPIEN's rasteriser and its ray tracer


def relax_sapien(devices: list[VulkanDevice]) -> int:
    """Apply the change if no usable device of `devices` has the extension.

    Call it after `import sapien.core` and before the first renderer. Returns the number of places
    changed. Raises OSError if the memory cannot be made writable.
    """
    if any(device.has_semaphore_fd for device in devices if device.is_usable):
        return 0
    changed = 0
    for start, end in _constants():
        content = ctypes.string_at(start, end - start)
        at = content.find(_DEMANDED)
        while at >= 0:
            _overwrite(start + at, _HARMLESS)
            changed += 1
            at = content.find(_DEMANDED, at + 1)
    return changed


def _constants() -> Iterator[tuple[int, int]]:
    """Address ranges of the read-only data of SAPIEN's libraries (man 5 proc_pid_maps)."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        fields = line.split(maxsplit=5)
        if len(fields) < 6 or not Path(fields[5]).name.startswith(_LIBRARIES):
            continue
        if fields[1] == "r--p":
            start, end = fields[0].split("-")
            yield int(start, 16), int(end, 16)


def _overwrite(address: int, content: bytes) -> None:
    first = address // mmap.PAGESIZE * mmap.PAGESIZE
    span = address + len(content) - first
    _protect(first, span, mmap.PROT_READ | mmap.PROT_WRITE)
    ctypes.memmove(address, content, len(content))
    _protect(first, span, mmap.PROT_READ)


def _protect(address: int, length: int, protection: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mprotect(ctypes.c_void_p(address), ctypes.c_size_t(length), protection):
        raise OSError(ctypes.get_errno(), "mprotect failed on SAPIEN's constants")
