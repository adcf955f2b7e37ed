"""Statistics with a manifest: parts, kills, what is never overwritten, and that they score as their images do."""

import json
import shutil
import subprocess
import tracemalloc
import zipfile

import numpy as np
import pytest
from twins import add_twin

from diffusionbench import runner
from diffusionbench.errors import DataError, RequestError, RunError, UserError
from diffusionbench.judges import deferred
from diffusionbench.judges.digits import DigitsJudge
from diffusionbench.references import preparing
from diffusionbench.references.opening import resolve
from diffusionbench.references.preparing import PARTS, prepare_reference
from diffusionbench.references.statistics import manifest_place
from diffusionbench.source import ArraySource


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Blocks of ten images."""
    monkeypatch.setattr("diffusionbench.references.real.BLOCK", 10)


@pytest.fixture
def real(tmp_path, noise):
    np.savez(tmp_path / "real.npz", arr_0=noise(45, seed=3))
    return tmp_path / "real.npz"


@pytest.fixture
def judged(monkeypatch):
    """Numbers of images in the batches that the judge was given, without its self-test."""
    seen, call = [], DigitsJudge.__call__
    monkeypatch.setattr(deferred, "self_test", lambda judge, device: None)

    def counted(self, images, items=(), given=None):
        seen.append(len(images))
        return call(self, images, items, given)

    monkeypatch.setattr(DigitsJudge, "__call__", counted)
    return seen


def kept_blocks(folder):
    return sorted((folder / f"out.npz{PARTS}").glob("digits-*/*.npy"))


def test_statistics_score_as_their_images_do(real, tmp_path, noise, ask):
    prepare_reference(real, "digits", tmp_path / "stats.npz", features=True)
    source = ArraySource(noise(45), None, "images")
    metrics = ("fd_digits", "precision_digits", "recall_digits")
    values = [
        {
            key: value.value
            for key, value in runner.run(ask(metrics=metrics, reference=str(path), count=45), source).values.items()
        }
        for path in (real, tmp_path / "stats.npz")
    ]
    assert values[0] == values[1]
    assert resolve(str(tmp_path / "stats.npz")).offers == {"moments", "features"}
    prepare_reference(real, "digits", tmp_path / "moments.npz")
    with pytest.raises(RequestError, match="offers only moments"):
        ask(metrics=metrics, reference=str(tmp_path / "moments.npz")).check_metrics()


@pytest.mark.parametrize("parts", [1, 3, 9])
def test_parts_in_any_order_are_the_whole_bit_for_bit(real, tmp_path, parts, judged):
    prepare_reference(real, "digits", tmp_path / "whole.npz", features=True)
    assert judged == [10, 10, 10, 10, 5]
    judged.clear()
    for part in reversed(range(1, parts + 1)):
        assert prepare_reference(real, "digits", tmp_path / "out.npz", features=True, part=(part, parts)) is None
    assert sorted(judged) == [5, 10, 10, 10, 10]
    assert not (tmp_path / "out.npz").exists()
    prepare_reference(real, "digits", tmp_path / "out.npz", features=True)
    assert len(judged) == 5
    assert (tmp_path / "out.npz").read_bytes() == (tmp_path / "whole.npz").read_bytes()
    assert not (tmp_path / f"out.npz{PARTS}").exists()


def test_it_continues_where_it_was_killed_and_makes_damaged_blocks_again(real, tmp_path, judged, monkeypatch):
    prepare_reference(real, "digits", tmp_path / "whole.npz")
    judged.clear()
    made = preparing.feature_block

    def dies(source, judge, rows):
        if rows.start == 30:
            raise KeyboardInterrupt
        return made(source, judge, rows)

    monkeypatch.setattr(preparing, "feature_block", dies)
    with pytest.raises(KeyboardInterrupt):
        prepare_reference(real, "digits", tmp_path / "out.npz")
    monkeypatch.setattr(preparing, "feature_block", made)
    damaged, cut, _ = kept_blocks(tmp_path)
    damaged.write_bytes(b"\1" + damaged.read_bytes()[1:])
    cut.write_bytes(cut.read_bytes()[:100])
    prepare_reference(real, "digits", tmp_path / "out.npz")
    assert judged == [10, 10, 10, 10, 10, 10, 5]
    assert (tmp_path / "out.npz").read_bytes() == (tmp_path / "whole.npz").read_bytes()


def test_a_kill_between_the_result_and_its_manifest_is_repaired(real, tmp_path, monkeypatch):
    out = tmp_path / "out.npz"
    write = preparing._write_manifest
    monkeypatch.setattr(preparing, "_write_manifest", lambda *given: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        prepare_reference(real, "digits", out)
    assert out.exists()
    assert not manifest_place(out).exists()
    monkeypatch.setattr(preparing, "_write_manifest", write)
    prepare_reference(real, "digits", out)
    assert resolve(str(out)).made_by("digits") == "digits"


def test_what_is_there_already_is_not_made_again(real, tmp_path, judged, noise):
    out = tmp_path / "out.npz"
    prepare_reference(real, "digits", out)
    before, count = out.read_bytes(), len(judged)
    assert prepare_reference(real, "digits", out, role="train").role == "train"
    assert resolve(str(out)).role == "train"
    assert (out.read_bytes(), len(judged)) == (before, count)
    # More is asked of it, or of other images: an earlier result gives way.
    prepare_reference(real, "digits", out, features=True)
    assert "features" in resolve(str(out)).offers
    np.savez(real, arr_0=noise(12, seed=4))
    assert prepare_reference(real, "digits", out).count == 12


def test_what_is_not_its_own_is_never_overwritten(real, tmp_path, judged):
    theirs = tmp_path / "theirs.npz"
    np.savez(theirs, mu=np.zeros(64), sigma=np.eye(64))
    before = theirs.read_bytes()
    with pytest.raises(RequestError, match=r"theirs\.npz exists and is no earlier result"):
        prepare_reference(real, "digits", theirs)
    with pytest.raises(RequestError, match=r"real\.npz exists and is no earlier result"):
        prepare_reference(real, "digits", real)
    out = tmp_path / "out.npz"
    prepare_reference(real, "digits", out)
    # A file that was put into the place of ours is not ours.
    shutil.copy(theirs, out)
    with pytest.raises(RequestError, match=r"out\.npz exists and is no earlier result"):
        prepare_reference(real, "digits", out)
    manifest_place(tmp_path / "new.npz").write_text("notes")
    with pytest.raises(RequestError, match=r"new\.npz\.manifest\.json exists"):
        prepare_reference(real, "digits", tmp_path / "new.npz")
    assert theirs.read_bytes() == before
    assert manifest_place(tmp_path / "new.npz").read_text() == "notes"
    assert len(judged) == 5


def test_a_file_that_appears_meanwhile_is_kept_and_so_are_the_blocks(real, tmp_path, monkeypatch):
    out = tmp_path / "out.npz"
    made = preparing.feature_block

    def appears(source, judge, rows):
        out.write_bytes(b"somebody else's")
        return made(source, judge, rows)

    monkeypatch.setattr(preparing, "feature_block", appears)
    with pytest.raises(RequestError, match="exists and is no earlier result"):
        prepare_reference(real, "digits", out)
    assert out.read_bytes() == b"somebody else's"
    assert len(kept_blocks(tmp_path)) == 5


def test_only_blocks_of_changed_images_are_made_again(tmp_path, noise, write, judged):
    path = write(tmp_path / "real", noise(45))
    prepare_reference(path, "digits", tmp_path / "out.npz", part=(1, 1))
    write(path, noise(45, seed=1)[:1])
    write(tmp_path / "changed", noise(45))
    write(tmp_path / "changed", noise(45, seed=1)[:1])
    assert judged == [10, 10, 10, 10, 5]
    prepare_reference(path, "digits", tmp_path / "out.npz")
    assert judged[5:] == [10]
    prepare_reference(tmp_path / "changed", "digits", tmp_path / "fresh.npz")
    assert (tmp_path / "out.npz").read_bytes() == (tmp_path / "fresh.npz").read_bytes()


def test_a_tar_is_read_as_the_folder_in_it(tmp_path, noise, write, judged):
    path = write(tmp_path / "real", noise(25))
    subprocess.run(["tar", "-cf", tmp_path / "real.tar", "-C", path, "."], check=True)
    for given in (path, tmp_path / "real.tar"):
        prepare_reference(given, "digits", tmp_path / f"{given.name}.npz")
    assert (tmp_path / "real.npz").read_bytes() == (tmp_path / "real.tar.npz").read_bytes()
    prepare_reference(tmp_path / "real.tar", "digits", tmp_path / "out.npz", part=(1, 1))
    # Another archive of the same names is other images.
    write(path, noise(25, seed=1))
    subprocess.run(["tar", "-cf", tmp_path / "real.tar", "-C", path, "."], check=True)
    prepare_reference(tmp_path / "real.tar", "digits", tmp_path / "out.npz")
    assert (tmp_path / "out.npz").read_bytes() != (tmp_path / "real.npz").read_bytes()
    prepare_reference(path, "digits", tmp_path / "fresh.npz")
    assert (tmp_path / "out.npz").read_bytes() == (tmp_path / "fresh.npz").read_bytes()


def test_memory_does_not_grow_with_the_images(tmp_path, noise, monkeypatch):
    monkeypatch.setattr("diffusionbench.references.real.BLOCK", 100)

    def peak(count):
        np.savez(tmp_path / f"{count}.npz", arr_0=noise(count, 32))
        tracemalloc.start()
        try:
            prepare_reference(tmp_path / f"{count}.npz", "digits", tmp_path / f"{count}.out.npz", features=True)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(20)
    # Moments are folded at 512 rows.
    few, many = peak(600), peak(1600)
    # Half of the features that the larger set has more, and a hundredth of its pixels.
    assert many - few < 1000 * 64 * 4 / 2, (few, many)


def test_parts_of_another_judge_are_left_alone(real, tmp_path, monkeypatch):
    add_twin(monkeypatch)
    out, folder = tmp_path / "out.npz", tmp_path / f"out.npz{PARTS}"
    prepare_reference(real, "digits", out, part=(1, 5))
    assert prepare_reference(real, "twin", out).extractor == "twin"
    assert [path.name.partition("-")[0] for path in folder.iterdir()] == ["digits"]
    assert len(kept_blocks(tmp_path)) == 1
    shutil.rmtree(folder)
    folder.write_text("a file")
    with pytest.raises(RequestError, match="it is no folder"):
        prepare_reference(real, "digits", tmp_path / "out.npz")


def test_unreadable_images_and_features_that_are_not_finite_are_named(tmp_path, noise, write, monkeypatch):
    path = write(tmp_path / "real", noise(25))
    (path / "00013.png").write_bytes(b"broken")
    with pytest.raises(DataError, match=r"1 images cannot be read, or are of another size; the first: .*00013\.png"):
        prepare_reference(path, "digits", tmp_path / "out.npz")
    assert len(kept_blocks(tmp_path)) == 1
    monkeypatch.setattr(
        DigitsJudge, "__call__", lambda self, images, *_: {"features": np.full((len(images), 64), np.nan)}
    )
    write(path, noise(25))
    with pytest.raises(DataError, match="features of image 10 by judge 'digits' are not finite"):
        prepare_reference(path, "digits", tmp_path / "out.npz")


def test_wrong_requests_end_before_an_image_is_judged(real, tmp_path, noise, judged, monkeypatch):
    np.savez(tmp_path / "one.npz", arr_0=noise(1))
    wrong = [
        ((real, "digit", "out.npz"), "Did you mean 'digits'"),
        ((real, "pixels", "out.npz"), "gives no features .* digits"),
        ((real, "digits", "out.txt"), r"ends in \.npz"),
        ((tmp_path / "nothing", "digits", "out.npz"), "no such file or folder"),
        ((tmp_path / "one.npz", "digits", "out.npz"), "at least 2 images, and .* holds 1"),
        ((real, "inception", "out.npz"), "needs its weights"),
    ]
    for (images, judge, out), message in wrong:
        with pytest.raises(UserError, match=message):
            prepare_reference(images, judge, tmp_path / out)
    monkeypatch.setattr(preparing, "MOST_BYTES", 45 * 64 * 4 - 1)
    with pytest.raises(RequestError, match="Leave out --features"):
        prepare_reference(real, "digits", tmp_path / "out.npz", features=True)
    assert judged == []
    assert not list(tmp_path.glob("out*"))


def test_a_judge_that_fails_its_self_test_makes_nothing(real, tmp_path, monkeypatch):
    monkeypatch.setattr(DigitsJudge, "self_test", lambda self: 0.1)
    with pytest.raises(RunError, match="judge 'digits' fails its self-test"):
        prepare_reference(real, "digits", tmp_path / "out.npz")
    assert not list(tmp_path.glob("out*"))


def test_the_command_prints_the_manifest_or_one_line(real, tmp_path, bench):
    words = ("prepare", "reference", real, "--judge", "digits", "--out", tmp_path / "out.npz")
    code, said, _ = bench(*words, "--part", "2/2")
    assert (code, said.count("\n")) == (0, 1)
    assert "part 2/2 is there" in said
    code, said, _ = bench(*words, "--role", "val", "--json")
    assert code == 0
    assert json.loads(said) == json.loads(manifest_place(tmp_path / "out.npz").read_text())
    assert json.loads(said)["preprocessing"] == DigitsJudge.preprocessing
    assert "45 images by judge 'digits', role val" in bench(*words)[1]
    for option, value, message in (
        ("--part", "0/2", "is no part"),
        ("--part", "", "is empty"),
        ("--part", "3/2", "is no part"),
        ("--part", "1/1e9", "is no part"),
        ("--role", "dev", "is no role of a reference"),
        ("--device", "meta", "meta"),
    ):
        code, _, err = bench(*words, option, value)
        assert code == 2
        assert message in err
        assert err.count("\n") == 1


def test_the_file_is_a_plain_npz_that_names_no_time(real, tmp_path):
    prepare_reference(real, "digits", tmp_path / "out.npz", features=True)
    with np.load(tmp_path / "out.npz") as arrays:
        assert {key: (array.dtype.str, array.shape) for key, array in arrays.items()} == {
            "mu": ("<f8", (64,)),
            "sigma": ("<f8", (64, 64)),
            "features": ("<f4", (45, 64)),
        }
    with zipfile.ZipFile(tmp_path / "out.npz") as archive:
        assert {info.date_time[0] for info in archive.infolist()} == {1980}
