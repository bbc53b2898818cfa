"""Checkpoints: exact resume, damage, other networks, kills."""

from __future__ import annotations

import copy
import errno
import hashlib
import json
import os
import random
import subprocess
import sys
import tracemalloc
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import torchlayer
from torchlayer import checkpoint
from torchlayer.files import FileFormatError, sealed


def equal(a: Any, b: Any) -> bool:
    """Bit for bit, through every container."""
    if isinstance(a, Tensor):
        if not isinstance(b, Tensor) or a.dtype != b.dtype or a.shape != b.shape:
            return False
        return torch.equal(a.detach().reshape(-1).view(torch.uint8), b.detach().reshape(-1).view(torch.uint8))
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(equal, a, b))
    return a == b


@pytest.fixture(autouse=True)
def global_generators_as_before():
    states = torch.get_rng_state(), np.random.get_state(), random.getstate()
    yield
    torch.set_rng_state(states[0])
    np.random.set_state(states[1])
    random.setstate(states[2])


class Run:
    """A small training run that draws from every generator there is."""

    def __init__(
        self, seed: int, width: int = 8, device: str = "cpu", optimizer: Any = torch.optim.Adam, **options: Any
    ):
        torch.manual_seed(seed)
        np.random.seed(seed)
        random.seed(seed)
        self.device = device
        layers = nn.Linear(4, width), nn.BatchNorm1d(width), nn.Dropout(0.5), nn.Linear(width, 1)
        self.model = nn.Sequential(*layers).to(device)
        self.optimizer = optimizer(self.model.parameters(), lr=0.01, **options)
        self.scheduler = torch.optim.lr_scheduler.MultiStepLR(self.optimizer, [5, 15], 0.5)
        self.generators: dict[str, Any] = {
            "orders": np.random.default_rng(seed),
            "noise": torch.Generator(device).manual_seed(seed),
            "choices": random.Random(seed),
            "twister": np.random.Generator(np.random.MT19937(seed)),
        }
        self.step = 0
        self.losses: list[float] = []
        data = np.random.RandomState(0)  # the same data for every run
        self.x = torch.from_numpy(data.randn(64, 4).astype(np.float32)).to(device)

    def train(self, n_steps: int) -> Run:
        for _ in range(n_steps):
            g = self.generators
            rows = torch.from_numpy(g["orders"].permutation(64)[:16]).to(self.device)
            x = self.x[rows] + 0.1 * torch.randn(16, 4, generator=g["noise"], device=self.device)
            scale = g["choices"].random() + random.random() + np.random.rand() + g["twister"].random()
            loss = ((self.model(x) - scale) ** 2).mean()
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            self.scheduler.step()
            self.step += 1
            self.losses.append(loss.item())
        return self

    def parts(self) -> dict[str, Any]:
        names = ("model", "optimizer", "scheduler", "generators")
        return {name: getattr(self, name) for name in names}

    def state(self) -> Any:
        return [self.model.state_dict(), self.optimizer.state_dict(), self.scheduler.state_dict()]

    def save(self, path, **more):
        checkpoint.save(path, **self.parts(), position={"step": self.step}, extra={"losses": self.losses}, **more)

    def resume(self, path) -> Run:
        state = checkpoint.load(path)
        self.step = checkpoint.restore(state, **self.parts())["step"]
        self.losses = state["extra"]["losses"]
        return self


OPTIMIZERS = [
    (torch.optim.Adam, {}),
    (torch.optim.AdamW, {"amsgrad": True, "weight_decay": 0.1}),
    (torch.optim.Adam, {"fused": True}),
    (torch.optim.SGD, {"momentum": 0.9}),
    (torch.optim.Adafactor, {}),
]


@pytest.mark.parametrize(("optimizer", "options"), OPTIMIZERS)
def test_resumed_run_equals_the_uninterrupted_one_bit_for_bit(tmp_path, optimizer, options):
    whole = Run(1, optimizer=optimizer, **options).train(20)
    Run(1, optimizer=optimizer, **options).train(10).save(tmp_path / "a.ckpt")
    resumed = Run(2, optimizer=optimizer, **options).train(3).resume(tmp_path / "a.ckpt")
    assert resumed.step == 10
    resumed.train(10)
    assert resumed.losses == whole.losses
    assert equal(resumed.state(), whole.state())


