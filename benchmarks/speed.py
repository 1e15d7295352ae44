"""Speed of the library against a straightforward implementation: training step and sampler.

    python -m benchmarks.speed                              # size S on one CPU thread
    python -m benchmarks.speed --size XL --batch 256        # on a GPU, which is detected
    python -m benchmarks.speed --backbone flux              # the other backbone
    python -m benchmarks.speed --quick                      # smoke test, seconds

`python benchmarks/speed.py` does the same.

Both sides (the baseline is benchmarks/plain.py) use the same weights and random draws. The command
first checks that their losses, gradients and samples agree. Then the variants take turns, and the
table reports medians: CPU time of the process on a CPU, CUDA events on a GPU. If a variant does not
fit in GPU memory, it gets the largest batch that fits, and the table says so. OUTPUT.md has the
table with commit, versions and hardware, and is updated as the benchmark runs; OUTPUT.json has all
numbers.
"""

import argparse
import datetime
import gc
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # if run as a file

from benchmarks.arguments import Parser, positive
from benchmarks.flops import flops
from benchmarks.speed_sides import GROUPS, TOLERANCE, Setup, Variant, check_equal, variants
from selfflow_robotics.errors import UserError, unknown
from selfflow_robotics.models import flux, presets
from selfflow_robotics.models.flux import FluxConfig
from selfflow_robotics.models.network import NetworkConfig
from selfflow_robotics.models.presets import RELEASED_TIME, image_config
from selfflow_robotics.models.sit import SiTConfig
from selfflow_robotics.training.device import choose_device, keep_freed_memory

ROOT = Path(__file__).resolve().parents[1]
SIZES: dict[str, dict[str, SiTConfig | FluxConfig]] = {
    "sit": {name: replace(size, **RELEASED_TIME) for name, size in presets.SIZES.items()},
    "flux": {"S": FluxConfig(width=384, double=4, single=8, heads=6), **flux.SIZES},
}
TINY = {
    "sit": SiTConfig(width=48, depth=3, heads=3, **RELEASED_TIME),
    "flux": FluxConfig(width=48, double=1, single=2, heads=3),
}
LARGE = {"sit": "XL", "flux": "625M"}  # always in the FLOP count, whatever --size is


def quick(backbone: str) -> NetworkConfig:
    """The tiny network of `--quick`."""
    return image_config(TINY[backbone], latent_size=8, num_classes=10)


def layers_of(config: NetworkConfig) -> tuple[int, int]:
    """The student's and the teacher's layer: 0.3 and 0.7 of the depth, as in the paper."""
    depth = config.backbone.depth
    return max(1, round(0.3 * depth)), round(0.7 * depth)


def timed(variant: Variant, device: torch.device) -> float:
    """Seconds of one run: of the process's CPU time, or between two CUDA events."""
    if device.type != "cuda":
        start = time.process_time()
        variant.run(variant.batch)
        return time.process_time() - start
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    variant.run(variant.batch)
    end.record()
    torch.cuda.synchronize()
    return begin.elapsed_time(end) / 1000


