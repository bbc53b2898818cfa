"""Image augmentation: pictures turned over, cut, twisted and recoloured, one by one in threads or all at once.

Reproduces  tutorial_image_preprocess.py of TensorLayer 1.3: 100 images of CIFAR-10, each mirrored by chance and cut to
            28 x 28 in a thread, and the first nine drawn. Then the same for all images in one call on the device, and a
            sheet of what else there is.
Expect      (100, 28, 28, 3), and images a second of both ways: see examples/README.md. Seconds on a CPU.
Run         python examples/tutorial_image_preprocess.py [--data DIR] [--picture photo.png]
            docs/image_preprocessing.md explains it.
"""

import argparse
import os
import time
from pathlib import Path

import numpy as np
import torch

import torchlayer as tl

prepro = tl.prepro


# As the original does it: a function of one image, in threads -----------------------


def distort_img(x, rng):
    x = prepro.flip_axis(x, axis=1, is_random=True, rng=rng)
    return prepro.crop(x, wrg=28, hrg=28, is_random=True, rng=rng)


def in_threads(X, seed):
    start = time.perf_counter()
    results = prepro.threading_data(X, distort_img, rng=seed)  # each image has a generator of its own
    seconds = time.perf_counter() - start
    print(f"took {seconds:.3f}s")
    print(results.shape)
    return results, len(X) / seconds


# As a GPU likes it: the same function of all images ---------------------------------


def at_once(X, n_passes, device):
    images = torch.from_numpy(X).to(device)
    rng = torch.Generator(device).manual_seed(0)
    distort_img(images, rng)  # the first call loads kernels
    wait(device)
    start = time.perf_counter()
    for _ in range(n_passes):
        results = distort_img(images, rng)  # each image has a draw of its own
    wait(device)
    seconds = time.perf_counter() - start
    print(f"{n_passes} times {tuple(results.shape)} on {device} took {seconds:.3f}s")
    return n_passes * len(X) / seconds


def wait(device):
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()


def places(n_images=100_000):
    """How often a random crop of 28 out of 32 begins at each row, in percent."""
    ramp = torch.arange(32, dtype=torch.int16).view(1, 32, 1, 1).expand(n_images, 32, 1, 1)
    first = prepro.crop(ramp, wrg=1, hrg=28, is_random=True, rng=0)[:, 0, 0, 0]
    return 100 * first.long().bincount(minlength=5) / n_images


# A sheet of what there is -----------------------------------------------------------


def corners(x, rng, most=0.15):
    """The four corners of an image, and where they go: up to ``most`` of its size aside."""
    height, width = x.shape[1:3]
    src = np.array([[0, 0], [0, height - 1], [width - 1, height - 1], [width - 1, 0]])
    aside = np.random.default_rng(rng.initial_seed()).uniform(-most, most, (len(x), 4, 2))
    return src, src + aside * [width, height]


