"""Numbers in words, English and French: a translation whose truth is a rule, so every answer can be checked.

English as in America: no "and", a hyphen between tens and units. French in the traditional spelling, before the
rectifications of 1990: hyphens join the parts of what is below a hundred, except around "et"; "cent" and
"quatre-vingt" take an s where they are multiplied and end the number, which "mille" does not let them do, since it is a
numeral itself; "mille" never changes. So: quatre-vingts, quatre-vingt mille, deux cents, deux cent un, deux cent mille.
"""

from __future__ import annotations

import operator

import numpy as np

Pairs = list[tuple[str, str]]

_ENGLISH = [
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
]  # fmt: skip
_ENGLISH_TENS = ["", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
_FRENCH = [
    "zéro", "un", "deux", "trois", "quatre", "cinq", "six", "sept", "huit", "neuf", "dix", "onze", "douze", "treize",
    "quatorze", "quinze", "seize", "dix-sept", "dix-huit", "dix-neuf",
]  # fmt: skip
_FRENCH_TENS = [
    "", "", "vingt", "trente", "quarante", "cinquante", "soixante", "soixante", "quatre-vingt", "quatre-vingt",
]  # fmt: skip


def number_in_english(n: int) -> str:
    """A number from 0 to 999,999 in English words.

    Raises:
        ValueError: it is none of these.

    >>> number_in_english(71_080)
    'seventy-one thousand eighty'
    """
    thousands, rest = divmod(_checked("number_in_english", n), 1000)
    if not thousands:
        return _english(rest)
    return f"{_english(thousands)} thousand" + (f" {_english(rest)}" if rest else "")


def number_in_french(n: int) -> str:
    """A number from 0 to 999,999 in French words.

    Raises:
        ValueError: it is none of these.

    Reference:
        Grevisse and Goosse, Le bon usage, 14th edition 2008, §§ 599-601 (les numéraux cardinaux).

    >>> number_in_french(71_080)
    'soixante et onze mille quatre-vingts'
    """
    thousands, rest = divmod(_checked("number_in_french", n), 1000)
    if not thousands:
        return _french(rest, ends=True)
    words = "mille" if thousands == 1 else f"{_french(thousands, ends=False)} mille"
    return f"{words} {_french(rest, ends=True)}" if rest else words


def load_number_words_dataset(
    n_train: int = 30_000, n_valid: int = 1_000, n_test: int = 5_000, seed: int = 0
) -> tuple[Pairs, Pairs, Pairs]:
    """Numbers in English and in French words, in three parts that share no number.

    Drawn evenly, nine of ten numbers would have six digits, and one in a thousand would be round. So numbers are told
    apart by how many digits their thousands have, from none to three, and how many the rest has. A part takes as many
    of one of these fifteen forms as of another, as far as there are: the test a tenth of each at most, then validation
    likewise, and training of what is left. Zero, whose word is in no other number, is always in the training part.

    Args:
        n_train, n_valid, n_test: how many numbers the parts have.
        seed: of the split and of the order. No global generator is used.

    Shape:
        ``train, valid, test``: lists of ``(english, french)``.

    Raises:
        ValueError: there are not so many numbers.

    >>> train, valid, test = load_number_words_dataset(100, 10, 10)
    >>> len(train), len(valid), len(test)
    (100, 10, 10)
    >>> test[0]
    ('three thousand nine hundred sixty-seven', 'trois mille neuf cent soixante-sept')
    """
    rng = np.random.RandomState(seed)  # its stream never changes between NumPy versions
    parts_of_three = [np.array([0]), *(np.arange(10**d, 10 ** (d + 1)) for d in range(3))]
    left = [
        rng.permutation((1000 * thousands[:, None] + rest).ravel())
        for thousands in parts_of_three
        for rest in parts_of_three
    ][1:]  # the first is zero alone
    parts: dict[str, np.ndarray] = {}
    for name, n, share in (("n_test", n_test, 10), ("n_valid", n_valid, 10), ("n_train", n_train - 1, 1)):
        counts = _even([len(numbers) // share for numbers in left], n)
        if n < 0 or sum(counts) < n:
            most = sum(len(numbers) // share for numbers in left) + (name == "n_train")
            raise ValueError(
                f"load_number_words_dataset: {name} is at least {int(name == 'n_train')} and, with what the other "
                f"parts take, at most {most}, got {n + (name == 'n_train')}"
            )
        parts[name] = np.concatenate([numbers[:k] for numbers, k in zip(left, counts)])
        left = [numbers[k:] for numbers, k in zip(left, counts)]
    parts["n_train"] = np.append(parts["n_train"], 0)
    train, valid, test = (
        [(number_in_english(n), number_in_french(n)) for n in rng.permutation(parts[name]).tolist()]
        for name in ("n_train", "n_valid", "n_test")
    )
    return train, valid, test


def split_number_words(text: str | bytes) -> list[str]:
    """A tokenizer for :mod:`torchlayer.nlp`: words at spaces and before hyphens, so that what is put together with
    ``" ".join(words).replace(" -", "-")`` is the text again.

    >>> split_number_words("quatre-vingt-dix mille deux")
    ['quatre', '-vingt', '-dix', 'mille', 'deux']
    """
    return (text.decode() if isinstance(text, bytes) else text).replace("-", " -").split()


def _english(n: int) -> str:
    hundreds, rest = divmod(n, 100)
    words = [f"{_ENGLISH[hundreds]} hundred"] if hundreds else []
    if rest >= 20:
        tens, units = divmod(rest, 10)
        words.append(_ENGLISH_TENS[tens] + (f"-{_ENGLISH[units]}" if units else ""))
    elif rest or not hundreds:
        words.append(_ENGLISH[rest])
    return " ".join(words)


def _french(n: int, ends: bool) -> str:
    """Below a thousand; ``ends`` says that no "mille" follows."""
    hundreds, rest = divmod(n, 100)
    words = []
    if hundreds:
        words.append("cent" if hundreds == 1 else f"{_FRENCH[hundreds]} cent" + ("s" if ends and not rest else ""))
    if rest or not hundreds:
        words.append(_french_below_hundred(rest, ends))
    return " ".join(words)


def _french_below_hundred(n: int, ends: bool) -> str:
    if n < 20:
        return _FRENCH[n]
    tens, units = divmod(n, 10)
    if tens in (7, 9):  # sixty and eighty count on to nineteen
        units += 10
    stem = _FRENCH_TENS[tens]
    if not units:
        return stem + ("s" if tens == 8 and ends else "")
    return f"{stem} et {_FRENCH[units]}" if units in (1, 11) and tens < 8 else f"{stem}-{_FRENCH[units]}"


def _even(limits: list[int], n: int) -> list[int]:
    """``n`` spread over places as evenly as their limits allow; less than ``n`` if these add up to less.

    >>> _even([1, 5, 50], 20)
    [1, 5, 14]
    """
    counts = [0] * len(limits)
    for done, i in enumerate(sorted(range(len(limits)), key=limits.__getitem__)):
        counts[i] = min(limits[i], (n - sum(counts)) // (len(limits) - done))
    return counts


def _checked(owner: str, n: int) -> int:
    n = operator.index(n)
    if not 0 <= n < 1_000_000:
        raise ValueError(f"{owner} takes a number from 0 to 999,999, got {n}")
    return n
