"""The velocity of a sample's noised tokens, given its clean part: what every sampler evaluates."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from selfflow_robotics.batch import Slot, Words
from selfflow_robotics.errors import UserError
from selfflow_robotics.flow import path
from selfflow_robotics.flow.guidance import check_extrapolation, extrapolate
from selfflow_robotics.flow.solvers import State
from selfflow_robotics.models.network import Attention, Context, ModulationTable, Network
from selfflow_robotics.timesteps import Timesteps

ROWS = 512  # rows of a modulation table; more do not make its products cheaper


class Velocity:
    """The network with the clean part of a sample filled in, which is encoded once.

    With attention = "prefix" every evaluation reuses the clean tokens' keys and values.
    """

    def __init__(
        self,
        network: Network,
        slots: Mapping[str, Slot],
        clean: Mapping[str, Slot],
        words: Words | None = None,
        labels: Tensor | None = None,
        attention: Attention = "prefix",
        extrapolation: float = 1.0,
    ) -> None:
        """`slots`: those to denoise; only their places matter. `extrapolation` as in
        `sample.sample`. The others are as in `Network.encode_context`, of any dtype.

        Raises UserError for extrapolation with a network that has no auxiliary heads.
        """
        check_heads(network, extrapolation)
        self.network, self.slots, self.extrapolation = network, slots, extrapolation
        clean = {slot: x.to(network.dtype) for slot, x in clean.items()}
        self.context = network.encode_context(clean, words, labels=labels, attention=attention)

    def __call__(
        self, x_t: State, tau: Timesteps, table: ModulationTable | None = None
    ) -> dict[str, Tensor]:
        """Velocities float32 [B, N, C] of tokens x_t [B, N, C], which may each have a timestep of
        their own; it must not be 0 for slots whose prediction is "data".

        `table`: the modulation of these timesteps, if already computed; not with a joint context.
        """
        dtype = self.network.dtype
        slots = {slot: self.slots[slot].with_tokens(x.to(dtype)) for slot, x in x_t.items()}
        early = None if self.extrapolation == 1.0 else self.network.config.auxiliary_layer
        layers = () if early is None else (early,)
        outputs, features = self.network(slots, tau, self.context, layers, table=table)
        final = self._velocities(outputs, x_t, tau)
        if early is None:
            return final
        outputs = self.network.read_auxiliary(features[early], slots, tau, self.context)
        return extrapolate(self._velocities(outputs, x_t, tau), final, self.extrapolation)

    def _velocities(self, outputs: Mapping[str, Tensor], x_t: State, tau: Timesteps) -> State:
        sizes = [x.shape[1] for x in x_t.values()]
        t = dict(zip(x_t, tau.per_token.unsqueeze(-1).split(sizes, dim=1), strict=True))
        return {
            slot: path.as_velocity(
                outputs[slot].float(), self.network.prediction[slot], x, t[slot], t_min=0.0
            )
            for slot, x in x_t.items()
        }

    def table(self, times: Tensor) -> ModulationTable:
        """The modulation at times [S] on the network's device, for tokens in any order of them."""
        return self.network.modulation_table(times, self.context, list(self.slots))


def check_heads(network: Network, extrapolation: float) -> None:
    """Raise UserError for an extrapolation that is out of range or needs auxiliary heads that the
    network does not have."""
    check_extrapolation(extrapolation)
    if extrapolation != 1.0 and network.config.auxiliary_layer is None:
        raise UserError(
            f"extrapolation={extrapolation:g} needs a network that was trained with "
            "objective=reworld; leave it out"
        )


class ModulationAhead:
    """The modulation at a sampler's times, computed for several times at once."""

    def __init__(
        self, network: Network, context: Context, times: Sequence[float], slots: Sequence[str]
    ) -> None:
        """`times`: those that will be passed to `at`."""
        self._network, self._context, self._slots = network, context, slots
        device = network.projector.linear1.weight.device
        self._numbers, self._times = (
            list(times),
            torch.tensor(times, dtype=torch.float32).to(device),
        )
        groups = 1 if context.condition is None else len(context.condition)
        self._ahead = max(1, ROWS // groups)
        self._table: ModulationTable | None = None
        self._made = range(0)  # times in the table

    def at(self, t: float) -> ModulationTable:
        """The rows for one of the times."""
        number = self._numbers.index(t)
        if self._table is None or number not in self._made:
            self._made = range(number, number + self._ahead)
            times = self._times[number : number + self._ahead]
            self._table = self._network.modulation_table(times, self._context, self._slots)
        return self._table.at(number - self._made.start)
