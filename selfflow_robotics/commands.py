"""How the user calls each script, so that printed commands can be copied."""

import sys
from pathlib import Path

# Script -> console command of an installation (pyproject.toml).
COMMANDS = {
    "pretrain/run.py": "selfflow-pretrain",
    "pretrain/images.py": "selfflow-pretrain-images",
    "pretrain/media.py": "selfflow-pretrain-media",
    "pretrain/autoencoder.py": "selfflow-autoencoder",
    "pretrain/encode.py": "selfflow-encode",
    "pretrain/render.py": "selfflow-render",
    "finetune/rt1.py": "selfflow-finetune-rt1",
    "finetune/collect.py": "selfflow-collect",
    "finetune/inspect_data.py": "selfflow-inspect",
    "eval/simpler.py": "selfflow-simpler",
    "eval/serve.py": "selfflow-serve",
    "eval/compare.py": "selfflow-compare",
    "eval/doctor.py": "selfflow-doctor",
    "eval/world_model.py": "selfflow-world-model",
    "eval/play.py": "selfflow-play",
    "eval/generation.py": "selfflow-generation",
    "eval/media.py": "selfflow-media",
    "eval/metrics.py": "selfflow-metrics",
    "eval/probe.py": "selfflow-probe",
    "eval/class_probe.py": "selfflow-class-probe",
    "eval/run_page.py": "selfflow-run-page",
    "eval/correlate.py": "selfflow-correlate",
    "eval/report.py": "selfflow-report",
    "eval/verify.py": "selfflow-verify",
}


def command(script: str) -> str:
    """The command for `script` ("finetune/rt1.py") in the form of the current one: a console
    command, or a file relative to the current directory."""
    called = Path(sys.argv[0])
    if called.name in COMMANDS.values():
        return COMMANDS[script]
    is_script = f"{called.parent.name}/{called.name}" in COMMANDS
    return f"python {called.parent.parent / script if is_script else script}"
