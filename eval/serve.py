"""Serve a policy over websockets, to clients of openpi and of vla-eval at the same time.

    python eval/serve.py --checkpoint runs/rt1            # ws://127.0.0.1:8000
    python eval/serve.py port=9000 deadline_s=5
    python eval/serve.py policy=my_policies:MyPolicy      # a Python class of your own
    python eval/serve.py execution=rtc replan_steps=3 delay=1    # docs/execution.md
    python eval/serve.py policy=noop                      # does nothing: for load tests

A client then is any of these:

    WebsocketClientPolicy("127.0.0.1", 8000).infer(observation)      # openpi-client
    vla-eval run --config CONFIG.yaml                                # with server.url there
    python eval/simpler.py policy=remote:ws://127.0.0.1:8000         # this project's evaluation

Each connection is a session with episodes of its own. Requests that arrive together, within at most
window_ms, are answered as one batch. A request that cannot be answered within deadline_s, or comes
when queue others already wait, gets an error instead.

Observations have an image (uint8 [H, W, 3], raw, PNG or JPEG) and an instruction, under the usual
names: observation/image and prompt, or images/primary and task_description, for example. Actions
are in metres and radians in the robot's base frame. The server describes them at the handshake:
openpi's clients get chunks of roll, pitch, yaw with the gripper's openness, those of vla-eval one
action at a time, with a rotation vector.

/healthz answers OK; /health has counts and latency percentiles, which are also printed every
log_every_s seconds. Ctrl-C stops the server.

By default only this machine can connect. For another host=, set a secret in SELFFLOW_TOKEN, for
server and clients alike, and name certificate= and private_key=; or keep the default and use an SSH
tunnel. docs/serving.md has the details.
"""

import asyncio
import gc
import logging
import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from selfflow_robotics.cli.app import Flag, hydra_app
from selfflow_robotics.cli.runs import find_checkpoint
from selfflow_robotics.envs.episodes import EpisodeSpec
from selfflow_robotics.envs.tasks.catalog import TASKS
from selfflow_robotics.errors import UserError, check_least
from selfflow_robotics.evaluation.domain import robot_of
from selfflow_robotics.evaluation.players import (
    NetworkSettings,
    check_network_settings,
    network_policy,
)
from selfflow_robotics.inference.bundle import weights_hash
from selfflow_robotics.messages.specs import check_actions
from selfflow_robotics.policies.address import is_loopback
from selfflow_robotics.policies.base import Policy
from selfflow_robotics.policies.custom import custom_policy, is_custom
from selfflow_robotics.policies.noop import NoopPolicy
from selfflow_robotics.rng import check_seed
from selfflow_robotics.serving.access import open_access
from selfflow_robotics.serving.batching import Batcher
from selfflow_robotics.serving.description import Description

if TYPE_CHECKING:
    from selfflow_robotics.serving.server import PolicyServer


@dataclass(frozen=True)
class ServeConfig(NetworkSettings):
    host: str = "127.0.0.1"
    port: int = 8000
    certificate: str | None = None
    private_key: str | None = None
    seed: int = 0
    max_batch: int = 16
    window_ms: float = 10.0
    queue: int = 64
    max_clients: int = 64
    deadline_s: float = 20.0
    log_every_s: float = 60.0

    def __post_init__(self) -> None:
        if self.policy not in ("network", "noop") and not is_custom(self.policy):
            raise UserError(f"policy must be network, noop or module:Class, got {self.policy}")
        check_least(self, 1, "replan_steps", "max_batch", "queue", "max_clients")
        if not 0 <= self.port <= 65535:
            raise UserError(f"port must be from 0 (any free one) to 65535, got {self.port}")
        if not 0 <= self.window_ms <= 1000:
            raise UserError(f"window_ms must be from 0 to 1000, got {self.window_ms:g}")
        for name in ("deadline_s", "log_every_s"):
            if not 0 < getattr(self, name) <= 86_400:
                raise UserError(f"{name} must be in (0, 86400], got {getattr(self, name):g}")
        check_seed(self.seed)
        check_network_settings(self)


