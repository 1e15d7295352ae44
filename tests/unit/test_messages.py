"""What the numbers on the wire mean: action formats, and the names of observations."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from selfflow_robotics.errors import UserError
from selfflow_robotics.messages.images import MessageError
from selfflow_robotics.messages.observations import (
    IMAGE_KEYS,
    INSTRUCTION_KEYS,
    PROPRIO_KEYS,
    observation_from,
    openpi_message,
    vla_eval_message,
)
from selfflow_robotics.messages.specs import (
    GRIPPERS,
    OPENPI,
    ROTATIONS,
    ActionSpec,
    check_actions,
    vla_eval_spec,
)
from selfflow_robotics.robot.actions import policy_from_environment

PICTURE = np.full((4, 5, 3), 7, np.uint8)
PROPRIO = np.array([0.1, 0.2, 0.3, 0.5, 0.5, -0.5, 0.5, 0.25], np.float32)


def actions(count=50):
    draw = np.random.Generator(np.random.PCG64(1))
    chunk = draw.uniform(-1, 1, (count, 7))
    chunk[:, 6] = draw.choice([-1.0, 1.0], count)
    return chunk.astype(np.float32)


@pytest.mark.parametrize("gripper", GRIPPERS)
@pytest.mark.parametrize("rotation", ROTATIONS)
def test_actions_come_back_from_every_format(rotation, gripper):
    spec = ActionSpec.from_json(ActionSpec(rotation, gripper).to_json(), "server")
    vectors, _ = spec.from_environment(actions())
    assert vectors.dtype == np.float32
    assert_allclose(spec.to_environment(vectors), actions(), atol=1e-6)


def test_openpis_format_is_the_policy_format():
    vectors, is_open = OPENPI.from_environment(actions())
    assert_allclose(vectors, policy_from_environment(actions()), atol=1e-7)
    assert is_open == (actions()[-1, 6] < 0)


def test_the_gripper_keeps_its_state_over_chunks():
    still = np.zeros((2, 7), np.float32)
    assert OPENPI.from_environment(still)[0][:, 6].tolist() == [1, 1]  # an episode starts open
    assert OPENPI.from_environment(still, was_open=False)[0][:, 6].tolist() == [0, 0]


def test_vla_eval_reads_the_gripper_as_its_simpler_benchmark_does():
    closing = np.array([[0, 0, 0, 0, 0, 0, 1]], np.float32)
    # "raw > 0.5 -> +1", which closes the google robot's gripper and opens WidowX's.
    assert vla_eval_spec("google_robot").from_environment(closing)[0][0, 6] > 0.5
    assert vla_eval_spec("widowx").from_environment(closing)[0][0, 6] < 0.5


def test_actions_that_are_not_finite_become_nan_and_leave_the_others_alone():
    vectors = np.zeros((3, 7))
    vectors[1, 6], vectors[2, 4] = np.nan, np.inf
    found = OPENPI.to_environment(vectors)
    assert np.isfinite(found[0]).all()
    assert np.isnan(found[1:]).all()


@pytest.mark.parametrize(
    "spec",
    [
        None,
        [],
        {},
        {"joints": {"dims": 7, "format": "radians"}},
        {**OPENPI.to_json(), "rotation": {"dims": 4, "format": "quaternion_xyzw"}},
        {**OPENPI.to_json(), "position": {"dims": 3, "format": "absolute_xyz"}},
        {**OPENPI.to_json(), "gripper": {"dims": 1, "format": "raw"}},
        {**OPENPI.to_json(), "gripper": "open"},
        {**OPENPI.to_json(), "base_motion": {"dims": 4, "format": "velocity"}},
    ],
)
def test_specs_that_this_robot_cannot_execute_are_refused(spec):
    with pytest.raises(UserError, match="server"):
        ActionSpec.from_json(spec, "server")


@pytest.mark.parametrize(
    "value", [np.zeros(7), np.zeros((2, 8)), np.zeros((0, 7)), np.full((1, 7), "x"), None, [[1], 2]]
)
def test_actions_of_another_shape_are_refused(value):
    with pytest.raises(UserError):
        check_actions(value, "somebody")


@pytest.mark.parametrize("image", IMAGE_KEYS)
@pytest.mark.parametrize("instruction", INSTRUCTION_KEYS)
def test_observations_are_found_under_their_usual_names(image, instruction):
    found = observation_from({image: PICTURE, instruction: "pick", "other": 1})
    assert_array_equal(found["image"], PICTURE)
    assert found["instruction"] == "pick"


def test_nested_maps_and_bytes_are_read_too():
    message = {"observation": {"image": PICTURE, "state": PROPRIO}, "prompt": b"pick"}
    found = observation_from(message, needs_proprio=True)
    assert found["instruction"] == "pick"
    assert_array_equal(found["proprio"], PROPRIO)


def test_what_our_clients_send_our_server_reads():
    observation = {"image": PICTURE, "instruction": "pick", "proprio": PROPRIO}
    for message in (
        openpi_message(observation, IMAGE_KEYS[0]),
        vla_eval_message(observation, "primary", "pick_coke_can"),
    ):
        found = observation_from(message, needs_proprio=True)
        assert_array_equal(found["image"], PICTURE)
        assert_allclose(found["proprio"], PROPRIO, atol=1e-7)


def test_vla_evals_state_is_wxyz_and_open():
    observation = {"image": PICTURE, "instruction": "pick", "proprio": PROPRIO}
    states = vla_eval_message(observation, "primary", "")["states"]
    assert_allclose(states, [0.1, 0.2, 0.3, 0.5, 0.5, 0.5, -0.5, 0.75], atol=1e-7)


@pytest.mark.parametrize(
    "change",
    [
        {"image": None},
        {"prompt": 3},
        {"prompt": "x" * 2000},
        {"state": np.zeros(7)},
        {"state": np.full(8, np.nan)},
        {"state": "zero"},
        {"state": [[1], [2, 3]]},
    ],
)
def test_bad_observations_are_refused(change):
    whole = {"image": PICTURE, "prompt": "pick", PROPRIO_KEYS[1]: PROPRIO}
    observation_from(whole, needs_proprio=True)
    with pytest.raises(MessageError):
        observation_from({**whole, **change}, needs_proprio=True)


@pytest.mark.parametrize("missing", ["image", "prompt", "state"])
def test_missing_parts_are_named_with_their_keys(missing):
    whole = {"image": PICTURE, "prompt": "pick", "state": PROPRIO}
    del whole[missing]
    with pytest.raises(MessageError, match=missing):
        observation_from(whole, needs_proprio=True)


def test_a_state_of_another_layout_does_not_matter_to_a_policy_without_one():
    observation_from({"image": PICTURE, "prompt": "pick", "state": np.zeros(20)})
