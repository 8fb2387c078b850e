"""The training loop and its parts, on a model small enough to check by hand."""

import json
import re
from dataclasses import asdict, replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from dprune.cli import cli
from dprune.errors import DpruneError, InputError, Interrupted, UsageError
from dprune.formats.provenance import make_record
from dprune.runtime import Silent
from dprune.training.averages import Averages
from dprune.training.dit.settings import DEFAULTS, DiTOptions
from dprune.training.loop import Loop
from dprune.training.order import EVEN, Order, Visits, micro_batches, share
from dprune.training.plan import Plan, TrainingOptions, is_due
from dprune.training.run import Run, extends
from dprune.training.vae.settings import PLANS, VAEOptions

SAMPLES = 23
SAID = ("steps", "batch_size", "lr", "warmup", "schedule", "ema", "clip", "log_every")


class Micro:
    def __init__(self, rows):
        self.rows = rows

    def __len__(self):
        return len(self.rows)


class Objective(nn.Module):
    def __init__(self, network, data):
        super().__init__()
        self.network, self.data = network, data

    def forward(self, micro):
        x, y = (part[micro.rows] for part in self.data)
        loss = (self.network(x) - y).square().sum()
        return loss, {"loss": loss.detach()}


class Regression:
    """Least squares by two networks, the second of which begins later."""

    flop = 0
    samples = SAMPLES
    drawing = EVEN
    repeats = "each time alike"
    fingerprint = "0123456789abcdef"
    network_header = {"kind": "toy"}
    rates = {"second": 2.0}

    def __init__(self, scale=1.0):
        torch.manual_seed(0)
        self.networks = {"first": nn.Linear(3, 2), "second": nn.Linear(3, 2)}
        x = torch.randn(SAMPLES, 3) * scale
        data = x, x @ torch.randn(3, 2)
        self.objectives = {name: Objective(network, data) for name, network in self.networks.items()}
        self.evaluated = []

    def active(self, name, step):
        return name == "first" or step >= 10

    def ready(self):
        pass

    def capture_key(self, step):
        return None

    def batches(self, steps):
        for _, pieces in steps:
            yield [Micro(torch.from_numpy(positions)) for positions, _ in pieces]

    def after_step(self, step, optimizers, averages):
        assert optimizers.keys() == self.networks.keys()
        assert averages.keys() == {"weight", "bias"}
        return {"steps": torch.ones(1)}

    def statistics(self, tallies):
        return {"constant": 1.0, "taken": tallies["steps"].item()}

    def evaluate(self, step, folder):
        self.evaluated.append((step, next(iter(self.networks.values())).weight.detach().clone()))
        return {"measure": float(step)}


PLAN = Plan(steps=40, batch_size=5, lr=0.05, log_every=10, evaluate_every=20)


class Stops(Silent):
    def __init__(self, after):
        self.left = after

    def stop_requested(self):
        self.left -= 1
        return self.left <= 0


def record_of(plan):
    return make_record("train-toy", plan.options(), seed=plan.seed)


def train(folder, plan=PLAN, monitor=None, task=None):
    loop = Loop(task or Regression(), plan, Run(Path(folder)), record_of(plan), torch.device("cpu"))
    loop.train(monitor or Silent())
    return loop


def lines(folder):
    return [json.loads(line) for line in (Path(folder) / "log.jsonl").read_text().splitlines()]


def losses(folder):
    return {line["step"]: line["loss"] for line in lines(folder) if "loss" in line}


def test_a_batch_may_span_epochs_and_no_sample_is_dropped():
    order = Order(7, 3, seed=1)
    taken, before = np.concatenate([order.visits(step) for step in range(14)], axis=1)
    assert len(taken) == 42
    for epoch in range(6):
        assert sorted(taken[epoch * 7 : epoch * 7 + 7]) == list(range(7))
        assert (before[epoch * 7 : epoch * 7 + 7] == epoch).all()
    assert not np.array_equal(taken[:7], taken[7:14])
    assert np.array_equal(order.visits(5), Order(7, 3, seed=1).visits(5))
    assert not np.array_equal(order.visits(5), Order(7, 3, seed=2).visits(5))


def test_a_set_smaller_than_the_batch_fills_it_several_times():
    positions, before = Order(3, 8, seed=0).visits(0)
    assert np.bincount(positions).tolist() in ([3, 3, 2], [3, 2, 3], [2, 3, 3])
    assert before.tolist() == [0, 0, 0, 1, 1, 1, 2, 2]


