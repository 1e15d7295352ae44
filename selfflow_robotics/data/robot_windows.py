"""Choose the training windows for each role, step by step: `ClipData` for pretraining, `RobotData`
for fine-tuning."""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from selfflow_robotics.data.mixture import JoinedWindows, Mixture
from selfflow_robotics.data.rlds.windows import FrameReader, WindowBatch, WindowReader
from selfflow_robotics.data.robot_index import RobotIndex
from selfflow_robotics.data.robot_mixture import (
    check_alike,
    check_different,
    data_names,
    mixture_provenance,
)
from selfflow_robotics.data.sampler import EpochSampler
from selfflow_robotics.errors import UserError
from selfflow_robotics.objective.roles import ROLES, RoleSchedule
from selfflow_robotics.robot.normalize import NormStats

HELD_OUT_BATCHES = 8  # evaluated with each checkpoint
# Settings that choose episodes; a run records them and resumes with the same ones only.
FILTERS = ("successes_only", "instruction", "min_length", "max_length")


class ClipData:
    """Single frames (role image) and short clips (role clip), as a function of the step."""

    def __init__(
        self,
        index: RobotIndex,
        roles: dict[str, float],
        batches: Mapping[str, int],
        clip_frames: int,
        image_size: tuple[int, int],
        seed: int,
        share: Callable[[Sequence[int]], Sequence[int]] = lambda windows: windows,
        frames: FrameReader | None = None,
        frame_stride: int = 1,
    ) -> None:
        """`roles` and `batches` give the weight and the batch size of each role; `share` and
        `frames` as in `RobotData`, `frame_stride` as in `WindowReader`."""
        self._share = share
        self._reader = WindowReader(
            index, 1, clip_frames - 1, image_size, frames=frames, frame_stride=frame_stride
        )
        self._schedule = RoleSchedule(roles, seed)
        self._samplers = {
            role: EpochSampler(len(self._reader), size, seed, role)
            for role, size in batches.items()
        }

    def __len__(self) -> int:
        return len(self._reader)

    def batch_at(self, step: int) -> tuple[int, str, WindowBatch]:
        """A step, the role that it plays, and its windows."""
        role, turn = self._schedule.at(step)
        windows = self._share(self._samplers[role].batch(turn))
        return step, role, self._reader.read(windows, 0 if role == "image" else None)

    def first_frames(self, count: int) -> WindowBatch:
        """The first so many frames of the data, fewer if there are not as many."""
        return self._reader.read(np.arange(min(count, len(self))), 0)


class Shape(Protocol):
    """The size of a window, from `models.presets.RobotConfig`."""

    @property
    def image_size(self) -> tuple[int, int]: ...
    @property
    def later_frames(self) -> int: ...
    @property
    def frame_stride(self) -> int: ...
    @property
    def action_horizon(self) -> int: ...


class Settings(Protocol):
    """Settings of finetune/rt1.py; see configs/finetune.yaml."""

    @property
    def model(self) -> Shape: ...
    @property
    def seed(self) -> int: ...
    @property
    def roles(self) -> dict[str, float]: ...
    @property
    def successes_only(self) -> bool: ...
    @property
    def instruction(self) -> str | None: ...
    @property
    def min_length(self) -> int | None: ...
    @property
    def max_length(self) -> int | None: ...
    @property
    def validation(self) -> float: ...
    @property
    def num_episodes(self) -> int | None: ...
    @property
    def data_weights(self) -> tuple[float, ...] | None: ...
    @property
    def play_share(self) -> float: ...
    @property
    def policy_batch(self) -> int: ...
    @property
    def frame_batch(self) -> int: ...


@dataclass(frozen=True)
class Source:
    """A data set to train on."""

    index: RobotIndex
    frames: FrameReader | None = None  # None: the stored images


