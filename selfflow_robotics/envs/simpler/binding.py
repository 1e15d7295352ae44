"""SIMPLER's settings for a task.

The tasks' values are those of SIMPLER's visual matching (`prepackaged_config` in
mani_skill2_real2sim/envs/custom_scenes). `prepackaged_config` itself is not used: it also redraws
the robot's colours at each reset and overrides the caller's choice.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class SimplerBinding:
    """SIMPLER's settings for one task."""

    env_id: str
    stage: str  # scene; "dummy_..." are built in, others need a file in the checkout
    # Photograph behind robot and objects, relative to the asset folder; {...} is replaced by an
    # option of the episode. "": none, the stage is rendered.
    overlay: str
    # Episode -> SIMPLER's `obj_init_options`.
    object_options: Callable[[dict[str, Any]], dict[str, Any]] = lambda episode: {}
    # Episode -> attributes to set on SIMPLER's environment before a reset, for what its reset would
    # otherwise choose itself.
    attributes: Callable[[dict[str, Any]], dict[str, Any]] = lambda episode: {}
    # SIMPLER's environment -> its actors, in the order of `Scene.objects`.
    objects: Callable[[Any], Sequence[Any]] = lambda simulation: [simulation.obj]
    flags: tuple[str, ...] = ()  # further step information (bool)
    # Further arguments of SIMPLER's `make`; they override the defaults.
    settings: dict[str, Any] = field(default_factory=dict)
    models: tuple[str, ...] = ()  # objects, by folder in custom/models
    # Variant -> the models in its episodes; empty: every episode has all models.
    models_of: dict[str, tuple[str, ...]] = field(default_factory=dict)
    files: tuple[str, ...] = ()  # further required files, relative to the asset folder
    remark: str = ""  # printed under every result

    @property
    def stage_file(self) -> str | None:
        """The scene's file, relative to the asset folder; None if it has none."""
        if self.stage.startswith("dummy_"):
            return None
        return f"hab2_bench_assets/stages/{self.stage}.glb"