def test_saving_does_not_disturb_the_run(tmp_path):
    run = Run(1).train(10)
    run.save(tmp_path / "a.ckpt")
    assert equal(run.train(10).state(), Run(1).train(20).state())


def test_one_loaded_state_restores_any_number_of_runs(tmp_path):
    Run(1).train(10).save(tmp_path / "a.ckpt")
    state = checkpoint.load(tmp_path / "a.ckpt")
    first, second = Run(2), Run(3)
    checkpoint.restore(state, **first.parts())
    first.train(10)
    checkpoint.restore(state, **second.parts())
    assert equal(second.train(10).state(), first.state())


def test_model_alone_can_be_taken(tmp_path):
    run = Run(1).train(2)
    run.save(tmp_path / "a.ckpt")
    other = Run(2).model
    other.load_state_dict(checkpoint.load(tmp_path / "a.ckpt")["model"])
    assert equal(other.state_dict(), run.model.state_dict())


def test_compiled_wrapper_and_plain_module_share_checkpoints(tmp_path):
    net = nn.Linear(2, 1)
    checkpoint.save(tmp_path / "a.ckpt", model=torch.compile(net, backend="eager"))  # type: ignore[arg-type]
    other = nn.Linear(2, 1)
    checkpoint.restore(checkpoint.load(tmp_path / "a.ckpt"), model=other)
    assert equal(other.state_dict(), net.state_dict())


@pytest.mark.filterwarnings("ignore:Lazy modules")
def test_layer_without_a_size_takes_the_one_that_was_saved(tmp_path):
    net = nn.Linear(3, 2)
    checkpoint.save(tmp_path / "a.ckpt", model=net, optimizer=torch.optim.SGD(net.parameters()))
    lazy = nn.LazyLinear(2)
    checkpoint.restore(checkpoint.load(tmp_path / "a.ckpt"), model=lazy, optimizer=torch.optim.SGD(lazy.parameters()))
    assert equal(dict(lazy.state_dict()), dict(net.state_dict()))


PLAIN = [
    None,
    {"a": [1, 2.5, "x", b"\0", None, True, (1, {2})], 3: 1 + 2j},
    torch.arange(3, dtype=torch.bfloat16),
    torch.Size((1, 2)),
    [torch.float16, torch.device("cpu")],
    2**200,
]


@pytest.mark.parametrize("value", PLAIN, ids=lambda v: repr(v)[:20])
def test_position_and_extra_come_back_as_they_were(tmp_path, value):
    checkpoint.save(tmp_path / "a.ckpt", position=value, extra=value)
    state = checkpoint.load(tmp_path / "a.ckpt")
    assert equal(state["extra"], value)
    assert equal(checkpoint.restore(state), value)


def test_numbers_of_numpy_become_plain_ones(tmp_path):
    checkpoint.save(tmp_path / "a.ckpt", extra={"best": np.float64(0.5), np.int64(3): [np.float32(2), np.bool_(True)]})
    assert equal(checkpoint.load(tmp_path / "a.ckpt")["extra"], {"best": 0.5, 3: [2.0, True]})


class Opaque:
    pass


REFUSED = [
    ({"extra": {"a": [np.ones(2)]}}, TypeError, r"extra\['a'\]\[0\] is a numpy.ndarray.*torch.from_numpy"),
    ({"position": Opaque()}, TypeError, r"position is a tests.test_checkpoint.Opaque|position is a .*Opaque"),
    ({"extra": print}, TypeError, "extra is a builtins.builtin_function_or_method"),
    ({"history": [1, 2]}, TypeError, "history is a list, which has no state_dict; give plain values as extra="),
    ({"random": nn.Linear(1, 1)}, ValueError, "'random' is a name that a checkpoint uses itself"),
    ({"generators": {"g": np.random.RandomState(0)}}, TypeError, "generator 'g' is a RandomState; give a torch.Gen"),
    ({"keep": 0}, ValueError, "keep counts the checkpoints that stay, so it is 1 or more, got 0"),
]


