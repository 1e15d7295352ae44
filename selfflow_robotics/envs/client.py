"""A simulator in a process of its own, seen from ours.

One client is one process. A crash, a hang or an exception over there is a `SimulatorError` here and
touches no other client; `restart` makes a new process. Nothing here blocks except `result` and
`call`: several clients are driven by waiting on their `waitable` (see `rollouts.engine`).
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from selfflow_robotics.envs import wire
from selfflow_robotics.envs.spec import SimulatorSpec
from selfflow_robotics.errors import UserError

PACKAGE = Path(__file__).resolve().parents[1]
# One simulator is one thread: several of them share the machine. LP: Mesa's software rasteriser.
ONE_THREAD = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "OPENBLAS", "MKL", "NUMEXPR", "LP")}
START_S = 300.0  # SIMPLER's first start compiles shaders
CLOSE_S = 2.0
LOG_TAIL_CHARS = 600


class SimulatorError(Exception):
    """A simulator failed: its process crashed, hung, or raised. The message is the cause."""


class SimulatorClient:
    """The process of one simulator. Use as a context manager, or call `close`."""

    def __init__(self, spec: SimulatorSpec) -> None:
        self.spec = spec
        self._folder = tempfile.TemporaryDirectory(prefix="simulator-")
        # Another interpreter must find this package and nothing else of ours (its numpy differs).
        (Path(self._folder.name) / PACKAGE.name).symlink_to(PACKAGE)
        self._log_path = Path(self._folder.name) / "log.txt"
        self._process: subprocess.Popen | None = None
        self._request_id = 0
        self._start()

    @property
    def waitable(self) -> int:
        """For `multiprocessing.connection.wait`: readable when `poll` has something to do."""
        return self._reply_fd

    @property
    def pid(self) -> int:
        """The process of the simulator."""
        assert self._process is not None
        return self._process.pid

    def submit(self, method: str, **arguments: Any) -> None:
        """Ask for `reset`, `run` or `provenance` (`envs.worker.Session`) without waiting.

        An answer still to come is forgotten. Raises SimulatorError if the process has died.
        """
        self._request_id += 1
        request = {"id": self._request_id, "method": method, **arguments}
        try:
            wire.write_message(self._request_fd, request)
        except BrokenPipeError:
            raise self._death() from None

    def poll(self) -> bool:
        """Take in what has arrived; True once the answer to the last request is complete.

        Raises SimulatorError if the process has died or has written nonsense.
        """
        try:
            while self._reply is None:
                part = os.read(self._reply_fd, 1 << 20)
                if not part:
                    raise self._death()
                self._received += part
                self._parse()
        except BlockingIOError:
            pass
        except ValueError as error:
            raise SimulatorError(f"unreadable answer: {error}") from error
        return self._reply is not None

    def result(self, deadline_s: float) -> Any:
        """Wait for the answer. Raises SimulatorError (crash, exception, no answer in time) or,
        where the simulator says that the user must mend something, UserError."""
        end = time.monotonic() + deadline_s
        while not self.poll():
            if not wait([self._reply_fd], max(0.0, end - time.monotonic())):
                raise SimulatorError(f"no answer within {deadline_s:g} s")
        reply, self._reply = self._reply, None
        assert reply is not None
        if "error" not in reply:
            return reply["value"]
        error = reply["error"]
        if error["kind"] == "user":
            raise UserError(error["message"])
        raise SimulatorError(error["message"]) from Exception(error["traceback"])

    def call(self, method: str, deadline_s: float = 120.0, **arguments: Any) -> Any:
        """`submit` and `result` in one."""
        self.submit(method, **arguments)
        return self.result(deadline_s)

    def provenance(self) -> dict[str, Any]:
        """What the simulator says of itself; that it answers shows that it runs.

        Raises UserError where it does not.
        """
        try:
            return self.call("provenance", START_S)
        except SimulatorError as error:
            cause = " ".join(str(error).split())
            raise UserError(
                f"the {self.spec.simulator} simulator does not start: {cause}"
            ) from None

    def restart(self) -> None:
        """A new process in place of this one, whatever state it is in."""
        self._stop(wait_s=0.0)
        self._start()

    def close(self) -> None:
        """End the process; kill it if it does not end by itself within two seconds."""
        if self._process is not None:
            self._stop(wait_s=CLOSE_S)
            self._folder.cleanup()

    def __enter__(self) -> "SimulatorClient":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def _start(self) -> None:
        request_read, self._request_fd = os.pipe()
        self._reply_fd, reply_write = os.pipe()
        os.set_blocking(self._reply_fd, False)
        self._received = bytearray()
        self._reply: dict[str, Any] | None = None
        ends = (request_read, reply_write)
        python = self.spec.python or sys.executable
        command = [python, "-m", "selfflow_robotics.envs.worker", *map(str, ends)]
        try:
            with self._log_path.open("wb") as log:
                self._process = subprocess.Popen(
                    [*command, json.dumps(asdict(self.spec))],
                    pass_fds=ends,
                    env=self._environment(),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                )
        except OSError as error:
            os.close(self._request_fd)
            os.close(self._reply_fd)
            raise UserError(
                f"the simulator's interpreter '{python}' does not run: {error}"
            ) from None
        finally:
            for end in ends:
                os.close(end)

    def _environment(self) -> dict[str, str]:
        environment = {**os.environ, **ONE_THREAD, **self.spec.env}
        paths = [self._folder.name]
        own = os.environ if self.spec.python is None else self.spec.env
        paths += filter(None, [own.get("PYTHONPATH")])
        environment["PYTHONPATH"] = os.pathsep.join(paths)
        return environment

    def _stop(self, wait_s: float) -> None:
        assert self._process is not None
        os.close(self._request_fd)
        try:
            self._process.wait(wait_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._reply_fd)
        self._process = None

    def _parse(self) -> None:
        """Take complete messages from the front of what has been received."""
        size = wire.PREFIX.size
        while len(self._received) >= size:
            header_length, body_length = wire.lengths(bytes(self._received[:size]))
            end = size + header_length + body_length
            if len(self._received) < end:
                return
            content = bytes(self._received[size:end])
            del self._received[:end]
            reply = wire.decode(content[:header_length], content[header_length:])
            if reply["id"] == self._request_id:
                self._reply = reply

    def _death(self) -> SimulatorError:
        assert self._process is not None
        try:
            status = self._process.wait(CLOSE_S)
        except subprocess.TimeoutExpired:
            return SimulatorError("the process closed its pipe")
        how = f"signal {-status}" if status < 0 else f"exit status {status}"
        tail = self._log_path.read_text(errors="replace")[-LOG_TAIL_CHARS:].strip()
        return SimulatorError(f"the process died ({how}){': ' + tail if tail else ''}")
