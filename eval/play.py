"""Play a world model in the browser: your keys act in its imagination and in the simulator at once.

    python eval/play.py                                   # then open http://127.0.0.1:8010
    python eval/play.py --checkpoint runs/rt1 port=9000
    python eval/play.py --task move_near,open_drawer      # choose among these tasks on the page
    python eval/play.py num_steps=5                       # sharper frames, more slowly

The page shows three pictures: the camera as the world model imagines it, the simulator's camera
under the same actions, and what the policy would do next, imagined. Arrow keys move the hand
forward, back, left and right; w and s up and down; a, d, q, e, z and c turn it; space opens and
closes the gripper. p lets the policy act, r puts the simulator's frame in the place of the imagined
one, and n begins a new episode. Every step is imagined from the last real frame and the actions
since then; after `window` steps the imagined frame becomes the start, so errors add up until you
press r.

Episodes are recorded as RLDS, ROOT/NAME/0.N.0, with the actions you took and the simulator's
images, in the format of finetune/collect.py. Ctrl-C stops the server and completes the data set,
which finetune/rt1.py --data and finetune/inspect_data.py read.

Only this machine can open the page. For another host=, set a secret in SELFFLOW_TOKEN, the password
that browsers then ask for, and name certificate= and private_key=; or keep the default and use an
SSH tunnel. docs/play.md explains how to read the pictures.
"""

import asyncio
import logging
import re
import signal
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import torch

from selfflow_robotics.cli.app import Flag, hydra_app
from selfflow_robotics.cli.runs import find_checkpoint
from selfflow_robotics.envs.client import SimulatorClient
from selfflow_robotics.envs.spec import TIMEOUT_S, SimplerInstall, SimulatorSpec
from selfflow_robotics.envs.tasks.base import Task
from selfflow_robotics.envs.tasks.catalog import DEFAULT_TASK, get_tasks, own_names
from selfflow_robotics.errors import UserError, check_least
from selfflow_robotics.evaluation.domain import check_robot
from selfflow_robotics.evaluation.home import own_spec
from selfflow_robotics.flow.solvers import check_num_steps
from selfflow_robotics.inference.bundle import Bundle, load_bundle
from selfflow_robotics.inference.imagination import Imagination
from selfflow_robotics.policies.address import is_loopback
from selfflow_robotics.policies.flow_policy import FlowPolicy
from selfflow_robotics.serving.access import Access, open_access
from selfflow_robotics.serving.play.session import MAX_SEED, PlaySession
from selfflow_robotics.training.device import choose_device

if TYPE_CHECKING:
    from selfflow_robotics.serving.play.recording import PlayRecording
    from selfflow_robotics.serving.play.server import PlayServer


@dataclass(frozen=True)
class PlayConfig:
    task: str | None = None
    checkpoint: str | None = None
    host: str = "127.0.0.1"
    port: int = 8010
    certificate: str | None = None
    private_key: str | None = None
    num_steps: int = 1
    window: int | None = None
    seed: int = 1_500_000_000
    fps: float = 15.0
    max_tabs: int = 4
    record: bool = True
    root: str = "datasets"
    name: str | None = None
    device: str = "auto"
    renderer: Literal["ray", "gl"] | None = None
    timeout_s: float = TIMEOUT_S
    simpler: SimplerInstall = field(default_factory=SimplerInstall)

    def __post_init__(self) -> None:
        if self.task is not None:
            object.__setattr__(self, "task", own_names(self.task))
        check_num_steps(self.num_steps)
        check_least(self, 1, "window", "max_tabs")
        if not 0 <= self.port <= 65535:
            raise UserError(f"port must be from 0 (any free one) to 65535, got {self.port}")
        if not 0 <= self.seed <= MAX_SEED:
            raise UserError(f"seed must be from 0 to {MAX_SEED}, got {self.seed}")
        if not 0 < self.fps <= 1000:
            raise UserError(f"fps must be in (0, 1000], got {self.fps:g}")
        if self.max_tabs > 64:
            raise UserError(f"max_tabs must be at most 64, got {self.max_tabs}")


