import copy
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import torchlayer as tl
from torchlayer import step as step_module
from torchlayer._optimizer import what_a_replay_would_miss

L = tl.layers
cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
DEVICES = ["cpu", pytest.param("cuda", marks=cuda)]


def mlp(keep=1.0, device="cpu"):
    torch.manual_seed(0)
    net = L.DenseLayer(L.InputLayer((None, 8), name="x"), n_units=16, act=torch.tanh, name="hidden")
    net = L.DropoutLayer(net, keep=keep, name="drop")
    return L.DenseLayer(net, n_units=3, name="out").to(device)


def batches(n, size=32, device="cpu"):
    generator = torch.Generator().manual_seed(1)
    for _ in range(n):
        yield (
            torch.randn(size, 8, generator=generator).to(device),
            torch.randint(3, (size,), generator=generator).to(device),
        )


def by_hand(net, optimizer, data, scheduler=None, clip_norm=None):
    losses = []
    for x, y in data:
        loss = F.cross_entropy(net(x), y)
        optimizer.zero_grad()
        loss.backward()
        if clip_norm is not None:
            nn.utils.clip_grad_norm_(net.parameters(), clip_norm)
        optimizer.step()
        if scheduler is not None:
            scheduler.step()
        losses.append(loss.detach())
    return torch.stack(losses)


