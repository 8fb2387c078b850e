"""Autoencoders made elsewhere: read by their own names, and held to what the code of others makes of an image."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tarfile
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import dprune
from foreign import FOLDER, SEEN, image, tensors
from PIL import Image
from safetensors.numpy import save_file

from dprune.errors import InputError, MismatchError, UsageError
from dprune.flow import Guidance
from dprune.formats.latents import open_latents
from dprune.formats.provenance import parents_of
from dprune.models.dit import DiT, DiTConfig
from dprune.models.pixels import to_pixels
from dprune.models.vae import VAE, load_vae
from dprune.models.vae_files import latent_network, open_vae
from dprune.models.weights import file_digest
from dprune.sampling.latents import sample_latents

CPU = torch.device("cpu")
LAYOUTS = sorted(path.stem for path in FOLDER.glob("*.layout"))
Tensors = dict[str, Any]


def saved(path: Path, name: str) -> Path:
    """Write an autoencoder as its own library names the tensors, with its configuration where there is one."""
    path.parent.mkdir(exist_ok=True, parents=True)
    save_file(tensors(name), path)
    if (FOLDER / f"{name}.json").exists():
        configured(path.parent, name)
    return path


def configured(folder: Path, name: str, **changes: object) -> None:
    said = json.loads((FOLDER / f"{name}.json").read_text())
    (folder / "config.json").write_text(json.dumps({**said, **changes}))


def apart(found: torch.Tensor, expected: np.ndarray) -> float:
    """The largest difference, relative to the largest value."""
    return float(np.abs(found.numpy() - expected).max() / np.abs(expected).max())


@torch.inference_mode()
def differences(vae: VAE, name: str) -> tuple[float, float]:
    """Compare what the encoder and the decoder give with what the code of others gave, whose codes are the same."""
    kept = np.load(FOLDER / f"{name}.npz")
    encoded = vae.encode(torch.from_numpy(image()))
    if vae.config.kind == "kl":
        latents, expected = encoded.chunk(2, dim=1)[0], kept["moments"]
    else:
        expected, codes = kept["encoded"], torch.from_numpy(kept["codes"])[None]
        assert torch.equal(vae.codes(torch.from_numpy(image())), codes)
        assert len(codes.unique()) > 7
        latents = vae.quantizer.look_up(codes, encoded.shape[2])
    return apart(encoded, expected), apart(vae.decode(latents)[SEEN], kept["decoded"])


WHAT = {
    "sd": ("kl", 128, (1, 2, 4, 4), 2, 4, 0),
    "ldm-kl-f16": ("kl", 128, (1, 1, 2, 2, 4), 2, 16, 0),
    "taming-f16": ("vq", 128, (1, 1, 2, 2, 4), 2, 256, 1024),
    "taming-gumbel-f8": ("vq", 128, (1, 1, 2, 4), 2, 256, 8192),
    "ldm-vq-f8": ("vq", 128, (1, 2, 2, 4), 2, 4, 256),
    "llamagen-f16": ("vq", 128, (1, 1, 2, 2, 4), 2, 8, 16_384),
    "small": ("kl", 32, (1, 2, 2), 1, 4, 0),
    "small-sd3": ("kl", 32, (1, 2, 2), 1, 16, 0),
    "small-vq": ("vq", 32, (1, 2, 2), 1, 6, 64),
    "small-ldm-noattn": ("vq", 32, (1, 2, 4), 1, 3, 128),
}


@pytest.mark.parametrize("name", [pytest.param(name, marks=[] if "small" in name else pytest.mark.slow)
                                  for name in LAYOUTS])  # fmt: skip
def test_outputs_are_those_of_others_code(name: str, tmp_path: Path) -> None:
    vae, file = load_vae(saved(tmp_path / "vae.safetensors", name), CPU)
    config = vae.config
    assert WHAT[name] == (config.kind, config.width, config.multipliers, config.blocks, config.latent_channels,
                          config.codes)  # fmt: skip
    assert config.l2_codes == ("llamagen" in name)
    assert config.scored_codes == ("gumbel" in name)
    assert config.quant_conv == (name != "small-sd3")
    assert config.middle_attention == ("noattn" not in name)
    assert file.digest == file_digest(tmp_path / "vae.safetensors")
    assert max(differences(vae, name)) < 1e-5


def test_all_layouts_are_tried() -> None:
    assert sorted(WHAT) == LAYOUTS


@pytest.mark.parametrize(("one", "other"), [
    ("mid_block.attentions.0.to_q", "mid_block.attentions.0.to_k"),
    ("mid_block.resnets.0.norm1", "mid_block.resnets.0.norm2"),
    ("mid_block.resnets.0.conv2", "mid_block.resnets.1.conv2"),
])  # fmt: skip
def test_a_tensor_in_another_place_is_seen(one: str, other: str, tmp_path: Path) -> None:
    state = tensors("small")
    for side in ("encoder", "decoder"):
        for end in (".weight", ".bias"):
            first, second = f"{side}.{one}{end}", f"{side}.{other}{end}"
            state[first], state[second] = state[second], state[first]
    save_file(state, tmp_path / "vae.safetensors")
    configured(tmp_path, "small")
    assert min(differences(load_vae(tmp_path / "vae.safetensors", CPU)[0], "small")) > 1e-3


@contextmanager
def lightning() -> Iterator[type]:
    """Have a library whose class a checkpoint names, as Lightning's older ones name their callbacks."""
    place = "pytorch_lightning.callbacks.model_checkpoint"
    names = [place.rsplit(".", end)[0] for end in (2, 1)] + [place]
    kept = type("ModelCheckpoint", (), {"__module__": place})
    sys.modules |= {name: types.ModuleType(name) for name in names}
    sys.modules[place].ModelCheckpoint = kept  # type: ignore[attr-defined]
    yield kept
    for name in names:
        del sys.modules[name]


