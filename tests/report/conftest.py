"""A finished run by hand: every file that the report reads, with numbers that are easy to find again."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from rewarm.report.page import report_page

MARK = "0123456789ab"
STAGES = ("base", "corpus", "vocab", "tokens", "rows", "train", "mixback", "evaluate", "export")
WARNING, NOTE = "only 4.8 MB of protected text", "the base is a 4-bit file"
STEPS = 12
TOUCH = """
for (const details of document.querySelectorAll("details")) details.open = true;
for (const element of document.querySelectorAll("body *"))
  for (const kind of ["pointerover", "mouseover", "pointermove", "focus", "focusin", "pointerdown", "click"])
    element.dispatchEvent(new MouseEvent(kind, {bubbles: true, cancelable: true, clientX: 9, clientY: 9}));
"""


@dataclass(frozen=True)
class Page:
    """A report: its file, its HTML, and what `report_page` returned."""

    path: Path
    html: str
    result: dict[str, Any]


@dataclass(frozen=True)
class Browsed:
    """A page in a browser: the DOM after its scripts ran and every element was touched, what the console said, the addresses that were
    asked for besides the page's own, the width of what is shown and of the window in pixels, and the colour of the paper."""

    dom: str
    console: list[str]
    requests: list[str]
    width: int
    window: int
    paper: str


def text(role: str, before: float, after: float, low: float | None, high: float | None, verdict: str) -> dict[str, Any]:
    bits = {"before": before, "extended": before + 0.5, "after": after, "delta": after - before, "low": low, "high": high}
    return {
        "role": role, "half": "verify", "documents": 16, "bytes": 21845, "bits_per_byte": bits, "verdict": verdict, "budget": None,
        "bytes_per_token": {"before": 1.62, "extended": 4.61, "after": 4.61 if role == "new" else 1.62},
    }  # fmt: skip


