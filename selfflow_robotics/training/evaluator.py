"""What the training loop tells and asks something that evaluates checkpoints beside it."""

from typing import Any


class Evaluator:
    """Evaluates nothing; `evaluation.during_training` has one that does.

    `is_due` is asked in every process and must be the same in all of them. The other methods are
    called in the first process only.
    """

    @property
    def shown(self) -> dict[str, str]:
        """For the progress bar: the newest result."""
        return {}

    def is_due(self, step: int) -> bool:
        """Whether to save the checkpoint of `step` and evaluate it."""
        return False

    def is_needed(self, step: int) -> bool:
        """Whether the checkpoint of `step` must stay, however old it is. Called from a thread."""
        return False

    def resume(self, step: int) -> None:
        """Training starts, or goes on, at `step`."""

    def saving(self, step: int) -> None:
        """The checkpoint of `step`, which is due, is going to be written."""

    def poll(self) -> dict[str, Any]:
        """The metrics of a new result, if there is one; never waits and never raises."""
        return {}
