import copy
import pickle

import pytest
import torch
from torch import nn

import torchlayer as tl
from torchlayer import optim

cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
DEVICES = ["cpu", pytest.param("cuda", marks=cuda)]
CLASSES = [optim.RowSGD, optim.RowAdagrad, optim.RowwiseAdagrad, optim.LazyAdam]
every_class = pytest.mark.parametrize("cls", CLASSES)


class Bag(nn.Module):
    """Words in, one number out: a sparse table, a dense layer."""

    def __init__(self, dtype=torch.float32, sparse=True):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.words = nn.Embedding(40, 6, sparse=sparse)
        self.out = nn.Linear(6, 1)
        for p in self.parameters():
            p.data = torch.randn(p.shape, generator=generator).to(dtype)

    def forward(self, ids):
        return self.out(self.words(ids).mean(1)).squeeze(1)


def batch(seed=0, device="cpu"):
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(20, (16, 4), generator=generator)
    return ids.to(device), ids.sum(1).to(device) / 40 - 1


def train(net, optimizer, n_steps=5, seeds=range(100)):
    losses = []
    for _, seed in zip(range(n_steps), seeds):
        ids, targets = batch(seed, next(net.parameters()).device)
        loss = (net(ids).float() - targets).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def assert_same(net, other, **tolerance):
    for p, q in zip(net.parameters(), other.parameters()):
        torch.testing.assert_close(p.double(), q.double(), **tolerance or {"rtol": 0, "atol": 0})


# Values


@every_class
@pytest.mark.parametrize("device", DEVICES)
def test_a_network_with_a_sparse_table_learns(cls, device):
    net = Bag().to(device)
    losses = train(net, cls(net.parameters(), lr=0.05), 200, [i % 4 for i in range(200)])
    assert sum(losses[-4:]) < 0.2 * sum(losses[:4])


TORCH = [
    (optim.RowSGD, {}, torch.optim.SGD, {}),
    (optim.RowAdagrad, {}, torch.optim.Adagrad, {"initial_accumulator_value": 0.1}),
    (optim.RowAdagrad, {"initial_accumulator_value": 0.0}, torch.optim.Adagrad, {}),
    (optim.LazyAdam, {"betas": (0.8, 0.9)}, torch.optim.Adam, {"betas": (0.8, 0.9)}),
]


@pytest.mark.parametrize(("cls", "settings", "theirs", "their_settings"), TORCH)
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_dense_gradients_go_the_way_of_torchs_optimiser(cls, settings, theirs, their_settings, weight_decay):
    net, other = Bag(torch.float64, sparse=False), Bag(torch.float64, sparse=False)
    train(net, cls(net.parameters(), lr=0.1, weight_decay=weight_decay, **settings))
    train(other, theirs(other.parameters(), lr=0.1, weight_decay=weight_decay, **their_settings))
    assert_same(net, other, rtol=1e-10, atol=1e-10)


SPARSE = [
    (optim.RowSGD, {}, torch.optim.SGD, {}, 1e-12),
    (optim.RowAdagrad, {}, torch.optim.Adagrad, {"initial_accumulator_value": 0.1}, 1e-12),
    (optim.LazyAdam, {"eps": 0.0}, torch.optim.SparseAdam, {"eps": 1e-30}, 1e-9),  # they differ in eps alone
]


