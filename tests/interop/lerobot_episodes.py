"""Read or write a data set with LeRobot's own package, in a Python that has `lerobot[dataset]`.

    python lerobot_episodes.py read ROOT OUT.npz
    python lerobot_episodes.py write ROOT IN.npz

The npz has frames uint8 [N, H, W, 3], state [N, 8], action [N, 7], episode [N] and task [N].
"""

import sys

import numpy as np
from lerobot.datasets.lerobot_dataset import LeRobotDataset

CAMERA = "observation.images.image"
STATE = ["x", "y", "z", "rx", "ry", "rz", "rw", "gripper"]
ACTION = ["x", "y", "z", "roll", "pitch", "yaw", "gripper"]
FPS = 3


def read(root: str, path: str) -> None:
    data = LeRobotDataset("toy/toy", root=root, video_backend="pyav")
    rows = [data[number] for number in range(len(data))]
    frames = np.stack([np.asarray(row[CAMERA]).transpose(1, 2, 0) for row in rows])
    np.savez(
        path,
        frames=np.round(frames * 255).astype(np.uint8),
        state=np.stack([np.asarray(row["observation.state"]) for row in rows]),
        action=np.stack([np.asarray(row["action"]) for row in rows]),
        episode=np.array([int(row["episode_index"]) for row in rows]),
        task=np.array([row["task"] for row in rows]),
    )


def write(root: str, path: str) -> None:
    rows = np.load(path)
    features = {
        CAMERA: {
            "dtype": "video",
            "shape": rows["frames"].shape[1:],
            "names": ["height", "width", "channels"],
        },
        "observation.state": {"dtype": "float32", "shape": (8,), "names": {"motors": STATE}},
        "action": {"dtype": "float32", "shape": (7,), "names": {"motors": ACTION}},
    }
    data = LeRobotDataset.create(
        "toy/toy", FPS, features, root=root, robot_type="google_robot", use_videos=True
    )
    for episode in np.unique(rows["episode"]):
        for number in np.flatnonzero(rows["episode"] == episode):
            data.add_frame(
                {
                    CAMERA: rows["frames"][number],
                    "observation.state": rows["state"][number],
                    "action": rows["action"][number],
                    "task": str(rows["task"][number]),
                }
            )
        data.save_episode()
    data.finalize()


if __name__ == "__main__":
    {"read": read, "write": write}[sys.argv[1]](*sys.argv[2:])
