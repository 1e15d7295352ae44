"""Results of a measurement: never replaced by others, never half there."""

import errno
import json

import pytest

from selfflow_robotics.errors import UserError
from selfflow_robotics.evaluation.results import (
    folder_name,
    known_report,
    write_report,
    writing,
)

SETTINGS = {"seed": 1, "size": (64, 80)}  # a tuple is a list once it is read back


def test_a_report_is_known_again_and_keeps_others_out(tmp_path):
    path = tmp_path / "report.json"
    assert known_report(path, SETTINGS) is None
    write_report(path, {"rows": [1], "settings": SETTINGS})
    assert known_report(path, SETTINGS)["rows"] == [1]
    assert [file.name for file in tmp_path.iterdir()] == ["report.json"]
    with pytest.raises(UserError, match="different settings"):
        known_report(path, {**SETTINGS, "seed": 2})


def test_each_settings_have_a_folder_of_their_own():
    name = folder_name("probe", SETTINGS)
    assert name == folder_name("probe", json.loads(json.dumps(SETTINGS)))
    assert name.startswith("probe-")
    assert name != folder_name("probe", {**SETTINGS, "seed": 2})


@pytest.mark.parametrize("content", [b"[1]", b"{}", b"{", b"\xff\xfe", b'{"settings": 1'])
def test_a_damaged_report_is_one_line(tmp_path, content):
    path = tmp_path / "report.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"report.json is damaged or not a report; remove it"):
        known_report(path, SETTINGS)


def test_a_full_disk_is_one_line(tmp_path):
    with pytest.raises(UserError, match=r"cannot write results to .*No space left"):  # noqa: SIM117
        with writing(tmp_path):
            raise OSError(errno.ENOSPC, "No space left on device")
