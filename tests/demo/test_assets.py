"""The demo's files: pinned, checked, prepared once, and clear words where they cannot be had."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import importlib.util
import json
import subprocess
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from rewarm import signals
from rewarm.demo.assets import cache_folder, fetch, pinned
from rewarm.demo.wheels import Asset, by_hand, ensure_wheel, members
from rewarm.errors import Stopped, UserError
from rewarm.progress import Silent

LAW = "Điều 1. Phạm vi\nLuật này quy định...\nĐie\u0302\u0300u 2. Không phải NFC \n"
WIKI = {
    "Apple": {"title": "Apple", "extract": "An apple is a fruit.\nIt grows."},
    "Bow": {"title": "Bow", "extract": "A bow bends — often."},
}


def write_wheel(folder: Path, package: str, content: dict[str, bytes]) -> Path:
    """A wheel that pip accepts."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{package}-1.0-py3-none-any.whl"
    info = f"{package}-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in content.items():
            archive.writestr(name, data)
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\nRequires-Dist: a-package-nobody-has\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return path


def asset(name: str, wheel: Path, *patterns: str) -> Asset:
    data = wheel.read_bytes()
    package = wheel.name.split("-")[0]
    return Asset(name, package, "1.0", wheel.name, hashlib.sha256(data).hexdigest(), len(data), "MIT", "a small one", patterns)


@pytest.fixture
def shop(tmp_path):
    """(folder of wheels, three assets like the demo's)."""
    folder = tmp_path / "shop"
    base = write_wheel(folder, "rw_base", {"rw_base/tiny.gguf": b"GGUF" + bytes(1000), "rw_base/__init__.py": b"raise SystemExit('run')"})
    law = {"metadata": {}, "tree": {}, "raw_text": LAW}
    codes = {f"rw_law/documents/{n}.json.gz": gzip.compress(json.dumps(law | {"raw_text": LAW + n}).encode(), mtime=0) for n in ("a", "b")}
    vietnamese = write_wheel(folder, "rw_law", codes)
    english = write_wheel(folder, "rw_wiki", {"rw_wiki/data/en.json": json.dumps(WIKI).encode(), "rw_wiki/data/fr.json": b"{}"})
    return folder, (
        asset("base", base, "rw_base/*.gguf"),
        asset("vietnamese", vietnamese, "rw_law/documents/*.json.gz"),
        asset("english", english, "rw_wiki/data/en.json"),
    )


