"""The command line: a table of subcommands, each imported only when it runs."""

from __future__ import annotations

import errno
import importlib
import io
import sys
import traceback
from typing import Any

import click
from click.shell_completion import CompletionItem

from dprune import __version__, console
from dprune.errors import DpruneError, InputError
from dprune.shell.completion import complete_places
from dprune.shell.flags import FlaggedGroup, before_subcommands

STAGES: dict[str, dict[str, str]] = {
    "Curate": {
        "pack": "Pack images or a subset of shards into WebDataset shards.",
        "embed": "Turn the images of shards into a store of features.",
        "cluster": "Cluster features by k-means.",
        "score": "Give every sample a score to prune by.",
        "select": "Choose the samples to keep, by scores, clusters or sets.",
    },
    "Generate": {
        "train-vae": "Train an autoencoder on images.",
        "encode": "Turn the images of shards into a store of latents.",
        "train-dit": "Train a diffusion transformer on latents by flow matching.",
        "train-baseline": "Train a VAE or a GAN on images, to hold a DiT to.",
        "sample": "Generate images, one per seed, as WebDataset shards.",
    },
    "Measure": {
        "eval": "Compare generated samples with a reference (FID and others).",
        "memorization": "Find generated samples that repeat training samples.",
        "report": "Put results together as tables, curves and one HTML page.",
    },
    "Inspect": {
        "info": "Tell what files hold, what made them and if they are sound.",
        "status": "Tell how far outputs are and what a rerun would do.",
    },
    "Shell": {
        "help": "Show the help of a command.",
        "completion": "Print the script that completes dprune in bash, zsh or fish.",
    },
}

EPILOG = "\b\nHelp: dprune help COMMAND\nManual: man dprune, man dprune-COMMAND, man dprune-files"


class LazyGroup(FlaggedGroup):
    """A group whose names and summaries stand in `STAGES`, so that --help imports no command."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of all subcommands, in the order of the pipeline."""
        return [name for commands in STAGES.values() for name in commands]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the module of one subcommand; its command object is called `command`."""
        if cmd_name not in self.list_commands(ctx):
            return None
        module = importlib.import_module(f"dprune.commands.{cmd_name.replace('-', '_')}")
        command: click.Command = module.command
        _name_variables(command, f"DPRUNE_{cmd_name}")
        complete_places(command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the subcommand that arguments begin with, and suggest one where there is none of that name."""
        try:
            return super().resolve_command(ctx, args)
        except click.exceptions.NoSuchCommand as error:
            names = self.list_commands(ctx)
            groups = ((name, group) for name in names if isinstance(group := self.get_command(ctx, name), click.Group))
            within = next((name for name, group in groups if error.command_name in group.commands), None)
            hint = f" Did you mean '{within} {error.command_name}'?" if within else ""
            message = f"{error.message}{hint}"
            raise click.exceptions.NoSuchCommand(error.command_name, message, () if within else names, ctx) from error

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Complete subcommands, without importing them, and options."""
        options = super().shell_complete(ctx, incomplete) if incomplete.startswith("-") else []
        summaries = {name: summary for commands in STAGES.values() for name, summary in commands.items()}
        found = [CompletionItem(name, help=text) for name, text in summaries.items() if name.startswith(incomplete)]
        return options + found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the subcommands under their stages."""
        widest = max(map(len, self.list_commands(ctx)))
        for stage, commands in STAGES.items():
            with formatter.section(stage):
                formatter.write_dl([(name.ljust(widest), summary) for name, summary in commands.items()])

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run a command and turn what it raises into one sentence and an exit code."""
        kwargs["standalone_mode"] = False
        console.encode_all()
        try:
            code = super().main(*args, **kwargs)
            sys.stdout.flush()
        except click.UsageError as error:
            code = _explain_usage(error)
        except (click.Abort, KeyboardInterrupt):
            console.fail("interrupted.")
            code = 130
        except BrokenPipeError:
            code = 1
        except Exception as error:  # noqa: BLE001 - whatever it is, the shell gets one sentence and a code
            code = _explain(error)
        _close("stdout")
        _close("stderr")
        sys.exit(code if isinstance(code, int) else 0)


def _close(stream: str) -> str:
    """Give up a stream that takes no more, and return its name if it is one.

    Python flushes streams once more on its way out, and would complain a second time.
    """
    try:
        getattr(sys, stream).flush()
    except (OSError, ValueError, AttributeError):
        setattr(sys, stream, None)
        return stream
    return ""


def _name_variables(command: click.Command, prefix: str) -> None:
    """Name every option's environment variable after the option as it is typed, not after a Python name."""
    for param in command.params:
        if isinstance(param, click.Option) and param.envvar is None:
            param.envvar = f"{prefix}_{max(param.opts, key=len).lstrip('-')}".replace("-", "_").upper()
    if isinstance(command, click.Group):
        for name, child in command.commands.items():
            _name_variables(child, f"{prefix}_{name}")


class _Screen(io.StringIO):
    """A terminal to click, which from anything else takes escape codes out, as if they had not been there."""

    def isatty(self) -> bool:
        """Say yes."""
        return True


def _explain_usage(error: click.UsageError) -> int:
    screen = _Screen()
    error.show(screen)
    console.fail_at_length(screen.getvalue())
    return error.exit_code


def _explain(error: Exception) -> int:
    if console.verbosity() >= 2:
        console.fail_at_length("".join(traceback.format_exception(error)))
    if isinstance(error, DpruneError):
        console.fail(str(error))
        return error.exit_code
    if isinstance(error, MemoryError):
        console.fail("out of memory: give smaller images, batches or numbers.")
        return 1
    if isinstance(error, OSError):
        where = error.filename or _close("stdout")
        console.fail(f"{where}: {error.strerror or error}." if where else f"{error.strerror or error}.")
        return InputError.exit_code if error.errno in (errno.ENAMETOOLONG, errno.ELOOP) else 1
    first = (str(error).strip() or "no message").splitlines()[0]
    console.fail(f"this should not happen ({type(error).__name__}: {first}): please report it with what -vv shows.")
    return 1


@click.group(
    cls=LazyGroup,
    epilog=EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@before_subcommands
@click.version_option(__version__, prog_name="dprune")
def cli() -> None:
    """Prune the training data of diffusion models.

    Each stage reads and writes plain files (WebDataset shards, .npy and safetensors), so that stages chain
    in shell pipelines, cron and SLURM jobs.

    \b
    Examples:
      dprune pack photos --size 256 -o shards
      dprune embed shards -o features
      dprune cluster features -k 24 -o clusters.safetensors
      dprune score cluster-distance clusters.safetensors -o distance.npy
      dprune select distance.npy --keep 0.25 -o keep.npy
    """
