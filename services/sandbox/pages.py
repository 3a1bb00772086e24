"""The building blocks of the HTML pages that the sandbox shows to people. Titles, headings and hidden fields are
escaped; everything else must be HTML already, made with `text` from untrusted values."""

from collections.abc import Iterable
from html import escape

from fastapi.responses import HTMLResponse

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --accent: #3454d1; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 0 auto; padding: 1rem; }
nav { border-bottom: 1px solid var(--line); padding-bottom: .5rem; margin-bottom: 1.5rem; }
nav a { margin-right: 1.25rem; } nav strong { margin-right: 2rem; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; }
th, td { text-align: left; padding: .4rem .6rem; border-bottom: 1px solid var(--line); }
form.card, section.card { border: 1px solid var(--line); border-radius: .5rem; padding: 1rem; margin: 1rem 0; }
label { display: block; margin: .4rem 0; } label.inline { display: inline-block; margin-right: 1rem; }
input[type=text], input[type=email] { font: inherit; padding: .3rem .5rem; width: 22rem; max-width: 100%; }
button { font: inherit; padding: .35rem .9rem; border: 1px solid var(--line); border-radius: .4rem; cursor: pointer; }
button.primary { background: var(--accent); border-color: var(--accent); color: white; }
pre { background: #8882; padding: .8rem; border-radius: .4rem; white-space: pre-wrap; word-break: break-all; }
.quiet { opacity: .7; } .bad { color: #c62828; }
"""
_NAVIGATION = (("/sign-in", "Sign in"), ("/_ledger.html", "Ledger"), ("/", "Providers"))


def text(value: object) -> str:
    """Escape a value for HTML text or an attribute; `None` becomes an empty string."""
    return "" if value is None else escape(str(value), quote=True)


def page(title: str, *parts: str, status: int = 200) -> HTMLResponse:
    """Return a whole page. `parts` are HTML already, and are not escaped."""
    links = "".join(f'<a href="{path}">{label}</a>' for path, label in _NAVIGATION)
    document = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{text(title)} · Sandbox</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{_STYLE}</style></head>'
        f"<body><nav><strong>Sandbox</strong>{links}</nav><h1>{text(title)}</h1>{''.join(parts)}</body></html>"
    )
    return HTMLResponse(document, status)


def table(headings: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Return a table as HTML. The cells of `rows` are HTML already, and are not escaped."""
    head = "".join(f"<th>{text(heading)}</th>" for heading in headings)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def hidden(name: str, value: str) -> str:
    """Return a hidden form field as HTML."""
    return f'<input type="hidden" name="{text(name)}" value="{text(value)}">'
