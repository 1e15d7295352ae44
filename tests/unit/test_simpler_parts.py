"""What of the SIMPLER adapter can be tested without SIMPLER."""

import json
import stat
from dataclasses import replace

import pytest

from selfflow_robotics.envs.episodes import draw_start
from selfflow_robotics.envs.simpler.assets import (
    check_assets,
    invisible_models,
    missing_variants,
    photographs,
)
from selfflow_robotics.envs.simpler.preflight import SimplerMissing, check_simpler
from selfflow_robotics.envs.simpler.shim import relax_sapien
from selfflow_robotics.envs.simpler.vulkan import VulkanDevice, missing_device
from selfflow_robotics.envs.tasks.catalog import DEFAULT_TASK, TASKS
from selfflow_robotics.envs.tasks.pick_coke_can import PickCokeCan
from selfflow_robotics.errors import UserError

MESA = VulkanDevice("llvmpipe (LLVM 15)", "CPU", "1.4.305", "llvmpipe Mesa 25.0.7", False, True)
GPU = VulkanDevice("A GPU", "discrete GPU", "1.3.0", "NVIDIA 550.1", True, True)
GOOD = {"python": [3, 11], "numpy": "1.26.4", "missing": [], "library": None}


TASK = TASKS[DEFAULT_TASK]
DATA = "ManiSkill2_real2sim/data"
SIMPLER_TASKS = [task for task in TASKS.values() if task.simpler]

every_task = pytest.mark.parametrize("task", SIMPLER_TASKS, ids=lambda task: task.name)


def complete(checkout, task):
    """Put the files there that `task` needs; returns them."""
    binding = task.bound()
    files = [
        *([binding.stage_file] if binding.stage_file else []),
        *binding.files,
        *photographs(task),
        *(
            f"custom/models/{model}/{file}"
            for model in binding.models
            for file in ("collision.obj", "textured.glb")
        ),
    ]
    for file in files:
        (checkout / DATA / file).parent.mkdir(parents=True, exist_ok=True)
        (checkout / DATA / file).touch()
    return files


@pytest.fixture
def checkout(tmp_path):
    """A folder that looks like SimplerEnv's checkout, with the files of one task."""
    (tmp_path / "ManiSkill2_real2sim/mani_skill2_real2sim").mkdir(parents=True)
    complete(tmp_path, TASK)
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
    check_simpler(str(checkout), interpreter(checkout, GOOD, devices), TASK)


def test_without_a_checkout_the_interpreter_may_have_it_installed(checkout):
    check_simpler(None, interpreter(checkout, GOOD), TASK)
    lacking = interpreter(checkout, GOOD | {"missing": ["mani_skill2_real2sim"]})
    with pytest.raises(SimplerMissing, match="SIMPLER_ENV_PATH") as caught:
        check_simpler(None, lacking, TASK)
    assert "git clone" in (caught.value.advice or "")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"python": [3, 12]}, r"must be 3\.11, .* is 3\.12"),
        ({"numpy": "2.4.6"}, r"numpy below 2, .* has 2\.4\.6"),
        ({"missing": ["sapien", "cv2"]}, "lacks sapien, cv2"),
        ({"missing": ["pkg_resources"]}, "setuptools below 82"),
        ({"library": "libX11.so.6: cannot open"}, "libX11.so.6.*apt-get install"),
        (
            {"assets": "/nowhere"},
            r"lacks .*_1_v4\.glb, which pick_coke_can needs",
        ),
    ],
)
def test_what_is_missing_is_named(checkout, change, message):
    with pytest.raises(UserError, match=message) as caught:
        check_simpler(str(checkout), interpreter(checkout, GOOD | change), TASK)
    assert "\n" not in str(caught.value)


@every_task
def test_each_file_that_a_task_needs_is_missed(tmp_path, task):
    files = complete(tmp_path, task)
    assets = tmp_path / DATA
    check_assets(task, assets)
    for file in files:
        if file.endswith("textured.glb"):
            continue  # there are others
        (assets / file).unlink()
        with pytest.raises(UserError, match=f"lacks {file}, which {task.name} needs") as caught:
            check_assets(task, assets)
        assert "\n" not in str(caught.value)
        (assets / file).touch()


@every_task
def test_an_episode_is_described_to_simpler(task):
    for seed in range(30):
        episode = draw_start(task, seed, {})
        binding, scene = task.bound(), task.scene(episode)
        json.dumps([binding.object_options(episode), binding.attributes(episode)])
        assert binding.overlay.format(**episode) in set(photographs(task))
        assert {item.body for item in scene.objects} <= set(task.bodies)
        assert len({body.name for body in task.bodies}) == len(task.bodies)
        assert all(task.instructions(episode))


