"""Check whether SIMPLER can run here, and say what to install if not."""

import json
import os
import subprocess
import sys
from pathlib import Path

from selfflow_robotics.envs.simpler import vulkan
from selfflow_robotics.envs.simpler.assets import check_assets, missing_variants
from selfflow_robotics.envs.tasks.base import Task
from selfflow_robotics.errors import UserError

INSTALL = """\
SIMPLER runs from your own checkout, in its own Python 3.11 environment. Install it in this order:

  1. git clone --recurse-submodules https://github.com/simpler-env/SimplerEnv
  2. python3.11 -m venv simpler-python
     simpler-python/bin/pip install sapien==2.2.2 "numpy<2" "gymnasium>=0.28.1,<1.0" \\
         "opencv-python-headless<4.12" transforms3d ruckig scipy h5py pyyaml tqdm tabulate \\
         GitPython imageio "imageio[ffmpeg]" trimesh rtree gdown "setuptools<82"
     simpler-python/bin/pip install --no-deps -e SimplerEnv/ManiSkill2_real2sim -e SimplerEnv
  3. System libraries, and a Vulkan driver: your GPU's own, or Mesa's for the CPU, version 25 or
     newer. On Debian:
     apt-get install libvulkan1 libgl1 libegl1 libx11-6 libglib2.0-0 libxext6 libsm6 \\
         mesa-vulkan-drivers    (Debian 12: this last one from bookworm-backports)
  4. export SIMPLER_ENV_PATH=$PWD/SimplerEnv SIMPLER_PYTHON=$PWD/simpler-python/bin/python
     (or simpler.path=... simpler.python=... on the command line)
"""

PROBE_TIMEOUT_S = 120
PYTHON_VERSION = [3, 11]  # SAPIEN 2.2.2 has no newer builds, this package supports none older
# Run by SIMPLER's own Python, which has none of this package's dependencies.
PROBE = """
import importlib.util, json, sys
sys.path[:0] = json.loads(sys.argv[1])
names = ("numpy", "gymnasium", "sapien", "pkg_resources", "cv2", "transforms3d", "ruckig", "scipy",
         "h5py", "yaml", "tqdm", "tabulate", "git", "imageio", "trimesh", "rtree", "gdown",
         "mani_skill2_real2sim")
found = {"python": list(sys.version_info[:2]), "library": None, "assets": None}
found["missing"] = [name for name in names if importlib.util.find_spec(name) is None]
if "numpy" not in found["missing"]:
    import numpy
    found["numpy"] = numpy.__version__
if not found["missing"]:
    try:
        import cv2, sapien.core
        from mani_skill2_real2sim import ASSET_DIR
        found["assets"] = str(ASSET_DIR)
    except ImportError as error:
        found["library"] = str(error)
print("\\n" + json.dumps(found))
"""


class SimplerMissing(UserError):
    """SIMPLER is not installed, or not completely."""

    advice = INSTALL


def check_simpler(
    path: str | None, python: str | None, task: Task, allow_invisible: bool = False
) -> dict[str, str]:
    """Raise SimplerMissing, in one line with the fix, if SIMPLER at `path` would not start `task`.

    Returns the variants that cannot be played because files are missing, with the reason.

    Checks, in installation order, the checkout, the interpreter `python` and its packages, the
    task's scene, photographs and meshes, and the Vulkan devices, without starting a simulator.
    `path` None: SIMPLER is installed in the interpreter; `python` None: this interpreter;
    `allow_invisible` as for `check_assets`. Raises UserError if the task does not run in SIMPLER at
    all.
    """
    task.bound()
    interpreter = python or sys.executable
    try:
        folders = _check_checkout(path) if path else []
        assets = _check_python(folders, interpreter)
        _check_scene(task, assets, allow_invisible)
        _check_vulkan(interpreter)
        return {} if allow_invisible else missing_variants(task, assets)
    except UserError as error:
        raise SimplerMissing(str(error)) from error


def _check_checkout(path: str) -> list[str]:
    """The folders to add to Python's path for SIMPLER."""
    if not (Path(path) / "ManiSkill2_real2sim" / "mani_skill2_real2sim").is_dir():
        raise UserError(
            f"{path} is not a SimplerEnv checkout with its submodule ManiSkill2_real2sim (git "
            "submodule update --init)"
        )
    return [path, str(Path(path) / "ManiSkill2_real2sim")]


def _check_python(folders: list[str], python: str) -> Path:
    """The folder of SIMPLER's assets."""
    found = _ask(python, "-c", PROBE, json.dumps(folders))
    if not folders and "mani_skill2_real2sim" in found["missing"]:
        raise UserError("SIMPLER's checkout was not found: set SIMPLER_ENV_PATH or simpler.path=")
    own = "use a separate one (SIMPLER_PYTHON or simpler.python=)"
    if found["python"] != PYTHON_VERSION:
        version = ".".join(map(str, found["python"]))
        raise UserError(f"SIMPLER's Python must be 3.11, but {python} is {version}: {own}")
    # Under numpy 2 SAPIEN 2 imports, but objects fall through the table and motion crashes.
    if "numpy" in found and int(found["numpy"].split(".")[0]) >= 2:
        raise UserError(
            f"SIMPLER needs a Python with numpy below 2, but {python} has {found['numpy']}: {own}"
        )
    if found["missing"] == ["pkg_resources"]:
        raise UserError(
            f"SAPIEN needs setuptools below 82: {python} -m pip install 'setuptools<82'"
        )
    if found["missing"]:
        raise UserError(f"SIMPLER's Python ({python}) lacks {', '.join(found['missing'])}")
    if found["library"]:
        raise UserError(
            f"SAPIEN lacks a system library ({found['library']}); on Debian: apt-get install "
            "libvulkan1 libgl1 libegl1 libx11-6 libglib2.0-0 libxext6 libsm6"
        )
    return Path(found["assets"])


def _check_scene(task: Task, assets: Path, allow_invisible: bool) -> None:
    check_assets(task, assets, allow_invisible)
    if stage_file := task.bound().stage_file:
        # SAPIEN writes a derived collision shape next to the scene.
        stage = assets / stage_file
        derived = stage.with_name(stage.name + ".nonconvex.stl")
        if not derived.is_file() and not os.access(stage.parent, os.W_OK):
            raise UserError(f"SAPIEN must be able to write to {stage.parent} on its first run")


def _check_vulkan(python: str) -> None:
    found = _ask(python, "-I", str(Path(vulkan.__file__)))
    devices = [vulkan.VulkanDevice(**device) for device in found]
    if problem := vulkan.missing_device(devices):
        raise UserError(problem)


def _ask(python: str, *arguments: str):
    """The JSON on the last line that `python` prints. Raises UserError if there is none."""
    try:
        done = subprocess.run(
            [python, *arguments],
            capture_output=True,
            text=True,
            timeout=PROBE_TIMEOUT_S,
            check=True,
        )
        return json.loads(done.stdout.splitlines()[-1])
    except subprocess.CalledProcessError as error:
        cause = (error.stderr.strip() or f"exit status {error.returncode}").splitlines()[-1]
    except (OSError, subprocess.SubprocessError, ValueError, IndexError) as error:
        cause = str(error)
    raise UserError(f"SIMPLER's Python failed to run ({python}): {cause}")
