"""Whole episodes on the tabletop with openpi-client's own policy, in a Python that has it.

    python openpi_episodes.py URL STEPS TASK PYTHON [SEED ...]

PYTHON runs the simulator. Prints a JSON line with the metadata's keys and what each episode did.
"""

import json
import sys

import numpy as np
from openpi_client.action_chunk_broker import ActionChunkBroker
from openpi_client.websocket_client_policy import WebsocketClientPolicy

from selfflow_robotics.envs.client import SimulatorClient
from selfflow_robotics.envs.spec import SimulatorSpec
from selfflow_robotics.robot.actions import environment_from_policy

url, steps, task, python, *seeds = sys.argv[1:]
websocket = WebsocketClientPolicy(url)
metadata = websocket.get_server_metadata()
policy = ActionChunkBroker(websocket, metadata["action_horizon"])
episodes = []
with SimulatorClient(SimulatorSpec(task=task, python=python)) as simulator:
    for seed in seeds:
        policy.reset()
        reply = simulator.call("reset", task=task, seed=int(seed), options={}, observe=True)
        seen, info, actions = reply["observation"], reply["info"], []
        for _ in range(int(steps)):
            request = {
                "observation/image": seen["image"],
                "observation/state": seen["proprio"],
                "prompt": seen["instruction"],
            }
            action = policy.infer(request)["actions"]
            actions.append(action)
            chunk = environment_from_policy(action[None])
            reply = simulator.call("run", actions=chunk, observe="all", stop_after_success=0)
            seen, info = reply["observations"][-1], reply["infos"][-1]
        episodes.append({"success": bool(info["success"]), "shape": np.shape(actions)})
print(json.dumps({"metadata": sorted(metadata), "episodes": episodes}))
