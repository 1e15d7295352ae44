"""Train Self-Flow, fine-tune it into a world model and policy, and evaluate policies."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from selfflow_robotics.evaluation.evaluate import evaluate

__all__ = ["evaluate"]


def __getattr__(name: str) -> Any:
    # Imported when asked for: simulators run in a Python that may have no torch.
    if name == "evaluate":
        from selfflow_robotics.evaluation.evaluate import evaluate

        return evaluate
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
