"""Optimisers that touch only the rows that a batch has touched.

An embedding or a softmax over a large vocabulary gets a gradient for some thousand rows, and with ``sparse=True`` it
comes as rows and ids. The optimisers here read and write those rows and no others, through the operators in
:mod:`torchlayer.kernels`; parameters with ordinary gradients follow the same formula on all of their rows, so that one
optimiser serves a whole network.

>>> import torch, torchlayer as tl
>>> words = torch.nn.Embedding(50_000, 64, sparse=True)
>>> net = torch.nn.Sequential(words, torch.nn.Flatten(), torch.nn.Linear(2 * 64, 1))
>>> optimizer = RowAdagrad(net.parameters(), lr=0.1)
>>> net(torch.tensor([[3, 4], [4, 5]])).mean().backward()
>>> before = words.weight.detach().clone()
>>> optimizer.step()
>>> (words.weight != before).any(1).nonzero().flatten()
tensor([3, 4, 5])
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from ..kernels import _rows, row_adagrad, row_adam, row_rowwise_adagrad, row_sgd


class RowOptimizer(Optimizer):
    """What the optimisers below share: which gradients they take, states that keep their precision, ``step``."""

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """Update every parameter that has a gradient; returns what ``closure`` does, which computes gradients anew.

        Raises:
            ValueError, TypeError: a gradient or a parameter cannot be used; then no parameter has changed.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        found = [(p, group) for group in self.param_groups for p in group["params"] if p.grad is not None]
        for p, group in found:
            self._check(p, group)
        for p, group in found:
            self._update(p, group)
        return loss

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters, with settings of their own for whatever ``param_group`` names."""
        name, settings = type(self).__name__, {**self.defaults, **param_group}
        for key in ("lr", "eps", "initial_accumulator_value", "weight_decay"):
            if not isinstance(settings.get(key, 0.0), Tensor):
                _rows.check_number(name, key, settings.get(key, 0.0))
        for key, beta in zip(("beta1", "beta2"), settings.get("betas", ())):
            _rows.check_number(name, key, beta, below=1)
        if settings.get("eps") == 0 == settings.get("initial_accumulator_value"):
            raise ValueError(f"{name} needs eps or initial_accumulator_value above 0, lest a gradient of 0 becomes NaN")
        super().add_param_group(param_group)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from what ``state_dict()`` returned, with states as precise as they were saved."""
        super().load_state_dict(state_dict)
        # torch has cast them to the dtype of their parameters, which may have sixteen bits
        saved = [index for group in state_dict["param_groups"] for index in group["params"]]
        params = [p for group in self.param_groups for p in group["params"]]
        for index, p in zip(saved, params):
            for key, value in state_dict["state"].get(index, {}).items():
                dtype = torch.float32 if key == "step" else _rows.state_dtype(p)
                self.state[p][key] = torch.as_tensor(value).to(p.device, dtype, copy=True)

    # For one parameter -------------------------------------------------------

    def _check(self, p: Tensor, group: dict[str, Any]) -> None:
        name, grad = type(self).__name__, p.grad
        assert grad is not None
        if grad.layout == torch.strided:
            if not isinstance(group["lr"], Tensor):
                _rows.check_number(name, "lr", group["lr"])
            if not p.is_floating_point():
                raise TypeError(f"{name} needs parameters of a floating dtype, got {p.dtype}")
            return
        if grad.layout != torch.sparse_coo or grad.sparse_dim() != 1 or p.dim() > 2:
            axes = f" with {grad.sparse_dim()} sparse axes" if grad.layout == torch.sparse_coo else ""
            raise ValueError(
                f"{name} takes dense gradients, and sparse ones made of whole rows (torch.sparse_coo, one sparse axis) "
                f"for a parameter of one or two axes; got {grad.layout}{axes} for shape {tuple(p.shape)}"
            )
        if group["weight_decay"]:
            raise ValueError(
                f"{name} cannot decay the weights behind a sparse gradient, since untouched rows would have to shrink "
                f"too; put the parameter of shape {tuple(p.shape)} into a group with weight_decay=0"
            )
        _rows.check_rows(name, p, grad._indices()[0], grad._values(), group["lr"])

    def _update(self, p: Tensor, group: dict[str, Any]) -> None:
        state = self.state[p]
        if not state:
            state.update(self._new_state(p, group))
        grad = p.grad
        assert grad is not None
        if grad.layout == torch.sparse_coo:
            self._update_rows(p, state, grad._indices()[0], grad._values(), group)
            return
        weight, grad = (tensor.to(_rows.state_dtype(p)) for tensor in (p, grad))
        if group["weight_decay"]:
            grad = grad + group["weight_decay"] * weight
        p.copy_(self._update_all(weight, state, grad, group))

    def _new_state(self, p: Tensor, group: dict[str, Any]) -> dict[str, Tensor]:
        return {}

    def _update_rows(
        self, p: Tensor, state: dict[str, Tensor], ids: Tensor, row_grads: Tensor, group: dict[str, Any]
    ) -> None:
        raise NotImplementedError

    def _update_all(self, weight: Tensor, state: dict[str, Tensor], grad: Tensor, group: dict[str, Any]) -> Tensor:
        raise NotImplementedError


