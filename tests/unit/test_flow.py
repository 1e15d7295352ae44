"""The flow's mathematics against closed forms."""

import numpy as np
import pytest
import scipy.integrate
import scipy.stats
import torch

from selfflow_robotics.errors import UserError
from selfflow_robotics.flow import path
from selfflow_robotics.flow.guidance import guide
from selfflow_robotics.flow.sde import LAST_STEP, sde_times, solve_sde
from selfflow_robotics.flow.solvers import solve_ode
from selfflow_robotics.flow.timesteps import (
    TimestepConfig,
    sample_timesteps,
    sampling_times,
    shift_timesteps,
)


def test_path_is_data_at_0_and_noise_at_1_and_its_derivative_is_the_velocity():
    g = torch.Generator().manual_seed(0)
    x, noise = torch.randn(2, 3, 5, 4, generator=g, dtype=torch.float64)
    t = torch.rand(3, 5, 1, generator=g, dtype=torch.float64)
    assert torch.equal(path.interpolate(x, noise, torch.zeros_like(t)), x)
    assert torch.equal(path.interpolate(x, noise, torch.ones_like(t)), noise)
    h = 1e-6
    slope = path.interpolate(x, noise, t + h) - path.interpolate(x, noise, t - h)
    torch.testing.assert_close(slope / (2 * h), path.velocity(x, noise), rtol=1e-6, atol=1e-8)


def test_data_and_velocity_predictions_are_two_names_of_one_thing():
    g = torch.Generator().manual_seed(0)
    x, noise = torch.randn(2, 3, 5, 4, generator=g, dtype=torch.float64)
    t = torch.full((3, 5, 1), 0.4, dtype=torch.float64)
    x_t = path.interpolate(x, noise, t)
    v = path.as_velocity(x, "data", x_t, t)
    torch.testing.assert_close(v, path.velocity(x, noise))
    torch.testing.assert_close(x_t - t * v, x)


def plateau(t, mean, std=0.9):
    """CDF of the logit-normal density that stays at its highest value from the mode on."""
    grid = np.linspace(1e-9, 1 - 1e-9, 20_001)
    density = scipy.stats.norm.pdf((np.log(grid / (1 - grid)) - mean) / std) / (grid * (1 - grid))
    density[density.argmax() :] = density.max()
    mass = scipy.integrate.cumulative_trapezoid(density, grid, initial=0)
    return np.interp(t, grid, mass / mass[-1])


@pytest.mark.parametrize(
    ("config", "cdf"),
    [
        (TimestepConfig(), scipy.stats.uniform.cdf),
        (
            TimestepConfig("logit_normal", mean=0.5, std=0.8),
            lambda t: scipy.stats.norm.cdf((np.log(t / (1 - t)) - 0.5) / 0.8),
        ),
        # Shifting by a has density a / (a + (1 - a) t)^2 (Eq. 9), so F(t) = t / (a + (1 - a) t).
        (TimestepConfig(shift=3.0), lambda t: t / (3 + (1 - 3) * t)),
        # Shifting a logit-normal adds log a to its mean.
        (
            TimestepConfig("logit_normal", mean=0.0, std=1.0, shift=4.63),
            lambda t: scipy.stats.norm.cdf(np.log(t / (1 - t)) - np.log(4.63)),
        ),
        (TimestepConfig("plateau_logit_normal", mean=-0.5, std=0.9), lambda t: plateau(t, -0.5)),
        (
            TimestepConfig("plateau_logit_normal", mean=-0.5 - np.log(3.0), std=0.9, shift=3.0),
            lambda t: plateau(t, -0.5),
        ),
        # A share of 30 % from U[0.95, 1].
        (
            TimestepConfig(low_snr=0.3),
            lambda t: 0.7 * t + 0.3 * scipy.stats.uniform.cdf(t, 0.95, 0.05),
        ),
    ],
)
def test_training_timesteps_follow_their_density(config, cdf):
    # Draws of one call are stratified, so single draws of many calls are independent samples.
    g = torch.Generator().manual_seed(1)
    t = np.array([sample_timesteps(config, 4, g)[0].item() for _ in range(2000)])
    assert scipy.stats.kstest(t, cdf).pvalue > 0.01


def test_stratified_draws_cover_every_slice_once():
    t = sample_timesteps(TimestepConfig(), 64, torch.Generator().manual_seed(0))
    assert sorted((t * 64).long().tolist()) == list(range(64))


def test_shift_one_is_the_identity():
    t = torch.linspace(0, 1, 11)
    torch.testing.assert_close(shift_timesteps(t, 1.0), t)


METHODS = [("euler", 1), ("heun", 2), ("midpoint", 2), ("multistep", 3)]


