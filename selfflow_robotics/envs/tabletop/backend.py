"""Decides which OpenGL MuJoCo may use, then imports it; the modules beside take `mujoco` from here.

MuJoCo reads MUJOCO_GL once, at its first import, and dies there when the named library is missing.
The user's own value is honoured; otherwise the first that can be loaded of EGL and OSMesa is taken,
and "disable" when there is neither (the ray renderer needs no OpenGL at all).
"""

import ctypes
import os
import sys
from typing import Any

from selfflow_robotics.errors import UserError

GL_HELP = (
    "install it with 'apt-get install -y --no-install-recommends libegl1 libopengl0 "
    "libgl1-mesa-dri' (or libosmesa6), or use renderer=ray"
)
_EGL, _OSMESA = "libEGL.so.1", ("libOSMesa.so.8", "libOSMesa.so.6")
_GL = ("libOpenGL.so.0", "libGL.so.1")  # PyOpenGL needs one of them beside EGL


def _loadable(*names: str) -> bool:
    for name in names:
        try:
            ctypes.CDLL(name)
            return True
        except OSError:
            continue
    return False


def choose_gl() -> str:
    """The value MUJOCO_GL should have: the user's, else "egl", "osmesa" or "disable"."""
    if user := os.environ.get("MUJOCO_GL"):
        return user
    if not sys.platform.startswith("linux"):
        return "glfw"
    if _loadable(_EGL) and _loadable(*_GL):
        return "egl"
    return "osmesa" if _loadable(*_OSMESA) else "disable"


def _import_mujoco() -> Any:  # its names come from extension modules that have no stubs
    if "mujoco" not in sys.modules:
        os.environ["MUJOCO_GL"] = choose_gl()
    try:
        import mujoco
    except AttributeError as error:  # how PyOpenGL reports a library that is not there
        backend = os.environ.get("MUJOCO_GL")
        raise UserError(
            f"MUJOCO_GL={backend}, but that library does not load: {GL_HELP}"
        ) from error
    return mujoco


mujoco = _import_mujoco()
