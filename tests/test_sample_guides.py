"""dprune sample with companions: --coarse draws the first part of the way, --guide is what to go away from."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from conftest import dprune
from test_sample import CHANNELS, CLASSES, CPU, MEAN, SIDE, STD, labels, make_dit, make_vae, pixels, record, tree

from dprune import noise
from dprune.flow import Guidance, guided, solve
from dprune.formats.class_names import ClassNames
from dprune.formats.provenance import generator_of, make_record, parent, parent_record, training_subset
from dprune.models.dit import DiT, DiTConfig
from dprune.models.dit_files import load_dit, network_metadata
from dprune.models.files import publish_model
from dprune.models.weights import file_digest
from dprune.sampling.drawing import Sampler
from dprune.sampling.latents import Companions, sample_latents
from dprune.sampling.settings import SampleOptions

Y = torch.tensor([0, 3, 1])
NULL = 5


class StandIn:
    """A network of float64 whose velocity depends on all that it is given, and which counts what it is asked."""

    def __init__(self, seed):
        draw = torch.Generator().manual_seed(seed)
        self.gain, self.table = (
            torch.randn(2, generator=draw, dtype=torch.float64),
            torch.randn((NULL + 1, 1, 1, 1), generator=draw, dtype=torch.float64),
        )
        self.times, self.sizes = [], []

    def __call__(self, x, t, y):
        self.times.append(float(t[0]))
        self.sizes.append(len(x))
        assert (t == t[0]).all()
        return torch.tanh(self.gain[0] * x + t[:, None, None, None] + self.table[y]) * self.gain[1]


def small_dit(path, vae, seed, *, classes=CLASSES, side=SIDE, mean=MEAN, names=None, counts=None, **options):
    """Publish a model of another size than `make_dit`'s, with weights of its own."""
    config = DiTConfig(side, CHANNELS, 2, 16, 1, 1, classes)
    network = DiT(config)
    torch.manual_seed(seed)
    for name, parameter in network.named_parameters():
        if name != "pos_embed":
            torch.nn.init.normal_(parameter, std=2.0 / (parameter[0].numel() if parameter.ndim > 1 else 16) ** 0.5)
    encode = make_record("encode", {}, parents={"vae": {"digest": file_digest(vae)}})
    parents = {"latents": parent_record(encode, "cafe"), "subset": parent_record(make_record("select", {}), "bad")}
    made = make_record("train-dit", {"arch": f"small{seed}", **options}, parents=parents)
    described = network_metadata(config, mean, STD, classes, counts, names and ClassNames(names))
    publish_model(path, network.state_dict(), described, made)
    return path


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    vae = make_vae(folder / "vae.safetensors", kind="kl")
    made = {"vae": vae, "model": make_dit(folder / "model.safetensors", vae)}
    return made | {name: small_dit(folder / f"{name}.safetensors", vae, seed)
                   for seed, name in enumerate(("coarse", "weak"), 1)}  # fmt: skip


@pytest.fixture
def sample(files, tmp_path):
    def run(output, *args, model=files["model"]):
        shown = [files.get(arg, arg) if isinstance(arg, str) else arg for arg in args]
        return dprune("sample", model, "--vae", files["vae"], "-o", tmp_path / output, "--device", "cpu",
                      "--seeds", "0-19", "--steps", 4, *shown)  # fmt: skip

    return run


def shards_of(folder):
    return {path.name: path.read_bytes() for path in folder.glob("*.tar")}


def numbers(folder):
    return np.stack(list(pixels(folder).values())).astype(int)


@pytest.mark.parametrize("until", [0, 0.25, 0.3, 0.5, 0.7, 1])
@pytest.mark.parametrize("solver", ["euler", "heun"])
def test_a_step_is_of_the_model_of_the_time_at_which_it_begins(solver, until):
    x, small, large = torch.randn(3, 2, 4, 4, dtype=torch.float64), StandIn(1), StandIn(2)
    flows = [guided(one, Y, NULL, Guidance()) for one in (small, large)]
    half = solve(flows[0], x, solver, 10, span=(0.0, until))
    found = solve(flows[1], half, solver, 10, span=(until, 1.0))
    expected, turns = x, []
    for step in range(10):
        # In tenths, so that nothing is rounded.
        early = step * 100 < round(until * 1000)
        turns.append(early)
        f = flows[not early]
        slope = f(expected, step / 10)
        ahead = expected + slope / 10
        expected = ahead if solver == "euler" else expected + (slope + f(ahead, (step + 1) / 10)) / 20
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    each = 2 if solver == "heun" else 1
    assert (len(small.times), len(large.times)) == (2 * each * sum(turns), 2 * each * (10 - sum(turns)))


