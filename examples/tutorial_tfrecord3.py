"""Pictures and their captions as sequence examples: written, read, distorted and padded for a network that describes.

Reproduces  tutorial_tfrecord3.py of TensorLayer 1.3: pictures with captions in COCO's layout, a vocabulary, records
            whose context is the picture (299 x 299) and whose sequences are the caption's words and their ids; then
            batches for training: enlarged to 346, a random part of 299, mirrored, other colours, scaled to -1 to 1,
            captions shifted by a word and padded. The original takes ids from the caption as it is written, where
            capitals and marks make a word unknown; here from the words that the vocabulary was made of.
Expect      one record a caption, and batches whose padding is printed.
Run         python examples/tutorial_tfrecord3.py --data DIR --captions cat_caption.json
            python examples/tutorial_tfrecord3.py --smoke     # drawn pictures, captions made here
"""

import argparse
import json
import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

import torchlayer as tl


class Captioned(NamedTuple):
    picture: Path
    caption: str


class Batch(NamedTuple):
    """What a captioning network trains on."""

    images: Tensor  # (N, size, size, 3) uint8
    inputs: Tensor  # (N, T) ids: each caption without its last word
    targets: Tensor  # (N, T) ids: each without its first
    mask: Tensor  # (N, T): 1 where a word stands, 0 where it was padded


def pillow():
    try:
        from PIL import Image
    except ImportError:
        raise SystemExit("pictures are read by Pillow, which is not installed: pip install pillow") from None
    return Image


def draw_pictures(folder: Path, seed: int) -> list[Captioned]:
    """Bars of light on a coloured ground, and what they are."""
    rng = np.random.default_rng(seed)
    grounds = {"red": (200, 30, 30), "green": (30, 160, 60), "blue": (40, 60, 200)}
    found = []
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(12):
        colour = list(grounds)[i % 3]
        pixels = np.full((80, 100, 3), grounds[colour], np.uint8)
        upright, at = bool(rng.integers(2)), int(rng.integers(20, 60))
        pixels[(slice(None), slice(at, at + 8)) if upright else (slice(at, at + 8),)] = 255
        pillow().fromarray(pixels).save(folder / f"{i}.png")
        bar = "An upright bar" if upright else "A bar that lies"
        found.append(Captioned(folder / f"{i}.png", f"{bar} on {colour}."))
    return found


def read_captions(file: Path, folder: Path) -> list[Captioned]:
    """COCO's layout: ``images`` with id and file_name, ``annotations`` with image_id and caption."""
    content = json.loads(file.read_text("utf-8"))
    names = {image["id"]: image["file_name"] for image in content["images"]}
    return [Captioned(folder / names[a["image_id"]], a["caption"]) for a in content["annotations"]]


def write_records(path: Path, found: list[Captioned], vocabulary: tl.nlp.Vocabulary, size: int) -> None:
    with tl.files.TFRecordWriter(path) as writer:
        for picture, caption in tqdm(found, f"writing {path}", disable=None):
            with pillow().open(picture) as image:
                pixels = np.asarray(image.convert("RGB").resize((size, size)))
            words = tl.nlp.process_sentence(caption)
            ids = [vocabulary.word_to_id(word) for word in words]
            context = {"image/img_raw": pixels.tobytes()}
            lists = {"image/caption": words, "image/caption_ids": ids}
            writer.write(tl.files.encode_sequence_example(context, lists))


class Captions(torch.utils.data.Dataset):
    """A TFRecord file for a DataLoader: picture and ids of any record by its number."""

    def __init__(self, path: Path, size: int):
        self.records, self.size = tl.files.TFRecordFile(path), size

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> tuple[np.ndarray, list[int]]:
        context, lists = tl.files.decode_sequence_example(self.records[index])
        pixels = np.frombuffer(context["image/img_raw"][0], np.uint8).reshape(self.size, self.size, 3)
        return pixels, [int(step[0]) for step in lists["image/caption_ids"]]


