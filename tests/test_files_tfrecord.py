"""TFRecord files and the protobuf messages in them, against bytes derived from their specifications."""

from __future__ import annotations

import pickle
import struct
import sys
import threading
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from torchlayer import files
from torchlayer.files import FileFormatError
from torchlayer.files import crc32c as checksums
from torchlayer.files.crc32c import crc32c, crc32c_plain, masked_crc32c

# --- the checksum ---


def bitwise(data):
    """CRC-32C by its definition: divide by the polynomial, a bit at a time."""
    state = 0xFFFFFFFF
    for byte in data:
        state ^= byte
        for _ in range(8):
            state = state >> 1 ^ (0x82F63B78 if state & 1 else 0)
    return state ^ 0xFFFFFFFF


PUBLISHED = [  # RFC 3720, appendix B.4, and the check value of the catalogue of CRCs
    (b"123456789", 0xE3069283),
    (bytes(32), 0x8A9136AA),
    (b"\xff" * 32, 0x62A8AB43),
    (bytes(range(32)), 0x46DD794E),
    (bytes(range(31, -1, -1)), 0x113FDB5C),
]


@pytest.mark.parametrize(("data", "expected"), PUBLISHED)
def test_checksum_of_published_vectors(data, expected):
    assert crc32c(data) == crc32c_plain(data) == expected


def test_checksum_equals_its_definition_for_every_length_around_a_block():
    data = np.random.RandomState(0).bytes(2100)
    for n in (*range(70), 255, 1000, 1020, 1023, 1024, 1025, 1028, 2047, 2048, 2049, 2100):
        assert crc32c_plain(data[:n]) == bitwise(data[:n]), n


def test_checksum_of_many_blocks_and_of_a_view():
    data = np.random.RandomState(1).bytes(300_000)
    crc = crc32c_plain(memoryview(data))
    assert crc == crc32c_plain(bytearray(data))
    assert crc32c_plain(data[1:]) != crc
    google = pytest.importorskip("google_crc32c", reason="pip install google-crc32c", exc_type=ImportError)
    assert crc == google.value(data)


def test_installed_package_is_used_for_what_is_long(monkeypatch):
    calls = []
    fake = SimpleNamespace(implementation="c", value=lambda data: calls.append(data) or 7)
    checksums._google_crc32c.cache_clear()
    monkeypatch.setitem(sys.modules, "google_crc32c", fake)
    assert crc32c(memoryview(bytes(100))) == 7
    assert crc32c(b"123456789") == 0xE3069283
    assert calls == [bytes(100)]
    checksums._google_crc32c.cache_clear()
    fake.implementation = "python"  # slower than our own
    assert crc32c(bytes(32)) == 0x8A9136AA
    monkeypatch.undo()
    checksums._google_crc32c.cache_clear()


# --- records ---


def framed(record):
    """By the format's definition, with the checksum of the definition."""

    def masked(data):
        crc = bitwise(data)
        return struct.pack("<I", ((crc >> 15 | crc << 17 & 0xFFFFFFFF) + 0xA282EAD8) & 0xFFFFFFFF)

    length = struct.pack("<Q", len(record))
    return length + masked(length) + record + masked(record)


RECORDS = [b"", b"a", bytes(24), np.random.RandomState(0).bytes(1500)]


def test_first_bytes_of_every_event_file():
    # TensorFlow's event files begin with a record of 24 bytes, so these twelve are known to everybody who opened one
    assert framed(bytes(24))[:12] == b'\x18\0\0\0\0\0\0\0\xa3\x7fK"'


def test_file_is_byte_for_byte_what_the_format_says(tmp_path):
    assert files.write_tfrecord(tmp_path / "a", RECORDS) == 4
    assert (tmp_path / "a").read_bytes() == b"".join(map(framed, RECORDS))


def test_records_are_read_in_order_and_by_number(tmp_path):
    (tmp_path / "a").write_bytes(b"".join(map(framed, RECORDS)))
    assert [bytes(r) for r in files.read_tfrecord(tmp_path / "a")] == RECORDS
    by_number = files.TFRecordFile(tmp_path / "a")
    assert [by_number[i] for i in (3, 0, -2, np.int64(1))] == [RECORDS[i] for i in (3, 0, 2, 1)]
    assert by_number[1:3] == RECORDS[1:3]
    assert len(by_number) == 4
    with pytest.raises(IndexError):
        by_number[4]