def as_lightning(path: Path, state: Tensors) -> None:
    with lightning() as kept:
        notes = {kept: {"best_model_path": "last.ckpt", "best_model_score": torch.ones(1), "object": kept()}}
        torch.save({"epoch": 3, "callbacks": notes, "optimizer_states": [{"state": {0: torch.ones(9)}}],
                    "state_dict": {**state, "loss.discriminator.main.0.weight": torch.ones(3),
                                   "loss.logvar": torch.tensor(0.0)}}, path)  # fmt: skip


def as_stable_diffusion(path: Path, state: Tensors) -> None:
    inside = {f"first_stage_model.{name}": value for name, value in state.items()}
    beside = {"model.diffusion_model.input_blocks.0.0.weight": torch.ones(2), "betas": torch.ones(9),
              "cond_stage_model.encoder.conv_out.weight": torch.ones(5)}  # fmt: skip
    torch.save({"state_dict": {**beside, **inside}, "global_step": 7}, path)


def as_old_torch(path: Path, state: Tensors) -> None:
    torch.save({"model": state, "args": None}, path, _use_new_zipfile_serialization=False)


def as_one_file(path: Path, state: Tensors) -> None:
    inside = {f"first_stage_model.{name}": value.numpy() for name, value in state.items()}
    save_file({**inside, "model.diffusion_model.out.2.bias": np.ones(4)}, path)


@pytest.mark.parametrize("write", [as_lightning, as_stable_diffusion, as_old_torch, as_one_file])
def test_files_as_others_save_them(write: Callable[[Path, Tensors], None], tmp_path: Path) -> None:
    name = "small-ldm-noattn"
    write(tmp_path / "vae.ckpt", {tensor: torch.from_numpy(value) for tensor, value in tensors(name).items()})
    assert max(differences(load_vae(tmp_path / "vae.ckpt", CPU)[0], name)) < 1e-5


def test_folders_of_diffusers(tmp_path: Path) -> None:
    pipeline = tmp_path / "pipeline"
    saved(pipeline / "vae" / "diffusion_pytorch_model.safetensors", "small")
    for folder in (pipeline, pipeline / "vae"):
        vae, file = load_vae(folder, CPU)
        assert file.path == pipeline / "vae" / "diffusion_pytorch_model.safetensors"
        assert max(differences(vae, "small")) < 1e-5
    (pipeline / "model_index.json").write_text("{}")
    halves = {name: torch.from_numpy(value).half() for name, value in tensors("small").items()}
    torch.save(halves, tmp_path / "diffusion_pytorch_model.fp16.bin")
    configured(tmp_path, "small")
    vae, _ = load_vae(tmp_path, CPU)
    assert all(value.dtype == torch.float32 for value in vae.state_dict().values())
    assert 1e-5 < max(differences(vae, "small")) < 1e-2
    with pytest.raises(InputError, match="is a folder without model"):
        open_vae(FOLDER)


def test_older_names_of_diffusers(tmp_path: Path) -> None:
    older = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    state = tensors("small")
    for name in [name for name in state if "attentions" in name]:
        renamed = name
        for new, old in older.items():
            renamed = renamed.replace(new, old)
        # Some converters left products of places as the 1x1 convolutions that they were.
        state[renamed] = state.pop(name)[..., None, None] if "to_k.weight" in name else state.pop(name)
    save_file(state, tmp_path / "vae.safetensors")
    configured(tmp_path, "small")
    assert max(differences(load_vae(tmp_path / "vae.safetensors", CPU)[0], "small")) < 1e-5


