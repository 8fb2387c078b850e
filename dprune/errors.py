"""What can go wrong, each kind with the exit code that the shell sees.

A message is one sentence that names the file or option and the remedy.
"""

import contextlib
from collections.abc import Iterator


class DpruneError(Exception):
    """A failure of dprune itself or of the machine under it."""

    exit_code = 1


class UsageError(DpruneError):
    """A command that contradicts itself or its environment."""

    exit_code = 2


class InputError(DpruneError):
    """Input that is missing, damaged or not what the command takes."""

    exit_code = 3


class BadImage(InputError):
    """Bytes that are no readable image, which costs a sample and not the work."""


class MismatchError(InputError):
    """Two inputs that are sound but do not belong together."""


def unreadable(path: object, error: OSError) -> InputError:
    """Describe a file that the system does not let us read."""
    if isinstance(error, FileNotFoundError):
        return InputError(f"{path}: no such file.")
    return InputError(f"{path}: cannot be read: {(error.strerror or str(error)).lower()}.")


@contextlib.contextmanager
def writing_stdout() -> Iterator[None]:
    """Describe a stdout that is closed or full; a pipe that nobody reads any more is the caller's to end on."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise DpruneError(f"cannot write stdout: {(error.strerror or str(error)).lower()}.") from error


class Interrupted(DpruneError):
    """Stopped by a signal or by --stop-after; the same command goes on from here."""

    exit_code = 75
