"""The doctor with the real SIMPLER: a recording whose scene it does not know."""

import pytest

from selfflow_robotics.evaluation.doctor.examine import examine
from selfflow_robotics.evaluation.doctor.recordings import read_recordings
from tests.faulty_sets import faulty
from tests.rlds_sets import GOLDEN_SET


def examined(simpler, directory):
    return examine(read_recordings(str(directory), "train", 1), simpler(), "pick_coke_can", 1)


def test_a_recording_of_simpler_is_repeated_to_a_millimetre(simpler):
    examination = examined(simpler, GOLDEN_SET)
    assert examination.faults == []
    assert examination.diagnosis.as_read.errors[0] < 1e-3
    (images,) = (one for one in examination.findings if one.convention == "images")
    assert images.verdict == "ok"


@pytest.mark.parametrize(("fault", "named"), [("gripper", "gripper action"), ("bgr", "images")])
def test_it_names_the_fault(simpler, tmp_path, fault, named):
    examination = examined(simpler, faulty(GOLDEN_SET, tmp_path, fault))
    assert [one.convention for one in examination.faults] == [named]