class RowSGD(RowOptimizer):
    """Gradient descent; see :func:`torchlayer.kernels.row_sgd_`.

    Args:
        params: parameters or parameter groups, with sparse or dense gradients.
        lr: a number, or a tensor ``()`` on the parameters' device.
        weight_decay: of parameters with dense gradients; sparse ones refuse it.

    Raises:
        ValueError: a number is negative.
    """

    def __init__(self, params: Any, lr: float | Tensor = 1e-3, weight_decay: float = 0.0):
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})

    def _update_rows(
        self, p: Tensor, state: dict[str, Tensor], ids: Tensor, row_grads: Tensor, group: dict[str, Any]
    ) -> None:
        row_sgd.row_sgd_(p, ids, row_grads, group["lr"])

    def _update_all(self, weight: Tensor, state: dict[str, Tensor], grad: Tensor, group: dict[str, Any]) -> Tensor:
        return row_sgd.updated(weight, grad, group["lr"])[0]


class RowAdagrad(RowOptimizer):
    """Adagrad with TensorFlow's start; see :func:`torchlayer.kernels.row_adagrad_`.

    The state has the name and meaning of that of ``torch.optim.Adagrad``, which is this with
    ``initial_accumulator_value=0``.

    Args:
        params: parameters or parameter groups, with sparse or dense gradients.
        lr: a number, or a tensor ``()`` on the parameters' device.
        initial_accumulator_value: where each sum of squares starts.
        weight_decay: of parameters with dense gradients; sparse ones refuse it.

    Raises:
        ValueError: a number is negative, or neither ``eps`` nor ``initial_accumulator_value`` is above 0.
    """

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-2,
        initial_accumulator_value: float = 0.1,
        eps: float = 1e-10,
        weight_decay: float = 0.0,
    ):
        start = {"initial_accumulator_value": initial_accumulator_value}
        super().__init__(params, {"lr": lr, "eps": eps, "weight_decay": weight_decay, **start})

    def _new_state(self, p: Tensor, group: dict[str, Any]) -> dict[str, Tensor]:
        return {"sum": _filled(p, p.shape, group["initial_accumulator_value"])}

    def _update_rows(
        self, p: Tensor, state: dict[str, Tensor], ids: Tensor, row_grads: Tensor, group: dict[str, Any]
    ) -> None:
        row_adagrad.row_adagrad_(p, state["sum"], ids, row_grads, group["lr"], group["eps"])

    def _update_all(self, weight: Tensor, state: dict[str, Tensor], grad: Tensor, group: dict[str, Any]) -> Tensor:
        weight, accumulator = row_adagrad.updated(weight, state["sum"], grad, group["lr"], group["eps"])
        state["sum"].copy_(accumulator)
        return weight


class RowwiseAdagrad(RowOptimizer):
    """Adagrad that keeps one number a row; see :func:`torchlayer.kernels.row_rowwise_adagrad_`.

    A row is what one index of the first axis selects: a word's vector, an input's weights in a dense layer.

    Args:
        params: parameters or parameter groups, with sparse or dense gradients.
        lr: a number, or a tensor ``()`` on the parameters' device.
        initial_accumulator_value: where each mean of squares starts.
        weight_decay: of parameters with dense gradients; sparse ones refuse it.

    Raises:
        ValueError: a number is negative, or neither ``eps`` nor ``initial_accumulator_value`` is above 0.
    """

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-2,
        initial_accumulator_value: float = 0.0,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ):
        start = {"initial_accumulator_value": initial_accumulator_value}
        super().__init__(params, {"lr": lr, "eps": eps, "weight_decay": weight_decay, **start})

    def _new_state(self, p: Tensor, group: dict[str, Any]) -> dict[str, Tensor]:
        return {"sum": _filled(p, p.shape[:1], group["initial_accumulator_value"])}

    def _update_rows(
        self, p: Tensor, state: dict[str, Tensor], ids: Tensor, row_grads: Tensor, group: dict[str, Any]
    ) -> None:
        row_rowwise_adagrad.row_rowwise_adagrad_(p, state["sum"], ids, row_grads, group["lr"], group["eps"])

    def _update_all(self, weight: Tensor, state: dict[str, Tensor], grad: Tensor, group: dict[str, Any]) -> Tensor:
        weight, accumulator = row_rowwise_adagrad.updated(weight, state["sum"], grad, group["lr"], group["eps"])
        state["sum"].copy_(accumulator)
        return weight


