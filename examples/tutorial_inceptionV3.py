"""Inception V3: a network of plain PyTorch modules, and whatever else you have, as one layer.

Reproduces  tutorial_inceptionV3_tfslim.py of TensorLayer 1.3, where SlimNetsLayer wraps TF-Slim's network. Here
            TorchLayer wraps an nn.Module: the network of Szegedy et al. 2015, arXiv:1512.00567, written below. Its
            parameters have torchvision's names, so that torchvision's weights fit.
Expect      23,834,568 parameters (without the classifier that helped in training), and the likeliest five of
            ImageNet's 1,000 classes. The original feeds pixels in 0 to 1 to weights that were trained on -1 to 1, so
            its probabilities are too low; here they are scaled as in training.
Run         python examples/tutorial_inceptionV3.py --weights inception_v3_google-0cc3c7bd.pth --data picture.jpg
            python examples/tutorial_inceptionV3.py --smoke    # random weights, a drawn picture: does it run?
The weights are 104 MB at https://download.pytorch.org/models/inception_v3_google-0cc3c7bd.pth; nothing fetches them.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import torchlayer as tl

# The paper's blocks: branches side by side, whose results are concatenated. A branch is a chain of convolutions (name,
# channels, kernel and, if it is 2, stride) and poolings; the last convolutions of a branch may be two side by side.


def block_a(n_pool: int) -> list:
    return [
        [("branch1x1", 64, 1)],
        [("branch5x5_1", 48, 1), ("branch5x5_2", 64, 5)],
        [("branch3x3dbl_1", 64, 1), ("branch3x3dbl_2", 96, 3), ("branch3x3dbl_3", 96, 3)],
        ["mean", ("branch_pool", n_pool, 1)],
    ]


def block_b() -> list:
    return [
        [("branch3x3", 384, 3, 2)],
        [("branch3x3dbl_1", 64, 1), ("branch3x3dbl_2", 96, 3), ("branch3x3dbl_3", 96, 3, 2)],
        ["max"],
    ]


def block_c(n: int) -> list:
    tall, wide = (7, 1), (1, 7)
    names = [f"branch7x7dbl_{i}" for i in range(1, 6)]
    return [
        [("branch1x1", 192, 1)],
        [("branch7x7_1", n, 1), ("branch7x7_2", n, wide), ("branch7x7_3", 192, tall)],
        list(zip(names, (n, n, n, n, 192), (1, tall, wide, tall, wide))),
        ["mean", ("branch_pool", 192, 1)],
    ]


def block_d() -> list:
    names = [f"branch7x7x3_{i}" for i in range(1, 5)]
    return [
        [("branch3x3_1", 192, 1), ("branch3x3_2", 320, 3, 2)],
        list(zip(names, (192,) * 4, (1, (1, 7), (7, 1), 3), (1, 1, 1, 2))),
        ["max"],
    ]


def block_e() -> list:
    def both(name: str) -> list:
        return [(f"{name}a", 384, (1, 3)), (f"{name}b", 384, (3, 1))]

    return [
        [("branch1x1", 320, 1)],
        [("branch3x3_1", 384, 1), both("branch3x3_2")],
        [("branch3x3dbl_1", 448, 1), ("branch3x3dbl_2", 384, 3), both("branch3x3dbl_3")],
        ["mean", ("branch_pool", 192, 1)],
    ]


MIXED = {
    "Mixed_5b": block_a(32), "Mixed_5c": block_a(64), "Mixed_5d": block_a(64), "Mixed_6a": block_b(),
    "Mixed_6b": block_c(128), "Mixed_6c": block_c(160), "Mixed_6d": block_c(160), "Mixed_6e": block_c(192),
    "Mixed_7a": block_d(), "Mixed_7b": block_e(), "Mixed_7c": block_e(),
}  # fmt: skip


class Convolution(nn.Module):
    """A convolution without bias, batch normalisation, a rectifier."""

    def __init__(self, n_in: int, n_out: int, kernel: int | tuple[int, int], stride: int = 1, padded: bool = True):
        super().__init__()
        sides = (kernel, kernel) if isinstance(kernel, int) else kernel
        padding = (sides[0] // 2, sides[1] // 2) if padded and stride == 1 else (0, 0)
        self.conv = nn.Conv2d(n_in, n_out, sides, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(n_out, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)))


class Mixed(nn.Module):
    """Branches side by side, as the tables above list them."""

    def __init__(self, n_in: int, branches: list):
        super().__init__()
        self.branches, self.n_out = branches, 0
        for branch in branches:
            n = n_in
            for step in branch:
                forks = step if isinstance(step, list) else [step] if isinstance(step, tuple) else []
                for name, n_out, *rest in forks:
                    self.add_module(name, Convolution(n, n_out, *rest))
                n = sum(n_out for _, n_out, *_ in forks) or n
            self.n_out += n

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self._along(branch, x) for branch in self.branches], 1)

    def _along(self, branch: list, x: Tensor) -> Tensor:
        for step in branch:
            if step == "mean":
                x = F.avg_pool2d(x, 3, stride=1, padding=1)
            elif step == "max":
                x = F.max_pool2d(x, 3, stride=2)
            elif isinstance(step, list):
                x = torch.cat([self.get_submodule(name)(x) for name, *_ in step], 1)
            else:
                x = self.get_submodule(step[0])(x)
        return x


class InceptionV3(nn.Module):
    """From pictures ``(N, 3, 299, 299)`` in -1 to 1 to logits: torch's order, channels first."""

    def __init__(self, n_classes: int = 1000):
        super().__init__()
        self.Conv2d_1a_3x3 = Convolution(3, 32, 3, 2)
        self.Conv2d_2a_3x3 = Convolution(32, 32, 3, padded=False)
        self.Conv2d_2b_3x3 = Convolution(32, 64, 3)
        self.Conv2d_3b_1x1 = Convolution(64, 80, 1)
        self.Conv2d_4a_3x3 = Convolution(80, 192, 3, padded=False)
        n = 192
        for name, branches in MIXED.items():
            block = Mixed(n, branches)
            self.add_module(name, block)
            n = block.n_out
        self.fc = nn.Linear(n, n_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))  # (N, 64, 147, 147)
        x = F.max_pool2d(x, 3, stride=2)
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(x))  # (N, 192, 71, 71)
        x = F.max_pool2d(x, 3, stride=2)
        for name in MIXED:
            x = self.get_submodule(name)(x)  # (N, 2048, 8, 8) in the end
        return self.fc(x.mean((2, 3)))


