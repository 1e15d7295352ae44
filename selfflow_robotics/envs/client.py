"""Client of a simulator in a separate process.

Each client has one process. A crash, a hang or an exception there raises `SimulatorError` here and
does not affect other clients; `restart` starts a new process. Only `result` and `call` block; to
drive several clients, wait on their `waitable` (see `rollouts.engine`).
"""

import fcntl
import json
import logging
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
# Another interpreter must find this package but not our other packages (its numpy differs).
BOOT = """
import importlib.util, sys
folder = sys.argv.pop(1)
spec = importlib.util.spec_from_file_location("selfflow_robotics", folder + "/__init__.py")
sys.modules[spec.name] = package = importlib.util.module_from_spec(spec)
spec.loader.exec_module(package)
from selfflow_robotics.envs.worker import main
main()
"""
# One thread per simulator, since several share the machine. LP: Mesa's software rasteriser.
ONE_THREAD = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "OPENBLAS", "MKL", "NUMEXPR", "LP")}
PATIENCE_S = 15.0  # seconds of waiting before a log line says for what
CLOSE_S = 2.0
LOG_TAIL_BYTES = 600

logger = logging.getLogger(__name__)


class SimulatorError(Exception):
    """A simulator failed: its process crashed, hung, or raised. The message is the cause."""


class SimulatorClient:
    """The process of one simulator. Use as a context manager, or call `close`.

    An answer may take `spec.timeout_s`; long waits are logged once.
    """

    def __init__(self, spec: SimulatorSpec) -> None:
        self.spec = spec
        self._process: subprocess.Popen | None = None
        self._request_id = 0
        self._start()

    @property
    def waitable(self) -> int:
        """For `multiprocessing.connection.wait`: readable if `poll` has work to do."""
        return self._reply_fd

    @property
    def pid(self) -> int:
        """The process of the simulator."""
        assert self._process is not None
        return self._process.pid

    @property
    def patience_s(self) -> float:
        """Seconds until `poll` must be called even if there is nothing to read."""
        next_s = self._asked_s + self.spec.timeout_s
        if not self._is_late:
            next_s = min(next_s, self._asked_s + PATIENCE_S)
        return max(0.0, next_s - time.monotonic())

    def submit(self, method: str, **arguments: Any) -> None:
        """Request `reset`, `run` or `provenance` (`envs.worker.Session`) without waiting.

        A pending answer is dropped. Raises SimulatorError if the process has died.
        """
        self._request_id += 1
        self._method, self._asked_s, self._is_late = method, time.monotonic(), False
        request = {"id": self._request_id, "method": method, **arguments}
        try:
            wire.write_message(self._request_fd, request)
        except BrokenPipeError:
            raise self._death() from None

    def poll(self) -> bool:
        """Read available data; True once the answer to the last request is complete.

        Raises SimulatorError if the process has died, sent invalid data or exceeded its time.
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
        if self._reply is None:
            self._check_time()
        return self._reply is not None

    def result(self) -> Any:
        """Wait for the answer. Raises SimulatorError (crash, exception, timeout), or UserError if
        the simulator reports one."""
        while not self.poll():
            wait([self._reply_fd], self.patience_s)
        reply, self._reply = self._reply, None
        assert reply is not None
        if "error" not in reply:
            return reply["value"]
        error = reply["error"]
        if error["kind"] == "user":
            raise UserError(error["message"])
        raise SimulatorError(error["message"]) from Exception(error["traceback"])

    def call(self, method: str, **arguments: Any) -> Any:
        """`submit` and `result` in one."""
        self.submit(method, **arguments)
        return self.result()

    def provenance(self, task: str | None = None) -> dict[str, Any]:
        """The simulator's provenance for `task` (None: the spec's); an answer also shows that it
        runs.

        Raises UserError if it does not.
        """
        try:
            return self.call("provenance", task=task)
        except SimulatorError as error:
            cause = " ".join(str(error).split())
            raise UserError(
                f"the {self.spec.simulator} simulator failed to start: {cause}"
            ) from None

    def restart(self) -> None:
        """Replace the process by a new one, whatever its state."""
        self._stop(wait_s=0.0)
        self._start()

    def close(self) -> None:
        """Stop the process; kill it if it does not exit within two seconds."""
        if self._process is not None:
            self._stop(wait_s=CLOSE_S)

    def __enter__(self) -> "SimulatorClient":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def _start(self) -> None:
        python = self.spec.python or sys.executable
        try:
            # It has no name, so nothing is left behind. `_stop` closes it.
            self._log = tempfile.TemporaryFile()  # noqa: SIM115
        except OSError as error:
            raise UserError(
                f"cannot write a simulator's log to {tempfile.gettempdir()} ({error.strerror}); "
                "free space or set TMPDIR"
            ) from None
        request_read, self._request_fd = _pipe()
        self._reply_fd, reply_write = _pipe()
        os.set_blocking(self._reply_fd, False)
        self._received = bytearray()
        self._reply: dict[str, Any] | None = None
        ends = (request_read, reply_write)
        command = [python, "-c", BOOT, str(PACKAGE), *map(str, ends)]
        try:
            self._process = subprocess.Popen(
                [*command, json.dumps(asdict(self.spec))],
                pass_fds=ends,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=self._log,
                stderr=self._log,
            )
        except OSError as error:
            os.close(self._request_fd)
            os.close(self._reply_fd)
            raise UserError(
                f"the simulator's interpreter '{python}' failed to start: {error}"
            ) from None
        finally:
            for end in ends:
                os.close(end)

    def _environment(self) -> dict[str, str]:
        environment = {**os.environ, **ONE_THREAD, **self.spec.env}
        if self.spec.python is not None and "PYTHONPATH" not in self.spec.env:
            environment.pop("PYTHONPATH", None)  # it is of this interpreter
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
        self._log.close()
        self._process = None

    def _check_time(self) -> None:
        """Log a long wait once. Raises SimulatorError after the timeout."""
        seconds = time.monotonic() - self._asked_s
        if seconds >= self.spec.timeout_s:
            raise SimulatorError(
                f"no answer to '{self._method}' within {self.spec.timeout_s:g} s (timeout_s)"
            )
        if seconds >= PATIENCE_S and not self._is_late:
            self._is_late = True
            logger.warning(
                "waiting for the %s simulator (process %d) to answer '%s'; timeout after %g s "
                "(timeout_s)",
                *(self.spec.simulator, self.pid, self._method, self.spec.timeout_s),
            )

    def _parse(self) -> None:
        """Parse complete messages from the received data."""
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
        self._log.seek(max(0, self._log.seek(0, os.SEEK_END) - LOG_TAIL_BYTES))
        tail = self._log.read().decode(errors="replace").strip()
        return SimulatorError(f"the process died ({how}){': ' + tail if tail else ''}")


def _pipe() -> tuple[int, int]:
    """(read, write) ends of a pipe, numbered above the standard streams, which the
    child replaces."""
    low = os.pipe()
    read, write = (fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 3) for end in low)
    for end in low:
        os.close(end)
    return read, write
