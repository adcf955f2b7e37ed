"""Which members of a tar make a sample, what is said about the others, and headers that lie."""

import contextlib
import io
import json
import struct
import tarfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from shards import pair, picture, png, write_shards, write_tar

from diffusionbench.errors import DataError
from diffusionbench.files import IMAGE_SUFFIXES
from nanogen.data import tarindex
from nanogen.data.opening import open_dataset

FUZZ = settings(max_examples=40, deadline=None, derandomize=True, database=None)
MUCH_FUZZ = settings(max_examples=1000, deadline=None, database=None)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFUSIONBENCH_CACHE", str(tmp_path / "cache"))


def opened(path: Path):
    return open_dataset("tars", str(path), image_size=4)


def keys(data) -> list[str]:
    return [data.name(index).rpartition(": ")[2] for index in range(len(data))]


def sample(key: str, index: int = 0) -> list[tuple[str, bytes]]:
    return [(f"{key}.png", png(index)), (f"{key}.txt", f"caption of {key}".encode())]


# Names.


def test_names_with_dots_are_samples(tmp_path, capsys):
    names = ["0000", "take.0.5", "take.0.6", "v1.0/a.b", "take"]
    members = [file for index, name in enumerate(names) for file in sample(name, index)]
    data = opened(write_tar(tmp_path / "x.tar", members))
    assert keys(data) == names
    for index, name in enumerate(names):
        assert data.caption(index) == f"caption of {name}"
        np.testing.assert_array_equal(data[index].image, picture(index))
    assert capsys.readouterr().err == ""


def test_fields_of_several_parts_belong_to_their_key_and_are_counted(tmp_path, capsys):
    members = [
        *sample("a.b", 3),
        ("a.b.seg.png", png(1)),
        ("a.b.cls.txt", b"7"),
        ("a.b.pose.json", b'{"joints": []}'),
        ("a.b.mask.png", png(2)),
        ("a.b.mask.json", b'{"area": 3}'),
        ("a.b.cls", b"7"),
        ("a.b.json", b'{"url": "x"}'),
        ("__notes__.json", b"{}"),
    ]
    path = write_tar(tmp_path / "x.tar", members)
    for _ in range(2):
        data = opened(path)
        assert keys(data) == ["a.b"]
        np.testing.assert_array_equal(data[0].image, picture(3))
        assert capsys.readouterr().err == (
            f"{path}: left out 1 members that are neither image nor caption (first: x.tar: a.b.cls); "
            "4 further fields of a sample (first: x.tar: a.b.seg); "
            "1 notes about the shard (first: x.tar: __notes__); "
            "1 .json files beside a .txt (first: x.tar: a.b.json).\n"
        )


@pytest.mark.parametrize(
    "members, message",
    [
        ([("take.0.5.png", png(0)), *pair(1)], r"take\.0\.5 is an image without a caption"),
        ([("take.0.5.txt", b"x"), *pair(1)], r"take\.0\.5 is a caption without an image"),
        ([("a.seg.png", png(0)), ("a.cls.txt", b"x"), *pair(1)], r"a\.seg is an image without a caption"),
        ([("a.png", b""), ("a.txt", b"x"), *pair(1)], r"the image of .*x\.tar: a is empty"),
        ([*pair(1), ("a\n\x1b[2J.txt", b"x")], r"x\.tar: a\\n\\x1b\[2J is a caption without .* Add a\\n\\x1b\[2J\.jpg"),
        ([*sample("a"), ("./a.png", png(1))], "a has two images: the key is there twice"),
        ([*sample("a"), ("/a.PNG", png(1))], "a has two images: the key is there twice"),
        ([*sample("a"), ("a.tif", png(1))], "a has two images: the key is there twice"),
        ([*sample("a"), (".//a.TXT", b"x")], r"a has two files \.txt: the key is there twice"),
    ],
)
def test_half_samples_and_two_spellings_of_one_are_named(tmp_path, members, message):
    with pytest.raises(DataError, match=message):
        opened(write_tar(tmp_path / "x.tar", members))


