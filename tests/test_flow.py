"""Flow matching and the DiT against numbers that willisma/SiT's code made."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from dprune.flow import Guidance, flow_loss, guided, interpolate, solve
from dprune.models.dit import DiT, DiTConfig

ORACLE = load_file(Path(__file__).parent / "data" / "flow.safetensors")
CONFIG = DiTConfig(input_size=8, channels=4, patch=2, width=64, depth=3, heads=4, classes=10)
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-5}


@pytest.fixture(params=[torch.float64, torch.float32], ids=["float64", "float32"])
def dtype(request):
    return request.param


@pytest.fixture
def model(dtype):
    model = DiT(CONFIG).to(dtype)
    weights = {name.removeprefix("weights."): value.to(dtype)
               for name, value in ORACLE.items() if name.startswith("weights.")}  # fmt: skip
    model.load_state_dict(weights)
    return model.requires_grad_(False)


def reference(name, dtype):
    value = ORACLE[name]
    return value.to(dtype) if value.is_floating_point() else value


def error(found, name):
    expected = ORACLE[name]
    return ((found.double() - expected).norm() / expected.norm()).item()


def test_interpolant_and_velocity_are_sits(model, dtype):
    data, noise, t, y = (reference(name, dtype) for name in ("x1", "x0", "t", "y"))
    mixed = interpolate(data, noise, t)
    assert error(mixed, "xt") < (1e-12 if dtype == torch.float64 else 1e-6)
    assert error(model(mixed, t, y), "velocity") < TOLERANCE[dtype]


def test_loss_is_sits(model, dtype):
    data, noise, t, y = (reference(name, dtype) for name in ("x1", "x0", "t", "y"))
    assert error(flow_loss(model, data, noise, t, y), "loss") < TOLERANCE[dtype]
    t = reference("score_time", dtype).expand(len(data))
    assert error(flow_loss(model, data, noise, t, y), "el2n_squared_error") < TOLERANCE[dtype]


@pytest.mark.parametrize(
    ("name", "solver", "guidance"),
    [
        ("sample_euler_11_points", "euler", Guidance()),
        ("sample_heun2_11_points", "heun", Guidance()),
        ("sample_dopri5_tight", "dopri5", Guidance()),
        ("sample_euler_11_points_guidance_4_all_channels", "euler", Guidance(4.0)),
        ("sample_euler_11_points_guidance_4_three_channels", "euler", Guidance(4.0, channels=3)),
    ],
)
def test_samples_are_sits(model, dtype, name, solver, guidance):
    velocity = guided(model, ORACLE["y_sample"], 10, guidance)
    tight = dtype == torch.float64
    found = solve(velocity, reference("z", dtype), solver, 10, 1e-9 if tight else 1e-5)
    # With tolerances of 1e-9, dopri5 ends 3e-9 from where tolerances of 1e-11 do, and so does the reference.
    exact = 3e-9 if solver == "dopri5" else 1e-9
    assert error(found, name) < (exact if tight else 1e-4)


def test_guidance_acts_only_inside_its_interval(model, dtype):
    y, noise = ORACLE["y_sample"], reference("z", dtype)
    narrow = guided(model, y, 10, Guidance(4.0, interval=(0.25, 0.5)))
    full, none = guided(model, y, 10, Guidance(4.0)), guided(model, y, 10, Guidance())
    for t, same in ((0.0, none), (0.25, full), (0.5, full), (0.75, none)):
        torch.testing.assert_close(narrow(noise, t), same(noise, t))
    assert not torch.allclose(full(noise, 0.3), none(noise, 0.3))