def test_dopri5_goes_on_where_the_other_model_ended():
    x, small, large = torch.randn(3, 2, 4, 4, dtype=torch.float64), StandIn(1), StandIn(2)
    flows = [guided(one, Y, NULL, Guidance()) for one in (small, large)]

    def both(solver, steps):
        half = solve(flows[0], x, solver, steps, 1e-10, (0.0, 0.3))
        return solve(flows[1], half, solver, steps, 1e-10, (0.3, 1.0))

    found = both("dopri5", 0)
    assert small.times[0] == 0.0
    assert min(large.times) == pytest.approx(0.3)
    torch.testing.assert_close(found, both("heun", 2000), rtol=1e-6, atol=1e-6)
    asked = len(small.times), len(large.times)
    assert solve(flows[0], x, "dopri5", 0, span=(1.0, 1.0)) is x
    assert (len(small.times), len(large.times)) == asked


@pytest.mark.parametrize("channels", [None, 1])
@pytest.mark.parametrize(("scale", "weaker"), [(1.0, 2.5), (3.0, 2.5), (3.0, 1.0), (0.5, 0.0), (1.0, 1.0)])
def test_guidance_adds_up(scale, weaker, channels):
    x, strong, weak = torch.randn(3, 2, 4, 4, dtype=torch.float64), StandIn(1), StandIn(2)
    guidance = Guidance(scale, (0.2, 0.8), channels, weaker)
    flow = guided(strong, Y, NULL, guidance, guided(weak, Y, NULL, Guidance()))
    for t, acts in ((0.1, False), (0.2, True), (0.5, True), (0.9, False)):
        found, weak.times = flow(x, t), []
        for row in range(3):
            one, y, times = x[row : row + 1], Y[row : row + 1], torch.tensor([t], dtype=torch.float64)
            v, free, worse = strong(one, times, y), strong(one, times, torch.tensor([NULL])), weak(one, times, y)
            expected = v.clone()
            if acts:
                expected = worse + weaker * (v - worse) + (scale - 1) * (v - free)
                expected[:, 2 if channels is None else channels :] = v[:, 2 if channels is None else channels :]
            torch.testing.assert_close(found[row : row + 1], expected, rtol=1e-12, atol=1e-12)


def test_a_weaker_model_is_asked_only_where_it_acts():
    x, strong, weak = torch.randn(3, 2, 4, 4, dtype=torch.float64), StandIn(1), StandIn(2)
    away = guided(weak, Y, NULL, Guidance())
    none = guided(strong, Y, NULL, Guidance(3.0), away)
    torch.testing.assert_close(none(x, 0.5), guided(strong, Y, NULL, Guidance(3.0))(x, 0.5), rtol=0, atol=0)
    assert weak.times == []
    flow = guided(strong, Y, NULL, Guidance(2.0, (0.25, 0.5), weaker_scale=2.0), away)
    strong.sizes.clear()
    for step in range(4):
        flow(x, step / 4)
    assert weak.times == [0.25, 0.5]
    assert weak.sizes == [3, 3], "it is asked with labels only"
    assert strong.sizes == [3, 6, 6, 3], "with and without labels in one pass"


def test_a_model_guided_away_from_itself_is_itself():
    x, strong = torch.randn(3, 2, 4, 4, dtype=torch.float64), StandIn(1)
    own = guided(strong, Y, NULL, Guidance())
    assert torch.equal(guided(strong, Y, NULL, Guidance(weaker_scale=3.0), own)(x, 0.5), own(x, 0.5))


