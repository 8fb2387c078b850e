"""`dprune info`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from dprune import console, options
from dprune.shell import flags
from dprune.shell.help_pages import GroupedCommand

if TYPE_CHECKING:
    from dprune.formats.members import MemberChoice


@click.command(cls=GroupedCommand)
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@options.apply(
    options.option("--deep", group="Data", common=True, is_flag=True,
                   help="Read shards in full and check the digests that their manifests list."),
    options.option("--shards", group="Data", common=True, multiple=True, metavar="SHARDS",
                   help="List the samples of FILE with their keys, shards and labels. SHARDS may be a store, too."),
    options.count("--head", "Number of samples to list.  [default: all, or 20 on a terminal]", group="Output",
                  common=True),
    options.members,
    options.option("--json", "json_", group="Output", common=True, is_flag=True,
                   help="Print one JSON object with a list `files`."),
    *flags.verbosity,
)  # fmt: skip
def command(
    files: tuple[str, ...], deep: bool, shards: tuple[str, ...], head: int | None, members: MemberChoice, json_: bool
) -> None:
    """Tell what files hold, what made them and if they are sound.

    FILE is shards, a store, a sweep, a run folder, an array (- for one on stdin), clusters, a result, or any other
    safetensors. Of each file it prints counts and shapes, the chain of commands that made it, and every problem found.
    It exits with 3 when something is wrong.

    Problems are tars without an end marker, shards that their manifest does not fit, missing files of a store, subsets
    that are unsorted or out of range, and files that belong to different datasets. Nothing is decoded and only the
    headers of shards are read, so it is quick.

    With --shards it lists the samples of one subset, array of scores or labels, or clusters instead: a row each, with
    tabs between the columns when the output is no terminal.

    \b
    Examples:
      dprune info shards features clusters.safetensors keep.npy
      dprune select distance.npy --keep 10% | dprune info -
      dprune info keep.npy --shards shards | head
      dprune info keep.npy --json | jq .files[0].provenance
      dprune info shards --deep
    """
    from dprune.inspecting.inspect_shards import Look
    from dprune.inspecting.job import open_info
    from dprune.inspecting.listing import open_listing

    if head is not None and not shards:
        raise click.UsageError("--head shortens the list of samples, which needs --shards: name their dataset with it.")
    found = open_listing(files, shards, members, head) if shards else open_info(files, Look(members, deep))
    console.emit_found(found, as_json=json_)
    console.check_found(found)
