"""`init=` of a command: the initial weights of a network."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from selfflow_robotics.cli.runs import runs_of_kind
from selfflow_robotics.commands import command
from selfflow_robotics.errors import UserError
from selfflow_robotics.inference.bundle import (
    load_bundle,
    read_config,
    read_record,
    resolve_weights,
    weights_hash,
)
from selfflow_robotics.modalities.base import Codec
from selfflow_robotics.models.network import Network, NetworkConfig
from selfflow_robotics.models.warm_start import Source, adopt, warm_start
from selfflow_robotics.objective.roles import ROLES
from selfflow_robotics.text.store import TextStore
from selfflow_robotics.training.checkpoint import latest_checkpoint, resuming


class Start(NamedTuple):
    """The initial weights of a run."""

    config: NetworkConfig
    source: Source | None  # None: random initialization, or the run's own weights
    record: dict[str, Any]  # "start" in the run's record
    text: str  # the source of the weights

    def build(
        self, codecs: Mapping[str, Codec], texts: TextStore | None, freeze: bool = False
    ) -> Network:
        """The network, with these weights, as `load`.

        The backbone is frozen with `freeze`, and if it has low-rank updates (`config.lora`). Raises
        UserError if it would be frozen at random weights.
        """
        lora = self.config.lora
        if (freeze or lora) and self.record["source"] is None:
            raise UserError(
                "freeze=backbone and lora keep the backbone's initial weights, and these are "
                "random; give some: init=PATH"
            )
        network = Network(replace(self.config, lora=None))
        if freeze or lora:
            network.freeze_backbone()
        self.load(network, codecs, texts)
        if lora is not None:  # now that the weights have their names
            network.add_lora(lora)
        return network

    def load(
        self, network: Network, codecs: Mapping[str, Codec], texts: TextStore | None = None
    ) -> None:
        """Load the source's weights; print and record which were loaded, converted or ignored, and
        which are frozen."""
        if self.source is not None:
            report = warm_start(network, self.source, codecs, texts)
            self.record.update(report.to_json())
            print(f"initial weights from {self.text}\n{report}")


def find_start(init: str, config: NetworkConfig, run: Path, runs_dir: str) -> Start:
    """Resolve `init` for a network of `config`: none, auto (the newest matching run of
    pretrain/run.py), a run, a checkpoint, or a file of released weights.

    A run that has a checkpoint keeps its recorded start. Raises UserError if the weights do not
    exist or belong to another backbone.
    """
    if own := latest_checkpoint(run):
        with resuming(run):
            record = read_record(own).get("start") or {"init": init, "source": None}
            return Start(read_config(own), None, record, "its own checkpoint")
    record = {"init": init, "source": None}
    if init == "none":
        return Start(config, None, record, "scratch")
    if init == "auto":
        path = _newest_fitting(config, Path(runs_dir))
        if path is None:
            makes = command("pretrain/run.py")
            text = f"scratch (no pretraining run of this size; create one with {makes})"
            return Start(config, None, record, text)
    else:
        path = resolve_weights(init)
    try:
        source = _read(path, config)
        adopted = adopt(config, source.config)
    except UserError as error:
        about = "" if str(path) in str(error) else f"init={path}: "
        raise UserError(f"{about}{error}") from error
    record |= {"source": str(path), "sha256": weights_hash(path)}
    return Start(adopted, source, record, str(path))


def _newest_fitting(config: NetworkConfig, root: Path) -> Path | None:
    for run in runs_of_kind("pretrain", root):
        if checkpoint := latest_checkpoint(run):
            found = replace(
                read_config(checkpoint),
                feature_channels=config.feature_channels,
                auxiliary_layer=config.auxiliary_layer,
                frame_steps=config.frame_steps,
                lora=config.lora,
            )
            try:
                if adopt(config, found) == found:
                    return checkpoint
            except UserError:  # another backbone
                continue
    return None


def _read(path: Path, config: NetworkConfig) -> Source:
    bundle = load_bundle(path, "cpu", config.backbone.heads)
    changes = any(
        ROLES[role].get(slot) == "noised" and ROLES[role].get(base) == "clean"
        for role in bundle.roles
        if role in ROLES
        for slot, base in bundle.network.config.changes.items()
    )
    tensors = bundle.network.state_dict()
    return Source(bundle.network.config, tensors, str(path), bundle.codecs, changes, bundle.texts)