@pytest.mark.parametrize("args", [(), ("--solver", "heun"), ("--cfg", 2, "--cfg-interval", "0.2,0.7")])
def test_the_ends_are_either_model_alone(sample, files, tmp_path, args):
    sample("large", *args).ok()
    sample("small", *args, model=files["coarse"]).ok()
    sample("until0", *args, "--coarse", "coarse", "--until", 0).ok()
    sample("until1", *args, "--coarse", "coarse", "--until", 1).ok()
    sample("between", *args, "--coarse", "coarse", "--until", 0.5).ok()
    sample("guided", *args, "--coarse", "coarse", "--until", 1, "--guide", "weak").ok()
    assert shards_of(tmp_path / "until0") == shards_of(tmp_path / "large")
    assert shards_of(tmp_path / "until1") == shards_of(tmp_path / "small")
    assert shards_of(tmp_path / "guided") == shards_of(tmp_path / "small")
    for name in ("large", "small"):
        assert np.abs(numbers(tmp_path / "between") - numbers(tmp_path / name)).mean() > 3


def test_dopri5_at_the_ends(files, tmp_path):
    common = ["--vae", files["vae"], "--device", "cpu", "--seeds", "0-3", "--solver", "dopri5"]
    for name, model, more in (
        ("large", "model", ()), ("small", "coarse", ()), ("0", "model", ("--coarse", files["coarse"], "--until", 0)),
        ("1", "model", ("--coarse", files["coarse"], "--until", 1)),
    ):  # fmt: skip
        dprune("sample", files[model], *common, *more, "-o", tmp_path / name).ok()
    assert shards_of(tmp_path / "0") == shards_of(tmp_path / "large")
    assert shards_of(tmp_path / "1") == shards_of(tmp_path / "small")


def expected_images(files, args, seeds, *, coarse=None, until=0.0, guide=None):
    """What a plain loop over the networks gives, latents normalised."""
    large = load_dit(files["model"], CPU).model
    y = seeds % CLASSES
    x = noise.normal(0, "sample", seeds, 0, (CHANNELS, SIDE, SIDE))
    for step in range(4):
        t = torch.full((len(seeds),), step / 4)
        if coarse is not None and step / 4 < until:
            v = coarse(x, t, y)
        else:
            v = large(x, t, y)
            if guide is not None:
                v = guide(x, t, y) + args * (v - guide(x, t, y))
        x = x + v / 4
    return x


@pytest.mark.parametrize("roles", [("coarse",), ("guide",), ("coarse", "guide")])
def test_the_images_are_those_of_a_plain_loop(files, roles):
    seeds = torch.arange(6)
    coarse, weak = (load_dit(files[name], CPU).model for name in ("coarse", "weak"))
    found = sample_latents(
        load_dit(files["model"], CPU).model, seeds % CLASSES, seeds, Guidance(weaker_scale=2.5), "euler", 4,
        companions=Companions(coarse if "coarse" in roles else None, 0.5, weak if "guide" in roles else None),
    )  # fmt: skip
    given = {"coarse": coarse if "coarse" in roles else None, "guide": weak if "guide" in roles else None}
    torch.testing.assert_close(found, expected_images(files, 2.5, seeds, until=0.5, **given), rtol=1e-4, atol=1e-4)


def test_the_command_draws_what_its_networks_give(sample, files, tmp_path):
    sample("out", "--coarse", "coarse", "--until", 0.5, "--guide", "weak", "--guide-scale", 2.5).ok()
    coarse, weak = (load_dit(files[name], CPU).model for name in ("coarse", "weak"))
    z = expected_images(files, 2.5, torch.arange(20), coarse=coarse, until=0.5, guide=weak)
    settings = SampleOptions(str(files["vae"]), "0-19", device="cpu").resolve()
    from dprune.models.vae import load_vae

    sampler = Sampler(load_dit(files["model"], CPU), load_vae(files["vae"], CPU)[0], settings, CPU)
    images, _ = sampler.images(z * STD[:, None, None] + MEAN[:, None, None])
    difference = np.abs(numbers(tmp_path / "out") - images.numpy().astype(int))
    assert difference.max() <= 1
    assert (difference == 0).mean() > 0.99


