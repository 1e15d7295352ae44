"""What holds for every test."""

# First of all: MuJoCo's EGL loaded after TensorFlow, which some tests import, crashes the process
# at its end (seen with Mesa's CPU driver); loaded before, the two get on.
from selfflow_robotics.envs.tabletop import backend  # noqa: F401