class Shop:
    """A download that copies from a folder and counts."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.calls = folder, []

    def __call__(self, command: list[str]) -> subprocess.CompletedProcess[str]:
        wanted = command[-1]
        self.calls.append(wanted)
        wheel = f"{wanted.replace('==', '-')}-py3-none-any.whl"
        Path(command[command.index("-d") + 1], wheel).write_bytes((self.folder / wheel).read_bytes())
        return subprocess.CompletedProcess(command, 0, "", "")


class Bars(Silent):
    """How far each bar went."""

    def __init__(self) -> None:
        super().__init__()
        self.done: dict[str, float] = {}

    @contextlib.contextmanager
    def bar(self, label, total, unit):
        def advance(amount=1, note=""):
            self.done[label] = self.done.get(label, 0) + amount

        yield SimpleNamespace(advance=advance)


def pinned_members(assets: tuple[Asset, ...]) -> tuple[Asset, ...]:
    """The base's member by its name, as the demo's own list has it."""
    first = assets[0]
    return (Asset(**{**{f: getattr(first, f) for f in first.__slots__}, "members": ("rw_base/tiny.gguf",)}), *assets[1:])


def test_the_files_are_prepared_for_the_recipe(shop, tmp_path):
    """The law text stays as published (the corpus room cuts and normalises it); of the wheels only the needed members are read."""
    folder, assets = shop[0], pinned_members(shop[1])
    got = fetch(tmp_path / "cache", Silent(), assets, Shop(folder))
    assert got.folder == tmp_path / "cache" / "demo" and got.base == got.folder / "base" / "tiny.gguf"
    assert got.base.read_bytes() == b"GGUF" + bytes(1000)
    assert {path.name: path.read_text() for path in got.vietnamese.iterdir()} == {"a.txt": LAW + "a", "b.txt": LAW + "b"}
    rows = [json.loads(line) for line in got.english.read_text().splitlines()]
    assert rows == [{"id": f"0000{i}", "title": w["title"], "text": w["extract"]} for i, w in enumerate(WIKI.values())]
    assert got.licences == {"base": "MIT", "vietnamese": "MIT", "english": "MIT"}
    assert sorted(p.name for p in got.folder.rglob("*") if p.is_file()) == [
        "a.txt",
        "b.txt",
        "prepared.json",
        "tiny.gguf",
        "wikipedia.jsonl",
    ]


def test_a_second_call_does_nothing(shop, tmp_path):
    """`rewarm demo` looks at its files on every start."""
    folder, assets = shop[0], pinned_members(shop[1])
    first, again = Shop(folder), Shop(folder)
    fetch(tmp_path / "cache", Silent(), assets, first)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*")}
    said = Silent()
    fetch(tmp_path / "cache", said, assets, again)
    assert len(first.calls) == 3 and not again.calls and not said.lines
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*")} == before


def test_a_changed_or_lost_file_is_made_again_without_a_download(shop, tmp_path):
    """Size, time and sha256 are recorded: an edit of the same length is seen too, a mere touch is not taken for one."""
    folder, assets = shop[0], pinned_members(shop[1])
    got = fetch(tmp_path / "cache", Silent(), assets, Shop(folder))
    text = got.vietnamese / "a.txt"
    whole = text.read_bytes()
    text.write_bytes(b"X" + whole[1:])
    got.english.unlink()
    again = Shop(folder)
    fetch(tmp_path / "cache", Silent(), assets, again)
    assert text.read_bytes() == whole and got.english.is_file() and not again.calls
    stamp = got.base.stat().st_ino
    text.touch()
    fetch(tmp_path / "cache", Silent(), assets, again)
    assert got.base.stat().st_ino == stamp


def test_another_list_of_wheels_prepares_anew(shop, tmp_path):
    """A later version of rewarm with other pins must not take old files for its own."""
    folder, assets = shop[0], pinned_members(shop[1])
    fetch(tmp_path / "cache", Silent(), assets, Shop(folder))
    other = write_wheel(tmp_path / "shop2", "rw_wiki", {"rw_wiki/data/en.json": json.dumps({"A": WIKI["Bow"]}).encode()})
    changed = (*assets[:2], asset("english", other, "rw_wiki/data/en.json"))
    got = fetch(tmp_path / "cache", Silent(), changed, Shop(tmp_path / "shop2"))
    assert [json.loads(line)["title"] for line in got.english.read_text().splitlines()] == ["Bow"]


def test_a_file_with_another_sha256_is_refused_and_removed(shop, tmp_path):
    """What an index or a proxy swaps under a known name must never reach the run."""
    folder, (base, *_) = shop
    wrong = Asset(**{**{f: getattr(base, f) for f in base.__slots__}, "sha256": "0" * 64})
    with pytest.raises(UserError) as error:
        ensure_wheel(wrong, tmp_path / "wheels", Silent(), "HINT", Shop(folder))
    assert base.sha256 in error.value.render() and "0" * 64 in error.value.render() and "HINT" in error.value.render()
    assert not list((tmp_path / "wheels").rglob("*"))


def test_what_a_killed_download_left_is_swept(shop, tmp_path):
    """93 MB a try would fill a cache that nobody looks into."""
    folder, (base, *_) = shop
    left = tmp_path / "wheels" / f"{base.wheel}.tmp-999999999"
    left.mkdir(parents=True)
    (left / "part").write_bytes(bytes(100))
    ensure_wheel(base, tmp_path / "wheels", Silent(), "", Shop(folder))
    assert [path.name for path in (tmp_path / "wheels").iterdir()] == [base.wheel]


def test_a_damaged_wheel_in_the_cache_is_fetched_anew(shop, tmp_path):
    """A cut-off copy of before heals itself, and says so."""
    folder, (base, *_) = shop
    (tmp_path / "wheels").mkdir()
    (tmp_path / "wheels" / base.wheel).write_bytes((folder / base.wheel).read_bytes()[:-7])
    said = Silent()
    path = ensure_wheel(base, tmp_path / "wheels", said, "", Shop(folder))
    assert path.read_bytes() == (folder / base.wheel).read_bytes()
    assert "damaged" in said.warnings[0]


def test_pip_itself_fetches_a_pinned_wheel(shop, tmp_path, monkeypatch):
    """The real command line, against an index that is a folder; the package's own requirements are not followed, its code is not run."""
    folder, assets = shop[0], pinned_members(shop[1])
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    said = Bars()
    got = fetch(tmp_path / "cache", said, assets)
    assert got.base.is_file() and got.english.is_file()
    assert said.done == {one.package: one.bytes for one in assets}


def test_offline_says_what_is_missing_and_where_to_put_it(shop, tmp_path, monkeypatch):
    """No traceback of pip: the packages, the command for another machine, the folder; what is there already is not asked for."""
    folder, assets = shop[0], pinned_members(shop[1])
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    wheels = tmp_path / "cache" / "wheels"
    wheels.mkdir(parents=True)
    (wheels / assets[1].wheel).write_bytes((folder / assets[1].wheel).read_bytes())
    with pytest.raises(UserError) as error:
        fetch(tmp_path / "cache", Silent(), assets)
    told = error.value.render()
    assert "offline" in told and "`pip download --no-deps rw_base==1.0 rw_wiki==1.0`" in told and str(wheels) in told
    assert "Traceback" not in told and not (tmp_path / "cache" / "demo").exists()
    for one in assets:
        (wheels / one.wheel).write_bytes((folder / one.wheel).read_bytes())
    assert fetch(tmp_path / "cache", Silent(), assets).base.is_file()  # placed by hand: no pip is needed


