"""Published weights of DiT, SiT and REPA, held to what their code makes of noise, and Stable Diffusion's of latents."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from pathlib import Path

import foreign
import numpy as np
import pytest
import torch
from conftest import Result, dprune
from PIL import Image
from published import CFG, CLASSES, FOLDER, SEEDS, STEPS, TIMES, drawn, layout, tensors
from safetensors.numpy import save_file
from torch import Tensor

from dprune.flow import Guidance, start
from dprune.models.dit import DiT, DiTConfig, positions
from dprune.models.dit_files import LoadedDiT, load_dit
from dprune.models.files import fits
from dprune.models.foreign_dits import inferred
from dprune.models.parametrization import NOISE, REVERSED, VELOCITY
from dprune.models.vae import load_vae
from dprune.sampling.latents import sample_latents

CPU = torch.device("cpu")
NAMES = {"SiT": VELOCITY, "REPA": REVERSED, "DiT": NOISE}


def state(name: str) -> dict[str, Tensor]:
    drawn_ones = {tensor: torch.from_numpy(values) for tensor, values in tensors(name).items()}
    return {**drawn_ones, "pos_embed": positions(384, 4)}


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Weights as each repository publishes them: plain, or as its training saves them."""
    folder = tmp_path_factory.mktemp("published")
    torch.save({"ema": state("SiT"), "model": {}, "opt": {}, "args": None}, folder / "SiT.pt")
    torch.save({"model": {}, "ema": state("REPA"), "opt": {}, "steps": 4_000_000}, folder / "REPA.pt")
    torch.save(state("DiT"), folder / "DiT.pt")
    (folder / "vae").mkdir()
    save_file(foreign.tensors("small"), folder / "vae" / "sd-vae-ft-mse.safetensors")
    (folder / "vae" / "config.json").write_bytes((foreign.FOLDER / "small.json").read_bytes())
    return {path.stem: path for path in folder.rglob("*.*")}


def loaded(name: str, files: dict[str, Path]) -> LoadedDiT:
    return load_dit(files[name], CPU, NAMES[name])


def latents(name: str, files: dict[str, Path], channels: int | None) -> Tensor:
    labels, seeds = torch.tensor(CLASSES), torch.tensor(SEEDS)
    return sample_latents(loaded(name, files).model, labels, seeds, Guidance(CFG, channels=channels), "euler", STEPS)


def apart(found: Tensor, expected: np.ndarray) -> float:
    """The largest difference, relative to the largest value."""
    return float(np.abs(found.numpy() - expected).max() / np.abs(expected).max())


@pytest.mark.parametrize(("name", "channels"), [("SiT", 3), ("REPA", None)])
def test_latents_are_those_of_their_code(name: str, channels: int | None, files: dict[str, Path]) -> None:
    expected = np.load(FOLDER / f"{name}.npz")["latents"]
    assert apart(latents(name, files, channels), expected) < 1e-5
    assert apart(latents(name, files, 2), expected) > 1e-2


def test_images_are_those_of_diffusers_decoder(files: dict[str, Path]) -> None:
    kept = np.load(FOLDER / "SiT.npz")
    denormalised = loaded("SiT", files).denormalised(latents("SiT", files, 3))
    vae, _ = load_vae(files["sd-vae-ft-mse"], CPU)
    with torch.no_grad():
        assert apart(vae.decode(denormalised), kept["images"]) < 1e-5


