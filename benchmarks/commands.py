"""Run one of the project's commands in a study, with its output in a log."""

import os
import re
import subprocess
import sys
from pathlib import Path

from selfflow_robotics.errors import UserError

ERROR = re.compile(r"error: |[\w.]*(Error|Exception)\b")  # how an error line in a log begins


def run_logged(log: Path, script: Path, *arguments: str) -> None:
    """Run a script on one thread, with its output in `log`.

    Raises UserError with the last error in that log if the command fails.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        output = log.open("w")
    except OSError as error:
        raise UserError(f"cannot write {log} ({error.strerror})") from error
    with output:
        command = [sys.executable, str(script), *arguments]
        code = subprocess.run(command, env=environment, stdout=output, stderr=output).returncode
    if code:
        lines = [line.strip() for line in log.read_text(errors="replace").splitlines()]
        errors = list(filter(ERROR.match, lines)) or list(filter(None, lines)) or ["no output"]
        reason = errors[-1].removeprefix("error: ")
        where = f"{script.parent.name}/{script.name}"
        raise UserError(f"{where} failed with exit code {code}: {reason} (log: {log})")
