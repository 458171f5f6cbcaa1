"""Text that others wrote is shown and never run, in the file and in a real browser; the page loads nothing."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from html.parser import HTMLParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pytest

MARK = "0123456789ab"
RUN = "document.documentElement.dataset.hacked=1"
HOSTILE = (
    f"x | y <img src=x onerror={RUN}> <script>{RUN}</script></style></title></textarea><!-- </script><script>{RUN}</script>"
    f"\" onmouseover={RUN} ' autofocus onfocus={RUN} '\u202eevil\u2066 \x1b[2J \ud800 {{{{ 7*7 }}}} {{% raw %}} javascript:{RUN} &lt;b&gt;"
)
STRUCTURE = {"step", "role", "half", "verdict", "event", "stages", "model"}
"""Keys whose values rewarm itself chooses: steps, roles, folders."""
NAMES = {"vi_law", "en_wiki", "bytes_per_token.vi", "python"}
"""Keys that are names which a user chose."""
ELEMENTS_WITH_ADDRESSES = {"src", "href", "srcset", "data", "action", "poster", "formaction", "xlink:href", "background"}


def poisoned(value, text, key=""):
    """The value with hostile text after every string and every name that a user or a model could have chosen."""
    if key in STRUCTURE:
        return value
    if isinstance(value, dict):
        return {(k + text if k in NAMES else k): poisoned(v, text, k) for k, v in value.items()}
    if isinstance(value, list):
        return [poisoned(entry, text, key) for entry in value]
    return value + text if isinstance(value, str) else value


def poison(files, text=HOSTILE):
    """Every file of the run poisoned; a source has the same name everywhere, so that the page still finds it."""
    out = {}
    for name, value in files.items():
        if name.endswith("tokenizer.json"):
            out[name] = value
        elif name.endswith(".tsv"):
            out[name] = "id\ttoken\ttext\tparts\tuses\n1\tx\t" + text.replace("\ud800", "") + "\tx\t5\n"
        else:
            out[name] = value + text.replace("\ud800", "") if isinstance(value, str) else poisoned(value, text)
    return out


class Elements(HTMLParser):
    """Every element with its attributes."""

    def __init__(self, page):
        super().__init__()
        self.found = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))


def check_harmless(page):
    """Only the elements that the template has, no event attribute, no inline style, no address but a place on this page."""
    found = Elements(page).found
    tags = [tag for tag, _ in found]
    assert tags.count("script") == 2 and tags.count("style") == 1 and tags.count("meta") == 5
    assert not {"img", "iframe", "object", "embed", "link", "base", "form", "input", "textarea", "b-", "audio", "video"} & set(tags)
    for tag, attributes in found:
        for name, value in attributes.items():
            assert not name.startswith("on") and name != "style", (tag, name)
            if name in ELEMENTS_WITH_ADDRESSES:
                assert value.startswith("#"), (tag, name, value)


def test_a_clean_page_loads_nothing(page_of, files):
    """No network: every address is a place on the page, the style sheet imports nothing, and the policy allows nothing else."""
    page = page_of(files).html
    check_harmless(page)
    style = re.search(r"<style>(.*?)</style>", page, re.DOTALL)[1]
    assert "url(" not in style and "@import" not in style and "http" not in page.replace("http-equiv", "")


def test_the_policy_allows_this_style_and_this_script_by_their_hashes(page_of, files):
    """A wrong hash would leave the page bare; a policy with 'unsafe-inline' would allow what it is there to stop."""
    page = page_of(files).html
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)[1].replace("&#39;", "'")
    for kind, content in (("style", r"<style>(.*?)</style>"), ("script", r"<script>(.*?)</script>")):
        body = re.search(content, page, re.DOTALL)[1]
        assert f"{kind}-src 'sha256-{base64.b64encode(hashlib.sha256(body.encode()).digest()).decode()}'" in policy
    assert "default-src 'none'" in policy and "unsafe" not in policy


def test_hostile_text_in_every_file_is_shown_and_not_markup(page_of, files):
    """Source names, samples, warnings, licences, versions, hashes: whatever stands in a run's files may come from anybody."""
    page = page_of(poison(files))
    check_harmless(page.html)
    assert page.html.count("&lt;script&gt;") > 50
    assert "\u202e" not in page.html and "\u2066" not in page.html and "\x1b" not in page.html
    assert "&lt;U+202E&gt;evil&lt;U+2066&gt;" in page.html and "&lt;U+D800&gt;" in page.html
    assert "{{ 7*7 }}" in page.html, "text is never a template"


