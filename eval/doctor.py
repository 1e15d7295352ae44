"""Find conventions in which a data set, a checkpoint and a simulator disagree.

    python eval/doctor.py DATA                             # data against a simulator
    python eval/doctor.py DATA sim=none                    # actions against recorded motion
    python eval/doctor.py DATA --checkpoint runs/rt1       # and a network's statistics
    python eval/doctor.py DATA --checkpoint runs/rt1 episodes=20   # and what each flip costs it
    python eval/doctor.py DATA statistics=dataset_statistics.json

DATA is the version folder of an RLDS data set (see finetune/inspect_data.py). A wrong convention
raises no error: training runs, and the policy fails. This command replays recorded actions in the
simulator and compares the motion with the recorded one. Then it reads one convention at a time in
another way and replays again. If that fits better, the convention is inconsistent. It checks

* the gripper: sign, and whether its action is a state or a change; its recorded state;
* rotations: roll, pitch, yaw or rotation vector; the order of the quaternion;
* the frame of the action, base or tool, and the control rate;
* images: RGB or BGR, flipped, cropped, padded;
* with a checkpoint or statistics: whether the actions have the range that it was trained with.

Recordings of this project are replayed from their own initial state, others in another scene of the
task if they start where the simulator's robot does. Without either, recorded actions are compared
with the recorded motion of the tool.

The report has a verdict for each convention, what each other reading would do to the motion, and a
sentence on every fault that says how to fix it. Exit code: 0 without fault, 1 with one.
"""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

import torch

from selfflow_robotics.cli.app import Flag, hydra_app
from selfflow_robotics.envs.client import SimulatorClient, SimulatorError
from selfflow_robotics.envs.simpler.preflight import check_simpler
from selfflow_robotics.envs.spec import TIMEOUT_S, SimplerInstall, SimulatorSpec, simulator_spec
from selfflow_robotics.envs.tasks.base import Task
from selfflow_robotics.envs.tasks.catalog import get_task
from selfflow_robotics.errors import UserError, check_least
from selfflow_robotics.evaluation.doctor.examine import Examination, examine
from selfflow_robotics.evaluation.doctor.policy_costs import Success, cost_rows, measure_costs
from selfflow_robotics.evaluation.doctor.recordings import Recordings, read_recordings
from selfflow_robotics.evaluation.doctor.report import examination_json, examination_text
from selfflow_robotics.evaluation.doctor.tasks import task_of
from selfflow_robotics.evaluation.doctor.trained import Trained, from_checkpoint, from_file
from selfflow_robotics.evaluation.home import own_spec
from selfflow_robotics.evaluation.results import write_report, writing
from selfflow_robotics.evaluation.tables import text_table
from selfflow_robotics.policies.flow_policy import FlowPolicy
from selfflow_robotics.training.checkpoint import resolve_checkpoint


@dataclass(frozen=True)
class DoctorConfig:
    data: tuple[str, ...] = ()
    split: str = "train"
    recordings: int = 64
    replays: int = 4
    sim: Literal["auto", "tabletop", "simpler", "none"] = "auto"
    task: str | None = None
    checkpoint: str | None = None
    statistics: str | None = None
    episodes: int = 0
    output: str = "inspections"
    timeout_s: float = TIMEOUT_S
    simpler: SimplerInstall = field(default_factory=SimplerInstall)

    def __post_init__(self) -> None:
        check_least(self, 1, "recordings", "replays")
        check_least(self, 0, "episodes")
        if self.episodes and not self.checkpoint:
            raise UserError("episodes= needs the policy of a checkpoint; pass --checkpoint RUN")
        if self.task is not None:
            object.__setattr__(self, "task", get_task(self.task).name)
        if self.checkpoint and self.statistics:
            raise UserError("give either checkpoint= or statistics=, not both")


@hydra_app(
    "doctor",
    DoctorConfig,
    flags=(
        Flag("--split", literal=True, help="train, val, train[:1000], train+val, ..."),
        Flag("--checkpoint", literal=True, help="a run folder or checkpoint"),
    ),
    positional="data",
)
def main(config: DoctorConfig) -> int:
    if not config.data:
        raise UserError("name a data set: the folder <name>/<version> that has dataset_info.json")
    return max(_examine(directory, config) for directory in config.data)


def _examine(directory: str, config: DoctorConfig) -> int:
    """Examine one data set; returns its exit code."""
    found = read_recordings(directory, config.split, config.recordings)
    trained = _trained(config, found)
    print(f"{found.directory}: {len(found.episodes)} episodes with {found.layout}'s features")
    task = config.task or task_of(found)
    spec, why = _simulator(config, found, task)
    if spec is None:
        examination = examine(found, None, task, config.replays, trained, why)
    else:
        examination = _with_simulator(spec, found, task, config.replays, trained)
    print(examination_text(examination))
    report = {"data": str(found.directory), **examination_json(examination)}
    if config.episodes:
        costs = _play(config, get_task(task))
        print("\n" + text_table(cost_rows(costs)))
        report["policy"] = [asdict(one) for one in costs]
    path = Path(config.output) / found.name / "doctor.json"
    with writing(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_report(path, report)
    print(f"written to {path}")
    return 1 if examination.faults else 0


def _play(config: DoctorConfig, task: Task) -> list[Success]:
    """Success of the checkpoint's policy in the simulator of its data, by flipped convention."""
    torch.set_num_threads(1)
    policy = FlowPolicy.from_checkpoint(resolve_checkpoint(Path(str(config.checkpoint))))
    stats = policy.bundle.require("policy").stats
    data, size = policy.data_provenance, policy.image_size
    spec = own_spec(task.name, config.simpler, data, size, None, config.timeout_s)
    with SimulatorClient(spec) as client:
        client.provenance()
        return measure_costs(client, task, policy, stats, policy.replan_steps, config.episodes)


def _with_simulator(
    spec: SimulatorSpec, found: Recordings, task: str, replays: int, trained: Trained | None
) -> Examination:
    try:
        with SimulatorClient(spec) as client:
            client.provenance()  # fails in one line if the simulator does not start
            return examine(found, client, task, replays, trained)
    except SimulatorError as error:
        cause = " ".join(str(error).split())
        raise UserError(f"the {spec.simulator} simulator failed: {cause}") from error


def _trained(config: DoctorConfig, found: Recordings) -> Trained | None:
    if config.checkpoint:
        return from_checkpoint(Path(config.checkpoint))
    return from_file(Path(config.statistics), found.name) if config.statistics else None


def _simulator(
    config: DoctorConfig, found: Recordings, task: str
) -> tuple[SimulatorSpec | None, str]:
    """(the simulator to replay in; None: why not)."""
    if config.sim == "none":
        return None, "sim=none"
    recorded, sim = found.provenance.get("simulator"), config.sim
    if sim == "auto":
        sim = "tabletop" if recorded == "tabletop" else "simpler"
    size = found.provenance.get("image_size") if recorded == sim else None
    size = (size[0], size[1]) if size else None
    spec = simulator_spec(sim, task, config.simpler, size, timeout_s=config.timeout_s)
    if sim == "simpler":
        try:
            check_simpler(spec.path, spec.python, get_task(task), spec.allow_invisible)
        except UserError as error:
            if config.sim == "simpler":
                raise
            print(f"SIMPLER does not run here ({error}); replaying in the tabletop")
            spec = simulator_spec("tabletop", task, config.simpler, timeout_s=config.timeout_s)
    return spec, ""


if __name__ == "__main__":
    main()
