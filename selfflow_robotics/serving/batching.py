"""One policy for many clients: a thread collects requests for a moment and answers them as a batch.

The policy runs in a thread of its own, so that a slow one does not delay other messages, and never
in two threads at once. A batch closes as soon as every client waits for it, or after a quarter of
the policy's last time, at most `window_s`: a fast policy need not wait for company. A request that
waits past its deadline is dropped; one that the policy cannot answer does not harm the others of
its batch.
"""

import asyncio
import logging
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import Any

import numpy as np

from selfflow_robotics.envs.episodes import EpisodeSpec
from selfflow_robotics.errors import UserError
from selfflow_robotics.messages.images import MessageError
from selfflow_robotics.messages.specs import check_actions
from selfflow_robotics.policies.base import Policy
from selfflow_robotics.serving.latency import Latencies

MAX_KNOWN_INSTRUCTIONS = 1000
WINDOW = 0.25  # of the policy's last time

logger = logging.getLogger(__name__)


class RequestError(Exception):
    """A request that gets no actions; the text is one line, for the client.

    `kind` is for statistics: busy, late or policy.
    """

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind


@dataclass
class _Request:
    slot: int
    episode: EpisodeSpec | None  # begins before this request
    observation: dict[str, Any]
    answer: asyncio.Future
    result: "np.ndarray | Exception | None" = None
    policy_ms: float = 0.0
    arrived: float = field(default_factory=time.perf_counter)


class Batcher:
    """Answers requests of sessions, which are `slots` of the policy. Use as an async context
    manager."""

    def __init__(
        self, policy: Policy, max_batch: int, window_s: float, max_waiting: int, deadline_s: float
    ) -> None:
        self.policy, self.max_batch, self.window_s = policy, max_batch, window_s
        self.max_waiting, self.deadline_s = max_waiting, deadline_s
        self.latencies = Latencies()
        self.clients = 0  # that may send requests
        self._queue: SimpleQueue[_Request | None] = SimpleQueue()
        self._known: OrderedDict[str, None] = OrderedDict()  # instructions that were checked
        self._busy_since: float | None = None
        self._last_s = 0.0  # time of the last batch
        # A daemon: a policy that hangs must not keep the server from ending.
        self._thread = threading.Thread(target=self._work, name="policy", daemon=True)

    async def __aenter__(self) -> "Batcher":
        self._loop = asyncio.get_running_loop()
        self._thread.start()
        return self

    async def __aexit__(self, *_: Any) -> None:
        self._queue.put(None)

    @property
    def is_stalled(self) -> bool:
        """Whether the policy has been busy with one batch for longer than a deadline."""
        since = self._busy_since
        return since is not None and time.perf_counter() - since > self.deadline_s

    async def act(
        self, slot: int, episode: EpisodeSpec | None, observation: dict[str, Any]
    ) -> tuple[np.ndarray, float]:
        """(environment actions [n, 7], the policy's time in ms) for an observation; `episode`, if
        any, begins with it.

        Raises RequestError if too many requests wait, after `deadline_s`, or if the policy fails.
        """
        if self._queue.qsize() >= self.max_waiting:
            raise RequestError("busy", f"the server is busy: {self.max_waiting} requests wait")
        request = _Request(slot, episode, observation, self._loop.create_future())
        self._queue.put(request)
        try:
            async with asyncio.timeout(self.deadline_s):
                await request.answer
        except TimeoutError:
            text = f"the policy did not answer within {self.deadline_s:g} s"
            raise RequestError("late", text) from None
        if isinstance(request.result, Exception):
            raise request.result
        assert request.result is not None
        self.latencies.add((time.perf_counter() - request.arrived) * 1e3, request.policy_ms)
        return request.result, request.policy_ms

    def _work(self) -> None:
        while (first := self._queue.get()) is not None:
            window_s = min(self.window_s, WINDOW * self._last_s)
            batch, open_until = [first], time.perf_counter() + window_s
            while len(batch) < min(self.max_batch, self.clients):
                try:
                    left = open_until - time.perf_counter()
                    request = self._queue.get(timeout=left) if left > 0 else self._queue.get(False)
                except Empty:
                    break
                if request is None:
                    return
                batch.append(request)
            self._busy_since = time.perf_counter()
            self._answer([request for request in batch if not request.answer.cancelled()])
            self._last_s = time.perf_counter() - self._busy_since
            self._busy_since = None
            try:
                self._loop.call_soon_threadsafe(_deliver, batch)
            except RuntimeError:  # the loop has ended
                return

    def _answer(self, batch: list[_Request]) -> None:
        """Fill in the results."""
        ready = []
        for request in batch:
            try:
                if request.episode is not None:
                    self.policy.begin(request.slot, request.episode)
                self._check(request.observation["instruction"])
                ready.append(request)
            except UserError as error:
                request.result = MessageError(str(error))
            except Exception:
                request.result = _failure()
        if not ready:
            return
        self.latencies.batches += 1
        began = time.perf_counter()
        try:
            chunks = self._act(ready)
        except Exception:
            if len(ready) > 1:  # perhaps because of one of them
                for request in ready:
                    self._answer_alone(request)
                return
            chunks = [_failure()]
        for request, chunk in zip(ready, chunks, strict=True):
            request.result = chunk
            request.policy_ms = (time.perf_counter() - began) * 1e3

    def _answer_alone(self, request: _Request) -> None:
        began = time.perf_counter()
        try:
            request.result = self._act([request])[0]
        except Exception:
            request.result = _failure()
        request.policy_ms = (time.perf_counter() - began) * 1e3

    def _act(self, batch: list[_Request]) -> list[np.ndarray | Exception]:
        observations = [request.observation for request in batch]
        chunks = self.policy.act([request.slot for request in batch], observations, None)
        name = f"policy '{self.policy.name}'"
        if len(chunks) != len(batch):
            raise UserError(f"{name} returned {len(chunks)} chunks for {len(batch)} observations")
        checked = [check_actions(chunk, name) for chunk in chunks]
        return [
            chunk if np.isfinite(chunk).all() else _failed("an action is not finite")
            for chunk in checked
        ]

    def _check(self, instruction: str) -> None:
        check = getattr(self.policy, "check_instruction", None)
        if check is None or instruction in self._known:
            return
        check(instruction)
        self._known[instruction] = None
        if len(self._known) > MAX_KNOWN_INSTRUCTIONS:
            self._known.popitem(last=False)


def _deliver(batch: list[_Request]) -> None:
    for request in batch:
        if not request.answer.done():  # it may have timed out
            request.answer.set_result(None)


def _failure() -> RequestError:
    """The answer to a request whose exception is being handled: logged here, not told."""
    logger.exception("the policy failed")
    return _failed("see the server's log")


def _failed(why: str) -> RequestError:
    return RequestError("policy", f"the policy failed ({why})")
