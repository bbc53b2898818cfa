"""Images augmented a second: ours in batches and one by one, scikit-image on all cores, and the original's threads.

python benchmarks/images.py                        # the CPU table, and the GPU column where there is a GPU
python benchmarks/images.py --only rotation swirl --images 20000 --seconds 5

All get the same 32 x 32 images in colour, uint8, and draw for each image. Who is compared with whom does the same work:
the suite compares the results of ours with scikit-image's and SciPy's.

    batch        tl.prepro, 256 images a call on all cores, or 10,000 a call on the GPU
    one by one   tl.prepro, an image a call, in one thread
    skimage      scikit-image (SciPy or NumPy where it has none), an image a call, in a process for each core.
                 Images and results stay in the processes, which favours it: nothing is sent.
    threads      TensorLayer 1.3's way: a thread for each image, SciPy for each channel, then one array of all.
                 Only what 1.3 can run.
"""

from __future__ import annotations

import argparse
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import PackageNotFoundError, version
from multiprocessing import get_context
from typing import Any, NamedTuple

import numpy as np
import torch

import torchlayer as tl

prepro = tl.prepro
AT_ONCE = {"cpu": 256, "cuda": 10_000}  # images a call of a batch: what fits a cache, what fills a chip


class Case(NamedTuple):
    """One augmentation: ours of an image or a batch, a peer's of an image, and TensorLayer 1.3's of an image."""

    ours: Callable[[Any, Any], Any]
    peer: Callable[[np.ndarray, np.random.Generator], Any]
    original: Callable[[np.ndarray], Any] | None = None


# scikit-image, or SciPy or NumPy where it has no such thing ---------------------------


