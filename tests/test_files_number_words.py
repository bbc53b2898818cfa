"""Number words against the grammar's own examples, a reader written for the test, and num2words where it is there."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from torchlayer.files import (
    load_number_words_dataset,
    number_in_english,
    number_in_french,
    split_number_words,
)

# Traditional spelling, as in the tables of French grammars.
FRENCH = {
    0: "zéro",
    1: "un",
    10: "dix",
    16: "seize",
    17: "dix-sept",
    20: "vingt",
    21: "vingt et un",
    22: "vingt-deux",
    31: "trente et un",
    60: "soixante",
    61: "soixante et un",
    69: "soixante-neuf",
    70: "soixante-dix",
    71: "soixante et onze",
    72: "soixante-douze",
    77: "soixante-dix-sept",
    80: "quatre-vingts",
    81: "quatre-vingt-un",
    89: "quatre-vingt-neuf",
    90: "quatre-vingt-dix",
    91: "quatre-vingt-onze",
    99: "quatre-vingt-dix-neuf",
    100: "cent",
    101: "cent un",
    180: "cent quatre-vingts",
    181: "cent quatre-vingt-un",
    200: "deux cents",
    201: "deux cent un",
    280: "deux cent quatre-vingts",
    999: "neuf cent quatre-vingt-dix-neuf",
    1_000: "mille",
    1_001: "mille un",
    1_100: "mille cent",
    1_200: "mille deux cents",
    1_980: "mille neuf cent quatre-vingts",
    2_000: "deux mille",
    21_000: "vingt et un mille",
    71_000: "soixante et onze mille",
    80_000: "quatre-vingt mille",
    80_080: "quatre-vingt mille quatre-vingts",
    81_000: "quatre-vingt-un mille",
    100_000: "cent mille",
    101_000: "cent un mille",
    180_000: "cent quatre-vingt mille",
    200_000: "deux cent mille",
    200_200: "deux cent mille deux cents",
    300_001: "trois cent mille un",
    380_380: "trois cent quatre-vingt mille trois cent quatre-vingts",
    999_999: "neuf cent quatre-vingt-dix-neuf mille neuf cent quatre-vingt-dix-neuf",
}
ENGLISH = {
    0: "zero",
    13: "thirteen",
    40: "forty",
    85: "eighty-five",
    100: "one hundred",
    111: "one hundred eleven",
    1_000: "one thousand",
    1_001: "one thousand one",
    10_010: "ten thousand ten",
    340_000: "three hundred forty thousand",
    999_999: "nine hundred ninety-nine thousand nine hundred ninety-nine",
}
SOME = [*range(1100), *range(1000, 1_000_000, 1000), *range(80, 1_000_000, 4391), *range(200, 1_000_000, 5200)]


@pytest.mark.parametrize("n", FRENCH)
def test_french_is_the_grammars(n):
    assert number_in_french(n) == FRENCH[n]


@pytest.mark.parametrize("n", ENGLISH)
def test_english_is_the_grammars(n):
    assert number_in_english(n) == ENGLISH[n]


WORDS = {
    0: "zéro zero", 1: "un one", 2: "deux two", 3: "trois three", 4: "quatre four", 5: "cinq five", 6: "six",
    7: "sept seven", 8: "huit eight", 9: "neuf nine", 10: "dix ten", 11: "onze eleven", 12: "douze twelve",
    13: "treize thirteen", 14: "quatorze fourteen", 15: "quinze fifteen", 16: "seize sixteen", 17: "seventeen",
    18: "eighteen", 19: "nineteen", 20: "vingt twenty", 30: "trente thirty", 40: "quarante forty",
    50: "cinquante fifty", 60: "soixante sixty", 70: "seventy", 80: "eighty", 90: "ninety",
}  # fmt: skip
UNITS = {word: n for n, words in WORDS.items() for word in words.split()}


def value(text: str) -> int:
    """Adds, and multiplies where a smaller number stands before vingt, cent and mille."""
    total = group = tens = 0  # of the thousands; of the hundreds; what is not a multiple of a hundred yet
    for word in re.split("[ -]", text):
        word = word.removesuffix("s") if word in ("cents", "vingts") else word
        if word in ("cent", "hundred"):
            group, tens = 100 * max(tens, 1), 0
        elif word in ("mille", "thousand"):
            total, group, tens = 1000 * max(group + tens, 1), 0, 0
        elif word == "vingt" and tens == 4:
            tens = 80
        elif word != "et":
            tens += UNITS[word]
    return total + group + tens


def test_words_say_the_number():
    for n in SOME:
        assert value(number_in_french(n)) == n
        assert value(number_in_english(n)) == n


def test_plurals_and_hyphens_are_where_they_belong():
    for n in SOME:
        text = number_in_french(n)
        assert "s mille" not in text.replace("trois mille", "")
        assert not re.search("(cents|vingts)[ -]", text)
        assert not re.search("un mille", text) or re.search("(et|cent|vingt)[ -]un mille", text)
        assert "-et" not in text
        assert ("vingts" in text) == (n % 100 == 80)
        assert text.endswith("cents") == (n % 1000 in range(200, 1000, 100))


def test_num2words_agrees():
    num2words = pytest.importorskip("num2words", reason="pip install num2words").num2words
    for n in SOME[::4]:
        assert number_in_french(n) == num2words(n, lang="fr")
        assert number_in_english(n) == num2words(n, lang="en").replace(" and ", " ").replace(",", "")


@pytest.mark.parametrize("function", [number_in_english, number_in_french])
@pytest.mark.parametrize("n", [-1, 1_000_000])
def test_numbers_out_of_range_are_refused(function, n):
    with pytest.raises(ValueError, match=rf"{function.__name__} takes a number from 0 to 999,999, got {n}"):
        function(n)


def test_numbers_are_integers():
    with pytest.raises(TypeError):
        number_in_french(1.5)


def test_split_words_can_be_joined_again():
    for n in FRENCH:
        words = split_number_words(number_in_french(n).encode())
        assert " ".join(words).replace(" -", "-") == FRENCH[n]


def test_parts_share_no_number_and_hold_every_word():
    parts = load_number_words_dataset(4000, 300, 500)
    assert [len(part) for part in parts] == [4000, 300, 500]
    english = [{e for e, _ in part} for part in parts]
    assert sum(map(len, english)) == len(set.union(*english)) == 4800
    french = [{word for _, f in part for word in split_number_words(f)} for part in parts]
    assert french[1] | french[2] <= french[0]
    assert ("zero", "zéro") in parts[0]
    numbers = [value(f) for _, f in parts[2]]
    assert [number_in_english(n) for n in numbers] == [e for e, _ in parts[2]]
    forms = Counter((n_digits(n // 1000), n_digits(n % 1000)) for n in numbers)
    few = {(0, 2): 9, (0, 3): 47, (1, 1): 8, (1, 2): 47, (1, 3): 47, (2, 0): 9, (2, 1): 47, (2, 2): 47, (3, 0): 47}
    many = {(2, 3): 48, (3, 1): 48, (3, 2): 48, (3, 3): 48}
    assert forms == few | many  # no more than a tenth of those that there are


def n_digits(n: int) -> int:
    return len(str(n)) if n else 0


def test_the_split_is_the_seeds_alone():
    assert load_number_words_dataset(50, 5, 5, seed=1) == load_number_words_dataset(50, 5, 5, seed=1)
    assert load_number_words_dataset(50, 5, 5, seed=1) != load_number_words_dataset(50, 5, 5, seed=2)


@pytest.mark.parametrize(
    ("sizes", "error"),
    [
        ((0, 1, 1), "n_train is at least 1 and, with what the other parts take, at most 999998, got 0"),
        ((1_000_000, 1, 1), "n_train is at least 1 and, with what the other parts take, at most 999998, got 1000000"),
        ((10, -1, 1), "n_valid is at least 0 and, with what the other parts take, at most 99997, got -1"),
        ((10, 1, 100_000), "n_test is at least 0 and, with what the other parts take, at most 99998, got 100000"),
    ],
)
def test_more_numbers_than_there_are_are_refused(sizes, error):
    with pytest.raises(ValueError, match=f"load_number_words_dataset: {error}"):
        load_number_words_dataset(*sizes)
