import base64
import json
import re
import zlib
from html.parser import HTMLParser

import numpy as np
import pytest

from penstock.view.html import SCRIPTS, Curve, Table, page

EVIL = '</script><script>alert(1)</script> & "quoted" <b> {{data}}'


class _Reader(HTMLParser):
    """Collects text, tags and the script elements' bodies."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.scripts: dict[str, str] = {}
        self.words: list[str] = []
        self._into: str | None = None
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self._into = dict(attrs).get("id") or "main" if tag == "script" else None

    def handle_endtag(self, tag: str) -> None:
        self._into = None

    def handle_data(self, data: str) -> None:
        if self._into:
            self.scripts[self._into] = self.scripts.get(self._into, "") + data
        else:
            self.words.append(data)


def _array(reader: _Reader, name: str, timeline: int = 0) -> np.ndarray:
    header = json.loads(reader.scripts["header"])
    block = zlib.decompress(base64.b64decode(reader.scripts["data"]))
    place = header["timelines"][timeline]["arrays"][name]
    dtype = {"Float64Array": "<f8", "Int32Array": "<i4", "Uint8Array": "u1"}[place["type"]]
    assert place["at"] % 8 == 0
    return np.frombuffer(block, dtype, place["length"], place["at"])


def test_arrays_come_back_as_they_were(make) -> None:
    timeline = make("zb-h1", ranks=4, micros=8, sends=True, link_s=0.1)
    reader = _Reader(page([timeline], "t"))
    np.testing.assert_array_equal(_array(reader, "start"), timeline.start_s)
    np.testing.assert_array_equal(_array(reader, "waitedFor"), timeline.waited_for)
    np.testing.assert_array_equal(_array(reader, "kind"), timeline.plan.ops[:, 0])
    np.testing.assert_array_equal(_array(reader, "first"), timeline.plan.first)
    first = _array(reader, "memoryFirst")
    buffers = _array(reader, "buffers")[first[2] : first[3]]
    np.testing.assert_array_equal(buffers, timeline.memory[2].buffer_bytes)


def test_text_of_any_kind_stays_text(make) -> None:
    curve = Curve(EVIL, np.arange(2.0), np.arange(2.0), chart=EVIL)
    tables = [Table(EVIL, (EVIL, "b"), [(EVIL, EVIL)])]
    reader = _Reader(page([make(label=EVIL)], EVIL, facts=tables, curves=[curve]))
    assert set(reader.scripts) == {"header", "data", "main"}
    assert "b" not in reader.tags
    assert reader.words.count(EVIL) == 2 + 1 + 1 + 2  # page title and heading, caption, column, row
    assert json.loads(reader.scripts["header"])["timelines"][0]["label"] == EVIL


def test_facts_as_names_and_values(make) -> None:
    text = page([make()], "t", facts={"model": "tiny", "tokens per second": "12"})
    assert "<dt>model</dt><dd>tiny</dd>" in text
    assert '<div id="facts"></div>' in page([make()], "t")


def test_curves_must_be_whole(make) -> None:
    with pytest.raises(ValueError, match="curve 'loss': x has 2 points, y has 3"):
        page([make()], "t", curves=[Curve("loss", np.arange(2.0), np.arange(3.0))])


def test_page_refers_to_nothing_outside(make) -> None:
    text = page([make()], "t")
    assert "default-src 'none'" in text
    assert not re.search(r"""(?:src|href)\s*=|url\(|@import|https?://|\bimport\b|\bfetch\(""", text)


def test_scripts_stay_small() -> None:
    from importlib.resources import files

    for name in (*SCRIPTS, "page.css", "page.html"):
        assert len(files("penstock.view").joinpath("page", name).read_text("utf-8").splitlines()) <= 300
