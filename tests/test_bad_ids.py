"""Looking at reported ids where there is no GPU, and the setting that asks for it at once."""

from __future__ import annotations

import pytest
import torch

import torchlayer as tl
from torchlayer.kernels import bad_ids


@pytest.mark.skipif(torch.cuda.is_available(), reason="kernels of other tests may have been loaded")
def test_without_a_gpu_there_is_nothing_to_look_at():
    assert not bad_ids._raise_for_bad_ids.has_kernel_for_dispatch_key(torch._C.DispatchKey.CompositeExplicitAutograd)
    assert tl.kernels.check_ids() is None
    assert bad_ids.look() is None


@pytest.mark.parametrize(("value", "at_once"), [(None, False), ("", False), ("0", False), ("1", True)])
def test_the_setting_has_two_values(monkeypatch, value, at_once):
    monkeypatch.delenv("TORCHLAYER_CHECK", raising=False)
    if value is not None:
        monkeypatch.setenv("TORCHLAYER_CHECK", value)
    assert bad_ids.is_at_once() is at_once


def test_a_misspelt_setting_is_refused(monkeypatch):
    monkeypatch.setenv("TORCHLAYER_CHECK", "yes")
    with pytest.raises(ValueError, match=r"TORCHLAYER_CHECK='yes' is not a choice; set it to one of 0, 1"):
        bad_ids.is_at_once()


@pytest.mark.parametrize("check", ["0", "1"])
def test_a_cpu_is_always_looked_at_and_a_meta_tensor_never(monkeypatch, check):
    monkeypatch.setenv("TORCHLAYER_CHECK", check)
    assert bad_ids.may_look_at(torch.arange(3))
    assert not bad_ids.may_look_at(torch.arange(3, device="meta"))


def test_steps_and_fits_raise_what_was_reported(monkeypatch):
    """As a kernel of the last step would have it: its report is there when the epoch's loss has been read."""
    net = tl.layers.DenseLayer(tl.layers.InputLayer((None, 2)), n_units=1)
    x, y = torch.eye(2).repeat(4, 1), torch.ones(8, 1)
    looks = []

    def look(wait=False):
        looks.append(wait)
        raise IndexError("nce_loss needs labels from 0 to 4, got 7 in row 3")

    monkeypatch.setattr(bad_ids, "look", look)
    with pytest.raises(IndexError, match="got 7 in row 3"):
        tl.utils.fit(
            net, torch.optim.SGD(net.parameters(), lr=0.1), tl.cost.mean_squared_error, x, y,
            batch_size=4, n_epoch=3, verbose=False,
        )  # fmt: skip
    assert looks == [False]
