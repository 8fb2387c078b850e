"""`dprune status`."""

from __future__ import annotations

import click

from dprune import console, flags, options
from dprune.errors import UsageError
from dprune.help_pages import GroupedCommand


@click.command(cls=GroupedCommand)
@click.argument("outputs", nargs=-1, required=True, metavar="OUTPUT...")
@options.apply(
    options.option("--array", group="Output", common=True, is_flag=True,
                   help="Print what is missing as a list for `sbatch --array=`, nothing else."),
    options.count("--tasks", "With --array: at most so many tasks, each of which takes several pieces.", group="Output",
                  common=True),
    options.option("--json", "json_", group="Output", common=True, is_flag=True,
                   help="Print one JSON object with a list `outputs`."),
    *flags.verbosity,
)  # fmt: skip
@click.pass_context
def command(ctx: click.Context, outputs: tuple[str, ...], array: bool, tasks: int | None, json_: bool) -> None:
    """Tell how far outputs are, what is missing, and what a rerun would do.

    OUTPUT is what a command was given as --output: a store, shards, a run, or scores by networks, which need not be
    there yet. For each it prints how many of its parts, shards, steps or portions there are, which are missing, the
    images that could not be decoded, what living processes are at, how fast it grows and when it may be done, and
    what the same command would do if it were run again. It writes nothing, and does not get into the way of those
    who do. It exits with 0 when all outputs are complete, 75 while one is not, and 3 where the same command would not
    go on: nothing is there, or what is there is damaged.

    \b
    Examples:
      dprune status features latents dit scores.npy
      sbatch --array=$(dprune status --array features) examples/slurm/embed.sbatch shards features
      todo=$(dprune status --array --tasks 8 features) || sbatch --array=$todo embed.sbatch shards features
      dprune status features --json | jq '.outputs[0].undecodable'
    """
    from dprune.watching.job import open_status

    if tasks is not None and not array:
        raise UsageError("--tasks says how many tasks --array names: give it, or leave this out.")
    if array and json_:
        raise UsageError("--array and --json both go to stdout: give one; the JSON holds the list as `array`.")
    found = open_status(outputs)
    if array:
        console.emit(found.array(tasks))
    else:
        console.emit_found(found, as_json=json_)
    console.check_found(found)
    ctx.exit(found.exit_code)