@pytest.mark.parametrize("ending", [suffix[1:] for suffix in IMAGE_SUFFIXES] + ["JPG"])
@pytest.mark.parametrize("prefix", ["", "./", "/", "../../", "a//./"])
def test_every_ending_of_an_image_and_every_form_of_a_path_is_read(tmp_path, ending, prefix):
    file = io.BytesIO()
    try:
        Image.new("RGB", (6, 4), (200, 200, 200)).save(file, Image.registered_extensions()[f".{ending.lower()}"])
    except (KeyError, OSError):
        pytest.skip(f"this Pillow writes no .{ending}")
    data = opened(write_tar(tmp_path / "x.tar", [(f"{prefix}k.{ending}", file.getvalue()), (f"{prefix}k.txt", b"x")]))
    assert keys(data) == ["a/k" if prefix.startswith("a") else "k"]
    assert np.abs(data[0].image.astype(int) - 200).max() <= 6


def test_hidden_members_links_devices_and_sparse_files_are_counted(tmp_path, capsys):
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as tar:
        for name, content in [*sample("a"), ("__MACOSX/b.png", b""), (".cache/c.txt", b"x"), ("d/._a.png", b"")]:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
        for kind in (tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE):
            member = tarfile.TarInfo(f"kind{kind.decode()}.png")
            # A size in the header of a link or folder is followed by nothing; the link's own long name is.
            member.type, member.size, member.linkname = kind, 70, "far/" * 40
            tar.addfile(member)
        member = tarfile.TarInfo("sparse.png")
        member.type, member.size = tarfile.GNUTYPE_SPARSE, 700
        tar.addfile(member, io.BytesIO(b"x" * 700))
        member = tarfile.TarInfo("odd.png")
        member.type, member.size = b"V", 3
        tar.addfile(member, io.BytesIO(b"odd"))
        last = sample("z")
        for name, content in last:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    assert keys(opened(path)) == ["a", "z"]
    said = capsys.readouterr().err
    for part in (
        "3 hidden members (first: x.tar: __MACOSX/b.png)",
        "2 links inside a tar (first: x.tar: kind2.png)",
        "1 devices inside a tar (first: x.tar: kind6.png)",
        "1 sparse files inside a tar (first: x.tar: sparse.png)",
        "1 members of an unknown kind (first: x.tar: odd.png)",
    ):
        assert part in said


def test_a_sparse_file_with_a_long_map_does_not_shift_what_follows(tmp_path):
    def header(name: bytes, size: int, kind: bytes, continued: bool = False) -> bytes:
        block = bytearray(512)
        block[: len(name)], block[124:135], block[156:157], block[257:265] = name, b"%011o" % size, kind, b"ustar  \0"
        block[482] = continued
        block[148:156] = b"%06o\0 " % (sum(block) + 256)
        return bytes(block)

    more, last = bytearray(512), bytearray(512)
    more[504] = 1
    pieces = [header(b"s.png", 5, b"S", True), bytes(more), bytes(last), b"12345".ljust(512, b"\0")]
    path = write_tar(tmp_path / "x.tar", sample("a"))
    path.write_bytes(b"".join(pieces) + path.read_bytes())
    assert keys(opened(path)) == ["a"]


def test_sparse_files_of_newer_tars_are_counted_and_named(tmp_path, capsys):
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for name, content in sample("a"):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
        member = tarfile.TarInfo("GNUSparseFile.0/s.png")
        # The map of one piece fills a block.
        content = b"1\n0\n10\n".ljust(512, b"\0") + b"0123456789"
        member.size = len(content)
        member.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "real.png"}
        tar.addfile(member, io.BytesIO(content))
    assert keys(opened(path)) == ["a"]
    assert "1 sparse files inside a tar (first: x.tar: real.png)" in capsys.readouterr().err


def test_a_shard_without_a_sample_is_counted_beside_others_and_refused_alone(tmp_path, capsys):
    write_shards(tmp_path, [2])
    write_tar(tmp_path / "00001.tar", [])
    write_tar(tmp_path / "00002.tar", [("a.cls", b"1")])
    data = opened(tmp_path)
    assert (len(data), data.components[0].blocks) == (2, (2,))
    assert "2 shards without a sample (first: 00001.tar)" in capsys.readouterr().err
    with pytest.raises(DataError, match=r"holds no image with a caption.* left out 1 members .*00002\.tar: a\.cls"):
        opened(tmp_path / "00002.tar")


# Captions.