def test_a_configuration_tells_what_shapes_do_not(tmp_path: Path) -> None:
    file = open_vae(saved(tmp_path / "vae.safetensors", "small-sd3"))
    assert (file.network["scaling_factor"], file.network["shift_factor"]) == (1.5305, 0.0609)
    assert open_vae(saved(tmp_path / "vae.safetensors", "small")).network["groups"] == 16
    # Anybody's may lie in a folder of downloads.
    (tmp_path / "config.json").write_text('{"_class_name": "UNet2DConditionModel", "norm_num_groups": 8}')
    assert open_vae(tmp_path / "vae.safetensors").network["groups"] == 32
    (tmp_path / "config.json").unlink()
    assert open_vae(tmp_path / "vae.safetensors").network["groups"] == 32


@pytest.mark.parametrize(("changes", "error", "words"), [
    ({"block_out_channels": [32, 64, 128]}, MismatchError, r"block_out_channels \[32, 64, 128\], .*\[32, 64, 64\]"),
    ({"latent_channels": 8}, MismatchError, "says latent_channels 8, and vae.safetensors beside it has 4"),
    ({"layers_per_block": 2}, MismatchError, "says layers_per_block 2"),
    ({"act_fn": "gelu"}, InputError, "another family .*act_fn 'gelu'"),
    ({"norm_type": "spatial"}, InputError, "another family .*norm_type 'spatial'"),
    ({"norm_num_groups": 24}, InputError, "another family .*24 groups do not divide"),
    ({"norm_num_groups": "32"}, InputError, "norm_num_groups is .32., not a whole number"),
    ({"scaling_factor": 0}, InputError, "scaling_factor is 0, not a number"),
])  # fmt: skip
def test_configurations_of_others(changes: dict[str, object], error: type, words: str, tmp_path: Path) -> None:
    path = saved(tmp_path / "vae.safetensors", "small")
    configured(tmp_path, "small", **changes)
    with pytest.raises(error, match=words):
        open_vae(path)


def moved(state: Tensors, old: str, new: str) -> Tensors:
    return {name.replace(old, new): value for name, value in state.items()}


STRANGERS: dict[str, tuple[Callable[[Tensors], Tensors], str]] = {
    "taesd": (lambda s: {"encoder.layers.0.weight": np.ones(3), "decoder.layers.1.weight": np.ones(3)},
              "holds no autoencoder that dprune knows"),
    "dc-ae": (lambda s: moved(s, ".resnets.", "."), "its layers have other names, encoder.conv_norm_out.bias"),
    "movq": (lambda s: moved(s, "up_blocks.0.resnets.0.norm1", "up_blocks.0.resnets.0.norm1.norm_layer"),
             "it has no decoder.up_blocks.0.resnets.0.norm1.weight"),
    "video": (lambda s: {n: v[:, :, None] if v.ndim == 4 else v for n, v in s.items()},
              r"is \[\d+, \d+, 1, 3, 3\], not"),
    "asymmetric": (lambda s: s | {"decoder.condition_encoder.layers.0.weight": np.ones(3)},
                   "it has decoder.condition_encoder.layers.0.weight beside"),
    "wide-quant-conv": (lambda s: s | {"quant_conv.weight": np.ones((8, 8, 3, 3), np.float32)},
                        r"quant_conv.weight is \[8, 8, 3, 3\], not \[8, 8, 1, 1\]"),
    "no-decoder": (lambda s: {n: v for n, v in s.items() if "decoder" not in n}, "it has no decoder.conv_in.weight"),
    "lookup-free": (lambda s: s | {"quantize.mask": np.ones(3)}, "it quantises in another way"),
    "odd": (lambda s: s | {"encoder.conv_in.weight": np.ones((24, 3, 3, 3), np.float32)}, "not multiples of 24"),
    "two": (lambda s: moved(s, "encoder", "a.encoder") | moved(s, "encoder", "b.encoder"), "several autoencoders"),
    "whole-numbers": (lambda s: {n: v.astype(np.int32) for n, v in s.items()}, "holds whole numbers"),
}  # fmt: skip


