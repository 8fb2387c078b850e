"""`dprune encode` with small random autoencoders, alone and shared, stopped and tampered with."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Result, dprune, dprune_process, image_bytes, sample, write_tar
from PIL import Image
from safetensors.numpy import load_file

from dprune.encoding.settings import EncodeSettings
from dprune.formats.claims import claim_of, free
from dprune.formats.latents import CODEBOOK_FILE, SUMS, open_latents
from dprune.formats.provenance import difference, make_record, parent, parents_of
from dprune.formats.shards import open_dataset
from dprune.models.files import publish_model
from dprune.models.vae import VAE, VAEConfig, load_vae
from dprune.models.weights import file_digest

SIDE = 16
CONFIGS = {
    "vq": VAEConfig("vq", SIDE, 8, (1, 2), 1, 4, 64, l2_codes=False),
    "kl": VAEConfig("kl", SIDE, 8, (1, 2), 1, 4, 0, l2_codes=False),
}


def make_vae(path: Path, kind: str = "vq", seed: int = 0, **changed: object) -> Path:
    torch.manual_seed(seed)
    config = dataclasses.replace(CONFIGS[kind], **changed)
    vae = VAE(config)
    if kind == "vq":
        # Codes where the encoder's outputs are, so that many of them are the nearest to something.
        with torch.inference_mode():
            outputs = vae.encode(torch.rand(64, 3, config.image_size, config.image_size) * 2 - 1)
        found = outputs.permute(0, 2, 3, 1).flatten(0, 2)
        vae.quantizer.embedding.data.copy_(found[torch.randperm(len(found))[: config.codes]])
    publish_model(path, vae.state_dict(), {"kind": "vae", **config.as_json()}, make_record("train-vae", {"seed": seed}))
    return path


@pytest.fixture(scope="module")
def vaes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("vaes")
    return {kind: make_vae(folder / f"{kind}.safetensors", kind) for kind in CONFIGS}


def encode(shards: object, vae: object, store: object, *args: object) -> Result:
    return dprune("encode", shards, "--vae", vae, "-o", store, "--workers", "0", *args)


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def pixels(seed: int) -> torch.Tensor:
    """What the autoencoder should see of an image of conftest: 20 x 16 pixels, of which the middle square stays."""
    image = np.asarray(Image.open(io.BytesIO(image_bytes(seed))))[:, 2:18].astype(np.float32)
    return torch.from_numpy(image.transpose(2, 0, 1) / 127.5 - 1)


def test_codes(shards: Path, vaes: dict[str, Path], tmp_path: Path) -> None:
    result = encode(shards, vaes["vq"], tmp_path / "l", "--json").ok()
    assert json.loads(result.out) == {"output": str(tmp_path / "l"), "up_to_date": False, "images": 18,
                                      "undecodable": 0, "shards": 3, "shards_made": 3}  # fmt: skip
    latents = open_latents(tmp_path / "l")
    assert latents.network == {"kind": "vq", "channels": 4, "size": 8, "codes": 64, "image_size": SIDE}
    assert [part.shape for part in latents.mapped("codes")] == [(7, 64), (5, 64), (6, 64)]
    assert latents.labels().tolist() == [i % 3 for i in range(18)]
    assert latents.valid().all()
    assert latents.fingerprint == open_dataset([str(shards)]).fingerprint
    vae, file = load_vae(vaes["vq"], torch.device("cpu"))
    expected = vae.codes(torch.stack([pixels(i) for i in range(18)])).numpy()
    found = np.concatenate(latents.mapped("codes"))
    assert len(np.unique(found)) > 20
    # Where two codes are almost equally near, the batch may decide.
    assert (found == expected).mean() > 0.998
    np.testing.assert_array_equal(latents.codebook, vae.codebook.numpy())
    assert parents_of(latents.record)["vae"]["digest"] == file_digest(vaes["vq"])
    assert difference(parent(latents.record, "vae"), file.record) == ""
    assert latents.record["options"]["precision"] == "float32"
    assert str(tmp_path) not in json.dumps(latents.record)


def test_moments(shards: Path, vaes: dict[str, Path], tmp_path: Path) -> None:
    encode(shards, vaes["kl"], tmp_path / "l").ok()
    latents = open_latents(tmp_path / "l")
    assert latents.network == {"kind": "kl", "channels": 4, "size": 8, "codes": 0, "image_size": SIDE}
    assert not (tmp_path / "l" / CODEBOOK_FILE).exists()
    vae, _ = load_vae(vaes["kl"], torch.device("cpu"))
    expected = vae.moments(torch.stack([pixels(i) for i in range(18)]))
    for name, values in zip(("mean", "logvar"), expected, strict=True):
        found = np.concatenate(latents.mapped(name))
        assert found.dtype == np.float16
        np.testing.assert_allclose(found, values.numpy(), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kind", ["vq", "kl"])
def test_sums_are_those_of_all_samples(kind: str, shards: Path, vaes: dict[str, Path], tmp_path: Path) -> None:
    write_tar(shards / "000003.tar", [*sample("a", 90), ("b.png", b"junk"), *sample("c", 91)])
    encode(shards, vaes[kind], tmp_path / "l", "--flips").ok()
    latents = open_latents(tmp_path / "l")
    valid = latents.valid()
    assert np.flatnonzero(~valid).tolist() == [19]

    def rows(name: str) -> np.ndarray:
        both = (np.concatenate(latents.mapped(name + flip))[valid] for flip in ("", "_flipped"))
        return np.concatenate(list(both)).astype(np.float64)

    if kind == "vq":
        assert latents.codebook is not None
        values = latents.codebook.astype(np.float64)[rows("codes").astype(int)].reshape(-1, 4)
        variance = values.var(0)
    else:
        values = np.moveaxis(rows("mean"), 1, 3).reshape(-1, 4)
        variance = values.var(0) + np.exp(rows("logvar")).mean((0, 2, 3))
    assert len(values) == 2 * 20 * 64
    np.testing.assert_allclose(latents.mean, values.mean(0), rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(latents.std, np.sqrt(variance), rtol=1e-6)


def test_flips_are_the_latents_of_mirrored_images(vaes: dict[str, Path], tmp_path: Path) -> None:
    mirrored = []
    for seed in range(4):
        buffer = io.BytesIO()
        Image.open(io.BytesIO(image_bytes(seed, (SIDE, SIDE)))).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(
            buffer, "PNG"
        )
        mirrored.append((f"{seed}.png", buffer.getvalue()))
    write_tar(tmp_path / "a.tar", [(f"{seed}.png", image_bytes(seed, (SIDE, SIDE))) for seed in range(4)])
    write_tar(tmp_path / "b.tar", mirrored)
    for kind, names in (("vq", ["codes"]), ("kl", ["mean", "logvar"])):
        encode(tmp_path / "a.tar", vaes[kind], tmp_path / f"a-{kind}", "--flips").ok()
        encode(tmp_path / "b.tar", vaes[kind], tmp_path / f"b-{kind}").ok()
        both, other = open_latents(tmp_path / f"a-{kind}"), open_latents(tmp_path / f"b-{kind}")
        for name in names:
            np.testing.assert_array_equal(both.mapped(f"{name}_flipped")[0], other.mapped(name)[0])
            assert (both.mapped(name)[0] != other.mapped(name)[0]).any()
    encode(tmp_path / "a.tar", vaes["vq"], tmp_path / "a-vq").fails(3, "flips: true, not false")


def test_what_is_there_is_not_made_again(shards: Path, vaes: dict[str, Path], tmp_path: Path) -> None:
    encode(shards, vaes["vq"], tmp_path / "l").ok()
    whole = content(tmp_path / "l")
    assert "up to date" in encode(shards, vaes["vq"], tmp_path / "l").ok().err
    for name, made in (("000001.safetensors", 1), (CODEBOOK_FILE, 0), ("manifest.json", 0)):
        (tmp_path / "l" / name).unlink()
        extra = ["--overwrite"] if name == "manifest.json" else []
        summary = json.loads(encode(shards, vaes["vq"], tmp_path / "l", "--json", *extra).ok().out)
        assert summary["shards_made"] == made
        assert content(tmp_path / "l") == whole
    write_tar(shards / "000001.tar", sample("new", 99, 2))
    encode(shards, vaes["vq"], tmp_path / "l").fails(3, "members of 000001.tar")
    encode(shards, vaes["vq"], tmp_path / "l", "--overwrite").ok()
    assert len(open_latents(tmp_path / "l")) == 14


def test_up_to_date_without_torch(shards: Path, vaes: dict[str, Path], tmp_path: Path) -> None:
    encode(shards, vaes["vq"], tmp_path / "l").ok()
    script = (
        "import sys; from dprune.cli import cli\n"
        "try: cli(sys.argv[1:])\n"
        "finally: assert not {'torch', 'safetensors.torch'} & sys.modules.keys()"
    )
    command = [sys.executable, "-c", script, "encode", shards, "--vae", vaes["vq"], "-o", tmp_path / "l"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "up to date" in done.stderr


def test_batches_and_threads_change_no_byte(shards: Path, vaes: dict[str, Path], tmp_path: Path) -> None:
    write_tar(shards / "000003.tar", [part for i in range(40) for part in sample(f"x{i:02d}", 100 + i)])
    threads = torch.get_num_threads()
    try:
        for kind in ("vq", "kl"):
            stores = []
            for number, (batch, cores) in enumerate(((256, 1), (16, 3), (39, 2))):
                torch.set_num_threads(cores)
                encode(shards, vaes[kind], tmp_path / f"{kind}{number}", "--batch-size", batch).ok()
                stores.append(content(tmp_path / f"{kind}{number}"))
            assert stores[0] == stores[1] == stores[2]
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("kind", ["vq", "kl"])
def test_two_tasks_make_the_store_of_one(kind: str, shards: Path, vaes: dict[str, Path], tmp_path: Path,
                                         monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    encode(shards, vaes[kind], tmp_path / "one").ok()
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank, made in (("1", 1), ("0", 2), ("0", 0)):
        monkeypatch.setenv("RANK", rank)
        summary = json.loads(encode(shards, vaes[kind], tmp_path / "two", "--json").ok().out)
        assert summary["shards_made"] == made
    assert content(tmp_path / "two") == content(tmp_path / "one")


def test_tasks_of_an_array_verify_what_is_there(shards: Path, vaes: dict[str, Path], tmp_path: Path,
                                                monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    encode(shards, vaes["vq"], tmp_path / "one").ok()
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "1")
    monkeypatch.setenv("SLURM_ARRAY_TASK_COUNT", "3")
    verified = ("--verify", 999, "--json")
    with free(claim_of(tmp_path / "two", 2, 3)):
        found = json.loads(encode(shards, vaes["vq"], tmp_path / "two", *verified).ok().out)
        assert (found["complete"], found["verified"]) == (False, 12)
    found = json.loads(encode(shards, vaes["vq"], tmp_path / "two", *verified).ok().out)
    assert (found["complete"], found["verified"], found["shards_made"]) == (True, 18, 1)
    assert content(tmp_path / "two") == content(tmp_path / "one")


@pytest.mark.slow
def test_stopped_by_a_signal_and_resumed(vaes: dict[str, Path], tmp_path: Path) -> None:
    for number in range(30):
        members = [part for i in range(48) for part in sample(f"{number}-{i:02d}", i)]
        write_tar(tmp_path / "shards" / f"{number:06d}.tar", members)
    command = ["encode", tmp_path / "shards", "--vae", vaes["kl"], "--workers", "1", "-o"]
    running = subprocess.Popen([sys.executable, "-m", "dprune", *command, tmp_path / "l"], stderr=subprocess.PIPE,
                               text=True, start_new_session=True)  # fmt: skip
    end = time.monotonic() + 60
    while not list(tmp_path.glob("l/0*.safetensors")):
        assert time.monotonic() < end
        time.sleep(0.01)
    os.killpg(running.pid, signal.SIGTERM)
    _, said = running.communicate(timeout=60)
    assert running.returncode == 75, said
    assert 0 < len(list((tmp_path / "l").glob("0*.safetensors"))) < 30
    for store in ("l", "m"):
        dprune_process(*command, tmp_path / store).ok()
    assert content(tmp_path / "l") == content(tmp_path / "m")


def test_bad_images(vaes: dict[str, Path], tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", [*sample("a", 1, 4), ("b.png", b"junk"), *sample("c", 2, 4)])
    result = encode(tmp_path / "a.tar", vaes["kl"], tmp_path / "l", "--verify", 9, "--json").ok()
    assert "warning: 1 images could not be decoded (first: b in a.tar" in result.err
    assert "their rows are zeros" in result.err
    assert json.loads(result.out)["verified"] == 2
    latents = open_latents(tmp_path / "l")
    assert latents.valid().tolist() == [True, False, True]
    for name in ("mean", "logvar"):
        rows = latents.mapped(name)[0]
        assert (np.abs(rows).max((1, 2, 3)) > 0).tolist() == [True, False, True]
    assert latents.store.parts[0]["bad"][0]["key"] == "b"
    encode(tmp_path / "a.tar", vaes["kl"], tmp_path / "l", "--strict").fails(3, "a.tar: b ", "--strict")
    encode(tmp_path / "a.tar", vaes["kl"], tmp_path / "m", "--strict").fails(3, "a.tar: b ", "--strict")


def test_an_empty_shard(shards: Path, vaes: dict[str, Path], tmp_path: Path) -> None:
    write_tar(shards / "000000.tar", [])
    encode(shards, vaes["vq"], tmp_path / "l", "--verify", 3).ok()
    latents = open_latents(tmp_path / "l")
    assert [part.shape for part in latents.mapped("codes")] == [(0, 64), (5, 64), (6, 64)]


def test_a_shard_called_as_the_codebook(vaes: dict[str, Path], tmp_path: Path) -> None:
    write_tar(tmp_path / "codebook.tar", sample("a", 1))
    encode(tmp_path / "codebook.tar", vaes["vq"], tmp_path / "l").fails(3, "a shard is called codebook", "rename")
    assert not (tmp_path / "l").exists()
    encode(tmp_path / "codebook.tar", vaes["kl"], tmp_path / "l").ok()


def test_other_autoencoders(shards: Path, vaes: dict[str, Path], tmp_path: Path) -> None:
    encode(shards, vaes["vq"], tmp_path / "l").ok()
    other = make_vae(tmp_path / "other.safetensors", seed=1)
    encode(shards, other, tmp_path / "l").fails(3, "parents vae", "--overwrite")
    encode(shards, vaes["kl"], tmp_path / "l").fails(3, "--overwrite")
    encode(shards, vaes["kl"], tmp_path / "l", "--overwrite").ok()
    assert not (tmp_path / "l" / CODEBOOK_FILE).exists()
    assert open_latents(tmp_path / "l").network["kind"] == "kl"


def test_files_that_are_no_autoencoder(shards: Path, vaes: dict[str, Path], tmp_path: Path) -> None:
    store = tmp_path / "l"
    encode(shards, tmp_path / "nothing", store).fails(3, "nothing", "no such file")
    encode(shards, tmp_path, store).fails(3, "is a folder without model.safetensors", "run its command again")
    state = VAE(CONFIGS["kl"]).state_dict()
    record = make_record("train-dit", {})
    publish_model(tmp_path / "dit", state, {"kind": "dit"}, record)
    encode(shards, tmp_path / "dit", store).fails(3, "a network of kind dit, not an autoencoder")
    publish_model(tmp_path / "less", state, {"kind": "vae", "latents": "kl"}, record)
    encode(shards, tmp_path / "less", store).fails(3, "is damaged (", "is missing")
    publish_model(tmp_path / "gan", state, {"kind": "vae", **CONFIGS["kl"].as_json(), "latents": "gan"}, record)
    encode(shards, tmp_path / "gan", store).fails(3, 'latents is "gan", not "vq" or "kl"')
    for changed in ({"blocks": 10**9}, {"multipliers": 3}, {"multipliers": [1] * 99}, {"codes": -1}, {"width": 8.0}):
        network = {"kind": "vae", **CONFIGS["kl"].as_json(), **changed}
        publish_model(tmp_path / "odd", {"x": next(iter(state.values()))}, network, record)
        encode(shards, tmp_path / "odd", store).fails(3, "odd: is damaged (", next(iter(changed)))
    many = {"kind": "vae", **CONFIGS["vq"].as_json(), "codes": 65_537}
    publish_model(tmp_path / "many", state, many, record)
    encode(shards, tmp_path / "many", store).fails(3, "65,537 codes", "65,536")
    (tmp_path / "cut").write_bytes(vaes["vq"].read_bytes()[:-9])
    encode(shards, tmp_path / "cut", store).fails(3, "is not a whole safetensors file")
    assert not store.exists()


def test_moments_that_float16_cannot_hold(shards: Path, tmp_path: Path) -> None:
    vae = VAE(CONFIGS["kl"])
    vae.before_latent.bias.data.fill_(1e6)
    network = {"kind": "vae", **CONFIGS["kl"].as_json()}
    publish_model(tmp_path / "vae", vae.state_dict(), network, make_record("train-vae", {}))
    encode(shards, tmp_path / "vae", tmp_path / "l").fails(3, "000000.tar", "a mean that float16 cannot hold")


def test_no_memory_for_the_autoencoder(
    shards: Path, vaes: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode(shards, vaes["vq"], tmp_path / "l").ok()

    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr("dprune.encoding.encoder.vae_of", full)
    for args in ((tmp_path / "m",), (tmp_path / "l", "--verify", 2)):
        encode(shards, vaes["vq"], *args, "--batch-size", 32, "--device", "cpu").fails(
            1, "cpu: out of memory: give a --batch-size below 32."
        )
    assert not (tmp_path / "m").exists()


def test_most_codes_fit(shards: Path, tmp_path: Path) -> None:
    make_vae(tmp_path / "vae", codes=65_536 // 16)
    vae, _ = load_vae(tmp_path / "vae", torch.device("cpu"))
    config = dataclasses.replace(CONFIGS["vq"], codes=65_536)
    # Codes that are used come last, so that none fits fifteen bits.
    far = torch.full((65_536 - 4096, 4), 1e3)
    state = {**vae.state_dict(), "quantizer.embedding": torch.cat([far, vae.quantizer.embedding]),
             "quantizer.usage": torch.zeros(65_536)}  # fmt: skip
    publish_model(tmp_path / "vae", state, {"kind": "vae", **config.as_json()}, make_record("train-vae", {}))
    encode(shards, tmp_path / "vae", tmp_path / "l", "--verify", 5).ok()
    codes = open_latents(tmp_path / "l").mapped("codes")[0]
    assert codes.min() >= 65_536 - 4096


@pytest.mark.parametrize(("kind", "name"), [("vq", "codes"), ("kl", "mean"), ("kl", "logvar"), ("kl", "mean_flipped")])
def test_verify(kind: str, name: str, shards: Path, vaes: dict[str, Path], tmp_path: Path) -> None:
    flips = ["--flips"] if "flipped" in name else []
    encode(shards, vaes[kind], tmp_path / "l", *flips).ok()
    arguments = (shards, vaes[kind], tmp_path / "l", "--verify", 9, *flips)
    result = encode(*arguments, "--json").ok()
    summary = json.loads(result.out)
    assert (summary["shards_made"], summary["verified"], summary["equal"]) == (0, 9, 1.0)
    assert "mean PSNR" in result.err
    store = open_latents(tmp_path / "l").store
    whole, part = content(tmp_path / "l"), load_file(store.path("000001.tar"))
    part[name] = part[name][::-1].copy()
    members = open_dataset([str(shards)]).shards[1].index().digest
    store.publish_part("000001.tar", part, members, 5, [])
    encode(shards, vaes[kind], tmp_path / "l", *flips).ok()
    encode(*arguments).fails(3, "000001.safetensors: only ", "match what", "remove the file and run the dprune encode")
    store.path("000001.tar").unlink()
    assert json.loads(encode(*arguments, "--json").ok().out)["shards_made"] == 1
    assert content(tmp_path / "l") == whole


@pytest.mark.parametrize("kind", ["vq", "kl"])
def test_verify_adds_the_sums_up_again(kind: str, shards: Path, vaes: dict[str, Path], tmp_path: Path) -> None:
    encode(shards, vaes[kind], tmp_path / "l").ok()
    store = open_latents(tmp_path / "l").store
    part = load_file(store.path("000001.tar"))
    # Moved from one code or channel to another, so that the total stays.
    part[SUMS[kind]] = np.roll(part[SUMS[kind]], 1, axis=0)
    store.publish_part("000001.tar", part, store.parts[1]["members"], 5, [])
    encode(shards, vaes[kind], tmp_path / "l", "--verify", 1).fails(3, "000001.safetensors: its sums do not", "remove")


def test_the_psnr_is_that_of_decoded_latents(shards: Path, vaes: dict[str, Path], tmp_path: Path) -> None:
    images = torch.stack([pixels(i) for i in range(18)])
    for kind in ("vq", "kl"):
        vae, _ = load_vae(vaes[kind], torch.device("cpu"))
        with torch.inference_mode():
            error = (vae.reconstruct(images).clamp(-1, 1) - images).square().mean((1, 2, 3))
        psnr = 20 * np.log10(2) - 10 * np.log10(error.numpy())
        summary = json.loads(encode(shards, vaes[kind], tmp_path / kind, "--verify", 100, "--json").ok().out)
        assert summary["verified"] == 18
        assert summary["psnr_mean"] == pytest.approx(psnr.mean(), abs=0.02)
        assert summary["psnr_min"] == pytest.approx(psnr.min(), abs=0.02)


def test_verify_holds_the_codebook_to_the_autoencoder(shards: Path, vaes: dict[str, Path], tmp_path: Path) -> None:
    encode(shards, vaes["vq"], tmp_path / "l").ok()
    store = open_latents(tmp_path / "l").store
    codebook = load_file(tmp_path / "l" / CODEBOOK_FILE)["codebook"]
    store.publish_beside(CODEBOOK_FILE, {"codebook": codebook[::-1].copy()})
    encode(shards, vaes["vq"], tmp_path / "l", "--verify", 1).fails(3, CODEBOOK_FILE, "is not the codebook", "remove")


def test_verified_samples_are_spread_over_the_store() -> None:
    from dprune.encoding.verification import stratified

    chosen = stratified(1000, 10, 0)
    assert (chosen // 100).tolist() == list(range(10))
    assert stratified(1000, 10, 1).tolist() != chosen.tolist()
    assert stratified(7, 100, 0).tolist() == list(range(7))
    assert stratified(0, 5, 0).tolist() == []


@pytest.mark.parametrize(("precision", "most"), [("bf16", 0.05), ("fp16", 0.006)])
def test_lower_precision(precision: str, most: float, shards: Path, vaes: dict[str, Path], tmp_path: Path) -> None:
    encode(shards, vaes["kl"], tmp_path / "a").ok()
    encode(shards, vaes["kl"], tmp_path / "b", "--precision", precision, "--verify", 8).ok()
    full, low = (np.concatenate(open_latents(tmp_path / name).mapped("mean")) for name in "ab")
    assert (full != low).any()
    np.testing.assert_allclose(full, low, atol=most)
    encode(shards, vaes["kl"], tmp_path / "a", "--precision", "fp32").ok()
    encode(shards, vaes["kl"], tmp_path / "a", "--precision", precision).fails(3, "options precision")


def test_precision_is_chosen_by_the_device() -> None:
    settings = EncodeSettings("vae.safetensors", device="cuda:1")
    assert settings.dtype == "float16"
    assert dataclasses.replace(settings, precision="tf32").dtype == "tfloat32"
    assert dataclasses.replace(settings, device="cpu").dtype == "float32"


def test_tf32_is_float32_where_there_is_none(shards: Path, vaes: dict[str, Path], tmp_path: Path) -> None:
    for precision in ("fp32", "tf32"):
        encode(shards, vaes["vq"], tmp_path / precision, "--precision", precision, "--verify", 3).ok()
    stores = [open_latents(tmp_path / name) for name in ("fp32", "tf32")]
    assert [store.record["options"]["precision"] for store in stores] == ["float32", "tfloat32"]
    np.testing.assert_array_equal(*(np.concatenate(store.mapped("codes")) for store in stores))


@pytest.mark.parametrize("kind", ["vq", "kl"])
def test_what_is_beyond_a_range_is_refused(kind: str, shards: Path, tmp_path: Path) -> None:
    vae, file = load_vae(make_vae(tmp_path / "vae.safetensors", kind), torch.device("cpu"))
    state = vae.state_dict()
    state["encoder.0.weight"] *= 1e6
    publish_model(tmp_path / "large.safetensors", state, file.network, make_record("train-vae", {}))
    large = (shards, tmp_path / "large.safetensors", tmp_path / "l")
    encode(*large, "--precision", "fp16").fails(3, "000000.tar", "not finite in float16", "--precision tf32")
    for precision in ("bf16", "fp32"):
        encode(*large, "--precision", precision, "--overwrite").ok()
    state["encoder.0.weight"] *= float("nan")
    publish_model(tmp_path / "nan.safetensors", state, file.network, make_record("train-vae", {}))
    encode(shards, tmp_path / "nan.safetensors", tmp_path / "m").fails(3, "not finite in float32", "train it again")


def test_dry_run(shards: Path, vaes: dict[str, Path], tmp_path: Path) -> None:
    plan = json.loads(encode(shards, vaes["vq"], tmp_path / "l", "--dry-run", "--json", "--verify", 3).ok().out)
    assert plan["provenance"]["options"]["network"]["size"] == 8
    assert not (tmp_path / "l").exists()


def test_info(shards: Path, vaes: dict[str, Path], tmp_path: Path) -> None:
    for kind in ("vq", "kl"):
        encode(shards, vaes[kind], tmp_path / kind, "--flips").ok()
        (file,) = json.loads(dprune("info", tmp_path / kind, "--json").ok().out)["files"]
        latents = open_latents(tmp_path / kind)
        assert (file["kind"], file["problems"], file["fingerprint"]) == ("latents", [], latents.fingerprint)
        assert (file["content"]["valid"], file["content"]["mean"]) == (18, latents.mean.tolist())
    assert "vae: train-vae" in dprune("info", tmp_path / "vq").ok().out.decode()
    store = open_latents(tmp_path / "vq").store
    part = load_file(store.path("000000.tar"))
    part["code_counts"][0] += 1
    store.publish_part("000000.tar", part, store.parts[0]["members"], 7, [])
    dprune("info", tmp_path / "vq").fails(3, "the sums in its files")
