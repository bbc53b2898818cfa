"""VGG-16: what is in a picture, by a network that somebody else has trained.

Reproduces  tutorial_vgg16.py of TensorLayer 1.3: the network of Simonyan and Zisserman 2014, arXiv:1409.1556,
            configuration D, in this library's layers, and the weights that the original loads.
Expect      138,357,544 parameters, and of ImageNet's 1,000 classes the right one among the first five for 92.7 % of
            its pictures (the original's comment, after the paper). The five likeliest classes of your picture.
Run         python examples/tutorial_vgg16.py --weights vgg16_weights.npz --data picture.jpg [--classes names.txt]
            python examples/tutorial_vgg16.py --smoke    # random weights, a drawn picture: does it run?
The weights are 553 MB at https://www.cs.toronto.edu/~frossard/vgg16/vgg16_weights.npz; nothing fetches them for you.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import torchlayer as tl

BLOCKS = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))  # how many filters, how often
MEAN = (123.68, 116.779, 103.939)  # of the red, green and blue of ImageNet


def build(size: int = 224, n_classes: int = 1000, narrower: int = 1, W_init=None) -> tl.Network:
    """The network, from pictures ``(N, size, size, 3)`` in 0 to 255 to the classes' logits.

    ``narrower`` divides the number of filters and units, for a look at it without 553 MB.
    """
    W_init = W_init or tl.initializers.he_normal()
    net = tl.layers.InputLayer((None, size, size, 3), name="input")
    net = tl.layers.LambdaLayer(net, subtract_mean, name="preprocess")
    for i, (n_filter, n_convolutions) in enumerate(BLOCKS, start=1):
        for j in range(1, n_convolutions + 1):
            n = n_filter // narrower
            net = tl.layers.Conv2d(net, n, (3, 3), act=torch.relu, W_init=W_init, name=f"conv{i}_{j}")
        net = tl.layers.MaxPool2d(net, (2, 2), (2, 2), name=f"pool{i}")
    net = tl.layers.FlattenLayer(net, name="flatten")  # (N, 25088), row by row, as the weights expect it
    for name in ("fc6", "fc7"):
        net = tl.layers.DenseLayer(net, 4096 // narrower, act=torch.relu, W_init=W_init, name=name)
    return tl.layers.DenseLayer(net, n_classes, W_init=W_init, name="fc8")


def subtract_mean(x: Tensor) -> Tensor:
    return x - torch.tensor(MEAN, dtype=x.dtype, device=x.device)


def load_weights(net: tl.Network, path: Path) -> None:
    """Fill the network from ``vgg16_weights.npz``, whose arrays are called ``conv1_1_W``, ``conv1_1_b``, … ``fc8_b``.

    They lie as TensorFlow's: convolutions ``(h, w, in, out)``, which assign_params turns to torch's order, and matrices
    ``(in, out)``, the first one's rows in the order of (height, width, channel), which is this library's, too.
    """
    arrays = tl.files.load_npz_dict(name=path)
    tl.files.assign_params({".".join(name.rsplit("_", 1)): array for name, array in arrays.items()}, net)


def picture(path: str | None, size: int) -> np.ndarray:
    """``(size, size, 3)`` in 0 to 255: a file's picture squashed to a square, as in the original, or a drawn one."""
    if path is None:
        y, x = np.mgrid[:size, :size] / size
        disc = (x - 0.5) ** 2 + (y - 0.5) ** 2 < 0.1
        return np.float32(255) * np.stack([x, y, disc], axis=2).astype(np.float32)
    try:
        from PIL import Image
    except ImportError:
        raise SystemExit("pictures are read by Pillow, which is not installed: pip install pillow") from None
    with Image.open(path) as image:  # grey ones and those with transparency become red, green and blue
        return np.asarray(image.convert("RGB").resize((size, size)), np.float32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, help="vgg16_weights.npz")
    parser.add_argument("--data", help="a picture (default: a drawn one)")
    parser.add_argument("--classes", type=Path, help="a file with the classes' names, one a line")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, default=Path("out/vgg16"))
    parser.add_argument("--smoke", action="store_true", help="a network 16 times narrower, with random weights")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    tl.utils.set_seed(args.seed)
    if not args.smoke and (args.weights is None or not args.weights.is_file()):
        given = "no --weights were given" if args.weights is None else f"there is no file '{args.weights}'"
        raise SystemExit(
            f"{given}: download vgg16_weights.npz (553 MB) from https://www.cs.toronto.edu/~frossard/vgg16/ and pass "
            "its path; --smoke runs a small network with random weights"
        )
    size = 64 if args.smoke else 224
    if args.smoke:
        net = build(size, narrower=16)
    else:
        net = build(W_init=tl.initializers.zeros)  # drawing 138 million numbers to throw them away takes a while
        assert net.count_params() == 138_357_544
        load_weights(net, args.weights)
    net = net.to(args.device).eval()
    net.print_params(False)
    net.print_layers()

    image = picture(args.data, size)
    started = time.perf_counter()
    with torch.no_grad():
        probabilities = net(torch.as_tensor(image[None], device=args.device)).softmax(1)[0].cpu()
    seconds = time.perf_counter() - started
    print(f"  End time : {seconds:.5f}s")
    names = args.classes.read_text("utf-8").splitlines() if args.classes else [f"class {i}" for i in range(1000)]
    best = probabilities.topk(5)
    for p, i in zip(best.values.tolist(), best.indices.tolist()):
        print(f"class {names[i]} probability {p:.4f}")
    title = "random weights" if args.smoke else names[int(best.indices[0])]
    tl.visualize.frame(image.astype(np.uint8), name=args.out / f"{title.replace('/', '-')}.png")
    print(f"result: vgg16 top1={int(best.indices[0])} probability={float(best.values[0]):.4f} seconds={seconds:.3f}")


if __name__ == "__main__":
    main()
