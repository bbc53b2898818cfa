"""What the contract's layers compute survives the way through ONNX, at a batch size that the export never saw."""

from __future__ import annotations

import re
from contextlib import suppress
from functools import cache
from itertools import groupby
from pathlib import Path

import pytest
import torch
from contract import ROWS, Row
from torch import Tensor, nn

pytest.importorskip("onnx", reason="needs onnx: pip install 'torchlayer[onnx]'")
pytest.importorskip("onnxscript", reason="needs onnxscript: pip install 'torchlayer[onnx]'")
onnxruntime = pytest.importorskip("onnxruntime", reason="needs onnxruntime: pip install 'torchlayer[onnx]'")

pytestmark = [
    # torch.export's decompositions still ask this of torch's own trees
    pytest.mark.filterwarnings(r"ignore:.isinstance\(treespec, LeafSpec\). is deprecated:FutureWarning"),
    # the exporter writes a recurrence as a loop, over tensors that are no leaves and with checks out of fashion
    pytest.mark.filterwarnings(r"ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning"),
    pytest.mark.filterwarnings(r"ignore:_check_is_size will be removed:FutureWarning"),
]


def family(row: Row) -> str:
    return row.cls.__module__.rpartition(".")[2]


# An export costs half a second whatever it holds, so the rows of one file of layers go through as one program.
FAMILIES = {name: list(rows) for name, rows in groupby(sorted(ROWS, key=family), family)}


class Together(nn.Module):
    """Networks side by side, each with inputs of its own."""

    def __init__(self, nets: list[nn.Module], n_inputs: list[int]):
        super().__init__()
        self.nets, self.n_inputs = nn.ModuleList(nets), n_inputs

    def forward(self, *xs: Tensor) -> list[Tensor]:
        left = iter(xs)
        return [net(*(next(left) for _ in range(n))) for net, n in zip(self.nets, self.n_inputs)]


@pytest.fixture(scope="module", autouse=True)
def translations_read_once():
    """Every export reads the source of torch's five hundred translations again, longer than many a model takes."""
    with pytest.MonkeyPatch.context() as patch:
        with suppress(ImportError, AttributeError):  # where torch keeps them is its own affair
            from torch.onnx._internal.exporter._registration import ONNXRegistry

            patch.setattr(ONNXRegistry, "from_torchlib", staticmethod(cache(ONNXRegistry.from_torchlib)))
        yield


@pytest.mark.parametrize("name", FAMILIES)
def test_onnx_computes_the_same_with_any_batch_size(name: str):
    rows = FAMILIES[name]
    model = Together([row.stacked() for row in rows], [len(row.inputs) for row in rows]).eval()
    session = exported(model, [x for row in rows for x in row.tensors(3)])
    for n in (1, 5):
        xs = [x for row in rows for x in row.tensors(n)]
        found = session.run(None, {node.name: x.numpy() for node, x in zip(session.get_inputs(), xs, strict=True)})
        for row, y, expected in zip(rows, found, model(*xs), strict=True):
            torch.testing.assert_close(
                torch.from_numpy(y), expected, rtol=1e-4, atol=1e-5, msg=lambda text, row=row: f"{row.id}: {text}"
            )


def test_the_pages_own_export_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    page = (Path(__file__).resolve().parents[1] / "docs" / "export.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python( notest)?\n(.*?)```", page, re.DOTALL)
    assert [bool(notest) for notest, _ in blocks] == [False, False, False, True]
    names: dict[str, object] = {}
    for _, code in blocks:
        exec(code, names)


def exported(model: nn.Module, xs: list[Tensor]):
    shapes = (tuple({0: torch.export.Dim.DYNAMIC} for _ in xs),)
    program = torch.onnx.export(model, tuple(xs), dynamo=True, dynamic_shapes=shapes, verbose=False)
    assert program is not None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(
        program.model_proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
