"""The preview as HTML: well-formed, with everything in it, and no value is taken for markup."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

import pytest

from beam_jobs.samples.preview import Preview, preview_of
from tests.unit.samples.payments import HOSTILE, write_events, write_use_case

VOID = {"meta", "br", "rect", "img"}


class Page(HTMLParser):
    """Checks that elements close in the order in which they open; keeps the texts and attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data + "\n"


@pytest.fixture(scope="module")
def previews(tmp_path_factory: pytest.TempPathFactory) -> tuple[Preview, Preview]:
    """Of plain values, and of hostile ones."""
    folder = tmp_path_factory.mktemp("page")
    use_case = write_use_case(folder / "cards")
    plain, hostile = (
        preview_of(use_case, write_events(folder / f"{name}.jsonl", merchant=text))
        for name, text in (("plain", "esso"), ("hostile", HOSTILE))
    )
    return plain, hostile


def test_it_is_one_well_formed_page_that_loads_nothing(previews: tuple[Preview, Preview]) -> None:
    page = Page(previews[0].html())
    assert not {"script", "link", "iframe", "img"} & set(page.tags)
    assert not [name for name, _ in page.attributes if name in ("src", "href") or name.startswith("on")]
    for said in (
        "200 rows of plain.jsonl",
        "amount is -5 EUR",
        "[window:0:0]",
        "WINDOW hour AS",
        "age_about",
        "personal",
    ):
        assert said in page.text
    charts = [value for name, value in page.attributes if name == "aria-label" and value and "histogram" in value]
    assert any(value.startswith("histogram of payments, 1 to ") for value in charts)
    assert len(charts) == page.tags.count("svg")
    assert page.attributes.count(("role", "img")) == len(charts)


def test_hostile_values_change_texts_alone(previews: tuple[Preview, Preview]) -> None:
    plain, hostile = (Page(preview.html()) for preview in previews)
    assert hostile.tags == plain.tags
    assert [name for name, _ in hostile.attributes] == [name for name, _ in plain.attributes]
    assert "<b onload" in hostile.text
    assert not set("\x1b\x00\u202e") & set(previews[1].html())


def test_a_notebook_gets_a_part_whose_style_stays_with_it(previews: tuple[Preview, Preview]) -> None:
    part = previews[0]._repr_html_()
    Page(part)
    assert part.startswith("<div class='highbeam'><style>.highbeam{")
    for of_pages in ("body{", ":root", "<html", "<h1"):
        assert of_pages not in part
    assert "looked at   200 rows" in repr(previews[0])


def test_it_says_nothing_of_this_machine(previews: tuple[Preview, Preview], tmp_path: Path) -> None:
    assert str(tmp_path.parent.parent) not in previews[0].html()