def test_a_scale_of_1_does_not_ask_the_weaker_model(sample, files, tmp_path, monkeypatch):
    sample("alone").ok()
    sample("guided", "--guide", "weak").ok()
    assert np.abs(numbers(tmp_path / "guided") - numbers(tmp_path / "alone")).mean() > 3
    forward, asked = DiT.forward, []
    monkeypatch.setattr(DiT, "forward", lambda self, *args: asked.append(self.config.width) or forward(self, *args))
    sample("one", "--guide", "weak", "--guide-scale", 1).ok()
    assert set(asked) == {32}
    assert shards_of(tmp_path / "one") == shards_of(tmp_path / "alone")
    sample("itself", "--guide", "model", "--guide-scale", 3).ok()
    assert shards_of(tmp_path / "itself") == shards_of(tmp_path / "alone")


def test_an_image_depends_on_its_seed_alone(sample, tmp_path, monkeypatch):
    args = ("--coarse", "coarse", "--guide", "weak", "--cfg", 1.5, "--shard-size", 6)
    sample("all", *args).ok()
    for batch in (1, 7):
        sample(f"batch{batch}", *args, "--batch-size", batch).ok()
        assert tree(tmp_path / f"batch{batch}") == tree(tmp_path / "all")
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in ("1", "0"):
        monkeypatch.setenv("RANK", rank)
        sample("ranks", *args).ok()
    assert tree(tmp_path / "ranks") == tree(tmp_path / "all")


def test_the_record_names_the_companions(sample, files, tmp_path):
    sample("plain").ok()
    assert not {"until", "guide_scale"} & record(tmp_path / "plain")["options"].keys()
    assert list(record(tmp_path / "plain")["parents"]) == ["model", "vae"]
    sample("out", "--coarse", "coarse", "--guide", "weak").ok()
    found = record(tmp_path / "out")
    assert (found["options"]["until"], found["options"]["guide_scale"]) == (0.7, 2.0)
    assert {role: entry["digest"] for role, entry in found["parents"].items()} == {
        role: file_digest(files[name])
        for role, name in (("model", "model"), ("vae", "vae"), ("coarse", "coarse"), ("guide", "weak"))
    }
    # The images speak of the model and its subset, whatever else took part.
    assert generator_of(found)["options"]["arch"] == "other"
    assert training_subset(found)["digest"] == "beef"
    assert parent(found, "coarse")["options"]["arch"] == "small1"
    alone = {**found, "parents": {role: found["parents"][role] for role in ("coarse", "guide", "vae")}}
    assert generator_of(alone) is None


def test_reruns(sample, tmp_path):
    args = ("--coarse", "coarse", "--guide", "weak")
    sample("out", *args).ok()
    before = tree(tmp_path / "out")
    assert "up to date" in sample("out", *args, "--until", 0.7, "--guide-scale", 2).ok().err
    sample("out", "--coarse", "weak", "--guide", "weak").fails(3, "coarse", "--overwrite")
    sample("out", "--coarse", "coarse", "--guide", "coarse").fails(3, "guide", "--overwrite")
    sample("out", *args, "--until", 0.6).fails(3, "until", "--overwrite")
    sample("out", *args, "--guide-scale", 3).fails(3, "guide_scale", "--overwrite")
    sample("out", "--coarse", "coarse").fails(3, "--overwrite")
    sample("out").fails(3, "--overwrite")
    assert tree(tmp_path / "out") == before
    sample("plain").ok()
    sample("plain", "--coarse", "coarse").fails(3, "--overwrite")


def test_stopped_runs_go_on(sample, tmp_path, monkeypatch):
    args = ("--coarse", "coarse", "--guide", "weak", "--shard-size", 5)
    sample("whole", *args).ok()
    asked = iter([False, False, *[True] * 99])
    with monkeypatch.context() as patch:
        patch.setattr("dprune.console.TerminalMonitor.stop_requested", lambda self: next(asked))
        sample("out", *args).fails(75, "run the same command again")
    assert json.loads(sample("out", *args, "--json").ok().out)["shards_made"] == 2
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")