def padded(examples: list[tuple[np.ndarray, list[int]]]) -> Batch:
    """Captions of different lengths in one batch: zeros behind the shorter ones, and a mask that says where.

    >>> batch = padded([(np.zeros((1, 1, 3), np.uint8), ids) for ids in ([1, 2, 5, 4, 5], [1, 2, 3, 4], [1, 2, 3])])
    >>> batch.inputs.tolist(), batch.targets.tolist(), batch.mask.tolist()
    ([[1, 2, 5, 4], [1, 2, 3, 0], [1, 2, 0, 0]], [[2, 5, 4, 5], [2, 3, 4, 0], [2, 3, 0, 0]],
     [[1, 1, 1, 1], [1, 1, 1, 0], [1, 1, 0, 0]])
    """
    captions = [ids for _, ids in examples]
    inputs = tl.prepro.pad_sequences([ids[:-1] for ids in captions], dtype="int64")
    targets = tl.prepro.pad_sequences([ids[1:] for ids in captions], dtype="int64")
    mask = np.arange(inputs.shape[1]) < np.array([[len(ids) - 1] for ids in captions])
    images = torch.from_numpy(np.stack([pixels for pixels, _ in examples]))
    return Batch(images, torch.from_numpy(inputs), torch.from_numpy(targets), torch.from_numpy(mask.astype(np.int64)))


def distorted(images: Tensor, size: int) -> Tensor:
    """A batch as it is trained on, made on the images' device: a random part of the enlarged pictures, half of them
    mirrored, with other colours, in -1 to 1."""
    larger = size * 346 // 299
    x = torch.nn.functional.interpolate(images.permute(0, 3, 1, 2) / 255, (larger, larger), mode="bilinear")
    x = tl.prepro.crop(x.permute(0, 2, 3, 1), size, size, is_random=True)
    x = tl.prepro.flip_axis(x, 1, is_random=True)
    x = tl.prepro.random_brightness(x, 32 / 255)
    x = tl.prepro.random_contrast(recoloured(x), 0.5, 1.5)
    return 2 * x.clamp(0, 1) - 1


def recoloured(x: Tensor) -> Tensor:
    """Hue turned by up to 0.032 of a circle and saturation times 0.5 to 1.5, an image each.

    TensorFlow does it in HSV. Here the plane of colours is turned and stretched about its axis of greys, in YIQ, which
    is one product with a matrix.
    """
    luma = torch.tensor([0.299, 0.587, 0.114], dtype=x.dtype, device=x.device)
    to_yiq = torch.stack([luma, luma.new_tensor([0.596, -0.274, -0.322]), luma.new_tensor([0.211, -0.523, 0.312])])
    n = len(x)
    angle = 2 * math.pi * 0.032 * (2 * torch.rand(n, device=x.device) - 1)
    stretch = 0.5 + torch.rand(n, device=x.device)
    turn = torch.zeros(n, 3, 3, device=x.device)
    turn[:, 0, 0] = 1  # the luminance stays
    turn[:, 1, 1] = turn[:, 2, 2] = stretch * angle.cos()
    turn[:, 2, 1] = stretch * angle.sin()
    turn[:, 1, 2] = -turn[:, 2, 1]
    matrix = torch.linalg.inv(to_yiq) @ turn @ to_yiq  # (N, 3, 3)
    return torch.einsum("nij,nhwj->nhwi", matrix, x)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="a folder of pictures (default: drawn ones)")
    parser.add_argument("--captions", type=Path, help="their captions, JSON in COCO's layout")
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--workers", type=int, default=0, help="processes that read and decode")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, default=Path("out/tfrecord3"))
    parser.add_argument("--smoke", action="store_true", help="small drawn pictures: does it run?")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    size = 48 if args.smoke else 299
    if (args.data is None) != (args.captions is None):
        raise SystemExit("--data and --captions belong together: a folder of pictures, and a file that describes them")
    if args.data is None or args.smoke:
        found = draw_pictures(args.out / "pictures", args.seed)
    else:
        found = read_captions(args.captions, args.data)

    sentences = [tl.nlp.process_sentence(caption) for _, caption in found]
    tl.nlp.create_vocab(sentences, args.out / "vocab.txt")
    vocabulary = tl.nlp.Vocabulary(args.out / "vocab.txt")
    path = args.out / "train.tfrecords"
    write_records(path, found, vocabulary, size)

    tl.utils.set_seed(args.seed)
    batches = DataLoader(
        Captions(path, size), args.batch_size, shuffle=True, collate_fn=padded, num_workers=args.workers
    )
    n_words = 0
    for i, batch in enumerate(batches):
        n_words += int(batch.mask.sum())
        if i < 3:
            images = distorted(batch.images.to(args.device), size)
            tl.visualize.images2d(images, n_columns=args.batch_size, name=args.out / f"batch{i}.png")
            print(f"inputs:\n{batch.inputs.numpy()}\ntargets:\n{batch.targets.numpy()}\nmask:\n{batch.mask.numpy()}")
            print(" ".join(vocabulary.id_to_word(int(k)) for k in batch.targets[0][batch.mask[0] > 0]))
    print(f"result: tfrecord3 records={len(found)} words={n_words} bytes={path.stat().st_size}")


if __name__ == "__main__":
    main()