def test_the_data_in_the_page_is_json_that_ends_no_script(page_of, files):
    """`</script>` and `<!--` in a JSON string would end the element or swallow the rest of the page."""
    page = page_of(poison(files)).html
    body = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)[1]
    assert "<" not in body and body.isascii()
    assert any(HOSTILE in note for note in json.loads(body)["summary"]["notes"])


@pytest.fixture
def server():
    """A server on this machine; `asked` holds every path that anybody asked it for."""
    asked = []

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *arguments):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as httpd:
        thread = threading.Thread(target=httpd.serve_forever)
        thread.start()
        yield SimpleNamespace(url=f"http://127.0.0.1:{httpd.server_port}", asked=asked)
        httpd.shutdown()
        thread.join()


def attacks(url):
    """Markup of every kind that runs a script or loads something without anybody's doing, or when it is touched."""
    return " ".join(
        [
            f"<script>{RUN}</script><script src={url}/script></script><img src={url}/img onerror={RUN}><img src=x onerror={RUN}>",
            f"<svg onload={RUN}><image href={url}/svg /><script>{RUN}</script><animate onbegin={RUN} attributeName=x dur=1s /></svg>",
            f"<link rel=stylesheet href={url}/style><style>@import '{url}/import'; body {{background: url({url}/background)}}</style>",
            f"<iframe src={url}/frame></iframe><iframe src='javascript:parent.{RUN}'></iframe>",
            f"<iframe srcdoc='<script>parent.{RUN}</script>'></iframe>",
            f"<a id=trap href='javascript:{RUN}'>click</a><details open ontoggle={RUN}>x</details><input autofocus onfocus={RUN}>",
            f"<object data={url}/object></object><embed src={url}/embed><video poster={url}/poster src={url}/video autoplay></video>",
            f"<p onclick={RUN} onpointermove={RUN}>x</p><meta http-equiv=refresh content='0.1; url={url}/refresh'><base href={url}/base/>",
        ]
    )


def test_a_browser_runs_and_loads_what_stands_in_a_page_that_does_not_escape(browser, server, tmp_path):
    """The control: what the next test finds missing on the report, this browser does where it can."""
    page = tmp_path / "bare.html"
    page.write_text(f"<!doctype html><body><p>{attacks(server.url).replace('<meta http-equiv=refresh', '<meta name=refresh')}")
    seen = browser.open(page)
    assert "data-hacked" in seen.dom
    assert {"/script", "/img", "/svg", "/style", "/import", "/background", "/frame", "/poster"} <= set(server.asked)
    assert any(url.startswith(server.url) for url in seen.requests)


@pytest.mark.parametrize("width, dark", [(1200, False), (390, True)])
def test_a_browser_runs_the_page_and_none_of_the_hostile_text(page_of, browser, server, files, width, dark):
    """The last word is a browser's: it builds the elements, every one is touched, and what ran would have marked the document."""
    seen = browser.open(page_of(poison(files, attacks(server.url))).path, width, dark)
    assert seen.console == [] and seen.requests == [] and server.asked == []
    assert "data-hacked" not in seen.dom and seen.dom.count("<script") == 2
    assert "&lt;img src=x onerror=" in seen.dom and "&lt;svg onload=" in seen.dom and "&lt;a id=trap href='javascript:" in seen.dom
    assert seen.width <= width
    check_harmless(seen.dom)


@pytest.mark.parametrize("width", [1200, 390, 320])
def test_a_browser_draws_the_data_by_day_and_night_and_on_a_phone(page_of, browser, files, width):
    """Every plot has its marks, each answers a finger with its numbers, and nothing has to be pushed sideways."""
    page = page_of(files)
    for dark, paper in ((False, "rgb(255, 255, 255)"), (True, "rgb(20, 23, 27)")):
        seen = browser.open(page.path, width, dark)
        assert seen.console == [] and seen.requests == [] and seen.paper == paper
        assert seen.width <= width == seen.window
        assert seen.dom.count('class="mark') + seen.dom.count('class="near mark') == page.html.count('class="mark') > 48
        said = re.findall(r'<p class="said">(.*?)</p>', seen.dom)
        assert len(said) == 7 and all(re.search(r"\d", one) for one in said), said


def test_the_poisoned_page_has_the_data_of_the_clean_one(page_of, browser, files):
    """Hostile names must not cost a plot its marks."""
    clean, poisoned = (browser.open(page_of(content).path).dom.count('class="mark') for content in (files, poison(files)))
    assert clean == poisoned > 48
