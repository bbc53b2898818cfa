"""Images augmented a second: ours in batches and one by one, scikit-image, and the original's threads.

python benchmarks/images.py                        # the CPU table, and the GPU table where there is a GPU
python benchmarks/images.py --only rotation swirl --seconds 5

All get the same 32 x 32 images in colour, uint8, and draw for each image. Who is compared with whom does the same work:
the suite compares the results of ours with scikit-image's and SciPy's.

    batch        tl.prepro, 256 images a call on a CPU, 10,000 a call on a GPU
    one by one   tl.prepro, an image a call
    skimage      scikit-image (SciPy or NumPy where it has no such function), an image a call
    threads      TensorLayer 1.3's way: a thread for each image, SciPy for each channel, then one array of all.
                 Only what 1.3 can run.

The CPU table has images a second of CPU time, on one core: neighbours cost that less than wall time, and everything
here scales with cores, since images are independent. Contenders take turns; the figure is the best turn. The GPU table
has wall time, and beside it scikit-image in a process for each core, whose images and results stay there: nothing is
sent, which favours it.
"""

from __future__ import annotations

import argparse
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import cache, partial
from importlib.metadata import PackageNotFoundError, version
from multiprocessing import get_context
from typing import Any, NamedTuple

import numpy as np
import torch

import torchlayer as tl

prepro = tl.prepro


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


def original_threads(images: np.ndarray, fn: Callable[[np.ndarray], Any]) -> int:
    results: list[Any] = [None] * len(images)

    def work(i: int) -> None:
        results[i] = fn(images[i])

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(images))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return len(np.asarray(results))


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


def rates(calls: dict[str, Callable[[], int]], seconds: float, clock: Callable[[], float]) -> dict[str, float]:
    """Images a second by the clock, of the best turn. A call says how many images it did."""
    for call in calls.values():
        call()
    best = dict.fromkeys(calls, 0.0)
    end = time.perf_counter() + seconds * len(calls)
    while True:
        for name, call in calls.items():
            start = clock()
            n = call()
            best[name] = max(best[name], n / (clock() - start))
        if time.perf_counter() > end:
            return best


def device_clock() -> float:
    """Wall time, once the GPU has done its work."""
    torch.cuda.synchronize()
    return time.perf_counter()


def batch(case: Case, images: np.ndarray, device: str) -> Callable[[], int]:
    whole = torch.from_numpy(images).to(device)
    rng = torch.Generator(device).manual_seed(0)

    def call() -> int:
        case.ours(whole, rng)
        return len(images)

    return call


def one_by_one(fn: Callable[[np.ndarray, Any], Any], images: np.ndarray) -> Callable[[], int]:
    rng = np.random.default_rng(0)

    def call() -> int:
        for image in images:
            fn(image, rng)
        return len(images)

    return call


@cache
def draw_images(n: int) -> np.ndarray:
    """The first ``n``, the same in every process."""
    return np.random.default_rng(0).integers(0, 256, (n, 32, 32, 3)).astype(np.uint8)


def in_process(name: str, n: int) -> int:  # which draws the images itself: a pipe for them would be slow
    return one_by_one(CASES[name].peer, draw_images(n))()


def cpu_table(names: list[str], images: np.ndarray, seconds: float, has_peer: bool) -> None:
    torch.set_num_threads(1)
    print("| images a second of one core | batch | one by one | skimage | threads | batch / skimage |")
    print("|---" * 6 + "|", flush=True)
    for name in names:
        case, few = CASES[name], images[:100]
        calls = {
            "batch": batch(case, images[:256], "cpu"),
            "one by one": one_by_one(case.ours, few),
        }
        if has_peer:
            calls["skimage"] = one_by_one(case.peer, few)
        if has_peer and case.original is not None:
            calls["threads"] = partial(original_threads, few, case.original)
        best = rates(calls, seconds, time.process_time)
        cells = [f"{best[key]:,.0f}" if key in best else "" for key in ("batch", "one by one", "skimage", "threads")]
        ratio = f"{best['batch'] / best['skimage']:.1f}" if has_peer else ""
        print(f"| {name} | {' | '.join(cells)} | {ratio} |", flush=True)


def gpu_table(names: list[str], images: np.ndarray, seconds: float, has_peer: bool) -> None:
    n_processes = len(os.sched_getaffinity(0))
    print(f"\n| images a second | batch, {torch.cuda.get_device_name()} | skimage, {n_processes} processes | ratio |")
    print("|---" * 4 + "|", flush=True)
    # spawned, since a fork of a process with torch's threads may hang
    with ProcessPoolExecutor(n_processes, get_context("spawn")) as pool:
        for name in names:
            ours = rates({"": batch(CASES[name], images, "cuda")}, seconds, device_clock)[""]
            cells = ["", ""]
            if has_peer:
                work = [[name] * n_processes, [1000] * n_processes]
                theirs = rates({"": lambda work=work: sum(pool.map(in_process, *work))}, seconds, time.perf_counter)[""]
                cells = [f"{theirs:,.0f}", f"{ours / theirs:.0f}"]
            print(f"| {name} | {ours:,.0f} | {' | '.join(cells)} |", flush=True)


def main() -> None:
    """Prints a table, a row for each augmentation as it is measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=2.0, help="for each figure")
    parser.add_argument("--only", nargs="+", choices=CASES, default=list(CASES))
    on_hand = ["cpu", *["cuda"] * torch.cuda.is_available()]
    parser.add_argument("--devices", nargs="+", choices=on_hand, default=on_hand, help="of which to print the table")
    args = parser.parse_args()
    images = draw_images(10_000)
    try:
        peer = f"scikit-image {version('scikit-image')}"
    except PackageNotFoundError:
        peer = ""
        print("scikit-image is not installed: pip install scikit-image")
    print(f"torchlayer {tl.__version__}, torch {torch.__version__}, numpy {np.__version__}, {peer}\n")
    if "cpu" in args.devices:
        cpu_table(args.only, images, args.seconds, bool(peer))
    if "cuda" in args.devices:
        gpu_table(args.only, images, args.seconds, bool(peer))


if __name__ == "__main__":
    main()
