"""What holds for every test."""

import os
import signal

# Several files run at a time (`make test`): one thread each, also in the commands that they start.
# Before torch is imported.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"

# First of all: MuJoCo's EGL loaded after TensorFlow, which some tests import, crashes the process
# at its end (seen with Mesa's CPU driver); loaded before, the two get on.
from selfflow_robotics.envs.tabletop import backend  # noqa: F401

# A shell's background jobs and nohup ignore these, and children inherit it: tests of interruptions
# would wait in vain.
for number, handler in (
    (signal.SIGINT, signal.default_int_handler),
    (signal.SIGTERM, signal.SIG_DFL),
    (signal.SIGHUP, signal.SIG_DFL),
):
    if signal.getsignal(number) == signal.SIG_IGN:
        signal.signal(number, handler)
