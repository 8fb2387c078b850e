"""Standard errors by leaving out one block of the generated samples at a time.

Bootstrap replicates hold duplicates, which bias Fréchet distances and the metrics of nearest neighbours; a jackknife
holds none. The reference is held fixed: what differs between two models that face one reference is their samples.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dprune.metrics.differences import jackknife_error
from dprune.seeds import generator

COUNT = 20


@dataclass(frozen=True)
class Estimate:
    """A number and its standard error.

    Attributes:
        value: the number.
        error: NaN where none was asked for or none can be told.
        replicates: the number without each block of samples, in their order; none without an error.
    """

    value: float
    error: float = math.nan
    replicates: tuple[float, ...] = ()


@dataclass(frozen=True)
class Blocks:
    """A random partition of samples into blocks of equal size, give or take one.

    Random, because samples are often sorted by class, and a block of one class would be no sample of the whole.

    Attributes:
        labels: block of each sample, int64 [n], on the samples' device.
        sizes: samples in each block.
    """

    labels: Tensor
    sizes: tuple[int, ...]

    @classmethod
    def draw(cls, samples: int, seed: int = 0, device: torch.device | str = "cpu", count: int = COUNT) -> Blocks:
        """Partition `samples` samples into `count` blocks, or into single ones where there are fewer."""
        count = min(count, samples)
        labels = np.empty(samples, dtype=np.int64)
        labels[generator(seed, "jackknife blocks").permutation(samples)] = np.arange(samples) * count // max(1, samples)
        sizes = np.bincount(labels, minlength=count)
        return cls(torch.from_numpy(labels).to(device), tuple(sizes.tolist()))

    @classmethod
    def whole(cls, x: Tensor) -> Blocks:
        """Put all rows of `x` [n, ...] into one block, without which nothing is left: no error can be told."""
        return cls(torch.zeros(len(x), dtype=torch.int64, device=x.device), (len(x),))

    def __len__(self) -> int:
        return len(self.sizes)

    @property
    def remaining(self) -> tuple[int, ...]:
        """Samples that are left without each block."""
        return tuple(len(self.labels) - size for size in self.sizes)

    def rows(self, x: Tensor) -> Iterator[Tensor]:
        """Yield the rows of `x` [n, ...] that belong to each block."""
        order = self.labels.argsort(stable=True)
        for ids in order.split(list(self.sizes)):
            yield x.index_select(0, ids)

    def one_hot(self, dtype: torch.dtype) -> Tensor:
        """Return membership as a matrix [n, blocks] of zeros and ones."""
        table = torch.zeros((len(self.labels), len(self)), dtype=dtype, device=self.labels.device)
        return table.scatter_(1, self.labels.unsqueeze(1), 1)

    def without_each(self, sums: Tensor) -> Tensor:
        """Return the total of block sums [blocks, ...] without each block, of the same shape."""
        return sums.sum(0, keepdim=True) - sums

    def estimate(self, value: float, replicates: Sequence[float] | npt.NDArray[np.float64] | Tensor) -> Estimate:
        """Put the standard error beside a value, see `jackknife_error`.

        Args:
            value: the statistic of all samples.
            replicates: the statistic without each block, in their order.
        """
        if isinstance(replicates, torch.Tensor):
            replicates = replicates.tolist()
        left_out = np.asarray(replicates, dtype=np.float64)
        if len(left_out) < 2:
            return Estimate(value)
        return Estimate(value, jackknife_error(value, left_out, self.sizes), tuple(left_out.tolist()))

    def mean(self, values: Tensor) -> Estimate:
        """Return the mean of values [n] and its error; what is not finite is left out."""
        known = torch.isfinite(values)
        table = torch.stack([values.double().where(known, 0.0), known.double()], 1)
        sums = table.new_zeros((len(self), 2)).index_add_(0, self.labels, table)
        mean = sums.sum(0)
        left_out = self.without_each(sums)
        return self.estimate(float(mean[0] / mean[1]), left_out[:, 0] / left_out[:, 1])
