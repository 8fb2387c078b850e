"""`python -m dprune`, which is also what torchrun starts: what a process does before it imports anything."""

from __future__ import annotations

import os
import sys

from dprune import signals

NOWHERE = "/nonexistent"


def main() -> None:
    """Run the command line."""
    _replace_closed_streams()
    signals.listen()
    _do_without_home()
    from dprune.cli import cli

    cli(prog_name="dprune")


def _replace_closed_streams() -> None:
    """Put streams that cannot be used in place of closed ones, whose numbers the next files would get."""
    # What is said may go nowhere, but data must not: reading and writing the other two fails.
    for number, (name, mode, flag) in enumerate(
        (("stdin", "r", os.O_WRONLY), ("stdout", "w", os.O_RDONLY), ("stderr", "w", os.O_WRONLY))
    ):
        if getattr(sys, name) is None:
            os.open(os.devnull, flag)
            setattr(sys, name, open(number, mode, closefd=False))  # noqa: SIM115 - it is open as long as the process


def _do_without_home() -> None:
    """Give a user without a home, as containers have them, one that caches are not written to."""
    if not os.path.isabs(os.path.expanduser("~")):
        os.environ["HOME"] = NOWHERE
        os.environ.setdefault("USER", str(os.getuid()))


if __name__ == "__main__":
    main()
