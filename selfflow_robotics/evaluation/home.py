"""The simulator as a policy's training data knew it."""

from typing import Any

from selfflow_robotics.envs.simpler.preflight import check_simpler
from selfflow_robotics.envs.spec import TIMEOUT_S, SimplerInstall, SimulatorSpec, simulator_spec


def own_spec(
    task: str,
    install: SimplerInstall,
    data: dict[str, Any],
    network_image_size: tuple[int, int],
    renderer: str | None,
    timeout_s: float = TIMEOUT_S,
) -> SimulatorSpec:
    """The simulator that the training data came from, else the tabletop; as `home_spec`.

    Raises SimplerMissing where that is SIMPLER and it does not run here.
    """
    simulator = "simpler" if data.get("simulator") == "simpler" else "tabletop"
    spec = home_spec(simulator, task, install, data, network_image_size, renderer, timeout_s)
    if simulator == "simpler":
        check_simpler(spec.path, spec.python)
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
    """How to start `simulator` for a policy whose training data have the provenance `data`.

    Data of the tabletop say at what size and with which renderer their images were made, and the
    tabletop makes them so again; otherwise it renders at the network's own (height, width) and with
    `ray`. SIMPLER's images come as RT-1's data sets store them. The policy averages images down
    to what it takes. `renderer` overrides the data's; None as `network_image_size` means that there
    is no network.
    """
    if simulator != "tabletop":
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
