"""Two networks before one classifier, and a switch between them.

Reproduces  the example of TensorLayer 1.3's MultiplexerLayer: two pairs of hidden layers side by side, of which the
            multiplexer passes one on to a common output layer. Each batch trains both, one after the other, so either
            may be chosen afterwards, and the output layer reads what both have in common.
Expect      a test accuracy for either position of the switch; ours are in examples/README.md.
Run         python examples/tutorial_mnist_multiplexer.py [--data DIR]
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

import torchlayer as tl


def build(n_units: int = 800) -> tl.Network:
    x = tl.layers.InputLayer((None, 784), name="input_layer")
    x = tl.layers.DropoutLayer(x, keep=0.8, name="drop1")
    branches = []
    for name in ("net0", "net1"):
        net = tl.layers.DenseLayer(x, n_units, act=torch.relu, name=f"{name}_relu1")
        net = tl.layers.DropoutLayer(net, keep=0.5, name=f"{name}_drop")
        branches.append(tl.layers.DenseLayer(net, n_units, act=torch.relu, name=f"{name}_relu2"))
    net = tl.layers.MultiplexerLayer(branches, name="mux")
    net = tl.layers.DropoutLayer(net, keep=0.5, name="drop2")
    return tl.layers.DenseLayer(net, 10, name="output_layer")


class Route(torch.nn.Module):
    """The network with its switch in one position, whatever position others have used in between."""

    def __init__(self, net: tl.Network, sel: int):
        super().__init__()
        self.net, self.sel = net, sel

    def forward(self, x: Tensor) -> Tensor:
        self.net.mux.sel = self.sel
        return self.net(x)


@torch.no_grad()
def evaluate(route: Route, X: Tensor, y: Tensor) -> tuple[float, float]:
    """Loss and accuracy over all examples, noise off."""
    route.eval()
    logits = torch.cat([route(x) for x in X.split(5000)])
    route.train()
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
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--lr", type=float, default=1e-4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--data", help="a folder with MNIST's four files (default: $TORCHLAYER_DATA, else a download)")
    parser.add_argument("--out", type=Path, default=Path("out/multiplexer"))
    parser.add_argument("--checkpoint-seconds", type=float, default=60, help="the time between two checkpoints")
    parser.add_argument("--resume", action="store_true", help="continue from the checkpoint in --out")
    parser.add_argument("--smoke", action="store_true", help="two epochs of small, bundled digits: does it run?")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    args.epochs = 2 if args.smoke else args.epochs
    torch.set_float32_matmul_precision("high")  # TF32 where the GPU has it
    tl.utils.set_seed(args.seed)

    X_train, y_train, X_val, y_val, X_test, y_test = load(args)
    net = build(100 if args.smoke else 800).to(args.device)
    net.print_params(False)
    net.print_layers()
    routes = [Route(net, sel) for sel in (0, 1)]
    optimizer = torch.optim.Adam(net.parameters(), lr=args.lr)
    # A captured step keeps the switch where it was, so each position has a step of its own. A branch that did not run
    # has no gradient, and Adam passes its weights over.
    steps = [tl.TrainStep(route, optimizer, tl.cost.cross_entropy) for route in routes]
    history = {key: [] for key in ("epoch", "val_acc_0", "val_acc_1")}
    saved = {"resume": args.resume, "every_seconds": args.checkpoint_seconds, "extra": history}
    run = tl.Resumable(args.out / "multiplexer.ckpt", model=net, optimizer=optimizer, **saved)

    with run:
        for epoch in tqdm(run.epochs(args.epochs), initial=run.epoch, total=args.epochs, unit="epoch", disable=None):
            started = time.perf_counter()
            net.train()
            for x, y in run.steps(tl.iterate.minibatches(X_train, y_train, args.batch_size, shuffle=True)):
                losses = [step(x, y) for step in steps]
            losses[-1].item()  # wait for the last step, so that the clock is honest
            seconds = time.perf_counter() - started
            accuracies = [evaluate(route, X_val, y_val)[1] for route in routes]
            for key, value in zip(history, (epoch, *accuracies)):
                history[key].append(value)
            tqdm.write(f"Epoch {epoch} of {args.epochs} took {seconds:f}s")
            tqdm.write("\n".join(f"   val acc with sel={i}: {acc:f}" for i, acc in enumerate(accuracies)))

    test = [evaluate(route, X_test, y_test)[1] for route in routes]
    tl.files.save_npz(net, name=args.out / "multiplexer.npz")
    print("result: multiplexer " + " ".join(f"test_acc_{i}={acc:.4f}" for i, acc in enumerate(test)))


if __name__ == "__main__":
    main()
