"""The process of a simulator: reads requests from one pipe and writes replies to another.

`envs.client` starts it with the arguments REQUEST_FD REPLY_FD SPEC_JSON. It only imports numpy,
gymnasium and the simulator, so it also runs in an interpreter without torch. Output of the
simulator goes to stderr. The process ends only when its requests end (the parent closed the pipe or
died): signals that a terminal or a cluster sends to all processes of a command are handled by the
parent.

Request `{"id", "method", ...arguments}`, reply `{"id", "value"}` or `{"id", "error": {kind,
message, traceback}}` (kind "user" or "simulator"). The environment is created at the first request,
so that a failure to start becomes that request's error.
"""

import faulthandler
import json
import os
import signal
import sys
import threading
import time
import traceback
from dataclasses import replace
from typing import Any

import numpy as np

from selfflow_robotics.envs import wire
from selfflow_robotics.envs.base import RobotEnv, check_action
from selfflow_robotics.envs.spec import SimulatorSpec, make_env
from selfflow_robotics.errors import UserError

PARENT_CHECK_S = 1.0


class Session:
    """The methods available to requests, for one environment of each task that is played."""

    METHODS = ("reset", "run", "provenance")

    def __init__(self, spec: SimulatorSpec) -> None:
        self.spec = spec
        self.envs: dict[str, RobotEnv] = {}
        self.env = self.env_of(spec.task)
        self.streak = 0  # consecutive successful steps

    def env_of(self, task: str) -> RobotEnv:
        """The environment of a task, created at its first use."""
        if task not in self.envs:
            self.envs[task] = make_env(replace(self.spec, task=task))
        return self.envs[task]

    def close(self) -> None:
        """Close all environments."""
        for env in self.envs.values():
            env.close()

    def reset(
        self, seed: int, options: dict[str, Any], observe: bool = True, task: str | None = None
    ) -> dict[str, Any]:
        """Start an episode of `task` (None: the spec's): its `info`, and the first observation if
        requested."""
        self.streak = 0
        self.env = self.env_of(task or self.spec.task)
        info = self.env.begin(seed, options)
        return {"observation": self.env.observe() if observe else None, "info": info}

    def run(
        self, actions: np.ndarray, observe: str = "last", stop_after_success: int = 0
    ) -> dict[str, Any]:
        """Execute `actions` float32 [n, 7]; `infos` has one entry per step.

        Rendering is the main cost: `observe` "last" renders only the state after the last step,
        "all" every one, "none" nothing. `stop_after_success` = n stops once success has held for n
        steps in a row, counted over the whole episode (0: never).
        """
        observations, infos = [], []
        for index, action in enumerate(actions):
            info = self.env.advance(check_action(action))
            infos.append(info)
            self.streak = self.streak + 1 if info["success"] else 0
            is_over = 0 < stop_after_success <= self.streak
            is_last = is_over or index + 1 == len(actions)
            if observe == "all" or (observe == "last" and is_last):
                observations.append(self.env.observe())
            if is_over:
                break
        return {"observations": observations, "infos": infos}

    def provenance(self, task: str | None = None) -> dict[str, Any]:
        """The provenance of the environment of `task` (None: the spec's)."""
        return self.env_of(task or self.spec.task).provenance()


def serve(request_fd: int, reply_fd: int, spec: SimulatorSpec) -> None:
    """Answer requests until they end."""
    session: Session | None = None
    while (request := wire.read_message(request_fd)) is not None:
        reply = {"id": request.pop("id")}
        try:
            if session is None:
                session = Session(spec)
            method = request.pop("method")
            if method not in Session.METHODS:
                raise ValueError(f"a simulator has no method '{method}'")
            reply["value"] = getattr(session, method)(**request)
        except Exception as error:  # the parent handles all exceptions of a simulator
            kind = "user" if isinstance(error, UserError) else "simulator"
            message = str(error) if kind == "user" else f"{type(error).__name__}: {error}"
            reply["error"] = dict(kind=kind, message=message, traceback=traceback.format_exc())
        wire.write_message(reply_fd, reply)
    if session is not None:
        session.close()


def _end_with_parent(parent: int) -> None:
    # A simulator that hangs no longer reads its pipe, so it would outlive a killed parent.
    while os.getppid() == parent:
        time.sleep(PARENT_CHECK_S)
    os._exit(1)


def main() -> None:
    """Run one simulator for the process that started this one."""
    request_fd, reply_fd, spec = int(sys.argv[1]), int(sys.argv[2]), json.loads(sys.argv[3])
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    faulthandler.enable()
    os.dup2(2, 1)
    threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()
    serve(request_fd, reply_fd, SimulatorSpec(**spec))