@pytest.mark.filterwarnings("ignore:Sparse invariant checks are implicitly disabled")  # torch's Adagrad, of itself
@pytest.mark.parametrize(("cls", "settings", "theirs", "their_settings", "tolerance"), SPARSE)
def test_sparse_gradients_go_the_way_of_torchs_sparse_optimiser(cls, settings, theirs, their_settings, tolerance):
    net, other = Bag(torch.float64), Bag(torch.float64)
    for each in (net, other):
        each.out.requires_grad_(False)
    train(net, cls(net.words.parameters(), lr=0.1, **settings))
    train(other, theirs(other.words.parameters(), lr=0.1, **their_settings))
    assert_same(net, other, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("cls", [optim.RowSGD, optim.RowAdagrad, optim.RowwiseAdagrad])
def test_sparse_and_dense_gradients_give_the_same_weights(cls):
    net, other = Bag(torch.float64), Bag(torch.float64, sparse=False)
    train(net, cls(net.parameters(), lr=0.1))
    train(other, cls(other.parameters(), lr=0.1))
    assert_same(net, other, rtol=1e-12, atol=1e-12)


def test_lazy_adam_leaves_the_averages_of_absent_rows_alone():
    net = Bag()
    optimizer = optim.LazyAdam(net.parameters())
    train(net, optimizer, 1)
    before = copy.deepcopy(optimizer.state[net.words.weight])
    net(torch.tensor([[0, 1]])).sum().backward()  # on top: gradients add up, uncoalesced
    net.words.weight.grad = None
    net(torch.tensor([[0, 1]])).sum().backward()
    optimizer.step()
    after = optimizer.state[net.words.weight]
    assert (after["exp_avg"] != before["exp_avg"]).any(1).nonzero().flatten().tolist() == [0, 1]
    assert (after["exp_avg_sq"] != before["exp_avg_sq"]).any(1).nonzero().flatten().tolist() == [0, 1]
    assert after["step"] == 2


@every_class
def test_rows_without_a_gradient_keep_every_bit(cls):
    net = Bag()
    before = net.words.weight.detach().clone()
    train(net, cls(net.parameters(), lr=0.1))
    assert torch.equal(net.words.weight[20:], before[20:])
    assert not torch.equal(net.words.weight[:20], before[:20])


@every_class
def test_a_gradient_summed_over_two_batches_is_one_gradient(cls):
    net, other = Bag(torch.float64), Bag(torch.float64)
    first, second = batch(0)[0], batch(1)[0]
    net(first).sum().backward()
    net(second).sum().backward()
    assert not net.words.weight.grad.is_coalesced()
    other(torch.cat([first, second])).sum().backward()
    for each in (net, other):
        cls(each.parameters(), lr=0.1).step()
    assert_same(net, other, rtol=1e-12, atol=1e-12)


@every_class
def test_sixteen_bit_weights_have_states_of_thirty_two(cls):
    net = Bag(torch.bfloat16)
    optimizer = cls(net.parameters(), lr=0.1)
    losses = train(net, optimizer, 100, [i % 4 for i in range(100)])
    assert sum(losses[-4:]) < sum(losses[:4])
    assert all(value.dtype == torch.float32 for state in optimizer.state.values() for value in state.values())
    assert all(p.dtype == torch.bfloat16 for p in net.parameters())


@every_class
def test_biases_scalars_and_images_are_parameters_too(cls):
    shapes = [(), (3,), (2, 3, 4, 5)]
    params = [nn.Parameter(torch.ones(shape)) for shape in shapes]
    bias = nn.Parameter(torch.ones(5))
    for p in params:
        p.grad = torch.ones_like(p)
    bias.grad = torch.sparse_coo_tensor([[3, 3]], [1.0, 1.0], (5,), check_invariants=True)
    cls([*params, bias], lr=0.1).step()
    assert all((p < 1).all() for p in params)
    assert (bias < 1).tolist() == [False, False, False, True, False]


@every_class
def test_an_empty_sparse_gradient_changes_no_weight(cls):
    net = Bag()
    before = copy.deepcopy(net)
    net.words(torch.zeros(0, dtype=torch.int64)).sum().backward()
    cls(net.parameters(), lr=0.1).step()
    assert_same(net, before)


# What an optimiser of torch can do


@every_class
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "copy_of", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))], ids=["deepcopy", "pickle"]
)
def test_a_saved_state_goes_on_as_if_nothing_had_happened(cls, dtype, copy_of):
    net = Bag(dtype)
    optimizer = cls(net.parameters(), lr=0.1)
    train(net, optimizer, 3)
    other = Bag(dtype)
    other.load_state_dict(copy_of(net.state_dict()))
    again = cls(other.parameters(), lr=0.7)
    saved = copy_of(optimizer.state_dict())
    again.load_state_dict(saved)
    for state, kept in zip(again.state.values(), optimizer.state.values()):
        assert all(torch.equal(state[key], kept[key]) and state[key].dtype == torch.float32 for key in kept)
    train(net, optimizer, 3)
    train(other, again, 3)
    assert_same(net, other)
    state = next(iter(saved["state"].values()), {})
    assert all(value.data_ptr() != again.state[other.words.weight][key].data_ptr() for key, value in state.items())


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        (lambda p: torch.optim.Adagrad(p, lr=0.1), lambda p: optim.RowAdagrad(p, lr=0.1)),
        (lambda p: torch.optim.SparseAdam(p, lr=0.1, eps=1e-30), lambda p: optim.LazyAdam(p, lr=0.1, eps=0.0)),
    ],
    ids=["Adagrad", "SparseAdam"],
)
def test_takes_over_from_torchs_optimiser(theirs, ours):
    net, other = Bag(torch.float64), Bag(torch.float64)
    for each in (net, other):
        each.out.requires_grad_(False)
    optimizer, before = theirs(list(net.words.parameters())), theirs(list(other.words.parameters()))
    train(net, optimizer, 6)
    train(other, before, 3)
    after = ours(other.words.parameters())
    groups = after.state_dict()["param_groups"]
    after.load_state_dict({"state": before.state_dict()["state"], "param_groups": groups})
    train(other, after, 3, range(3, 6))
    assert_same(net, other, rtol=1e-6, atol=1e-6)