class LazyAdam(RowOptimizer):
    """Adam that leaves untouched rows and their averages alone; see :func:`torchlayer.kernels.row_adam_`.

    With dense gradients it is ``torch.optim.Adam``. With sparse ones it adds ``eps`` elsewhere than
    ``torch.optim.SparseAdam``, as that page says, and does not wait for the device to count distinct rows.

    Args:
        params: parameters or parameter groups, with sparse or dense gradients.
        lr: a number, or a tensor ``()`` on the parameters' device.
        weight_decay: of parameters with dense gradients, as in Adam; sparse ones refuse it.

    Raises:
        ValueError: a number is negative, or a beta is 1 or more.
    """

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ):
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    def _new_state(self, p: Tensor, group: dict[str, Any]) -> dict[str, Tensor]:
        step = torch.zeros((), device=p.device)
        return {"step": step, "exp_avg": _filled(p, p.shape, 0.0), "exp_avg_sq": _filled(p, p.shape, 0.0)}

    def _update_rows(
        self, p: Tensor, state: dict[str, Tensor], ids: Tensor, row_grads: Tensor, group: dict[str, Any]
    ) -> None:
        averages, (beta1, beta2) = (state["exp_avg"], state["exp_avg_sq"]), group["betas"]
        row_adam.row_adam_(p, *averages, state["step"], ids, row_grads, group["lr"], beta1, beta2, group["eps"])

    def _update_all(self, weight: Tensor, state: dict[str, Tensor], grad: Tensor, group: dict[str, Any]) -> Tensor:
        state["step"] += 1
        averages, (beta1, beta2) = (state["exp_avg"], state["exp_avg_sq"]), group["betas"]
        weight, exp_avg, exp_avg_sq = row_adam.updated(
            weight, *averages, grad, state["step"], group["lr"], beta1, beta2, group["eps"]
        )
        state["exp_avg"].copy_(exp_avg)
        state["exp_avg_sq"].copy_(exp_avg_sq)
        return weight


def fuse_into_backward(optimizer: RowOptimizer) -> Callable[[], None]:
    """Update each parameter inside ``backward()``, as soon as its gradient is complete, and free the gradient.

    At no time is there more than one parameter's gradient. In return nothing can be done to gradients: no clipping, no
    accumulation over batches. ``optimizer.step()`` then finds nothing left to do; learning-rate schedulers still want
    it called.

    Returns:
        A function that undoes it.

    Raises:
        TypeError: ``optimizer`` is none of this module's.

    >>> words = torch.nn.Embedding(10, 2, sparse=True)
    >>> undo = fuse_into_backward(RowSGD(words.parameters(), lr=1.0))
    >>> words(torch.tensor([3])).sum().backward()
    >>> words.weight.grad is None
    True
    """
    if not isinstance(optimizer, RowOptimizer):
        raise TypeError(
            f"fuse_into_backward needs an optimizer of torchlayer.optim, got {type(optimizer).__name__}, whose step() "
            "knows only whole networks"
        )
    handles = [
        p.register_post_accumulate_grad_hook(_updater(optimizer, i))
        for i, group in enumerate(optimizer.param_groups)
        for p in group["params"]
    ]

    def undo() -> None:
        for handle in handles:
            handle.remove()

    return undo


def _updater(optimizer: RowOptimizer, group_index: int) -> Callable[[Tensor], None]:
    @torch.no_grad()
    def update(p: Tensor) -> None:
        group = optimizer.param_groups[group_index]  # looked up now: loading a state dict replaces the groups
        optimizer._check(p, group)
        optimizer._update(p, group)
        p.grad = None

    return update


def _filled(p: Tensor, shape: torch.Size, value: float) -> Tensor:
    return torch.full(shape, value, dtype=_rows.state_dtype(p), device=p.device)