def test_a_python_without_pip_says_so(shop, tmp_path, monkeypatch):
    """Environments that uv makes have none."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="no pip") as error:
        ensure_wheel(shop[1][0], tmp_path / "wheels", Silent(), "HINT")
    assert "ensurepip" in error.value.render() and sys.executable in error.value.render()


def test_an_index_that_serves_another_file_is_told(shop, tmp_path):
    """A wheel for one platform or a renamed one would otherwise show as a missing file later."""

    def other(command: list[str]) -> subprocess.CompletedProcess[str]:
        Path(command[command.index("-d") + 1], "other-1.0.whl").write_bytes(b"x")
        return subprocess.CompletedProcess(command, 0, "", "")

    with pytest.raises(UserError, match=r"other-1\.0\.whl instead of"):
        ensure_wheel(shop[1][0], tmp_path / "wheels", Silent(), "", other)


def test_a_stop_ends_the_download(shop, tmp_path, monkeypatch):
    """Ctrl-C while 93 MB come in must not wait for them, and leaves nothing half done."""
    stub = tmp_path / "site" / "pip"
    stub.mkdir(parents=True)
    (stub / "__init__.py").touch()
    (stub / "__main__.py").write_text("import time\ntime.sleep(60)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
    asked = iter([None, "SIGINT"])
    monkeypatch.setattr("rewarm.demo.wheels.stop_requested", lambda: (name := next(asked)) and (signals.request_stop(name) or name))
    try:
        with pytest.raises(Stopped):
            ensure_wheel(shop[1][0], tmp_path / "wheels", Silent(), "")
    finally:
        signals.clear_stop()
    assert not list((tmp_path / "wheels").iterdir())


@pytest.mark.parametrize("name", ["law/documents/../../evil.json.gz", "/law/documents/evil.json.gz", "law/documents/..\\evil.json.gz"])
def test_a_member_that_climbs_is_never_unpacked(tmp_path, name):
    """`*` alone would match the dots and the slashes of a path that leaves its folder."""
    path = tmp_path / "x.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("law/documents/good.json.gz", b"1")
        entry = zipfile.ZipInfo("placeholder")
        entry.filename = name
        archive.writestr(entry, b"2")
    assert [(found, file.read()) for found, file in members(path, ("law/documents/*.json.gz",))] == [("good.json.gz", b"1")]
    with pytest.raises(UserError, match="holds no"):
        list(members(path, ("*.json.gz",)))


def test_links_and_two_members_of_one_name_are_refused(tmp_path):
    """A link could point anywhere; the second of two would overwrite the first."""
    link = zipfile.ZipInfo("a/x.txt")
    link.external_attr = 0o120777 << 16
    for entries in ([(link, b"/etc/passwd")], [("a/x.txt", b"1"), ("b/x.txt", b"2")]):
        path = tmp_path / f"{len(entries)}.whl"
        with zipfile.ZipFile(path, "w") as archive:
            for entry, data in entries:
                archive.writestr(entry, data)
        with pytest.raises(UserError, match="no file to unpack"):
            list(members(path, ("a/*.txt", "b/*.txt") if len(entries) > 1 else ("a/*.txt",)))


def test_a_wheel_with_other_content_is_a_clear_error(shop, tmp_path):
    """The right sha256 with the wrong pattern or field is our fault or a changed pin; either way no traceback."""
    folder, assets = shop[0], pinned_members(shop[1])
    bad = write_wheel(tmp_path / "bad", "rw_wiki", {"rw_wiki/data/en.json": b'{"A": {"title": "no extract"}}'})
    with pytest.raises(UserError, match="cannot be read"):
        fetch(tmp_path / "c", Silent(), (asset("english", bad, "rw_wiki/data/en.json"),), Shop(tmp_path / "bad"))
    assert not (tmp_path / "c" / "demo" / "prepared.json").exists()
    assert folder.is_dir() and by_hand(assets, tmp_path).count("==") == 3


def test_the_cache_is_where_the_user_wants_it(monkeypatch, tmp_path):
    monkeypatch.setenv("REWARM_CACHE", str(tmp_path / "a"))
    assert cache_folder() == tmp_path / "a"
    monkeypatch.delenv("REWARM_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "b"))
    assert cache_folder() == tmp_path / "b" / "rewarm"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "c"))
    assert cache_folder() == tmp_path / "c" / ".cache" / "rewarm"


def test_the_pins_are_whole():
    """A pin without a sha256 is none; the base's member must be one file, since its name becomes the recipe's."""
    assets = pinned()
    assert [a.name for a in assets] == ["base", "vietnamese", "english"]
    for one in assets:
        assert len(one.sha256) == 64 and int(one.sha256, 16) and one.bytes > 0 and one.licence
        assert one.wheel == f"{one.package.replace('-', '_')}-{one.version}-py3-none-any.whl"
    assert "*" not in assets[0].members[0]
