"""Files of diffusion transformers: dprune's own and those of DiT and SiT."""

from __future__ import annotations

import argparse
import datetime
import hashlib
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from dprune.errors import InputError, UsageError
from dprune.formats.provenance import make_record
from dprune.models.architectures import ARCHITECTURES, parse_architecture
from dprune.models.dit import DiT, DiTConfig, positions, unfilled
from dprune.models.dit_files import load_dit, network_metadata
from dprune.models.files import ModelFile, publish_model
from dprune.models.weights import read_state

DATA = Path(__file__).parent / "data"
CPU = torch.device("cpu")
SMALL = DiTConfig(input_size=8, channels=4, patch=2, width=384, depth=2, heads=6, classes=10)


def filled(config):
    torch.manual_seed(0)
    model = DiT(config)
    for name, parameter in model.named_parameters():
        if name != "pos_embed":
            torch.nn.init.normal_(parameter, std=0.05)
    return model.eval().requires_grad_(False)


def velocity(model):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(3, 4, 8, 8, generator=generator)
    return model(x, torch.tensor([0.1, 0.5, 0.9]), torch.tensor([0, 3, 10]))


def publish(path, config=SMALL, model=None, **more):
    network = network_metadata(config, torch.arange(4.0), torch.full((4,), 2.0), 7) | more
    publish_model(path, (model or filled(config)).state_dict(), network, make_record("train-dit", {}))
    return path


def test_own_files_come_back_as_they_were(tmp_path):
    model = filled(SMALL)
    loaded = load_dit(publish(tmp_path / "model.safetensors", model=model), CPU)
    assert loaded.model.config == SMALL
    assert torch.equal(velocity(loaded.model), velocity(model))
    assert not loaded.model.training
    assert not any(parameter.requires_grad for parameter in loaded.model.parameters())
    assert (loaded.model.config.classes, loaded.conditional, loaded.trained.count) == (10, True, 7)
    assert loaded.file.record["command"] == "train-dit"
    found = loaded.denormalised(torch.ones(1, 4, 8, 8))
    assert found[0, :, 0, 0].tolist() == [2.0, 3.0, 4.0, 5.0]


def test_a_network_to_be_filled_gets_the_first_weights_of_one_that_was_drawn():
    drawn, empty = DiT(SMALL), unfilled(SMALL)
    for model in (drawn, empty):
        model.initialize(torch.Generator().manual_seed(5))
    assert [(name, p.requires_grad) for name, p in empty.named_parameters()] == [
        (name, p.requires_grad) for name, p in drawn.named_parameters()
    ]
    assert all(torch.equal(a, b) for a, b in zip(empty.parameters(), drawn.parameters(), strict=True))


def test_loading_does_not_import_a_compiler(tmp_path):
    code = (
        "import sys, torch\nfrom dprune.models.dit_files import load_dit\n"
        "load_dit(sys.argv[1], torch.device('cpu'))\nprint(sorted({'sympy', 'torch._dynamo'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", code, publish(tmp_path / "model.safetensors")]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == "[]"


@pytest.mark.parametrize("ahead", [False, True])
def test_the_digest_is_that_of_all_bytes(tmp_path, monkeypatch, ahead):
    monkeypatch.setattr("dprune.models.weights._DIGESTED_AT_ONCE", 1000)
    path = publish(tmp_path / "model.safetensors")
    file = ModelFile.open(path)
    if ahead:
        file.digest_ahead()
    assert file.digest == hashlib.sha256(path.read_bytes()).hexdigest()
    path.unlink()
    assert file.digest == file.as_parent()["digest"]
    with pytest.raises(InputError, match="no such file"):
        _ = replace(file).digest


def test_positions_are_the_same_wherever_a_network_is_made():
    with torch.device("meta"):
        assert DiT(SMALL).pos_embed.is_meta
    assert torch.equal(DiT(SMALL).pos_embed, positions(SMALL.width, 4))


@pytest.mark.parametrize("wrap", ["safetensors", "plain", "ema"])
@pytest.mark.parametrize("learn_sigma", [False, True])
def test_state_dicts_of_dit_and_sit_tell_their_configuration(tmp_path, wrap, learn_sigma):
    config = DiTConfig(8, 4, 2, 384, 2, 6, 10, learn_sigma)
    model, path = filled(config), tmp_path / "sit.pt"
    if wrap == "safetensors":
        save_file(model.state_dict(), path)
    else:
        state = model.state_dict()
        torch.save(state if wrap == "plain" else {"ema": state, "args": argparse.Namespace(lr=1)}, path)
    loaded = load_dit(path, CPU)
    assert loaded.model.config == config
    assert torch.equal(velocity(loaded.model), velocity(model))
    assert loaded.mean.tolist() == [0.0] * 4
    assert torch.allclose(loaded.std, torch.full((4,), 1 / 0.18215))
    assert (loaded.model.config.classes, loaded.trained.count, loaded.file.record) == (10, 10, None)


def test_a_width_that_dit_does_not_have_is_refused(tmp_path):
    oracle = load_file(DATA / "flow.safetensors")
    weights = {name.removeprefix("weights."): value for name, value in oracle.items() if name.startswith("weights.")}
    save_file(weights, tmp_path / "sit.safetensors")
    with pytest.raises(InputError, match=r"sit\.safetensors: does not say how many heads .* width 64"):
        load_dit(tmp_path / "sit.safetensors", CPU)


