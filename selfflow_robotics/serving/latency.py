"""How long requests take: percentiles over the latest ones, for logs and the health answer."""

from collections import Counter, deque
from typing import Any

import numpy as np

LATEST = 2000
PERCENTILES = (50, 90, 99)


class Latencies:
    """Counts since the start, and times in milliseconds of the latest requests."""

    def __init__(self) -> None:
        self.requests = self.batches = 0
        self.errors: Counter[str] = Counter()  # by kind
        self._total: deque[float] = deque(maxlen=LATEST)
        self._policy: deque[float] = deque(maxlen=LATEST)

    def add(self, total_ms: float, policy_ms: float) -> None:
        """A request that was answered: from its arrival to its answer, and within the policy."""
        self.requests += 1
        self._total.append(total_ms)
        self._policy.append(policy_ms)

    def to_json(self) -> dict[str, Any]:
        """Counts, mean batch size, and percentiles (None before the first request)."""
        return {
            "requests": self.requests,
            "errors": dict(self.errors),
            "mean_batch": round(self.requests / self.batches, 2) if self.batches else None,
            "latency_ms": _percentiles(self._total),
            "policy_ms": _percentiles(self._policy),
        }

    def __str__(self) -> str:
        times = _percentiles(self._total)
        shown = ", ".join(f"{name} {value:.1f} ms" for name, value in (times or {}).items())
        return f"{self.requests} requests, {self.errors.total()} errors; latency {shown or 'none'}"


def _percentiles(times: deque[float]) -> dict[str, float] | None:
    if not times:
        return None
    values = np.percentile(np.array(times), PERCENTILES)
    return {f"p{p}": round(float(v), 3) for p, v in zip(PERCENTILES, values, strict=True)}
