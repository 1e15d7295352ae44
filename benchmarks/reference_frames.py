"""Record the frames that evaluations compare this machine's pictures with.

    python -m benchmarks.reference_frames                  # the tabletop
    python -m benchmarks.reference_frames --sim simpler    # your SIMPLER installation
    python -m benchmarks.reference_frames --task move_near # of one task only
    python -m benchmarks.reference_frames --compare        # print the differences, change nothing

Rewrites the simulator's entry in selfflow_robotics/evaluation/reference_frames.json: the block
means of every task's reference state, and the renderer. Run it again only where a task's scene
changes on purpose, and say so in the commit.
"""

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # if run as a file

from selfflow_robotics.envs.client import SimulatorClient
from selfflow_robotics.envs.simpler.preflight import check_simpler
from selfflow_robotics.envs.spec import SimplerInstall, simulator_spec
from selfflow_robotics.envs.tasks.catalog import TASKS, get_tasks
from selfflow_robotics.errors import UserError
from selfflow_robotics.evaluation.reference_frames import FILE, block_means, compare_frame


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sim", choices=("tabletop", "simpler"), default="tabletop")
    parser.add_argument("--task", help="tasks, separated by commas; default: all")
    parser.add_argument("--compare", action="store_true", help="only print the differences")
    arguments = parser.parse_args()
    frames, renderer = {}, ""
    for task in get_tasks(arguments.task) if arguments.task else TASKS.values():
        spec = simulator_spec(arguments.sim, task.name, SimplerInstall())
        try:
            if arguments.sim == "simpler":
                check_simpler(spec.path, spec.python, task)
            with SimulatorClient(spec) as client:
                if arguments.compare:
                    difference = compare_frame(client, task)
                    print(task.name, difference and json.dumps(asdict(difference)))
                    continue
                frames[task.name] = block_means(client, task).astype(int).ravel().tolist()
                renderer = renderer_of(client.provenance())
        except UserError as error:  # not a task of this simulator, or a missing file
            print(f"without {task.name}: {error}")
    if frames:
        known = json.loads(FILE.read_text()) if FILE.exists() else {}
        if arguments.task:
            frames = known.get(arguments.sim, {}).get("frames", {}) | frames
        known[arguments.sim] = {"renderer": renderer, "frames": frames}
        FILE.write_text(json.dumps(known, separators=(",", ":")) + "\n")
        print(f"{len(frames)} frames of {renderer} in {FILE}")
    return 0


def renderer_of(provenance: dict[str, Any]) -> str:
    """What rendered the frames, in a few words."""
    if provenance["simulator"] == "tabletop":
        return f"MuJoCo {provenance['mujoco']}, {provenance['renderer']}"
    return ", ".join(provenance["vulkan_devices"])


if __name__ == "__main__":
    sys.exit(main())