@pytest.mark.parametrize(("arguments", "error", "text"), REFUSED)
def test_what_could_not_be_read_again_is_refused_and_the_old_checkpoint_stays(tmp_path, arguments, error, text):
    checkpoint.save(tmp_path / "a.ckpt", extra="old")
    with pytest.raises(error, match=text):
        checkpoint.save(tmp_path / "a.ckpt", **arguments)
    assert checkpoint.load(tmp_path / "a.ckpt")["extra"] == "old"
    assert os.listdir(tmp_path) == ["a.ckpt"]


@pytest.mark.filterwarnings("ignore:Lazy modules")
def test_layer_without_a_size_cannot_be_saved(tmp_path):
    with pytest.raises(ValueError, match=r"model\['weight'\] has no size yet: call the network once"):
        checkpoint.save(tmp_path / "a.ckpt", model=nn.LazyLinear(2))


# Other networks


def everything(run):
    return [run.state(), torch.get_rng_state(), random.getstate(), run.generators["orders"].bit_generator.state]


def two_groups(run):
    return torch.optim.Adam([{"params": [p]} for p in run.model.parameters()])


def adam_without_the_last(run):
    return torch.optim.Adam(list(run.model.parameters())[:-1])


MISFITS = [
    (
        "wider",
        lambda r: {**r.parts(), "model": Run(2, width=9).model},
        r"model mismatched: 0\.weight is float32",
    ),
    ("other dtype", lambda r: {**r.parts(), "model": copy.deepcopy(r.model).half()}, r"needed float16 \(8, 4\)"),
    ("fewer layers", lambda r: {**r.parts(), "model": r.model[:3]}, r"model unexpected: 3\.weight, 3\.bias"),
    ("more layers", lambda r: {**r.parts(), "model": nn.Sequential(*r.model, nn.Linear(1, 1))}, r"missing: 4\.weight"),
    (
        "other optimiser",
        lambda r: {**r.parts(), "optimizer": torch.optim.NAdam(r.model.parameters())},
        "Adam, needed NAdam",
    ),
    ("fewer parameters", lambda r: {**r.parts(), "optimizer": adam_without_the_last(r)}, "unexpected: group 0 param 5"),
    ("other groups", lambda r: {**r.parts(), "optimizer": two_groups(r)}, "mismatched: groups is 1, needed 6"),
    (
        "optimiser of a wider net",
        lambda r: {**r.parts(), "optimizer": Run(2, width=9).optimizer},
        r"optimizer mismatched: group 0 param 0 is \(8, 4\), needed \(9, 4\)",
    ),
    ("part forgotten", lambda r: {k: v for k, v in r.parts().items() if k != "scheduler"}, "unexpected: scheduler"),
    ("part too many", lambda r: {**r.parts(), "critic": nn.Linear(1, 1)}, "missing: critic"),
    ("model for optimiser", lambda r: {**r.parts(), "optimizer": r.model}, "optimizer missing: 0.weight"),
    ("generator forgotten", lambda r: {**r.parts(), "generators": {}}, "generators unexpected: orders, noise"),
    (
        "other generator",
        lambda r: {**r.parts(), "generators": {**r.generators, "orders": random.Random()}},
        "generators mismatched: orders is PCG64, needed python",
    ),
]


@pytest.mark.parametrize(("parts", "text"), [row[1:] for row in MISFITS], ids=[row[0] for row in MISFITS])
def test_checkpoint_of_something_else_is_refused_and_nothing_is_changed(tmp_path, parts, text):
    Run(1).train(3).save(tmp_path / "a.ckpt")
    run = Run(2).train(2)
    given = parts(run)
    before = copy.deepcopy(everything(run))
    with pytest.raises(ValueError, match=f"nothing was changed.*{text}"):
        checkpoint.restore(checkpoint.load(tmp_path / "a.ckpt"), **given)
    assert equal(everything(run), before)


