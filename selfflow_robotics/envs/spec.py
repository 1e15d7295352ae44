"""Description of a simulator, and the function that creates it in this process."""

import os
import sys
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from selfflow_robotics.envs.base import RobotEnv
from selfflow_robotics.envs.tasks.catalog import DEFAULT_TASK, get_task
from selfflow_robotics.errors import UserError

# Default (height, width) of rendered images.
TABLETOP_IMAGE_SIZE = (64, 80)
TIMEOUT_S, MAX_TIMEOUT_S = 300.0, 86_400
SIMPLER_IMAGE_SIZE = (256, 320)  # the size in RT-1's data set


@dataclass(frozen=True)
class SimulatorSpec:
    """A simulator and its first task, JSON-able; a client can also play other tasks of it.

    `simulator`: "tabletop" (embedded), "simpler" (the user's SimplerEnv checkout at `path`), or
    "module:Class", a custom `RobotEnv` created as `Class(task, image_size)`. `python`: interpreter
    of the simulator's process; None: this one. SIMPLER needs numpy < 2, so it usually has its own.
    `env`: extra environment variables of that process. `timeout_s`: time limit for an answer; the
    first one may include compiling shaders.
    """

    simulator: str = "tabletop"
    task: str = DEFAULT_TASK
    image_size: tuple[int, int] = TABLETOP_IMAGE_SIZE  # (height, width)
    renderer: str = "ray"  # of the tabletop
    python: str | None = None
    path: str | None = None
    env: dict[str, str] = field(default_factory=dict)
    allow_invisible: bool = False  # objects without visual meshes (`simpler.assets`)
    timeout_s: float = TIMEOUT_S


@dataclass(frozen=True)
class SimplerInstall:
    """Location of the user's SIMPLER; None: from SIMPLER_ENV_PATH and SIMPLER_PYTHON."""

    path: str | None = None  # SimplerEnv checkout
    python: str | None = None  # interpreter
    allow_invisible: bool = False  # also play with objects that have no visual mesh

    def resolved(self) -> "SimplerInstall":
        """With the environment variables filled in; None then means no checkout, and this
        interpreter."""
        return SimplerInstall(
            self.path or os.environ.get("SIMPLER_ENV_PATH") or None,
            self.python or os.environ.get("SIMPLER_PYTHON") or None,
            self.allow_invisible,
        )


def simulator_spec(
    simulator: str,
    task: str,
    install: SimplerInstall,
    image_size: tuple[int, int] | None = None,
    renderer: str = "ray",
    timeout_s: float = TIMEOUT_S,
) -> SimulatorSpec:
    """The spec of `simulator`: SIMPLER from `install`, the tabletop in this Python.

    `image_size` None: the simulator's default. Custom simulators get `install` unchanged. Raises
    UserError if `timeout_s` is not positive or more than a day.
    """
    if not 0 < timeout_s <= MAX_TIMEOUT_S:
        raise UserError(f"timeout_s must be in (0, {MAX_TIMEOUT_S}], got {timeout_s:g}")
    if simulator == "simpler":
        install = install.resolved()
    elif simulator == "tabletop":
        install = SimplerInstall()
    own_size = SIMPLER_IMAGE_SIZE if simulator == "simpler" else TABLETOP_IMAGE_SIZE
    return SimulatorSpec(
        simulator=simulator,
        task=task,
        image_size=image_size or own_size,
        renderer=renderer,
        python=install.python,
        path=install.path,
        allow_invisible=install.allow_invisible,
        timeout_s=timeout_s,
    )


def make_env(spec: SimulatorSpec) -> RobotEnv:
    """The environment that `spec` describes. Raises UserError for an unknown simulator or task."""
    task, size = get_task(spec.task), (spec.image_size[0], spec.image_size[1])
    if spec.simulator == "tabletop":
        if task.surroundings:
            raise UserError(f"{task.name} uses surroundings of SIMPLER's; use sim=simpler")
        from selfflow_robotics.envs.tabletop.env import TabletopEnv

        return TabletopEnv(task, image_size=size, renderer=spec.renderer)
    if spec.simulator == "simpler":
        from selfflow_robotics.envs.simpler.env import SimplerEnv

        return SimplerEnv(task, size, spec.path, spec.allow_invisible)
    module, _, name = spec.simulator.partition(":")
    if not name:
        raise UserError(f"unknown simulator '{spec.simulator}': choose tabletop or simpler")
    if spec.path and spec.path not in sys.path:
        sys.path.insert(0, spec.path)
    env: Any = getattr(import_module(module), name)
    return env(task, size)
