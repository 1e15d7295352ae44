"""Opening and closing drawers: the rule, the cabinet on the tabletop, and the expert."""

import numpy as np
import pytest

from selfflow_robotics.envs.episodes import EpisodeSpec
from selfflow_robotics.envs.tabletop.backend import mujoco
from selfflow_robotics.envs.tabletop.env import TabletopEnv
from selfflow_robotics.envs.tasks import cabinet
from selfflow_robotics.envs.tasks.base import DRAWERS, Choice, Placed, Task
from selfflow_robotics.envs.tasks.catalog import get_task
from selfflow_robotics.envs.tasks.drawers import STANDS, DrawerRule, scene_at
from selfflow_robotics.envs.tasks.objects import COKE_CAN
from selfflow_robotics.envs.tasks.plan import Pick
from selfflow_robotics.envs.tasks.rules import Seen
from selfflow_robotics.policies.demonstrator import Demonstrator, Player
from selfflow_robotics.policies.expert import ScriptedExpert

NOTHING = np.zeros(7, np.float32)
STANDING = COKE_CAN.rests["standing"]


class CanOnCabinet(Task):
    """A can on a cabinet whose top drawer is open."""

    name = "can_on_cabinet"
    max_episode_steps = 10
    starts = {"variant": Choice(("standing",))}  # noqa: RUF012
    bodies = (COKE_CAN,)
    seen: Seen

    def instructions(self, episode):
        return ("look at the can",)

    def scene(self, episode):
        can = Placed(COKE_CAN, (-0.1, 0.05), STANDING)
        return scene_at("b0", (0.3, 0.0, 0.0), objects=[can])

    def rule(self, episode, settled):
        return self

    stage = 0

    def update(self, seen):
        self.seen = seen
        return {"success": False}

    def plan(self, episode):
        return (Pick(),)


@pytest.fixture(scope="module")
def envs():
    return {verb: TabletopEnv(get_task(f"{verb}_drawer"), (16, 20)) for verb in ("open", "close")}


@pytest.mark.parametrize(
    ("opens", "opening", "success"),
    [(True, 0.149, False), (True, 0.151, True), (False, 0.051, False), (False, 0.049, True)],
)
def test_open_is_15_cm_and_shut_is_5(opens, opening, success):
    drawers = np.array([0.3 * (not opens), opening, 0.3 * opens])
    result = DrawerRule(1, opens).update(Seen(np.empty((0, 7)), (), drawers))
    assert result["success"] is success
    assert result["qpos"] == pytest.approx(opening)


def test_the_grid_is_each_drawer_from_each_stand():
    cells = get_task("open_drawer").grid()
    assert [tuple(cell.values()) for cell in cells] == [(d, s) for d in DRAWERS for s in STANDS]
    assert len(get_task("close_top_drawer").grid()) == 9


@pytest.mark.parametrize("drawer", DRAWERS)
def test_drawers_start_as_the_task_says_and_stay(envs, drawer):
    for verb, opening in (("open", 0.0), ("close", 0.2)):
        expected = [opening * (name == drawer) for name in DRAWERS]
        info = envs[verb].begin(0, {"variant": drawer})
        assert info["state"]["drawers"].tolist() == expected
        info = envs[verb].advance(NOTHING)
        np.testing.assert_allclose(info["state"]["drawers"], expected, atol=1e-4)
        assert "object_pose" not in info["state"]


def test_a_drawer_slides_when_pushed_and_stops_at_its_ends(envs):
    model = envs["open"].model
    data = mujoco.MjData(model)
    for force, end in ((20.0, cabinet.TRAVEL), (-20.0, 0.0)):
        data.qfrc_applied[-2] = force
        for _ in range(300):
            mujoco.mj_step(model, data)
        np.testing.assert_allclose(data.qpos[-3:], [0.0, end, 0.0], atol=2e-3)


def test_the_cabinet_stands_where_simpler_has_it(envs):
    """Cabinet and drawers of mk_station_recolor.urdf."""
    model = envs["open"].model
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    top = max(data.geom_xpos[g][2] + model.geom_size[g][2] for g in geoms(model, "cabinet"))
    assert top == pytest.approx(0.882)
    for index, (name, z) in enumerate(zip(DRAWERS, (0.685, 0.440, 0.195), strict=True)):
        np.testing.assert_allclose(data.body(f"{name}_drawer").xpos, (-0.295, 0, z), atol=1e-9)
        np.testing.assert_allclose(cabinet.front(index, 0.1), (0.1175, 0, z), atol=1e-9)
        np.testing.assert_allclose(cabinet.upper_edge(index, 0.1), (0.11, 0, z + 0.07), atol=1e-9)
        assert model.body(f"{name}_drawer").mass == pytest.approx(11.38)


def geoms(model, body: str) -> list[int]:
    return [g for g in range(model.ngeom) if model.geom_bodyid[g] == model.body(body).id]