def test_companions_that_do_not_fit(sample, files, tmp_path):
    def fails(said, *args, role="--coarse", **options):
        other = small_dit(tmp_path / "other.safetensors", files["vae"], 3, **options)
        sample("out", role, other, *args).fails(3, f"{role} {other}", *said)

    for role in ("--coarse", "--guide"):
        fails(("3 x 8 x 8", "3 x 4 x 4"), role=role, side=8)
        fails(("normalises", str(files["model"])), role=role, mean=MEAN + 1)
        fails(("knows 7 classes", "5"), role=role, classes=7)
        sample("out", role, files["vae"]).fails(3, "kind vae, not a DiT")
        sample("out", role, tmp_path / "none.safetensors").fails(3, "none.safetensors", "no such file")
        cut = tmp_path / "cut.safetensors"
        cut.write_bytes(files["coarse"].read_bytes()[:-100])
        sample("out", role, cut).fails(3, "cut.safetensors")
    fails(("knows 0 classes",), classes=0)
    named = make_dit(tmp_path / "named.safetensors", files["vae"], names=list("abcde"))
    other = small_dit(tmp_path / "renamed.safetensors", files["vae"], 3, names=list("abced"))
    sample("out", "--coarse", other, model=named).fails(3, str(other), "other names")
    away = make_vae(tmp_path / "away.safetensors", kind="vq")
    sample("out", "--coarse", small_dit(tmp_path / "away2.safetensors", away, 3)).fails(3, "away2.safetensors")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("args", [
    ("--until", "0.5"), ("--guide-scale", "2"), ("--coarse", "coarse", "--until", "1.5"),
    ("--coarse", "coarse", "--until", "nan"), ("--guide", "weak", "--guide-scale", "-1"),
    ("--guide", "weak", "--guide-scale", "1", "--cfg-interval", "0.2,0.8"),
    ("--coarse", "coarse", "--cfg-channels", "1"),
])  # fmt: skip
def test_options_that_contradict(sample, tmp_path, args):
    sample("out", *args).fails(2, args[-2])
    assert not (tmp_path / "out").exists()


def test_models_without_classes(files, tmp_path):
    common = ["--vae", files["vae"], "--device", "cpu", "--seeds", "0-5", "--steps", 4]
    free = make_dit(tmp_path / "free.safetensors", files["vae"], classes=0, labels=0)
    weak = small_dit(tmp_path / "weak.safetensors", files["vae"], 3, classes=0)
    dprune("sample", free, *common, "-o", tmp_path / "alone").ok()
    dprune("sample", free, *common, "--guide", weak, "-o", tmp_path / "guided").ok()
    dprune("sample", free, *common, "--coarse", weak, "--until", 0.5, "-o", tmp_path / "coarse").ok()
    assert labels(tmp_path / "guided") == {}
    for name in ("guided", "coarse"):
        assert np.abs(numbers(tmp_path / name) - numbers(tmp_path / "alone")).mean() > 3
    # Guidance away from a model that knows no classes, as EDM2's towards labels is.
    dprune("sample", files["model"], *common, "--guide", weak, "-o", tmp_path / "towards").ok()
    assert labels(tmp_path / "towards") == {seed: seed % CLASSES for seed in range(6)}
    dprune("sample", free, *common, "--guide", files["weak"], "-o", tmp_path / "no").fails(3, "knows 5 classes")


def test_weights_made_elsewhere(files, tmp_path):
    vae = files["vae"]
    large, small = (DiT(DiTConfig(SIDE, CHANNELS, 2, width, 1, 6, 10, learn_sigma=True)) for width in (384, 768))
    for seed, (name, network) in enumerate((("large", large), ("small", small))):
        torch.manual_seed(seed)
        for parameter in network.parameters():
            torch.nn.init.normal_(parameter, std=0.05)
        torch.save(network.state_dict(), tmp_path / f"{name}.pt")
    common = ["--vae", vae, "--device", "cpu", "--seeds", "0-5", "--steps", 4, "--parametrization", "noise"]
    sampled = "sample", tmp_path / "large.pt", *common
    dprune(*sampled, "--coarse", tmp_path / "small.pt", "-o", tmp_path / "out").ok()
    assert record(tmp_path / "out")["options"]["coarse_parametrization"] == "noise"
    assert record(tmp_path / "out")["parents"]["coarse"] == {
        "digest": file_digest(tmp_path / "small.pt"), "external": True,
    }  # fmt: skip
    dprune(*sampled, "--coarse", tmp_path / "small.pt", "--until", 1, "-o", tmp_path / "one").ok()
    dprune("sample", tmp_path / "small.pt", *common, "-o", tmp_path / "small").ok()
    assert shards_of(tmp_path / "one") == shards_of(tmp_path / "small")
    dprune(*sampled, "--coarse", files["coarse"], "-o", tmp_path / "no").fails(3, "normalises")


