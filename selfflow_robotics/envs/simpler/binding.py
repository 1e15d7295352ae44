"""How a task is found in SIMPLER. The values are those of SIMPLER's visual matching set-up, its
`prepackaged_config` (mani_skill2_real2sim/envs/custom_scenes). The switch itself is not used: it
also redraws the robot's colours at each reset and overrides the caller's choice.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class SimplerBinding:
    """SIMPLER's settings for one task."""

    env_id: str
    stage: str  # scene; "dummy_..." are built in, the file of any other must be in the checkout
    # Photograph behind robot and objects, in the asset folder; {...} is an option of the episode.
    # "": the stage is seen.
    overlay: str
    # The episode -> SIMPLER's `obj_init_options`.
    object_options: Callable[[dict[str, Any]], dict[str, Any]] = lambda episode: {}
    # The episode -> attributes of SIMPLER's environment to set before a reset, for what its reset
    # would choose itself.
    attributes: Callable[[dict[str, Any]], dict[str, Any]] = lambda episode: {}
    # SIMPLER's environment -> its actors, in the order of `Scene.objects`.
    objects: Callable[[Any], Sequence[Any]] = lambda simulation: [simulation.obj]
    flags: tuple[str, ...] = ()  # further step information (bool)
    # Arguments of SIMPLER's `make`, further or in place of the usual ones.
    settings: dict[str, Any] = field(default_factory=dict)
    models: tuple[str, ...] = ()  # objects, by their folders in custom/models
    # Variant -> those of `models` in its episodes; empty: all are in all episodes.
    models_of: dict[str, tuple[str, ...]] = field(default_factory=dict)
    files: tuple[str, ...] = ()  # further files that it needs, in the asset folder
    remark: str = ""  # that belongs next to every result

    @property
    def stage_file(self) -> str | None:
        """The scene's file, relative to the asset folder; None if it has none."""
        if self.stage.startswith("dummy_"):
            return None
        return f"hab2_bench_assets/stages/{self.stage}.glb"
