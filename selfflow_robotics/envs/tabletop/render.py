"""Pictures of the overhead camera: by ray casting (default, no OpenGL) or by MuJoCo's OpenGL.

The ray renderer casts rays with MuJoCo's own `mj_multiRay` and shades with ambient light, some
light from the eye and one lamp that throws shadows. The camera never moves, so what stands still is
cast and shaded once; a frame costs only the rays near the robot and the object. In small pictures
each pixel is the mean of four rays, for smooth edges. Equal states give equal bytes on every run.
"""

import math
from typing import Protocol

import numpy as np

from selfflow_robotics.envs.tabletop.backend import GL_HELP, mujoco
from selfflow_robotics.envs.tabletop.mjcf import CAMERA
from selfflow_robotics.errors import UserError

_STATIC, _MOVING = (np.array([group == g for g in range(6)], np.uint8) for group in (0, 1))
_FAR = 10.0  # m
_SHADOW_BIAS = 0.004  # m
# Brightness of a white surface: everywhere, of light from the eye and of the lamp's, both when they
# fall straight on it.
_AMBIENT, _HEADLIGHT, _LAMP = 0.30, 0.30, 0.55
_BACKGROUND = (0.1, 0.08, 0.07)


class Renderer(Protocol):
    """Draws the state in `data` as uint8 [H, W, 3]."""

    def render(self, data) -> np.ndarray: ...

    def close(self) -> None: ...


def make_renderer(name: str, model, image_size: tuple[int, int]) -> Renderer:
    """The renderer called `name`. Raises UserError for another name and for OpenGL that fails."""
    if name == "ray":
        return RayRenderer(model, image_size)
    if name == "gl":
        return GlRenderer(model, image_size)
    raise UserError(f"unknown renderer '{name}' of the tabletop simulator; known: ray, gl")


class RayRenderer:
    """Ray casting with a cached background."""

    def __init__(self, model, image_size: tuple[int, int]) -> None:
        self._model, self._size = model, image_size
        # Four rays a pixel where a frame is small; large pictures are smooth enough without.
        self._samples = 2 if image_size[0] * image_size[1] <= 160 * 128 else 1
        data = mujoco.MjData(model)
        mujoco.mj_forward(model, data)
        camera = model.camera(CAMERA).id
        self._eye = data.cam_xpos[camera].copy()
        self._lamp = data.light_xpos[model.light("lamp").id].copy()
        rays = _camera_rays(image_size, self._samples, *_half_fields(model, camera))
        self._rays = np.stack([_dot(rays, row) for row in data.cam_xmat[camera].reshape(3, 3)], -1)
        self._rays32 = np.ascontiguousarray(self._rays.T, np.float32)
        self._color = _geom_colors(model)
        moving = (model.geom_group == 1) & (model.body_weldid[model.geom_bodyid] != 0)
        self._moving = np.flatnonzero(moving)
        # Only drawers move below something that stands still, which may then throw shadows on them.
        slides = (model.jnt_type == int(mujoco.mjtJoint.mjJNT_SLIDE)).any()
        self._above = _STATIC | _MOVING if slides else _MOVING
        self._cast_background(data)

    def _cast(self, data, origin, rays, group):
        """Geom (-1: none), distance and normal of the first hit of each ray [n, 3]."""
        count = len(rays)
        geom, distance = np.empty(count, np.int32), np.empty(count)
        normal = np.empty((count, 3))
        mujoco.mj_multiRay(
            self._model, data, origin, rays.reshape(-1), group, 1, -1, geom, distance,
            normal.reshape(-1), count, _FAR,
        )  # fmt: skip
        return geom, distance, normal

    def _near_moving(self, data, origin, rays32) -> np.ndarray:
        """Indices of the rays [3, n] that come near anything that moves: those worth casting."""
        offset = data.geom_xpos[self._moving] - origin
        reach = np.sqrt(_dot(offset, offset))
        sine = np.minimum(self._model.geom_rbound[self._moving] / reach, 1.0)
        # A sphere about the origin itself is met by every ray.
        cosine = np.where(sine < 1.0, np.sqrt(1.0 - sine * sine), -1.0) - 1e-6
        toward = (offset / reach[:, None]).astype(np.float32)
        # How BLAS rounds differs by processor, by less than the margin: no ray that hits is missed.
        return np.flatnonzero((toward @ rays32 > cosine.astype(np.float32)[:, None]).any(0))

    def _cast_background(self, data) -> None:
        geom, distance, normal = self._cast(data, self._eye, self._rays, _STATIC)
        hit = geom >= 0
        self._distance = np.where(hit, distance, np.inf)
        points = self._eye + self._rays * np.where(hit, distance, _FAR)[:, None]
        base = _AMBIENT + _HEADLIGHT * np.maximum(-_dot(self._rays, normal), 0.0)
        to_lamp, reach, lamp = self._lamp_light(points, normal)
        blocker, clear, _ = self._cast(data, self._lamp, -to_lamp, _STATIC)
        lamp[(blocker >= 0) & (clear < reach - _SHADOW_BIAS)] = 0.0
        base[~hit], lamp[~hit] = 1.0, 0.0
        color = np.where(hit[:, None], self._color[geom], _BACKGROUND)
        self._dark = (color * base[:, None]).astype(np.float32)
        self._lit = (color * (base + lamp)[:, None]).astype(np.float32)
        # Shadows can fall only where the lamp shines.
        self._shadowable = np.flatnonzero(lamp > 0)
        self._shadow_rays = -to_lamp[self._shadowable]
        self._shadow_rays32 = np.ascontiguousarray(self._shadow_rays.T, np.float32)
        self._shadow_reach = reach[self._shadowable] - _SHADOW_BIAS

    def _lamp_light(self, points, normal):
        """Direction to the lamp [n, 3], distance [n] and the lamp's brightness [n] at points."""
        to_lamp = self._lamp - points
        reach = np.sqrt(_dot(to_lamp, to_lamp))
        to_lamp = to_lamp / reach[:, None]
        return to_lamp, reach, _LAMP * np.maximum(_dot(to_lamp, normal), 0.0)

    def render(self, data) -> np.ndarray:
        image = self._lit.copy()
        near = self._near_moving(data, self._lamp, self._shadow_rays32)
        blocker, clear, _ = self._cast(data, self._lamp, self._shadow_rays[near], _MOVING)
        near = near[(blocker >= 0) & (clear < self._shadow_reach[near])]
        shadow = self._shadowable[near]
        image[shadow] = self._dark[shadow]

        near = self._near_moving(data, self._eye, self._rays32)
        geom, distance, normal = self._cast(data, self._eye, self._rays[near], _MOVING)
        seen = (geom >= 0) & (distance < self._distance[near])
        geom, distance, normal, near = geom[seen], distance[seen], normal[seen], near[seen]
        rays = self._rays[near]
        to_lamp, reach, lamp = self._lamp_light(self._eye + rays * distance[:, None], normal)
        blocker, clear, _ = self._cast(data, self._lamp, -to_lamp, self._above)
        lamp[(blocker >= 0) & (clear < reach - _SHADOW_BIAS)] = 0.0
        base = _AMBIENT + _HEADLIGHT * np.maximum(-_dot(rays, normal), 0.0)
        image[near] = self._color[geom] * (base + lamp)[:, None]
        return self._to_pixels(image)

    def _to_pixels(self, image: np.ndarray) -> np.ndarray:
        (height, width), n = self._size, self._samples
        rays = image.reshape(height, n, width, n, 3)
        total = sum(rays[:, i, :, j] for i in range(n) for j in range(n))
        bright = np.minimum(total, n * n) * np.float32(255 / n**2)
        return (bright + np.float32(0.5)).astype(np.uint8)

    def close(self) -> None:
        """Holds nothing."""


