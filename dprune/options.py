"""Options that several subcommands share, each declared once.

Every option can also be set by an environment variable, DPRUNE_<COMMAND>_<OPTION>.
"""

from __future__ import annotations

import functools
import importlib
import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import click

from dprune.delivery import Delivery
from dprune.errors import InputError
from dprune.formats.checked_json import INT64
from dprune.formats.publish import Output
from dprune.selecting.amount import Amount
from dprune.shell.completion import PLACES
from dprune.shell.flags import verbosity
from dprune.shell.help_pages import Group
from dprune.shell.help_pages import option as option
from dprune.shell.next_steps import Given, next_step

MOST_PIXELS = 32768
"""Of the side of an image."""

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


class Duration(click.ParamType[float]):
    """A length of time such as 90s, 45m or 3h50m, in seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Parse `value`; a bare number is seconds."""
        match = re.fullmatch(r"(?:([0-9]{1,9})d)?(?:([0-9]{1,9})h)?(?:([0-9]{1,9})m)?(?:([0-9]{1,9})s?)?", str(value))
        if not match or not match.group():
            self.fail(f"{value!r} is not a duration: write 90s, 45m or 3h50m.", param, ctx)
        days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
        return float(((days * 24 + hours) * 60 + minutes) * 60 + seconds)


class Number(click.FloatRange):
    """A number within bounds; nan and inf are none."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Parse `value`."""
        found: float = super().convert(value, param, ctx)
        if not math.isfinite(found):
            self.fail(f"{found} is not a finite number: give one.", param, ctx)
        return found