class Fussy:
    """Its state can only be judged by loading it, and loading fails half way."""

    def __init__(self):
        self.a, self.b = 1, 2

    def state_dict(self):
        return {"a": self.a, "b": self.b}

    def load_state_dict(self, state_dict):
        self.a = state_dict["a"]
        if state_dict["b"] < 0:
            raise RuntimeError("b is negative")
        self.b = state_dict["b"]


def test_part_that_refuses_its_state_halfway_is_put_back_and_so_are_the_others(tmp_path):
    saved, calm = Fussy(), Fussy()
    saved.a, saved.b, calm.a = 10, -1, 7
    net = nn.Linear(1, 1)
    checkpoint.save(tmp_path / "a.ckpt", model=net, calm=calm, fussy=saved)
    other = nn.Linear(1, 1)
    live: dict[str, Any] = {"calm": Fussy(), "fussy": Fussy()}
    before = copy.deepcopy(other.state_dict())
    with pytest.raises(ValueError, match=r"nothing was changed\. fussy: RuntimeError.*b is negative"):
        checkpoint.restore(checkpoint.load(tmp_path / "a.ckpt"), model=other, **live)
    assert [(p.a, p.b) for p in live.values()] == [(1, 2), (1, 2)]
    assert equal(other.state_dict(), before)


# Devices


def as_if_saved_on_cuda(state):
    for group in state["optimizer"]["param_groups"]:
        group["capturable"] = True
        group["lr"] = torch.tensor(group["lr"])
    return state


def test_run_captured_on_a_gpu_goes_on_on_a_cpu(tmp_path):
    whole = Run(1).train(11)
    Run(1).train(10).save(tmp_path / "a.ckpt")
    state = as_if_saved_on_cuda(checkpoint.load(tmp_path / "a.ckpt"))
    resumed = Run(2)
    checkpoint.restore(state, **resumed.parts())
    assert [group["capturable"] for group in resumed.optimizer.param_groups] == [False]
    resumed.train(1)  # torch asserts here if a CPU parameter is capturable
    for a, b in zip(resumed.model.parameters(), whole.model.parameters()):
        torch.testing.assert_close(a, b)


def test_learning_rate_stays_a_tensor_where_it_is_one(tmp_path):
    net = nn.Linear(1, 1)
    checkpoint.save(tmp_path / "a.ckpt", optimizer=torch.optim.Adam(net.parameters(), lr=0.5))
    optimizer = torch.optim.Adam(net.parameters(), lr=torch.tensor(0.1))
    checkpoint.restore(checkpoint.load(tmp_path / "a.ckpt"), optimizer=optimizer)
    assert equal(optimizer.param_groups[0]["lr"], torch.tensor(0.5))


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_random_states_of_absent_gpus_are_warned_about(tmp_path):
    checkpoint.save(tmp_path / "a.ckpt")
    state = checkpoint.load(tmp_path / "a.ckpt")
    state["random"]["cuda"] = [torch.zeros(16, dtype=torch.uint8)]
    with pytest.warns(UserWarning, match=r"random states of 1 CUDA device.s. were saved and this process sees 0"):
        checkpoint.restore(state)


def test_generator_from_another_device_is_warned_about_and_left_alone(tmp_path):
    generator = torch.Generator().manual_seed(1)
    checkpoint.save(tmp_path / "a.ckpt", generators={"noise": generator})
    state = checkpoint.load(tmp_path / "a.ckpt")
    state["generators"]["noise"]["device"] = "cuda"
    before = generator.get_state()
    with pytest.warns(UserWarning, match="generator 'noise' was saved on cuda and is now on cpu"):
        checkpoint.restore(state, generators={"noise": generator})
    assert equal(generator.get_state(), before)


cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@cuda
@pytest.mark.parametrize("options", [{}, {"capturable": True}, {"fused": True}])
def test_run_on_a_gpu_resumes_bit_for_bit(tmp_path, options):
    whole = Run(1, device="cuda", **options).train(20)
    Run(1, device="cuda", **options).train(10).save(tmp_path / "a.ckpt")
    resumed = Run(2, device="cuda", **options).train(3).resume(tmp_path / "a.ckpt").train(10)
    assert resumed.losses == whole.losses
    assert equal(resumed.state(), whole.state())


