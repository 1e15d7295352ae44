"""An evaluation that is killed (SIGKILL) and resumed, again and again, plays every episode once."""

import json
import os
import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
KILLS = 5
TASKS = ("pick_coke_can", "open_drawer")
EPISODES = 15  # of each policy and task: more than can be played between the kills
START_S, END_S = 120, 600


def evaluate(folder: Path) -> list[str]:
    """The command."""
    tasks = f"--task={','.join(TASKS)}"
    settings = ["policy=random", "baselines=[expert]", "videos=1", f"num_episodes={EPISODES}"]
    return [sys.executable, str(ROOT / "eval" / "simpler.py"), tasks, *settings, "processes=2"]


def lines_of(folder: Path) -> list[str]:
    """All whole lines of all ledgers so far."""
    files = folder.glob("runs/eval/random/*/episodes.jsonl")
    return [line for file in files for line in file.read_text().splitlines(keepends=True)]


def kill_and_resume(folder: Path, kills: int) -> tuple[int, int]:
    """Kill the command `kills` times while it plays, each time after it has finished another
    episode, and let it finish.

    Returns how many episodes were recorded by processes that were killed, and lines left unfinished
    by them.
    """
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    for name in ("SIMPLER_ENV_PATH", "SIMPLER_PYTHON"):
        environment.pop(name, None)
    chance, torn = random.Random(0), 0
    for _ in range(kills):
        before = len(lines_of(folder))
        with subprocess.Popen(
            evaluate(folder),
            cwd=folder,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as process:
            deadline = time.monotonic() + START_S
            while len(lines_of(folder)) == before:
                assert process.poll() is None, "it ended before it could be killed"
                assert time.monotonic() < deadline
                time.sleep(0.01)
            time.sleep(chance.uniform(0.0, 0.3))
            process.kill()
        torn += sum(not line.endswith("\n") for line in lines_of(folder))
    killed = len(lines_of(folder))
    done = subprocess.run(
        evaluate(folder),
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=END_S,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return killed, torn


def check_once(folder: Path) -> int:
    """Assert that each policy has played each of the episodes once; returns their number."""
    records = [json.loads(line) for line in lines_of(folder)]
    assert all(record["error"] is None for record in records)
    played = Counter((r["policy"], r["task"], r["seed"]) for r in records)
    assert set(played.values()) == {1}
    wanted = {(policy, task) for policy in ("random", "expert") for task in TASKS}
    assert Counter((policy, task) for policy, task, _ in played) == dict.fromkeys(wanted, EPISODES)
    for task in TASKS:
        seeds = [
            {s for p, t, s in played if (p, t) == (name, task)} for name in ("random", "expert")
        ]
        assert seeds[0] == seeds[1]
    return len(records)


def test_every_episode_is_played_once(tmp_path):
    killed, _ = kill_and_resume(tmp_path, KILLS)
    assert KILLS <= killed < check_once(tmp_path)