def test_noise_of_dit_becomes_velocities(files: dict[str, Path]) -> None:
    """DiT's own diffusion makes data of its noise, of which velocities are the difference."""
    kept, model = np.load(FOLDER / "DiT.npz"), loaded("DiT", files).model
    x, labels = start(torch.tensor(SEEDS), (4, 8, 8)), torch.tensor(CLASSES)
    assert apart(model.predicted(x, torch.tensor(TIMES).float(), labels), kept["noise"]) < 1e-5
    # As much noise on the straight path as DiT has at its timesteps, of which float32 keeps 1 - t.
    ratio = ((1 - kept["kept"].astype(np.float64)) / kept["kept"]) ** 0.5
    level = torch.from_numpy(ratio / (1 + ratio))
    along = x * (level.square() + (1 - level).square()).sqrt().float().view(-1, 1, 1, 1)
    found = model(along, (1 - level).float(), labels)
    for one, data, noise in zip(found, kept["data"], kept["noise"], strict=True):
        assert apart(one, data - noise) < 1e-4


def sample(files: dict[str, Path], name: str, *args: object) -> Result:
    which = ("--seeds", "0-2", "--classes", "7,413,999", "--cfg", CFG, "--steps", STEPS)
    given = ("--vae", files["sd-vae-ft-mse"], "--parametrization", NAMES[name])
    return dprune("sample", files[name], *given, *which, *args)


def test_sample_draws_them(files: dict[str, Path], tmp_path: Path) -> None:
    sample(files, "SiT", "--cfg-channels", 3, "-o", tmp_path / "out").ok()
    expected = (np.load(FOLDER / "SiT.npz")["images"] * 127.5 + 127.5).round().clip(0, 255).transpose(0, 2, 3, 1)
    with tarfile.open(tmp_path / "out" / "000000.tar") as tar:
        for seed in SEEDS:
            found = np.asarray(Image.open(io.BytesIO(tar.extractfile(f"{seed:08d}.png").read())))
            assert found.shape == (32, 32, 3)
            assert found.std() > 10
            # What lies half way between two values may fall either way.
            assert np.abs(found - expected[seed]).max() <= 1
            assert (found == expected[seed]).mean() > 0.99


@pytest.mark.parametrize(
    ("said", "recorded"), [({"scaling_factor": 0.13025}, [0.13025, 0.0]), ({"shift_factor": 0.5}, [0.18215, 0.5])]
)
def test_a_configuration_says_the_scale_of_latents(
    said: dict[str, float], recorded: list[float], files: dict[str, Path], tmp_path: Path
) -> None:
    folder = tmp_path / "vae"
    folder.mkdir()
    (folder / "vae.safetensors").symlink_to(files["sd-vae-ft-mse"])
    (folder / "config.json").write_text(json.dumps(json.loads(files["config"].read_text()) | said))
    changed = {**files, "sd-vae-ft-mse": folder / "vae.safetensors"}
    done = sample(changed, "SiT", "-o", tmp_path / "out").ok()
    assert f"config.json says: minus {recorded[1]:g}, times {recorded[0]:g}." in done.err
    found = json.loads((tmp_path / "out" / "manifest.json").read_text())["provenance"]["options"]
    assert found["latent_scale"] == recorded
    sample(files, "SiT", "-o", tmp_path / "out").fails(3, "latent_scale")
    scaled = loaded("SiT", files).scaled(*recorded)
    assert torch.allclose(scaled.denormalised(torch.ones(1, 4, 1, 1)), torch.tensor(1 / recorded[0] + recorded[1]))


