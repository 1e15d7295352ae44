"""Count unusable items by cause, and check their share."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from selfflow_robotics.errors import UserError


class Unusable(Exception):
    """An item to skip; the message is one of a few causes, so that they can be counted."""


@dataclass
class Skips:
    """Number of skipped items per cause, with the first example of each."""

    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)

    @property
    def total(self) -> int:
        return self.counts.total()

    def add(self, cause: str, name: str) -> None:
        self.counts[cause] += 1
        self.examples.setdefault(cause, printable(name))

    def merge(self, other: "Skips") -> None:
        self.counts.update(other.counts)
        self.examples = other.examples | self.examples

    def record(self) -> dict[str, Any]:
        """JSON-able: {cause: {"count", "example"}}."""
        return {
            cause: {"count": count, "example": self.examples[cause]}
            for cause, count in sorted(self.counts.items())
        }

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> "Skips":
        return cls(
            Counter({cause: int(entry["count"]) for cause, entry in record.items()}),
            {cause: entry["example"] for cause, entry in record.items()},
        )

    def text(self) -> str:
        """The counts in words: "2 not an image, 1 too large"."""
        return ", ".join(f"{count} {cause}" for cause, count in sorted(self.counts.items()))

    def text_with_examples(self) -> str:
        """As `text`, with the first example of each cause."""
        return "; ".join(
            f"{count} {cause} (e.g. {self.examples[cause]})"
            for cause, count in sorted(self.counts.items())
        )


def printable(name: str) -> str:
    """A file name made safe for a one-line message."""
    return "".join(letter if letter.isprintable() else "?" for letter in name)


def check_budget(skips: Skips, num_items: int, max_skipped: float, noun: str = "images") -> None:
    """Raise UserError if more than `max_skipped` (a share) of all items (`noun`) are unusable.

    One bad item is always allowed unless the share is 0, but at least one item must be usable.
    """
    allowed = max(1, int(max_skipped * num_items)) if max_skipped > 0 else 0
    if skips.total <= min(allowed, num_items - 1):
        return
    raise UserError(
        f"{skips.total} of {num_items} {noun} are unusable, but max_skipped={max_skipped:g} "
        f"allows only {min(allowed, num_items - 1)}: {skips.text_with_examples()}; repair or "
        "remove them, or raise max_skipped"
    )