RANDOM = {
    "flip_axis": lambda x, rng: prepro.flip_axis(x, 1, True, rng=rng),
    "crop": lambda x, rng: prepro.crop(x, x.shape[2] * 3 // 4, x.shape[1] * 3 // 4, True, rng=rng),
    "crop, padded": lambda x, rng: prepro.crop(x, x.shape[2], x.shape[1], True, pad=x.shape[1] // 4, rng=rng),
    "rotation": lambda x, rng: prepro.rotation(x, 40, True, fill_mode="reflect", order=1, rng=rng),
    "shift": lambda x, rng: prepro.shift(x, 0.3, 0.3, True, fill_mode="wrap", rng=rng),
    "shear": lambda x, rng: prepro.shear(x, 0.5, True, fill_mode="constant", cval=1.0, order=1, rng=rng),
    "zoom": lambda x, rng: prepro.zoom(x, (0.5, 1.5), True, order=1, rng=rng),
    "swirl": lambda x, rng: prepro.swirl(x, None, 9, 2 * x.shape[1], mode="edge", is_random=True, rng=rng),
    "elastic_transform": lambda x, rng: prepro.elastic_transform(
        x, 1.2 * x.shape[1], x.shape[1] / 14, is_random=True, fill_mode="mirror", rng=rng
    ),
    "projective": lambda x, rng: prepro.projective_transform_by_points(x, *corners(x, rng), mode="edge"),
    "brightness": lambda x, rng: prepro.brightness(x, 0.8, is_random=True, rng=rng),
    "channel_shift": lambda x, rng: prepro.channel_shift(x, 0.5, True, rng=rng),
    "random_contrast": lambda x, rng: prepro.random_contrast(x, 0.2, 1.8, rng=rng).clamp(0, 1),
    "contrast": lambda x, rng: torch.stack([prepro.contrast(one, gain=2 + 2 * i) for i, one in enumerate(x)]),
    "drop": lambda x, rng: prepro.drop(x, 0.7, rng=rng),
    "distorted_images": lambda x, rng: prepro.distorted_images(
        x, x.shape[1] * 3 // 4, x.shape[2] * 3 // 4, rng=rng
    ).div(5).add(0.5).clamp(0, 1),  # about its mean of 0
}  # fmt: skip


def draw_sheet(image, seed, path, n_columns=8):
    """A row for each function: the image, then what ``n_columns - 1`` draws made of it."""
    from matplotlib.figure import Figure

    batch = torch.tensor(image).float().div(255).expand(n_columns - 1, -1, -1, -1)
    margin = 1.3  # inches, of a sheet whose tiles are an inch wide
    figure = Figure(figsize=(margin + n_columns, len(RANDOM) * image.shape[0] / image.shape[1]))
    edges = {"left": margin / (margin + n_columns), "right": 0.998, "bottom": 0.001, "top": 0.999}
    axes = figure.subplots(len(RANDOM), n_columns, gridspec_kw={**edges, "wspace": 0.04, "hspace": 0.04})
    for row, (name, fn) in zip(axes, RANDOM.items()):
        changed = fn(batch, torch.Generator().manual_seed(seed))
        for place, tile in zip(row, [batch[0], *changed]):
            place.imshow(tile.numpy(), vmin=0, vmax=1, interpolation="nearest")
            place.set(xticks=[], yticks=[])
        row[0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=9)
    figure.savefig(path, dpi=90)


# The data ---------------------------------------------------------------------------


def load(args):
    """Images ``(N, 32, 32, 3)`` uint8."""
    if args.smoke:
        digits = tl.files.load_digits_dataset(shape=(-1, 8, 8, 1))[0]
        return prepro.imresize(digits[:200], (32, 32)).repeat(3, axis=3)
    folder = Path(args.data or Path(os.environ.get("TORCHLAYER_DATA", "."), "cifar10"))
    files = sorted(folder.glob("data_batch_1.bin*"))
    if files:  # 10,000 images are enough
        return np.ascontiguousarray(tl.files.read_cifar10(files[0], 10_000)[0].transpose(0, 2, 3, 1))
    X_train, _, _, _ = tl.files.load_cifar10_dataset(shape=(-1, 32, 32, 3), path=args.data)
    return X_train[:10_000].astype(np.uint8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=10, help="passes over all images, of the call for all at once")
    parser.add_argument("--batch-size", type=int, default=100, help="images that are given to threads")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--data", help="a folder with CIFAR-10's binary files (default: $TORCHLAYER_DATA, or a download)"
    )
    parser.add_argument("--picture", type=Path, help="draw the sheet from this file instead of CIFAR-10's first image")
    parser.add_argument("--out", type=Path, default=Path("out/image_preprocess"))
    parser.add_argument("--smoke", action="store_true", help="small digits in place of CIFAR-10: does it run?")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)

    images = load(args)
    X = images[: args.batch_size]
    results, in_threads_speed = in_threads(X, args.seed)
    tl.visualize.images2d(X[:9], name=args.out / "cifar10.pdf")
    tl.visualize.images2d(results[:9], name=args.out / "cifar10_distort.pdf")

    at_once_speed = at_once(images, args.epochs, args.device)
    print("places of random crops, in percent:", " ".join(f"{p:.1f}" for p in places()))

    picture = images[0]
    if args.picture is not None:
        from PIL import Image

        picture = np.asarray(Image.open(args.picture).convert("RGB"))
    draw_sheet(picture, args.seed, args.out / "sheet.png")
    print(f"result: threads_images_a_second={in_threads_speed:.0f} batch_images_a_second={at_once_speed:.0f}")


if __name__ == "__main__":
    main()
