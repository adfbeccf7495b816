"""The page's files: what browsers are told of them, what they may load, and the libraries of others beside them."""

import hashlib
import re

import pytest
from live_server import MODEL, live

import glm
from glm.generation.config_json import GenerationFile
from glm.serving.service import Settings
from glm.serving.web_page import FILES

TEXTS = (FILES / "js" / "texts.js").read_text("utf-8")
OWN = sorted(
    path for path in FILES.rglob("*") if path.suffix in (".js", ".css", ".html") and "vendor" not in path.parts
)


def test_the_libraries_are_those_that_were_checked():
    table = (FILES / "vendor" / "THIRD_PARTY.md").read_text("utf-8")
    told = dict(re.findall(r"^\| `([\w.]+)` \|.*\| `([0-9a-f]{64})` \|$", table, re.MULTILINE))
    files = [path for path in (FILES / "vendor").iterdir() if path.name != "THIRD_PARTY.md"]
    assert told == {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    for name in ("marked", "dompurify"):
        version = re.search(rf"\| {name} \| ([\d.]+) \|", table)[1]
        head = (FILES / "vendor" / f"{name}.js").read_text("utf-8")[:200]
        assert version in head, f"{name}.js is another version than THIRD_PARTY.md says"


def test_the_page_loads_its_own_files_alone(server):
    """Every address in them is one that this server answers; no code stands in the HTML, which the policy forbids."""
    source = (FILES / "index.html").read_text("utf-8")
    addresses = re.findall(r'(?:src|href)="([^"]+)"', source)
    for path in OWN:
        for name in re.findall(r'^import [^"]*"([^"]+)";$', path.read_text("utf-8"), re.MULTILINE):
            addresses.append("/static/" + (path.parent / name).resolve().relative_to(FILES).as_posix())
    assert len(addresses) > 20
    kinds = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
    for address in set(addresses):
        status, headers, _ = server.send("GET", address)
        kind = headers["content-type"].partition(";")[0]
        assert (status, kind) == (200, kinds["." + address.rpartition(".")[2]]), address
        assert headers["content-security-policy"].startswith("default-src 'self'"), address
        assert headers["x-content-type-options"] == "nosniff" and headers["cache-control"] == "no-cache"
    assert not re.search(r"<script(?![^>]*src=)|<style|\son\w+=|style=", source)


def test_what_the_page_asks_first(server):
    assert server.get("/page.json")[1] == {
        "model": MODEL,
        "chats": True,
        "max_model_len": server.service.model.max_length,
        "version": glm.__version__,
        "needs_key": False,
        "thinking": None,
        "defaults": {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0},
    }


def test_the_page_needs_no_key_and_says_that_the_server_does():
    with live(kind="glm-tiny-chinese", settings=Settings(keys=("k",))) as server:
        assert server.send("GET", "/")[0] == 200 and server.send("GET", "/v1/models")[0] == 401
        info = server.get("/page.json")[1]
        assert info["needs_key"] and not info["chats"]


def test_the_models_own_defaults_are_told(server, monkeypatch):
    """What the page shows as a default is what a request without it does."""
    processor = server.service.model.processor
    for given, temperature in (({"do_sample": False}, 0), ({"do_sample": True, "temperature": 0.8}, 0.8)):
        monkeypatch.setattr(processor, "generation", GenerationFile(given | {"top_p": 0.7}))
        defaults = server.get("/page.json")[1]["defaults"]
        assert (defaults["temperature"], defaults["top_p"]) == (temperature, 0.7)


def language(name: str) -> dict[str, set[str]]:
    """The texts of a language, as the {names} that each fills in."""
    [block] = re.findall(rf"^const {name} = {{\n(.*?)^}};", TEXTS, re.MULTILINE | re.DOTALL)
    entries = re.findall(r'^  (\w+): "((?:[^"\\]|\\.)+)",$', block, re.MULTILINE)
    assert len(entries) == len(block.splitlines())
    assert len({key for key, _ in entries}) == len(entries)
    return {key: set(re.findall(r"\{(\w+)\}", text)) for key, text in entries}


def test_both_languages_say_the_same():
    assert language("en") == language("zh")


@pytest.mark.parametrize("path", OWN, ids=lambda path: path.name)
def test_files_are_short(path):
    assert len(path.read_text("utf-8").splitlines()) < 400