@pytest.mark.parametrize("shift", [1.0, 3.0])  # equal steps, and steps that grow
@pytest.mark.parametrize(("method", "order"), METHODS)
def test_solver_reaches_its_order(method, order, shift):
    """dx/dt = x from t = 1 to 0 multiplies by exp(-1); half the step, 2^-p of the error."""
    start = {"x": torch.ones(1, dtype=torch.float64)}
    errors = []
    for num_steps in (40, 80):
        times = torch.linspace(1, 0, num_steps + 1, dtype=torch.float64)
        times = shift_timesteps(times, shift)
        end = solve_ode(lambda x, t: {"x": x["x"]}, start, times, method)
        errors.append(abs(end["x"].item() - np.exp(-1)))
    # Heun's last step is Euler's, whose local error is of second order: the order of the whole.
    assert np.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.15)


def test_multistep_is_exact_on_an_uneven_grid_for_velocities_that_are_linear_in_time():
    times = torch.tensor([1.0, 0.9, 0.65, 0.3, 0.2, 0.0], dtype=torch.float64)
    start = {"x": torch.zeros(2, dtype=torch.float64)}
    slope = torch.tensor([2.0, -4.0], dtype=torch.float64)
    end = solve_ode(lambda _x, t: {"x": slope * t + 1}, start, times, "multistep")
    torch.testing.assert_close(end["x"], -slope / 2 - 1)


@pytest.mark.parametrize(
    ("method", "evaluations"), [("euler", 6), ("heun", 11), ("midpoint", 12), ("multistep", 6)]
)
def test_solvers_ask_as_often_as_they_say_and_never_at_data(method, evaluations):
    asked = []

    def field(x, t):
        asked.append(t)
        return {"x": x["x"]}

    solve_ode(field, {"x": torch.ones(1)}, sampling_times(6), method)
    assert len(asked) == evaluations
    assert min(asked) > 0
    solve_ode(field, {"x": torch.ones(1)}, sampling_times(1), method)
    assert min(asked) > 0


def test_the_exact_velocity_leads_from_noise_to_data_in_one_step():
    x, noise = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
    end = solve_ode(lambda _x, _t: {"x": path.velocity(x, noise)}, {"x": noise}, sampling_times(1))
    torch.testing.assert_close(end["x"], x)


def test_guidance_extrapolates_and_scale_one_never_asks_the_unconditional():
    def unconditional(x, t):
        return {"x": torch.ones(1)}

    def conditional(x, t):
        return {"x": 3 * torch.ones(1)}

    assert guide(conditional, unconditional, 2.0)({}, 0.5)["x"].item() == 5.0
    assert guide(conditional, unconditional, 1.0) is conditional


def test_guidance_asks_the_unconditional_only_inside_its_interval():
    asked = []

    def unconditional(x, t):
        asked.append(t)
        return {"x": torch.zeros(1)}

    field = guide(lambda x, t: {"x": torch.ones(1)}, unconditional, 2.0, (0.3, 0.7))
    given = {t: field({}, t)["x"].item() for t in (1.0, 0.71, 0.7, 0.5, 0.3, 0.29, 0.0)}
    assert asked == [0.7, 0.5, 0.3]
    assert {t for t, v in given.items() if v == 2.0} == set(asked)
    assert {v for t, v in given.items() if t not in asked} == {1.0}
    with pytest.raises(UserError, match="guidance interval"):
        guide(unconditional, unconditional, 2.0, (0.7, 0.3))


def test_stochastic_sampling_ends_at_the_data_distribution():
    """Data N(1, 0.5^2): velocity, score and so the whole equation are known exactly."""
    mean, std = 1.0, 0.5
    g = torch.Generator().manual_seed(0)

    def field(state, t):
        x = state["x"]
        variance = ((1 - t) * std) ** 2 + t**2
        data = mean + (1 - t) * std**2 / variance * (x - (1 - t) * mean)
        noise = t / variance * (x - (1 - t) * mean)
        return {"x": path.velocity(data, noise)}

    def draw(state):
        return {"x": torch.randn(state["x"].shape, generator=g, dtype=torch.float64)}

    start = draw({"x": torch.empty(20_000)})
    end = solve_sde(field, start, sde_times(200), draw)["x"]
    assert end.mean().item() == pytest.approx(mean, abs=0.02)
    assert end.std().item() == pytest.approx(std, abs=0.02)
    assert np.corrcoef(start["x"], end)[0, 1] < 0.5  # 1 for the flow: fresh noise has come in


def test_stochastic_times_keep_their_last_step_under_a_shift():
    for shift in (1.0, 4.0):
        times = sde_times(10, shift)
        assert (len(times), times[0], times[-1]) == (11, 1, 0)
        assert times[-2].item() == pytest.approx(LAST_STEP)
        assert (times.diff() < 0).all()
    torch.testing.assert_close(sde_times(10)[:-1], torch.linspace(1, LAST_STEP, 10))
    with pytest.raises(UserError, match="at least 2 steps"):
        sde_times(1)


@pytest.mark.parametrize(
    "config", [{"distribution": "cosine"}, {"std": 0.0}, {"shift": -1.0}, {"low_snr": 1.0}]
)
def test_impossible_timestep_settings_are_refused(config):
    with pytest.raises(UserError):
        TimestepConfig(**config)


def test_a_sampler_without_steps_is_refused():
    with pytest.raises(UserError, match="at least one step"):
        sampling_times(0)
