"""The scene variations of SIMPLER's variant aggregation: rooms, lighting, tables and cabinets.

The whole scene is rendered, without a photograph behind it, and the robot has its own colours. The
variations with another camera are left out, as in SIMPLER's averages.

Source: SimplerEnv scripts/rt1_*_variant_agg.sh and tools/calc_metrics_evaluation_videos.py.
"""

from dataclasses import dataclass, field, replace
from typing import Any

from selfflow_robotics.envs.simpler.binding import SimplerBinding


@dataclass(frozen=True)
class Surroundings:
    """One variation; fields as in `SimplerBinding`."""

    name: str
    stage: str
    settings: dict[str, Any] = field(default_factory=dict)
    env_id: str | None = None  # None: the task's
    models: tuple[str, ...] = ()  # further objects in the scene
    files: tuple[str, ...] = ()

    def of(self, binding: SimplerBinding) -> SimplerBinding:
        """The binding of a task in these surroundings."""
        return replace(
            binding,
            env_id=self.env_id or binding.env_id,
            stage=self.stage,
            overlay="",
            settings=self.settings,
            models=(*binding.models, *self.models),
            models_of={
                variant: (*models, *self.models) for variant, models in binding.models_of.items()
            },
            files=self.files,
        )


_TABLE = "google_pick_coke_can_1_v4"
# For the tasks on the table.
ON_TABLE = (
    Surroundings("base", _TABLE),
    Surroundings("background_1", f"{_TABLE}_alt_background"),
    Surroundings("background_2", f"{_TABLE}_alt_background_2"),
    Surroundings("darker_light", _TABLE, {"slightly_darker_lighting": True}),
    Surroundings("brighter_light", _TABLE, {"slightly_brighter_lighting": True}),
    Surroundings("table_1", "Baked_sc1_staging_objaverse_cabinet1_h870"),
    Surroundings("table_2", "Baked_sc1_staging_objaverse_cabinet2_h870"),
)


def _at_cabinet(name: str, stage: str, station: str = "mk_station", **settings: Any):
    return Surroundings(
        name,
        stage,
        {"station_name": station, **settings},
        files=(f"custom/{station}.urdf",),
    )


_ROOM = "frl_apartment_stage_simple"
# For the tasks at the cabinet.
AT_CABINET = (
    _at_cabinet("base", _ROOM),
    _at_cabinet("bedroom", "modern_bedroom_no_roof"),
    _at_cabinet("office", "modern_office_no_roof"),
    _at_cabinet("brighter_light", _ROOM, light_mode="brighter"),
    _at_cabinet("darker_light", _ROOM, light_mode="darker"),
    _at_cabinet("cabinet_2", _ROOM, "mk_station2"),
    _at_cabinet("cabinet_3", _ROOM, "mk_station3"),
)
