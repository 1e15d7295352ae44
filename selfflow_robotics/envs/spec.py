"""Which simulator to run and how, as data, and the one function that starts it in this process."""

import os
import sys
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from selfflow_robotics.envs.base import RobotEnv
from selfflow_robotics.envs.tasks import get_task
from selfflow_robotics.errors import UserError

# (height, width) of the images that simulators render if nothing else is asked for.
TABLETOP_IMAGE_SIZE = (64, 80)
TIMEOUT_S, MAX_TIMEOUT_S = 300.0, 86_400
SIMPLER_IMAGE_SIZE = (256, 320)  # as RT-1's data sets store them


@dataclass(frozen=True)
class SimulatorSpec:
    """One simulated task, JSON-able.

    `simulator`: "tabletop" (embedded), "simpler" (the user's SimplerEnv checkout at `path`), or
    "module:Class", a `RobotEnv` of one's own that is made as `Class(task, image_size)`.
    `python`: interpreter of the simulator's process; None is this one. SIMPLER needs numpy < 2, so
    it usually has its own. `env`: environment variables added to that process. `timeout_s`: how
    long it may take for one answer, the first of which may include compiling shaders.
    """

    simulator: str = "tabletop"
    task: str = "pick_coke_can"
    image_size: tuple[int, int] = TABLETOP_IMAGE_SIZE  # (height, width)
    renderer: str = "ray"  # of the tabletop
    python: str | None = None
    path: str | None = None
    env: dict[str, str] = field(default_factory=dict)
    timeout_s: float = TIMEOUT_S


@dataclass(frozen=True)
class SimplerInstall:
    """Where the user's SIMPLER is; None: as SIMPLER_ENV_PATH and SIMPLER_PYTHON say."""

    path: str | None = None  # SimplerEnv checkout
    python: str | None = None  # interpreter

    def resolved(self) -> "SimplerInstall":
        """With what the environment variables say filled in; None then means there is none, and
        for the interpreter the one that runs us."""
        return SimplerInstall(
            self.path or os.environ.get("SIMPLER_ENV_PATH") or None,
            self.python or os.environ.get("SIMPLER_PYTHON") or None,
        )


def simulator_spec(
    simulator: str,
    task: str,
    install: SimplerInstall,
    image_size: tuple[int, int] | None = None,
    renderer: str = "ray",
    timeout_s: float = TIMEOUT_S,
) -> SimulatorSpec:
    """How `simulator` is started: SIMPLER as `install` says, the tabletop in this Python.

    `image_size` None is the simulator's own. A simulator of one's own takes `install` as it is.
    Raises UserError for a `timeout_s` of nothing or of more than a day.
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
        timeout_s=timeout_s,
    )


def make_env(spec: SimulatorSpec) -> RobotEnv:
    """The environment that `spec` describes. Raises UserError for an unknown simulator or task."""
    task, size = get_task(spec.task), (spec.image_size[0], spec.image_size[1])
    if spec.simulator == "tabletop":
        from selfflow_robotics.envs.tabletop.env import TabletopEnv

        return TabletopEnv(task, image_size=size, renderer=spec.renderer)
    if spec.simulator == "simpler":
        from selfflow_robotics.envs.simpler.env import SimplerEnv

        return SimplerEnv(task, image_size=size, path=spec.path)
    module, _, name = spec.simulator.partition(":")
    if not name:
        raise UserError(f"unknown simulator '{spec.simulator}': give tabletop or simpler")
    if spec.path and spec.path not in sys.path:
        sys.path.insert(0, spec.path)
    env: Any = getattr(import_module(module), name)
    return env(task, size)
