"""Choose MuJoCo's OpenGL backend, then import it; other modules import `mujoco` from here.

MuJoCo reads MUJOCO_GL once, at its first import, and fails there if the library is missing. A value
set by the user is kept; otherwise EGL or OSMesa is used, whichever loads first, or "disable" if
neither does (the ray renderer needs no OpenGL).
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
_GL = ("libOpenGL.so.0", "libGL.so.1")  # PyOpenGL needs one of them in addition to EGL


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


def _import_mujoco() -> Any:  # its names come from extension modules without stubs
    if "mujoco" not in sys.modules:
        os.environ["MUJOCO_GL"] = choose_gl()
    try:
        import mujoco
    except AttributeError as error:  # how PyOpenGL reports a missing library
        backend = os.environ.get("MUJOCO_GL")
        raise UserError(
            f"MUJOCO_GL={backend}, but that library cannot be loaded: {GL_HELP}"
        ) from error
    return mujoco


mujoco = _import_mujoco()
