"""What of the SIMPLER adapter can be tested without SIMPLER."""

import json
import stat
from dataclasses import replace

import pytest

from selfflow_robotics.envs.simpler.preflight import SimplerMissing, check_simpler
from selfflow_robotics.envs.simpler.shim import relax_sapien
from selfflow_robotics.envs.simpler.vulkan import VulkanDevice, missing_device
from selfflow_robotics.envs.tasks.catalog import TASKS
from selfflow_robotics.errors import UserError

MESA = VulkanDevice("llvmpipe (LLVM 15)", "CPU", "1.4.305", "llvmpipe Mesa 25.0.7", False, True)
GPU = VulkanDevice("A GPU", "discrete GPU", "1.3.0", "NVIDIA 550.1", True, True)
GOOD = {"python": [3, 11], "numpy": "1.26.4", "missing": [], "library": None}


@pytest.fixture
def checkout(tmp_path):
    """A folder that looks like SimplerEnv's checkout, with its scenes."""
    (tmp_path / "ManiSkill2_real2sim/mani_skill2_real2sim").mkdir(parents=True)
    stages = tmp_path / "ManiSkill2_real2sim/data/hab2_bench_assets/stages"
    stages.mkdir(parents=True)
    for task in TASKS.values():
        if task.simpler:
            (stages / f"{task.simpler.stage}.glb").touch()
    return tmp_path


def interpreter(checkout, found, devices=(MESA,)):
    """A program that answers the two questions which preflight asks of SIMPLER's Python."""
    found = {"assets": str(checkout / "ManiSkill2_real2sim/data"), **found}
    answers = json.dumps(found), json.dumps([vars(device) for device in devices])
    program = checkout / "python"
    lines = (f"'{answers[0]}'", f"'{answers[1]}'")
    program.write_text(
        f"#!/bin/sh\nif [ $1 = -c ]; then echo {lines[0]}; else echo {lines[1]}; fi\n"
    )
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return str(program)


@pytest.mark.parametrize("devices", [[MESA], [GPU], [GPU, MESA]])
def test_a_complete_installation_passes(checkout, devices):
    check_simpler(str(checkout), interpreter(checkout, GOOD, devices))


def test_without_a_checkout_the_interpreter_may_have_it_installed(checkout):
    check_simpler(None, interpreter(checkout, GOOD))
    lacking = interpreter(checkout, GOOD | {"missing": ["mani_skill2_real2sim"]})
    with pytest.raises(SimplerMissing, match="SIMPLER_ENV_PATH") as caught:
        check_simpler(None, lacking)
    assert "git clone" in caught.value.advice


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"python": [3, 12]}, r"must be 3\.11, .* is 3\.12"),
        ({"numpy": "2.4.6"}, r"numpy below 2, .* has 2\.4\.6"),
        ({"missing": ["sapien", "cv2"]}, "lacks sapien, cv2"),
        ({"missing": ["pkg_resources"]}, "setuptools below 82"),
        ({"library": "libX11.so.6: cannot open"}, "libX11.so.6.*apt-get install"),
        ({"assets": "/nowhere"}, "lacks google_pick_coke_can_1_v4.glb"),
    ],
)
def test_what_is_missing_is_named(checkout, change, message):
    with pytest.raises(UserError, match=message) as caught:
        check_simpler(str(checkout), interpreter(checkout, GOOD | change))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("devices", "message"),
    [
        ([], "no Vulkan driver is installed"),
        ([replace(MESA, driver="llvmpipe Mesa 22.3.6")], "too old .*22.3.6"),
        ([replace(MESA, name="SwiftShader", driver="x", draws_scenes=False)], "by SwiftShader:"),
    ],
)
def test_missing_vulkan_is_named(checkout, devices, message, monkeypatch):
    monkeypatch.delenv("VK_ICD_FILENAMES", raising=False)
    with pytest.raises(UserError, match=message):
        check_simpler(str(checkout), interpreter(checkout, GOOD, devices))


def test_a_wrong_driver_path_is_named(monkeypatch):
    monkeypatch.setenv("VK_ICD_FILENAMES", "/nowhere/driver.json")
    assert "/nowhere/driver.json" in str(missing_device([]))
    assert missing_device([MESA]) is None


@pytest.mark.parametrize("path", [None, "", "/nowhere"])
def test_a_missing_checkout_is_named(path):
    with pytest.raises(UserError, match="checkout"):
        check_simpler(path, None)


def test_an_interpreter_that_fails_is_named(checkout):
    with pytest.raises(UserError, match=r"failed to run \(/bin/false\): exit status 1"):
        check_simpler(str(checkout), "/bin/false")


def test_nothing_is_changed_where_the_driver_is_complete():
    assert relax_sapien([GPU, MESA]) == 0