@hydra_app(
    "play",
    PlayConfig,
    flags=(
        Flag("--task", literal=True, help="tasks to choose from, separated by commas, or a group"),
        Flag("--checkpoint", literal=True, help="a run folder or one of its checkpoints"),
    ),
)
def main(config: PlayConfig) -> None:
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.WARNING)
    # Refuse before loading.
    import selfflow_robotics.serving.play.server  # noqa: F401 (needs websockets)

    open_access(config.host, config.certificate, config.private_key)
    torch.set_num_threads(1)  # a session and its policy's future are a thread each
    checkpoint = find_checkpoint(config.checkpoint, "finetune")
    bundle = load_bundle(checkpoint, choose_device(config.device)).with_autoencoder()
    Imagination(bundle, config.num_steps, config.window)  # refuse what it refuses
    tasks = choose_tasks(config.task, bundle.provenance)
    spec = own_spec(
        next(iter(tasks)),
        config.simpler,
        bundle.provenance,
        bundle.frames.image_size,
        config.renderer,
        config.timeout_s,
    )
    with ExitStack() as stack:
        recording = None
        if config.record:
            recording = stack.enter_context(open_recording(config, spec, tasks))
        asyncio.run(serve_until_stopped(config, bundle, spec, tasks, recording))
    if recording is not None and recording.episodes:
        count = recording.episodes
        print(f"recorded in {recording.path}: {count} episode{'s' * (count > 1)}")


def choose_tasks(names: str | None, data: dict[str, Any]) -> dict[str, Task]:
    """The tasks to choose from: those named, or else those of the training data, whose provenance
    is `data`. Raises UserError for tasks of another robot."""
    if names is None:
        try:
            names = own_names(str(data.get("task")))
        except UserError:  # data of a real robot name no task of ours
            names = DEFAULT_TASK
    tasks = {task.name: task for task in get_tasks(names)}
    for task in tasks.values():
        check_robot(task, data)
    return tasks


def open_recording(
    config: PlayConfig, spec: SimulatorSpec, tasks: dict[str, Task]
) -> "PlayRecording":
    """The data set to record to. Starts a simulator to ask for its version, so this also shows
    whether it runs."""
    from selfflow_robotics.serving.play.recording import PlayRecording  # loads TFDS

    with SimulatorClient(spec) as client:
        own = [client.provenance(name) for name in tasks]
    task = ",".join(tasks)
    provenance = {**own[0], **({"task": task, "tasks": own} if len(own) > 1 else {})}
    name = config.name or f"{spec.simulator}_{re.sub('[,@]', '_', task)}_human_play"
    first = next(iter(tasks.values()))
    return PlayRecording(config.root, name, first, spec.image_size, provenance)


async def serve_until_stopped(
    config: PlayConfig,
    bundle: Bundle,
    spec: SimulatorSpec,
    tasks: dict[str, Task],
    recording: "PlayRecording | None",
) -> None:
    """Serve the page until Ctrl-C or SIGTERM."""
    from selfflow_robotics.serving.play.server import playing  # needs websockets

    access, tls = open_access(config.host, config.certificate, config.private_key)
    server = make_server(config, bundle, spec, tasks, recording, access)
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with playing(server, config.host, config.port, tls) as port:
        host = f"[{config.host}]" if ":" in config.host else config.host
        scheme = "http" if tls is None else "https"
        print(f"open {scheme}://{host}:{port} in a browser; Ctrl-C stops", flush=True)
        if is_loopback(config.host):
            print("only this machine can open it (docs/play.md)", flush=True)
        await stop.wait()


def make_server(
    config: PlayConfig,
    bundle: Bundle,
    spec: SimulatorSpec,
    tasks: dict[str, Task],
    recording: "PlayRecording | None",
    access: Access,
) -> "PlayServer":
    """The server, and the page's first message."""
    from selfflow_robotics.serving.play.controls import MOTIONS, OTHERS
    from selfflow_robotics.serving.play.recording import FIRST_SEED
    from selfflow_robotics.serving.play.server import PlayServer

    has_policy = "policy" in bundle.roles

    def new_session() -> PlaySession:
        imagination = Imagination(bundle, config.num_steps, config.window)
        policy = FlowPolicy(bundle, bundle.horizon) if has_policy else None
        return PlaySession(SimulatorClient(spec), tasks, imagination, policy, recording)

    hello = {
        "checkpoint": str(bundle.origin),
        "tasks": list(tasks),
        "seed": config.seed,
        "first_recorded_seed": FIRST_SEED,
        "fps": config.fps,
        "has_policy": has_policy,
        "dataset": None if recording is None else str(recording.path),
        "motions": {key: label for key, (label, _, _) in MOTIONS.items()},
        "others": OTHERS if has_policy else {k: v for k, v in OTHERS.items() if k != "p"},
    }
    return PlayServer(new_session, hello, access, config.max_tabs, config.num_steps)


if __name__ == "__main__":
    main()