@pytest.mark.parametrize("ending", ["txt", "json"])
def test_a_caption_of_200_000_letters_is_read(tmp_path, ending):
    words = "é" * 200_000
    content = words if ending == "txt" else json.dumps({"text": words})
    data = opened(write_tar(tmp_path / "x.tar", [("a.png", png(0)), (f"a.{ending}", content.encode())]))
    assert data.caption(0) == words


def test_captions_without_end_are_defects(tmp_path, monkeypatch):
    nested = b'{"text": ' + b"[" * 200_000 + b"}"
    with pytest.raises(DataError, match=r"the caption of .*a is not valid JSON"):
        opened(write_tar(tmp_path / "x.tar", [("a.png", png(0)), ("a.json", nested)]))
    monkeypatch.setattr("nanogen.data.caption_text.MAX_CAPTION", 1000)
    monkeypatch.setattr("nanogen.data.tarindex.MAX_CAPTION", 1000)
    path = write_tar(tmp_path / "y.tar", [("a.png", png(0)), ("a.txt", b"x" * 1001)])
    with pytest.raises(DataError, match=r"the caption of .*a has more than 1,000 bytes"):
        opened(path)


def test_a_caption_larger_than_four_gibibytes_is_a_defect(tmp_path):
    path = tmp_path / "x.tar"
    member = tarfile.TarInfo("a.txt")
    member.size = 5 * 2**30
    path.write_bytes(member.tobuf(tarfile.GNU_FORMAT))
    picture_of_a = write_tar(tmp_path / "y.tar", [("a.png", png(0))]).read_bytes()
    with path.open("r+b") as file:
        # The hole takes no room on the disk.
        file.seek(512 + member.size)
        file.write(picture_of_a)
    with pytest.raises(DataError, match=r"the caption of .*a has more than 16,777,216 bytes"):
        opened(path)


# Headers that lie.


def with_header(path: Path, change) -> Path:
    """A shard whose first header is changed and has a right checksum all the same."""
    whole = bytearray(write_tar(path, [*pair(0), *pair(1)]).read_bytes())
    change(whole)
    whole[148:156] = b"%06o\0 " % (sum(whole[:148]) + sum(whole[156:512]) + 256)
    path.write_bytes(whole)
    return path


def size_field(field: bytes):
    def change(whole: bytearray) -> None:
        whole[124:136] = field.ljust(12, b"\0")

    return change


@pytest.mark.parametrize(
    "field",
    [
        b"\x80\0\0" + (2**70).to_bytes(9, "big"),
        b"\x80\0\0\0" + (2**63).to_bytes(8, "big"),
        b"\x80\0\0\0" + (2**62).to_bytes(8, "big"),
        b"\xff" * 11 + b"\x00",
        b"\xff" * 12,
        b"-0000000512",
        b"+0000000512",
        b"0o000000512",
        b"00000_00512",
        b"00000000 51",
        b"77777777777",
        b"99999999999",
    ],
)
@pytest.mark.parametrize("kind", [b"0", b"x", b"L", b"g", b"K", b"S", b"Z"])
def test_sizes_that_cannot_be_are_refused(tmp_path, field, kind):
    def change(whole: bytearray) -> None:
        size_field(field)(whole)
        whole[156:157] = kind

    with pytest.raises(DataError, match=r"x\.tar (is no tar file|ends early|is damaged)"):
        opened(with_header(tmp_path / "x.tar", change))


@pytest.mark.parametrize("field", [b"\x80" + (77).to_bytes(11, "big"), b"        115 ", b"115\0junk\0\0\0"])
def test_sizes_in_every_form_that_tars_use(tmp_path, field):
    path = write_tar(tmp_path / "x.tar", [("a.txt", b"x" * 77), ("a.png", png(0))])
    whole = bytearray(path.read_bytes())
    size_field(field)(whole)
    whole[148:156] = b"%06o\0 " % (sum(whole[:148]) + sum(whole[156:512]) + 256)
    path.write_bytes(whole)
    assert opened(path).caption(0) == "x" * 77


def test_checksums_over_signed_bytes_are_right_too(tmp_path):
    path = write_tar(tmp_path / "x.tar", [("é.txt", b"x"), ("é.png", png(0))])
    whole = bytearray(path.read_bytes())
    signed = sum(struct.unpack("512b", whole[:148] + b" " * 8 + whole[156:512]))
    whole[148:156] = b"%06o\0 " % signed
    path.write_bytes(whole)
    assert keys(opened(path)) == ["é"]


