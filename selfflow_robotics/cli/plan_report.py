"""The text of a plan: parameters, memory, time, files, and what was assumed."""

import math
from collections.abc import Mapping, Sequence

from selfflow_robotics.cli.workloads import Facts
from selfflow_robotics.evaluation.tables import text_table
from selfflow_robotics.planning.estimate import (
    CUDA_BYTES,
    HEAP,
    MODES,
    Estimate,
    Memory,
    Seconds,
    Strategy,
)
from selfflow_robotics.planning.machines import Machine
from selfflow_robotics.training.loop import TrainConfig

STRATEGIES: tuple[Strategy, ...] = ("replicate", "fsdp")
Layout = tuple[int, Strategy]  # processes, and how they share the work


def report(
    estimate: Estimate,
    machine: Machine,
    counts: Sequence[int],
    mfu: Mapping[str, float],
    train: TrainConfig,
    facts: Facts,
    process_bytes: float,
    measured: Seconds | None = None,
) -> str:
    """The plan for each number of processes and each strategy. `measured`: the step's time on this
    computer; None: it follows from the machine's rates."""
    layouts: list[Layout] = [
        (n, s) for n in counts for s in (STRATEGIES if n > 1 else STRATEGIES[:1])
    ]
    on_cpu = measured is not None
    parts = [
        _parameters(estimate),
        _roles(estimate, mfu, on_cpu),
        _machine(machine, estimate.work.precision),
        _memory(estimate, machine, layouts, process_bytes),
        _time(estimate, machine, layouts, mfu, train, measured),
        _files(estimate, train, facts),
        _assumed(mfu, on_cpu, facts),
    ]
    return "\n\n".join(parts)


def _parameters(estimate: Estimate) -> str:
    by_part = sorted(estimate.parameters.by_part.items(), key=lambda item: -item[1])
    parts = ", ".join(f"{part} {_count(number)}" for part, number in by_part)
    total, trained = estimate.parameters.total, estimate.parameters.trained
    some = "" if trained == total else f", {_count(trained)} of them trained"
    return f"parameters: {_count(total)}{some} ({parts})"


def _roles(estimate: Estimate, mfu: Mapping[str, float], on_cpu: bool) -> str:
    share = "steps" if estimate.work.accumulate == 1 else "batches"
    header = ["role", share, "samples", "tokens", "FLOPs"]
    lines = [header + ["MFU"] * on_cpu]
    for role in estimate.work.roles:
        cost = estimate.steps[role.role]
        flops = estimate.role_flops(role)
        cells = [role.role, f"{role.share:.1%}", str(role.batch), str(cost.tokens)]
        lines.append([*cells, _flops(flops)] + [f"{mfu[role.role]:.0%}"] * on_cpu)
    return text_table(lines)


def _machine(machine: Machine, precision: str) -> str:
    return (
        f"machine: {machine.name}, {_bytes(machine.memory)}, {_flops(machine.flops[precision])}/s "
        f"in {precision}, {_bytes(machine.bandwidth)}/s ({machine.source})"
    )


def _memory(
    estimate: Estimate, machine: Machine, layouts: Sequence[Layout], process_bytes: float
) -> str:
    """Bytes in each process, by part, and whether they fit."""
    names = ["weights", "average (EMA)", "optimizer state", "gradients", "activations"]
    names += ["  selective", "  full", "gathered blocks", "process", "peak", "  selective"]
    names += ["  full", "fits"]
    columns = [["memory of each process", *names]]
    for processes, strategy in layouts:
        heap = 1.0 if machine.link else HEAP
        memory = estimate.memory(processes, strategy, process_bytes, heap)
        columns.append([_layout(processes, strategy), *_memory_cells(memory, machine.memory)])
    return text_table(list(zip(*columns, strict=True)))


def _memory_cells(memory: Memory, most: float) -> list[str]:
    peaks = {mode: memory.peak(mode) for mode in MODES}
    fits = next((mode for mode, peak in peaks.items() if peak <= most), "no")
    parts = [
        *(memory.weights, memory.average, memory.optimizer, memory.gradients),
        *(memory.activations[mode] for mode in MODES),
        *(memory.gathered, memory.process, *peaks.values()),
    ]
    return [*map(_bytes, parts), "yes" if fits == "none" else fits]


