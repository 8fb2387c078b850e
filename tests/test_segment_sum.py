"""The kernel that adds up segments, against float64; without a GPU it runs in Triton's interpreter."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton")
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize(("rows", "width"), [(1, 1), (70, 5), (300, 300), (33, 256), (50, 769)])
def test_sums_of_segments(rows: int, width: int) -> None:
    from dprune.kernels.segment_sum import segment_sums

    draw = torch.Generator().manual_seed(rows)
    x = torch.randn((rows, width), generator=draw)
    order = torch.randint(rows, (2 * rows,), generator=draw)
    # Empty segments too: at the beginning, side by side, and behind the last place.
    starts = torch.cat([torch.tensor([0, 0, 0]), torch.randint(2 * rows, (9,), generator=draw).sort().values])
    starts = torch.cat([starts, starts[-1:], torch.tensor([2 * rows])])
    ends = torch.cat([starts[1:], torch.tensor([2 * rows])])
    expected = torch.stack([x[order[a:b]].double().sum(0) for a, b in zip(starts, ends, strict=True)])
    found = segment_sums(x.to(DEVICE), order.to(DEVICE), starts.to(DEVICE)).cpu()
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(found, segment_sums(x.to(DEVICE), order.to(DEVICE), starts.to(DEVICE)).cpu())
