"""Execution of action chunks: which prediction becomes which action, in every mode."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from selfflow_robotics.envs.episodes import EpisodeSpec
from selfflow_robotics.errors import UserError
from selfflow_robotics.flow.inpainting import Inpainting, guidance, inpaint, soft_mask
from selfflow_robotics.flow.solvers import evaluation_times, solve_ode
from selfflow_robotics.flow.staircase import advance, descent, stairs
from selfflow_robotics.flow.timesteps import TimestepConfig, sampling_times
from selfflow_robotics.inference.velocity import Velocity
from selfflow_robotics.models.network import Network
from selfflow_robotics.models.presets import RobotConfig
from selfflow_robotics.models.sit import SiTConfig
from selfflow_robotics.objective.schedules import SCHEDULES
from selfflow_robotics.policies.chunk_sampler import Seen
from selfflow_robotics.policies.chunking import Chunking
from selfflow_robotics.policies.ensemble import Ensemble, average
from selfflow_robotics.policies.execution import MODES
from selfflow_robotics.policies.flow_policy import FlowPolicy
from selfflow_robotics.timesteps import Timesteps
from tests.fractal import FRACTAL_STATS
from tests.networks import robot_bundle, robot_network

HORIZON = 6
CONFIG = RobotConfig(
    SiTConfig(width=48, depth=2, heads=3), image_size=(32, 32), action_horizon=HORIZON
)
MODE_SETTINGS = {
    "receding": {"replan_steps": 3, "delay": 1},
    "open_loop": {},
    "rtc": {"replan_steps": 2, "delay": 1},
    "ensemble": {"delay": 1},
    "streaming": {},
}


class Counting:
    """A sampler whose chunk of observation n has the actions 10 n, 10 n + 1, ..."""

    horizon = HORIZON

    def __init__(self):
        self.targets = []

    def noise(self, seed, look):
        return torch.tensor(float(look))

    def chunks(self, seen, noise, targets=None, weights=None):
        self.targets.append(targets)
        return torch.stack([10 * look + torch.arange(6.0)[:, None].expand(6, 7) for look in noise])

    def decode(self, tokens):
        return tokens.numpy()


def executed(execution, looks):
    """The first channel of the actions after each of the observations of one episode."""
    execution.begin(0, seed=5)
    return [execution.act([0], [None])[0][:, 0].tolist() for _ in range(looks)]


def test_receding_executes_the_first_actions():
    assert executed(Chunking(Counting(), 3), 2) == [[0, 1, 2], [10, 11, 12]]
    assert executed(Chunking(Counting(), 6), 1) == [[0, 1, 2, 3, 4, 5]]


def test_with_a_delay_the_last_chunk_goes_on():
    assert executed(Chunking(Counting(), 3, delay=2), 3) == [[0, 1, 2], [3, 4, 12], [13, 14, 22]]


def test_rtc_is_drawn_to_what_the_last_chunk_plans_for_its_steps():
    sampler = Counting()
    executed(Chunking(sampler, 2, inpaints=True), 2)
    first, ((second,)) = sampler.targets
    assert first is None
    assert second[:, 0].tolist() == [2, 3, 4, 5, 0, 0]


def test_the_ensemble_averages_the_predictions_of_a_step():
    assert executed(Ensemble(Counting(), decay=0.0), 3) == [[0], [5.5], [11]]
    late = executed(Ensemble(Counting(), delay=1, decay=0.0), 4)
    assert late == [[0], [1], [6.5], [12]]  # never the newest chunk


def test_weights_of_the_ensemble_and_its_grippers_votes():
    predictions = np.zeros((3, 7), np.float32)
    predictions[:, 0] = [3, 2, 1]  # the newest first
    predictions[:, 6] = [0.9, 0.6, 0.1]
    uniform = average(predictions, 0.0)
    assert uniform[0] == pytest.approx(2)
    assert uniform[6] == 1.0  # two of three say open, though their mean is not larger than that
    weights = np.exp([-2.0, -1.0, 0.0])
    old = average(predictions, 1.0)
    assert old[0] == pytest.approx(weights @ [3, 2, 1] / weights.sum())
    assert old[6] == 0.0
    assert average(predictions, -50.0)[0] == pytest.approx(3)


def test_the_soft_mask_of_rtc():
    soft = soft_mask(HORIZON, 1, 3).tolist()
    expected = [1.0] + [c * (math.exp(c) - 1) / (math.e - 1) for c in (2 / 3, 1 / 3)] + 3 * [0.0]
    assert soft == pytest.approx(expected)
    assert soft_mask(4, 0, 0).tolist() == [0, 0, 0, 0]
    assert soft_mask(4, 2, 2).tolist() == [1, 1, 0, 0]


def standard_normal(x, t):
    """The exact velocity field if the data are standard normal numbers."""
    clean = (1 - t) * x["a"] / ((1 - t) ** 2 + t**2)
    return {"a": (x["a"] - clean) / t}


def test_inpainting_moves_known_tokens_to_their_values_and_leaves_others_alone():
    noise = {"a": torch.randn(1, 2, 3, generator=torch.Generator().manual_seed(0))}
    target, weights = torch.full((1, 2, 3), 0.8), torch.tensor([[[1.0], [0.0]]])
    field = inpaint(standard_normal, Inpainting({"a": target}, {"a": weights}))
    times = sampling_times(5)
    free, held = (solve_ode(f, noise, times)["a"] for f in (standard_normal, field))
    assert torch.equal(held[:, 1], free[:, 1])
    assert (held - target)[:, 0].abs().max() < 0.2 * (free - target)[:, 0].abs().max()
    assert guidance(1.0) == math.inf
    assert guidance(0.5) == 2


def test_the_inpainting_gradient_is_that_of_the_guess():
    """A linear field v = x A has the guess x (1 - t A), so the pull is error (1 - t A)^T."""
    g = torch.Generator().manual_seed(1)
    matrix, x, target = (torch.randn(3, 3, generator=g)[None] for _ in range(3))
    weights = torch.tensor([[[1.0], [0.5], [0.0]]])
    field = inpaint(lambda x, t: {"a": x["a"] @ matrix}, Inpainting({"a": target}, {"a": weights}))
    t, jacobian = 0.5, torch.eye(3) - 0.5 * matrix
    pull = (weights * (target - x @ jacobian)) @ jacobian.mT
    torch.testing.assert_close(field({"a": x}, t)["a"], x @ matrix - 2 * pull)


def test_a_stair_is_an_euler_step_and_every_token_gets_all_of_them():
    assert stairs(4).tolist() == [0.25, 0.5, 0.75, 1]
    assert stairs(4, late=2).tolist() == [0.75, 1, 1, 1]
    assert descent(4, late=2).tolist() == [0.25, 0.25, 0, 0]
    tokens = torch.arange(6.0).reshape(1, 3, 2)
    finished, left = advance(tokens, torch.tensor([[8.0, 9.0]]))
    assert finished.tolist() == [[0, 1]]
    assert left.tolist() == [[[2, 3], [4, 5], [8, 9]]]
    lost = sum(descent(4, late) for late in range(4))
    assert lost.tolist() == [1, 0.75, 0.5, 0.25]  # the first is finished, the others on stairs


def test_times_of_a_solver_are_all_that_it_asks():
    times, asked = sampling_times(3), []
    solve_ode(lambda x, t: asked.append(t) or x, {"a": torch.ones(1)}, times, "midpoint")
    assert asked == evaluation_times(times, "midpoint")


def test_the_staircase_schedule_has_the_stairs_of_a_stream():
    g = torch.Generator().manual_seed(0)
    tau = SCHEDULES["staircase"](512, 4, 0.0, TimestepConfig(), g).per_token
    first = tau[:, :1]
    torch.testing.assert_close(tau, (first + torch.arange(4) / 4).clamp(max=1))
    assert first.min() < 0.01
    assert first.max() > 0.99


@pytest.fixture(scope="module")
def bundle():
    torch.manual_seed(0)
    network = Network(robot_network(CONFIG))
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return robot_bundle(CONFIG, network, ["policy", "joint"], FRACTAL_STATS)


def pictures(count):
    numbers = np.random.Generator(np.random.PCG64(0))
    return [
        {"image": numbers.integers(0, 256, (32, 32, 3)).astype(np.uint8), "instruction": "pick"}
        for _ in range(count)
    ]


def begin(policy, slot):
    policy.begin(slot, EpisodeSpec("pick_coke_can", "standing", seed=100 + slot))


@pytest.mark.parametrize("mode", MODES)
def test_an_episode_goes_the_same_way_whatever_runs_beside_it(bundle, mode):
    """Five episodes of which two start later, against each of them alone."""
    seen = pictures(4)
    policy = FlowPolicy(bundle, execution=mode, **MODE_SETTINGS[mode])
    together = {slot: [] for slot in range(5)}
    for look in range(4):
        slots = [slot for slot in range(5) if slot < 3 or look > 0]
        for slot in slots:
            if not together[slot]:
                begin(policy, slot)
        now = [seen[len(together[slot])] for slot in slots]
        for slot, actions in zip(slots, policy.act(slots, now), strict=True):
            assert actions.shape == (policy.replan_steps, 7)
            together[slot].append(actions)
    for slot in (0, 4):
        alone = FlowPolicy(bundle, execution=mode, **MODE_SETTINGS[mode])
        begin(alone, slot)
        for look, expected in enumerate(together[slot]):
            assert np.array_equal(alone.act([slot], [seen[look]])[0], expected)


@pytest.mark.parametrize(
    ("mode", "first", "later"),
    [("receding", 5, 5), ("rtc", 5, 5), ("ensemble", 5, 5), ("streaming", HORIZON, 1)],
)
def test_evaluations_of_the_network_for_an_observation(bundle, mode, first, later):
    policy = FlowPolicy(bundle, execution=mode, **MODE_SETTINGS[mode])
    begin(policy, 0)
    asked = []
    hook = bundle.network.register_forward_hook(lambda *_: asked.append(1))
    for expected in (first, later, later):
        asked.clear()
        policy.act([0], pictures(1))
        assert len(asked) == expected
    hook.remove()


def test_rtc_continues_the_last_chunk(bundle):
    """The actions of both chunks for the same steps are nearer to each other than without."""
    [seen], gaps = pictures(1), {}
    for mode in ("receding", "rtc"):
        policy = FlowPolicy(bundle, execution=mode, replan_steps=2, delay=2, num_steps=10)
        begin(policy, 0)
        policy.act([0], [seen])
        episode = policy.execution._episodes[0]
        before = episode.chunk[2:]
        policy.act([0], [seen])
        gaps[mode] = (episode.chunk[:2] - before[:2]).abs().mean()
    assert gaps["rtc"] < 0.5 * gaps["receding"]


def test_a_stream_with_one_picture_is_the_solvers_diagonal(bundle):
    """Tokens of a stream are advanced by the velocity at their own timesteps."""
    sampler = FlowPolicy(bundle, execution="streaming").sampler
    [seen] = [Seen(one["image"], one["instruction"]) for one in pictures(1)]
    tokens = torch.randn(HORIZON, 7, generator=torch.Generator().manual_seed(3))
    (ours,) = sampler.down_the_stairs([seen], [tokens], late=0)
    slot = bundle.slot("actions", tokens[None])
    frame = sampler._first_frame([seen])
    velocity = Velocity(
        bundle.network, {"actions": slot}, {"first_frame": frame}, bundle.words(["pick"])
    )
    tau = Timesteps(stairs(HORIZON)[None], torch.arange(HORIZON)[None])
    expected = tokens - velocity({"actions": tokens[None]}, tau)["actions"][0] / HORIZON
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)


def test_streaming_warns_about_a_network_without_timesteps_per_action(bundle, caplog):
    FlowPolicy(bundle, execution="streaming")
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    caplog.clear()
    FlowPolicy(replace(bundle, schedule="staircase"), execution="streaming")
    assert not caplog.records


def test_weights_in_bfloat16_change_actions_little(bundle):
    both = []
    for precision in ("fp32", "bf16"):
        policy = FlowPolicy(bundle, precision=precision)
        begin(policy, 0)
        both.append(policy.act([0], pictures(1))[0][:, :6])
    assert not np.array_equal(*both)
    np.testing.assert_allclose(*both, atol=0.1 * np.abs(both[0]).max())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"execution": "lazy"}, "execution"),
        ({"delay": -1}, "delay"),
        ({"execution": "open_loop", "delay": 1}, "no delay"),
        ({"execution": "streaming", "delay": 1}, "no delay"),
        ({"execution": "streaming", "num_steps": 5}, "num_steps=5"),
        ({"execution": "streaming", "solver": "heun"}, "solver"),
        ({"execution": "streaming", "joint": True}, "joint"),
        ({"execution": "rtc"}, "below 6"),
        ({"execution": "rtc", "replan_steps": 4, "delay": 3}, "delay=3"),
        ({"replan_steps": 1, "delay": 2}, "delay=2"),
        ({"execution": "ensemble", "delay": 6}, "below 6"),
        ({"replan_steps": 3, "delay": 4}, "at most 3"),
        ({"ensemble_decay": math.nan}, "ensemble_decay"),
        ({"ensemble_decay": 0.1}, "execution=ensemble"),
        ({"execution": "ensemble", "ensemble_decay": 101.0}, "ensemble_decay"),
        ({"solver": "rk4"}, "solver"),
        ({"precision": "fp8"}, "precision"),
    ],
)
def test_settings_that_do_not_fit_are_refused(bundle, settings, message):
    with pytest.raises(UserError, match=message):
        FlowPolicy(bundle, **settings)
