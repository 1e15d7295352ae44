"""Tests against the real SIMPLER, where the environment variables say that there is one."""

import os
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
    """A client of SIMPLER, one process for all tests; its frames are checked against SIMPLER's."""
    spec = SimulatorSpec(
        simulator="tests.simpler.checked:CheckedEnv",
        image_size=(256, 320),
        python=os.environ["SIMPLER_PYTHON"],
        path=str(ROOT),
    )
    with SimulatorClient(spec) as client:
        yield client