def tokenizer_json(merges: list[tuple[str, str]]) -> str:
    """A byte-level tokenizer of the 256 bytes and these merges (in the letters of byte-level tokenizers)."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: i for i, token in enumerate([*letters, *(a + b for a, b in merges)])}
    made = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    return made.to_str()


def funnel(source: str, read: int, short: int, heldout: int, contaminated: int) -> list[dict[str, Any]]:
    kept = read - short - heldout - contaminated
    steps = {"read": read, "empty": 0, "short": short, "exact_duplicate": 0, "heldout": heldout, "contaminated": contaminated, "kept": kept}
    return [{"source": source, "step": step, "documents": n, "bytes": n * 1000} for step, n in steps.items()]


def fertility_row(size: int, tokens: int, density: float, after: int, density_after: float) -> dict[str, Any]:
    sides = {"before": {"tokens": tokens, "bytes_per_token": density}, "after": {"tokens": after, "bytes_per_token": density_after}}
    return {"bytes": size, **sides}


def run_files() -> dict[str, Any]:
    """Path in the run folder -> content: text, a JSON value, or a list of lines of JSON for `.jsonl`."""
    sources = [
        {
            "name": "vi_law", "role": "new", "languages": ["vi"], "licence": "MIT", "bytes": 2234000, "rows": 6, "rejected": 0,
            "letters_judged": 1000, "letters_other_language": 340,
        },
        {"name": "en_wiki", "role": "replay", "languages": ["en"], "licence": None, "bytes": 9953000, "rows": 9, "rejected": 2},
    ]  # fmt: skip
    texts = {
        "vi_law": text("new", 1.3956, 1.0187, -0.5675, -0.1863, "learned"),
        "en_wiki": text("old", 0.8358, 0.8261, -0.0239, 0.0046, "no change seen"),
    }
    versions = {"python": "3.11.7", "torch": "2.13.0"}
    metrics = [
        {"step": s, "tokens": 1000 * s, "loss": 6 - s / 4, "sources": {n: {"bits_per_byte": 2 - s / 20} for n in ("vi_law", "en_wiki")}}
        for s in range(1, STEPS + 1)
    ]
    probes = [
        {
            "event": "probe", "time": 1795582682.0 + s, "step": s,
            "texts": {
                "vi_law": {"bits_per_byte": 2.1 - s / 10, "documents": 6},
                "en_wiki": {"bits_per_byte": 0.87, "documents": 8, "delta": 0.02, "low": None, "high": None},
            },
        }
        for s in (0, 6, 12)
    ]  # fmt: skip
    sample = {
        "text": "vi_law", "document": "c3b3#152", "prompt": "Điều 153. Nghĩa vụ", "reference": " theo luật",
        "continuations": {"base": " base says this", "after": " after says that"},
    }  # fmt: skip
    vocab_facts = {
        "extended": True, "new_tokens": 2068, "true_vocab": 51241, "protected": {"changed_lines": 4, "lines": 484},
        "bytes_per_token": {"vi_law": {"before": 1.61, "after": 4.55}},
    }  # fmt: skip
    summary = {
        "format": 1, "texts": texts, "warnings": [WARNING], "notes": [NOTE], "mixback": 0.9, "model": f"export-{MARK}/model",
        "peak_memory_gib": 4.425, "stages": {name: f"{name}-{MARK}" for name in STAGES}, "versions": versions,
        "sources": [{"name": "vi_law", "rows": 150, "epochs": 0.0855}, {"name": "en_wiki", "rows": 50, "epochs": 0.0122}],
        "vocabulary": vocab_facts,
    }  # fmt: skip
    train_facts = {
        "steps": 50, "tokens": 50599, "step_tokens": 1024, "seconds": 301.68, "tokens_per_second": 179.0, "device": "cpu",
        "precision": "fp32", "skipped": 0, "sources": {"vi_law": 37993, "en_wiki": 12606},
    }  # fmt: skip
    facts = {name: {"seconds": 10.0, "facts": {}, "versions": versions} for name in STAGES}
    facts["train"]["facts"] = train_facts
    facts["vocab"]["facts"] = vocab_facts
    facts["export"] = {
        "seconds": 10.0, "facts": {"model": "model", "prompt": "Điều 1. Phạm vi điều chỉnh"},
        "settings": {"base": {"name": "Small.Q4_1", "licence": "apache-2.0", "stored_as": {"Q4_1": 210, "F32": 61}}},
    }  # fmt: skip
    fertility = {"vi_law": fertility_row(38370, 23785, 1.6132, 8436, 4.5484), "en_wiki": fertility_row(38170, 8022, 4.7582, 8022, 4.7582)}
    content = {
        "base/model/tokenizer.json": tokenizer_json([("a", "n")]),
        "corpus/corpus.json": {"sources": sources, "funnel": [*funnel("vi_law", 2703, 0, 32, 437), *funnel("en_wiki", 10033, 3, 76, 1)]},
        "corpus/removed/short.jsonl": [{"id": "b1", "source": "en_wiki", "chars": 46, "text": "A shirt is a cloth garment."}],
        "corpus/removed/contaminated.jsonl": [{"id": "c1", "source": "vi_law", "passage": "bị phạt tù từ", "text": "Điều 301. Tội"}],
        "corpus/other_language.jsonl": [{"id": "c2", "source": "vi_law", "text": "Published in the official gazette."}],
        "corpus/report.md": "# Corpus\n",
        "vocab/report.json": {"texts": fertility},
        "vocab/curve.json": [{"new_tokens": n, "gain": 0.1, "bytes_per_token.vi": 1.6 + n / 1000} for n in (0, 500, 1000, 2068)],
        "vocab/gate.json": [{"number": 1, "name": "old ids stay", "ok": True}],
        "vocab/new_tokens.tsv": "id\ttoken\ttext\tparts\tuses\n257\tĠcÃ³\t có\tĠc Ã³\t6095\n",
        "vocab/model/tokenizer.json": tokenizer_json([("a", "n"), ("Ã", "¡"), ("Ġ", "Ã¡"), ("b", "o"), ("bo", "r"), ("r", "i")]),
        "tokens/index.json": {"sources": [{"name": "vi_law", "tokens": 447116}, {"name": "en_wiki", "tokens": 1046913}]},
        "rows/rows.json": {"row_tokens": 256, "sources": [{"name": "vi_law", "rows": 1755}, {"name": "en_wiki", "rows": 4106}]},
        "train/metrics.jsonl": metrics,
        "train/events.jsonl": probes,
        "train/plan.json": {"lr": 0.0006, "facts": {"parameters": 135768384, "methods": []}},
        "train/kernels.json": {"device": "cpu"},
        "mixback/mixback.json": {
            "alpha": 0.9, "reason": "no old text is above the base", "passed": True,
            "scored": [{"alpha": 1.0, "forgotten": {"en_wiki": 0.0144}, "new": {"vi_law": 1.0736}}],
        },
        "evaluate/results.json": {
            "texts": texts, "warnings": [], "device": "cpu-AVX2", "models": {"base": {"path": "gone", "weights_sha256": "be0a"}},
            "protocol": {"hash": "4eb4302d2957", "window": 4096, "unit": "characters", "dtype": "fp32"},
        },
        "evaluate/samples.jsonl": [sample],
        "export/SHA256SUMS": "b32e  model.safetensors\n",
        "export/model/config.json": {},
    }  # fmt: skip
    content |= {f"{name}/done.json": done for name, done in facts.items()}
    files = {f"{name.split('/')[0]}-{MARK}/{name.partition('/')[2]}": value for name, value in content.items()}
    named = [{"name": "vi_law", "paths": ["law/*.txt"]}, {"name": "en_wiki", "paths": ["wiki.jsonl"]}]
    recipe = {"name": "demo", "corpus": {"sources": named, "min_chars": 50, "decontaminate": {"ngram": 13}}}
    return {**files, "summary.json": summary, "recipe.json": recipe}


def write(folder: Path, files: dict[str, Any]) -> Path:
    for name, value in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith(".jsonl") and isinstance(value, list):
            value = "".join(json.dumps(line) + "\n" for line in value)
        path.write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")
    return folder


@pytest.fixture
def files() -> dict[str, Any]:
    """The run's files, to be changed by a test before it writes them."""
    return run_files()


