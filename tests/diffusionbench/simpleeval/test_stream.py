"""The stream must never change: published vectors."""

import pytest

from diffusionbench.benchmarks.simpleeval.stream import HashStream, octets


def test_published_vectors():
    stream = HashStream("public-0", "test")
    expected = "dd2f20ea10d902c8 7b8bc3756889f900 9c3ea317ad15ffbe c7c13dab6c7a1d5e 8524d71e97709989 985630c07721433c"
    assert [f"{stream.u64():016x}" for _ in range(6)] == expected.split()
    stream = HashStream("public-0", "test")
    assert [stream.below(10) for _ in range(12)] == [4, 4, 8, 2, 7, 2, 7, 3, 1, 1, 3, 2]
    assert "".join(HashStream("public-0", "test").shuffle("abcdefgh")) == "gedbfcha"
    assert octets("public-0", "test", 16).hex() == "3a6d512d700da3125abd401917bbf494"


def test_ranges():
    stream = HashStream("s", "p")
    assert {stream.between(-2, 2) for _ in range(200)} == {-2, -1, 0, 1, 2}
    assert {stream.choice("ab") for _ in range(50)} == {"a", "b"}
    with pytest.raises(ValueError, match="below"):
        stream.below(0)


def test_seed_and_path_do_not_run_together():
    assert HashStream("a", "bc").u64() != HashStream("ab", "c").u64()