@pytest.mark.parametrize(
    ("size", "batch"), [(3, 8), (7, 3), (5, 5), (5, 6), (6, 5), (1, 4), (4, 1), (40, 25), (25, 40)]
)
def test_no_visit_comes_twice_and_distinct_samples_are_counted(size, batch):
    order = Order(size, batch, seed=0)
    batches = [order.visits(step) for step in range(50)]
    assert len({visit for taken in batches for visit in zip(*taken, strict=True)}) == 50 * batch
    assert [order.distinct(step) for step in range(50)] == [len(set(taken.positions)) for taken in batches]


@pytest.mark.parametrize("world", [1, 2, 3, 7])
def test_ranks_and_micro_batches_share_a_batch_completely(world):
    batch = Order(3, 20, seed=0).visits(7)
    pieces = [piece for rank in range(world) for piece in micro_batches(share(batch, rank, world), 4)]
    assert np.array_equal(np.concatenate(pieces, axis=1), batch)
    assert max(len(piece.positions) for piece in pieces) <= 4


def test_the_average_begins_low_and_follows_the_definition():
    plan = Plan(steps=1, batch_size=1, lr=1.0, ema=0.9)
    assert [plan.ema_decay(step) for step in (0, 1, 8)] == [0.1, 2 / 11, 0.5]
    assert plan.ema_decay(10_000) == 0.9
    torch.manual_seed(0)
    network = nn.Linear(1, 1, bias=False)
    averages = Averages(network)
    first = network.weight.item()
    with torch.no_grad():
        network.weight.fill_(2.0)
    averages.update(0.75)
    assert averages.tensors["weight"].item() == pytest.approx(0.75 * first + 0.25 * 2)
    with averages.applied():
        assert network.weight.item() == pytest.approx(0.75 * first + 0.25 * 2)
        assert not network.training
    assert network.weight.item() == 2
    assert network.training


def test_the_rate_warms_up_and_falls():
    plan = Plan(steps=100, batch_size=1, lr=1.0, warmup=4, schedule="cosine")
    assert [round(plan.rate(step), 3) for step in range(5)] == [0.2, 0.4, 0.599, 0.798, 0.996]
    assert plan.rate(99) < 0.001
    assert replace(plan, schedule="constant").rate(99) == 1


def test_checkpoints_are_due_when_an_epoch_is_full_though_it_is_no_whole_number_of_steps():
    every = Fraction(10, 3)
    assert [step for step in range(1, 21) if is_due(step, every)] == [4, 7, 10, 14, 17, 20]
    assert not any(is_due(step, None) for step in range(1, 9))


def test_what_was_not_said_is_filled_in():
    defaults = {"steps": 7, "batch_size": 4, "lr": 0.1, "clip": 1.0}
    plan = TrainingOptions(device="cpu", epochs=2.5, lr=0.2, save_every="epoch").plan(10, defaults)
    assert (plan.steps, plan.batch_size, plan.lr, plan.clip, plan.precision) == (7, 4, 0.2, 1.0, "fp32")
    assert plan.save_every == Fraction(10, 4)
    assert TrainingOptions(steps=9).plan(10, defaults).steps == 9
    assert TrainingOptions(epochs=0.1).plan(10, defaults).steps == 1
    assert TrainingOptions(epochs=0.1).plan(1000, defaults | {"batch_size": 100}).steps == 1


