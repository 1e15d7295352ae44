"""Can SIMPLER run here? What to install, in order, if not."""

import json
import os
import subprocess
import sys
from pathlib import Path

from selfflow_robotics.errors import UserError

INSTALL = """\
SIMPLER runs from your own checkout, in a Python of its own (3.11 or older). In this order:

  1. git clone --recurse-submodules https://github.com/simpler-env/SimplerEnv
  2. python3.11 -m venv simpler-python
     simpler-python/bin/pip install sapien==2.2.2 "numpy<2" "gymnasium>=0.28.1,<1.0" \\
         "opencv-python-headless<4.12" transforms3d ruckig scipy h5py pyyaml tqdm tabulate \\
         GitPython imageio "imageio[ffmpeg]" trimesh rtree gdown "setuptools<82"
     simpler-python/bin/pip install --no-deps -e SimplerEnv/ManiSkill2_real2sim -e SimplerEnv
  3. A Vulkan driver: your GPU's own, or Mesa's for the CPU, version 25 or newer. On Debian:
     apt-get install libvulkan1 libgl1 libegl1 libx11-6 libglib2.0-0 libxext6 libsm6 \\
         mesa-vulkan-drivers    (Debian 12: this last one from bookworm-backports)
  4. On the CPU: export VK_ICD_FILENAMES=/usr/share/vulkan/icd.d/lvp_icd.json
  5. export SIMPLER_ENV_PATH=$PWD/SimplerEnv SIMPLER_PYTHON=$PWD/simpler-python/bin/python
     (or simpler.path=... simpler.python=... on the command line)
"""

PROBE_TIMEOUT_S = 120
# Run by SIMPLER's own Python, which has none of this package's dependencies.
PROBE = """
import importlib.util, json, sys
sys.path[:0] = json.loads(sys.argv[1])
found = {"python": list(sys.version_info[:2]), "missing": []}
for name in ("numpy", "gymnasium", "sapien", "cv2", "transforms3d", "ruckig", "scipy",
             "mani_skill2_real2sim"):
    if importlib.util.find_spec(name) is None:
        found["missing"].append(name)
if "numpy" not in found["missing"]:
    import numpy
    found["numpy"] = numpy.__version__
print("\\n" + json.dumps(found))
"""


def default_path() -> str | None:
    """The checkout named by SIMPLER_ENV_PATH."""
    return os.environ.get("SIMPLER_ENV_PATH") or None


def default_python() -> str | None:
    """The interpreter named by SIMPLER_PYTHON; None is the one that runs us."""
    return os.environ.get("SIMPLER_PYTHON") or None


def check_simpler(path: str | None, python: str | None) -> None:
    """Raise UserError, in one line, if SIMPLER at `path` would not start under `python`.

    Looks at the checkout, the interpreter's packages and the Vulkan drivers; starts no simulator.
    """
    _check_checkout(path)
    _check_python(str(path), python or sys.executable)
    _check_vulkan()


def _check_checkout(path: str | None) -> None:
    if not path:
        raise UserError("SIMPLER's checkout is not known: set SIMPLER_ENV_PATH or simpler.path=")
    if not (Path(path) / "ManiSkill2_real2sim" / "mani_skill2_real2sim").is_dir():
        raise UserError(
            f"{path} is no SimplerEnv checkout with its submodule ManiSkill2_real2sim "
            "(git submodule update --init)"
        )


def _check_python(path: str, python: str) -> None:
    folders = json.dumps([str(Path(path) / "ManiSkill2_real2sim"), path])
    try:
        done = subprocess.run(
            [python, "-c", PROBE, folders],
            capture_output=True,
            text=True,
            timeout=PROBE_TIMEOUT_S,
            check=True,
        )
        found = json.loads(done.stdout.splitlines()[-1])
    except (OSError, subprocess.SubprocessError, ValueError, IndexError) as error:
        raise UserError(f"SIMPLER's Python does not run ({python}): {error}") from None
    if found["missing"]:
        raise UserError(f"SIMPLER's Python ({python}) lacks {', '.join(found['missing'])}")
    # Under numpy 2 SAPIEN 2 imports, but objects fall through the table and motion crashes.
    if int(found["numpy"].split(".")[0]) >= 2:
        raise UserError(f"SIMPLER needs numpy < 2, {python} has {found['numpy']}")


def _check_vulkan() -> None:
    named = os.environ.get("VK_ICD_FILENAMES") or os.environ.get("VK_DRIVER_FILES")
    if named:
        # A wrong path is no error to Vulkan: it means "no driver".
        for file in named.split(os.pathsep):
            if not Path(file).is_file():
                raise UserError(f"VK_ICD_FILENAMES names a file that is not there: {file}")
        return
    folders = ("/usr/share/vulkan/icd.d", "/usr/local/share/vulkan/icd.d", "/etc/vulkan/icd.d")
    if not any(any(Path(folder).glob("*.json")) for folder in folders):
        raise UserError(f"no Vulkan driver is installed (nothing in {', '.join(folders)})")
