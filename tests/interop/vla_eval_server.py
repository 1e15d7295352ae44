"""A model server of vla-eval's on a free port, which it prints. What it returns tells what it was
asked: [step, image's height, width and mean, states' number, 0, gripper]."""

from typing import Any

import anyio
import numpy as np
from vla_eval.model_servers.base import SessionContext
from vla_eval.model_servers.predict import PredictModelServer
from vla_eval.model_servers.serve import serve_async
from vla_eval.specs import GRIPPER_CLOSE_POS, IMAGE_RGB, LANGUAGE, POSITION_DELTA, ROTATION_AA


class Echo(PredictModelServer):
    def predict(self, obs: dict[str, Any], ctx: SessionContext) -> dict[str, Any]:
        image = obs["images"]["primary"]
        assert obs["task_description"]
        told = [ctx.step, *image.shape[:2], image.mean(), len(obs["states"]), 0, 1]
        return {"actions": np.array(told, np.float32) / 1000}

    def get_action_spec(self) -> dict[str, Any]:
        return {"position": POSITION_DELTA, "rotation": ROTATION_AA, "gripper": GRIPPER_CLOSE_POS}

    def get_observation_spec(self) -> dict[str, Any]:
        return {"primary": IMAGE_RGB, "language": LANGUAGE}


async def main() -> None:
    async with anyio.create_task_group() as group:
        port = await group.start(serve_async, Echo(), "127.0.0.1", 0)
        print(port, flush=True)


anyio.run(main)