def with_extended_header(path: Path, extra: bytes) -> Path:
    """A shard with a pax header of this content before its first member."""
    block = bytearray(512)
    block[:1], block[124:135], block[156:157], block[257:265] = b"x", b"%011o" % len(extra), b"x", b"ustar\x0000"
    block[148:156] = b"%06o\0 " % (sum(block) + 256)
    path.write_bytes(bytes(block) + extra + b"\0" * (-len(extra) % 512) + path.read_bytes())
    return path


@pytest.mark.parametrize(
    "extra",
    [
        b"20 size=-000000512\n\n",
        b"17 size=0x200000\n",
        b"26 size=99999999999999999\n\n\n",
        b"9" * 5000 + b" path=x\n",
        b"0 path=x\n",
    ],
)
def test_extended_headers_that_lie_are_refused(tmp_path, extra):
    path = with_extended_header(write_tar(tmp_path / "x.tar", pair(0)), extra)
    with pytest.raises(DataError, match=r"x\.tar (is no tar file|ends early|is damaged)"):
        opened(path)


@pytest.mark.parametrize("extra", [b"99999999 path=x\n", b"path=x\n", b"10 nothing\n"])
def test_extended_headers_without_a_record_are_refused_or_leave_the_member_its_name(tmp_path, extra):
    path = with_extended_header(write_tar(tmp_path / "x.tar", pair(0)), extra)
    # Python's reader became stricter in 3.12.6; a name that is garbled leaves half a sample, which is named.
    with contextlib.suppress(DataError):
        assert keys(opened(path)) == ["0000"]


def test_names_of_megabytes_are_refused(tmp_path):
    path = write_tar(tmp_path / "x.tar", [*pair(0), ("k" * 2**20 + ".png", png(1))], tarfile.GNU_FORMAT)
    with pytest.raises(DataError, match="is damaged at byte"):
        opened(path)


def test_a_long_extended_header_is_read_in_one_pass(tmp_path):
    extra = b"6 a=b\n" * 150_000 + b"14 path=k.txt\n"
    path = with_extended_header(write_tar(tmp_path / "x.tar", [("a.txt", b"words"), ("k.png", png(0))]), extra)
    assert keys(opened(path)) == ["k"]


# The index.


def test_a_flipped_bit_in_the_index_is_found_and_nothing_is_read_from_it(tmp_path):
    path = write_tar(tmp_path / "x.tar", [*pair(0), *pair(1)])
    digest = opened(path).digest
    index = tmp_path / "x.tar.index"
    whole = index.read_bytes()
    for place in range(0, len(whole), 7):
        changed = bytearray(whole)
        changed[place] ^= 4
        index.write_bytes(changed)
        data = opened(path)
        assert data.digest == digest
        assert [data.caption(row) for row in range(2)] == ["picture 0", "picture 1"]
        assert keys(data) == ["0000", "0001"]


def saved(place: Path, content: bytes, table: np.ndarray, keys: np.ndarray) -> None:
    with place.open("wb") as file:
        np.savez(file, facts=np.frombuffer(content, np.uint8), table=table, keys=keys)


def written_index(path: Path, **changes) -> None:
    """An index with other facts, whole in itself."""
    place = path.with_name(f"{path.name}.index")
    arrays = dict(np.load(place))
    facts = json.loads(arrays["facts"].tobytes()) | changes
    saved(place, json.dumps(facts).encode(), arrays["table"], arrays["keys"])


@pytest.mark.parametrize(
    "changes",
    [
        {"samples": -1},
        {"samples": 10**6},
        {"key_bytes": 3},
        {"samples": 2.0},
        {"samples": "2"},
        {"samples": True},
        {"version": 1},
        {"defects": 3},
        {"defects": [3]},
        {"left_out": {"x": 3}},
        {"left_out": {"x": ["1", "y"]}},
        {"left_out": []},
        {"digest": 3},
    ],
)
def test_an_index_that_a_stranger_wrote_is_made_again(tmp_path, changes):
    path = write_tar(tmp_path / "x.tar", [*pair(0), *pair(1)])
    digest = opened(path).digest
    written_index(path, **changes)
    data = opened(path)
    assert (data.digest, keys(data)) == (digest, ["0000", "0001"])