def build(module: nn.Module, size: int = 299) -> tl.Network:
    """The module in a network of pictures ``(N, size, size, 3)`` in 0 to 1: ``channels_first`` turns them around."""
    net = tl.layers.InputLayer((None, size, size, 3), name="input_layer")
    net = tl.layers.LambdaLayer(net, lambda x: 2 * x - 1, name="scale")
    return tl.layers.TorchLayer(net, module, channels_first=True, name="InceptionV3")


def load_weights(module: nn.Module, path: Path) -> None:
    """Fill the module from torchvision's file, which unpickles tensors and nothing else."""
    state = torch.load(path, map_location="cpu", weights_only=True)
    module.load_state_dict({name: value for name, value in state.items() if not name.startswith("AuxLogits.")})


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
    with Image.open(path) as image:
        left, top = ((length - min(image.size)) // 2 for length in image.size)
        middle = (left, top, left + min(image.size), top + min(image.size))
        return np.asarray(image.convert("RGB").resize((size, size), box=middle), np.float32) / 255


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, help="inception_v3_google-0cc3c7bd.pth")
    parser.add_argument("--data", help="a picture (default: a drawn one)")
    parser.add_argument("--classes", type=Path, help="a file with the classes' names, one a line")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, default=Path("out/inceptionV3"))
    parser.add_argument("--smoke", action="store_true", help="random weights")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    tl.utils.set_seed(args.seed)
    if not args.smoke and (args.weights is None or not args.weights.is_file()):
        given = "no --weights were given" if args.weights is None else f"there is no file '{args.weights}'"
        raise SystemExit(
            f"{given}: download inception_v3_google-0cc3c7bd.pth (104 MB) from https://download.pytorch.org/models/ "
            "and pass its path; --smoke runs the network with random weights. If you have torchvision (pip install "
            "torchvision), its models go into a TorchLayer just as well"
        )
    module = InceptionV3()
    if not args.smoke:
        load_weights(module, args.weights)
    net = build(module).to(args.device).eval()
    assert sum(p.numel() for p in net.parameters()) == 23_834_568
    net.print_layers()

    image = picture(args.data, 299)
    started = time.perf_counter()
    with torch.no_grad():
        probabilities = net(torch.as_tensor(image[None], device=args.device)).softmax(1)[0].cpu()
    seconds = time.perf_counter() - started
    print(f"End time : {seconds:.5f}s")
    names = args.classes.read_text("utf-8").splitlines() if args.classes else [f"class {i}" for i in range(1000)]
    best = probabilities.topk(5)
    for p, i in zip(best.values.tolist(), best.indices.tolist()):
        print(f"{names[i]} : {p:.4f}")
    title = "random weights" if args.smoke else names[int(best.indices[0])]
    tl.visualize.frame(image, name=args.out / f"{title.replace('/', '-')}.png")
    print(
        f"result: inceptionV3 top1={int(best.indices[0])} probability={float(best.values[0]):.4f} seconds={seconds:.3f}"
    )


if __name__ == "__main__":
    main()