@every_class
def test_groups_schedules_and_closures(cls):
    net, other = Bag(), Bag()
    groups = [{"params": net.words.parameters(), "lr": 0.2}, {"params": net.out.parameters(), "weight_decay": 0.1}]
    optimizer = cls(groups, lr=0.1)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
    ids, targets = batch()

    def closure():
        optimizer.zero_grad()
        loss = (net(ids) - targets).square().mean()
        loss.backward()
        return loss

    first = optimizer.step(closure)
    assert first.requires_grad
    schedule.step()
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 0.05]
    assert optimizer.step(closure) < first
    halves = [
        cls(other.words.parameters(), lr=0.2),
        cls(other.out.parameters(), lr=0.1, weight_decay=0.1),
    ]
    for factor in (1.0, 0.5):
        other.zero_grad()
        (other(ids) - targets).square().mean().backward()
        for half, lr in zip(halves, (0.2, 0.1)):
            half.param_groups[0]["lr"] = lr * factor
            half.step()
    assert_same(net, other)


@every_class
def test_a_rate_in_a_tensor_is_followed(cls):
    net, other = Bag(torch.float64), Bag(torch.float64)
    lr = torch.tensor(0.3, dtype=torch.float64)
    live, plain = cls(net.parameters(), lr=lr), cls(other.parameters(), lr=0.3)
    train(net, live, 2)
    train(other, plain, 2)
    lr.fill_(0.05)
    plain.param_groups[0]["lr"] = 0.05
    train(net, live, 2)
    train(other, plain, 2)
    assert_same(net, other, rtol=1e-12, atol=1e-12)


@every_class
def test_works_in_a_training_step(cls):
    net, other = Bag(), Bag()
    step = tl.TrainStep(net, cls(net.parameters(), lr=0.1), nn.functional.mse_loss)
    for seed in range(5):
        step(*batch(seed))
    train(other, cls(other.parameters(), lr=0.1), 5)
    assert_same(net, other)


# The update inside backward


@every_class
def test_inside_backward_the_weights_are_the_same_and_no_gradient_stays(cls):
    net, other = Bag(), Bag()
    optimizer = cls(net.parameters(), lr=0.1)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.9)
    plain = cls(other.parameters(), lr=0.1)
    plain_schedule = torch.optim.lr_scheduler.StepLR(plain, 1, gamma=0.9)
    undo = optim.fuse_into_backward(optimizer)
    for seed in range(4):
        ids, targets = batch(seed)
        (net(ids) - targets).square().mean().backward()
        assert all(p.grad is None for p in net.parameters())
        optimizer.step()
        schedule.step()
    undo()
    for seed in range(4):
        train(other, plain, 1, [seed])
        plain_schedule.step()
    assert_same(net, other)
    (net(ids) - targets).square().mean().backward()
    assert all(p.grad is not None for p in net.parameters())
    assert_same(net, other)


def test_inside_backward_a_loaded_state_is_obeyed():
    net = Bag()
    optimizer = optim.RowSGD(net.parameters(), lr=0.1)
    optim.fuse_into_backward(optimizer)
    saved = copy.deepcopy(optimizer.state_dict())
    saved["param_groups"][0]["lr"] = 0.0
    optimizer.load_state_dict(saved)
    before = copy.deepcopy(net)
    net(batch()[0]).sum().backward()
    assert_same(net, before)


def test_inside_backward_a_table_used_twice_is_updated_once():
    nets = [Bag(torch.float64), Bag(torch.float64)]
    optimizers = [optim.RowAdagrad(net.parameters(), lr=0.1) for net in nets]
    optim.fuse_into_backward(optimizers[0])
    for net, optimizer in zip(nets, optimizers):
        (net(batch(0)[0]).sum() + net(batch(1)[0]).square().sum()).backward()
        optimizer.step()
    assert_same(*nets)


# Wrong inputs


def parameter(shape=(4, 3), dtype=torch.float32):
    return nn.Parameter(torch.ones(shape, dtype=dtype))


