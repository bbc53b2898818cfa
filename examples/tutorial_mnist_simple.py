"""Handwritten digits in forty lines: the first listing of the tutorial page.

Reproduces  tutorial_mnist_simple.py of TensorLayer 1.3: a 784-800-800-10 perceptron with dropout, trained by `fit`.
Expect      about 0.987 test accuracy after the original's 500 epochs; about 15 s on one H200.
Run         python examples/tutorial_mnist_simple.py [--data DIR]
"""

import argparse
from pathlib import Path

import numpy as np
import torch

import torchlayer as tl


def build() -> tl.Network:
    network = tl.layers.InputLayer((None, 784), name="input_layer")
    network = tl.layers.DropoutLayer(network, keep=0.8, name="drop1")
    network = tl.layers.DenseLayer(network, n_units=800, act=torch.relu, name="relu1")
    network = tl.layers.DropoutLayer(network, keep=0.5, name="drop2")
    network = tl.layers.DenseLayer(network, n_units=800, act=torch.relu, name="relu2")
    network = tl.layers.DropoutLayer(network, keep=0.5, name="drop3")
    # the softmax lives in tl.cost.cross_entropy, which is faster and exact, so the last layer is the identity
    return tl.layers.DenseLayer(network, n_units=10, name="output_layer")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=500)
    parser.add_argument("--batch-size", type=int, default=500)
    parser.add_argument("--lr", type=float, default=1e-4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--data", help="a folder with MNIST's four files (default: $TORCHLAYER_DATA, else a download)")
    parser.add_argument("--out", type=Path, default=Path("out/mnist_simple"))
    parser.add_argument("--checkpoint-seconds", type=float, default=60, help="the time between two checkpoints")
    parser.add_argument("--resume", action="store_true", help="continue from the checkpoint in --out")
    parser.add_argument("--smoke", action="store_true", help="two epochs of small, bundled digits: does it run?")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    tl.utils.set_seed(args.seed)
    torch.set_float32_matmul_precision("high")

    # prepare data
    if args.smoke:
        args.epochs, args.batch_size = 2, 20
        digits = tl.files.load_digits_dataset(shape=(-1, 8, 8))
        data = [x if x.ndim == 1 else np.pad(x.repeat(3, 1).repeat(3, 2), ((0, 0), (2, 2), (2, 2))) for x in digits]
        X_train, y_train, X_val, y_val, X_test, y_test = (x if x.ndim == 1 else x.reshape(-1, 784) for x in data)
    else:
        X_train, y_train, X_val, y_val, X_test, y_test = tl.files.load_mnist_dataset(shape=(-1, 784), path=args.data)

    # define the network
    network = build().to(args.device)
    network.print_params()
    network.print_layers()

    # define the optimizer, then train the network with the cost function and the metric
    optimizer = torch.optim.Adam(network.parameters(), lr=args.lr)
    history = tl.utils.fit(
        network, optimizer, tl.cost.cross_entropy, X_train, y_train,
        acc=tl.utils.accuracy, batch_size=args.batch_size, n_epoch=args.epochs, print_freq=5,
        X_val=X_val, y_val=y_val, eval_train=False,
        checkpoint=args.out / "run.ckpt", checkpoint_seconds=args.checkpoint_seconds, resume=args.resume,
    )  # fmt: skip

    # evaluation
    loss, acc = tl.utils.test(network, tl.utils.accuracy, X_test, y_test, cost=tl.cost.cross_entropy)

    # save the network and what it learned
    tl.files.save_npz(network.all_params, name=args.out / "model.npz")
    tl.visualize.curves(history, name=args.out / "learning_curve.png")
    print(f"result: test_loss={loss:.4f} test_acc={acc:.4f}")


if __name__ == "__main__":
    main()
