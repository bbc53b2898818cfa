from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from torchlayer import cost

REFERENCE = Path(__file__).parent / "reference"


@pytest.mark.parametrize(
    ("loss", "file"),
    [
        (cost.cross_entropy, "softmax_cross_entropy.npz"),
        (cost.sigmoid_cross_entropy, "sigmoid_cross_entropy.npz"),
    ],
)
def test_agrees_with_tensorflow(loss, file):
    case = np.load(REFERENCE / file)
    found = loss(torch.from_numpy(case["logits"]), torch.from_numpy(case["labels"]))
    np.testing.assert_allclose(found.numpy(), case["y"], atol=1e-5, rtol=0)
