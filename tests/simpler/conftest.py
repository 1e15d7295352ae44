"""Tests against the real SIMPLER, where the environment variables say that there is one."""

import os
from contextlib import ExitStack
from functools import cache
from pathlib import Path

import pytest

from selfflow_robotics.envs.client import SimulatorClient
from selfflow_robotics.envs.spec import SimulatorSpec

ROOT = Path(__file__).parents[2]
VARIABLES = ("SIMPLER_ENV_PATH", "SIMPLER_PYTHON")
ABSENT = [name for name in VARIABLES if not os.environ.get(name)]


def pytest_collection_modifyitems(items):
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.simpler)
            if ABSENT:
                reason = f"SIMPLER is not installed here: {' and '.join(ABSENT)} not set"
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def simpler():
    """SIMPLER's client for a task: one process for all tests, started when first asked for.

    Its frames and instructions are checked against SIMPLER's own.
    """
    with ExitStack() as stack:

        @cache
        def client(task="pick_coke_can"):
            spec = SimulatorSpec(
                simulator="tests.simpler.checked:CheckedEnv",
                task=task,
                image_size=(256, 320),
                python=os.environ["SIMPLER_PYTHON"],
                path=str(ROOT),
            )
            return stack.enter_context(SimulatorClient(spec))

        yield client
