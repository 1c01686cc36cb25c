"""A card as a page to look at before it is published, much as the Hub shows it; without scripts, and without any request."""

from __future__ import annotations

import html
import re

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 48rem; margin: 2rem auto; padding: 0 1rem; color: #1f2937; }
pre, code { font-family: ui-monospace, monospace; font-size: .875em; background: #f3f4f6; border-radius: 4px; }
pre { padding: .75rem 1rem; overflow: auto; } code { padding: .1em .3em; overflow-wrap: anywhere; } pre code { padding: 0; }
table { border-collapse: collapse; } th, td { border: 1px solid #d1d5db; padding: .3rem .7rem; text-align: left; }
img { max-width: 100%; } summary { color: #6b7280; cursor: pointer; } .metadata { color: #4b5563; border-left: 4px solid #d1d5db; }
@media (prefers-color-scheme: dark) {
  body { background: #111827; color: #e5e7eb; } pre, code { background: #1f2937; } a { color: #93c5fd; }
  th, td, .metadata { border-color: #4b5563; } img { background: white; }
}
"""
_POLICY = "default-src 'none'; img-src 'self' file:; style-src 'unsafe-inline'"
_METADATA = re.compile(r"\A---\n(.*?)\n---\n", re.DOTALL)


def preview_page(card: str, title: str) -> str:
    """The HTML of a card, metadata first; raw HTML in it is shown as text."""
    from markdown_it import MarkdownIt

    found = _METADATA.match(card)
    shown = f'<pre class="metadata">{html.escape(found[1])}</pre>' if found else ""
    metadata = f"<details>\n<summary>The metadata that the Hub reads</summary>\n{shown}\n</details>" if shown else ""
    body = MarkdownIt("commonmark", {"html": False}).enable("table").render(card[found.end() :] if found else card)
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n{metadata}\n{body}</body>\n</html>\n"
    )
