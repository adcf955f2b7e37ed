"""Without a network: one sentence at once, and what is cached is used."""

import pickle
import socket
import time
from pathlib import Path

import pytest
from safetensors import SafetensorError

from diffusionbench import fetching
from diffusionbench.errors import RequestError
from diffusionbench.fetching import fetch, reachable
from diffusionbench.judges import JUDGES
from diffusionbench.judges.hub import access, check, found
from nanogen.hub import opened_hub


@pytest.fixture
def silent(monkeypatch, tmp_path):
    """A network that swallows everything, as behind a firewall."""
    asked = []

    def connect(address, timeout=None, **_):
        asked.append(address)
        time.sleep(3)
        raise TimeoutError

    for name in (
        "HF_HUB_OFFLINE",
        "HF_ENDPOINT",
        "http_proxy",
        "https_proxy",
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "ALL_PROXY",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("DIFFUSIONBENCH_CACHE", str(tmp_path / "none"))
    monkeypatch.setattr(socket, "create_connection", connect)
    return asked


def test_a_hub_that_does_not_answer_is_one_sentence_at_once(silent):
    begun = time.monotonic()
    with pytest.raises(RequestError, match=r"^a needs b, and the hub does not answer from here\. Do c\.$"):
        opened_hub("a needs b", "Do c.", "hub").__enter__()
    assert time.monotonic() - begun < 2
    assert silent == [("huggingface.co", 443)]


def test_a_judge_of_the_hub_is_looked_for_in_the_cache_alone(silent):
    pytest.importorskip("transformers", reason="transformers is not installed (extra eval-t2i)")
    begun = time.monotonic()
    with pytest.raises(RequestError, match=r"judge 'mask2former' were not found .* Run once with a connection"):
        check(JUDGES["mask2former"])
    assert time.monotonic() - begun < 2
    assert len(silent) == 1


def test_a_download_is_not_waited_for(silent):
    begun = time.monotonic()
    with pytest.raises(RequestError, match=r"^x cannot be fetched: files\.example does not answer\. .*--from\.$"):
        fetch("https://files.example/weights.bin", "x")
    assert time.monotonic() - begun < 2


def test_a_local_copy_needs_no_network(silent, tmp_path):
    assert access(str(tmp_path)) == {"local_files_only": False}
    assert silent == []


def test_a_proxy_is_asked_in_place_of_the_host(silent, monkeypatch):
    monkeypatch.setenv("https_proxy", "http://proxy.example:3128")
    monkeypatch.setattr(fetching, "_AT_ONCE", 0.1)
    assert not reachable("https://files.example/a")
    assert silent == [("proxy.example", 3128)]


def test_a_host_that_answers_is_reachable():
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert reachable(f"http://127.0.0.1:{server.getsockname()[1]}/")


@pytest.mark.parametrize(
    "error",
    [SafetensorError("invalid header"), pickle.UnpicklingError("code"), TypeError("null"), RuntimeError("size")],
)
def test_damaged_weights_of_a_judge_are_one_sentence(error, tmp_path):
    with pytest.raises(RequestError, match=r"weights of judge 'x' at '.*' cannot be opened .*Get the files again"):
        raise_within(error, tmp_path)


def test_want_of_memory_is_not_called_damage(tmp_path):
    with pytest.raises(RuntimeError, match="out of memory"):
        raise_within(RuntimeError("CUDA out of memory"), tmp_path)


def raise_within(error: Exception, folder: Path) -> None:
    with found("judge 'x'", str(folder)):
        raise error
