"""`dprune status`."""

from __future__ import annotations

import click

from dprune import console, options
from dprune.errors import UsageError
from dprune.shell import flags
from dprune.shell.help_pages import GroupedCommand


@click.command(cls=GroupedCommand)
@click.argument("outputs", nargs=-1, required=True, metavar="OUTPUT...")
@options.apply(
    options.option("--array", group="Output", common=True, is_flag=True,
                   help="Print only what is missing, as a list for `sbatch --array=`."),
    options.count("--tasks", "With --array: name at most N tasks, each of which takes several pieces.", group="Output",
                  common=True),
    options.option("--json", "json_", group="Output", common=True, is_flag=True,
                   help="Print one JSON object with a list `outputs`."),
    *flags.verbosity,
)  # fmt: skip
@click.pass_context
def command(ctx: click.Context, outputs: tuple[str, ...], array: bool, tasks: int | None, json_: bool) -> None:
    """Tell how far outputs are and what a rerun would do.

    OUTPUT is what a command was given as --output: a store, shards, a run, or scores by networks, which need not exist
    yet. Nothing is written, and running work is not disturbed. It exits with 0 when all outputs are complete, with 75
    while one is not, and with 3 where the same command would not go on.

    Of each output it prints how many of its files, shards, steps or portions exist, which are missing, the images that
    could not be decoded, what running processes are working on, how fast it grows, when it may be done, and what the
    same command would do if it were run again. The same command would not go on where nothing exists, or where what
    exists is damaged.

    \b
    Examples:
      dprune status features latents dit scores.npy
      dprune status features --json | jq '.outputs[0].undecodable'
      sbatch --array=$(dprune status --array features) examples/slurm/embed.sbatch shards features
      todo=$(dprune status --array --tasks 8 features) || sbatch --array=$todo embed.sbatch shards features
    """
    from dprune.watching.job import open_status

    if tasks is not None and not array:
        raise UsageError("--tasks needs --array: give both, or neither.")
    if array and json_:
        raise UsageError("--array and --json both write to stdout: give one. The JSON has the list as `array`.")
    found = open_status(outputs)
    if array:
        console.emit(found.array(tasks))
    else:
        console.emit_found(found, as_json=json_)
    console.check_found(found)
    ctx.exit(found.exit_code)
