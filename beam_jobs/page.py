"""Pages of HTML with everything in them: what all of them look like, and how texts of others get into them.

A page loads nothing, runs no script, and has the reader's own colours, light or dark.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path

from beam_jobs.errors import UserError

STYLE = """
:root{color-scheme:light dark}
body{font:15px/1.5 system-ui,sans-serif;margin:2em auto;max-width:1100px;padding:0 1em}
h2{margin-top:2em;border-bottom:1px solid #8886}
table{border-collapse:collapse;margin:1em 0}
td,th{border:1px solid #8888;padding:.3em .7em;text-align:left;vertical-align:top}
th{background:#8882}
th,.figures,.strangest td:first-child{white-space:nowrap}
td.figures,th.figures{text-align:right;font-variant-numeric:tabular-nums}
code,pre{background:#8882;font:13px/1.4 ui-monospace,monospace;overflow-wrap:anywhere;white-space:pre-wrap}
pre{padding:.6em}
.good{border-left:4px solid #3a7d44;padding:.3em .8em;background:#3a7d4418}
.bad{border-left:4px solid #c0392b;padding:.3em .8em;background:#c0392b18}
.wide{overflow-x:auto}
.rows td{white-space:nowrap}
details{margin:.2em 0}
summary{cursor:pointer}
img{max-width:100%;background:#fff}
"""


def page(title: str, body: str) -> str:
    """A whole page.

    Args:
      title: any text.
      body: HTML.
    """
    head = (
        f"<meta charset='utf-8'><meta name='viewport' content='width=device-width'><title>{html.escape(title)}</title>"
    )
    return (
        f"<!doctype html><html lang='en'><head>{head}<style>{STYLE}</style></head>"
        f"<body><h1>{html.escape(title)}</h1>{body}</body></html>\n"
    )


def write_page(file: str, text: str) -> None:
    """Writes what ``--html FILE`` asks for.

    Raises:
      UserError: it can't be written.
    """
    try:
        Path(file).write_text(text, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise UserError(f"--html {file}: {error.strerror}; name a file you may write") from error


def paragraph(text: str, style: str = "") -> str:
    """A paragraph; ``style`` is a class of STYLE."""
    return f"<p{f' class={style!r}' if style else ''}>{html.escape(text)}</p>"


def code(text: str) -> str:
    """Text as it was typed."""
    return f"<pre>{html.escape(text)}</pre>"


def table(rows: Sequence[Sequence[str]], header: bool = True) -> str:
    """A table of texts; the first row is its head, unless there is none."""
    lines: list[str] = []
    for i, row in enumerate(rows):
        lines.append("<tr>" + "".join(cell(text, "th" if header and i == 0 else "td") for text in row) + "</tr>")
    return f"<table>{''.join(lines)}</table>"


def cell(text: str, tag: str = "td", style: str = "") -> str:
    """A cell of a table."""
    return f"<{tag}{f' class={style!r}' if style else ''}>{html.escape(text)}</{tag}>"
