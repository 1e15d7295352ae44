"""A policy server under load for half an hour, and under 10 000 hostile messages.

    python -m benchmarks.soak                               # 40 minutes in all
    python -m benchmarks.soak --minutes 1 --messages 1000   # a first look
    python -m benchmarks.soak --serve checkpoint=runs/rt1   # a network instead of the no-op policy

Starts `eval/serve.py` as its users do and talks to it over loopback.

Load: clients of both protocols send raw images at a robot's pace, and connect anew for every
episode of 80 observations. Prints a line per minute: requests, latency, errors (an answer that is
missing, late or not an action) and the server's memory.

Hostile messages: random bytes, and valid messages of both protocols that were cut, altered or given
wrong types, some on connections that break off. Meanwhile a well-behaved client sends its
observations; its latency is compared with that in quiet times, in turns.

The exit code is 1 if the server has died, an answer to a well-behaved client was wrong, or the
server has grown by more than 50 MB.
"""

import asyncio
import multiprocessing
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # if run as a file

from benchmarks.arguments import Parser, positive
from selfflow_robotics.errors import UserError
from selfflow_robotics.evaluation.tables import markdown_table

try:
    from websockets.asyncio.client import connect
    from websockets.exceptions import WebSocketException

    from selfflow_robotics.messages.packing import pack, unpack
except (ImportError, UserError):
    print("error: install the extra 'serve': pip install -e '.[serve]'", file=sys.stderr)
    sys.exit(2)

ROOT = Path(__file__).resolve().parents[1]
IMAGE = np.zeros((256, 320, 3), np.uint8)
EPISODE = 80  # observations
ANSWER_S = 30.0  # after which an answer counts as missing
MINUTE_S = 60.0
QUIET_S = 5.0  # of the well-behaved client alone, in each turn
TURNS = 10
PREPARE_S = 5.0  # for an attacker to start, which takes the processor from the others
MOST_GROWTH_MB = 50


class Load(NamedTuple):
    """What a client saw."""

    times_ms: list[float]
    errors: list[str]


@contextmanager
def server(words: Sequence[str]) -> Iterator[tuple[int, int]]:
    """(process id, port) of a running `eval/serve.py`."""
    command = [sys.executable, str(ROOT / "eval/serve.py"), "port=0", *words]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        if "://" not in line:
            sys.exit("error: the server did not start")
        yield process.pid, int(line.split("://")[1].split(";")[0].split(",")[0].rsplit(":", 1)[1])
    finally:
        process.terminate()
        process.wait()


