"""What all metrics ask of their rows, and how they walk over them without filling the memory."""

from __future__ import annotations

from collections.abc import Iterator

from dprune.errors import InputError, MismatchError
from dprune.namespace import Array, is_floating, namespace

CHUNK_BYTES = 64 << 20
# Sums of squares of larger numbers leave float32.
LARGEST = 1e15


def finite_rows(x: Array) -> Array:
    """Tell which rows [n, d] hold only finite numbers, bool [n]; samples that could not be decoded are NaN rows."""
    xp = namespace(x)
    kept = xp.empty(len(x), dtype=xp.bool, device=x.device)
    for low, high in spans(len(x), x.shape[1]):
        kept[low:high] = xp.isfinite(x[low:high]).all(1)
    return kept


def check_rows(x: Array, role: str, least: int = 1) -> None:
    """Refuse rows that no metric can take.

    Args:
        x: floats [n, d].
        role: what a message calls them, such as `generated`.
        least: fewest rows that will do.

    Raises:
        InputError: they are no matrix of floats, too few, too large to compute with, or some are not finite.
    """
    if x.ndim != 2 or not is_floating(x) or not x.shape[1]:
        raise InputError(f"the {role} features are {x.dtype} of {list(x.shape)}: give floats of shape [n, d].")
    if len(x) < least:
        raise InputError(f"{len(x)} {role} samples are too few for this metric: give at least {least}.")
    bad = len(x) - int(finite_rows(x).sum())
    if bad:
        raise InputError(f"{bad} rows of the {role} features hold NaN or infinity: leave those samples out.")
    largest = max(-float(x.min()), float(x.max())) if len(x) else 0.0
    if largest > LARGEST:
        raise InputError(
            f"the {role} features reach {largest:.3g}, too large to compute with: divide those of "
            "all sides by one number."
        )


def check_pair(generated: Array, reference: Array, least: int = 1) -> None:
    """Refuse two sets of rows that cannot be compared.

    Raises:
        InputError: one of them is unusable, see `check_rows`.
        MismatchError: their dimensions differ.
    """
    check_rows(generated, "generated", least)
    check_rows(reference, "reference", least)
    check_dimensions(generated.shape[1], reference.shape[1])


def check_dimensions(generated: int, reference: int) -> None:
    """Refuse features of different dimensions.

    Raises:
        MismatchError: the two differ.
    """
    if generated != reference:
        raise MismatchError(
            f"the generated features have {generated} dimensions and the reference {reference}: "
            "make both with the same model."
        )


def spans(count: int, width: int) -> Iterator[tuple[int, int]]:
    """Yield the bounds of chunks of `count` rows that take 64 MiB as float64 [rows, width]."""
    step = max(1, CHUNK_BYTES // (8 * max(1, width)))
    for low in range(0, count, step):
        yield low, min(low + step, count)


def unit_rows(x: Array) -> Array:
    """Scale rows [n, d] to unit length, as float64; zero rows stay zero."""
    xp = namespace(x)
    rows = xp.asarray(x, dtype=xp.float64)
    return rows / xp.clip(xp.linalg.vector_norm(rows, axis=1)[:, None], xp.finfo(xp.float64).tiny, None)