@pytest.mark.parametrize("family", STRANGERS)
def test_other_families_are_refused(family: str, shards: Path, tmp_path: Path) -> None:
    change, words = STRANGERS[family]
    save_file({n: np.ascontiguousarray(v) for n, v in change(tensors("small")).items()}, tmp_path / "vae.safetensors")
    with pytest.raises(InputError, match=words):
        load_vae(tmp_path / "vae.safetensors", CPU)
    dprune("encode", shards, "--vae", tmp_path / "vae.safetensors", "-o", tmp_path / "l", "--workers", 0).fails(
        3, "vae.safetensors", "give"
    )
    assert not (tmp_path / "l").exists()


def test_damaged_files(tmp_path: Path) -> None:
    whole = saved(tmp_path / "whole.safetensors", "small").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[:-100])
    with pytest.raises(InputError, match="not a whole safetensors file"):
        open_vae(tmp_path / "cut.safetensors")
    as_lightning(tmp_path / "whole.ckpt", {name: torch.from_numpy(value) for name, value in tensors("small").items()})
    (tmp_path / "cut.ckpt").write_bytes((tmp_path / "whole.ckpt").read_bytes()[:-100])
    with pytest.raises(InputError, match="neither a whole safetensors file nor a torch file"):
        open_vae(tmp_path / "cut.ckpt")
    for content in (b"", b"text", b"PK\x03\x04"):
        (tmp_path / "other").write_bytes(content)
        with pytest.raises(InputError, match="other: is neither a whole safetensors file nor a torch file"):
            open_vae(tmp_path / "other")
    with pytest.raises(InputError, match="no such file"):
        open_vae(tmp_path / "none")


def test_what_a_checkpoint_notes_is_forgotten_and_no_code_runs(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (tmp_path / "sprung",))

    torch.save({"state_dict": {"a": torch.ones(1)}, "callbacks": {"x": Trap()}}, tmp_path / "vae.ckpt")
    with pytest.raises(InputError, match="is not loaded, since that may run code"):
        open_vae(tmp_path / "vae.ckpt")
    assert not (tmp_path / "sprung").exists()


def test_headers_are_read_without_torch(tmp_path: Path) -> None:
    saved(tmp_path / "vae.safetensors", "small")
    script = ("import sys; from dprune.models.vae_files import open_vae, latent_network; "
              "print(latent_network(open_vae(sys.argv[1])), 'torch' in sys.modules)")  # fmt: skip
    command = [sys.executable, "-c", script, tmp_path / "vae.safetensors"]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert out == "{'kind': 'kl', 'channels': 4, 'size': 64, 'codes': 0, 'image_size': 256} False\n"


def test_sizes_of_images(shards: Path, tmp_path: Path) -> None:
    path = saved(tmp_path / "vae.safetensors", "small")
    assert latent_network(open_vae(path, 64)) == {"kind": "kl", "channels": 4, "size": 16, "codes": 0, "image_size": 64}
    with pytest.raises(UsageError, match="--image-size 30: give a multiple of 4"):
        open_vae(path, 30)
    done = dprune("encode", shards, "--vae", path, "-o", tmp_path / "l", "--dry-run").ok()
    assert "they become 256 pixels wide, unless --image-size says otherwise" in " ".join(done.err.split())


def test_latents_tell_the_scale_that_the_configuration_says(shards: Path, tmp_path: Path) -> None:
    asked = ("--dry-run", "--json")
    for name, said in (("small-sd3", [1.5305, 0.0609]), ("small", None)):
        path = saved(tmp_path / name / "vae.safetensors", name)
        done = dprune("encode", shards, "--vae", path, "--image-size", 16, "-o", tmp_path / "l", *asked).ok()
        assert json.loads(done.out)["provenance"]["options"].get("latent_scale") == said


def test_info_tells_what_they_are(tmp_path: Path) -> None:
    file = saved(tmp_path / "pipeline" / "vae" / "diffusion_pytorch_model.safetensors", "small")
    as_lightning(tmp_path / "vq.ckpt", {n: torch.from_numpy(v) for n, v in tensors("small-vq").items()})
    torch.save({"a": torch.ones(1)}, tmp_path / "other.pt")
    for path, latents, groups in (
        (file, "kl", 16),
        (tmp_path / "pipeline", "kl", 16),
        (tmp_path / "vq.ckpt", "vq", 32),
    ):
        told = json.loads(dprune("info", path, "--json").ok().out)["files"][0]
        assert told["kind"] == "autoencoder"
        assert (told["content"]["network"]["latents"], told["content"]["network"]["groups"]) == (latents, groups)
    dprune("info", tmp_path / "other.pt").fails(3, "holds no autoencoder or DiT that dprune knows")


