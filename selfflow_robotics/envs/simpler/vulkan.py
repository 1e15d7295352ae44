"""List the Vulkan devices of this machine.

    python vulkan.py        prints them as JSON

SAPIEN crashes with a segmentation fault if there is no device, so this is checked before it starts.
It only imports the standard library, since the file also runs as a script in SIMPLER's Python,
where this package is not installed. Constants and layouts are from vulkan.h.
"""

import ctypes
import json
import os
import re
from ctypes import byref, c_char, c_char_p, c_uint8, c_uint32, c_void_p
from dataclasses import asdict, dataclass

# SAPIEN requires this extension to share images with CUDA; Mesa's CPU driver lacks it.
SEMAPHORE_FD = "VK_KHR_external_semaphore_fd"

# SAPIEN 2.2.2 rejects Mesa 22.3's CPU driver ("Cannot find a suitable rendering device").
_OLDEST_MESA = 23
_KINDS = ("other", "integrated GPU", "discrete GPU", "virtual GPU", "CPU")
_VERSION_1_1 = 1 << 22 | 1 << 12
# Of VkPhysicalDeviceFeatures, a row of 32-bit booleans.
_NUM_FEATURES, _GEOMETRY_SHADER, _WIDE_LINES = 55, 4, 15


class _ApplicationInfo(ctypes.Structure):
    _fields_ = (
        ("type", c_uint32),
        ("next", c_void_p),
        ("name", c_char_p),
        ("version", c_uint32),
        ("engine", c_char_p),
        ("engine_version", c_uint32),
        ("api_version", c_uint32),
    )


class _InstanceCreateInfo(ctypes.Structure):
    _fields_ = (
        ("type", c_uint32),
        ("next", c_void_p),
        ("flags", c_uint32),
        ("application", ctypes.POINTER(_ApplicationInfo)),
        ("num_layers", c_uint32),
        ("layers", c_void_p),
        ("num_extensions", c_uint32),
        ("extensions", c_void_p),
    )


class _Driver(ctypes.Structure):  # VkPhysicalDeviceDriverProperties
    _fields_ = (
        ("type", c_uint32),
        ("next", c_void_p),
        ("id", c_uint32),
        ("name", c_char * 256),
        ("info", c_char * 256),
        ("conformance", c_uint8 * 4),
    )


class _Properties(ctypes.Structure):  # VkPhysicalDeviceProperties2
    _fields_ = (
        ("type", c_uint32),
        ("next", c_void_p),
        ("api_version", c_uint32),
        ("driver_version", c_uint32),
        ("vendor", c_uint32),
        ("device", c_uint32),
        ("kind", c_uint32),
        ("name", c_char * 256),
        ("cache_id", c_uint8 * 16),
        ("limits", c_uint8 * 536),  # unused here; space for the driver to write
    )


class _Extension(ctypes.Structure):
    _fields_ = (("name", c_char * 256), ("version", c_uint32))


@dataclass(frozen=True)
class VulkanDevice:
    """One device as its driver describes it."""

    name: str
    kind: str  # one of "other", "integrated GPU", "discrete GPU", "virtual GPU", "CPU"
    api_version: str
    driver: str
    has_semaphore_fd: bool
    draws_scenes: bool  # geometry shaders and wide lines, which SAPIEN's images need

    @property
    def is_too_old(self) -> bool:
        """Whether this is a Mesa CPU driver that SAPIEN is known to reject."""
        version = re.search(r"Mesa (\d+)", self.driver)
        return self.kind == "CPU" and version is not None and int(version[1]) < _OLDEST_MESA

    @property
    def is_usable(self) -> bool:
        """Whether SAPIEN 2.2.2 accepts it."""
        return self.draws_scenes and not self.is_too_old


def list_devices() -> list[VulkanDevice]:
    """All devices, in the loader's order. Raises OSError if the Vulkan loader is not installed."""
    vulkan = ctypes.CDLL("libvulkan.so.1")
    application = _ApplicationInfo(type=0, api_version=_VERSION_1_1)
    info = _InstanceCreateInfo(type=1, application=ctypes.pointer(application))
    instance = c_void_p()
    if vulkan.vkCreateInstance(byref(info), None, byref(instance)):
        return []  # the loader found no driver
    try:
        count = c_uint32()
        vulkan.vkEnumeratePhysicalDevices(instance, byref(count), None)
        handles = (c_void_p * count.value)()
        vulkan.vkEnumeratePhysicalDevices(instance, byref(count), handles)
        return [_describe(vulkan, c_void_p(handle)) for handle in handles]
    finally:
        vulkan.vkDestroyInstance(instance, None)


def missing_device(devices: list[VulkanDevice]) -> str | None:
    """Why SAPIEN finds no device among these, with the fix, in one line; None if it finds one."""
    if any(device.is_usable for device in devices):
        return None
    for file in filter(None, os.environ.get("VK_ICD_FILENAMES", "").split(os.pathsep)):
        # Vulkan treats a wrong path as "no driver", not as an error.
        if not os.path.isfile(file):
            return f"VK_ICD_FILENAMES names a file that does not exist: {file}"
    mend = "install the GPU's own driver or Mesa's for the CPU (mesa-vulkan-drivers, 25 or newer)"
    if not devices:
        return f"no Vulkan driver is installed: {mend}"
    for device in devices:
        if device.is_too_old:
            return (
                f"the CPU's Vulkan driver is too old ({device.driver}): mesa-vulkan-drivers 25 "
                "works (Debian 12: from bookworm-backports)"
            )
    names = ", ".join(device.name for device in devices)
    return f"SAPIEN needs geometry shaders and wide lines, not supported by {names}: {mend}"


def _describe(vulkan: ctypes.CDLL, handle: c_void_p) -> VulkanDevice:
    driver = _Driver(type=1000196000)
    properties = _Properties(type=1000059001, next=ctypes.addressof(driver))
    vulkan.vkGetPhysicalDeviceProperties2(handle, byref(properties))
    features = (c_uint32 * _NUM_FEATURES)()
    vulkan.vkGetPhysicalDeviceFeatures(handle, features)
    count = c_uint32()
    vulkan.vkEnumerateDeviceExtensionProperties(handle, None, byref(count), None)
    extensions = (_Extension * count.value)()
    vulkan.vkEnumerateDeviceExtensionProperties(handle, None, byref(count), extensions)
    api = properties.api_version
    return VulkanDevice(
        name=properties.name.decode(errors="replace"),
        kind=_KINDS[properties.kind] if properties.kind < len(_KINDS) else _KINDS[0],
        api_version=f"{api >> 22}.{api >> 12 & 0x3FF}.{api & 0xFFF}",
        driver=(driver.name + b" " + driver.info).decode(errors="replace").strip(),
        has_semaphore_fd=SEMAPHORE_FD.encode() in {extension.name for extension in extensions},
        draws_scenes=bool(features[_GEOMETRY_SHADER] and features[_WIDE_LINES]),
    )


if __name__ == "__main__":
    print(json.dumps([asdict(device) for device in list_devices()]))
