"""Console commands: they run the scripts in pretrain/, finetune/ and eval/."""

import runpy
import sys
from functools import partial
from pathlib import Path

from selfflow_robotics.cli.process import exit_code, own_process
from selfflow_robotics.errors import UserError

PACKAGE_DIR = Path(__file__).resolve().parent.parent


def script_path(name: str) -> Path:
    """The script `name` ("eval/simpler.py"): in an installed wheel, else in the checkout."""
    for root in (PACKAGE_DIR / "_scripts", PACKAGE_DIR.parent):
        if (root / name).is_file():
            return root / name
    raise UserError(f"{name} is missing from this installation; reinstall selfflow_robotics")


def _run(name: str) -> None:
    try:
        with own_process():
            runpy.run_path(str(script_path(name)), run_name="__main__")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt as interrupt:  # while importing; later `hydra_app` handles it
        print("interrupted; repeat the command to resume", file=sys.stderr)
        sys.exit(exit_code(interrupt))


pretrain = partial(_run, "pretrain/run.py")
pretrain_images = partial(_run, "pretrain/images.py")
pretrain_media = partial(_run, "pretrain/media.py")
autoencoder = partial(_run, "pretrain/autoencoder.py")
encode = partial(_run, "pretrain/encode.py")
render = partial(_run, "pretrain/render.py")
finetune_rt1 = partial(_run, "finetune/rt1.py")
collect = partial(_run, "finetune/collect.py")
inspect_data = partial(_run, "finetune/inspect_data.py")
simpler = partial(_run, "eval/simpler.py")
serve = partial(_run, "eval/serve.py")
compare = partial(_run, "eval/compare.py")
world_model = partial(_run, "eval/world_model.py")
play = partial(_run, "eval/play.py")
generation = partial(_run, "eval/generation.py")
media = partial(_run, "eval/media.py")
metrics = partial(_run, "eval/metrics.py")
probe = partial(_run, "eval/probe.py")
class_probe = partial(_run, "eval/class_probe.py")
run_page = partial(_run, "eval/run_page.py")
correlate = partial(_run, "eval/correlate.py")
report = partial(_run, "eval/report.py")
verify = partial(_run, "eval/verify.py")
doctor = partial(_run, "eval/doctor.py")