def encode_and_train(shards: Path, vae: Path, folder: Path) -> Path:
    encode = ("encode", shards, "--vae", vae, "--image-size", 16, "-o", folder / "latents", "--workers", 0, "--json")
    made = json.loads(dprune(*encode, "--verify", 6).ok().out)
    assert (made["shards_made"], made["verified"]) == (3, 6)
    assert json.loads(dprune(*encode).ok().out)["up_to_date"]
    dprune("train-dit", folder / "latents", "--arch", "nano/2", "--batch-size", 6, "--steps", 4, "--vae", vae,
           "--evaluate-every", 4, "-o", folder / "run").ok()  # fmt: skip
    assert (folder / "run" / "pictures" / "step-00000004.png").exists()
    return folder / "run" / "model.safetensors"


def test_the_whole_chain_with_an_autoencoder_of_diffusers(shards: Path, tmp_path: Path) -> None:
    vae = tmp_path / "vae"
    saved(vae / "diffusion_pytorch_model.safetensors", "small")
    model = encode_and_train(shards, vae, tmp_path)
    latents = open_latents(tmp_path / "latents")
    assert latents.network == {"kind": "kl", "channels": 4, "size": 4, "codes": 0, "image_size": 16}
    digest = file_digest(vae / "diffusion_pytorch_model.safetensors")
    assert parents_of(latents.record)["vae"] == {"digest": digest, "external": True}
    sample = ("sample", model, "--seeds", "0-2", "--steps", 2, "-o", tmp_path / "made")
    dprune(*sample, "--vae", vae).ok()
    with tarfile.open(tmp_path / "made" / "000000.tar") as tar:
        drawn = np.asarray(Image.open(io.BytesIO(tar.extractfile("00000001.png").read())))  # type: ignore[union-attr]
    assert drawn.shape == (16, 16, 3)
    assert drawn.std() > 1
    assert "up to date" in dprune(*sample, "--vae", vae).ok().err
    other = saved(tmp_path / "other" / "vae.safetensors", "small-sd3")
    dprune(*sample, "--vae", other, "--overwrite").fails(3, "4 x 4 x 4", "16 x 4 x 4", "give the one")


def test_the_whole_chain_with_codes_of_a_checkpoint(shards: Path, tmp_path: Path) -> None:
    vae = tmp_path / "last.ckpt"
    as_lightning(vae, {n: torch.from_numpy(v) for n, v in tensors("small-ldm-noattn").items()})
    model = encode_and_train(shards, vae, tmp_path)
    latents = open_latents(tmp_path / "latents")
    assert latents.codebook is not None
    assert latents.codebook.shape == (128, 3)
    dprune("sample", model, "--vae", vae, "--seeds", "0-2", "--steps", 2, "-o", tmp_path / "made").ok()


def test_transformers_of_others_see_latents_as_the_configuration_says(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = DiT(DiTConfig(4, 16, 2, 384, 1, 6, 10, learn_sigma=True)).eval().requires_grad_(False)
    for name, parameter in network.named_parameters():
        if name != "pos_embed":
            torch.nn.init.normal_(parameter, std=0.05)
    torch.save({"ema": network.state_dict()}, tmp_path / "sit.pt")
    vae = saved(tmp_path / "vae.safetensors", "small-sd3")
    command = ("sample", tmp_path / "sit.pt", "--parametrization", "velocity", "--vae", vae, "--seeds", "0-2",
               "--steps", 2, "--device", "cpu", "-o", tmp_path / "made")  # fmt: skip
    done = dprune(*command).ok()
    assert "config.json says: minus 0.0609, times 1.5305" in " ".join(done.err.split())
    assert "up to date" in dprune(*command).ok().err
    seeds = torch.arange(3)
    z = sample_latents(network, seeds, seeds, Guidance(1.0), steps=2)
    with torch.inference_mode():
        expected = to_pixels(load_vae(vae, CPU)[0].decode(z / 1.5305 + 0.0609)).permute(0, 2, 3, 1).numpy()
    with tarfile.open(tmp_path / "made" / "000000.tar") as tar:
        for seed in range(3):
            drawn = np.asarray(Image.open(io.BytesIO(tar.extractfile(f"{seed:08d}.png").read())))  # type: ignore[union-attr]
            assert np.abs(drawn.astype(int) - expected[seed]).max() <= 1
            assert drawn.std() > 1
    # What lies beside the weights changes the images, and the digest of the weights does not tell.
    for changes in ({"scaling_factor": 0.18215}, {"norm_num_groups": 16}):
        configured(tmp_path, "small-sd3", **changes)
        dprune(*command).fails(3, "made differently", "latent_scale" if "scaling_factor" in changes else "vae_groups")