def test_empty_file_has_no_records(tmp_path):
    files.write_tfrecord(tmp_path / "a", [])
    assert list(files.read_tfrecord(tmp_path / "a")) == []
    assert len(files.TFRecordFile(tmp_path / "a")) == 0


def test_records_feed_a_data_loader_pickle_and_are_read_by_threads(tmp_path):
    records = [bytes([i]) * (i + 1) for i in range(50)]
    files.write_tfrecord(tmp_path / "a", records)
    data = files.TFRecordFile(tmp_path / "a")
    assert data[7] == records[7]  # open when it is pickled
    assert pickle.loads(pickle.dumps(data))[9] == records[9]
    loader = torch.utils.data.DataLoader(data, batch_size=8, shuffle=True, collate_fn=list)
    assert sorted(bytes(r) for batch in loader for r in batch) == sorted(records)
    wrong = []

    def read(seed):
        wrong.extend(i for i in np.random.RandomState(seed).randint(50, size=300) if data[i] != records[i])

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_file_appears_when_the_writer_is_closed_and_not_after_an_error(tmp_path):
    writer = files.TFRecordWriter(tmp_path / "a")
    writer.write(b"x")
    assert not (tmp_path / "a").exists()
    writer.close()
    writer.close()  # twice is no harm
    before = (tmp_path / "a").read_bytes()
    with pytest.raises(ZeroDivisionError):
        files.write_tfrecord(tmp_path / "a", (bytes(10 // i) for i in (1, 0)))
    assert (tmp_path / "a").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_writer_says_what_it_does_not_take(tmp_path):
    with (
        files.TFRecordWriter(tmp_path / "a") as writer,
        pytest.raises(TypeError, match=r"a record must be bytes \(encode_example makes them\), got dict"),
    ):
        writer.write({})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"the writer of '.*a' is closed"):
        writer.write(b"")


GOOD = framed(b"first") + framed(b"second record")
LIE = struct.pack("<Q", 2**62)
BAD = [
    ("cut in a length", GOOD[:-29] + GOOD[-29:-20], "cut off within the length of a record", 21),
    ("cut in a record", GOOD[:-6], "a record of 13 bytes is announced, and 7 are there", 21),
    ("cut in a checksum", GOOD[:-1], "a record of 13 bytes is announced, and 12 are there", 21),
    ("length flipped", GOOD[:21] + b"\x0c" + GOOD[22:], "a record's length is damaged", 21),
    ("first length flipped", b"\x04" + GOOD[1:], "it is no TFRecord file, or its first length is damaged", 0),
    ("record flipped", GOOD.replace(b"second", b"secant"), "a record is damaged (its checksum differs)", 33),
    ("checksum flipped", GOOD[:-1] + bytes([GOOD[-1] ^ 1]), "a record is damaged (its checksum differs)", 33),
    ("another file", b"\x89PNG\r\n\x1a\n" + bytes(50), "it is no TFRecord file", 0),
    ("gzip", b"\x1f\x8b\x08" + bytes(50), "packed by gzip; unpack it first (gzip -d)", 0),
    ("a length that lies", LIE + struct.pack("<I", masked_crc32c(LIE)), "of 4611686018427387904 bytes is announced", 0),
    ("too short", b"abc", "cut off within the length", 0),
]


@pytest.mark.parametrize("read", ["in order", "by number"])
@pytest.mark.parametrize(("data", "reason", "offset"), [row[1:] for row in BAD], ids=[row[0] for row in BAD])
def test_bad_file_is_refused_with_place_and_reason(tmp_path, data, reason, offset, read):
    path = tmp_path / "bad.tfrecords"
    path.write_bytes(data)
    with pytest.raises(FileFormatError) as error:
        list(files.read_tfrecord(path) if read == "in order" else files.TFRecordFile(path))
    assert reason in str(error.value)
    assert (error.value.path, error.value.offset) == (str(path), offset)


def test_no_flipped_bit_goes_unnoticed(tmp_path):
    path = tmp_path / "a"
    for at in range(len(GOOD)):
        for bit in range(8):
            bad = bytearray(GOOD)
            bad[at] ^= 1 << bit
            path.write_bytes(bad)
            with pytest.raises(FileFormatError):
                list(files.read_tfrecord(path))


# --- tf.train.Example ---

# What TensorFlow's guide to TFRecords prints for feature0 False, feature1 4, feature2 b"goat", feature3 0.9876:
# https://www.tensorflow.org/tutorials/load_data/tfrecord
GOAT = (
    b"\nR\n\x11\n\x08feature0\x12\x05\x1a\x03\n\x01\x00\n\x11\n\x08feature1\x12\x05\x1a\x03\n\x01\x04"
    b"\n\x14\n\x08feature2\x12\x08\n\x06\n\x04goat\n\x14\n\x08feature3\x12\x08\x12\x06\n\x04[\xd3|?"
)
# By hand from example.proto and protobuf's encoding: key = field << 3 | 2, then the length, then the content.
#   Example.features = 1 { Features.feature = 1 { key = 1, value = 2 { Int64List = 3 { value = 1, packed } } } }
#   -2 is two's complement in 64 bits, seven a byte: fe ff ff ff ff ff ff ff ff 01; 300 is ac 02
BY_HAND = bytes.fromhex(
    "0a 1b"  # features, 27 bytes
    "0a 19"  # an entry of the map, 25 bytes
    "0a 05 6c 61 62 65 6c"  # its key, "label"
    "12 10"  # its value, a Feature of 16 bytes
    "1a 0e"  # integers, 14 bytes
    "0a 0c fe ff ff ff ff ff ff ff ff 01 ac 02"  # packed, 12 bytes: -2 and 300
)
# SequenceExample.context = 1 as above; .feature_lists = 2 { feature_list = 1 { key = 1, value = 2 { feature = 1 … } } }
SEQUENCE_BY_HAND = bytes.fromhex(
    "0a 0d 0a 0b 0a 02 69 64 12 05 1a 03 0a 01 07"  # context: "id" -> [7]
    "12 15"  # feature lists, 21 bytes
    "0a 13"  # an entry, 19 bytes
    "0a 01 77"  # "w"
    "12 0e"  # a FeatureList of 14 bytes
    "0a 05 0a 03 0a 01 61"  # a Feature of 5: bytes, 3: "a"
    "0a 05 0a 03 0a 01 62"
)


def test_example_is_byte_for_byte_tensorflows():
    goat = {"feature0": False, "feature1": 4, "feature2": b"goat", "feature3": 0.9876}
    assert files.encode_example(goat) == GOAT
    assert files.encode_example({"label": [-2, 300]}) == BY_HAND
    assert files.encode_sequence_example({"id": 7}, {"w": ["a", b"b"]}) == SEQUENCE_BY_HAND


def test_example_is_read_back():
    found = files.decode_example(GOAT)
    assert list(found) == ["feature0", "feature1", "feature2", "feature3"]
    assert found["feature2"] == [b"goat"]
    np.testing.assert_array_equal(found["feature3"], np.float32([0.9876]))
    assert files.decode_example(BY_HAND)["label"].tolist() == [-2, 300]
    context, lists = files.decode_sequence_example(SEQUENCE_BY_HAND)
    assert context["id"].tolist() == [7]
    assert lists == {"w": [[b"a"], [b"b"]]}


VALUES = [
    (3, np.int64([3])),
    ([1, -(2**63), 2**63 - 1, 127, 128], np.int64([1, -(2**63), 2**63 - 1, 127, 128])),
    (np.arange(300).reshape(3, 100), np.arange(300)),
    (np.uint64([5]), np.int64([5])),
    (np.bool_([True, False]), np.int64([1, 0])),
    ([0.5, 1], np.float32([0.5, 1])),
    (np.float64([1e-3, np.inf]), np.float32([1e-3, np.inf])),
    (np.empty(0, np.int32), np.empty(0, np.int64)),
    (np.empty((0, 3)), np.empty(0, np.float32)),
    (torch.tensor([1, 2]), np.int64([1, 2])),
    ("café", ["café".encode()]),
    ([b"", b"\0"], [b"", b"\0"]),
    (np.array(["a", "bc"]), [b"a", b"bc"]),
    (bytearray(b"x"), [b"x"]),
    ([], []),
]


@pytest.mark.parametrize(("value", "expected"), VALUES, ids=[str(row[0])[:20] for row in VALUES])
def test_value_survives(value, expected):
    found = files.decode_example(files.encode_example({"x": value}))["x"]
    if isinstance(expected, list):
        assert found == expected
    else:
        assert isinstance(found, np.ndarray)
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found, expected)


WRONG_VALUES = [
    ([1, None], TypeError, r"features\['x'\] must be numbers of one kind, or strings, got \[1, None\]"),
    ([[1], [1, 2]], TypeError, "must be numbers of one kind"),
    ([1, "a"], TypeError, "must be numbers of one kind"),
    ([b"a", 1], TypeError, "must be numbers of one kind"),
    (None, TypeError, "must be numbers of one kind"),
    ({}, TypeError, "must be numbers of one kind"),
    (1j, TypeError, "must be numbers of one kind"),
    (2**63, ValueError, r"features\['x'\] holds 9223372036854775808, and its integers have 64 bits with a sign"),
    ([-(2**63) - 1], ValueError, "holds -9223372036854775809"),
    ([2**70], ValueError, "64 bits with a sign"),
]


@pytest.mark.parametrize(("value", "error", "text"), WRONG_VALUES, ids=[str(row[0])[:20] for row in WRONG_VALUES])
def test_wrong_value_is_named(value, error, text):
    with pytest.raises(error, match=text):
        files.encode_example({"x": value})


def test_wrong_names_and_sequences_are_named():
    with pytest.raises(TypeError, match="a feature's name must be a str, got b'x'"):
        files.encode_example({b"x": 1})  # type: ignore[dict-item]
    with pytest.raises(TypeError, match=r"feature_lists\['w'\] must be a sequence of features, one a step, got 'abc'"):
        files.encode_sequence_example({}, {"w": "abc"})
    with pytest.raises(TypeError, match=r"feature_lists\['w'\]\[1\] must be numbers"):
        files.encode_sequence_example({}, {"w": [1, None]})


UNPACKED = bytes.fromhex("0a 0e 0a 0c 0a 01 78 12 07 1a 05 08 01 08 ac 02")  # integers one by one, which is legal, too
UNPACKED_FLOATS = bytes.fromhex("0a 10 0a 0e 0a 01 78 12 09 12 07 0d 00 00 80 3f 0a 00")


def test_unpacked_numbers_are_read():
    assert files.decode_example(UNPACKED)["x"].tolist() == [1, 300]
    assert files.decode_example(UNPACKED_FLOATS)["x"].tolist() == [1.0]


def test_empty_messages_are_read():
    assert files.decode_example(b"") == {}
    assert files.decode_example(b"\x0a\x00") == {}
    assert files.decode_sequence_example(b"") == ({}, {})
    assert files.decode_example(bytes.fromhex("0a 02 0a 00")) == {"": []}  # an entry without key and value


def wrapped(feature):
    entry = b"\x0a\x01x\x12" + bytes([len(feature)]) + feature
    entries = b"\x0a" + bytes([len(entry)]) + entry
    return b"\x0a" + bytes([len(entries)]) + entries


BAD_EXAMPLES = [
    ("text", b"hello", "field 13 is unknown where only features may stand", 0),
    ("length beyond the end", b"\x0a\x05\x0a", "field 1 announces 5 bytes and 1 are left", 0),
    ("length cut off", b"\x0a\x80", "a number is cut off", 1),
    ("length of 70 bits", b"\x0a" + b"\xff" * 9 + b"\x7f", "a number has more than 64 bits", 1),
    ("group", b"\x0b\x0c", "field 1 is of wire type 3", 0),
    ("fixed cut off", b"\x0d\0", "field 1 is cut off", 0),
    ("number for a message", b"\x08\x01", "field 1 (features) is of wire type 0, not 2", 0),
    ("features twice", b"\x0a\x00\x0a\x00", "field 1 (features) stands twice", 2),
    ("two features of a name", b"\x0a\x0a" + b"\x0a\x03\x0a\x01x" * 2, "two entries are called 'x'", 9),
    ("name not UTF-8", b"\x0a\x05\x0a\x03\x0a\x01\xff", "a name is not UTF-8", 6),
    ("bytes and floats", wrapped(b"\x0a\x00\x12\x00"), "a feature is bytes and floats at once", 9),
    ("unknown kind", wrapped(b"\x22\x00"), "field 4 is unknown where only bytes and floats and integers may", 9),
    ("floats of 3 bytes", wrapped(b"\x12\x05\x0a\x03abc"), "floats of wire type 2 in 3 bytes", 11),
    ("integers cut off", wrapped(b"\x1a\x04\x0a\x02\x01\x80"), "a number is cut off", 14),
    ("integer of 11 bytes", wrapped(b"\x1a\x0d\x0a\x0b" + b"\x80" * 10 + b"\1"), "a number has more than 64 bits", 13),
    ("integer of 65 bits", wrapped(b"\x1a\x0c\x0a\x0a" + b"\xff" * 9 + b"\2"), "a number has more than 64 bits", 13),
    ("field of a list", wrapped(b"\x1a\x02\x12\x00"), "field 2 is unknown in a list of integers", 11),
]


@pytest.mark.parametrize(
    ("data", "reason", "offset"), [row[1:] for row in BAD_EXAMPLES], ids=[row[0] for row in BAD_EXAMPLES]
)
def test_bad_example_is_refused_with_place_and_reason(tmp_path, data, reason, offset):
    with pytest.raises(FileFormatError) as error:
        files.decode_example(data)
    assert f"this is no tf.train.Example: {reason}" in str(error.value)
    assert (error.value.path, error.value.offset) == ("record", offset)
    files.write_tfrecord(tmp_path / "a", [b"before", data])
    *_, record = files.read_tfrecord(tmp_path / "a")
    with pytest.raises(FileFormatError) as error:
        files.decode_example(record)
    assert (error.value.path, error.value.offset) == (str(tmp_path / "a"), offset + 16 + 6 + 12)


def test_protobuf_itself_agrees():
    """Google's implementation, given the messages' published definition, writes and reads the same bytes."""
    descriptor_pb2 = pytest.importorskip("google.protobuf.descriptor_pb2")
    from google.protobuf import descriptor_pool, message_factory

    file = descriptor_pb2.FileDescriptorProto(name="example.proto", package="t", syntax="proto3")
    kinds = {"bytes": 12, "float": 2, "int64": 3}

    def message(name, *fields):
        found = file.message_type.add(name=name)
        for number, (field, kind, repeated) in enumerate(fields, 1):
            added = found.field.add(name=field, number=number, label=3 if repeated else 1)
            if kind in kinds:
                added.type = kinds[kind]
            else:
                added.type, added.type_name = 11, f".t.{kind}"
        return found

    def map_of(owner, value):
        entry = owner.nested_type.add(name=owner.field[0].type_name.rpartition(".")[2])
        entry.options.map_entry = True
        entry.field.add(name="key", number=1, label=1, type=9)
        entry.field.add(name="value", number=2, label=1, type=11, type_name=f".t.{value}")

    for name, kind in (("BytesList", "bytes"), ("FloatList", "float"), ("Int64List", "int64")):
        message(name, ("value", kind, True))
    feature = message("Feature", ("b", "BytesList", False), ("f", "FloatList", False), ("i", "Int64List", False))
    feature.oneof_decl.add(name="kind")
    for field in feature.field:
        field.oneof_index = 0
    map_of(message("Features", ("feature", "Features.FeatureEntry", True)), "Feature")
    message("FeatureList", ("feature", "Feature", True))
    map_of(message("FeatureLists", ("feature_list", "FeatureLists.FeatureListEntry", True)), "FeatureList")
    message("Example", ("features", "Features", False))
    message("SequenceExample", ("context", "Features", False), ("feature_lists", "FeatureLists", False))
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    Example = message_factory.GetMessageClass(pool.FindMessageTypeByName("t.Example"))
    SequenceExample = message_factory.GetMessageClass(pool.FindMessageTypeByName("t.SequenceExample"))

    rng = np.random.RandomState(0)
    features = {
        "label": 3,
        "é": [b"x" * 200, b""],
        "f": rng.randn(100).astype(np.float32),
        "n": rng.randint(-(2**60), 2**60, 50),
    }
    theirs = Example()
    theirs.features.feature["label"].i.value.append(3)
    theirs.features.feature["é"].b.value.extend(features["é"])
    theirs.features.feature["f"].f.value.extend(features["f"])
    theirs.features.feature["n"].i.value.extend(features["n"])
    assert files.encode_example(features) == theirs.SerializeToString(deterministic=True)
    assert Example.FromString(files.encode_example(features)) == theirs

    sequence = SequenceExample()
    sequence.context.feature["id"].i.value.append(300)
    for word in (b"a", b"dog"):
        sequence.feature_lists.feature_list["words"].feature.add().b.value.append(word)
    ours = files.encode_sequence_example({"id": 300}, {"words": [b"a", b"dog"]})
    assert ours == sequence.SerializeToString(deterministic=True)
    assert files.decode_sequence_example(sequence.SerializeToString())[1] == {"words": [[b"a"], [b"dog"]]}
