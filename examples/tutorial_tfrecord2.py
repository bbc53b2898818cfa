"""CIFAR-10 into TFRecord files and back, and how fast that goes.

Reproduces  tutorial_tfrecord2.py of TensorLayer 1.3: an image is written as float32, 12,288 bytes, beside its label, to
            train.cifar10, and batches of four are read, shuffled.
Expect      the file, three pictures of four images, and the records a second of each way of reading.
Run         python examples/tutorial_tfrecord2.py [--data DIR]
            python examples/tutorial_tfrecord2.py --smoke     # scikit-learn's digits in place of CIFAR-10
"""

import argparse
import os
import time
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

import torchlayer as tl


def load(args: argparse.Namespace) -> tuple[np.ndarray, np.ndarray]:
    """Training images ``(N, 32, 32, 3)`` float32 in 0 to 255, and labels."""
    if args.smoke:
        X, y, *_ = tl.files.load_digits_dataset(shape=(-1, 8, 8, 1))
        return 255 * X[:200].repeat(4, 1).repeat(4, 2).repeat(3, 3), y[:200]
    folder = Path(args.data or Path(os.environ.get("TORCHLAYER_DATA", "."), "cifar10"))
    files = sorted(folder.glob("data_batch_[1-5].bin*"))
    if len(files) == 5:  # the test images are not needed
        parts = [tl.files.read_cifar10(file, 10_000) for file in files]
        X = np.concatenate([x for x, _ in parts]).transpose(0, 2, 3, 1).astype(np.float32)
        return X, np.concatenate([y for _, y in parts])
    X, y, _, _ = tl.files.load_cifar10_dataset(path=args.data)
    return X, y


def image_of(record: bytes) -> tuple[np.ndarray, int]:
    features = tl.files.decode_example(record)
    return np.frombuffer(features["img_raw"][0], np.float32).reshape(32, 32, 3), int(features["label"][0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data", help="a folder with CIFAR-10's binary files (default: $TORCHLAYER_DATA, or a download)"
    )
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, default=Path("out/tfrecord2"))
    parser.add_argument("--smoke", action="store_true", help="200 small digits: does it run?")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    images, labels = load(args)
    path, n = args.out / "train.cifar10", len(images)

    started = time.perf_counter()
    with tl.files.TFRecordWriter(path) as writer:
        for image, label in zip(tqdm(images, f"writing {path}", disable=None), labels):
            writer.write(tl.files.encode_example({"label": label, "img_raw": image.tobytes()}))
    speed = {"written": n / (time.perf_counter() - started)}

    started = time.perf_counter()
    for i, record in enumerate(tl.files.read_tfrecord(path)):
        image, label = image_of(record)
        if label != labels[i] or not np.array_equal(image, images[i]):
            raise AssertionError(f"record {i} is not what was written")
    speed["in_order"] = n / (time.perf_counter() - started)

    started = time.perf_counter()
    records = tl.files.TFRecordFile(path)
    print(f"{len(records):,} records were found in {time.perf_counter() - started:.2f}s")
    order = np.random.default_rng(args.seed).permutation(n)
    started, shown = time.perf_counter(), []
    for first in range(0, n - args.batch_size + 1, args.batch_size):
        batch = [image_of(records[i]) for i in order[first : first + args.batch_size]]
        x = torch.from_numpy(np.stack([image for image, _ in batch])).to(args.device)  # (4, 32, 32, 3)
        if len(shown) < 3:
            shown.append(x)
    speed["shuffled"] = n / (time.perf_counter() - started)
    for i, x in enumerate(shown):
        tl.visualize.images2d(x, dtype=np.uint8, n_columns=args.batch_size, name=args.out / f"batch{i}.png")
    print(f"result: tfrecord2 records={n} " + " ".join(f"{key}_a_second={value:.0f}" for key, value in speed.items()))


if __name__ == "__main__":
    main()
