"""Record demonstrations of the scripted expert, in RT-1's format: data to fine-tune on.

    python finetune/collect.py --task pick_coke_can                    # embedded MuJoCo tabletop
    python finetune/collect.py --task pick_coke_can sim=simpler num_episodes=600
    python finetune/collect.py mode=play num_episodes=400              # images to pretrain on
    python finetune/collect.py experiment=debug                        # seconds

Half of the episodes (recovery=0.5) are disturbed, so that a policy learns to correct itself; the
recorded actions are always the expert's answer to what the image shows. Interrupted or killed,
the same command goes on after the last whole episode. The data set, ROOT/NAME/0.1.0, is plain
RLDS with the features of fractal20220817_data: every reader of Open X-Embodiment data takes it. Its
files depend on the configuration alone, not on interruptions or the number of processes.
"""

from selfflow_robotics.cli.app import Flag, hydra_app
from selfflow_robotics.rollouts.demonstrations import CollectConfig, ensure_demonstrations


@hydra_app(
    "collect", CollectConfig, flags=(Flag("--task", help="what to demonstrate; pick_coke_can"),)
)
def main(config: CollectConfig) -> None:
    print(f"data set: {ensure_demonstrations(config)}")


if __name__ == "__main__":
    main()
