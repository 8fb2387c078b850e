"""Randomness that belongs to (seed, purpose, sample), never to a process or a position in a batch."""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt


def purpose_key(seed: int, purpose: str) -> int:
    """Return a 64-bit key for one use of randomness, independent of every other purpose's key."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{purpose}".encode()).digest()[:8], "little")


def generator(seed: int, purpose: str) -> np.random.Generator:
    """Return a numpy generator for draws that are made once a run."""
    return np.random.Generator(np.random.Philox(key=purpose_key(seed, purpose)))


def hash_ids(seed: int, purpose: str, ids: npt.NDArray[np.int64]) -> npt.NDArray[np.uint64]:
    """Hash each id to 64 uniform bits.

    The finalizer is that of SplitMix64 (Steele, Lea and Flood, 2014), applied twice with the key mixed in between,
    so that neighbouring ids and neighbouring seeds are unrelated.

    Args:
        seed: the run's seed.
        purpose: what the bits are for.
        ids: sample ids, any shape.

    Returns:
        uint64 array of the shape of `ids`.
    """
    key = np.uint64(purpose_key(seed, purpose))
    with np.errstate(over="ignore"):
        bits = _mix((ids.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15))
        return _mix(bits ^ key)


def _mix(z: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def uniform_ids(seed: int, purpose: str, ids: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    """Return a float32 in [0, 1) for each id: the top 24 bits of its hash, which float32 holds exactly."""
    return (hash_ids(seed, purpose, ids) >> np.uint64(40)).astype(np.float32) / np.float32(1 << 24)