def test_what_is_no_dit_is_refused(tmp_path):
    save_file({"x": torch.ones(3)}, tmp_path / "x.safetensors")
    with pytest.raises(InputError, match=r"is not a DiT or SiT \('x_embedder"):
        load_dit(tmp_path / "x.safetensors", CPU)
    publish_model(tmp_path / "vae.safetensors", {"x": torch.ones(3)}, {"kind": "vae"}, make_record("train-vae", {}))
    with pytest.raises(InputError, match="holds a network of kind vae, not a DiT"):
        load_dit(tmp_path / "vae.safetensors", CPU)
    with pytest.raises(InputError, match="no such file"):
        load_dit(tmp_path / "missing", CPU)


def test_misfits_are_refused(tmp_path):
    state = filled(SMALL).state_dict()
    removed = {name: value for name, value in state.items() if name != "blocks.1.attn.qkv.bias"}
    save_file(removed, tmp_path / "sit.safetensors")
    with pytest.raises(InputError, match=r"sit\.safetensors: does not fit .*blocks\.1\.attn\.qkv\.bias is missing"):
        load_dit(tmp_path / "sit.safetensors", CPU)
    with pytest.raises(InputError, match=r"does not fit .*blocks\.2\.\S+ is missing"):
        load_dit(publish(tmp_path / "deeper", depth=3), CPU)
    with pytest.raises(InputError, match="description is damaged"):
        load_dit(publish(tmp_path / "few", mean=[0.0]), CPU)


@pytest.mark.parametrize(
    "changed",
    [
        {"depth": 10**9}, {"heads": {}}, {"heads": 6.0}, {"heads": "6"}, {"heads": None}, {"width": "wide"},
        {"width": 10**12}, {"input_size": 10**9}, {"patch": 0}, {"channels": -4}, {"classes": 2**40}, {"mean": "abcd"},
        {"mean": [[0.0]] * 4}, {"std": [10**400] * 4}, {"learn_sigma": 1}, {"step": "3"},
        {"label_count": "7"}, {"class_counts": [1.5]}, {"class_counts": [-1]}, {"class_counts": {"0": 3}},
        {"parametrization": "score"},
    ],
)  # fmt: skip
def test_descriptions_beyond_reason_are_refused_at_once(tmp_path, changed):
    tensors = {"pos_embed": torch.ones(1)}
    network = network_metadata(SMALL, torch.zeros(4), torch.ones(4), 7) | changed
    publish_model(tmp_path / "model.safetensors", tensors, network, make_record("train-dit", {}))
    began = time.monotonic()
    with pytest.raises(InputError, match=rf"model\.safetensors.* (\({next(iter(changed))}|more than 64 bits)"):
        load_dit(tmp_path / "model.safetensors", CPU)
    assert time.monotonic() - began < 1


def test_architectures_are_those_of_dit():
    assert parse_architecture("XL/2") == (1152, 28, 16, 2)
    assert parse_architecture("nano/1") == (128, 4, 4, 1)
    assert all(width % heads == 0 for width, _, heads in ARCHITECTURES.values())


@pytest.mark.parametrize("text", ["XL", "XL/3", "xl/2", "", "/2", "XL/2/2", "XL/02"])
def test_other_architectures_are_usage_errors(text):
    with pytest.raises(UsageError, match="--arch"):
        parse_architecture(text)


# State dicts as training scripts leave them.

WEIGHTS = {"a.w": torch.ones(2, 2), "b": torch.zeros(1)}
OPTIMIZER = {"state": {0: {"exp_avg": torch.ones(1)}}, "param_groups": [{"lr": 1e-3}]}


@pytest.mark.parametrize(
    "content",
    [
        {
            "state_dict": WEIGHTS,
            "epoch": np.int64(3),
            "loss": np.float64(0.5),
            "fid": np.float32(1),
            "seen": np.ones(3),
        },
        {"model_state_dict": WEIGHTS, "optimizer_state_dict": OPTIMIZER},
        {"module": {f"module.{name}": value for name, value in WEIGHTS.items()}, "optimizer": None, "dp": [1, 2]},
        {f"_orig_mod.{name}": value for name, value in WEIGHTS.items()},
        {"module.a._orig_mod.w": WEIGHTS["a.w"], "_orig_mod.module.b": WEIGHTS["b"]},
        {**WEIGHTS, "steps": np.int64(4), "lr": 1e-3, "note": "mine"},
        {"model": {"state_dict": WEIGHTS}, "optimizer": OPTIMIZER},
        {"net": WEIGHTS, "opt": OPTIMIZER},
        {"ema": {"decay": 0.9, "shadow": [1]}, "state_dict": WEIGHTS},
        {"ema": WEIGHTS, "model": {"a.w": torch.zeros(2, 2), "b": torch.ones(1)}},
    ],
    ids=["numpy", "model_state_dict", "deepspeed", "compiled", "blocks", "notes", "nested", "alone", "no ema", "ema"],
)
def test_state_dicts_are_unwrapped(tmp_path, content):
    torch.save(content, tmp_path / "w.pt")
    found = read_state(tmp_path / "w.pt")
    assert found.keys() == WEIGHTS.keys()
    assert all(torch.equal(found[name], value) for name, value in WEIGHTS.items())


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"gen": WEIGHTS, "disc": WEIGHTS}, r"several tables of tensors \('gen', 'disc'\)"),
        ({**WEIGHTS, "opt": {"x": 1}}, "has a dict as 'opt'"),
        ({**WEIGHTS, "module.b": WEIGHTS["b"]}, "holds 'b' twice, once as 'module.b'"),
        ({"state_dict": WEIGHTS, "when": datetime.date(2026, 1, 1)}, "holds 'datetime.date' beside plain tensors"),
        ({"lr": 1}, "holds no table of tensors: give"),
        ([1], "holds a list"),
    ],
)
def test_what_keeps_a_state_dict_from_being_read_is_named(tmp_path, content, words):
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(InputError, match=rf"w\.pt: .*{words}"):
        read_state(tmp_path / "w.pt")