def memory_mb(pid: int) -> float:
    """Resident memory of a process; NaN if it has ended (Linux only)."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except FileNotFoundError:
        return float("nan")
    kb = next((line.split()[1] for line in lines if line.startswith("VmRSS")), "nan")
    return float(kb) / 1024


async def behave(port: int, hz: float, seconds: float, is_openpi: bool) -> Load:
    """A client that sends `hz` observations per second, in episodes."""
    load, due = Load([], []), time.perf_counter()
    until = due + seconds
    while due < until:
        try:
            path = "openpi" if is_openpi else "vla-eval"
            async with connect(f"ws://127.0.0.1:{port}/{path}", compression=None) as connection:
                if is_openpi:
                    await connection.recv()  # metadata
                for step in range(EPISODE):
                    await asyncio.sleep(max(0.0, due - time.perf_counter()))
                    due = max(due + 1 / hz, time.perf_counter())
                    began = time.perf_counter()
                    await connection.send(observation(is_openpi, step))
                    async with asyncio.timeout(ANSWER_S):
                        answer = await connection.recv()
                    load.times_ms.append((time.perf_counter() - began) * 1e3)
                    if wrong := fault(answer, is_openpi):
                        load.errors.append(wrong)
                    if time.perf_counter() > until:
                        break
        except (OSError, TimeoutError, WebSocketException) as error:
            load.errors.append(f"{type(error).__name__}: {error}")
            await asyncio.sleep(1 / hz)
            due = max(due, time.perf_counter())
    return load


def observation(is_openpi: bool, step: int) -> bytes:
    """A valid request."""
    if is_openpi:
        return pack({"observation/image": IMAGE, "prompt": "pick coke can"}, "bytes")
    payload = {"images": {"primary": IMAGE}, "task_description": "pick coke can"}
    return pack({"type": "observation", "payload": payload, "seq": step, "timestamp": 0.0})


def fault(answer: bytes | str, is_openpi: bool) -> str | None:
    """What is wrong with an answer; None: nothing."""
    if isinstance(answer, str):
        return answer[:100]
    message = unpack(answer)
    actions = message.get("actions") if is_openpi else message["payload"].get("actions")
    if actions is None or np.shape(actions)[-1] != 7 or not np.isfinite(actions).all():
        return f"no actions in {str(message)[:100]}"
    return None


def hostile(generator: np.random.Generator) -> bytes | str:
    """A message that the server must survive."""
    whole = bytearray(observation(bool(generator.integers(2)), 0))
    size = len(whole)
    match generator.integers(6):
        case 0:
            return generator.bytes(int(generator.integers(1, 2000)))
        case 1:
            return bytes(whole[: generator.integers(size)])
        case 2:  # the maps' own bytes, not the image's
            for place in generator.integers(0, 120, size=3):
                whole[place] = generator.integers(256)
            return bytes(whole)
        case 3:
            value: Any = generator.choice(np.array([None, 1, -1.5, "x", True], object))
            key = generator.choice(["prompt", "observation/image", "type", "payload", "episode"])
            return pack({"observation/image": IMAGE[:4, :4], "prompt": "x", str(key): value})
        case 4:
            depth = int(generator.integers(1, 50_000))
            return bytes([0x91]) * depth + b"\xc0"
        case _:
            return "text" * int(generator.integers(1, 100))


async def attack(port: int, messages: int, seed: int, begin: float) -> tuple[int, list[str]]:
    """Send hostile messages one after the other, from the time `begin` on.

    Returns how many were refused (the others happened to be valid, or the connection broke off
    before an answer), and errors: those that were not answered at all.
    """
    generator, refused, errors = np.random.default_rng(seed), 0, []
    prepared = [hostile(generator) for _ in range(messages)]
    await asyncio.sleep(begin - time.time())
    for message in prepared:
        path = generator.choice(["", "openpi", "vla-eval"])
        try:
            async with connect(f"ws://127.0.0.1:{port}/{path}", compression=None) as connection:
                if path != "vla-eval":
                    await connection.recv()
                await connection.send(message)
                if generator.random() < 0.1:
                    connection.transport.abort()
                    continue
                async with asyncio.timeout(ANSWER_S):
                    answer = await connection.recv()
                refused += isinstance(answer, str) or unpack(answer).get("type") == "error"
        except WebSocketException:
            refused += 1
        except (OSError, TimeoutError) as error:
            errors.append(f"a hostile message: {type(error).__name__}: {error}")
    return refused, errors


def start(function: Any, *arguments: Any) -> Future[Any]:
    """A coroutine function that runs in a process of its own, as clients do."""
    executor = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))
    future = executor.submit(_run, function, *arguments)
    executor.shutdown(wait=False)  # ends with the function
    return future


def _run(function: Any, *arguments: Any) -> Any:
    return asyncio.run(function(*arguments))


async def crowd(port: int, clients: int, hz: float, seconds: float) -> Load:
    """Clients of both protocols, half of each."""
    loads = await asyncio.gather(
        *[behave(port, hz, seconds, is_openpi=number % 2 == 0) for number in range(clients)]
    )
    return Load(
        [time_ms for load in loads for time_ms in load.times_ms],
        [error for load in loads for error in load.errors],
    )


def percentiles(times_ms: list[float]) -> list[str]:
    """p50, p99 and the longest time, in ms."""
    if not times_ms:
        return ["-"] * 3
    return [f"{value:.1f}" for value in np.percentile(times_ms, [50, 99, 100])]


def soak(pid: int, port: int, minutes: int, clients: int, hz: float) -> list[str]:
    """Load for so many minutes: prints a line for each; returns the errors."""
    print("| minute | requests | p50 (ms) | p99 (ms) | longest (ms) | errors | server (MB) |")
    print("|---|---|---|---|---|---|---|")
    errors: list[str] = []
    for minute in range(1, minutes + 1):
        load = start(crowd, port, clients, hz, MINUTE_S).result()
        errors += load.errors
        cells = [str(minute), str(len(load.times_ms)), *percentiles(load.times_ms)]
        cells += [str(len(load.errors)), f"{memory_mb(pid):.0f}"]
        print("| " + " | ".join(cells) + " |", flush=True)
    return errors


def fuzz(port: int, messages: int, hz: float, seed: int) -> tuple[Load, Load, int]:
    """(the well-behaved client in quiet times, during hostile messages, how many were refused)."""
    quiet, attacked, refused = Load([], []), Load([], []), 0
    for turn in range(TURNS):
        add(quiet, start(behave, port, hz, QUIET_S, True).result())
        count = messages // TURNS + (turn < messages % TURNS)
        load, more = start(behave_during_attack, port, hz, count, seed + turn).result()
        add(attacked, load)
        refused += more
    return quiet, attacked, refused


async def behave_during_attack(port: int, hz: float, messages: int, seed: int) -> tuple[Load, int]:
    """The well-behaved client while another process attacks; how many messages were refused."""
    begin = time.time() + PREPARE_S
    attacker, load = start(attack, port, messages, seed, begin), Load([], [])
    await asyncio.sleep(begin - time.time())
    while not attacker.done():
        add(load, await behave(port, hz, 0.5, is_openpi=True))
    refused, errors = attacker.result()
    load.errors.extend(errors)
    return load, refused


def add(load: Load, more: Load) -> None:
    """Append `more` to `load`."""
    load.times_ms.extend(more.times_ms)
    load.errors.extend(more.errors)


def main(argv: Sequence[str] | None = None) -> int:
    parser = Parser(description=__doc__)
    parser.add_argument("--minutes", type=positive, default=30)
    parser.add_argument("--clients", type=positive, default=8)
    parser.add_argument(
        "--hz", type=positive, default=10, help="observations per client and second"
    )
    parser.add_argument("--messages", type=positive, default=10_000, help="hostile ones")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--serve", nargs="*", default=["policy=noop"], help="for eval/serve.py")
    arguments = parser.parse_args(argv)
    with server(arguments.serve) as (pid, port):
        asyncio.run(behave(port, arguments.hz, QUIET_S, is_openpi=True))  # imports and buffers
        before = memory_mb(pid)
        errors = soak(pid, port, arguments.minutes, arguments.clients, arguments.hz)
        after_load = memory_mb(pid)
        quiet, attacked, refused = fuzz(port, arguments.messages, 5 * arguments.hz, arguments.seed)
        after = memory_mb(pid)
    errors += quiet.errors + attacked.errors
    rows = [["a well-behaved client", "requests", "p50 (ms)", "p99 (ms)", "longest (ms)"]]
    for name, load in (("alone", quiet), ("beside hostile messages", attacked)):
        rows.append([name, str(len(load.times_ms)), *percentiles(load.times_ms)])
    print("\n" + markdown_table(rows))
    print(
        f"\n{arguments.messages} hostile messages, {refused} refused; memory {before:.0f} MB, "
        f"{after_load:.0f} after the load, {after:.0f} after the messages; {len(errors)} errors"
    )
    for error in errors[:5]:
        print(f"  {error}")
    return 0 if not errors and after - before <= MOST_GROWTH_MB else 1


if __name__ == "__main__":
    sys.exit(main())
