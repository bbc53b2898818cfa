"""A block of another library as one layer: plain PyTorch's, or Keras's on PyTorch.

Reproduces  tutorial_keras.py of TensorLayer 1.3: a perceptron for handwritten digits (dropout, 800 units, dropout, 800
            units, dropout, 10 units; Adam 1e-4, batch 128, 200 epochs) as one block of Keras inside KerasLayer. Here
            the block is inside TorchLayer: an nn.Sequential, or with --block keras one of Keras, whose models are
            modules of PyTorch's if it runs on PyTorch. The original's first dropout, Dropout(0.8), erases 80 % of the
            pixels, since Keras counts what is dropped and TensorLayer what is kept; the network it means keeps 80 %,
            and so does this one.
Expect      what tutorial_mnist.py --model mlp reaches, see examples/README.md: it is the same network.
Run         python examples/tutorial_keras.py [--data DIR]
            python examples/tutorial_keras.py --block keras     # needs: pip install keras
"""

import argparse
import os
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

import torchlayer as tl


def torch_block() -> nn.Module:
    return nn.Sequential(
        nn.Dropout(0.2),
        nn.Linear(784, 800),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Linear(800, 800),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Linear(800, 10),
    )


class KerasBlock(nn.Module):
    """Keras asks at each call whether it trains, where PyTorch's modules know: this says it."""

    def __init__(self):
        super().__init__()
        os.environ["KERAS_BACKEND"] = "torch"  # before the import, which decides
        try:
            import keras  # type: ignore[import-not-found]
        except ImportError:
            raise SystemExit("--block keras needs Keras, which is not installed: pip install keras") from None
        if keras.backend.backend() != "torch":
            raise SystemExit(f"Keras runs on {keras.backend.backend()} already; only on torch its models are modules")
        layers = keras.layers
        self.model = keras.Sequential(
            [
                layers.Dropout(0.2),
                layers.Dense(800, activation="relu"),
                layers.Dropout(0.5),
                layers.Dense(800, activation="relu"),
                layers.Dropout(0.5),
                layers.Dense(10),
            ]
        )
        self.model.build((None, 784))

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x, training=self.training)


BLOCKS = {"torch": torch_block, "keras": KerasBlock}


def build(block: nn.Module) -> tl.Network:
    net = tl.layers.InputLayer((None, 784), name="input_layer")
    return tl.layers.TorchLayer(net, block, name="keras_layer")


@torch.no_grad()
def evaluate(net: nn.Module, X: Tensor, y: Tensor) -> tuple[float, float]:
    """Loss and accuracy over all examples, noise off."""
    net.eval()
    logits = torch.cat([net(x) for x in X.split(5000)])
    net.train()
    return float(tl.cost.cross_entropy(logits, y)), float(tl.utils.accuracy(logits, y))


def load(args: argparse.Namespace) -> list[Tensor]:
    if args.smoke:  # enlarged to 28 x 28, so that every line below runs
        digits = tl.files.load_digits_dataset(shape=(-1, 8, 8))
        enlarged = [x if x.ndim == 1 else np.pad(x.repeat(3, 1).repeat(3, 2), ((0, 0), (2, 2), (2, 2))) for x in digits]
        data = [x if x.ndim == 1 else x.reshape(-1, 784) for x in enlarged]
    else:
        data = tl.files.load_mnist_dataset(shape=(-1, 784), path=args.data)
    return [torch.as_tensor(x, device=args.device) for x in data]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--block", choices=BLOCKS, default="torch")
    parser.add_argument("--epochs", type=int, default=200)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--lr", type=float, default=1e-4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--data", help="a folder with MNIST's four files (default: $TORCHLAYER_DATA, else a download)")
    parser.add_argument("--out", type=Path, default=Path("out/keras"))
    parser.add_argument("--checkpoint-seconds", type=float, default=60, help="the time between two checkpoints")
    parser.add_argument("--resume", action="store_true", help="continue from the checkpoint in --out")
    parser.add_argument("--smoke", action="store_true", help="two epochs of small, bundled digits: does it run?")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    args.epochs = 2 if args.smoke else args.epochs
    torch.set_float32_matmul_precision("high")  # TF32 where the GPU has it
    tl.utils.set_seed(args.seed)

    X_train, y_train, X_val, y_val, X_test, y_test = load(args)
    net = build(BLOCKS[args.block]()).to(args.device)
    net.print_params(False)
    optimizer = torch.optim.Adam(net.parameters(), lr=args.lr)
    # Keras draws its dropout from generators of its own, which a captured step would not advance
    step = tl.TrainStep(net, optimizer, tl.cost.cross_entropy, capture=False if args.block == "keras" else None)
    history = {"epoch": [], "train_loss": [], "train_acc": [], "val_loss": [], "val_acc": []}
    saved = {"resume": args.resume, "every_seconds": args.checkpoint_seconds, "extra": history}
    run = tl.Resumable(args.out / f"{args.block}.ckpt", model=net, optimizer=optimizer, **saved)

    with run:
        for epoch in tqdm(run.epochs(args.epochs), args.block, initial=run.epoch, total=args.epochs, disable=None):
            started = time.perf_counter()
            net.train()
            for x, y in run.steps(tl.iterate.minibatches(X_train, y_train, args.batch_size, shuffle=True)):
                loss = step(x, y)
            loss.item()  # wait for the last step, so that the clock is honest
            seconds = time.perf_counter() - started
            row = (epoch, *evaluate(net, X_train, y_train), *evaluate(net, X_val, y_val))
            for key, value in zip(history, row):
                history[key].append(value)
            tqdm.write(f"Epoch {epoch} of {args.epochs} took {seconds:f}s")
            tqdm.write("\n".join(f"   {key.replace('_', ' ')}: {history[key][-1]:f}" for key in [*history][1:]))

    test_loss, test_acc = evaluate(net, X_test, y_test)
    print(f"   test loss: {test_loss:f}\n   test acc: {test_acc:f}")
    tl.visualize.curves(history, name=args.out / f"{args.block}_curves.png")
    print(f"result: {args.block} test_loss={test_loss:.4f} test_acc={test_acc:.4f}")


if __name__ == "__main__":
    main()
