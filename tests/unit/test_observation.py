"""The picture and the proprioception that a policy is shown."""

import subprocess
import sys

import numpy as np

from selfflow_robotics.robot.observation import proprio_vector, resize_image
from selfflow_robotics.robot.rotations import from_wxyz


def random_image(height: int, width: int) -> np.ndarray:
    return np.random.Generator(np.random.PCG64(0)).integers(0, 256, (height, width, 3), np.uint8)


def test_whole_factors_are_block_means_rounded_half_up():
    image = random_image(256, 320)
    blocks = image.reshape(64, 4, 80, 4, 3).astype(np.float64).mean((1, 3))
    np.testing.assert_array_equal(resize_image(image, (64, 80)), np.floor(blocks + 0.5))


def test_factors_may_differ_and_views_work():
    image = random_image(60, 40)[::-1, ::2]
    small = resize_image(image, (20, 10))
    expected = image.astype(np.float64).reshape(20, 3, 10, 2, 3).mean((1, 3))
    np.testing.assert_array_equal(small, np.floor(expected + 0.5))


def test_other_sizes_keep_the_mean():
    image = random_image(100, 130)
    small = resize_image(image, (64, 80))
    assert small.shape == (64, 80, 3)
    assert small.dtype == np.uint8
    assert abs(small.mean() - image.mean()) < 0.5


def test_same_size_is_untouched():
    image = random_image(64, 80)
    assert resize_image(image, (64, 80)) is image


def test_proprio_is_the_tool_in_the_base_frame():
    base = np.array([0.35, 0.2, 0.07, 0.6, 0.0, 0.0, 0.8])
    tool_in_base = np.array([0.5, -0.1, 0.9, -0.5, 0.5, -0.5, 0.5])
    position = base[:3] + from_wxyz(base[3:]).apply(tool_in_base[:3])
    turn = (from_wxyz(base[3:]) * from_wxyz(tool_in_base[3:])).as_quat()
    tool = np.concatenate([position, turn[[3, 0, 1, 2]]])
    proprio = proprio_vector(tool, base, 0.25)
    assert proprio.dtype == np.float32
    np.testing.assert_allclose(proprio[:3], tool_in_base[:3], atol=1e-6)
    np.testing.assert_allclose(proprio[3:7], [-0.5, 0.5, -0.5, 0.5], atol=1e-6)
    assert proprio[7] == 0.25


def test_robot_conventions_need_numpy_and_scipy_only():
    code = (
        "import sys\n"
        "from selfflow_robotics.robot import actions, normalize, observation, rotations\n"
        "print(sorted({'torch', 'PIL', 'tensorflow_datasets'} & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