def peer_rotation(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    from skimage.transform import rotate

    return rotate(x, rng.uniform(-20, 20), order=0, mode="edge", preserve_range=True)


def peer_rotation_between(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    from skimage.transform import rotate

    return rotate(x, rng.uniform(-20, 20), order=1, mode="edge", preserve_range=True)


def peer_zoom(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    from skimage.transform import AffineTransform, warp

    row, column = rng.uniform(0.9, 1.1, 2)
    middle = (len(x) - 1) / 2
    way = AffineTransform(scale=(column, row), translation=(middle * (1 - column), middle * (1 - row)))
    return warp(x, way, order=0, mode="edge", preserve_range=True)


def peer_swirl(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    from skimage.transform import swirl

    center: Any = tuple(rng.uniform(0, 32, 2))
    strength, radius = (float(rng.uniform(low, high)) for low, high in ((0, 4), (1e-10, 30)))
    return swirl(x, center, strength, radius, preserve_range=True)  # type: ignore[arg-type]


def peer_elastic(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    from scipy.ndimage import gaussian_filter, map_coordinates

    noise = rng.random((2, *x.shape[:2])) * 2 - 1
    where = [place + 34 * gaussian_filter(n, 4, mode="constant") for place, n in zip(np.mgrid[:32, :32], noise)]
    return np.stack([map_coordinates(x[..., c].astype(np.float32), where, order=1) for c in range(3)], -1)


def peer_brightness(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    from skimage.exposure import adjust_gamma

    return adjust_gamma(x, rng.uniform(0.3, 1.7))  # type: ignore[arg-type]


def peer_crop_and_flip(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    top, left = rng.integers(5, size=2)
    x = x[top : top + 28, left : left + 28]
    return (x[:, ::-1] if rng.random() < 0.5 else x).copy()


def peer_distorted(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    top, left = rng.integers(9, size=2)
    y = x[top : top + 24, left : left + 24].astype(np.float32)
    y = (y[:, ::-1] if rng.random() < 0.5 else y) + np.float32(rng.uniform(-63, 63))
    mean = y.mean((0, 1))
    y = (y - mean) * np.float32(rng.uniform(0.2, 1.8)) + mean
    return (y - y.mean()) / max(y.std(), y.size**-0.5)


# TensorLayer 1.3, after its documentation: nearest pixels by SciPy, channel after channel --


def through_scipy(x: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    from scipy.ndimage import affine_transform

    half = len(x) / 2 + 0.5
    there, back = np.eye(3), np.eye(3)
    there[:2, 2], back[:2, 2] = half, -half
    matrix = there @ matrix @ back
    offset: Any = matrix[:2, 2]
    channels = [affine_transform(c, matrix[:2, :2], offset, order=0, mode="nearest") for c in np.rollaxis(x, 2)]
    return np.rollaxis(np.stack(channels, 0), 0, 3)


def original_rotation(x: np.ndarray) -> np.ndarray:
    angle = np.pi / 180 * np.random.uniform(-20, 20)
    cos, sin = np.cos(angle), np.sin(angle)
    return through_scipy(x, np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]]))


def original_zoom(x: np.ndarray) -> np.ndarray:
    return through_scipy(x, np.diag([*np.random.uniform(0.9, 1.1, 2), 1]))


def original_crop_and_flip(x: np.ndarray) -> np.ndarray:
    top, left = (int(np.random.uniform(0, 4)) for _ in range(2))
    x = x[top : top + 28, left : left + 28]
    return x[:, ::-1] if np.random.uniform(-1, 1) > 0 else x


def original_threads(images: np.ndarray, fn: Callable[[np.ndarray], Any]) -> np.ndarray:
    results: list[Any] = [None] * len(images)

    def work(i: int) -> None:
        results[i] = fn(images[i])

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(images))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return np.asarray(results)


def ours_crop_and_flip(x: Any, rng: Any) -> Any:
    return prepro.flip_axis(prepro.crop(x, 28, 28, True, rng=rng), 1, True, rng=rng)


def ours_elastic(x: Any, rng: Any) -> Any:
    return prepro.elastic_transform(x, 34, 4, is_random=True, rng=rng)


CASES = {
    "crop and flip": Case(ours_crop_and_flip, peer_crop_and_flip, original_crop_and_flip),
    "rotation": Case(lambda x, rng: prepro.rotation(x, 20, True, rng=rng), peer_rotation, original_rotation),
    "rotation, bilinear": Case(lambda x, rng: prepro.rotation(x, 20, True, order=1, rng=rng), peer_rotation_between),
    "zoom": Case(lambda x, rng: prepro.zoom(x, is_random=True, rng=rng), peer_zoom, original_zoom),
    "swirl": Case(lambda x, rng: prepro.swirl(x, strength=4, radius=30, is_random=True, rng=rng), peer_swirl),
    "elastic_transform": Case(ours_elastic, peer_elastic),
    "brightness": Case(lambda x, rng: prepro.brightness(x, 0.7, is_random=True, rng=rng), peer_brightness),
    "distorted_images": Case(lambda x, rng: prepro.distorted_images(x, rng=rng), peer_distorted),
}


# Timing --------------------------------------------------------------------------------


def rate(call: Callable[[], int], seconds: float, device: str = "cpu") -> float:
    """Images a second: the best of the calls that fit in, each of which says how many images it did."""
    call()
    best, end = 0.0, time.perf_counter() + seconds
    while True:
        wait(device)
        start = time.perf_counter()
        n = call()
        wait(device)
        now = time.perf_counter()
        best = max(best, n / (now - start))
        if now > end:
            return best


def wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def batches(case: Case, images: np.ndarray, device: str) -> Callable[[], int]:
    parts = torch.from_numpy(images).to(device).split(AT_ONCE[device])
    rng = torch.Generator(device).manual_seed(0)

    def call() -> int:
        for part in parts:
            case.ours(part, rng)
        return len(images)

    return call


def one_by_one(case: Case, images: np.ndarray, n: int = 500) -> Callable[[], int]:
    rng = np.random.default_rng(0)

    def call() -> int:
        n_threads = torch.get_num_threads()
        torch.set_num_threads(1)
        for image in images[:n]:
            case.ours(image, rng)
        torch.set_num_threads(n_threads)
        return n

    return call


def in_threads(case: Case, images: np.ndarray, n: int = 500) -> Callable[[], int]:
    fn = case.original
    if fn is None:
        raise ValueError("TensorLayer 1.3 has none")

    def call() -> int:
        return len(original_threads(images[:n], fn))

    return call


_HELD: np.ndarray | None = None  # a process's images


def hold(images: np.ndarray) -> None:
    global _HELD
    _HELD = images
    torch.set_num_threads(1)


def in_process(name: str, seed: int, n: int) -> int:
    images, rng = _HELD, np.random.default_rng(seed)
    if images is None:
        raise RuntimeError("the process has no images")
    for image in images[:n]:
        CASES[name].peer(image, rng)
    return n


def in_processes(pool: ProcessPoolExecutor, n_processes: int, name: str, n: int = 500) -> Callable[[], int]:
    return lambda: sum(pool.map(in_process, [name] * n_processes, range(n_processes), [n] * n_processes))


def main() -> None:
    """Prints a table, a row for each augmentation as it is measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=10_000, help="of the batches")
    parser.add_argument("--seconds", type=float, default=2.0, help="for each figure")
    parser.add_argument("--only", nargs="+", choices=CASES, default=list(CASES))
    args = parser.parse_args()
    images = np.random.default_rng(0).integers(0, 256, (args.images, 32, 32, 3)).astype(np.uint8)
    n_processes = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    try:
        peer = f"scikit-image {version('scikit-image')}"
    except PackageNotFoundError:
        peer = ""
        print("scikit-image is not installed: pip install scikit-image")
    names = [torch.cuda.get_device_name() if device == "cuda" else f"{n_processes} cores" for device in devices]
    print(f"torchlayer {tl.__version__}, torch {torch.__version__}, {peer}, {', '.join(names)}; images a second\n")
    columns = [*(f"batch, {name}" for name in names), "one by one", f"skimage, {n_processes} processes", "threads"]
    print(f"| | {' | '.join(columns)} | {' | '.join(f'{name} / skimage' for name in names)} |")
    print("|---" * (1 + len(columns) + len(names)) + "|")
    # spawned, since a fork of a process with torch's threads may hang
    with ProcessPoolExecutor(n_processes, get_context("spawn"), hold, (images[:500],)) as pool:
        for name in args.only:
            case = CASES[name]
            ours = [rate(batches(case, images, device), args.seconds, device) for device in devices]
            single = rate(one_by_one(case, images), args.seconds)
            theirs = rate(in_processes(pool, n_processes, name), args.seconds) if peer else float("nan")
            threads = rate(in_threads(case, images), args.seconds) if peer and case.original else None
            cells = [*(f"{speed:,.0f}" for speed in ours), f"{single:,.0f}", f"{theirs:,.0f}"]
            cells.append("" if threads is None else f"{threads:,.0f}")
            print(f"| {name} | {' | '.join(cells)} | {' | '.join(f'{s / theirs:.1f}' for s in ours)} |", flush=True)


if __name__ == "__main__":
    main()