class GlRenderer:
    """MuJoCo's OpenGL renderer (EGL or OSMesa)."""

    def __init__(self, model, image_size: tuple[int, int]) -> None:
        height, width = image_size
        model.vis.global_.offheight = max(int(model.vis.global_.offheight), height)
        model.vis.global_.offwidth = max(int(model.vis.global_.offwidth), width)
        try:
            self._renderer = mujoco.Renderer(model, height, width)
        except Exception as error:  # each OpenGL platform fails in its own way
            raise UserError(
                f"renderer=gl cannot start ({type(error).__name__}): {GL_HELP}"
            ) from error
        self._option = mujoco.MjvOption()
        self._option.geomgroup[:] = [1, 1, 0, 0, 0, 0]

    def render(self, data) -> np.ndarray:
        self._renderer.update_scene(data, CAMERA, self._option)
        return self._renderer.render()

    def close(self) -> None:
        self._renderer.close()


def _dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Dot products [...] of vectors [..., 3], rounded alike by every processor."""
    return a[..., 0] * b[..., 0] + a[..., 1] * b[..., 1] + a[..., 2] * b[..., 2]


def _half_fields(model, camera: int) -> tuple[float | None, float]:
    """Tangents of half the field of view, across (None: as the picture's shape has it) and down."""
    across, down = (float(size) for size in model.cam_sensorsize[camera])
    if not across:
        return None, math.tan(math.radians(float(model.cam_fovy[camera])) / 2)
    focal_x, focal_y = (float(focal) for focal in model.cam_intrinsic[camera][:2])
    return across / 2 / focal_x, down / 2 / focal_y


def _camera_rays(
    image_size: tuple[int, int], samples: int, across: float | None, down: float
) -> np.ndarray:
    """Unit directions [h n w n, 3] in the camera's frame (x right, y up, looking along -z); across,
    down: `_half_fields`."""
    height, width = (size * samples for size in image_size)
    focal_y = height / 2 / down
    focal_x = focal_y if across is None else width / 2 / across
    x, y = np.meshgrid(np.arange(width) + 0.5 - width / 2, height / 2 - np.arange(height) - 0.5)
    rays = np.stack([x / focal_x, y / focal_y, -np.ones_like(x)], -1).reshape(-1, 3)
    return rays / np.sqrt(_dot(rays, rays))[:, None]


def _geom_colors(model) -> np.ndarray:
    """RGB in [0, 1] of every geom [ngeom, 3], from its material."""
    material = model.geom_matid
    own, shared = model.geom_rgba[:, :3], model.mat_rgba[material][:, :3]
    return np.where((material >= 0)[:, None], shared, own)
