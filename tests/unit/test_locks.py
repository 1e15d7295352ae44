"""One process in a folder of results."""

import errno
import fcntl
import subprocess
import sys
from pathlib import Path

import pytest

from selfflow_robotics.errors import UserError
from selfflow_robotics.locks import alone, hold

ROOT = Path(__file__).parents[2]
HOLDER = """
import sys, pathlib
from selfflow_robotics.locks import hold
hold(pathlib.Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


def test_a_folder_is_refused_while_another_process_holds_it(tmp_path):
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(UserError, match="another process is using"):
            hold(tmp_path)
        other.kill()
    hold(tmp_path)
    hold(tmp_path)


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_used_all_the_same(tmp_path, monkeypatch, code):
    def refuse(*_: object) -> None:
        raise OSError(code, "no locks here")

    monkeypatch.setattr(fcntl, "flock", refuse)
    hold(tmp_path)
    hold(tmp_path)
    with alone(tmp_path / "lock", "that builds"):
        (tmp_path / "built").touch()
    assert (tmp_path / "built").exists()


@pytest.mark.parametrize("code", [errno.EROFS, errno.ENOSPC])
def test_what_else_the_file_system_refuses_is_raised(tmp_path, monkeypatch, code):
    def refuse(*_: object) -> None:
        raise OSError(code, "refused")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(OSError, match="refused"):
        hold(tmp_path)


def test_what_is_no_folder_is_raised():
    with pytest.raises(OSError, match="locks"):
        hold(Path(__file__))