@cuda
@pytest.mark.parametrize("options", [{}, {"capturable": True}, {"fused": True}])
@pytest.mark.parametrize(("first", "then"), [("cuda", "cpu"), ("cpu", "cuda")])
def test_run_moves_between_devices(tmp_path, options, first, then):
    on = {"cuda": options, "cpu": {k: v for k, v in options.items() if k != "capturable"}}
    run = Run(1, device=first, **on[first]).train(5)
    run.save(tmp_path / "a.ckpt")
    resumed = Run(2, device=then, **on[then])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of generators that cannot move
        resumed.resume(tmp_path / "a.ckpt")
    for a, b in zip(run.model.state_dict().values(), resumed.model.state_dict().values()):
        assert equal(a.cpu(), b.cpu())
    assert [g["capturable"] for g in resumed.optimizer.param_groups] == [
        then == "cuda" and bool(options.get("capturable"))
    ]
    resumed.train(3)


# Damage


@pytest.fixture
def path(tmp_path):
    checkpoint.save(tmp_path / "a.ckpt", model=nn.Linear(3, 2), extra={"text": "x" * 50})
    return tmp_path / "a.ckpt"


def test_every_flipped_bit_is_noticed_before_anything_is_unpickled(path, monkeypatch):
    def never(*args, **kwargs):
        pytest.fail("damaged bytes reached torch.load")  # no Exception, so that nothing can swallow it

    good, rng = path.read_bytes(), random.Random(0)
    bits = [*range(8 * 64), *rng.sample(range(8 * 64, 8 * len(good)), 500)]  # the whole header, and 500 behind it
    monkeypatch.setattr(torch, "load", never)
    for bit in bits:
        bad = bytearray(good)
        bad[bit // 8] ^= 1 << bit % 8
        path.write_bytes(bad)
        with pytest.raises(FileFormatError, match=r"a\.ckpt' cannot be read"):
            checkpoint.load(path)


def test_every_truncation_and_addition_is_noticed(path):
    good = path.read_bytes()
    for content in [*(good[:n] for n in (*range(70), *range(70, len(good), 97), len(good) - 1)), good + b"x"]:
        path.write_bytes(content)
        with pytest.raises(FileFormatError):
            checkpoint.load(path)


def plain_torch(path):
    torch.save({"model": {}}, path)


FOREIGN = [
    ("empty", lambda p: p.write_bytes(b""), "is not a checkpoint of torchlayer: it is empty"),
    ("text", lambda p: p.write_text("hello" * 50), "is not a checkpoint of torchlayer, which starts with"),
    ("torch.save", plain_torch, r"perhaps a plain torch\.save file, for torch\.load"),
    ("cut in the header", lambda p: p.write_bytes(p.read_bytes()[:40]), "cut off in its header.*at byte 40"),
    (
        "newer",
        lambda p: p.write_bytes(p.read_bytes()[:19] + b"\2" + p.read_bytes()[20:]),
        "of format 2.0, this version",
    ),
]


@pytest.mark.parametrize(("write", "text"), [row[1:] for row in FOREIGN], ids=[row[0] for row in FOREIGN])
def test_what_is_no_checkpoint_is_named(path, write, text):
    write(path)
    with pytest.raises(FileFormatError, match=text):
        checkpoint.load(path)


def test_sealed_pickle_that_would_run_code_is_refused(tmp_path, path):
    from torchlayer.files.sealed import write_sealed

    class Evil:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "owned"),))

    with open(path, "w+b") as f:
        write_sealed(f, {"extra": Evil()})
    with pytest.raises(FileFormatError, match="not what torchlayer writes"):
        checkpoint.load(path)
    assert not (tmp_path / "owned").exists()


def test_missing_checkpoint_is_a_missing_file(tmp_path):
    for name in ("a.ckpt", "missing/a.ckpt"):
        with pytest.raises(FileNotFoundError, match=r"a\.ckpt"):
            checkpoint.load(tmp_path / name)


