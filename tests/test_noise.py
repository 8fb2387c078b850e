"""Counter-based noise."""

import pytest
import torch

from dprune import noise


def test_philox_gives_the_published_numbers():
    # Random123's known answers for philox4x32-10.
    zero = torch.zeros(1, dtype=torch.int64)
    found = noise._philox((zero, zero, zero, zero), 0, 0)
    assert [int(word) for word in found] == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]
    ones = zero + 0xFFFFFFFF
    found = noise._philox((ones, ones, ones, ones), 0xFFFFFFFF, 0xFFFFFFFF)
    assert [int(word) for word in found] == [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]
    pi = (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344)
    found = noise._philox(tuple(zero + word for word in pi), 0xA4093822, 0x299F31D0)
    assert [int(word) for word in found] == [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1]


def test_numbers_stay_what_they_are():
    """A change would give other scores and other images for the seeds that people have published."""
    found = noise.bits(1, "test", torch.tensor([7, 2**40 + 3]), 5, 5)
    assert found.tolist() == [[0xA2CD6448, 0xB207A64F, 0xA2AF7A67, 0x6B4A387F, 0x2F9A77FA],
                              [0x752FA764, 0x3C46776F, 0xAC25718D, 0x13FA8264, 0xF8FC414A]]  # fmt: skip
    assert noise.uniform(1, "test", torch.tensor([7]), 5).item() == ((0xA2CD6448 >> 9) + 0.5) / 2**23
    drawn = noise.normal(1, "test", torch.tensor([7]), 5, (3,))
    torch.testing.assert_close(drawn, torch.tensor([[-0.3198811, -0.8960791, -0.8318306]]))


@pytest.mark.parametrize(("samples", "count"), [(1, 1), (3, 5), (7, 8), (300, 3), (5, 1030), (0, 4)])
def test_the_kernel_gives_the_same_bits(samples, count):
    philox = pytest.importorskip("dprune.kernels.philox").philox
    device = "cuda" if torch.cuda.is_available() else "cpu"
    draw = torch.Generator().manual_seed(samples)
    ids = torch.randint(2**40, (samples,), generator=draw).to(device)
    draws = torch.randint(2**32, (samples,), generator=draw).to(device)
    for key in (0, 2**31, 2**63 + 5, 2**64 - 1):
        for told in (0, 7, 2**32 - 1, draws):
            expected = noise.plain_bits(key, ids, told, count)
            assert torch.equal(philox(key, ids, told, count, torch.int64), expected)
            fractions = expected.float().add_(0.5).mul_(2.0**-32)
            assert torch.equal(philox(key, ids, told, count, torch.float32), fractions)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_the_bits_of_a_cpu():
    ids = torch.arange(50) * 2**33
    expected = noise.bits(1, "test", ids, ids, 7)
    assert torch.equal(noise.bits(1, "test", ids.cuda(), ids.cuda(), 7).cpu(), expected)
    near = noise.normal(1, "test", ids.cuda(), ids.cuda(), (7,)).cpu()
    torch.testing.assert_close(near, noise.normal(1, "test", ids, ids, (7,)))


def test_no_bits_give_what_is_no_number(monkeypatch):
    for word in (0, 0xFFFFFFFF):
        monkeypatch.setattr(noise, "plain_bits", lambda *_, word=word: torch.full((2, 4), word))
        drawn = noise.normal(1, "test", torch.arange(2), 0, (4,))
        assert torch.isfinite(drawn).all()
        assert 0 < noise.uniform(1, "test", torch.arange(2)).max() < 1


def test_a_samples_numbers_do_not_depend_on_its_batch():
    ids = torch.tensor([7, 0, 2**40 + 3])
    together = noise.normal(1, "test", ids, 5, (3, 2))
    for row, one in enumerate(ids):
        assert torch.equal(noise.normal(1, "test", one[None], 5, (3, 2))[0], together[row])


def test_each_sample_may_have_a_draw_of_its_own():
    ids, draws = torch.tensor([7, 7, 0, 2**40 + 3]), torch.tensor([5, 2**32 - 1, 0, 5])
    together = noise.normal(1, "test", ids, draws, (3, 2)), noise.uniform(1, "test", ids, draws)
    for row, (one, draw) in enumerate(zip(ids, draws.tolist(), strict=True)):
        assert torch.equal(noise.normal(1, "test", one[None], draw, (3, 2))[0], together[0][row])
        assert torch.equal(noise.uniform(1, "test", one[None], draw)[0], together[1][row])


@pytest.mark.parametrize("other", [(2, "test", 5), (1, "other", 5), (1, "test", 6)])
def test_seed_purpose_and_draw_each_change_the_numbers(other):
    ids = torch.arange(4)
    seed, purpose, draw = other
    assert not torch.equal(noise.normal(1, "test", ids, 5, (8,)), noise.normal(seed, purpose, ids, draw, (8,)))


def test_numbers_are_normal_and_uniform():
    drawn = noise.normal(0, "test", torch.arange(2000), 0, (501,))
    for power, moment, spread in ((1, 0, 1), (2, 1, 2**0.5), (3, 0, 15**0.5), (4, 3, 96**0.5)):
        assert abs(drawn.double().pow(power).mean() - moment) < 4 * spread / drawn.numel() ** 0.5
    neighbours = (drawn[:, 1:] * drawn[:, :-1]).mean(), (drawn[1:] * drawn[:-1]).mean()
    assert all(abs(value) < 4e-3 for value in neighbours)
    uniform = noise.uniform(0, "test", torch.arange(100_000))
    assert uniform.min() > 0
    assert uniform.max() < 1
    assert abs(uniform.mean() - 0.5) < 4 * (1 / 12 / 1e5) ** 0.5