def test_what_companions_have_not_learnt(sample, files, tmp_path):
    counts = [4, 0, 3, 5, 6]
    partial = small_dit(tmp_path / "partial.safetensors", files["vae"], 3, counts=counts, label_dropout=0)
    for role in ("--coarse", "--guide"):
        assert f"{role} {partial} was trained on no sample of 1" in sample("out", role, partial, "--overwrite").ok().err
        said = sample("out", role, partial, "--classes", "0,2", "--cfg", 2, "--overwrite").ok().err
        assert "no sample" not in said
        assert (f"{partial} was trained with --label-dropout 0" in said) == (role == "--coarse")


def test_all_networks_are_warm_before_the_first_batch(files, monkeypatch):
    """A GPU compiles for each network, and for each number of images that it is asked."""
    from dprune.models.vae import load_vae

    given = SampleOptions(str(files["vae"]), "0-3", cfg=2.0, cfg_interval="0.1,0.3", coarse="c", guide="w",
                          device="cpu")  # fmt: skip
    companions = {"coarse": load_dit(files["coarse"], CPU), "guide": load_dit(files["weak"], CPU)}
    model = load_dit(files["model"], CPU)
    sampler = Sampler(model, load_vae(files["vae"], CPU)[0], given.resolve(), CPU, companions)
    names = {id(model.model): "model"} | {id(one.model): role for role, one in companions.items()}
    forward, seen = DiT.forward, set()
    monkeypatch.setattr(
        DiT, "forward", lambda self, x, *args: seen.add((names[id(self)], len(x))) or forward(self, x, *args)
    )
    sampler._try(torch.zeros(3, dtype=torch.int64))
    assert seen == {("model", 3), ("model", 6), ("coarse", 3), ("coarse", 6), ("guide", 3)}
    seen.clear()
    sampler.latents(torch.arange(3), torch.arange(3))
    assert seen == {("model", 3), ("model", 6), ("coarse", 3), ("guide", 3)}


def test_a_report_tells_lines_with_companions_apart(sample, files, tmp_path):
    pixels = ("--model", "pixels", "--image-size", 2, "--workers", 0)
    for name, args in (("plain", ()), ("coarse", ("--coarse", "coarse")), ("guide", ("--guide", "weak"))):
        sample(name, *args).ok()
        dprune("embed", tmp_path / name, *pixels, "-o", tmp_path / f"{name}-f").ok()
        reference = tmp_path / "plain-f"
        dprune("eval", tmp_path / f"{name}-f", reference, "--metrics", "fid", "-o", tmp_path / f"{name}.json").ok()
    dprune("report", *tmp_path.glob("*.json"), "-o", tmp_path / "report").ok()
    lines = (tmp_path / "report" / "lines.csv").read_text()
    assert "a coarse model until 0.7" in lines
    assert "autoguidance 2" in lines
    # Their training sets are not the model's, of which nothing else is told apart.
    assert len(lines.splitlines()) == 4


def test_a_baseline_takes_no_companions(tmp_path):
    from dprune.models.baselines import KIND
    from dprune.models.files import ModelFile
    from dprune.sampling.settings import refuse_diffusion

    file = ModelFile(tmp_path / "gan.safetensors", {"kind": KIND, "model": "gan"}, None)
    for name, value in (("coarse", "x"), ("guide", "x"), ("until", 0.0), ("guide_scale", 0.0)):
        with pytest.raises(Exception, match=f"--{name.replace('_', '-')} is for diffusion models"):
            refuse_diffusion(SampleOptions(None, "0", **{name: value}), file)
