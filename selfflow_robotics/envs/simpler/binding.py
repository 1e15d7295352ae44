"""How a task is found in SIMPLER. The values are those of SIMPLER's visual matching set-up, its
`prepackaged_config` (mani_skill2_real2sim/envs/custom_scenes). The switch itself is not used: it
also redraws the robot's colours at each reset and overrides the caller's choice.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class SimplerBinding:
    """SIMPLER's settings for one task."""

    env_id: str
    stage: str  # scene, whose file must be in the checkout
    # Photograph behind robot and objects, in the asset folder; {...} is an option of the episode.
    overlay: str
    # The episode -> SIMPLER's `obj_init_options`.
    object_options: Callable[[dict[str, Any]], dict[str, Any]]
    # Attributes of SIMPLER's environment that are the objects, in the order of `Scene.objects`.
    objects: tuple[str, ...] = ("obj",)
    flags: tuple[str, ...] = ()  # further step information (bool)
    settings: dict[str, Any] = field(default_factory=dict)  # further arguments of SIMPLER's `make`
