"""One seed, one recording, whatever the processor, the BLAS and numpy make of the arithmetic."""

import ast
import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import simplejpeg

from selfflow_robotics.envs.episodes import EpisodeSpec
from selfflow_robotics.envs.tabletop.env import TabletopEnv
from selfflow_robotics.envs.tasks.catalog import get_task
from selfflow_robotics.policies.demonstrator import Demonstrator
from selfflow_robotics.robot.actions import policy_from_environment, rt1_from_policy

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "selfflow_robotics"
TASK = get_task("pick_coke_can")
STEPS = 20  # down to the can and around it, contacts included


def rollout_digest() -> str:
    """SHA-256 over states, pictures as JPEG, proprioception and stored actions of an episode."""
    env, demonstrator, digest = TabletopEnv(TASK), Demonstrator(recovery=1.0), hashlib.sha256()
    info = env.begin(5, {})
    demonstrator.begin(0, EpisodeSpec(TASK.name, info["episode"]["variant"], seed=5))
    actions = []
    for _ in range(STEPS):
        observation = env.observe()
        digest.update(simplejpeg.encode_jpeg(observation["image"]))
        digest.update(observation["proprio"].tobytes())
        for value in info["state"].values():
            digest.update(np.asarray(value).tobytes())
        actions.append(demonstrator.act([0], [observation], [info])[0][0])
        info = env.advance(actions[-1])
    for stored in rt1_from_policy(policy_from_environment(np.stack(actions))):
        digest.update(stored.tobytes())
    return digest.hexdigest()


@pytest.fixture(scope="module")
def here() -> str:
    return rollout_digest()


def test_same_seed_same_bytes(here):
    assert rollout_digest() == here


# A kernel that the processor cannot run ends the process.
_SUPPORTED = set(Path("/proc/cpuinfo").read_text().split()) if sys.platform == "linux" else set()
_NEEDS = {"Prescott": "ssse3", "Haswell": "avx2", "SkylakeX": "avx512f"}
_NO_SIMD = {
    "NPY_DISABLE_CPU_FEATURES": "AVX2 FMA3 AVX512F AVX512CD AVX512_SKX X86_V3 X86_V4",
    "JSIMD_FORCENONE": "1",  # libjpeg-turbo's
}


@pytest.mark.parametrize(
    ("kernel", "more"),
    [
        ("Prescott", {"OMP_NUM_THREADS": "4", **_NO_SIMD}),
        ("Haswell", {"OPENBLAS_NUM_THREADS": "2", "MKL_NUM_THREADS": "2"}),
        ("SkylakeX", {}),
    ],
)
def test_same_bytes_on_another_processor(here, kernel, more):
    if _NEEDS[kernel] not in _SUPPORTED:
        pytest.skip(f"this processor cannot run OpenBLAS's {kernel} kernels")
    code = f"import runpy; print(runpy.run_path({str(Path(__file__))!r})['rollout_digest']())"
    child = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OPENBLAS_CORETYPE": kernel, **more},
        capture_output=True,
        text=True,
        check=True,
    )
    assert child.stdout.split()[-1] == here


# What decides a recording, and numpy's functions whose last bit depends on the processor: products
# go to BLAS, and sines and their kind have other code for AVX-512.
_DECISIVE = ("envs", "robot", "policies", "rollouts")
_ROUNDED_BY_PROCESSOR = {
    *("dot", "vdot", "inner", "matmul", "einsum", "tensordot", "linalg"),
    *("sin", "cos", "tan", "arcsin", "arccos", "arctan", "arctan2", "hypot", "cbrt"),
    *("exp", "exp2", "expm1", "log", "log2", "log10", "log1p", "power", "float_power"),
    *("sinh", "cosh", "tanh"),
}
# Which rays are worth casting: a margin covers the rounding.
_ALLOWED = {
    ("render.py", "_near_moving"),
    # Of evaluations, which recordings do not contain.
    ("failures.py", "shifts"),
    ("ensemble.py", "average"),
}


def _rounded_by_processor(node: ast.AST) -> bool:
    if isinstance(node, ast.BinOp | ast.AugAssign):
        return isinstance(node.op, ast.MatMult)
    return (
        isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == "np"
        and node.attr in _ROUNDED_BY_PROCESSOR
    )


def test_recordings_need_no_arithmetic_that_depends_on_the_processor():
    found = set()
    for path in (path for name in _DECISIVE for path in (PACKAGE / name).rglob("*.py")):
        tree = ast.parse(path.read_text())
        for function in (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)):
            if (path.name, function.name) in _ALLOWED:
                function.body = []
        found |= {
            f"{path.relative_to(PACKAGE)}:{node.lineno}"
            for node in ast.walk(tree)
            if isinstance(node, ast.expr | ast.stmt) and _rounded_by_processor(node)
        }
    assert not found
