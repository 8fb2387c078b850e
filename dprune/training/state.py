"""What a run saves of its training: the state to resume from, checkpoints, the model.

Tensors are named `raw.NAME` and `ema.NAME` for the weights of the published network and their averages,
`NETWORK.NAME` for those of the others, `moments.NETWORK.NAME.KEY` for the optimizers', and `sum.NAME` for what the
next line of the log is to be the mean of.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from dprune.errors import InputError
from dprune.formats.checked_json import AGAIN, Object, Real, Whole
from dprune.formats.provenance import Record, difference
from dprune.models.files import ModelFile, fits, publish_model
from dprune.training.averages import Averages
from dprune.training.run import Run

_FORMER = re.compile(r"^(moments\.|sum\.|)critic(?=\.|$)")
"""How names begin in states that were saved when the discriminator was called by another name."""
_REACHED = Object({"step": Whole(), "epoch": Real(0), "reported": Whole()})


@dataclass(frozen=True)
class SavedState:
    """Writes what training changes to the folder of a run, and reads it back.

    How far the training has come is `reached`: the `step`, its `epoch`, and the step that was `reported` last.

    Attributes:
        run: the folder.
        record: provenance of the model.
        network_header: what `ModelFile.network` is to say of the first network.
        networks: by name; the first is averaged and published.
        optimizers: of the networks, under their names.
        averages: of the first network's weights.
    """

    run: Run
    record: Record
    network_header: Mapping[str, Any]
    networks: Mapping[str, nn.Module]
    optimizers: Mapping[str, Optimizer]
    averages: Averages

    def publish(self) -> None:
        """Publish the averaged weights."""
        publish_model(self.run.model, self.averages.state(), self.network_header, self.record)

    def keep_checkpoint(self, reached: Mapping[str, Any]) -> None:
        """Publish raw and averaged weights, to be kept."""
        raw = {f"raw.{name}": value for name, value in self.averages.network.state_dict().items()}
        averaged = {f"ema.{name}": value for name, value in self.averages.tensors.items()}
        header = {**self.network_header, **reached}
        publish_model(self.run.checkpoint(reached["step"]), raw | averaged, header, self.record)

    def save(self, reached: Mapping[str, Any], sums: Mapping[str, Tensor]) -> None:
        """Publish all that is needed to go on from here."""
        tensors = dict(self._tensors()) | {f"sum.{name}": value for name, value in sums.items()}
        publish_model(self.run.state, tensors, {**self.network_header, **reached}, self.record)

    def load(self) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
        """Copy the folder's state into networks, moments and averages.

        Returns:
            How far it had come, and its sums on the CPU; None if there is no state.

        Raises:
            InputError: the state is damaged or another run's.
        """
        if not self.run.state.is_file():
            return None
        try:
            file = ModelFile.open(self.run.state)
            stored = {_current(name): value for name, value in file.state().items()}
        except InputError as error:
            problem = str(error).removesuffix(f": {AGAIN}.")
            raise InputError(f"{problem}: remove it to train from the beginning.") from error
        ours = not difference(_without_steps(file.record), _without_steps(self.record))
        if not ours or _REACHED.misfit(file.network):
            raise InputError(f"{file.path}: is not the state of this run: remove it to train from the beginning.")
        targets = dict(self._tensors())
        sums = {name.removeprefix("sum."): stored.pop(name) for name in list(stored) if name.startswith("sum.")}
        if unlike := fits(targets, stored):
            raise InputError(
                f"{file.path}: does not hold this run's tensors ({unlike}): remove it to train from the beginning."
            )
        with torch.no_grad():
            for name, target in targets.items():
                target.copy_(stored[name])
        return file.network, sums

    def _tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Yield every tensor of the state under its name; writing to them changes the training."""
        for number, (network, module) in enumerate(self.networks.items()):
            prefix = network if number else "raw"
            yield from ((f"{prefix}.{name}", value) for name, value in module.state_dict().items())
            moments = self.optimizers[network].state
            for name, parameter in module.named_parameters():
                yield from ((f"moments.{network}.{name}.{key}", value) for key, value in moments[parameter].items())
        yield from ((f"ema.{name}", value) for name, value in self.averages.tensors.items())


def _current(name: str) -> str:
    """Return what a tensor is called now, whatever the state that holds it calls it."""
    return _FORMER.sub(r"\1discriminator", name)


def _without_steps(record: Record | None) -> Record:
    return {**record, "options": {**record["options"], "steps": 0}} if record else {}
