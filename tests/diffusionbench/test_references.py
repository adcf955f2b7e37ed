"""The digits, folders of real images and files of statistics as references."""

import numpy as np
import pytest
from PIL import Image
from safetensors import safe_open
from safetensors.numpy import load_file

import diffusionbench as db
from diffusionbench.archives import Archive
from diffusionbench.errors import DataError, RequestError
from diffusionbench.judges import DIGITS
from diffusionbench.judges.digits import DigitsJudge
from diffusionbench.references import digits
from diffusionbench.references.digits import DigitsReference
from diffusionbench.references.opening import ImageReference, resolve
from diffusionbench.references.statistics import StatisticsReference


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFUSIONBENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def judge():
    return DigitsJudge()


def every(source):
    from diffusionbench.sample import Sample, plain_item

    return source.images([Sample(index, plain_item(label)) for index, label in enumerate(source.labels)])


def test_the_digits_are_split_by_every_fifth_image():
    train, held_out = digits.read("train"), digits.read("held_out")
    assert (len(train[0]), len(held_out[0])) == (1438, 359)
    assert train[0].shape[1:] == (8, 8, 3)
    assert train[0].dtype == np.uint8
    # 16 levels fill the range exactly at its ends; the three channels are one.
    assert held_out[0][1].max() <= 255
    assert (held_out[0] == held_out[0][..., :1]).all()
    assert np.bincount(held_out[1]).tolist() == [27, 21, 34, 52, 34, 28, 31, 43, 47, 42]


def test_the_shipped_digits_are_those_of_scikit_learn():
    sklearn = pytest.importorskip("sklearn.datasets", reason="scikit-learn is not installed")
    data, stored = sklearn.load_digits(), load_file(digits.FILE)
    assert stored["images"].astype(data.images.dtype).tobytes() == data.images.tobytes()
    assert stored["labels"].astype(data.target.dtype).tobytes() == data.target.tobytes()
    with safe_open(digits.FILE, "np") as file:
        assert file.metadata()["licence"].startswith("CC BY 4.0")


def test_digits_ask_for_the_held_out_classes_so_that_both_sets_have_the_same_counts():
    held_out = digits.read("held_out")[1]
    assert DigitsReference().labels(359) == held_out.tolist()
    assert DigitsReference().labels(400) == [*held_out.tolist(), *held_out[:41].tolist()]
    assert len(set(DigitsReference().labels(359))) == 10


def test_the_anchors_of_the_digits_are_held_out_images_and_training_means():
    anchors = DigitsReference().anchors(50)
    images, labels = digits.read("held_out")
    assert np.array_equal(every(anchors["held_out"]), images[:50])
    train, classes = digits.read("train")
    means = every(anchors["class_means"])
    for index, label in enumerate(labels[:50]):
        assert np.abs(means[index] - train[classes == label].mean(0)).max() <= 0.5


