"""Folders of pictures into one TFRecord file, and back: one by one, and shuffled in batches.

Reproduces  tutorial_tfrecord.py of TensorLayer 1.3: each sub-folder of --data is a class, its pictures are resized to
            224 x 224 and written as Examples of label and img_raw. Grey pictures and those with transparency, at which
            the original's reader fails, become red, green and blue. TensorFlow shuffles what is in a queue of 1,000,
            and waits until it is full; TFRecordFile knows where every record is, so all of them are shuffled.
Expect      the file, byte for byte what TensorFlow would write, and three pictures of four examples each.
Run         python examples/tutorial_tfrecord.py --data DIR    # with DIR/cat/*.jpg and DIR/dog/*.jpg, say
            python examples/tutorial_tfrecord.py --smoke       # pictures of discs and squares, drawn here
"""

import argparse
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

import torchlayer as tl

SUFFIXES = (".jpg", ".jpeg", ".png", ".gif", ".bmp", ".webp")


def pillow():
    try:
        from PIL import Image
    except ImportError:
        raise SystemExit("pictures are read by Pillow, which is not installed: pip install pillow") from None
    return Image


def draw_pictures(folder: Path, seed: int) -> None:
    """Discs and squares, some grey and some with transparency, of different sizes."""
    rng = np.random.default_rng(seed)
    for i in range(16):
        height, width = rng.integers(60, 200, 2)
        y, x = np.mgrid[:height, :width]
        y, x = np.abs(y - height / 2), np.abs(x - width / 2)
        shape = ("disc", "square")[i % 2]
        inside = x * x + y * y < 25**2 if shape == "disc" else np.maximum(x, y) < 25
        colour, background = rng.integers(256, size=(2, 4))
        pixels = np.where(inside[..., None], colour, background).astype(np.uint8)
        channels = (3, 4, 1)[i % 3]
        (folder / shape).mkdir(parents=True, exist_ok=True)
        kept = pixels[..., 0] if channels == 1 else pixels[..., :channels]
        pillow().fromarray(kept).save(folder / shape / f"{i}.png")


def write_records(path: Path, folder: Path, size: int) -> list[str]:
    """One record a picture; returns the classes' names in the order of their labels."""
    classes = sorted(p.name for p in folder.iterdir() if p.is_dir())
    found = [(label, p) for label, name in enumerate(classes) for p in sorted((folder / name).iterdir())]
    found = [(label, p) for label, p in found if p.suffix.lower() in SUFFIXES]
    if not found:
        raise SystemExit(f"'{folder}' has no sub-folders with pictures ({', '.join(SUFFIXES)}) in them")
    with tl.files.TFRecordWriter(path) as writer:
        for label, file in tqdm(found, f"writing {path}", disable=None):
            with pillow().open(file) as image:
                pixels = np.asarray(image.convert("RGB").resize((size, size)))  # (size, size, 3) uint8
            writer.write(tl.files.encode_example({"img_raw": pixels.tobytes(), "label": label}))
    return classes


def decoded(record: bytes, size: int) -> tuple[Tensor, int]:
    """``(size, size, 3)`` uint8, and the label."""
    features = tl.files.decode_example(record)
    pixels = np.frombuffer(features["img_raw"][0], np.uint8)
    if pixels.size != size * size * 3:
        raise tl.files.FileFormatError(
            getattr(record, "path", "record"), f"a picture of {pixels.size} bytes, not {size}"
        )
    return torch.from_numpy(pixels.reshape(size, size, 3).copy()), int(features["label"][0])


class Pictures(torch.utils.data.Dataset):
    """A TFRecord file for a DataLoader: any record by its number."""

    def __init__(self, path: Path, size: int):
        self.records, self.size = tl.files.TFRecordFile(path), size

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return decoded(self.records[index], self.size)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="a folder whose sub-folders are classes (default: drawn pictures)")
    parser.add_argument("--size", type=int, default=224, help="pictures are squashed to this many rows and columns")
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--workers", type=int, default=0, help="processes that read and decode")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, default=Path("out/tfrecord"))
    parser.add_argument("--smoke", action="store_true", help="small drawn pictures: does it run?")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    size = 32 if args.smoke else args.size
    folder = args.data
    if folder is None or args.smoke:
        folder = args.out / "pictures"
        draw_pictures(folder, args.seed)

    path = args.out / "train.tfrecords"
    classes = write_records(path, folder, size)

    # One by one, from the first to the last
    labels = [decoded(record, size)[1] for record in tl.files.read_tfrecord(path)]
    for name, n in zip(classes, np.bincount(labels)):
        print(f"{n} pictures of {name}")

    # Shuffled, in batches
    order = torch.Generator().manual_seed(args.seed)
    batches: Iterable = DataLoader(
        Pictures(path, size), args.batch_size, shuffle=True, generator=order, num_workers=args.workers
    )
    for i, (images, y) in zip(range(3), batches):
        images = images.to(args.device)  # (N, size, size, 3)
        print(f"batch {i}: {tuple(images.shape)} {[classes[k] for k in y.tolist()]}")
        tl.visualize.images2d(images, n_columns=args.batch_size, name=args.out / f"batch{i}.png")
    print(f"result: tfrecord records={len(labels)} classes={len(classes)} bytes={path.stat().st_size}")


if __name__ == "__main__":
    main()
