"""Record demonstrations of the scripted expert as RLDS, in RT-1's format (WidowX: Bridge's).

    python finetune/collect.py --task pick_coke_can                    # built-in MuJoCo tabletop
    python finetune/collect.py --task pick_coke_can sim=simpler num_episodes=600
    python finetune/collect.py --task all             # the google robot's five tasks, alternating
    python finetune/collect.py --task widowx          # WidowX's four
    python finetune/collect.py mode=play num_episodes=400              # images to pretrain on
    python finetune/collect.py experiment=debug                        # seconds

Half of the episodes (recovery=0.5) contain disturbances, so that a policy learns to recover; the
recorded actions are always the expert's reaction to the current frame. If the command is
interrupted or killed, repeat it to resume after the last complete episode. The data set,
ROOT/NAME/0.1.0, has the features of fractal20220817_data, or for WidowX's tasks those of
bridge_dataset (BridgeData V2), so any reader of Open X-Embodiment data can load it. Its files
depend only on the configuration, not on interruptions or the number of processes.
"""

from selfflow_robotics.cli.app import Flag, hydra_app
from selfflow_robotics.rollouts.demonstrations import CollectConfig, ensure_demonstrations


@hydra_app(
    "collect",
    CollectConfig,
    flags=(Flag("--task", literal=True, help="tasks, separated by commas, or a group (all, ...)"),),
)
def main(config: CollectConfig) -> None:
    print(f"data set: {ensure_demonstrations(config)}")


if __name__ == "__main__":
    main()
