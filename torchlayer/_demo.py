"""``python -m torchlayer demo``: the tutorial's network on real handwritten digits, in less than a minute."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch

from . import cost, files, initializers, layers, utils, visualize
from .network import Network


def build() -> Network:
    """The multi-layer perceptron of the MNIST tutorial, for images of 8 x 8 pixels."""
    glorot = initializers.glorot_normal()
    small = initializers.truncated_normal(stddev=0.01)  # so that the picture shows what was learned, not what was drawn
    net = layers.InputLayer((None, 64), name="input_layer")
    net = layers.DropoutLayer(net, keep=0.8, name="drop1")
    net = layers.DenseLayer(net, n_units=800, act=torch.relu, W_init=small, name="relu1")
    net = layers.DropoutLayer(net, keep=0.5, name="drop2")
    net = layers.DenseLayer(net, n_units=800, act=torch.relu, W_init=glorot, name="relu2")
    net = layers.DropoutLayer(net, keep=0.5, name="drop3")
    return layers.DenseLayer(net, n_units=10, W_init=glorot, name="output_layer")


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m torchlayer demo",
        description="Train the tutorial's network on scikit-learn's 1,797 handwritten digits and draw what it learned.",
    )
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, default=Path("out/demo"), help="where the pictures and weights go")
    args = parser.parse_args(argv)

    if args.device == "cpu":
        torch.set_num_threads(
            1
        )  # matrices this small gain little from two, and lose much when another program wants one
    utils.set_seed(args.seed)
    X_train, y_train, X_val, y_val, X_test, y_test = files.load_digits_dataset()
    print(
        f"handwritten digits of 8 x 8 pixels: {len(X_train)} to train on, {len(X_val)} to choose, {len(X_test)} to test"
    )
    net = build().to(args.device)
    net.print_layers()
    net.print_params()
    history = utils.fit(
        net,
        torch.optim.Adam(net.parameters(), lr=args.lr),
        cost.cross_entropy,
        X_train,
        y_train,
        acc=utils.accuracy,
        batch_size=args.batch_size,
        n_epoch=args.epochs,
        X_val=X_val,
        y_val=y_val,
        restore_best=True,
    )
    _, test_acc = utils.test(net, utils.accuracy, X_test, y_test, cost=cost.cross_entropy)
    net.cpu()
    args.out.mkdir(parents=True, exist_ok=True)
    visualize.curves(history, name=args.out / "learning_curve.png")
    strongest = net.relu1.W.norm(dim=0).argsort(descending=True)[:100]
    visualize.W(net.relu1.W[:, strongest], shape=[8, 8], name=args.out / "first_layer_filters.png")
    files.save_npz(net, name=args.out / "model.npz")
    print(f"pictures and weights are in {args.out}: " + ", ".join(sorted(p.name for p in args.out.iterdir())))
    print(f"result: test_acc={test_acc:.4f}")