def test_another_tasks_files_are_not_asked_for(checkout):
    python = interpreter(checkout, GOOD)
    check_simpler(str(checkout), python, TASK)
    with pytest.raises(SimplerMissing, match=r"lacks .*, which open_drawer needs"):
        check_simpler(str(checkout), python, TASKS["open_drawer"])
    photograph = checkout / DATA / "real_inpainting/open_drawer_c2.png"
    complete(checkout, TASKS["open_drawer"])
    check_simpler(str(checkout), python, TASKS["open_drawer"])
    photograph.unlink()
    check_simpler(str(checkout), python, TASK)
    with pytest.raises(SimplerMissing, match=r"open_drawer_c2\.png, which open_drawer needs"):
        check_simpler(str(checkout), python, TASKS["open_drawer"])


@pytest.mark.parametrize("mesh", ["textured.obj", "textured.dae", "textured.glb"])
def test_an_object_that_would_be_invisible_is_named(checkout, mesh):
    folder = checkout / DATA / "custom/models/opened_coke_can"
    (folder / "textured.glb").unlink()
    with pytest.raises(
        UserError, match=r"none of .* in custom/models/opened_coke_can, .*invisible"
    ):
        check_assets(TASK, checkout / DATA)
    check_assets(TASK, checkout / DATA, allow_invisible=True)
    assert invisible_models(TASK, checkout / DATA) == ["opened_coke_can"]
    python = interpreter(checkout, GOOD)
    with pytest.raises(SimplerMissing, match=r"simpler\.allow_invisible=true"):
        check_simpler(str(checkout), python, TASK)
    check_simpler(str(checkout), python, TASK, allow_invisible=True)
    (folder / mesh).touch()
    check_assets(TASK, checkout / DATA)
    assert invisible_models(TASK, checkout / DATA) == []


@pytest.mark.parametrize(
    ("name", "model", "variants"),
    [
        ("pick_object", "eggplant", {"eggplant"}),
        ("move_near", "orange", {"bottle-pepsi-orange", "orange-pepsi-redbull"}),
    ],
)
def test_other_variants_are_played_without_an_object(checkout, name, model, variants):
    task = TASKS[name]
    complete(checkout, task)
    python = interpreter(checkout, GOOD)
    assert check_simpler(str(checkout), python, task) == {}
    models = checkout / DATA / "custom/models"
    (models / model / "textured.glb").unlink()
    missing = check_simpler(str(checkout), python, task)
    assert set(missing) == variants
    for why in missing.values():
        assert f"in custom/models/{model}, so an object of {name}" in why
    for other in task.bound().models:
        (models / other / "textured.glb").unlink(missing_ok=True)
    assert set(missing_variants(task, checkout / DATA)) == set(task.variants)
    with pytest.raises(SimplerMissing, match=f"an object of {name} would be invisible"):
        check_simpler(str(checkout), python, task)


@every_task
def test_each_object_is_in_some_variant(task):
    binding = task.bound()
    shown = {model for models in binding.models_of.values() for model in models}
    if binding.models_of:
        assert set(binding.models_of) == set(task.variants)
        assert shown == set(binding.models)


def test_a_task_without_a_binding_is_the_users_mistake(checkout):
    task = PickCokeCan()
    task.simpler = None
    with pytest.raises(UserError, match="runs on the tabletop only") as caught:
        check_simpler(str(checkout), interpreter(checkout, GOOD), task)
    assert caught.value.advice is None


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
        check_simpler(str(checkout), interpreter(checkout, GOOD, devices), TASK)


def test_a_wrong_driver_path_is_named(monkeypatch):
    monkeypatch.setenv("VK_ICD_FILENAMES", "/nowhere/driver.json")
    assert "/nowhere/driver.json" in str(missing_device([]))
    assert missing_device([MESA]) is None


@pytest.mark.parametrize("path", [None, "", "/nowhere"])
def test_a_missing_checkout_is_named(path):
    with pytest.raises(UserError, match="checkout"):
        check_simpler(path, None, TASK)


def test_an_interpreter_that_fails_is_named(checkout):
    with pytest.raises(UserError, match=r"failed to run \(/bin/false\): exit status 1"):
        check_simpler(str(checkout), "/bin/false", TASK)


def test_nothing_is_changed_where_the_driver_is_complete():
    assert relax_sapien([GPU, MESA]) == 0
