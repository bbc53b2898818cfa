"""The decoder half of an autoencoder, and how the pair is pre-trained."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from ..initializers import constant, truncated_normal
from ..iterate import minibatches
from ..network import Network
from ..resumable import Resumable
from ..step import TrainStep
from ..utils.evaluate import modes_kept
from .base import Activation, shown
from .dense import DenseLayer

_SOFTPLUS, _SIGMOID = ("softplus", "Softplus"), ("sigmoid", "Sigmoid")


class ReconNetwork(Network):
    """The handle that ends in a :class:`ReconLayer`: it knows its cost and can pre-train itself."""

    def __init__(self, *args: Any):
        super().__init__(*args)
        _ = self.train_params  # a decoder needs an encoder: say so when it is stacked, not when it is trained

    @property
    def _decoder(self) -> tuple[str, ReconLayer]:
        node = self._nodes[-1]
        return node.inputs[0], self.get_submodule(node.module or "")  # type: ignore[return-value]

    @property
    def train_params(self) -> list[nn.Parameter]:
        """The parameters that pre-training trains, the encoder's ``W`` and ``b``, then the decoder's."""
        code, decoder = self._decoder
        encoder = next(node.module for node in self._nodes if node.name == code)
        if encoder is None or not isinstance(layer := self.get_submodule(encoder), DenseLayer):
            raise ValueError(f"a ReconLayer reconstructs through the DenseLayer it is stacked on, but '{code}' is none")
        return [*layer.parameters(), *decoder.parameters()]

    def cost(self, *inputs: Tensor) -> Tensor:
        """The reconstruction cost of a batch (see :class:`ReconLayer`), one number."""
        code, decoder = self._decoder
        values = self.activations(*inputs)
        target = values[decoder.x_recon or self._inputs[0].name]
        return decoder.cost(values[self._outputs[0]], target.detach(), values[code], self.train_params)

    def pretrain(
        self,
        X_train: Any,
        X_val: Any,
        denoise_name: str | None = None,
        n_epoch: int = 100,
        batch_size: int = 128,
        print_freq: int = 10,
        save: bool = True,
        save_name: str = "w1pre_",
        *,
        checkpoint: str | Path | None = None,
        checkpoint_seconds: float = 60.0,
        resume: bool = False,
        rng: Any = None,
    ) -> None:
        """Train encoder and decoder to reconstruct; every other layer stays as it is, and its noise is off.

        Args:
            X_train, X_val: examples ``(n, ...)`` for the network's input, arrays or tensors; they are moved to the
                network's device once.
            denoise_name: the one layer whose noise is on: the corruption.
            print_freq: losses are measured, printed and saved at epoch 1 and every so many epochs.
            save: write the encoder's weights to ``<save_name><epoch>.npz`` and, if its inputs form a square picture,
                its filters to ``<save_name><epoch>.pdf``.
            checkpoint: a file rewritten every ``checkpoint_seconds`` and at the end; ``resume=True`` continues from it,
                if it exists, as if the run had not been stopped.
            rng: shuffles the batches, as in :func:`torchlayer.iterate.minibatches`.

        Raises:
            ValueError: ``denoise_name`` is no layer of this network, or there are fewer examples than a batch.
        """
        layers = dict(self.named_children())
        if denoise_name is not None and denoise_name not in layers:
            raise ValueError(f"denoise_name='{denoise_name}' is no layer of this network; it has {list(layers)}")
        _, decoder = self._decoder
        params = self.train_params
        X_train, X_val = (torch.as_tensor(X, device=params[0].device) for X in (X_train, X_val))
        rng = np.random.default_rng(rng) if isinstance(rng, int) else rng  # one stream, a new order every epoch
        print(f"     [*] {self._outputs[0]} start pretrain")
        print(f"     batch_size: {batch_size}")
        keep = getattr(layers.get(denoise_name or ""), "keep", None)
        print("     no denoising layer" if denoise_name is None else f"     denoising layer keep: {keep:f}")

        optimizer = torch.optim.Adam(params, lr=decoder.lr)
        step = TrainStep(_Cost(self), optimizer)
        carried = {} if rng is None else {"rng": rng}
        saved = {"resume": resume, "every_seconds": checkpoint_seconds, "generators": carried}
        run = Resumable(checkpoint, model=self, optimizer=optimizer, **saved)
        bar = {"initial": run.epoch, "total": n_epoch, "unit": "epoch", "disable": None}
        with modes_kept(self), run:
            for epoch in tqdm(run.epochs(n_epoch), desc=f"pretrain {self._outputs[0]}", **bar):
                start = time.perf_counter()
                self.eval()
                if denoise_name is not None:
                    layers[denoise_name].train()
                for x in run.steps(minibatches(X_train, batch_size=batch_size, shuffle=True, rng=rng)):
                    step(x)
                if epoch == 1 or epoch % print_freq == 0:
                    self.eval()
                    train_loss, val_loss = self._mean_cost(X_train), self._mean_cost(X_val)
                    tqdm.write(f"Epoch {epoch} of {n_epoch} took {time.perf_counter() - start:f}s")
                    tqdm.write(f"   train loss: {train_loss:f}")
                    tqdm.write(f"   val loss: {val_loss:f}")
                    if save:
                        _save_encoder(params[0], f"{save_name}{epoch}")

    @torch.no_grad()
    def _mean_cost(self, X: Tensor, batch_size: int = 10_000) -> float:
        """Averaged over batches large enough for the mean activation of a unit to mean something."""
        costs = [(self.cost(x), len(x)) for x in X.split(batch_size)]
        return float(sum(cost * n for cost, n in costs) / len(X))


class ReconLayer(DenseLayer):
    """A dense decoder on top of a dense encoder, with the cost that trains the pair.

    For outputs ``y``, targets ``x`` and encoder activations ``a``, the cost is the mean over the batch of
    ``sum((y - x)**2)``, plus ``lambda_l2_w / 2 * (|W_enc|² + |W_dec|²)``, plus

    * for softplus outputs ``lambda_l1_a * mean(a)``: sparse rectifiers;
    * for sigmoid outputs ``beta * sum_j KL(rho || mean activation of unit j)``: units that are rarely on.

    ``net = ReconLayer(...)`` is a :class:`ReconNetwork`, which adds ``cost(x)``, ``train_params`` and
    ``pretrain(...)``.

    Args:
        layer: a network that ends in the :class:`DenseLayer` to pre-train.
        x_recon: what to reconstruct: an earlier handle of the same network; by default its input.
        n_units: the width of what is reconstructed.
        act: ``F.softplus`` or ``torch.sigmoid``.
        lambda_l2_w, lambda_l1_a, rho, beta: weights of the cost, as in the original.
        lr: learning rate of the Adam that pre-trains.

    Reference:
        Vincent et al. 2010, https://jmlr.org/papers/v11/vincent10a.html. The sparse penalties are those of
        TensorLayer; mean activations are kept within [1e-6, 1 - 1e-6], where the original's become infinite.
    """

    handle = ReconNetwork

    def __init__(
        self,
        layer: None = None,
        x_recon: Network | None = None,
        name: str | None = None,
        n_units: int = 784,
        act: Activation = F.softplus,
        W_init: Any = truncated_normal(stddev=0.1),
        b_init: Any = constant(0.0),
        W_init_args: Mapping[str, Any] | None = None,
        b_init_args: Mapping[str, Any] | None = None,
        *,
        lambda_l2_w: float = 0.004,
        lambda_l1_a: float = 0.001,
        rho: float = 0.15,
        beta: float = 4.0,
        lr: float = 1e-4,
    ):
        super().__init__(None, n_units, act, W_init, b_init, W_init_args, b_init_args, name)
        if shown(act) not in _SOFTPLUS + _SIGMOID:
            raise ValueError(f"a ReconLayer's act is F.softplus or torch.sigmoid, got {shown(act)}")
        if x_recon is not None and not isinstance(x_recon, Network):
            raise TypeError(f"x_recon is an earlier handle of the network, got {type(x_recon).__name__}")
        self.x_recon = None if x_recon is None else x_recon._outputs[0]  # a name: a module would join the network
        self.lambda_l2_w, self.lambda_l1_a, self.rho, self.beta, self.lr = lambda_l2_w, lambda_l1_a, rho, beta, lr

    def cost(self, outputs: Tensor, target: Tensor, code: Tensor, params: list[nn.Parameter]) -> Tensor:
        """The cost above, one number. Override it to reconstruct by another measure."""
        mse = (outputs - target).square().sum(1).mean()
        l2_w = self.lambda_l2_w / 2 * sum(p.square().sum() for p in params if p.dim() == 2)
        if shown(self.act) in _SOFTPLUS:
            return mse + l2_w + self.lambda_l1_a * code.mean()
        p = code.mean(0).clamp(1e-6, 1 - 1e-6)
        kl = self.rho * (self.rho / p).log() + (1 - self.rho) * ((1 - self.rho) / (1 - p)).log()
        return mse + l2_w + self.beta * kl.sum()


class _Cost(nn.Module):
    """``net.cost`` as a module, so that a training step sees its layers."""

    def __init__(self, net: ReconNetwork):
        super().__init__()
        self.net = net

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.net.cost(*inputs)


def _save_encoder(W: Tensor, stem: str) -> None:
    from .. import files, visualize

    files.save_npz([W], name=f"{stem}.npz")
    side = round(W.shape[0] ** 0.5)
    if side * side == W.shape[0]:
        visualize.W(W, saveable=True, shape=[side, side], name=stem)
