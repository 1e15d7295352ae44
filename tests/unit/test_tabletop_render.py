"""Pictures of the embedded simulator, and the choice of OpenGL."""

import numpy as np
import pytest

from selfflow_robotics.envs.client import SimulatorClient
from selfflow_robotics.envs.spec import SimulatorSpec
from selfflow_robotics.envs.tabletop import backend
from selfflow_robotics.envs.tabletop.env import TabletopEnv
from selfflow_robotics.envs.tasks.catalog import get_task
from selfflow_robotics.errors import UserError

TASK = get_task("pick_coke_can")


def picture(size=(64, 80), renderer="ray", xy=(-0.25, 0.2)) -> np.ndarray:
    env = TabletopEnv(TASK, size, renderer)
    env.begin(0, {"variant": "horizontal", "object_xy": list(xy)})
    image = env.observe()["image"]
    env.close()
    return image


def red(image: np.ndarray) -> np.ndarray:
    """Where the can is: [H, W]."""
    image = image.astype(int)
    return (image[..., 0] > 130) & (image[..., 1:].max(-1) < 70)


def test_ray_picture_shows_the_can_where_the_camera_sees_it():
    rows, columns = np.nonzero(red(picture()))
    # The projection of the can's middle: camera 45 degrees down, focal length 425 of 512 pixels.
    right, down, forward = 0.2 - 0.20042, 1.29241 - 0.9203, 0.20401 + 0.25
    focal = 64 / 512 * 425
    depth = (forward + down) / np.sqrt(2)
    assert columns.mean() == pytest.approx(40 + focal * right / depth, abs=1.5)
    assert rows.mean() == pytest.approx(32 + focal * (down - forward) / np.sqrt(2) / depth, abs=2.5)
    assert len(rows) > 30


def test_nearer_cans_are_lower_in_the_picture():
    far, near = (np.nonzero(red(picture(xy=(x, 0.2))))[0].mean() for x in (-0.35, -0.12))
    assert near > far + 10


@pytest.mark.parametrize("size", [(64, 80), (48, 60), (128, 160), (256, 320)])
def test_picture_has_the_asked_size_and_uses_its_range(size):
    image = picture(size)
    assert image.shape == (*size, 3)
    assert image.dtype == np.uint8
    assert image.min() < 30
    assert image.max() > 170


def test_large_and_small_pictures_agree():
    small = picture((64, 80)).astype(float)
    large = picture((256, 320)).reshape(64, 4, 80, 4, 3).mean((1, 3))
    assert np.abs(small - large).mean() < 3.0


def test_moving_things_throw_shadows_on_the_table():
    with_can, without = picture(xy=(-0.3, 0.2)), picture(xy=(-0.3, 1.0))
    darker = without.astype(int).sum(-1) - with_can.astype(int).sum(-1) > 60
    assert (darker & ~red(with_can)).sum() >= 3


def test_gl_picture_resembles_the_ray_picture():
    # In a process of its own: EGL on Mesa's CPU driver crashes where TensorFlow is loaded, and
    # other tests load it.
    options = {"variant": "horizontal", "object_xy": [-0.25, 0.2]}
    with SimulatorClient(SimulatorSpec(renderer="gl")) as client:
        try:
            begun = client.call("reset", seed=0, options=options)
        except UserError as error:
            pytest.skip(str(error))
    image = begun["observation"]["image"]
    assert (red(image) & red(picture())).sum() > 20


def test_missing_opengl_is_one_line_that_says_what_to_install(monkeypatch):
    def fail(*_):
        raise ImportError("Cannot initialize a EGL device display")

    monkeypatch.setattr(backend.mujoco, "Renderer", fail)
    with pytest.raises(UserError, match=r"apt-get install .*libegl1 libopengl0 libgl1-mesa-dri"):
        picture(renderer="gl")


@pytest.mark.parametrize(
    ("libraries", "expected"),
    [
        ({"libEGL.so.1", "libOpenGL.so.0"}, "egl"),
        ({"libEGL.so.1", "libGL.so.1", "libOSMesa.so.8"}, "egl"),
        ({"libEGL.so.1"}, "disable"),
        ({"libOSMesa.so.8"}, "osmesa"),
        (set(), "disable"),
    ],
)
def test_opengl_is_chosen_by_what_loads(monkeypatch, libraries, expected):
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    monkeypatch.setattr(backend.sys, "platform", "linux")
    monkeypatch.setattr(backend, "_loadable", lambda *names: bool(libraries & set(names)))
    assert backend.choose_gl() == expected


def test_the_users_choice_of_opengl_is_kept(monkeypatch):
    monkeypatch.setenv("MUJOCO_GL", "osmesa")
    assert backend.choose_gl() == "osmesa"