@pytest.mark.parametrize("drawer", DRAWERS)
def test_handles_do_not_collide_and_plates_do(envs, drawer):
    model = envs["open"].model
    outside = cabinet.FRONT_X + cabinet.FRONT_THICKNESS / 2
    handles = [g for g in geoms(model, f"{drawer}_drawer") if model.geom_pos[g][0] > outside]
    plates = set(geoms(model, f"{drawer}_drawer")) - set(handles)
    assert len(handles) == 3
    assert not model.geom_contype[handles].any()
    assert not model.geom_conaffinity[handles].any()
    assert model.geom_contype[list(plates)].all()


def test_objects_stand_on_the_cabinet_and_lie_in_a_drawer():
    task = CanOnCabinet()
    env = TabletopEnv(task, (16, 20))
    state = env.begin(0, {})["state"]
    height = cabinet.SURFACE + STANDING.height
    np.testing.assert_allclose(state["object_pose"][:3], (-0.1, 0.05, height), atol=1e-3)
    env.advance(NOTHING)
    assert task.seen.touches[0].others == {"cabinet"}
    assert task.seen.drawers == pytest.approx([0.3, 0, 0], abs=1e-4)
    bottom = cabinet.POSITION[2] + cabinet.ORIGINS[0] - 0.05
    inside = np.array([0.15, 0.0, bottom + STANDING.height, *STANDING.quaternion])
    env.place(state["qpos"], inside, (0.3, 0.0, 0.0))
    env.advance(NOTHING)
    assert task.seen.touches[0].others == {"top_drawer_bottom"}
    assert env.observe()["image"].shape == (16, 20, 3)


@pytest.mark.parametrize("stand", ["a0", "c2"])
@pytest.mark.parametrize("drawer", DRAWERS)
@pytest.mark.parametrize("verb", ["open", "close"])
def test_the_expert_moves_every_drawer_and_leaves_it(envs, verb, drawer, stand):
    env, expert = envs[verb], ScriptedExpert()
    spec = EpisodeSpec(f"{verb}_drawer", drawer, 0, {"stand": stand})
    info = env.begin(0, {"variant": drawer, "stand": stand})
    expert.begin(0, spec)
    for _ in range(env.task.max_episode_steps):
        info = env.advance(expert.act([0], [{}], [info])[0][0])
    assert info["success"]
    others = np.delete(info["state"]["drawers"], DRAWERS.index(drawer))
    np.testing.assert_allclose(others, 0, atol=0.02)


def test_the_expert_starts_over_when_the_drawer_slips_out(envs):
    env, expert = envs["open"], ScriptedExpert()
    spec = EpisodeSpec("open_drawer", "middle", 0, {"stand": "b1"})
    info = env.begin(0, {"variant": "middle", "stand": "b1"})
    reset = info["state"]["qpos"]
    expert.begin(0, spec)
    while info["state"]["drawers"][1] < 0.03:
        info = env.advance(expert.act([0], [{}], [info])[0][0])
    # The hand is elsewhere now, and the drawer a little open.
    env.place(reset, np.empty((0, 7)), (0.0, 0.03, 0.0))
    info = env.advance(NOTHING)
    gripper = []
    while info["elapsed_steps"] < env.task.max_episode_steps and not info["success"]:
        action = expert.act([0], [{}], [info])[0][0]
        gripper.append(action[6])
        info = env.advance(action)
    assert info["success"]
    assert gripper[0] < 1  # lets go, then takes hold again
    assert gripper[-1] == 1


@pytest.mark.parametrize("verb", ["open", "close"])
def test_no_disturbance_needs_an_object(envs, verb):
    info = envs[verb].begin(0, {})
    policy = Demonstrator(recovery=1.0)
    for seed in range(1_000_000, 1_000_040):
        policy.begin(0, EpisodeSpec(f"{verb}_drawer", "top", seed))
        assert policy.tracks[seed].disturbed
        (action,) = policy.act([0], [{}], [info])
        assert np.isfinite(action).all()


def test_disturbed_experts_and_players_run_without_objects(envs):
    env = envs["open"]
    policy = Demonstrator(recovery=1.0)
    successes = 0
    for seed in range(1_000_000, 1_000_004):
        variant = DRAWERS[seed % 3]
        info, held = env.begin(seed, {"variant": variant}), 0
        policy.begin(0, EpisodeSpec("open_drawer", variant, seed))
        while info["elapsed_steps"] < env.task.max_episode_steps and held < 3:
            info = env.advance(policy.act([0], [{}], [info])[0][0])
            held = held + 1 if info["success"] else 0
        successes += held == 3
    assert successes >= 3
    player = Player()
    info = env.begin(1, {})
    player.begin(0, EpisodeSpec("open_drawer", info["episode"]["variant"], 1))
    for _ in range(20):
        info = env.advance(player.act([0], [{}], [info])[0][0])