def test_digits_moments_are_those_of_the_training_features(judge):
    reference = DigitsReference()
    features = judge(digits.read("train")[0])["features"].astype(np.float64)
    mean, cov = reference.moments(judge)
    np.testing.assert_allclose(mean, features.mean(0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(cov, np.cov(features, rowvar=False), rtol=1e-4, atol=1e-5)
    assert reference.features(judge) is reference.features(judge)


def test_features_of_the_digits_are_those_of_the_judge_that_asks(judge):
    reference = DigitsReference()
    first, other = Counted(judge, digest="a"), Counted(lambda images: judge(255 - images), digest="b")
    assert not np.array_equal(reference.features(first), reference.features(other))
    assert np.array_equal(reference.features(first), reference.features(judge))


@pytest.mark.parametrize("part", ["_images", "_labels", "_held_out"])
def test_the_digest_of_the_digits_follows_every_part(part):
    changed = DigitsReference()
    values = [np.array(one) for one in (getattr(changed, part) if part == "_held_out" else [getattr(changed, part)])]
    values[-1].flat[-1] ^= 1
    setattr(changed, part, tuple(values) if part == "_held_out" else values[0])
    assert changed.digest != DigitsReference().digest


def test_a_folder_of_real_images_scores_like_the_same_images_anywhere(tmp_path, noise, write, judge):
    labels = np.arange(30) % 3
    images = noise(30)
    folder = ImageReference(write(tmp_path / "real", images, labels))
    np.savez(tmp_path / "real.npz", arr_0=images, labels=labels)
    archive = ImageReference(tmp_path / "real.npz")
    features = judge(images)["features"].astype(np.float64)
    for reference in (folder, archive):
        assert (reference.num_classes, reference.image_size) == (3, (8, 8))
        mean, cov = reference.moments(judge)
        np.testing.assert_allclose(mean, features.mean(0), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(cov, np.cov(features, rowvar=False), rtol=1e-4, atol=1e-5)
    order = np.argsort(labels, kind="stable")
    np.testing.assert_allclose(folder.features(judge), features[order], rtol=1e-4, atol=1e-5)
    anchors = archive.anchors(7)
    assert list(anchors) == ["class_means"]
    assert anchors["class_means"].labels == [0, 1, 2, 0, 1, 2, 0]
    assert np.abs(every(anchors["class_means"])[4] - images[labels == 1].mean(0)).max() <= 0.5


def test_images_without_labels_have_no_anchor(tmp_path, noise, write):
    reference = ImageReference(write(tmp_path / "real", noise(5)))
    assert reference.num_classes is None
    assert reference.anchors(5) == {}
    assert reference.labels(7) == [None] * 7


class Counted:
    """The judge, counting its calls."""

    def __init__(self, judge, digest="a"):
        self._judge = judge
        self.name, self.spec, self.digest = "digits", DIGITS, digest
        self.calls = 0

    def __call__(self, images):
        self.calls += 1
        return self._judge(images)


def test_features_are_kept_by_content_and_judge(tmp_path, noise, write, judge, cache):
    path = write(tmp_path / "real", noise(10))
    first = Counted(judge)
    made = ImageReference(path).features(first), ImageReference(path).moments(first)
    # Moments are made from the features that were kept.
    assert first.calls == 1
    again = Counted(judge)
    kept = ImageReference(path).features(again), ImageReference(path).moments(again)
    assert again.calls == 0
    assert np.array_equal(made[0], kept[0])
    assert np.array_equal(made[1][1], kept[1][1])
    other = Counted(judge, digest="b")
    ImageReference(path).features(other)
    assert other.calls == 1
    # The same name with other content is another reference: the published system gets this wrong.
    write(path, noise(10, seed=1))
    fresh = Counted(judge)
    assert not np.array_equal(ImageReference(path).features(fresh), made[0])
    assert fresh.calls == 1


def test_a_damaged_cache_file_is_made_again(tmp_path, noise, write, judge, cache):
    path = write(tmp_path / "real", noise(10))
    made = ImageReference(path).features(judge)
    for file in (cache / "features").iterdir():
        file.write_bytes(file.read_bytes()[:200])
    assert np.array_equal(ImageReference(path).features(judge), made)


def test_features_of_any_size_are_read_from_the_cache_again(tmp_path, noise, write, judge, monkeypatch):
    path = write(tmp_path / "real", noise(10))
    made = ImageReference(path).features(Counted(judge))
    monkeypatch.setattr(Archive.read, "__defaults__", (100,))
    again = Counted(judge)
    assert np.array_equal(ImageReference(path).features(again), made)
    assert again.calls == 0


def test_a_cache_folder_that_cannot_be_written_is_named(tmp_path, noise, write, judge, monkeypatch):
    path = write(tmp_path / "real", noise(10))
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("DIFFUSIONBENCH_CACHE", str(tmp_path / "file"))
    for read in (ImageReference(path).features, ImageReference(path).moments):
        with pytest.raises(DataError, match=r"cannot be kept in .*file/features: .*DIFFUSIONBENCH_CACHE"):
            read(judge)


def test_a_reference_with_an_unreadable_image_is_refused(tmp_path, noise, write, judge):
    path = write(tmp_path / "real", noise(10))
    (path / "00003.png").write_bytes(b"broken")
    with pytest.raises(DataError, match=r"1 images cannot be read, or are of another size; the first: .*00003\.png"):
        ImageReference(path).features(judge)


def test_a_reference_of_several_sizes_says_how_to_crop(tmp_path, noise, write, judge):
    path = write(tmp_path / "real", noise(10))
    Image.new("RGB", (9, 8)).save(path / "00003.png")
    with pytest.raises(DataError, match=r"another size; .*00003\.png is 8x9, .*crop all .*docs/data\.md, 'Score them'"):
        ImageReference(path).features(judge)


def test_statistics_offer_moments_alone(tmp_path, judge):
    mean, cov = np.arange(64.0), np.eye(64) * 2
    np.savez(tmp_path / "stats.npz", mu=mean, sigma=cov)
    reference = resolve(str(tmp_path / "stats.npz"), "digits")
    assert isinstance(reference, StatisticsReference)
    assert reference.offers == {"moments"}
    assert np.array_equal(reference.moments(judge)[0], mean)
    assert reference.anchors(10) == {}
    with pytest.raises(RequestError, match="holds no features"):
        reference.features(judge)
    np.savez(tmp_path / "wide.npz", ref_mu=np.zeros(2048), ref_sigma=np.eye(2048))
    with pytest.raises(RequestError, match=r"width 2048, and judge 'digits' gives 64"):
        resolve(str(tmp_path / "wide.npz"), "digits").moments(judge)


def test_a_reference_batch_gives_its_own_statistics_only_where_something_says_whose_they_are(tmp_path, noise, judge):
    mean, cov = np.arange(64.0), np.eye(64)
    np.savez(tmp_path / "batch.npz", arr_0=noise(10), mu=mean, sigma=cov)
    asserted = resolve(str(tmp_path / "batch.npz"), "digits")
    assert np.array_equal(asserted.moments(judge)[0], mean)
    assert asserted.made_by("digits") == "asserted: digits"
    assert asserted.notes == ()
    np.testing.assert_allclose(asserted.features(judge), judge(noise(10))["features"], rtol=1e-5)
    for reference in (resolve(str(tmp_path / "batch.npz")), resolve(str(tmp_path / "batch.npz"), "inception")):
        measured = reference.moments(judge)[0]
        np.testing.assert_allclose(measured, judge(noise(10))["features"].mean(0), rtol=1e-4, atol=1e-6)
        assert reference.made_by("digits") is None
    assert "its mu and sigma are not used" in resolve(str(tmp_path / "batch.npz")).notes[0]


def test_files_that_are_no_reference_are_refused(tmp_path):
    np.savez(tmp_path / "a.npz", something=np.zeros(3))
    with pytest.raises((DataError, RequestError), match="something"):
        resolve(str(tmp_path / "a.npz"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="has no images"):
        resolve(str(tmp_path / "empty"))
    with pytest.raises(RequestError, match="unknown reference"):
        resolve(str(tmp_path / "missing.npz"))


def test_a_named_reference_is_made_once():
    assert resolve("digits") is resolve("digits")


def test_a_beginning_of_a_folders_classes_is_of_all_of_them(tmp_path, noise, write):
    write(tmp_path / "real", noise(12), [0] * 6 + [1] * 4 + [2] * 2)
    reference = resolve(str(tmp_path / "real"))
    assert reference.labels(6) == [0, 1, 0, 2, 1, 0]
    assert sorted(reference.labels(12)) == [0] * 6 + [1] * 4 + [2] * 2
    assert reference.labels(15)[12:] == reference.labels(3)
    # Labels that are mixed already stay in their order.
    np.savez(tmp_path / "real.npz", arr_0=noise(4), arr_1=[1, 0, 1, 0])
    assert resolve(str(tmp_path / "real.npz")).labels(4) == [1, 0, 1, 0]


def test_fewer_images_than_there_are_say_which_classes_are_left(tmp_path, noise, write):
    write(tmp_path / "made", noise(24), [0] * 12 + [1] * 8 + [2] * 4)
    few = db.evaluate(tmp_path / "made", metrics="is_digits", num=16)
    assert few.extra["left_out"] == [
        f"folder {tmp_path}/made: the first 16 of 24 images are scored, which are of 2 of 3 classes"
    ]
    assert "left_out" not in db.evaluate(tmp_path / "made", metrics="is_digits", num=22).extra