def test_the_folder_has_a_name_where_none_is_given(
    files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    sample(files, "SiT").ok()
    assert (tmp_path / "generated" / "manifest.json").is_file()


def test_projectors_are_left_aside_with_a_word(files: dict[str, Path], tmp_path: Path) -> None:
    assert "REPA.pt: 6 tensors of projectors, which" in sample(files, "REPA", "-o", tmp_path / "out").ok().err
    others = {**state("SiT"), "blocks.0.attn.q_norm.weight": torch.ones(64)}
    torch.save(others, tmp_path / "others.pt")
    given = ("--vae", files["sd-vae-ft-mse"], "--seeds", "0", "-o", tmp_path / "b", "--parametrization", "velocity")
    dprune("sample", tmp_path / "others.pt", *given).fails(3, "others.pt", "blocks.0.attn.q_norm.weight is not")


def of_diffusers(folder: Path, changed: dict[str, Tensor | None] | None = None) -> Path:
    """DiT as diffusers saves it: weights, and a configuration beside them."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_bytes((FOLDER / "diffusers.json").read_bytes())
    values = {name: torch.from_numpy(value) for name, value in tensors("diffusers").items()} | (changed or {})
    torch.save({name: value for name, value in values.items() if value is not None}, folder / "model.bin")
    return folder / "model.bin"


def test_a_pipeline_of_diffusers_samples(files: dict[str, Path], tmp_path: Path) -> None:
    """One folder holds both networks."""
    path = of_diffusers(tmp_path / "DiT-XL-2-256" / "transformer")
    path.rename(path.with_name("diffusion_pytorch_model.bin"))
    shutil.copytree(files["config"].parent, tmp_path / "DiT-XL-2-256" / "vae")
    (tmp_path / "DiT-XL-2-256" / "vae" / "sd-vae-ft-mse.safetensors").rename(
        tmp_path / "DiT-XL-2-256" / "vae" / "diffusion_pytorch_model.safetensors"
    )
    both = tmp_path / "DiT-XL-2-256"
    args = ("--vae", both, "--seeds", "0-2", "--steps", 2, "--parametrization", "noise", "-o", tmp_path / "out")
    dprune("sample", both, *args).ok()
    assert "up to date" in dprune("sample", both / "transformer", *args).ok().err


def test_info_tells_what_they_are(files: dict[str, Path], tmp_path: Path) -> None:
    compiled = {f"module._orig_mod.{name}": value.numpy() for name, value in state("SiT").items()}
    save_file(compiled, tmp_path / "sit.safetensors")
    dit = of_diffusers(tmp_path / "transformer")
    for path in (files["SiT"], files["DiT"], files["REPA"], tmp_path / "sit.safetensors", dit):
        told = json.loads(dprune("info", path, "--json").ok().out)["files"][0]
        assert told["kind"] == "transformer"
        expected = DiTConfig(8, 4, 2, 384, 2, 6, 1000, learn_sigma=path != files["REPA"])
        assert told["content"]["network"] == expected.as_json()
    torch.save({"a": torch.ones(1)}, tmp_path / "other.pt")
    dprune("info", tmp_path / "other.pt").fails(3, "holds no autoencoder or DiT that dprune knows")


def test_diffusers_names_are_read_as_dits(tmp_path: Path) -> None:
    model = load_dit(of_diffusers(tmp_path / "transformer"), CPU, NOISE).model
    assert model.config == DiTConfig(8, 4, 2, 384, 2, 6, 1000, True, NOISE)
    x, labels = start(torch.tensor(SEEDS), (4, 8, 8)), torch.tensor(CLASSES)
    found = model.predicted(x, torch.tensor(TIMES).float(), labels)
    assert apart(found, np.load(FOLDER / "diffusers.npz")["noise"]) < 1e-5


EMBEDDER = "transformer_blocks.1.norm1.emb.timestep_embedder.linear_1.weight"


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        (
            {"caption_projection.linear_1.weight": torch.ones(2)},
            "not a DiT (it has caption_projection.linear_1.weight)",
        ),
        ({EMBEDDER: torch.ones(384, 256)}, f"{EMBEDDER} is not that of its first block"),
        ({EMBEDDER.replace("blocks.1", "blocks.0"): None}, f"{EMBEDDER} is not that of its first block"),
        ({"transformer_blocks.0.attn1.to_q.weight": torch.ones(2, 2)}, "queries, keys and values are of several sizes"),
        ({"transformer_blocks.999999999.ff.net.2.bias": torch.ones(2)}, "it has transformer_blocks.999999999"),
        ({"pos_embed.proj.weight": torch.ones(2)}, "no pos_embed.proj.weight of four dimensions"),
        ({"proj_out_2.weight": None}, "is not a DiT or SiT ('final_layer.linear.weight')"),
        ({"transformer_blocks.1.ff.net.2.bias": None}, "blocks.1.mlp.fc2.bias is missing"),
    ],
)
def test_other_transformers_of_diffusers_are_refused(
    changed: dict[str, Tensor | None], words: str, files: dict[str, Path], tmp_path: Path
) -> None:
    path = of_diffusers(tmp_path / "transformer", changed)
    given = ("--vae", files["sd-vae-ft-mse"], "--seeds", "0", "--parametrization", "noise", "-o", tmp_path / "b")
    dprune("sample", path, *given).fails(3, "model.bin", words)


def test_diffusers_configuration_has_to_be_there(files: dict[str, Path], tmp_path: Path) -> None:
    path = of_diffusers(tmp_path / "transformer")
    given = ("--vae", files["sd-vae-ft-mse"], "--seeds", "0", "--parametrization", "noise", "-o", tmp_path / "b")
    path.with_name("config.json").write_text('{"sample_size": 1000000}')
    dprune("sample", path, *given).fails(3, "config.json", "sample_size")
    path.with_name("config.json").unlink()
    dprune("sample", path, *given).fails(3, "model.bin", "is in the config.json", "copy both")


def test_published_sizes_fit_by_names_and_shapes() -> None:
    """XL/2 of DiT and SiT have the same names and shapes, which are ours."""
    assert layout("DiT-XL-2") == layout("SiT-XL-2")
    shapes = {name: torch.empty(shape, device="meta") for name, shape in layout("SiT-XL-2").items()}
    config, mean, std = inferred(Path("SiT-XL-2-256.pt"), layout("SiT-XL-2"))
    assert config == DiTConfig(32, 4, 2, 1152, 28, 16, 1000, learn_sigma=True)
    assert (mean, std) == ([0.0] * 4, [1 / 0.18215] * 4)
    with torch.device("meta"):
        assert fits(DiT(config).state_dict(), shapes) == ""
    assert sum(value.numel() for value in shapes.values()) == pytest.approx(675e6, rel=0.01)


@pytest.mark.parametrize(
    ("name", "shape", "words"),
    [
        ("y_embedder.embedding_table.weight", (0, 384), "classes"),
        ("x_embedder.proj.weight", (384, 0, 2, 2), "channels"),
        ("x_embedder.proj.weight", (384, 4, 0, 0), "input_size"),
        ("x_embedder.proj.weight", (384, 10**12, 2, 2), "channels"),
        ("x_embedder.proj.weight", (384, 4, 2, 3), "384, 4, 2, 3"),
        ("pos_embed", (1, 10**12, 384), "input_size"),
        ("pos_embed", (1, 15, 384), "1, 15, 384"),
        ("y_embedder.embedding_table.weight", (10**9, 384), "classes"),
        ("final_layer.linear.weight", (24, 384), "24, 384"),
        ("final_layer.linear.weight", (24,), "is not a DiT or SiT"),
    ],
)
def test_shapes_that_no_dit_has_are_refused(
    name: str, shape: tuple[int, ...], words: str, files: dict[str, Path], tmp_path: Path
) -> None:
    # A view of one number, as which a file may hold tensors of any size.
    torch.save({**state("SiT"), name: torch.zeros(1).expand(shape)}, tmp_path / "odd.pt")
    given = ("--vae", files["sd-vae-ft-mse"], "--seeds", "0", "--parametrization", "noise", "-o", tmp_path / "b")
    dprune("sample", tmp_path / "odd.pt", *given).fails(3, "odd.pt", words)


def test_drawn_tensors_are_the_same_everywhere() -> None:
    values = drawn("blocks.0.attn.qkv.weight", (6, 4))
    assert values.dtype == np.float32
    assert values.flat[:2].tolist() == pytest.approx([-0.2459957, -0.1137234], rel=1e-6)