@pytest.fixture
def page_of(tmp_path: Path) -> Callable[[dict[str, Any]], Page]:
    """Writes the files as a run folder and makes its page."""

    def make(content: dict[str, Any]) -> Page:
        folder = write(tmp_path / "run", content)
        result = report_page(folder, folder / "report.html")
        return Page(folder / "report.html", (folder / "report.html").read_text(encoding="utf-8"), result)

    return make


class Browser:
    """Chromium, headless, driven over a pipe by the DevTools protocol: no package and no port needed.

    Only addresses of `data:` and `file:` and this machine can be reached, so a test that fails fetches nothing from anywhere.
    """

    def __init__(self, program: str, profile: Path) -> None:
        (far_in, self._out), (self._in, far_out) = os.pipe(), os.pipe()

        redirect = f'exec "$@" 3<&{far_in} 4>&{far_out}'  # where the protocol reads commands and writes answers
        command = [
            program, "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-dev-shm-usage",
            "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", "--remote-debugging-pipe", f"--user-data-dir={profile}",
        ]  # fmt: skip
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self._process = subprocess.Popen(["bash", "-c", redirect, "bash", *command], pass_fds=(far_in, far_out), **quiet)
        os.close(far_in)
        os.close(far_out)
        self._number, self._rest = 0, b""

    def close(self) -> None:
        os.close(self._out)
        os.close(self._in)
        self._process.terminate()
        self._process.wait(30)

    def call(self, method: str, session: str | None = None, **params: Any) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """(the answer, the events that came before it)."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": params} | ({"sessionId": session} if session else {})
        os.write(self._out, json.dumps(message).encode() + b"\0")
        events = []
        while True:
            answer = self._read()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return answer["result"], events
            events.append(answer)

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._in], [], [], 60)
            block = os.read(self._in, 1 << 20) if ready else b""
            assert block, "Chromium says nothing"
            self._rest += block
        message, _, self._rest = self._rest.partition(b"\0")
        return json.loads(message)

    def open(self, page: Path, width: int = 1200, dark: bool = False, shot: Path | None = None) -> Browsed:
        """The page in a window of this width; every element is clicked and hovered over, so that what waits for that would run."""
        target = self.call("Target.createTarget", url="about:blank")[0]["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)[0]["sessionId"]
        events: list[dict[str, Any]] = []

        def ask(method: str, **params: Any) -> dict[str, Any]:
            answer, seen = self.call(method, session, **params)
            events.extend(seen)
            return answer

        def tell(expression: str) -> Any:
            found = ask("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)["result"]
            assert found.get("subtype") != "error", found
            return found.get("value")

        for domain in ("Page", "Runtime", "Network", "Log"):
            ask(f"{domain}.enable")
        ask("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 600)
        ask("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}])
        ask("Page.navigate", url=page.as_uri())
        while not any(e["method"] == "Page.loadEventFired" for e in events):
            events.append(self._read())
        sizes = tell("[document.documentElement.scrollWidth, innerWidth, getComputedStyle(document.body).backgroundColor]")
        if shot:
            whole = {"x": 0, "y": 0, "width": width, "height": tell("document.documentElement.scrollHeight"), "scale": 1}
            shot.write_bytes(base64.b64decode(ask("Page.captureScreenshot", captureBeyondViewport=True, clip=whole)["data"]))
        tell(TOUCH)
        tell("new Promise(done => setTimeout(done, 300))")
        dom = tell("document.documentElement.outerHTML")
        self.call("Target.closeTarget", targetId=target)
        asked = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
        said = [e["params"] for e in events if e["method"] in ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded")]
        return Browsed(dom, [json.dumps(one) for one in said], [url for url in asked if url != page.as_uri()], *sizes)


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """One Chromium for all tests; skips where none is installed."""
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None:
        pytest.skip("no Chromium is installed")
    started = Browser(program, tmp_path_factory.mktemp("chromium"))
    yield started
    started.close()