WRONG_SETTINGS = [
    (optim.RowSGD, {"lr": -1.0}, "RowSGD needs lr of 0 or more, got -1.0"),
    (optim.RowSGD, {"lr": float("nan")}, "RowSGD needs lr of 0 or more, got nan"),
    (optim.RowSGD, {"weight_decay": -0.1}, "RowSGD needs weight_decay of 0 or more, got -0.1"),
    (optim.RowAdagrad, {"lr": -1.0}, "RowAdagrad needs lr of 0 or more, got -1.0"),
    (optim.RowAdagrad, {"eps": -1.0}, "RowAdagrad needs eps of 0 or more, got -1.0"),
    (optim.RowAdagrad, {"initial_accumulator_value": -1.0}, "needs initial_accumulator_value of 0 or more, got -1.0"),
    (
        optim.RowAdagrad,
        {"eps": 0.0, "initial_accumulator_value": 0.0},
        "needs eps or initial_accumulator_value above 0",
    ),
    (optim.RowAdagrad, {"weight_decay": -0.1}, "RowAdagrad needs weight_decay of 0 or more, got -0.1"),
    (optim.RowwiseAdagrad, {"lr": -1.0}, "RowwiseAdagrad needs lr of 0 or more, got -1.0"),
    (optim.RowwiseAdagrad, {"eps": 0.0}, "RowwiseAdagrad needs eps or initial_accumulator_value above 0"),
    (optim.RowwiseAdagrad, {"eps": -1.0}, "RowwiseAdagrad needs eps of 0 or more, got -1.0"),
    (optim.LazyAdam, {"lr": -1.0}, "LazyAdam needs lr of 0 or more, got -1.0"),
    (optim.LazyAdam, {"betas": (1.0, 0.9)}, r"LazyAdam needs beta1 in \[0, 1\), got 1.0"),
    (optim.LazyAdam, {"betas": (0.9, -0.1)}, r"LazyAdam needs beta2 in \[0, 1\), got -0.1"),
    (optim.LazyAdam, {"eps": -1.0}, "LazyAdam needs eps of 0 or more, got -1.0"),
]


@pytest.mark.parametrize(("cls", "settings", "text"), WRONG_SETTINGS)
def test_wrong_settings_are_refused_for_all_and_for_one_group(cls, settings, text):
    with pytest.raises(ValueError, match=text):
        cls([parameter()], **settings)
    with pytest.raises(ValueError, match=text):
        cls([{"params": [parameter()], **settings}])


def sparse(indices, values, shape):
    return torch.sparse_coo_tensor(indices, values, shape, check_invariants=True)


def case(p, grad, **settings):
    return p, grad, settings


WRONG_GRADIENTS = {
    "elements": (
        case(parameter(), sparse([[1], [2]], [1.0], (4, 3))),
        ValueError,
        r"made of whole rows .* got torch.sparse_coo with 2 sparse axes for shape \(4, 3\)",
    ),
    "images": (
        case(parameter((4, 3, 2)), sparse([[1]], torch.ones(1, 3, 2), (4, 3, 2))),
        ValueError,
        r"for a parameter of one or two axes; got torch.sparse_coo with 1 sparse axes for shape \(4, 3, 2\)",
    ),
    "decay": (
        case(parameter(), sparse([[1]], torch.ones(1, 3), (4, 3)), weight_decay=0.1),
        ValueError,
        r"cannot decay the weights behind a sparse gradient, .* shape \(4, 3\) into a group with weight_decay=0",
    ),
    "turned": (
        case(nn.Parameter(torch.ones(3, 4).t()), sparse([[1]], torch.ones(1, 3), (4, 3))),
        ValueError,
        "needs weight contiguous, got strides",
    ),
    "complex": (
        case(parameter(dtype=torch.complex64), torch.ones(4, 3, dtype=torch.complex64)),
        TypeError,
        "needs parameters of a floating dtype, got torch.complex64",
    ),
    "complex rows": (
        case(parameter(dtype=torch.complex64), sparse([[1]], torch.ones(1, 3, dtype=torch.complex64), (4, 3))),
        TypeError,
        "needs weight in float32, float64, float16 or bfloat16, got torch.complex64",
    ),
}


@every_class
@pytest.mark.parametrize("kind", WRONG_GRADIENTS)
def test_a_gradient_it_cannot_use_is_refused_before_anything_changes(cls, kind):
    (p, grad, settings), error, text = WRONG_GRADIENTS[kind]
    first, p = parameter(), nn.Parameter(p.detach().clone(memory_format=torch.preserve_format))
    first.grad, p.grad = torch.ones(4, 3), grad
    optimizer = cls([{"params": [first]}, {"params": [p], **settings}])
    with pytest.raises(error, match=f"{cls.__name__} .*{text}"):
        optimizer.step()
    assert (first == 1).all()
    assert (p == 1).all()
    assert not optimizer.state


@every_class
def test_a_rate_made_negative_later_is_refused(cls):
    p = parameter()
    p.grad = torch.ones(4, 3)
    optimizer = cls([p])
    optimizer.param_groups[0]["lr"] = -0.5
    with pytest.raises(ValueError, match=f"{cls.__name__} needs lr of 0 or more, got -0.5"):
        optimizer.step()


def test_only_our_own_optimisers_can_be_fused():
    with pytest.raises(TypeError, match=r"needs an optimizer of torchlayer\.optim, got SGD, whose step"):
        optim.fuse_into_backward(torch.optim.SGD([parameter()]))