class RobotData:
    """The training windows of each role, as a function of the step.

    Roles without later frames train on all demonstrations, those with later frames only on
    undisturbed ones: in a disturbed one, the recorded action is not what moved the arm. The
    world-model and inverse-dynamics roles also train on play. An expert's actions can be guessed
    from the image, so without play a world model would ignore the actions.

    Several data sets of demonstrations are mixed by `settings.data_weights`; without weights,
    every window of any of them is as likely. Filters, `num_episodes` and `validation` apply to
    each. Action statistics are pooled (`data.robot_mixture`).
    """

    def __init__(
        self,
        demonstrations: Sequence[Source],
        play: Source | None,
        settings: Settings,
        share: Callable[[Sequence[int]], Sequence[int]] = lambda windows: windows,
    ) -> None:
        """`share` picks this process's windows out of a step's.

        Raises UserError if the data sets are of two robots or two control rates, or if one is there
        twice.
        """
        indices = [one.index for one in demonstrations]
        check_alike([*indices, *([play.index] if play else [])])
        check_different(indices)
        self.settings, self._share = settings, share
        chosen = [split_episodes(choose_episodes(index, settings), settings) for index in indices]
        training = [episodes for episodes, _ in chosen]
        held_out = [kept or episodes for episodes, kept in chosen]
        every = self._windows(demonstrations, training)
        weights = settings.data_weights or [len(windows) for windows in every]
        self.weights = [weight / sum(weights) for weight in weights]
        filters = {key: getattr(settings, key) for key in FILTERS}
        self.provenance = mixture_provenance(indices, self.weights) | filters
        self.fingerprints = dict(
            zip(data_names(len(indices)), (one.fingerprint for one in indices), strict=True)
        )
        self.stats = NormStats.pooled(
            [i.actions_of(episodes) for i, episodes in zip(indices, training, strict=True)],
            self.weights,
            sum(map(len, training)),
        )
        self._pictures = [Source(index) for index in indices], held_out
        self.held_out = JoinedWindows(self._windows(demonstrations, held_out))
        plain = [
            [episode for episode in episodes if not index.disturbed[episode]]
            for index, episodes in zip(indices, training, strict=True)
        ]
        undisturbed = every if plain == training else self._windows(demonstrations, plain)
        aimless = []
        if play is not None:
            aimless = self._windows([play], [None])
            self.fingerprints["play_data"] = play.index.fingerprint
        self._schedule = RoleSchedule(settings.roles, settings.seed)
        self._mixtures = {}
        for role, weight in settings.roles.items():
            if weight == 0:
                continue
            readers, shares, batch = undisturbed, self.weights, settings.frame_batch
            if not has_frames(role):
                readers, batch = every, settings.policy_batch
            elif aimless and role in ("world_model", "inverse_dynamics"):
                played = settings.play_share
                readers = [*undisturbed, *aimless]
                shares = [*((1 - played) * one for one in self.weights), played]
            self._mixtures[role] = Mixture(readers, shares, batch, settings.seed, role)
        failures = sum(
            int(i.failed[episodes].sum()) for i, episodes in zip(indices, training, strict=True)
        )
        told = f" ({failures} recorded as failures; successes_only=true leaves them out)"
        mixed = " + ".join(
            f"{weight:.1%} of {index.provenance['dataset']}"
            for weight, index in zip(self.weights, indices, strict=True)
        )
        self._words = (
            (f"{mixed}: " if len(indices) > 1 else "")
            + f"{sum(map(len, training))} episodes{told if failures else ''}, "
            f"{sum(map(len, every))} steps, {sum(len(kept) for _, kept in chosen)} held out, "
            f"{sum(map(len, aimless))} steps of play"
        )

    def __str__(self) -> str:
        return self._words

    def batch_at(self, step: int) -> tuple[int, str, WindowBatch]:
        """The step, its role and its windows."""
        role, turn = self._schedule.at(step)
        later = self.settings.model.later_frames if has_frames(role) else 0
        return step, role, self._mixtures[role].batch(turn, later, self._share)

    def held_out_batches(self) -> Iterator[WindowBatch]:
        """Windows of the held-out episodes, evenly spaced."""
        size, count = self.settings.policy_batch, len(self.held_out)
        chosen = np.linspace(0, count - 1, min(count, HELD_OUT_BATCHES * size)).astype(int)
        for start in range(0, len(chosen), size):
            yield self.held_out.read(chosen[start : start + size], 0)

    def held_out_pictures(self) -> JoinedWindows:
        """Windows of the held-out episodes as images, even if the network reads latents."""
        return JoinedWindows(self._windows(*self._pictures))

    def _windows(
        self, sources: Sequence[Source], episodes: Sequence[list[int] | None]
    ) -> list[WindowReader]:
        model = self.settings.model
        return [
            WindowReader(
                source.index,
                horizon=model.action_horizon,
                future_frames=model.later_frames,
                image_size=model.image_size,
                episodes=chosen,
                frames=source.frames,
                frame_stride=model.frame_stride,
            )
            for source, chosen in zip(sources, episodes, strict=True)
        ]


