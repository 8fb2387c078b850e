"""The autoencoder's parts: quantiser, discriminator, perceptual distances, measures, files."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import dprune
from scipy.ndimage import gaussian_filter
from torch.nn.functional import normalize
from torchvision.models import vgg16

from dprune.errors import InputError
from dprune.formats.provenance import make_record
from dprune.models import quantizer
from dprune.models.discriminator import LARGEST_SCALE, PatchGAN, adaptive_scale, discriminator_loss
from dprune.models.files import publish_model
from dprune.models.perceptual import LPIPS, FeatureDistance
from dprune.models.pixels import centred, centred_psnr, psnr
from dprune.models.quantizer import Quantizer, code_use, nearest_codes
from dprune.models.vae import VAE, VAEConfig, load_vae
from dprune.training.vae.evaluation import ssim

CPU = torch.device("cpu")
VQ = VAEConfig("vq", 16, 8, (1, 2, 2), 1, 3, 20, False)
KL = VAEConfig("kl", 16, 8, (1, 2, 2), 1, 3, 0, False)
L2 = VAEConfig("vq", 32, 8, (1, 1, 2, 2), 1, 3, 20, True)


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def made(config: VAEConfig, seed: int = 0) -> VAE:
    torch.manual_seed(seed)
    vae = VAE(config)
    if config.kind == "vq":
        torch.nn.init.normal_(vae.quantizer.embedding)
    return vae


def saved(path: Path, vae: VAE, **changes: object) -> Path:
    header = {"kind": "vae", **vae.config.as_json(), **changes}
    publish_model(path, vae.state_dict(), header, make_record("train-vae", {}))
    return path


@pytest.mark.parametrize("config", [VQ, KL, L2])
def test_files_hold_the_whole_autoencoder(config: VAEConfig, tmp_path: Path) -> None:
    vae, images = made(config), noise(2, 3, config.image_size, config.image_size)
    loaded, file = load_vae(saved(tmp_path / "m.safetensors", vae), CPU)
    assert loaded.config == config
    assert file.network["kind"] == "vae"
    assert not loaded.training
    assert not any(p.requires_grad for p in loaded.parameters())
    assert torch.equal(loaded.reconstruct(images), vae.reconstruct(images))
    assert loaded.reconstruct(images).shape == images.shape


def test_files_that_are_no_autoencoder(tmp_path: Path) -> None:
    vae, record = made(VQ), make_record("x", {})
    publish_model(tmp_path / "dit", {"a": torch.ones(1)}, {"kind": "dit"}, record)
    torch.save({"a": torch.ones(1)}, tmp_path / "other")
    for name, words in (("dit", "kind dit"), ("other", "no autoencoder that dprune knows")):
        with pytest.raises(InputError, match=f"{words}.*train-vae"):
            load_vae(tmp_path / name, CPU)
    with pytest.raises(InputError, match=r"does not fit.*embedding is"):
        load_vae(saved(tmp_path / "codes", vae, codes=21), CPU)
    with pytest.raises(InputError, match="damaged"):
        load_vae(saved(tmp_path / "width", vae, width="wide"), CPU)
    state = {key: value for key, value in vae.state_dict().items() if "after" not in key}
    publish_model(tmp_path / "part", state, {"kind": "vae", **VQ.as_json()}, record)
    with pytest.raises(InputError, match=r"after_latent\.weight is missing"):
        load_vae(tmp_path / "part", CPU)


def test_nearest_code_in_pieces_and_in_full_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    tokens, codes = noise(1000, 4), 0.01 * noise(50, 4, seed=1)
    expected = torch.cdist(tokens.double(), codes.double()).argmin(1)
    assert torch.equal(nearest_codes(tokens, codes), expected)
    monkeypatch.setattr(quantizer, "MOST_DISTANCES", 50 * 7)
    torch.set_float32_matmul_precision("high")
    try:
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(nearest_codes(tokens, codes), expected)
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision("highest")


def test_codes_are_rows_of_places() -> None:
    vae, images = made(VQ), noise(2, 3, 16, 16)
    codes, snapped = vae.codes(images), vae.snap(vae.encode(images))
    assert codes.dtype == torch.int64
    assert codes.shape == (2, 16)
    assert len(codes.unique()) > 2
    for row, column in ((0, 3), (2, 1)):
        assert torch.equal(snapped[1, :, row, column], vae.codebook[codes[1, 4 * row + column]])
    assert torch.equal(vae.snap(snapped), snapped)


def test_unit_codes_do_not_see_length() -> None:
    vae, latents = made(L2), noise(2, 3, 4, 4)
    torch.testing.assert_close(vae.codebook.norm(dim=1), torch.ones(20))
    assert torch.equal(vae.snap(latents), vae.snap(7 * latents))
    similar = normalize(latents, dim=1).permute(0, 2, 3, 1) @ vae.codebook.T
    assert torch.equal(vae.quantizer.codes(latents), similar.argmax(3).flatten(1))


def test_gaussian_latents() -> None:
    vae, images = made(KL), noise(2, 3, 16, 16)
    with torch.no_grad():
        vae.before_latent.bias[3:] = torch.tensor([50.0, -50.0, 0.0])
    mean, logvar = vae.moments(images)
    assert mean.shape == logvar.shape == (2, 3, 4, 4)
    assert logvar[:, 0].unique().tolist() == [20]
    assert logvar[:, 1].unique().tolist() == [-30]
    assert torch.equal(vae.snap(mean), mean)


def test_gradients_of_the_quantiser() -> None:
    table = Quantizer(20, 3, normalized=False)
    torch.nn.init.normal_(table.embedding)
    latents, pull = noise(2, 3, 4, 4).requires_grad_(), noise(2, 3, 4, 4, seed=1)
    found = table(latents)
    chosen = table.embedding[found.codes].view(2, 4, 4, 3).permute(0, 3, 1, 2)
    torch.testing.assert_close(found.latents, chosen)
    through = functools.partial(torch.autograd.grad, inputs=(latents, table.embedding), allow_unused=True)
    straight, none = through((found.latents * pull).sum(), retain_graph=True)
    assert torch.equal(straight, pull)
    assert none is None
    away = (latents - chosen).detach()
    to_code, none = through(found.commitment.sum(), retain_graph=True)
    assert none is None
    torch.testing.assert_close(to_code, 2 * away / away[0].numel())
    none, to_latent = through(found.codebook.sum())
    assert none is None
    summed = torch.zeros(20, 3).index_add_(0, found.codes.flatten(), away.permute(0, 2, 3, 1).reshape(-1, 3))
    torch.testing.assert_close(to_latent, -2 * summed / away[0].numel())


def test_usage_and_revival() -> None:
    table = Quantizer(4, 2, normalized=False)
    first = torch.arange(8.0).view(4, 2)
    assert table.revive(first).all()
    assert torch.equal(table.embedding, first)
    assert table.usage.tolist() == [1, 1, 1, 1]
    for _ in range(500):
        table.observe(table.counts(torch.tensor([[0, 0, 0], [1, 0, 2]])))
    torch.testing.assert_close(table.usage[:3], torch.tensor([8 / 3, 2 / 3, 2 / 3]), rtol=0.05, atol=0)
    used, perplexity = code_use(table.counts(torch.tensor([[0, 0, 0], [1, 0, 2]])))
    assert used == 0.75
    probabilities = np.array([4, 1, 1]) / 6
    assert perplexity == pytest.approx(np.exp(-(probabilities * np.log(probabilities)).sum()))
    assert table.revive(-first).tolist() == [False, False, False, True]
    assert torch.equal(table.embedding, torch.cat((first[:3], -first[3:])))
    assert table.usage[3] == 1
    assert not table.revive(first).any()


@pytest.mark.parametrize(("side", "patches"), [(16, 6), (32, 6), (64, 6), (256, 30)])
def test_discriminator_sees_each_image_alone(side: int, patches: int) -> None:
    discriminator, images = PatchGAN(side), noise(3, 3, side, side)
    logits = discriminator(images)
    assert logits.shape == (3, 1, patches, patches)
    torch.testing.assert_close(discriminator(images[1:2]), logits[1:2], rtol=1e-4, atol=1e-6)


def test_losses_of_the_discriminator() -> None:
    real, fake = torch.tensor([2.0, 0.0]).view(2, 1, 1, 1), torch.tensor([-3.0, 0.5]).view(2, 1, 1, 1)
    assert discriminator_loss(real, fake).tolist() == [0, 0.5 * (1 + 1.5)]
    assert adaptive_scale(torch.full((4,), 3.0), torch.full((4,), -2.0)) == pytest.approx(1.5)
    assert adaptive_scale(torch.ones(4), torch.zeros(4)) == LARGEST_SCALE
    assert adaptive_scale(torch.zeros(4), torch.zeros(4)) == 0


@pytest.fixture(scope="module")
def lpips_state() -> dict[str, torch.Tensor]:
    """A state dict as the package lpips makes it, of random weights."""
    torch.manual_seed(0)
    features = vgg16(weights=None).features
    state = {"scaling_layer.shift": torch.zeros(1, 3, 1, 1), "scaling_layer.scale": torch.ones(1, 3, 1, 1)}
    stops = (4, 9, 16, 23, 30)
    for name, value in features.state_dict().items():
        number = sum(int(name.split(".")[0]) >= stop for stop in stops)
        state[f"net.slice{number + 1}.{name}"] = value
    for number, channels in enumerate((64, 128, 256, 512, 512)):
        head = torch.rand(1, channels, 1, 1)
        state |= {f"lin{number}.model.1.weight": head, f"lins.{number}.model.1.weight": head}
    return state


def test_lpips_by_its_definition(lpips_state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    torch.save(lpips_state, tmp_path / "lpips.pt")
    distance, (a, b) = LPIPS(tmp_path / "lpips.pt"), noise(2, 2, 3, 32, 32)
    features = vgg16(weights=None).features
    features.load_state_dict({k.split(".", 2)[2]: v for k, v in lpips_state.items() if k.startswith("net.")})
    expected = torch.zeros(2)
    x, y = ((image - torch.tensor([-0.030, -0.088, -0.188])[:, None, None])
            / torch.tensor([0.458, 0.448, 0.450])[:, None, None] for image in (a, b))  # fmt: skip
    depth = 0
    for number, layer in enumerate(features):
        x, y = layer(x), layer(y)
        if number in (3, 8, 15, 22, 29):
            difference = (normalize(x, dim=1) - normalize(y, dim=1)).square()
            expected += (difference * lpips_state[f"lin{depth}.model.1.weight"]).sum(1).mean((1, 2))
            depth += 1
    torch.testing.assert_close(distance(a, b), expected, rtol=1e-4, atol=1e-6)
    assert distance(a, a).abs().max() == 0
    assert not any(p.requires_grad for p in distance.parameters())
    assert not distance.train().training


def test_lpips_weights_that_are_not(lpips_state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    torch.save({k: v for k, v in lpips_state.items() if k != "lin3.model.1.weight"}, path)
    with pytest.raises(InputError, match=r"--lpips-weights .*lin3.model.1.weight is missing"):
        LPIPS(path)
    torch.save({**lpips_state, "net.slice6.1.weight": torch.ones(1)}, path)
    with pytest.raises(InputError, match=r"net\.slice6\.1\.weight is not expected"):
        LPIPS(path)
    torch.save({**lpips_state, "lin0.model.1.weight": torch.ones(1, 3, 1, 1)}, path)
    with pytest.raises(InputError, match=r"lin0.model.1.weight is \[1, 3, 1, 1\], not \[1, 64, 1, 1\]"):
        LPIPS(path)


@pytest.mark.parametrize("name", ["resnet10t", "test_vit"])
def test_feature_distance(name: str) -> None:
    import timm

    torch.manual_seed(0)
    module = timm.create_model(name, num_classes=0, **({"img_size": 32} if "vit" in name else {}))
    distance = FeatureDistance(module, (0.5, 0.4, 0.3), (0.2, 0.2, 0.2))
    a, b = noise(2, 3, 32, 32).requires_grad_(), noise(2, 3, 32, 32, seed=1)
    found = distance(a, b)
    assert found.shape == (2,)
    assert (found > 0).all()
    assert distance(a, a).abs().max() < 1e-6
    found.sum().backward()
    assert a.grad is not None
    assert a.grad.abs().sum() > 0
    seen = distance._normalised(2 * torch.tensor([0.5, 0.4, 0.5])[:, None, None] - 1)
    torch.testing.assert_close(seen.flatten(), torch.tensor([0.0, 0.0, 1.0]), atol=1e-5, rtol=0)


def test_measures_by_their_definitions() -> None:
    draw = np.random.default_rng(0)
    a = draw.integers(0, 256, (2, 3, 24, 20), dtype=np.uint8)
    b = np.clip(a + draw.normal(0, 30, a.shape), 0, 255).astype(np.uint8)
    x, y = a.astype(np.float64), b.astype(np.float64)
    expected = 10 * np.log10(255**2 / ((x - y) ** 2).mean((1, 2, 3)))
    np.testing.assert_allclose(psnr(torch.from_numpy(a), torch.from_numpy(b)), expected, rtol=1e-5)
    blur = functools.partial(gaussian_filter, sigma=1.5, truncate=5 / 1.5, axes=(2, 3))
    mx, my = blur(x), blur(y)
    vx, vy, cov = blur(x * x) - mx**2, blur(y * y) - my**2, blur(x * y) - mx * my
    c1, c2 = 6.5025, 58.5225
    whole = (2 * mx * my + c1) * (2 * cov + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))
    found = ssim(torch.from_numpy(a), torch.from_numpy(b))
    np.testing.assert_allclose(found, whole[:, :, 5:-5, 5:-5].mean((1, 2, 3)), rtol=1e-5)
    assert psnr(torch.from_numpy(a), torch.from_numpy(a)).tolist() == pytest.approx([100, 100])
    x, y = centred(torch.from_numpy(a)), centred(torch.from_numpy(b))
    np.testing.assert_allclose(centred_psnr(y, x), expected, rtol=1e-5)
    assert torch.equal(centred_psnr(2 * y, x), centred_psnr((2 * y).clamp(-1, 1), x))
    assert centred_psnr(x, x).tolist() == pytest.approx([106.02, 106.02], abs=0.01)


def test_help_names_the_presets() -> None:
    help_ = dprune("train-vae", "--help-all").ok().out.decode()
    assert "base 128, tiny 16" in " ".join(help_.split())
