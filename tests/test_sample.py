"""dprune sample: seeds, classes, solvers, shards, ranks, interruptions, exports and what does not fit."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import tarfile
import time
import zipfile

import numpy as np
import pytest
import torch
from conftest import dprune, image_bytes, places_of, warm_python
from PIL import Image
from safetensors.torch import save_file

from dprune import noise
from dprune.errors import UsageError
from dprune.flow import Guidance, guided, solve
from dprune.formats.claims import claim_of, free
from dprune.formats.class_names import ClassNames
from dprune.formats.provenance import make_record, parent, parent_record
from dprune.models.classes import TrainedClasses
from dprune.models.diffusion import velocity
from dprune.models.dit import DiT, DiTConfig
from dprune.models.dit_files import load_dit, network_metadata
from dprune.models.files import publish_model
from dprune.models.vae import VAE, load_vae
from dprune.models.vae_config import VAEConfig
from dprune.models.weights import file_digest
from dprune.sampling import generation
from dprune.sampling.drawing import Sampler
from dprune.sampling.job import SampleJob
from dprune.sampling.seeds import Classes, Seeds
from dprune.sampling.settings import SampleOptions
from dprune.sheets.classes import GAP

SIDE, CHANNELS, CLASSES = 4, 3, 5
CPU = torch.device("cpu")
MEAN, STD = torch.tensor([0.5, -0.5, 0.0]), torch.tensor([1.0, 2.0, 3.0])


def filled(network):
    torch.manual_seed(0)
    for name, parameter in network.named_parameters():
        if name != "pos_embed":
            gain = 3.0 if "y_embedder" in name or "final_layer.linear" in name else 1.0
            torch.nn.init.normal_(parameter, std=gain / (parameter[0].numel() if parameter.ndim > 1 else 16) ** 0.5)
    return network.eval().requires_grad_(False)


def make_vae(path, kind="vq", channels=CHANNELS, image_size=4 * SIDE):
    config = VAEConfig(kind, image_size, 8, (1, 1, 2), 1, channels, 2048 if kind == "vq" else 0, False)
    vae = VAE(config)
    torch.manual_seed(0)
    for parameter in vae.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=1.5 / parameter[0].numel() ** 0.5)
    publish_model(path, vae.state_dict(), {"kind": "vae", **config.as_json()}, make_record("train-vae", {}))
    return path


def make_dit(path, vae, classes=CLASSES, labels=CLASSES, counts=None, init=None, names=None, **options):
    config = DiTConfig(SIDE, CHANNELS, 1, 32, 2, 2, classes)
    encode = make_record("encode", {}, parents={"vae": {"digest": file_digest(vae)}})
    subset = parent_record(make_record("select", {"keep": "0.25"}), "beef")
    parents = {"latents": parent_record(encode, "cafe"), "subset": subset}
    if init is not None:
        parents["init"] = parent_record(init, "babe")
    record = make_record("train-dit", {"arch": "other", **options}, parents=parents)
    network = network_metadata(config, MEAN, STD, labels, counts, names and ClassNames(names))
    publish_model(path, filled(DiT(config)).state_dict(), network, record)
    return path


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    vae = make_vae(folder / "vae.safetensors")
    return make_dit(folder / "dit.safetensors", vae), vae


@pytest.fixture
def sample(models, tmp_path):
    def run(output, *args, model=models[0], vae=models[1]):
        return dprune("sample", model, "--vae", vae, "-o", tmp_path / output, "--device", "cpu", "--steps", "3", *args)

    return run


def members(folder):
    found = {}
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as tar:
            found |= {info.name: tar.extractfile(info).read() for info in tar}
    return found


def pixels(folder):
    return {name[:-4]: np.asarray(Image.open(io.BytesIO(content)))
            for name, content in members(folder).items() if name.endswith(".png")}  # fmt: skip


def labels(folder):
    return {int(name[:-4]): int(content) for name, content in members(folder).items() if name.endswith(".cls")}


def tree(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def record(folder):
    return json.loads((folder / "manifest.json").read_text())["provenance"]


def test_shards_hold_the_images_that_the_networks_give(sample, models, tmp_path):
    sample("out", "--seeds", "7,3-5", "--shard-size", 3, "--cfg", "2", "--cfg-interval", "0.2,0.7").ok()
    assert list(members(tmp_path / "out")) == [
        f"{seed:08d}.{suffix}" for seed in (7, 3, 4, 5) for suffix in ("png", "cls")
    ]
    assert sorted(path.name for path in (tmp_path / "out").glob("*.tar")) == ["000000.tar", "000001.tar"]
    assert labels(tmp_path / "out") == {7: 2, 3: 3, 4: 4, 5: 0}
    dit, (vae, _) = load_dit(models[0], CPU), load_vae(models[1], CPU)
    seeds = torch.tensor([7, 3, 4, 5])
    start = noise.normal(0, "sample", seeds, 0, (CHANNELS, SIDE, SIDE))
    # Three steps are at the noise levels 1, 2/3 and 1/3.
    flow = guided(dit.model, seeds % CLASSES, CLASSES, Guidance(2.0, (0.3, 0.8)))
    latents = solve(flow, start, "euler", 3) * STD[:, None, None] + MEAN[:, None, None]
    expected = ((vae.decode(vae.snap(latents)) + 1) * 127.5).round().clamp(0, 255).permute(0, 2, 3, 1).numpy()
    found = np.stack(list(pixels(tmp_path / "out").values()))
    assert np.abs(found - expected).max() <= 1
    assert (found == expected).mean() > 0.99
    assert found.std() > 10, "images that the test could tell apart"
    assert found.std(0).mean() > 10


def test_an_image_depends_on_its_seed_alone(sample, tmp_path):
    sample("all", "--seeds", "0-39", "--batch-size", 64).ok()
    every = pixels(tmp_path / "all")
    for batch in (1, 7, 32):
        sample(f"batch{batch}", "--seeds", "0-39", "--batch-size", batch).ok()
        assert tree(tmp_path / f"batch{batch}") == tree(tmp_path / "all")
    sample("some", "--seeds", "30,2-4,39").ok()
    for key, image in pixels(tmp_path / "some").items():
        assert np.abs(image.astype(int) - every[key].astype(int)).max() <= 1
        assert (image == every[key]).mean() > 0.99


def test_batches_may_cross_the_ends_of_shards(sample, tmp_path, monkeypatch):
    options = ("--seeds", "3-42", "--shard-size", 9, "--batch-size", 16)
    sample("apart", *options).ok()
    made, drawn = Sampler.__init__, []

    def mixing(self, *args):
        made(self, *args)
        self.mixes = True

    monkeypatch.setattr(Sampler, "__init__", mixing)
    draw = Sampler.draw
    monkeypatch.setattr(Sampler, "draw", lambda self, batch: drawn.append(len(batch.seeds)) or draw(self, batch))
    sample("mixed", *options).ok()
    assert drawn == [16, 16, 8]
    one, other = members(tmp_path / "apart"), members(tmp_path / "mixed")
    assert list(one) == list(other)
    assert labels(tmp_path / "apart") == labels(tmp_path / "mixed")
    pairs = zip(pixels(tmp_path / "apart").values(), pixels(tmp_path / "mixed").values(), strict=True)
    assert all(np.abs(a.astype(int) - b.astype(int)).max() <= 1 for a, b in pairs)


def test_what_is_beyond_float16_is_decoded_again(models, tmp_path):
    vae, _ = load_vae(models[1], CPU)
    vae.decoder[0].weight *= 1e3
    vae.after_latent.bias *= 0
    settings = SampleOptions(str(models[1]), "0-3", quantize=False, device="cpu").resolve()
    sampler = Sampler(load_dit(models[0], CPU), vae, settings, CPU)
    latents = 1e3 * torch.randn(4, CHANNELS, SIDE, SIDE)
    latents[2] *= 1e-6
    sampler._half = True
    assert sampler.images(latents)[1].tolist() == [False, False, True, False]
    images, sound = sampler.images(latents, again=True)
    assert sound.all()
    assert torch.equal(images, ((vae.decode(latents) + 1) * 127.5).round().clamp(0, 255).permute(0, 2, 3, 1).byte())
    latents[0, 0, 0, 0] = torch.nan
    assert sampler.images(latents, again=True)[1].tolist() == [False, True, True, True]


def test_two_models_with_the_same_seeds_begin_with_the_same_noise(sample, models, tmp_path):
    """A network whose velocity is 0 leaves the noise as it is, so its images differ by nothing but the seed."""
    still, record = tmp_path / "still.safetensors", make_record("train-dit", {})
    config = DiTConfig(SIDE, CHANNELS, 2, 16, 1, 1, CLASSES)
    state = {name: torch.zeros_like(value) for name, value in DiT(config).state_dict().items()}
    publish_model(still, state, network_metadata(config, MEAN, STD, CLASSES), record)
    sample("still", "--seeds", "0-3", "--classes", "1", model=still).ok()
    sample("again", "--seeds", "0-3", "--classes", "2", "--solver", "heun", model=still).ok()
    assert list(pixels(tmp_path / "still")) == list(pixels(tmp_path / "again"))
    for one, other in zip(pixels(tmp_path / "still").values(), pixels(tmp_path / "again").values(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_ranks_share_the_shards(sample, tmp_path, monkeypatch):
    options = ["--seeds", "0-49", "--shard-size", 7]
    sample("one", *options, "--grid", tmp_path / "one.png").ok()
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in ("1", "0"):
        monkeypatch.setenv("RANK", rank)
        said = json.loads(sample("two", *options, "--json", "--grid", tmp_path / "two.png").ok().out)
        assert (said["complete"], said["shards"], said["shards_made"]) == (rank == "0", 4, 4)
        assert (tmp_path / "two" / "manifest.json").exists() == (rank == "0")
        assert (tmp_path / "two.png").exists() == (rank == "0")
    assert tree(tmp_path / "two") == tree(tmp_path / "one")
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()


def test_tasks_of_an_array_share_the_shards(sample, tmp_path, monkeypatch):
    options = ["--seeds", "0-49", "--shard-size", 7]
    one = json.loads(sample("one", *options, "--grid", tmp_path / "one.png", "--json").ok().out)
    sample("two", "--seeds", "5-60", "--shard-size", 9).ok()
    options += ["--overwrite", "--json", "--grid", tmp_path / "two.png"]
    monkeypatch.setenv("SLURM_ARRAY_TASK_COUNT", "2")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    with free(claim_of(tmp_path / "two", 2, 8)), free(claim_of(tmp_path / "two", 7, 8)):
        result = sample("two", *options).ok()
        said = json.loads(result.out)
        assert (said["complete"], said["images"], said["shards"], said["shards_made"]) == (False, 42, 6, 6)
        assert "other workers are still making shards" in result.err
        assert not (tmp_path / "two.png").exists()
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "5")
    # It begins when another has cleared the folder.
    said = json.loads(sample("two", *options).ok().out)
    assert (said["complete"], said["images"], said["shards"], said["shards_made"]) == (True, one["images"], 8, 2)
    assert tree(tmp_path / "two") == tree(tmp_path / "one")
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()
    assert "up to date" in sample("two", *options).ok().err


def test_a_task_leaves_the_end_to_another_that_is_at_it(sample, tmp_path, monkeypatch):
    options = ["--seeds", "0-9", "--shard-size", 5, "--grid", tmp_path / "grid.png", "--json"]
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "0")
    monkeypatch.setattr("dprune.formats.turns.LOOKS", 1)
    end = tmp_path / "out" / ".finish.0-of-1.tmp"
    with free(end):
        assert json.loads(sample("out", *options).ok().out)["complete"] is False
        assert not (tmp_path / "grid.png").exists()
    assert json.loads(sample("out", *options).ok().out)["complete"] is True
    assert (tmp_path / "grid.png").exists()


def test_a_task_without_locks_makes_nothing_of_what_is_complete(sample, tmp_path, monkeypatch):
    """Another may have made its shards as well, and completed the folder while this one loaded its networks."""
    options = ["--seeds", "0-9", "--shard-size", 5, "--json"]
    sample("one", *options).ok()
    before = tree(tmp_path / "one")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "0")
    missing, networks = SampleJob._missing, []

    def first(self, numbers):
        return missing(self, numbers) if networks else [number for number in numbers if number == 0]

    monkeypatch.setattr(SampleJob, "_missing", first)
    load = generation.load_dit
    monkeypatch.setattr(generation, "load_dit", lambda *args: networks.append(args) or load(*args))
    monkeypatch.setattr(SampleJob, "complete", lambda self: False)
    monkeypatch.setattr(SampleJob, "is_whole", lambda self: True)
    sample("one", *options).ok()
    assert len(networks) == 1
    assert tree(tmp_path / "one") == before


@pytest.mark.slow
@pytest.mark.parametrize("before", ["nothing", "others", "remnant"])
@pytest.mark.parametrize(
    ("number", "count"), [("RANK", "WORLD_SIZE"), ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT")]
)
def test_workers_that_start_together(sample, models, tmp_path, before, number, count):
    options = ["--seeds", "0-29", "--shard-size", "4", "--steps", "2", "--device", "cpu"]
    dprune("sample", models[0], "--vae", models[1], *options, "-o", tmp_path / "one").ok()
    if before == "others":
        sample("two", "--seeds", "5-50", "--shard-size", 3).ok()
    elif before == "remnant":
        (tmp_path / "two" / ".dprune").mkdir(parents=True)
        (tmp_path / "two" / ".dprune" / "000000.json").write_text("{}")
    command = [warm_python(), "-m", "dprune", "sample", models[0], "--vae", models[1], *options, "--overwrite"]
    started = [
        subprocess.Popen([*map(str, command), "-o", str(tmp_path / "two")], stderr=subprocess.PIPE, text=True,
                         env={**os.environ, number: str(rank), count: "2", "OMP_NUM_THREADS": "1"})
        for rank in range(2)
    ]  # fmt: skip
    for process in started:
        assert process.communicate()[1] is not None
        assert process.returncode == 0
    assert tree(tmp_path / "two") == tree(tmp_path / "one")


def test_stopped_runs_keep_finished_shards(sample, tmp_path, monkeypatch):
    options = ["--seeds", "0-19", "--shard-size", 5]
    sample("whole", *options).ok()
    asked = iter([False, False, *[True] * 99])
    with monkeypatch.context() as patch:
        patch.setattr("dprune.console.TerminalMonitor.stop_requested", lambda self: next(asked))
        sample("out", *options).fails(75, "run the same command again")
    assert sorted(path.name for path in (tmp_path / "out").glob("*.tar")) == ["000000.tar", "000001.tar"]
    dprune("embed", tmp_path / "out", "--model", "pixels", "-o", tmp_path / "f").fails(3, "not finished")
    times = [path.stat().st_mtime_ns for path in sorted((tmp_path / "out").glob("*.tar"))]
    assert json.loads(sample("out", *options, "--json").ok().out)["shards_made"] == 2
    assert [path.stat().st_mtime_ns for path in sorted((tmp_path / "out").glob("*.tar"))][:2] == times
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")
    assert "up to date" in sample("out", *options).ok().err


def test_a_shard_that_was_cut_before_the_rest_is_made_is_made_again(sample, tmp_path, monkeypatch):
    options = ["--seeds", "0-9", "--shard-size", 5]
    sample("whole", *options).ok()
    asked = iter([False, *[True] * 99])
    with monkeypatch.context() as patch:
        patch.setattr("dprune.console.TerminalMonitor.stop_requested", lambda self: next(asked))
        sample("out", *options).fails(75)
    os.truncate(tmp_path / "out" / "000000.tar", 2000)
    assert json.loads(sample("out", *options, "--json").ok().out)["shards_made"] == 2
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")


@pytest.mark.slow
def test_sigterm_stops_between_batches(models, tmp_path):
    command = [warm_python(), "-m", "dprune", "sample", *map(str, models[:1]), "--vae", str(models[1]), "--device",
               "cpu", "--seeds", "0-99999", "--shard-size", "16", "-o", str(tmp_path / "out")]  # fmt: skip
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    while not list((tmp_path / "out").glob("*.tar")) and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    error = process.communicate(timeout=60)[1]
    assert process.returncode == 75, error
    assert not list((tmp_path / "out").glob(".*.tmp"))
    made = len(list((tmp_path / "out").glob("*.tar")))
    assert made == len(list((tmp_path / "out" / ".dprune").glob("[0-9]*.json"))) > 0


def test_other_options_need_overwrite(sample, tmp_path):
    sample("out", "--seeds", "0-5").ok()
    sample("out", "--seeds", "0-5", "--cfg", "2").fails(3, "made differently", "--overwrite")
    before = pixels(tmp_path / "out")
    sample("out", "--seeds", "0-5", "--cfg", "2", "--overwrite").ok()
    assert record(tmp_path / "out")["options"]["cfg"] == 2
    assert any((image != before[key]).any() for key, image in pixels(tmp_path / "out").items())


@pytest.mark.parametrize("option", [
    ("--solver", "heun"), ("--steps", "12"), ("--cfg", "3"), ("--cfg", "3", "--cfg-channels", "1"),
    ("--cfg", "3", "--cfg-interval", "0.6,1"), ("--classes", "3,1"), ("--classes", "random"), ("--no-quantize",),
])  # fmt: skip
def test_options_change_the_images(sample, tmp_path, option):
    plain = ("--cfg", "3") if len(option) > 2 else ()
    sample("plain", "--seeds", "0-9", *plain).ok()
    sample("other", "--seeds", "0-9", *option).ok()
    pairs = zip(pixels(tmp_path / "plain").values(), pixels(tmp_path / "other").values(), strict=True)
    assert sum((one != other).any() for one, other in pairs) > 4
    assert record(tmp_path / "plain")["options"] != record(tmp_path / "other")["options"]


def test_dopri5_ends_where_many_steps_end(models, tmp_path):
    args = ["sample", models[0], "--vae", models[1], "--device", "cpu", "--seeds", "0-5", "--no-quantize"]
    dprune(*args, "--solver", "dopri5", "-o", tmp_path / "dopri5").ok()
    dprune(*args, "--solver", "heun", "--steps", 100, "-o", tmp_path / "heun").ok()
    pairs = zip(pixels(tmp_path / "dopri5").values(), pixels(tmp_path / "heun").values(), strict=True)
    assert all(np.abs(one.astype(int) - other.astype(int)).max() <= 2 for one, other in pairs)
    assert record(tmp_path / "dopri5")["options"]["batch_size"] == 64
    assert "steps" not in record(tmp_path / "dopri5")["options"]


def test_bfloat16_is_near(sample, tmp_path):
    for precision in ("fp32", "bf16"):
        sample(precision, "--seeds", "0-9", "--no-quantize", "--precision", precision).ok()
    pairs = zip(pixels(tmp_path / "fp32").values(), pixels(tmp_path / "bf16").values(), strict=True)
    errors = [np.abs(one.astype(int) - other.astype(int)).mean() for one, other in pairs]
    assert 0 < np.mean(errors) < 8
    assert record(tmp_path / "bf16")["options"]["precision"] == "bfloat16"


def test_classes(sample, models, tmp_path):
    sample("balanced", "--seeds", "0-11").ok()
    assert labels(tmp_path / "balanced") == {seed: seed % CLASSES for seed in range(12)}
    sample("listed", "--seeds", "4-9", "--classes", "3,1").ok()
    assert labels(tmp_path / "listed") == {4: 3, 5: 1, 6: 3, 7: 1, 8: 3, 9: 1}
    sample("random", "--seeds", "0-199", "--classes", "random").ok()
    found = labels(tmp_path / "random")
    assert set(found.values()) == set(range(CLASSES))
    assert found != labels(tmp_path / "balanced")
    sample("again", "--seeds", "150-160", "--classes", "random").ok()
    assert labels(tmp_path / "again") == {seed: found[seed] for seed in range(150, 161)}
    few = make_dit(tmp_path / "few.safetensors", models[1], labels=2)
    sample("few", "--seeds", "0-3", model=few).ok()
    assert labels(tmp_path / "few") == {0: 0, 1: 1, 2: 0, 3: 1}


def test_classes_by_name(sample, models, tmp_path):
    names = ("cat", "dog", "emu, great", "fox", "7")
    model = make_dit(tmp_path / "named.safetensors", models[1], names=names, counts=[1, 0, 1, 1, 1])
    sample("numbers", "--seeds", "0-5", "--classes", "2,0,4", model=model).ok()
    sample("names", "--seeds", "0-5", "--classes", '"emu, great",cat,7', model=model).ok()
    assert list(labels(tmp_path / "names").values()) == [2, 0, 4, 2, 0, 4]
    for path in (tmp_path / "numbers").iterdir():
        assert path.read_bytes() == (tmp_path / "names" / path.name).read_bytes()
    assert (tmp_path / "names" / "classes.txt").read_text().splitlines() == list(names)
    # A class that stands twice is drawn twice as often.
    sample("twice", "--seeds", "0-5", "--classes", "fox,fox,cat", model=model).ok()
    assert list(labels(tmp_path / "twice").values()) == [3, 3, 0, 3, 3, 0]
    said = sample("b", "--seeds", "0-3", "--classes", "dog", model=model).ok().err
    assert "trained on no sample of dog" in " ".join(said.split())
    sample("c", "--seeds", "0", "--classes", "dgo", model=model).fails(3, "--classes dgo", "did you mean 'dog'?")
    sample("c", "--seeds", "0", "--classes", "dog").fails(2, "--classes dog", "balanced", "3,17")
    sample("c", "--seeds", "0", "--classes", "3-1").fails(2, "--classes 3-1", "smaller one first")
    sample("range", "--seeds", "0-2", "--classes", "2-4").ok()
    assert list(labels(tmp_path / "range").values()) == [2, 3, 4]


def test_classes_that_were_not_trained_on_are_left_out(sample, models, tmp_path):
    pruned = make_dit(tmp_path / "pruned.safetensors", models[1], counts=[10, 0, 20, 5, 0])
    assert "was trained on" not in sample("all", "--seeds", "0-29").ok().err
    said = sample("balanced", "--seeds", "0-29", model=pruned).ok().err
    assert said.count("warning: ") == 1
    assert "trained on no sample of 2 of its 5 classes (1, 4): they are left out" in " ".join(said.split())
    whole, found = labels(tmp_path / "all"), labels(tmp_path / "balanced")
    assert np.bincount(list(found.values())).tolist() == [10, 0, 10, 10]
    assert all(found[seed] == label for seed, label in whole.items() if label not in (1, 4)), "to be compared by seed"
    sample("random", "--seeds", "0-59", "--classes", "random", model=pruned).ok()
    assert set(labels(tmp_path / "random").values()) == {0, 2, 3}
    said = sample("named", "--seeds", "0-3", "--classes", "4,3,1", model=pruned).ok().err
    assert list(labels(tmp_path / "named").values()) == [4, 3, 1, 4]
    assert said.count("warning: ") == 1
    assert "--classes: " in said
    assert "no sample of 1, 4" in " ".join(said.split())
    assert "warning" not in sample("known", "--seeds", "0-3", "--classes", "3,0", model=pruned).ok().err


def test_classes_in_proportion_to_the_training_set(sample, models, tmp_path):
    counts = [10, 0, 20, 5, 1]
    pruned = make_dit(tmp_path / "pruned.safetensors", models[1], counts=counts)
    sample("out", "--seeds", "0-35", "--classes", "proportional", model=pruned).ok()
    found = labels(tmp_path / "out")
    assert np.bincount(list(found.values())).tolist() == counts
    sample("again", "--seeds", "30,7-9,36", "--classes", "proportional", model=pruned).ok()
    assert labels(tmp_path / "again") == {seed: found[seed % 36] for seed in (30, 7, 8, 9, 36)}
    assert record(tmp_path / "out")["options"]["classes"] == "proportional"
    done = sample("b", "--seeds", "0", "--classes", "proportional").fails(2, "--classes proportional", "does not say")
    assert "balanced" in done.err


def test_the_first_seeds_have_shares_as_near_as_their_number_allows():
    counts = np.random.default_rng(0).integers(0, 300, 10)
    trained = TrainedClasses(10, tuple(counts.tolist()))
    drawn = trained.proportional(np.arange(2 * counts.sum()))
    for number in (1, 7, 64, 500, int(counts.sum()), int(1.5 * counts.sum())):
        quota = number * counts / counts.sum()
        assert np.abs(np.bincount(drawn[:number], minlength=10) - quota).max() < 1
    assert np.bincount(drawn, minlength=10).tolist() == (2 * counts).tolist()
    many = TrainedClasses(3, (3 << 30, 1 << 30, 1)).proportional(np.arange(400))
    assert np.bincount(many, minlength=3).tolist() == [300, 100, 0]
    even = TrainedClasses(3, (7, 7, 7)).proportional(np.arange(6))
    assert even.tolist() == [0, 1, 2, 0, 1, 2]


def test_guidance_away_from_what_was_never_learnt(sample, models, tmp_path):
    """Without dropped labels only samples that have none, or the weights that training began with, teach it."""
    base = make_record("train-dit", {"label_dropout": 0.1})
    for name, warns, more in (
        ("never", True, {}), ("old", True, {"counts": None}), ("some", False, {"samples": 9}),
        ("begun", False, {"init": base}), ("dropped", False, {"label_dropout": 0.1}),
    ):  # fmt: skip
        options = {"label_dropout": 0, "samples": 8, "counts": [2, 2, 2, 1, 1]} | more
        model = make_dit(tmp_path / f"{name}.safetensors", models[1], **options)
        said = sample(name, "--seeds", "0", "--cfg", "2", model=model).ok().err
        assert ("--cfg 2: " in said and "--label-dropout 0" in " ".join(said.split())) == warns, name
        assert said.count("warning: ") == warns
    assert "warning" not in sample("plain", "--seeds", "0", model=tmp_path / "never.safetensors").ok().err


def test_unconditional_models_know_no_classes(sample, models, tmp_path):
    free = make_dit(tmp_path / "free.safetensors", models[1], classes=0)
    sample("out", "--seeds", "0-3", "--npz", tmp_path / "all.npz", model=free).ok()
    assert all(name.endswith(".png") for name in members(tmp_path / "out"))
    assert "classes" not in record(tmp_path / "out")["options"]
    assert list(np.load(tmp_path / "all.npz")) == ["arr_0"]
    sample("b", "--seeds", "0", "--cfg", "2", model=free).fails(2, "--cfg", "was trained without classes")
    sample("b", "--seeds", "0", "--classes", "balanced", model=free).fails(
        2, "--classes", "was trained without classes"
    )


def test_provenance_leads_back_to_the_subset(sample, models, tmp_path):
    sample("out", "--seeds", "0-3,4,9", "--tag", "who=me").ok()
    found = record(tmp_path / "out")
    assert found["options"] == {"seeds": "0-4,9", "solver": "euler", "steps": 3, "cfg": 1.0, "classes": "balanced",
                                "quantize": True, "precision": "float32", "shard_size": 1000}  # fmt: skip
    assert found["parents"]["vae"]["digest"] == file_digest(models[1])
    model = found["parents"]["model"]
    assert model["digest"] == file_digest(models[0])
    assert parent(parent(found, "model"), "subset")["options"] == {"keep": "0.25"}


def test_other_commands_take_the_shards(sample, tmp_path):
    sample("out", "--seeds", "0-8", "--shard-size", 4).ok()
    told = json.loads(dprune("info", tmp_path / "out", "--json").ok().out)
    assert "select" in json.dumps(told)
    dprune("embed", tmp_path / "out", "--model", "pixels", "--image-size", 4, "-o", tmp_path / "features").ok()
    told = json.loads(dprune("info", tmp_path / "features", "--json").ok().out)
    assert told["files"][0]["content"]["samples"] == 9


def test_another_autoencoder_is_refused(sample, models, tmp_path):
    other = make_vae(tmp_path / "other.safetensors", kind="kl")
    digests = [file_digest(path)[:12] for path in (other, models[1])]
    sample("out", "--seeds", "0", vae=other).fails(3, *digests, "give that one")
    wide = make_vae(tmp_path / "wide.safetensors", channels=7)
    sample("out", "--seeds", "0", vae=wide).fails(3, "3 x 4 x 4", "7 x 4 x 4")
    large = make_vae(tmp_path / "large.safetensors", image_size=32)
    sample("out", "--seeds", "0", vae=large).fails(3, "3 x 8 x 8")
    sample("out", "--seeds", "0", vae=models[0]).fails(3, "kind dit, not an autoencoder")
    sample("out", "--seeds", "0", model=models[1]).fails(3, "kind vae, not a DiT")
    assert not (tmp_path / "out").exists()


def test_a_state_dict_of_sit_samples(sample, tmp_path):
    vae = make_vae(tmp_path / "vae.safetensors", kind="kl")
    says = ("--parametrization", "velocity")
    state = filled(DiT(DiTConfig(SIDE, CHANNELS, 2, 384, 1, 6, 10, learn_sigma=True))).state_dict()
    torch.save({"ema": state}, tmp_path / "sit.pt")
    sample("out", "--seeds", "0", model=tmp_path / "sit.pt", vae=vae).fails(2, "sit.pt: does not say what it predicts")
    sample("out", "--seeds", "0-11", *says, model=tmp_path / "sit.pt", vae=vae).ok()
    assert "parametrization" not in record(tmp_path / "out")["options"]
    assert labels(tmp_path / "out")[11] == 1
    assert record(tmp_path / "out")["parents"]["model"] == {
        "digest": file_digest(tmp_path / "sit.pt"),
        "external": True,
    }
    sample("b", "--seeds", "0", *says, "--classes", "10", model=tmp_path / "sit.pt", vae=vae).fails(2, "classes 0 to 9")
    sample("b", "--seeds", "0", *says, "--no-quantize", model=tmp_path / "sit.pt", vae=vae).fails(2, "has no codes")
    wide = make_vae(tmp_path / "wide.safetensors", channels=7)
    sample("b", "--seeds", "0", *says, model=tmp_path / "sit.pt", vae=wide).fails(3, "7 x 4 x 4")
    save_file({"x": torch.ones(1)}, tmp_path / "x.safetensors")
    sample("b", "--seeds", "0", *says, model=tmp_path / "x.safetensors", vae=vae).fails(3, "not a DiT or SiT")
    assert not (tmp_path / "b").exists()


def test_a_model_that_predicts_noise_samples_by_its_velocity(sample, models, tmp_path):
    vae = make_vae(tmp_path / "vae.safetensors", kind="kl")
    network = filled(DiT(DiTConfig(SIDE, CHANNELS, 2, 384, 1, 6, 10, learn_sigma=True)))
    torch.save(network.state_dict(), tmp_path / "dit.pt")
    args = ("--seeds", "0-3", "--cfg", "1.5", "--parametrization")
    sample("noise", *args, "noise", model=tmp_path / "dit.pt", vae=vae).ok()
    assert record(tmp_path / "noise")["options"]["parametrization"] == "noise"
    assert "up to date" in sample("noise", *args, "noise", model=tmp_path / "dit.pt", vae=vae).ok().err
    sample("noise", *args, "velocity", model=tmp_path / "dit.pt", vae=vae).fails(3, "parametrization")

    def ours(x, t, y):
        return velocity(lambda x, timestep: network(x, timestep, y), x, t)

    seeds = torch.arange(4)
    start = noise.normal(0, "sample", seeds, 0, (CHANNELS, SIDE, SIDE))
    latents = solve(guided(ours, seeds, 10, Guidance(1.5)), start, "euler", 3) / 0.18215
    expected = ((load_vae(vae, CPU)[0].decode(latents) + 1) * 127.5).round().clamp(0, 255).permute(0, 2, 3, 1).numpy()
    found = np.stack(list(pixels(tmp_path / "noise").values()))
    assert np.abs(found - expected).max() <= 1
    assert found.std() > 10
    sample("own", "--seeds", "0", "--parametrization", "velocity").ok()
    sample("other", "--seeds", "0", "--parametrization", "noise").fails(
        2, "--parametrization noise", "predicts velocity"
    )


def test_numbers_that_are_not_finite_are_refused(sample, models, tmp_path):
    broken = load_dit(models[0], CPU)
    broken.model.final_layer.linear.bias.fill_(torch.inf)
    network = network_metadata(broken.model.config, MEAN, STD, CLASSES)
    publish_model(tmp_path / "inf.safetensors", broken.model.state_dict(), network, make_record("train-dit", {}))
    sample("out", "--seeds", "0", model=tmp_path / "inf.safetensors").fails(
        3, "inf.safetensors", "not finite in float32: give"
    )


def enlarged(image):
    return np.asarray(Image.fromarray(image).resize((64, 64), Image.Resampling.NEAREST))


def test_the_grid_has_a_row_for_each_class(sample, tmp_path):
    """All images that are asked for are shown, also where classes have different numbers of them."""
    sample("out", "--seeds", "0-39", "--grid", tmp_path / "g.png", "--grid-count", 17).ok()
    sheet, found = np.asarray(Image.open(tmp_path / "g.png")), pixels(tmp_path / "out")
    (top, left), *_ = places_of(sheet, enlarged(found["00000000"]))
    step = 64 + GAP
    for seed in range(17):
        row, column = seed % CLASSES, seed // CLASSES
        assert (top + row * step, left + column * step) in places_of(sheet, enlarged(found[f"{seed:08d}"]))
    # The numbers of the classes stand at the side of their rows.
    for row in range(CLASSES):
        assert (sheet[top + row * step : top + row * step + 64, : left - 1] < 128).any()


def test_another_count_is_another_grid(sample, tmp_path):
    options = ["--seeds", "0-9", "--grid", tmp_path / "g.png"]
    sample("out", *options).ok()
    assert "up to date" in sample("out", *options, "--grid-count", 64).ok().err
    before = (tmp_path / "g.png").read_bytes()
    sample("out", *options, "--grid-count", 5).fails(3, "g.png", "--overwrite")
    assert (tmp_path / "g.png").read_bytes() == before
    assert "shards made: 0" in sample("out", *options, "--grid-count", 5, "--overwrite").ok().err
    assert (tmp_path / "g.png").read_bytes() != before


def test_exports_of_one_name_are_refused(sample, tmp_path):
    sample("out", "--seeds", "0-3", "--grid", tmp_path / "x", "--npz", tmp_path / "x").fails(2, "--grid", "--npz", "x")
    assert not (tmp_path / "x").exists()
    assert not (tmp_path / "out").exists()


def test_npz_is_what_the_evaluator_reads(sample, tmp_path):
    options = ["--seeds", "0-10", "--shard-size", 4]
    sample("out", *options, "--npz", tmp_path / "all.npz").ok()
    with np.load(tmp_path / "all.npz") as found:
        assert list(found) == ["arr_0", "arr_1"]
        np.testing.assert_array_equal(found["arr_0"], np.stack(list(pixels(tmp_path / "out").values())))
        assert found["arr_0"].dtype == np.uint8
        assert found["arr_1"].tolist() == [seed % CLASSES for seed in range(11)]
    with zipfile.ZipFile(tmp_path / "all.npz") as archive:
        assert archive.testzip() is None
    first = (tmp_path / "all.npz").read_bytes()
    assert "up to date" in sample("out", *options, "--npz", tmp_path / "all.npz").ok().err
    (tmp_path / "all.npz").unlink()
    assert json.loads(sample("out", *options, "--npz", tmp_path / "all.npz", "--json").ok().out)["shards_made"] == 0
    assert (tmp_path / "all.npz").read_bytes() == first
    sample("out2", "--seeds", "0-3", "--npz", tmp_path / "all.npz").fails(3, "all.npz", "differently", "--overwrite")
    assert (tmp_path / "all.npz").read_bytes() == first
    assert not (tmp_path / "out2").exists()
    sample("out2", "--seeds", "0-3", "--npz", tmp_path / "all.npz", "--overwrite").ok()
    assert len(np.load(tmp_path / "all.npz")["arr_0"]) == 4


def test_files_of_others_are_not_replaced_by_exports(sample, tmp_path):
    (tmp_path / "mine.png").write_bytes(image_bytes(0))
    np.savez(tmp_path / "mine.npz", np.ones(3))
    for option, name in (("--grid", "mine.png"), ("--npz", "mine.npz")):
        before = (tmp_path / name).read_bytes()
        sample("out", "--seeds", "0", option, tmp_path / name).fails(3, name, f"another {option}")
        assert (tmp_path / name).read_bytes() == before
    assert not (tmp_path / "out").exists()


def test_shards_of_others_are_not_replaced(sample, shards, tmp_path):
    before = tree(shards)
    sample("shards", "--seeds", "0").fails(3, "--overwrite")
    sample("shards", "--seeds", "0", "--overwrite").fails(3, "did not write")
    assert tree(shards) == before


@pytest.mark.parametrize("text", ["0-9,5", "3,3", "5-3", "", "a", "-1", "1-", "0-9999999999", "1.5", "0,,1",
                                  "99999999999999999999", "9223372036854775808"])  # fmt: skip
def test_nonsense_in_seeds(sample, text):
    sample("out", f"--seeds={text}").fails(2, "--seeds")


@pytest.mark.parametrize("args", [
    ("--cfg-interval", "0.2,0.8"), ("--cfg-channels", "1"), ("--cfg", "2", "--cfg-interval", "0.8,0.2"),
    ("--cfg", "2", "--cfg-interval", "x"), ("--cfg", "2", "--cfg-channels", "4"), ("--classes", "a"),
    ("--classes", "5"), ("--classes", ""), ("--solver", "dopri5", "--steps", "3"), ("--compile",), ("--cfg", "-1"),
    ("--device", "gpu"), ("--grid-count", "9"),
])  # fmt: skip
def test_options_that_contradict(sample, tmp_path, args):
    sample("out", "--seeds", "0-3", *args).fails(2, args[-2] if len(args) % 2 == 0 else args[0])
    assert not (tmp_path / "out").exists()


def test_seeds_are_kept_in_order():
    seeds = Seeds.parse("7, 3-5,6,100-102")
    assert str(seeds) == "7,3-6,100-102"
    assert len(seeds) == 8
    everything = [7, 3, 4, 5, 6, 100, 101, 102]
    assert seeds.between(0, 8).tolist() == everything
    for begin in range(9):
        for end in range(begin, 10):
            assert seeds.between(begin, end).tolist() == everything[begin:end]
    assert Seeds.parse(str(seeds)) == seeds
    assert Seeds.parse("9223372036854775807").between(0, 1).tolist() == [2**63 - 1]


def test_classes_are_read_back():
    for text in ("balanced", "random", "proportional", "3,17"):
        assert str(Classes.parse(text)) == text
    with pytest.raises(UsageError):
        Classes.parse("3,,17")


def test_a_dry_run_touches_nothing(sample, tmp_path):
    plan = json.loads(sample("out", "--seeds", "0-3", "--dry-run", "--json").ok().out)
    assert plan["provenance"]["options"]["seeds"] == "0-3"
    assert not (tmp_path / "out").exists()


def test_listed_classes_belong_to_seeds_and_not_to_places():
    assert Classes.parse("3,1,7").labels(np.array([5, 2, 0, 7]), TrainedClasses(10)).tolist() == [7, 7, 3, 1]
    assert Classes.parse("balanced").labels(np.array([5, 12, 3]), TrainedClasses(10)).tolist() == [5, 2, 3]


def test_guidance_acts_at_the_ends_of_its_interval(sample, tmp_path):
    """Where steps end by rounding a little outside of it, too: 7 steps of .1 are more than .7."""
    options = ("--seeds", "0-3", "--cfg", "3", "--steps", "10")
    sample("ends", *options, "--cfg-interval", "0.3,0.7").ok()
    sample("beyond", *options, "--cfg-interval", "0.25,0.75").ok()
    sample("within", *options, "--cfg-interval", "0.35,0.65").ok()
    ends, beyond, within = (pixels(tmp_path / name) for name in ("ends", "beyond", "within"))
    assert all((ends[key] == beyond[key]).all() for key in ends)
    assert any((ends[key] != within[key]).any() for key in ends)


# What measures of several models have in common.


def test_models_sampled_with_the_same_seeds_are_paired(models, sample, tmp_path):
    """Whatever else differs; a part of the images, or others, are paired with nothing or with others."""
    other = make_dit(tmp_path / "other.safetensors", models[1], steps=7)

    def pairing(name, *args, model=models[0], part=""):
        sample(name, *args, model=model).ok()
        features, result = tmp_path / f"{name}-features", tmp_path / f"{name}.json"
        pixels = ("--model", "pixels", "--image-size", 2, "--workers", 0)
        dprune("embed", tmp_path / name / part, *pixels, "-o", features).ok()
        reference = tmp_path / "one-features"
        dprune("eval", features, reference, "--metrics", "fid", "--jackknife", 5, "-o", result).ok()
        return json.loads(result.read_text())["details"]["jackknife"]["pairing"]

    seeds = ("--seeds", "0-19")
    known = pairing("one", *seeds)
    assert known is not None
    assert pairing("two", *seeds, "--cfg", 2, "--solver", "heun", "--shard-size", 8, model=other) == known
    assert pairing("classes", *seeds, "--classes", "1,2", model=other) not in (known, None)
    assert pairing("seeds", "--seeds", "1-20", model=other) not in (known, None)
    assert pairing("part", *seeds, "--shard-size", 8, part="000001.tar") is None
