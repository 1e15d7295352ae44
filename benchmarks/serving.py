"""Requests per second of the policy server, over loopback, from clients in another process.

    python -m benchmarks.serving                      # 8 clients, raw images of 256 x 320
    python -m benchmarks.serving --clients 1 8 32 --seconds 10

Two measurements: the server's own cost, with a policy that does nothing; and what batching gains
with a policy that takes 20 ms for a batch and a tenth of that for each further observation, against
the same policy with batches of one. Clients send the next request as soon as they have an answer.
Prints a Markdown table. Server and clients share the processors; on a machine that does other
things, the server's processor time for a request says more than their rate.
"""

import asyncio
import multiprocessing
import platform
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # if run as a file

from benchmarks.arguments import Parser, positive
from selfflow_robotics.errors import UserError
from selfflow_robotics.evaluation.tables import markdown_table
from selfflow_robotics.policies.base import Policy
from selfflow_robotics.policies.noop import NoopPolicy
from selfflow_robotics.serving.batching import Batcher
from selfflow_robotics.serving.description import Description

try:
    from selfflow_robotics.messages.packing import pack, unpack
    from selfflow_robotics.serving.server import Limits, serving
except UserError as error:  # the extra is not installed
    print(f"error: {error}", file=sys.stderr)
    sys.exit(2)

IMAGE_SIZE = (256, 320)
POLICY_S = 0.020


class Timed(NoopPolicy):
    """Takes 20 ms for one observation, and 10 % more for each further one of a batch."""

    name = "timed"

    def act(
        self,
        slots: list[int],
        observations: list[dict[str, Any]],
        infos: list[dict[str, Any]] | None,
    ) -> list[np.ndarray]:
        time.sleep(POLICY_S * (1 + 0.1 * (len(slots) - 1)))
        return super().act(slots, observations, infos)


def serve(
    policy: Policy, limits: Limits, ready: Any, stop: threading.Event, port: list[int]
) -> None:
    """Serve until `stop`, in a thread."""

    async def run() -> None:
        batcher = Batcher(
            policy, limits.max_batch, limits.window_s, limits.max_waiting, limits.deadline_s
        )
        description = Description(policy.name, horizon=6)
        async with serving(batcher, description, port=0, limits=limits) as (_, own):
            port.append(own)
            ready.set()
            await asyncio.to_thread(stop.wait)

    asyncio.run(run())


def ask(port: int, clients: int, seconds: float, barrier: Any, results: Any) -> None:
    """All clients, in a process of their own: puts the times of each one's requests (ms) into
    `results`."""
    from websockets.asyncio.client import connect

    image = np.zeros((*IMAGE_SIZE, 3), np.uint8)
    request = pack({"observation/image": image, "prompt": "pick coke can"}, "bytes")

    async def client() -> list[float]:
        async with connect(f"ws://127.0.0.1:{port}", compression=None) as connection:
            await connection.recv()
            times, until = [], time.perf_counter() + seconds
            while (began := time.perf_counter()) < until:
                await connection.send(request)
                answer = await connection.recv()
                times.append((time.perf_counter() - began) * 1e3)
            assert isinstance(answer, bytes), answer  # text is an error
            assert unpack(answer)["actions"].shape[1] == 7
        return times

    async def run() -> list[list[float]]:
        return await asyncio.gather(*[client() for _ in range(clients)])

    barrier.wait()
    results.put(asyncio.run(run()))


def measure(policy: Policy, limits: Limits, clients: int, seconds: float) -> list[str]:
    """A row: requests/s, percentiles over all requests, the server's processor time for each, and
    how equally the clients were served."""
    ready, stop, port = threading.Event(), threading.Event(), []
    server = threading.Thread(target=serve, args=(policy, limits, ready, stop, port))
    server.start()
    ready.wait()
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(2), context.Queue()
    worker = context.Process(target=ask, args=(port[0], clients, seconds, barrier, results))
    worker.start()
    barrier.wait()
    began = time.process_time()  # of the server; the clients are another process
    times = results.get()
    cpu_s = time.process_time() - began
    worker.join()
    stop.set()
    server.join()
    rates = [len(one) / seconds for one in times]
    p50, p99 = np.percentile(np.concatenate(times), [50, 99])
    cpu_ms = f"{cpu_s * 1e3 / sum(map(len, times)):.2f}"
    fairness = f"{min(rates) / max(rates):.2f}"
    return [f"{sum(rates):.0f}", f"{p50:.1f}", f"{p99:.1f}", cpu_ms, fairness]


def main(argv: Sequence[str] | None = None) -> None:
    parser = Parser(description=__doc__)
    parser.add_argument("--clients", type=positive, nargs="+", default=[8])
    parser.add_argument("--seconds", type=positive, default=5)
    arguments = parser.parse_args(argv)
    alone = Limits(max_batch=1)
    kinds = [
        ("noop", NoopPolicy(6), Limits()),
        ("20 ms, batches of one", Timed(6), alone),
        ("20 ms, dynamic batches", Timed(6), Limits()),
    ]
    header = ["policy", "clients", "requests/s", "p50 (ms)", "p99 (ms)", "server CPU (ms/request)"]
    rows = [[*header, "slowest/fastest client"]]
    for clients in arguments.clients:
        for name, policy, limits in kinds:
            rows.append([name, str(clients), *measure(policy, limits, clients, arguments.seconds)])
    print(markdown_table(rows))
    print(f"\n{platform.processor() or platform.machine()}, Python {platform.python_version()}")


if __name__ == "__main__":
    main()