def _time(
    estimate: Estimate,
    machine: Machine,
    layouts: Sequence[Layout],
    mfu: Mapping[str, float],
    train: TrainConfig,
    measured: Seconds | None,
) -> str:
    names = ["step", "  forward, backward", "  update", "  communication"]
    columns = [["time", *names, "samples/s", "tokens/s", f"{train.steps} steps"]]
    for processes, strategy in layouts:
        seconds = measured or estimate.seconds(machine, processes, strategy, dict(mfu))
        parts = [seconds.total, seconds.compute, seconds.update, seconds.communication]
        rates = [estimate.samples / seconds.total, estimate.tokens / seconds.total]
        columns.append(
            [
                _layout(processes, strategy),
                *map(_duration, parts),
                *(f"{rate:.4g}" for rate in rates),
                _duration(train.steps * seconds.total),
            ]
        )
    return text_table(list(zip(*columns, strict=True)))


def _files(estimate: Estimate, train: TrainConfig, facts: Facts) -> str:
    one = estimate.checkpoint_bytes
    saved = -(-train.steps // train.save_every)
    at_once = train.keep_checkpoints + 1  # the new one is written before one is removed
    if train.keep_every:
        at_once += train.steps // math.lcm(train.keep_every, train.save_every)
    at_once = min(saved, at_once)
    lines = [
        f"checkpoints: {_bytes(one)} each, {_bytes(at_once * one)} on disk at most, "
        f"{_bytes(saved * one)} written in {saved} saves"
    ]
    samples = train.steps * estimate.samples
    read = f"samples: {_count(samples)} in all"
    if facts.samples:
        read += f", {samples / facts.samples:.3g} epochs of {facts.samples}"
    if facts.sample_bytes:
        read += f", {_bytes(facts.sample_bytes)} each"
        read += f"; data: {_bytes((facts.samples or 0) * facts.sample_bytes)}"
    elif facts.data_bytes:
        read += f"; data: {_bytes(facts.data_bytes)}"
    return "\n".join([*lines, read])


def _assumed(mfu: Mapping[str, float], on_cpu: bool, facts: Facts) -> str:
    counted = "FLOPs and tensors of the real step, without numbers"
    if on_cpu:
        found = (
            f"measured: updates of networks of 2 and 4 blocks, the processor's rates; "
            f"counted: {counted}"
        )
        notes = [
            f"the heap takes {HEAP:g} times the tensors",
            "no other program uses the cores; reading of data takes no time",
        ]
    else:
        found = f"counted: {counted}"
        notes = [
            f"MFU {next(iter(mfu.values())):.0%} (plan.mfu)",
            f"{_bytes(CUDA_BYTES)} for CUDA; activations as without compiling",
            "links at their full rate; fsdp hides communication behind computation, replicate does "
            "not",
            "times without activation_checkpoint; full adds up to a third, selective less",
        ]
    return "\n".join([found, "assumed: " + "; ".join([*notes, *facts.assumed])])


def _layout(processes: int, strategy: Strategy) -> str:
    return "1 process" if processes == 1 else f"{processes} {strategy}"


def _scaled(value: float, units: Sequence[str]) -> str:
    """Three significant digits with the largest unit below `value`, in steps of 1000."""
    for unit in units[:-1]:
        if abs(value) < 999.5:
            return f"{value:.3g} {unit}".rstrip()
        value /= 1000
    return f"{value:.3g} {units[-1]}"


def _count(value: float) -> str:
    return _scaled(value, ["", "k", "M", "G", "T"])


def _bytes(value: float) -> str:
    return _scaled(value, ["B", "kB", "MB", "GB", "TB"])


def _flops(value: float) -> str:
    return _scaled(value, ["FLOP", "kFLOP", "MFLOP", "GFLOP", "TFLOP", "PFLOP"])


def _duration(seconds: float) -> str:
    for least, size, unit in ((86400, 86400, "days"), (3600, 3600, "h"), (120, 60, "min")):
        if seconds >= least:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.3g} s" if seconds >= 1 else f"{1000 * seconds:.3g} ms"
