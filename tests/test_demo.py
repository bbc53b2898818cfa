import re

import torch

from torchlayer import _demo


def test_the_demo_trains_draws_and_prints_its_result(tmp_path, capsys):
    torch.set_num_threads(1)
    _demo.main(["--epochs", "6", "--device", "cpu", "--out", str(tmp_path)])
    text = capsys.readouterr().out
    accuracy = float(re.findall(r"^result: test_acc=(\d\.\d{4})$", text, re.MULTILINE)[-1])
    assert accuracy > 0.9
    assert {p.name for p in tmp_path.iterdir()} == {"learning_curve.png", "first_layer_filters.png", "model.npz"}