def test_an_index_removed_under_a_run_is_not_missed(tmp_path):
    path = write_tar(tmp_path / "x.tar", pair(0))
    data = opened(path)
    (tmp_path / "x.tar.index").unlink()
    assert data.caption(0) == "picture 0"
    data = opened(path)
    (tmp_path / "x.tar.index").unlink()
    write_tar(path, pair(1))
    with pytest.raises(DataError, match="was changed since it was indexed"):
        data.caption(0)


# Whatever bytes there are, only the project's own errors leave.


def read_all(path: Path) -> None:
    try:
        data = opened(path)
        for row in range(len(data)):
            data.read(row)
            data.caption(row)
            data.name(row)
    except DataError:
        pass


CHANGES = st.lists(st.tuples(st.integers(0, 2**16), st.integers(0, 255)), min_size=1, max_size=8)
WORDS = st.lists(st.tuples(st.integers(0, 2**16), st.binary(min_size=1, max_size=24)), max_size=2)


def mutated(whole: bytes, changes, words, keep: int) -> bytearray:
    found = bytearray(whole)
    for place, value in changes:
        found[place % len(found)] = value
    for place, word in words:
        start = place % len(found)
        found[start : start + len(word)] = word
    return found[: max(1, len(found) - keep % len(found))] if keep % 4 == 0 else found


def check_mutated_tar(folder: Path, changes, words, keep: int, fix: bool) -> None:
    path = folder / "x.tar"
    members = [*pair(0), ("long/" * 30 + "k.png", png(1)), ("long/" * 30 + "k.txt", b"x"), ("j.json", b'{"text": 1}')]
    found = mutated(write_tar(path, members, tarfile.PAX_FORMAT).read_bytes(), changes, words, keep)
    for start in range(0, len(found) - 511, 512) if fix else ():
        # With right checksums the mutations reach what lies behind them.
        if found[start + 257 : start + 262] == b"ustar":
            block = found[start : start + 512]
            found[start + 148 : start + 156] = b"%06o\0 " % (sum(block) - sum(block[148:156]) + 256)
    path.write_bytes(found)
    path.with_name("x.tar.index").unlink(missing_ok=True)
    read_all(path)


ARGUMENTS = (CHANGES, WORDS, st.integers(0, 2**16), st.booleans())


@FUZZ
@given(*ARGUMENTS)
def test_mutated_tars_end_in_our_own_errors(tmp_path_factory, changes, words, keep, fix):
    check_mutated_tar(tmp_path_factory.getbasetemp(), changes, words, keep, fix)


@pytest.mark.slow
@MUCH_FUZZ
@given(*ARGUMENTS)
def test_many_mutated_tars_end_in_our_own_errors(tmp_path_factory, changes, words, keep, fix):
    check_mutated_tar(tmp_path_factory.getbasetemp(), changes, words, keep, fix)


def check_mutated_index(folder: Path, changes, words, keep: int, fix: bool) -> None:
    path = write_tar(folder / "i.tar", [*pair(0), *pair(1)])
    index = folder / "i.tar.index"
    index.unlink(missing_ok=True)
    read_all(path)
    if fix:
        # Whole in itself, so that the mutations reach what lies behind its checksums.
        arrays = dict(np.load(index))
        content = bytes(mutated(arrays["facts"].tobytes(), changes, (), 1))
        rest = bytes(mutated(arrays["table"].tobytes(), changes, words, keep))
        whole = len(rest) // tarindex.RECORD.itemsize * tarindex.RECORD.itemsize
        saved(index, content, np.frombuffer(rest[:whole], tarindex.RECORD), arrays["keys"])
    else:
        index.write_bytes(mutated(index.read_bytes(), changes, words, keep))
    read_all(path)


@FUZZ
@given(*ARGUMENTS)
def test_mutated_indexes_end_in_our_own_errors(tmp_path_factory, changes, words, keep, fix):
    check_mutated_index(tmp_path_factory.getbasetemp(), changes, words, keep, fix)


@pytest.mark.slow
@MUCH_FUZZ
@given(*ARGUMENTS)
def test_many_mutated_indexes_end_in_our_own_errors(tmp_path_factory, changes, words, keep, fix):
    check_mutated_index(tmp_path_factory.getbasetemp(), changes, words, keep, fix)