def test_older_checkpoints_are_kept_and_used_when_the_newest_is_bad(tmp_path):
    path = tmp_path / "a.ckpt"
    for i in range(5):
        checkpoint.save(path, position=i, keep=3)
    assert sorted(os.listdir(tmp_path)) == ["a.ckpt", "a.ckpt.1", "a.ckpt.2"]
    assert [checkpoint.load(tmp_path / n)["position"] for n in ("a.ckpt", "a.ckpt.1", "a.ckpt.2")] == [4, 3, 2]
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.warns(UserWarning, match=r"a\.ckpt' cannot be read.*going on from the older '.*a\.ckpt\.1'"):
        assert checkpoint.load(path)["position"] == 3
    (tmp_path / "a.ckpt.1").write_bytes(b"")
    path.unlink()
    with pytest.warns(UserWarning, match=r"older '.*a\.ckpt\.2'"):
        assert checkpoint.load(path)["position"] == 2
    (tmp_path / "a.ckpt.2").write_bytes(b"")
    with pytest.raises(FileNotFoundError):
        checkpoint.load(path)


def test_older_checkpoints_are_kept_where_there_are_no_hard_links(tmp_path, monkeypatch):
    def no_links(*args):
        raise PermissionError("no hard links here")

    monkeypatch.setattr(os, "link", no_links)
    for i in range(3):
        checkpoint.save(tmp_path / "a.ckpt", position=i, keep=2)
    assert [checkpoint.load(tmp_path / n)["position"] for n in ("a.ckpt", "a.ckpt.1")] == [2, 1]