def warm_up(variant: Variant, setup: Setup) -> None:
    """Compile, allocate and find a batch that fits; a variant that cannot run stores the reason."""
    if setup.device.type != "cuda":
        variant.run(variant.batch)
        return
    while True:
        setup.model.zero_grad(set_to_none=True)
        gc.collect()
        torch.cuda.empty_cache()
        try:
            variant.run(variant.batch)
            torch.cuda.synchronize()
            before = torch.cuda.memory_allocated()
            torch.cuda.reset_peak_memory_stats()
            variant.run(variant.batch)
            torch.cuda.synchronize()
            variant.peak_bytes = torch.cuda.max_memory_allocated() - before
            return
        except torch.cuda.OutOfMemoryError:
            if variant.batch == 1:
                variant.failed = "does not fit with a batch of one"
                return
        except (
            Exception
        ) as error:  # errors of the compiler; the other variants can still be measured
            variant.failed = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            return
        whole = variant.batch & (variant.batch - 1) == 0  # 256, 192, 128, 96, 64, ...
        variant.batch = max(1, variant.batch * 3 // 4 if whole else variant.batch * 2 // 3)


def environment(device: torch.device) -> dict[str, str]:
    """What the measurements depend on."""
    git = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True
    )
    if device.type == "cuda":
        hardware = torch.cuda.get_device_name(device)
    else:
        info = Path("/proc/cpuinfo")
        lines = info.read_text().splitlines() if info.exists() else []
        models = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
        native = " with bf16 products" if torch.cpu._is_avx512_bf16_supported() else ""
        name = models[0] if models else platform.processor()
        hardware = f"{os.cpu_count()} x {name}{native}, {torch.get_num_threads()} thread(s)"
    return {
        "date": datetime.date.today().isoformat(),
        "commit": git.stdout.strip() or "unknown",
        "hardware": hardware,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def table(found: list[Variant]) -> str:
    """Markdown. Ratios compare seconds an image with every plain variant of the same group."""
    rows = ["| what | variant | batch | ms a run | images/s | GB | times as fast as |"]
    rows.append("|---|---|---|---|---|---|---|")
    for variant in found:
        cells = [variant.group, variant.name, str(variant.batch)]
        if variant.failed or not variant.seconds:
            rows.append(f"| {' | '.join(cells)} | {variant.failed or 'not yet'} | | | |")
            continue
        peers = [
            f"{other.per_picture / variant.per_picture:.2f} {other.name}"
            for other in found
            if other.group == variant.group and other.name.startswith("plain")
            and other is not variant and other.seconds
        ]  # fmt: skip
        trains = variant.group == "training step"
        rows.append(
            f"| {' | '.join(cells)} | {1000 * variant.per_picture * variant.batch:.1f} | "
            f"{f'{1 / variant.per_picture:.2f}' if trains else ''} | "
            f"{'' if variant.peak_bytes is None else f'{variant.peak_bytes / 1e9:.1f}'} | "
            f"{'; '.join(peers)} |"
        )
    return "\n".join(rows) + "\n"


def flop_lines(config: NetworkConfig) -> str:
    """FLOP counts for the chosen size and for the paper's."""
    lines = []
    kind = config.backbone.kind
    large = LARGE[kind]
    for name, shape in {"this size": config, large: image_config(SIZES[kind][large])}.items():
        ours, plain = (flops(shape, layers_of(shape)[1], plain).step for plain in (False, True))
        lines.append(
            f"GFLOP of a training step for one image, {name}: ours {ours / 1e9:.1f}, plain "
            f"{plain / 1e9:.1f}, ratio {ours / plain:.3f}.\n"
        )
    return "".join(lines)


def write(output: Path, found: list[Variant], record: dict, text: str) -> None:
    """Write OUTPUT.md and OUTPUT.json."""
    measured = [
        {key: value for key, value in vars(variant).items() if key != "run"} for variant in found
    ]
    record = {**record, "variants": measured}
    output.with_name(f"{output.name}.json").write_text(json.dumps(record, indent=1))
    output.with_name(f"{output.name}.md").write_text(text)


def writable(output: Path) -> Path:
    """`output` without the suffix of one of its files; UserError if they cannot be written."""
    suffixes = (".md", ".json")
    if output.suffix in suffixes:
        output = output.with_suffix("")
    if output.name in ("", ".."):
        raise UserError("--output must name a file, such as runs/speed")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        for suffix in suffixes:
            output.with_name(output.name + suffix).open("a").close()
    except OSError as error:
        raise UserError(f"cannot write --output {output} ({error.strerror})") from error
    return output


def main(argv: Sequence[str] | None = None) -> None:
    parser = Parser(__doc__)
    parser.add_argument("--backbone", choices=SIZES, default="sit", help="of the network")
    parser.add_argument("--size", default="S", help="of the backbone: " + "; ".join(
        f"{kind}: {', '.join(sizes)}" for kind, sizes in SIZES.items()
    ))  # fmt: skip
    parser.add_argument("--batch", type=positive, help="images (default: 2 on a CPU, 256 on a GPU)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument(
        "--compile", action=argparse.BooleanOptionalAction, default=True, help="compiled ones too"
    )
    parser.add_argument(
        "--rounds", type=positive, default=5, help="number of measurements per median"
    )
    parser.add_argument("--sample-steps", type=positive, default=4, help="of the samplers")
    parser.add_argument("--threads", type=positive, default=1, help="of torch, on a CPU")
    parser.add_argument("--output", type=Path, default=Path("runs/speed"), help="without suffix")
    parser.add_argument("--only", choices=GROUPS, help="measure only this row group")
    parser.add_argument(
        "--quick", action="store_true",
        help="tiny network instead of --size; defaults to --batch 2 --rounds 1 --no-compile",
    )  # fmt: skip
    options = parser.parse_args(argv)
    if options.quick:
        parser.set_defaults(batch=2, rounds=1, compile=False)
        options = parser.parse_args(argv)
    try:
        device = choose_device(options.device)
        if options.size not in SIZES[options.backbone]:
            raise unknown(f"--size of {options.backbone}", options.size, SIZES[options.backbone])
        options.output = writable(options.output)
    except UserError as error:
        parser.error(str(error))
    options.batch = options.batch or (256 if device.type == "cuda" else 2)
    config = image_config(SIZES[options.backbone][options.size])
    if options.quick:
        config = quick(options.backbone)
    torch.set_num_threads(options.threads)
    keep_freed_memory()

    setup = Setup(config, layers_of(config), device)
    agreed = check_equal(setup, size=1, steps=2)
    settings = {key: str(value) for key, value in vars(options).items()}
    record = {**environment(device), **settings, "differences": agreed}
    differences = ", ".join(f"{name} {value:.1e}" for name, value in agreed.items())
    size = "tiny" if options.quick else options.size
    what = ", ".join(f"{key} {value}" for key, value in environment(device).items())
    head = (
        f"{what}. Backbone {options.backbone}, size {size}, {options.sample_steps} step(s) of the "
        "samplers.\n\n"
        f"Relative differences between both sides ({TOLERANCE['fp32']:g} pass in fp32, "
        f"{TOLERANCE['bf16']:g} with bf16 weights): {differences}.\n\n" + flop_lines(config)
    )
    print(head, flush=True)
    found = [v for v in variants(setup, options) if options.only in (None, v.group)]
    for variant in found:
        if variant.failed is None:
            warm_up(variant, setup)
    for done in range(1, options.rounds + 1):
        for variant in found:
            if variant.failed is None:
                variant.seconds.append(timed(variant, device))
            text = f"{head}\nMedians of the first {done} of {options.rounds} rounds in turn.\n\n"
            write(options.output, found, record, text + table(found))
    print(table(found))


if __name__ == "__main__":
    main()
