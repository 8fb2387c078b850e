"""What a run writes of its networks: the state to resume from, checkpoints, the model.

Tensors are named `raw.NAME` and `ema.NAME` for the weights of the published network and their averages,
`NETWORK.NAME` for those of the others, `moments.NETWORK.NAME.KEY` for the optimizers', and `sum.NAME` for what the
next line of the log is to be the mean of.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from dprune.errors import InputError
from dprune.formats.provenance import difference
from dprune.models.files import ModelFile, publish_model

if TYPE_CHECKING:
    from dprune.training.loop import Loop


def save_model(loop: Loop) -> None:
    """Publish the averaged weights."""
    publish_model(loop.run.model, loop.averages.state(), loop.task.network_header, loop.record)


def save_checkpoint(loop: Loop) -> None:
    """Publish raw and averaged weights of this step, to be kept."""
    raw = {f"raw.{name}": value for name, value in loop.averages.network.state_dict().items()}
    averaged = {f"ema.{name}": value for name, value in loop.averages.tensors.items()}
    publish_model(loop.run.checkpoint(loop.step), raw | averaged, _header(loop), loop.record)


def save_state(loop: Loop) -> None:
    """Publish all that is needed to go on from this step."""
    sums = {f"sum.{name}": value for name, value in loop.sums.items()}
    publish_model(loop.run.state, dict(_tensors(loop)) | sums, _header(loop), loop.record)


def load_state(loop: Loop) -> None:
    """Copy the folder's state into the networks, if there is one.

    Raises:
        InputError: the state is damaged or another run's.
    """
    if not loop.run.state.is_file():
        return
    try:
        file = ModelFile.open(loop.run.state)
        stored = file.state()
    except InputError as error:
        raise InputError(f"{str(error).rstrip('.')}: remove it to train from the beginning.") from error
    step = file.network.get("step")
    if not isinstance(step, int) or difference(_without_steps(file.record), _without_steps(loop.record)):
        raise InputError(f"{file.path}: is not the state of this run: remove it to train from the beginning.")
    targets = dict(_tensors(loop))
    sums = {name: stored.pop(name) for name in list(stored) if name.startswith("sum.")}
    if stored.keys() != targets.keys():
        raise InputError(f"{file.path}: does not hold this run's tensors: remove it to train from the beginning.")
    with torch.no_grad():
        for name, target in targets.items():
            target.copy_(stored[name])
    loop.sums = {name.removeprefix("sum."): value.to(loop.device) for name, value in sums.items()}
    loop.step, loop.reported = step, file.network["reported"]


def _header(loop: Loop) -> dict[str, Any]:
    place = {"step": loop.step, "epoch": loop.order.epochs(loop.step), "reported": loop.reported}
    return {**loop.task.network_header, **place}


def _without_steps(record: Any) -> dict[str, Any]:
    return {**record, "options": {**record["options"], "steps": 0}} if record else {}


def _tensors(loop: Loop) -> Iterator[tuple[str, Tensor]]:
    """Yield every tensor of the state under its name; writing to them changes the loop."""
    for number, (network, module) in enumerate(loop.task.networks.items()):
        prefix = network if number else "raw"
        yield from ((f"{prefix}.{name}", value) for name, value in module.state_dict().items())
        moments = loop.optimizers[network].state
        for name, parameter in module.named_parameters():
            yield from ((f"moments.{network}.{name}.{key}", value) for key, value in moments[parameter].items())
    yield from ((f"ema.{name}", value) for name, value in loop.averages.tensors.items())