@pytest.mark.skipif(os.name != "posix", reason="limits of a file's size are POSIX's")
@pytest.mark.parametrize("n_bytes", [0, 512, 1 << 14, 1 << 15, (1 << 15) + 4096])
def test_full_disk_is_an_os_error_and_costs_no_older_checkpoint(tmp_path, n_bytes):
    import resource

    path, net = tmp_path / "a.ckpt", nn.Linear(90, 90)
    for position in (1, 2):
        checkpoint.save(path, model=net, position=position, keep=2)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            checkpoint.save(path, model=net, position=3, keep=2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [checkpoint.load(p)["position"] for p in (path, tmp_path / "a.ckpt.1")] == [2, 1]
    assert sorted(os.listdir(tmp_path)) == ["a.ckpt", "a.ckpt.1"]


def test_disk_that_fails_at_the_last_step_leaves_no_stray_then_or_later(tmp_path, monkeypatch):
    path, net = tmp_path / "a.ckpt", nn.Linear(2, 2)
    checkpoint.save(path, model=net, position=1, keep=2)

    def fails(source, target):
        if Path(target) == path:
            raise OSError(errno.EIO, "Input/output error")
        replace(source, target)

    replace = os.replace
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", fails)
        with pytest.raises(OSError, match="Input/output error"):
            checkpoint.save(path, model=net, position=2, keep=2)
    assert checkpoint.load(path)["position"] == 1
    checkpoint.save(path, model=net, position=3, keep=2)
    assert [checkpoint.load(p)["position"] for p in (path, tmp_path / "a.ckpt.1")] == [3, 1]
    assert sorted(os.listdir(tmp_path)) == ["a.ckpt", "a.ckpt.1"]


def test_disk_that_fails_between_the_older_ones_leaves_no_stray(tmp_path, monkeypatch):
    path, net = tmp_path / "a.ckpt", nn.Linear(2, 2)
    checkpoint.save(path, model=net, position=1, keep=2)

    def fails(source, target):
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", fails)
        with pytest.raises(OSError, match="Input/output error"):
            checkpoint.save(path, model=net, position=2, keep=2)
    assert sorted(os.listdir(tmp_path)) == ["a.ckpt"]


@pytest.mark.parametrize(
    ("raised", "error"),
    [
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."), MemoryError),
        (MemoryError(), MemoryError),
        (OSError(errno.EIO, "Input/output error"), OSError),
    ],
)
def test_load_that_lacks_memory_or_a_disk_is_not_taken_for_damage(tmp_path, monkeypatch, raised, error):
    """An older checkpoint would be loaded in its place, and steps be lost."""
    path = tmp_path / "a.ckpt"
    for position in (1, 2):
        checkpoint.save(path, model=nn.Linear(2, 2), position=position, keep=2)

    def fails(*args, **kwargs):
        raise raised

    monkeypatch.setattr(torch, "load", fails)
    with pytest.raises(error):
        checkpoint.load(path)


class Interrupting:
    """A file whose method is interrupted by Ctrl-C at its ``n``-th call."""

    def __init__(self, f, name, n):
        self._f, self._name, self._n = f, name, n

    def __getattr__(self, name):
        method = getattr(self._f, name)
        if name != self._name:
            return method

        def interrupted(*args):
            self._n -= 1
            if self._n == 0:
                raise KeyboardInterrupt
            return method(*args)

        return interrupted


def test_text_that_claims_gigabytes_takes_no_memory(tmp_path):
    content = b"\x80\x02X" + (2**31).to_bytes(4, "little") + b"text"  # a pickle's, in a file whose digest is right
    header = sealed._HEADER.pack(sealed._MARK, sealed._VERSION, 0, len(content), hashlib.sha256(content).digest())
    path = tmp_path / "run.ckpt"
    path.write_bytes(header + content)
    tracemalloc.start()
    with pytest.raises(FileFormatError, match="its content is not what torchlayer writes"):
        sealed.read_sealed(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10 << 20


@pytest.mark.parametrize("n", range(1, 8))
@pytest.mark.parametrize(
    ("kind", "method"), [("_Payload", "read"), ("_Payload", "readinto"), ("_DigestedWriter", "write")]
)
def test_ctrl_c_in_the_middle_of_a_file_is_a_keyboard_interrupt(tmp_path, monkeypatch, kind, method, n):
    """And no damage, for which an older checkpoint would be loaded and the run go on."""
    path, net = tmp_path / "a.ckpt", nn.Linear(2, 2)
    for position in (1, 2):
        checkpoint.save(path, model=net, position=position, keep=2)
    plain = getattr(sealed, kind)
    files = []

    def interrupting(f):
        files.append(Interrupting(f, method, n))
        return plain(files[-1])

    monkeypatch.setattr(sealed, kind, interrupting)
    act = (lambda: checkpoint.save(path, model=net, keep=2)) if method == "write" else (lambda: checkpoint.load(path))
    try:
        act()
    except KeyboardInterrupt:
        assert files[0]._n <= 0
    else:
        assert files[0]._n > 0, "the interrupt was lost"
    monkeypatch.setattr(sealed, kind, plain)
    assert checkpoint.load(path)["position"] in (2, None)
    assert len(files) == 1


def test_signal_that_torch_takes_for_an_error_is_the_signal(tmp_path, monkeypatch):
    path = tmp_path / "a.ckpt"
    for position in (1, 2):
        checkpoint.save(path, model=nn.Linear(2, 2), position=position, keep=2)

    def fails(*args, **kwargs):
        raise SystemError("returned a result with an exception set") from KeyboardInterrupt()

    monkeypatch.setattr(torch, "load", fails)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.load(path)


KILLS = """
import json, pathlib, sys
sys.path.insert(0, sys.argv[1])
import kill_saves
print(json.dumps(kill_saves.attack(pathlib.Path(sys.argv[2]), 15)))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_kill_while_saving_always_leaves_a_good_checkpoint_and_strays_are_swept(tmp_path):
    """A small number of what attacks/kill_saves.py does a thousand times."""
    root = Path(torchlayer.__file__).parents[1]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)}
    command = [sys.executable, "-W", "ignore", "-c", KILLS, str(root / "attacks"), str(tmp_path)]
    run = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert run.returncode == 0, run.stderr
    kills, loaded, behind, caught, strays = json.loads(run.stdout)
    assert caught > 0, "no kill fell into a save: the test has shown nothing"
    assert (kills, loaded, strays) == (15, 15, [])
    assert behind <= 0
    assert sorted(os.listdir(tmp_path)) == ["a.ckpt", "a.ckpt.1"]
