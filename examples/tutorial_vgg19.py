"""VGG-19: the five likeliest things in a picture, by a network that somebody else has trained.

Reproduces  tutorial_vgg19.py of TensorLayer 1.3: the network of Simonyan and Zisserman 2014, arXiv:1409.1556,
            configuration E, in this library's layers, on the middle of a picture, and the weights that the original
            loads.
Expect      143,667,240 parameters, and the likeliest five of ImageNet's 1,000 classes.
Run         python examples/tutorial_vgg19.py --weights vgg19.npz --data picture.jpg [--classes names.txt]
            python examples/tutorial_vgg19.py --smoke    # random weights, a drawn picture: does it run?
The original's vgg19.npy is a pickle, which runs whatever code it brings. If you trust yours, convert it once:
            python -c "import numpy; d = numpy.load('vgg19.npy', allow_pickle=True, encoding='latin1').item();
            numpy.savez('vgg19.npz', **{f'{k}_{n}': a for k, v in d.items() for n, a in zip('Wb', v)})"
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import torchlayer as tl

BLOCKS = ((64, 2), (128, 2), (256, 4), (512, 4), (512, 4))  # how many filters, how often
MEAN = (103.939, 116.779, 123.68)  # of the blue, green and red of ImageNet, in 0 to 255


def build(size: int = 224, n_classes: int = 1000, narrower: int = 1, W_init=None) -> tl.Network:
    """The network, from pictures ``(N, size, size, 3)`` in 0 to 1 to the classes' logits.

    ``narrower`` divides the number of filters and units, for a look at it without 575 MB.
    """
    W_init = W_init or tl.initializers.he_normal()
    net = tl.layers.InputLayer((None, size, size, 3), name="input")
    net = tl.layers.LambdaLayer(net, to_blue_green_red, name="preprocess")
    for i, (n_filter, n_convolutions) in enumerate(BLOCKS, start=1):
        for j in range(1, n_convolutions + 1):
            n = n_filter // narrower
            net = tl.layers.Conv2d(net, n, (3, 3), act=torch.relu, W_init=W_init, name=f"conv{i}_{j}")
        net = tl.layers.MaxPool2d(net, (2, 2), (2, 2), name=f"pool{i}")
    net = tl.layers.FlattenLayer(net, name="flatten")  # (N, 25088), row by row, as the weights expect it
    for name in ("fc6", "fc7"):
        net = tl.layers.DenseLayer(net, 4096 // narrower, act=torch.relu, W_init=W_init, name=name)
    return tl.layers.DenseLayer(net, n_classes, W_init=W_init, name="fc8")


def to_blue_green_red(x: Tensor) -> Tensor:
    """As the weights were trained: 0 to 255, blue first, the mean subtracted."""
    return 255 * x.flip(3) - torch.tensor(MEAN, dtype=x.dtype, device=x.device)


def load_weights(net: tl.Network, path: Path) -> None:
    """Fill the network from ``vgg19.npz``, whose arrays are called ``conv1_1_W``, ``conv1_1_b``, … ``fc8_b``.

    They lie as TensorFlow's: convolutions ``(h, w, in, out)``, which assign_params turns to torch's order, and matrices
    ``(in, out)``, the first one's rows in the order of (height, width, channel), which is this library's, too.
    """
    arrays = tl.files.load_npz_dict(name=path)
    tl.files.assign_params({".".join(name.rsplit("_", 1)): array for name, array in arrays.items()}, net)


def picture(path: str | None, size: int) -> np.ndarray:
    """``(size, size, 3)`` in 0 to 1: the middle square of a file's picture, or a drawn one."""
    if path is None:
        y, x = np.mgrid[:size, :size] / size
        disc = (x - 0.5) ** 2 + (y - 0.5) ** 2 < 0.1
        return np.stack([x, y, disc], axis=2).astype(np.float32)
    try:
        from PIL import Image
    except ImportError:
        raise SystemExit("pictures are read by Pillow, which is not installed: pip install pillow") from None
    with Image.open(path) as image:  # grey ones and those with transparency become red, green and blue
        left, top = ((length - min(image.size)) // 2 for length in image.size)
        middle = (left, top, left + min(image.size), top + min(image.size))
        return np.asarray(image.convert("RGB").resize((size, size), box=middle), np.float32) / 255


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, help="vgg19.npz, as converted above")
    parser.add_argument("--data", help="a picture (default: a drawn one)")
    parser.add_argument("--classes", type=Path, help="a file with the classes' names, one a line")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, default=Path("out/vgg19"))
    parser.add_argument("--smoke", action="store_true", help="a network 16 times narrower, with random weights")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    tl.utils.set_seed(args.seed)
    if not args.smoke and (args.weights is None or not args.weights.is_file()):
        given = "no --weights were given" if args.weights is None else f"there is no file '{args.weights}'"
        raise SystemExit(
            f"{given}: pass vgg19.npz, made of the original's vgg19.npy by the line that --help shows; --smoke runs a "
            "small network with random weights"
        )
    size = 64 if args.smoke else 224
    if args.smoke:
        net = build(size, narrower=16)
    else:
        net = build(W_init=tl.initializers.zeros)  # drawing 144 million numbers to throw them away takes a while
        assert net.count_params() == 143_667_240
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
    ranked = [(names[i], round(p, 4)) for p, i in zip(best.values.tolist(), best.indices.tolist())]
    print(f"Top1:  {ranked[0]}\nTop5:  {ranked}")
    title = "random weights" if args.smoke else names[int(best.indices[0])]
    tl.visualize.frame(image, name=args.out / f"{title.replace('/', '-')}.png")
    print(f"result: vgg19 top1={int(best.indices[0])} probability={float(best.values[0]):.4f} seconds={seconds:.3f}")


if __name__ == "__main__":
    main()