class Count(click.IntRange):
    """A whole number that is not too small, as the help says, and not too large for what is computed with it."""

    def __init__(self, least: int, most: int) -> None:
        super().__init__(min=least)
        self._least, self._most = least, most

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Parse `value`."""
        found: int = click.INT.convert(value, param, ctx)
        if found < self._least:
            self.fail(f"{found} is too small: give at least {self._least:,}.", param, ctx)
        if found > self._most:
            self.fail(f"{found} is too large: give at most {self._most:,}.", param, ctx)
        return found


class Tag(click.ParamType[tuple[str, str]]):
    """A KEY=VALUE pair."""

    name = "key=value"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        """Split `value` at its first equals sign."""
        if isinstance(value, tuple):
            return value
        key, equals, rest = str(value).partition("=")
        if not key or not equals:
            self.fail(f"{value!r} is not of the form KEY=VALUE.", param, ctx)
        return key, rest


class OutputPath(click.Path):
    """Where an output goes; where it is missing, the error says what it would be."""

    def __init__(self, kind: str) -> None:
        # Whether it can be written is for the writer to find out, and to tell.
        super().__init__(readable=False, allow_dash=True)
        self._kind = kind

    def get_missing_message(self, param: click.Parameter, ctx: click.Context | None) -> str:
        """Say what the output is."""
        return self._kind


def parse_amount(ctx: click.Context, param: click.Parameter, value: str | None) -> Amount | None:
    """Read a share or a count of samples; of --prune it is what goes."""
    try:
        return None if value is None else Amount.parse(value, pruned=param.name == "prune")
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def count(
    name: str, text: str, *, group: Group, common: bool = False, default: int | None = None, least: int = 1,
    most: int = INT64,
) -> Decorator:  # fmt: skip
    """An option for a whole number from `least` to `most`; a default is told behind its help `text`."""
    return option(name, group=group, common=common, type=Count(least, most), metavar="N", help=text, **_told(default))


def choice(
    name: str, values: Sequence[str], text: str, *, group: Group, common: bool = False, default: str | None = None
) -> Decorator:
    """An option for one of a few words; a default is told behind its help `text`."""
    return option(name, group=group, common=common, type=click.Choice(values), help=text, **_told(default))


def _told(default: str | int | None) -> dict[str, Any]:
    # A default of None that is stated would satisfy click, required or not.
    return {} if default is None else {"default": default, "show_default": True}


def delivers(
    kind: str, *, default: str | None = None, can_stop: bool = False, shares_work: bool = False, folder: bool = False
) -> Decorator:
    """Add -o and the options about the output; they reach the command as one `delivery`.

    Args:
        kind: what the help calls the output.
        default: output when -o is left out; None makes -o required.
        can_stop: whether the work can be interrupted and resumed, which adds --stop-after.
        shares_work: whether workers with RANK and WORLD_SIZE do parts of it.
        folder: whether the output is a folder.
    """

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def command(*, output: str, overwrite: bool, dry_run: bool, json_: bool, tags: tuple[tuple[str, str], ...],
                    stop_after: float | None = None, **kwargs: Any) -> None:  # fmt: skip
            place = Output(output, overwrite, dict(tags))
            given = _given()
            delivery = Delivery(place, dry_run, json_, stop_after, can_stop, shares_work, folder, given)
            try:
                function(delivery=delivery, **kwargs)
            except InputError as error:
                said = next_step(str(error), click.get_current_context().command_path.partition(" ")[2], given)
                if said is None:
                    raise
                raise InputError(said) from error

        shared = [
            option("-o", "--output", group="Output", common=True, metavar="PATH", type=OutputPath(kind),
                   required=default is None, **_told(default), help=kind),
            option("--overwrite", group="Output", common=True, is_flag=True,
                   help="Replace an output that was made differently."),
            option("--dry-run", group="Output", common=True, is_flag=True,
                   help="Say what would be done and touch nothing. -v adds the record."),
            option("--json", "json_", group="Output", is_flag=True,
                   help="Print a summary as JSON on stdout."),
            option("--tag", "tags", group="Output", type=Tag(), multiple=True,
                   help="Record KEY=VALUE in the provenance. Repeatable."),
        ]  # fmt: skip
        if can_stop:
            shared.append(option("--stop-after", group="Running", type=Duration(),
                                 help="Stop after this time, such as 3h50m, with exit code 75."))  # fmt: skip
        return apply(*shared, *verbosity)(command)

    return decorate


def _given() -> list[Given]:
    """Return what the command was given in places of files."""
    ctx, found = click.get_current_context(), []
    for param in ctx.command.params:
        said = (param.metavar or "").strip("[].")
        option = max(param.opts, key=len) if isinstance(param, click.Option) else ""
        if param.name == "output" or (option and PLACES.isdisjoint(said.split("|"))):
            continue
        value = ctx.params.get(param.name or "")
        values = value if isinstance(value, tuple) else (value,)
        found += [Given(param.name or "", said, option, each) for each in values if isinstance(each, str)]
    return found


def gathers(argument: str, source: str, *decorators: Decorator, **fixed: Any) -> Decorator:
    """Add options that reach the command as one argument: a dataclass that has a field of the name of each.

    Args:
        argument: name of the command's argument.
        source: `module:Class` of the dataclass, imported when the command runs.
        decorators: of the options.
        fixed: fields that no option gives.
    """

    def probe() -> None:
        """Take the options, whose names click gathers on the function."""

    apply(*decorators)(probe)
    names = [param.name for param in getattr(probe, "__click_params__", [])]

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def command(**kwargs: Any) -> None:
            module, _, name = source.partition(":")
            settings = getattr(importlib.import_module(module), name)
            function(**{argument: settings(**{name: kwargs.pop(name) for name in names}, **fixed)}, **kwargs)

        return apply(*decorators)(command)

    return decorate


def trains(**defaults: str) -> Decorator:
    """Add the options of the training loop; they reach the command as one `training`.

    Args:
        defaults: what the help says of options that are not given, where that is not what it says below.
    """
    loop = {"warmup": "0", "schedule": "constant", "ema": "0.9999", "clip": "no limit", "log_every": "100"}
    defaults = loop | defaults

    def said(text: str, name: str) -> str:
        return f"{text}  [default: {defaults[name]}]"

    return gathers(
        "training", "dprune.training.plan:TrainingOptions",
        count("--steps", said("Optimiser steps.", "steps"), group="Optimisation", common=True),
        option("--epochs", group="Optimisation", common=True, type=Number(0, min_open=True), metavar="X",
               help="Passes over the training set. They take the place of --steps."),
        count("--batch-size", said("Samples per step. All GPUs share them.", "batch_size"), group="Optimisation",
              common=True),
        option("--micro-batch", group="Optimisation", default="auto", show_default=True, metavar="N",
               help="Samples per forward pass on one device. auto takes the most that fit into its free memory."),
        option("--lr", group="Optimisation", common=True, type=Number(0, min_open=True), metavar="X",
               help=said("Learning rate.", "lr")),
        count("--warmup", said("Steps over which the learning rate rises.", "warmup"), group="Optimisation", least=0),
        choice("--schedule", ["constant", "cosine"], said("Course of the learning rate after the warm-up.", "schedule"),
               group="Optimisation"),
        option("--ema", group="Optimisation", type=Number(0, 1, max_open=True), metavar="X",
               help=said("Decay of the averaged (EMA) weights.", "ema")),
        option("--clip", group="Optimisation", type=Number(0, min_open=True), metavar="X",
               help=said("Clip the gradient to this norm.", "clip")),
        choice("--precision", ["auto", "bf16", "tf32", "fp32"],
               "Precision of the arithmetic. auto is bf16 on a GPU; weights stay in float32.", group="Running",
               default="auto"),
        count("--log-every", said("Steps between two lines of the log.", "log_every"), group="Checkpoints"),
        option("--save-every", group="Checkpoints", common=True, metavar="N|epoch",
               help="Keep a checkpoint every N steps, or every epoch."),
        count("--evaluate-every", "Steps between evaluations. Pictures and measures go to the run folder.",
              group="Checkpoints"),
        option("--autosave", group="Checkpoints", type=Duration(), default="30m", show_default=True,
               help="Time between saved states. A signal saves one, too."),
        seed,
        device,
    )  # fmt: skip


member_choice = (
    option("--image-member", group="Data", metavar="SUFFIX",
           help="Suffix of the images inside shards, such as input.png.  [default: jpg, jpeg, png or webp]"),
    option("--label-member", group="Data", metavar="SUFFIX",
           help="Suffix of the labels inside shards, such as y.txt, or json:label for a field.  [default: cls]"),
)  # fmt: skip


def embeds(default: str) -> Decorator:
    """Add the options of making features from images; they reach the command as one `embedding`.

    Args:
        default: network where neither the options nor the other side name one.
    """
    return gathers(
        "embedding", "dprune.measuring.making:Embedding",
        option("--model", group="Model", common=True, metavar="MODEL",
               help=f"Network that embeds images, as in dprune embed.  [default: that of the other side, or "
                    f"{default}]"),
        option("--weights", group="Model", metavar="FILE",
               help="File of the network's weights, in place of the hub's."),
        image_size,
        resize,
        color,
        network_precision,
        batch_size,
        workers,
        device,
        *member_choice,
        default=default,
    )  # fmt: skip


def apply(*decorators: Decorator) -> Decorator:
    """Apply decorators so that the help lists their options in the order given."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return decorate


