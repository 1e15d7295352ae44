"""The simulator that a policy's training data came from, with the same settings."""

from typing import Any

from selfflow_robotics.envs.simpler.preflight import check_simpler
from selfflow_robotics.envs.spec import TIMEOUT_S, SimplerInstall, SimulatorSpec, simulator_spec
from selfflow_robotics.envs.tasks.catalog import get_task
from selfflow_robotics.errors import UserError
from selfflow_robotics.evaluation.domain import check_robot


def own_spec(
    task: str,
    install: SimplerInstall,
    data: dict[str, Any],
    network_image_size: tuple[int, int],
    renderer: str | None,
    timeout_s: float = TIMEOUT_S,
) -> SimulatorSpec:
    """As `home_spec`, with the simulator of the training data, or else the tabletop.

    Raises SimplerMissing if that is SIMPLER and it does not run here.
    """
    simulator = "simpler" if data.get("simulator") == "simpler" else "tabletop"
    spec = home_spec(simulator, task, install, data, network_image_size, renderer, timeout_s)
    if simulator == "simpler":
        check_simpler(spec.path, spec.python, get_task(task), spec.allow_invisible)
    return spec


def home_spec(
    simulator: str,
    task: str,
    install: SimplerInstall,
    data: dict[str, Any] | None,
    network_image_size: tuple[int, int] | None,
    renderer: str | None = None,
    timeout_s: float = TIMEOUT_S,
) -> SimulatorSpec:
    """The spec of `simulator` for a policy whose training data have the provenance `data`.

    Tabletop data record their image size and renderer, and the tabletop uses the same ones;
    otherwise it renders at the network's (height, width) with `ray`. SIMPLER renders at the size of
    RT-1's data sets. The policy averages images down to its input size. `renderer` overrides that
    of the data; `network_image_size` None means that there is no network. Raises UserError if the
    data come from another robot than the task's, and for a `renderer` with another simulator.
    """
    check_robot(get_task(task), data)
    if simulator != "tabletop":
        if renderer is not None:
            raise UserError(f"renderer={renderer} is for the tabletop, not {simulator}; remove it")
        return simulator_spec(simulator, task, install, timeout_s=timeout_s)
    origin = data if data and data.get("simulator") == "tabletop" else {}
    size = origin.get("image_size") or network_image_size
    return simulator_spec(
        simulator,
        task,
        install,
        (size[0], size[1]) if size else None,
        renderer or origin.get("renderer") or "ray",
        timeout_s,
    )