OPTIMIZERS = {
    "adam": lambda p: torch.optim.Adam(p, lr=1e-2),
    "adam_foreach": lambda p: torch.optim.Adam(p, lr=1e-2, foreach=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=1e-2),
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=1e-3),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=1e-2),
    "nadam": lambda p: torch.optim.NAdam(p, lr=1e-2),
}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_a_step_trains_as_a_loop_by_hand_does(make, device):
    data = list(batches(12, device=device))
    net, other = mlp(device=device), mlp(device=device)
    optimizer, other_optimizer = make(net.parameters()), make(other.parameters())
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
    other_schedule = torch.optim.lr_scheduler.ExponentialLR(other_optimizer, 0.9)
    step = tl.TrainStep(net, optimizer, tl.cost.cross_entropy)
    losses = []
    for x, y in data:
        losses.append(step(x, y))
        schedule.step()
    expected = by_hand(other, other_optimizer, data, other_schedule)
    torch.testing.assert_close(torch.stack(losses), expected, rtol=1e-4, atol=1e-5)
    for p, q in zip(net.parameters(), other.parameters()):
        torch.testing.assert_close(p, q, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("device", DEVICES)
def test_a_sweep_is_its_steps(device):
    data = list(batches(10, device=device))
    x, y = (torch.cat(parts) for parts in zip(*data))
    net, other = mlp(device=device), mlp(device=device)
    step = tl.TrainStep(net, torch.optim.Adam(net.parameters(), lr=1e-2), tl.cost.cross_entropy)
    losses = torch.cat([step.sweep(x[:160], y[:160], batch_size=32), step.sweep(x[160:], y[160:], batch_size=32)])
    expected = by_hand(other, torch.optim.Adam(other.parameters(), lr=1e-2), data)
    torch.testing.assert_close(losses, expected, rtol=1e-4, atol=1e-5)


def test_a_sweep_leaves_out_what_fills_no_batch():
    net = mlp()
    step = tl.TrainStep(net, torch.optim.SGD(net.parameters(), lr=0.1), tl.cost.cross_entropy)
    assert step.sweep(torch.randn(70, 8), torch.randint(3, (70,)), batch_size=32).shape == (2,)
    with pytest.raises(ValueError, match="a sweep needs at least one batch of 32, got 31 examples"):
        step.sweep(torch.randn(31, 8), torch.randint(3, (31,)), batch_size=32)


@pytest.mark.parametrize("device", DEVICES)
def test_gradients_are_clipped_together(device):
    data = list(batches(6, device=device))
    net, other = mlp(device=device), mlp(device=device)
    step = tl.TrainStep(net, torch.optim.SGD(net.parameters(), lr=1.0), tl.cost.cross_entropy, clip_norm=0.05)
    losses = torch.stack([step(x, y) for x, y in data])
    expected = by_hand(other, torch.optim.SGD(other.parameters(), lr=1.0), data, clip_norm=0.05)
    torch.testing.assert_close(losses, expected, rtol=1e-4, atol=1e-5)


def test_only_the_optimisers_parameters_get_gradients():
    net = mlp()
    step = tl.TrainStep(net, torch.optim.SGD(net.out.parameters(), lr=0.1), tl.cost.cross_entropy)
    before = net.hidden.W.detach().clone()
    for x, y in batches(2):
        step(x, y)
    assert net.hidden.W.grad is None
    assert torch.equal(net.hidden.W, before)


def test_adam_is_fused_unless_the_user_chose():
    net = mlp()
    open_choice, chosen = (torch.optim.Adam(net.parameters(), foreach=f) for f in (None, True))
    tl.TrainStep(net, open_choice, tl.cost.cross_entropy)
    tl.TrainStep(net, chosen, tl.cost.cross_entropy)
    assert open_choice.param_groups[0]["fused"]
    assert not chosen.param_groups[0]["fused"]


def test_a_network_may_return_its_own_cost_and_take_several_inputs():
    class Distance(nn.Module):
        def __init__(self):
            super().__init__()
            self.shift = nn.Parameter(torch.zeros(3))

        def forward(self, a, b):
            return (a + self.shift - b).square().mean()

    net = Distance()
    step = tl.TrainStep(net, torch.optim.SGD(net.parameters(), lr=1.0))
    for _ in range(100):
        loss = step((torch.zeros(4, 3), torch.ones(4, 3)))
    assert loss < 1e-6


def test_a_cost_must_be_one_number():
    net = mlp()
    step = tl.TrainStep(net, torch.optim.SGD(net.parameters(), lr=0.1), lambda y, t: y.sum(1))
    with pytest.raises(ValueError, match=r"must be one number, got a tensor of shape \(32,\); take its mean"):
        step(*next(batches(1)))


def test_autocast_trains_in_half_precision():
    net = mlp()
    seen = []
    net.out.register_forward_hook(lambda m, i, o: seen.append(o.dtype))
    step = tl.TrainStep(net, torch.optim.SGD(net.parameters(), lr=0.1), tl.cost.cross_entropy, autocast=torch.bfloat16)
    step(*next(batches(1)))
    assert seen == [torch.bfloat16]
    assert net.out.W.dtype == torch.float32


def test_half_precision_without_scaling_is_refused():
    net = mlp()
    with pytest.raises(ValueError, match=r"float16 gradients need loss scaling.*use torch.bfloat16"):
        tl.TrainStep(net, torch.optim.SGD(net.parameters()), tl.cost.cross_entropy, autocast=torch.float16)


def test_an_optimiser_that_was_trained_before_goes_on():
    data = list(batches(8))
    net = mlp()
    other = copy.deepcopy(net)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    by_hand(net, optimizer, data[:4])
    step = tl.TrainStep(net, optimizer, tl.cost.cross_entropy)
    losses = torch.stack([step(x, y) for x, y in data[4:]])
    expected = by_hand(other, torch.optim.Adam(other.parameters(), lr=1e-2), data)[4:]
    torch.testing.assert_close(losses, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("make", "misses"),
    [
        (lambda p: torch.optim.Adam(p), False),
        (lambda p: torch.optim.RMSprop(p), False),
        (lambda p: torch.optim.SGD(p, momentum=0.9), False),
        (lambda p: torch.optim.Adagrad(p), False),
        (lambda p: torch.optim.Adagrad(p, lr_decay=0.1), True),
        (lambda p: torch.optim.LBFGS(p), True),
    ],
)
def test_optimisers_that_count_in_python_are_known(make, misses):
    why = what_a_replay_would_miss(make(mlp().parameters()))
    assert bool(why) == misses
    assert not misses or "may count its steps in Python" in str(why)


# What only a GPU shows --------------------------------------------------------------


@cuda
def test_replays_draw_fresh_dropout_masks():
    net = mlp(keep=0.5, device="cuda")
    step = tl.TrainStep(net, torch.optim.SGD(net.parameters(), lr=0.0), tl.cost.cross_entropy)
    x, y = next(batches(1, device="cuda"))
    losses = [step(x, y).item() for _ in range(20)]
    assert len(step._recordings) == 1
    assert len(set(losses)) == 20


@cuda
def test_a_change_of_mode_shape_or_setting_is_captured_anew():
    net = mlp(keep=0.5, device="cuda")
    optimizer = torch.optim.Adam(net.parameters(), lr=0.0)
    step = tl.TrainStep(net, optimizer, tl.cost.cross_entropy)
    x, y = next(batches(1, device="cuda"))

    def run():
        return [step(x, y).item() for _ in range(6)]

    run()
    net.eval()
    assert len(set(run())) == 1
    net.train()
    [step(x[:16], y[:16]) for _ in range(6)]
    optimizer.param_groups[0]["lr"] = 1e-3  # obeyed without a new capture
    before = net.out.W.detach().clone()
    run()
    assert not torch.equal(net.out.W, before)
    assert len(step._recordings) == 3
    optimizer.param_groups[0]["weight_decay"] = 0.1
    run()
    assert len(step._recordings) == 4


@cuda
def test_a_loss_that_is_still_held_does_not_hinder():
    net = mlp(device="cuda")
    x, y = next(batches(1, device="cuda"))
    held = tl.cost.cross_entropy(net(x), y)
    step = tl.TrainStep(net, torch.optim.SGD(net.parameters(), lr=0.1), tl.cost.cross_entropy, capture=True)
    losses = [step(x, y).item() for _ in range(10)]
    assert losses[-1] < losses[0]
    assert held.item() == pytest.approx(losses[0])


@cuda
def test_an_optimiser_that_counts_in_python_runs_eagerly_and_right():
    data = list(batches(10, device="cuda"))
    net, other = mlp(device="cuda"), mlp(device="cuda")
    optimizer = torch.optim.Adagrad(net.parameters(), lr=0.1, lr_decay=0.5)
    with pytest.warns(UserWarning, match="Adagrad may count its steps in Python"):
        step = tl.TrainStep(net, optimizer, tl.cost.cross_entropy)
    losses = torch.stack([step(x, y) for x, y in data])
    expected = by_hand(other, torch.optim.Adagrad(other.parameters(), lr=0.1, lr_decay=0.5), data)
    torch.testing.assert_close(losses, expected, rtol=1e-4, atol=1e-5)


@cuda
def test_captures_are_limited_in_number(monkeypatch):
    monkeypatch.setattr(step_module, "_MOST_RECORDINGS", 2)
    net = mlp(device="cuda")
    step = tl.TrainStep(net, torch.optim.SGD(net.parameters(), lr=0.1), tl.cost.cross_entropy)
    x, y = next(batches(1, device="cuda"))
    sizes = [n for n in (32, 16, 8, 4) for _ in range(6)]
    with pytest.warns(UserWarning, match="was captured for 2 different shapes, modes or settings"):
        losses = [step(x[:n], y[:n]) for n in sizes]
    assert len(step._recordings) == 2
    assert torch.isfinite(torch.stack(losses)).all()


@cuda
def test_returned_losses_are_not_overwritten():
    net = mlp(device="cuda")
    step = tl.TrainStep(net, torch.optim.SGD(net.parameters(), lr=0.1), tl.cost.cross_entropy)
    x, y = next(batches(1, device="cuda"))
    losses = [step(x, y) for _ in range(10)]
    values = [loss.item() for loss in losses]
    assert values == sorted(values, reverse=True)
    assert len(set(values)) == 10


class Waits(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(8, 3)

    def forward(self, x):
        y = self.linear(F.dropout(x, 0.1))
        return y if y.sum().item() > -1e9 else -y


@cuda
def test_a_step_that_waits_warns_once_and_trains_eagerly():
    net = Waits().cuda()
    step = tl.TrainStep(net, torch.optim.Adam(net.parameters(), lr=1e-2), tl.cost.cross_entropy)
    x, y = next(batches(1, device="cuda"))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        losses = [step(x, y).item() for _ in range(50)]
    assert [str(w.message) for w in caught] == [caught[0].message.args[0]]
    assert "cannot be captured and runs eagerly: it waits for the device" in str(caught[0].message)
    assert losses[-1] < losses[0]
    torch.rand(2, device="cuda")


@cuda
def test_a_broken_capture_leaves_the_device_usable():
    class Changes(nn.Module):
        """Fine while warming up, then does what a capture forbids."""

        def __init__(self):
            super().__init__()
            self.linear, self.calls = nn.Linear(8, 3), 0

        def forward(self, x):
            self.calls += 1
            y = self.linear(F.dropout(x, 0.1))
            if self.calls > 3:
                y.sum().item()
            return y

    net = Changes().cuda()
    step = tl.TrainStep(net, torch.optim.Adam(net.parameters(), lr=1e-2), tl.cost.cross_entropy)
    x, y = next(batches(1, device="cuda"))
    with pytest.warns(UserWarning, match="cannot be captured and runs eagerly"):
        losses = [step(x, y).item() for _ in range(50)]
    assert losses[-1] < losses[0]
    assert torch.cuda.current_stream() == torch.cuda.default_stream()
    other = mlp(keep=0.5, device="cuda")  # and the next capture works
    step = tl.TrainStep(other, torch.optim.Adam(other.parameters()), tl.cost.cross_entropy, capture=True)
    for x, y in batches(10, device="cuda"):
        step(x, y)
    assert len(step._recordings) == 1


@cuda
def test_capture_true_raises_instead():
    net = Waits().cuda()
    step = tl.TrainStep(net, torch.optim.Adam(net.parameters()), tl.cost.cross_entropy, capture=True)
    x, y = next(batches(1, device="cuda"))
    with pytest.raises(RuntimeError, match="this training step cannot be captured"):
        [step(x, y) for _ in range(10)]


@cuda
def test_a_thousand_replays_equal_a_thousand_eager_steps():
    data = list(batches(20, device="cuda"))
    nets = mlp(device="cuda"), mlp(device="cuda")
    for net, capture in zip(nets, (True, False)):
        step = tl.TrainStep(net, torch.optim.SGD(net.parameters(), lr=0.05), tl.cost.cross_entropy, capture=capture)
        for _ in range(50):
            for x, y in data:
                step(x, y)
    torch.testing.assert_close(nets[0].out.W, nets[1].out.W, rtol=1e-3, atol=1e-4)