shards = click.argument("shards", nargs=-1, required=True, metavar="SHARDS...",
                        help="Folders, .tar files, globs, brace ranges, @lists or URLs.")  # fmt: skip
strict = option("--strict", group="Running", is_flag=True, help="Fail on an image that cannot be decoded.")
seed = count("--seed", "Seed of all randomness.", group="Running", common=True, default=0, least=0)
device = option("--device", group="Running", common=True, metavar="NAME", default="auto", show_default=True,
                help="Device: cpu, cuda or cuda:N.")  # fmt: skip
image_size = count("--image-size", "Side of the network's input in pixels.", group="Model", most=MOST_PIXELS)
resize = choice("--resize", ["clean", "pytorch", "tensorflow"],
                "How images are resized and scaled for Inception.  [default: clean]", group="Model")  # fmt: skip
color = choice("--color", ["rgb", "grey"],
               "With --model pixels: keep the colours, or turn them to grey.  [default: rgb]",
               group="Model")  # fmt: skip
parametrization = choice("--parametrization", ["velocity", "reversed", "noise"],
                         "What weights made elsewhere predict, as SiT, REPA or DiT.  [default: detected]",
                         group="Model")  # fmt: skip
network_precision = choice("--precision", ["auto", "fp32", "bf16", "fp16"],
                           "Precision of the network. auto is bf16 on a GPU.", group="Running",
                           default="auto")  # fmt: skip
batch_size = count("--batch-size", "Samples per forward pass.", group="Running", common=True, default=256)
members = gathers("members", "dprune.formats.members:MemberChoice", *member_choice)
workers = count("--workers",
                "Number of processes that decode images. 0 decodes in the main process.  [default: one per core]",
                group="Running", least=0, most=4096)  # fmt: skip