@hydra_app(
    "serve",
    ServeConfig,
    flags=(Flag("--checkpoint", literal=True, help="a run folder or one of its checkpoints"),),
)
def main(config: ServeConfig) -> None:
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.INFO)
    open_access(config.host, config.certificate, config.private_key)  # refuse before loading
    policy, description = load(config)
    try_out(policy, description)
    asyncio.run(serve_until_stopped(config, policy, description))


def load(config: ServeConfig) -> tuple[Policy, Description]:
    """The policy, and what clients are told about it."""
    if config.policy == "noop":
        return NoopPolicy(config.replan_steps), Description("noop", horizon=config.replan_steps)
    if config.policy != "network":
        policy = custom_policy(config.policy)
        if policy.privileged:
            raise UserError(
                f"policy={config.policy} reads the simulator's state, which no client sends"
            )
        return policy, Description(
            policy.name, needs_proprio=getattr(policy, "needs_proprio", False)
        )
    checkpoint = find_checkpoint(config.checkpoint, "finetune")
    policy = network_policy(checkpoint, config)
    training = policy.data_provenance
    robot = robot_of(training)
    rates = {task.robot.name: task.robot.control_hz for task in TASKS.values()}
    print(f"policy: {checkpoint}")
    return policy, Description(
        policy.name,
        robot,
        rates.get(robot or ""),
        policy.replan_steps,
        weights_hash(checkpoint),
        policy.image_size,
        training=training,
    )


def try_out(policy: Policy, description: Description) -> None:
    """One request before the first client's: it compiles what must be compiled, and shows a policy
    that does not return actions. Raises UserError for that."""
    image = np.zeros((256, 320, 3), np.uint8)
    observation: dict[str, Any] = {"image": image, "instruction": ""}
    if description.needs_proprio:
        observation["proprio"] = np.array([0, 0, 0, 0, 0, 0, 1, 0], np.float32)
    policy.begin(0, EpisodeSpec("", "", 0))
    chunks = policy.act([0], [observation], None)
    who = f"policy '{policy.name}'"
    if len(chunks) != 1:
        raise UserError(f"{who} returned {len(chunks)} chunks for one observation")
    check_actions(chunks[0], who)


async def serve_until_stopped(
    config: ServeConfig, policy: Policy, description: Description
) -> None:
    """Serve until Ctrl-C or SIGTERM."""
    # It needs msgpack and websockets, which --help and this module's tests do not.
    from selfflow_robotics.serving.server import Limits, serving

    access, tls = open_access(config.host, config.certificate, config.private_key)
    limits = Limits(
        config.max_clients,
        config.max_batch,
        config.window_ms / 1e3,
        config.queue,
        config.deadline_s,
    )
    batcher = Batcher(
        policy, limits.max_batch, limits.window_s, limits.max_waiting, limits.deadline_s
    )
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
    # Later garbage collections skip what exists now (torch has 10^5 objects). Walking through it
    # would stop all clients, by up to 0.4 s.
    gc.collect()
    gc.freeze()
    where = {"host": config.host, "port": config.port, "access": access, "tls": tls}
    async with serving(batcher, description, **where, limits=limits, seed=config.seed) as (
        server,
        port,
    ):
        scheme = "ws" if tls is None else "wss"
        host = f"[{config.host}]" if ":" in config.host else config.host
        needs = "" if access.is_open else ", with the token"
        print(f"serving {policy.name} on {scheme}://{host}:{port}{needs}; Ctrl-C stops", flush=True)
        if access.is_open and is_loopback(config.host):
            print("only this machine can connect (docs/serving.md)", flush=True)
        await report_until(stop, server, config.log_every_s)
    print(f"stopped: {batcher.latencies}")


async def report_until(stop: asyncio.Event, server: "PolicyServer", every_s: float) -> None:
    """Print the latencies regularly while there are requests."""
    reported = 0
    while not stop.is_set():
        try:
            async with asyncio.timeout(every_s):
                await stop.wait()
        except TimeoutError:
            latencies = server.batcher.latencies
            if latencies.requests != reported:
                print(f"{server.batcher.clients} clients, {latencies}", flush=True)
                reported = latencies.requests


if __name__ == "__main__":
    main()