@pytest.mark.parametrize(("command", "plans"), [("train-dit", [DEFAULTS]), ("train-vae", list(PLANS.values()))])
def test_the_help_says_what_is_filled_in(command, plans):
    options = {option.name: option.help for option in cli.get_command(None, command).params}
    filled = [Plan(**plan) for plan in plans]
    for name in SAID:
        parts = re.search(r"\[default: (.+)\]", options[name])[1].split(", ")
        said = [part.removeprefix("base ").removeprefix("tiny ").removesuffix(" for XL") for part in parts]
        expected = [getattr(plan, name) for plan in filled]
        for text, value in zip(said * (len(filled) // len(said)), expected, strict=True):
            is_same = text == "no limit" if value is None else text == value or float(text) == value
            assert is_same, (name, text, value)


@pytest.mark.parametrize(
    ("command", "kinds"), [("train-dit", (DiTOptions, TrainingOptions)), ("train-vae", (VAEOptions, TrainingOptions))]
)
def test_options_made_by_hand_are_those_of_a_command_without_options(command, kinds):
    params = cli.get_command(None, command).make_context(command, ["input", "-o", "output"]).params
    for kind in kinds:
        made = asdict(kind())
        assert made == {name: params[name] for name in made}


@pytest.mark.parametrize(
    "given",
    [{"steps": 1, "epochs": 1.0}, {"micro_batch": "0"}, {"micro_batch": "many"}, {"save_every": "-1"}],
)
def test_options_that_make_no_sense_are_refused(given):
    with pytest.raises(UsageError, match="--"):
        TrainingOptions(**given).plan(10, {"steps": 7, "batch_size": 4, "lr": 0.1})


def test_training_fits_and_publishes_the_average(tmp_path):
    loop = train(tmp_path)
    found = losses(tmp_path)
    assert list(found) == [10, 20, 30, 40]
    assert found[40] < found[10]
    model = load_file(tmp_path / "model.safetensors")
    assert torch.equal(model["weight"], loop.averages.tensors["weight"])
    raw = loop.task.networks["first"].weight
    assert not torch.equal(model["weight"], raw)
    step, evaluated = loop.task.evaluated[-1]
    assert step == 40
    assert torch.equal(evaluated, model["weight"])
    assert [line["measure"] for line in lines(tmp_path) if "measure" in line] == [20.0, 40.0]


@pytest.mark.parametrize("batch", [4, 14, 30, 60])
def test_the_log_says_how_many_samples_of_a_batch_are_distinct(tmp_path, batch):
    order = Order(SAMPLES, batch, seed=0)
    counts = [len(set(order.visits(step).positions)) for step in range(20)]
    plan = replace(PLAN, steps=20, batch_size=batch)
    with pytest.raises(Interrupted):
        train(tmp_path, plan, monitor=Stops(14))
    train(tmp_path, plan)
    assert [line["distinct"] for line in lines(tmp_path) if "loss" in line] == [
        sum(counts[:10]) / 10,
        sum(counts[10:]) / 10,
    ]


def test_a_set_smaller_than_the_batch_is_said(tmp_path, caplog):
    caplog.set_level("INFO", "dprune")
    train(tmp_path / "a", replace(PLAN, steps=1, batch_size=SAMPLES))
    assert "a batch of" not in caplog.text
    train(tmp_path / "b", replace(PLAN, steps=1, batch_size=46))
    assert "a batch of 46 holds each of the 23 samples 2 times, each time alike." in caplog.text


def test_a_network_that_is_not_active_keeps_its_weights(tmp_path):
    before = Regression().networks["second"].weight.clone()
    loop = train(tmp_path / "short", replace(PLAN, steps=10))
    assert torch.equal(loop.task.networks["second"].weight, before)
    loop = train(tmp_path / "long", replace(PLAN, steps=11))
    assert not torch.equal(loop.task.networks["second"].weight, before)
    rates = {name: optimizer.param_groups[0]["lr"] for name, optimizer in loop.optimizers.items()}
    assert rates == {"first": PLAN.lr, "second": 2 * PLAN.lr}


def test_micro_batches_change_nothing_but_rounding(tmp_path):
    whole, cut = train(tmp_path / "a"), train(tmp_path / "b", replace(PLAN, micro_batch=2))
    torch.testing.assert_close(cut.averages.tensors, whole.averages.tensors)
    assert losses(tmp_path / "a") == pytest.approx(losses(tmp_path / "b"))


def test_an_interrupted_run_ends_with_the_same_bytes(tmp_path):
    train(tmp_path / "whole")
    for after in (3, 11, 1):
        with pytest.raises(Interrupted):
            train(tmp_path / "cut", monitor=Stops(after))
        assert not (tmp_path / "cut" / "model.safetensors").exists()
    train(tmp_path / "cut")
    for name in ("model.safetensors", "state.safetensors"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")


def test_lines_of_steps_that_are_done_again_are_dropped(tmp_path):
    with pytest.raises(Interrupted):
        train(tmp_path, monitor=Stops(15))
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"step": 20, "loss": -1}\n{"step": 2')
    train(tmp_path)
    assert losses(tmp_path)[20] > 0
    assert [line["step"] for line in lines(tmp_path) if "loss" in line] == [10, 20, 30, 40]


@pytest.mark.parametrize(
    "line", [b"\xff\xfe", b"[" * 9999, b'{"step": 1e999}', b'{"step": "\\ud800"}', b"5", b'{"step": {}}']
)
def test_damaged_lines_of_the_log_are_left_out_and_said(tmp_path, caplog, line):
    with pytest.raises(Interrupted):
        train(tmp_path, monitor=Stops(15))
    with (tmp_path / "log.jsonl").open("ab") as file:
        file.write(line + b'\n{"step": 12, "loss": 1.5}\n')
    train(tmp_path)
    assert [line["step"] for line in lines(tmp_path) if "loss" in line] == [10, 12, 20, 30, 40]
    assert "log.jsonl: lines of it are damaged, and are left out" in caplog.text


def test_a_finished_run_is_extended(tmp_path):
    train(tmp_path / "whole")
    train(tmp_path / "grown", replace(PLAN, steps=24))
    short = (tmp_path / "grown" / "model.safetensors").read_bytes()
    train(tmp_path / "grown")
    assert (tmp_path / "grown" / "model-step-00000024.safetensors").read_bytes() == short
    model = (tmp_path / "grown" / "model.safetensors").read_bytes()
    assert model == (tmp_path / "whole" / "model.safetensors").read_bytes()
    # The step that ended the short run was reported, and the next line is the mean of what came after it.
    assert losses(tmp_path / "grown")[40] == losses(tmp_path / "whole")[40]
    assert list(losses(tmp_path / "grown")) == [10, 20, 24, 30, 40]


def test_only_more_steps_at_a_constant_rate_extend_a_run():
    short = record_of(replace(PLAN, steps=10))
    assert extends(short, record_of(PLAN))
    assert not extends(record_of(PLAN), short)
    assert not extends(short, record_of(replace(PLAN, lr=0.1)))
    cosine = replace(PLAN, schedule="cosine")
    assert not extends(record_of(replace(cosine, steps=10)), record_of(cosine))


def test_checkpoints_hold_raw_and_averaged_weights(tmp_path):
    loop = train(tmp_path, replace(PLAN, save_every=Fraction(15)))
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == ["step-00000015.safetensors", "step-00000030.safetensors"]
    found = load_file(tmp_path / "checkpoints" / names[1])
    assert found.keys() == {"raw.weight", "raw.bias", "ema.weight", "ema.bias"}
    assert not torch.equal(found["raw.weight"], loop.task.networks["first"].weight)
    assert not torch.equal(found["raw.weight"], found["ema.weight"])


@pytest.mark.parametrize(("autosave", "noticed"), [(1800.0, 20), (-1.0, 13)])
def test_a_loss_that_is_not_finite_ends_the_run_and_keeps_what_was_saved(tmp_path, autosave, noticed):
    with pytest.raises(Interrupted):
        train(tmp_path, monitor=Stops(12))
    saved = (tmp_path / "state.safetensors").read_bytes()
    with pytest.raises(DpruneError, match=f"not finite at step {noticed}: .*lower --lr"):
        train(tmp_path, replace(PLAN, autosave=autosave), task=Regression(scale=1e30))
    assert (tmp_path / "state.safetensors").read_bytes() == saved
    assert not (tmp_path / "model.safetensors").exists()


def test_a_damaged_or_foreign_state_is_named(tmp_path):
    with pytest.raises(Interrupted):
        train(tmp_path / "a", monitor=Stops(3))
    state = tmp_path / "a" / "state.safetensors"
    whole = state.read_bytes()
    state.write_bytes(whole[:200])
    with pytest.raises(InputError, match="not a whole safetensors"):
        train(tmp_path / "a")
    with pytest.raises(Interrupted):
        train(tmp_path / "b", replace(PLAN, lr=0.5), Stops(3))
    state.write_bytes((tmp_path / "b" / "state.safetensors").read_bytes())
    with pytest.raises(InputError, match=r"not the state of this run.*remove it"):
        train(tmp_path / "a")


def test_autosave_keeps_a_state_that_goes_on_exactly(tmp_path):
    train(tmp_path / "whole")
    eager = replace(PLAN, autosave=-1.0)
    loop = Loop(Regression(), eager, Run(tmp_path / "cut"), record_of(eager), torch.device("cpu"))

    def fail(step, folder):
        raise RuntimeError("killed")

    loop.task.evaluate = fail
    with pytest.raises(RuntimeError):
        loop.train(Silent())
    train(tmp_path / "cut")
    assert (tmp_path / "cut" / "model.safetensors").read_bytes() == (
        tmp_path / "whole" / "model.safetensors"
    ).read_bytes()


def test_more_ranks_than_samples_in_a_batch_are_refused(monkeypatch, tmp_path):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "6")
    with pytest.raises(UsageError, match="--batch-size 5"):
        train(tmp_path)


@pytest.mark.parametrize(("count", "most", "sizes"), [(8, 4, [4, 4]), (9, 4, [3, 3, 3]), (3, 4, [3]), (7, 1, [1] * 7)])
def test_micro_batches_are_as_few_and_as_equal_as_can_be(count, most, sizes):
    pieces = micro_batches(Visits(np.arange(count), np.arange(count) % 2), most)
    assert [len(piece.positions) for piece in pieces] == sizes
    assert np.concatenate(pieces, axis=1).tolist() == [list(range(count)), [number % 2 for number in range(count)]]


def test_ranks_share_a_batch_in_order():
    batch = Visits.first(np.arange(7))
    assert [share(batch, rank, 3).positions.tolist() for rank in range(3)] == [[0, 1, 2], [3, 4], [5, 6]]
