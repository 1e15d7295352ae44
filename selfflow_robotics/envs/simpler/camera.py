"""The image that the policy sees, rendered on demand.

SIMPLER renders two cameras with four textures each at every step. A policy observes one camera
every few steps; rendering only that gives the same pixels in half the time, and other steps render
nothing.
"""

from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from selfflow_robotics.errors import UserError

# Actors that the photograph hides: the ground, the goal marker, the table ("" and "arena").
_BEHIND_PHOTOGRAPH = {"ground", "goal_site", "", "arena"}


class OverheadCamera:
    """Renders `camera` of a SIMPLER environment and lays the real photograph, if any, behind it."""

    def __init__(self, simulation: Any, camera: str) -> None:
        self._simulation = simulation
        self._camera = camera
        self._path: Path | None = None
        self._photograph = np.empty(0, np.uint8)

    def show_behind(self, path: Path) -> None:
        """Take the photograph at `path` for the background. Raises UserError if it is missing."""
        if path == self._path:
            return
        # OpenCV is SIMPLER's dependency, not ours; other reading and resizing would change pixels.
        cv2 = import_module("cv2")
        photograph = cv2.imread(str(path))
        if photograph is None:
            raise UserError(f"SIMPLER's checkout lacks {path}: complete the checkout")
        simulation, config = self._simulation, self._simulation._camera_cfgs[self._camera]
        simulation.rgb_overlay_img = cv2.cvtColor(photograph, cv2.COLOR_BGR2RGB) / 255
        resized = cv2.resize(simulation.rgb_overlay_img, (config.width, config.height))
        self._photograph, self._path = _to_uint8(resized.astype(np.float32)), path

    def render(self) -> np.ndarray:
        """The current scene as uint8 [H, W, 3], bit-identical to SIMPLER's own frame.

        H, W: 512, 640 for the google robot, 480, 640 for WidowX.
        """
        simulation = self._simulation
        simulation.update_render()
        # Looked up each time, as a reset creates a new scene with new cameras.
        camera = simulation._cameras[self._camera].camera
        camera.take_picture()
        color = camera.get_float_texture("Color")[..., :3]
        if self._path is None:
            return _to_uint8(color)
        entity = camera.get_uint32_texture("Segmentation")[..., 1]
        ids = self._foreground_ids()
        is_foreground = np.zeros(max(int(entity.max()), *ids) + 1, bool)
        is_foreground[ids] = True
        mask = is_foreground[entity]
        frame = self._photograph.copy()
        frame[mask] = _to_uint8(color[mask])
        return frame

    def _foreground_ids(self) -> list[int]:
        """Segmentation ids of what is drawn over the photograph: objects, robot, furniture."""
        simulation = self._simulation
        behind = _BEHIND_PHOTOGRAPH.union(simulation.rgb_always_overlay_objects)
        ids = [actor.id for actor in simulation.get_actors() if actor.name not in behind]
        for articulation in simulation.get_articulations():
            if articulation is simulation.agent.robot or articulation.name not in behind:
                ids += [link.id for link in articulation.get_links()]
        return ids


def _to_uint8(color: np.ndarray) -> np.ndarray:
    # SIMPLER truncates rather than rounds.
    return np.clip(color * 255, 0, 255).astype(np.uint8)