def has_frames(role: str) -> bool:
    """Whether a role has later frames, which have many tokens, so its batches are smaller."""
    return "later_frames" in ROLES[role]


def choose_episodes(index: RobotIndex, settings: Settings) -> list[int]:
    """The episodes that pass all of `FILTERS`, before any are held out.

    The instruction is that of an episode's first step. Raises UserError if there are none, naming
    the filter that leaves none.
    """
    chosen = np.ones(index.num_episodes, bool)
    if settings.successes_only:
        chosen &= index.success
        if not chosen.any():
            raise UserError(
                f"successes_only=true leaves no episodes: of {index.num_episodes}, "
                f"{int(index.failed.sum())} are recorded as failures and none as a success "
                "(aspects/success); train with successes_only=false"
            )
    if settings.instruction is not None:
        matches = np.array(
            [bool(re.fullmatch(settings.instruction, text)) for text in index.instructions]
        )
        chosen &= matches[index.first_instructions]
        if not chosen.any():
            known = Counter(index.instructions[n] for n in index.first_instructions)
            shown = ", ".join(f"'{text}'" for text, _ in known.most_common(5))
            raise UserError(
                f"instruction='{settings.instruction}' leaves no episodes: it is a regular "
                f"expression for whole instructions; there are {len(known)}, such as {shown}"
            )
    shortest, longest = settings.min_length, settings.max_length
    chosen &= index.episode_length >= (0 if shortest is None else shortest)
    if longest is not None:
        chosen &= index.episode_length <= longest
    if not chosen.any():
        lengths = index.episode_length
        raise UserError(
            f"min_length={shortest} and max_length={longest} leave no episodes: they have "
            f"{lengths.min()} to {lengths.max()} steps"
        )
    return np.flatnonzero(chosen).tolist()


def check_filters(instruction: str | None, shortest: int | None, longest: int | None) -> None:
    """Raise UserError for an invalid regular expression or range of lengths."""
    if instruction is not None:
        try:
            re.compile(instruction)
        except re.error as error:
            raise UserError(
                f"instruction='{instruction}' is no regular expression ({error}); write \\ "
                "before characters such as ( that stand for themselves"
            ) from error
    for name, value in (("min_length", shortest), ("max_length", longest)):
        if value is not None and value < 1:
            raise UserError(f"{name} must be at least 1 step, got {value}")
    if shortest is not None and longest is not None and shortest > longest:
        raise UserError(f"min_length={shortest} is above max_length={longest}")


def split_episodes(episodes: list[int], settings: Settings) -> tuple[list[int], list[int]]:
    """(training, held out): the last episodes are held out, as in Open X-Embodiment's split."""
    count = len(episodes)
    held = max(1, round(count * settings.validation)) if settings.validation else 0
    available = count - held
    wanted = available if settings.num_episodes is None else settings.num_episodes
    if not 1 <= wanted <= available:
        raise UserError(
            f"num_episodes={wanted} is out of range: there are {count} episodes, {held} of them "
            "held out; collect more or use fewer"
        )
    return episodes[:wanted], episodes[available:]
