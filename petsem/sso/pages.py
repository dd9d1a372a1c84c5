"""The pages that people see while they sign in.

Guarantees: whatever is put into a page is escaped; there is no script in any, and the one style is
allowed by its hash. A page says in plain words who asked, from where and when.
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from html import escape
from typing import Final

_STYLE: Final = (
    "body{font:1.05rem/1.5 system-ui,sans-serif;max-width:38rem;margin:3rem auto;padding:0 1rem}"
    "dt{font-weight:600}dd{margin:0 0 .6rem}input{font:inherit;padding:.4rem}"
    "button{font:inherit;padding:.4rem 1rem}"
)
REFUSE: Final = "refuse"
"""The field of the form's second button."""
_STYLE_HASH: Final = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()


@dataclass(frozen=True, slots=True)
class Page:
    """A page, where a form on it may lead, and what a browser says of it where it leads.

    The address of a page holds a flow or a code, so no other site is told it. From one with a form
    browsers have to say at least to this very site where they come from (`same-origin`): with
    `no-referrer` they would send `Origin: null`, as they do for a page that hides where it is from.
    """

    html: str
    form_action: str = "'none'"
    referrer: str = "no-referrer"

    @property
    def policy(self) -> str:
        """Its Content-Security-Policy."""
        return (
            f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; "
            f"form-action {self.form_action}; frame-ancestors 'none'; base-uri 'none'"
        )


def confirm_page(
    *, org: str, token: str, ip: str, begun_at: str, issuer: str, flow: str, leads_to: str
) -> Page:
    """Asks a person for the code that the terminal shows, and tells him what he would be doing."""
    facts = (
        ("Org", org),
        ("Token", token),
        ("Asked for from the address", ip or "unknown"),
        ("Asked for at", begun_at),
        ("You would sign in at", issuer),
    )
    listed = "".join(f"<dt>{escape(what)}</dt><dd>{escape(text)}</dd>" for what, text in facts)
    form = (
        '<form method="post" action="/sso">'
        f'<input type="hidden" name="flow" value="{escape(flow)}">'
        '<p><label>Code shown in the terminal: <input name="code" autocomplete="off" '
        'autofocus required maxlength="16" size="12"></label> '
        "<button>Sign in</button> "
        f'<button name="{REFUSE}" value="yes" formnovalidate>Refuse</button></p></form>'
    )
    body = (
        "<p>A command line asks to act as you. Go on only if you started it yourself, just now, on "
        "a machine with this address. If somebody sent you this link or a code, refuse: "
        f"whoever asked would get what you may do.</p><dl>{listed}</dl>{form}"
    )
    return Page(_page("Sign in to Petsem", body), f"'self' {leads_to}", "same-origin")


def done_page(email: str) -> Page:
    """Says that it worked."""
    text = f"<p>You are signed in as {escape(email)}. Go back to the terminal.</p>"
    return Page(_page("Signed in", text))


def refused_page() -> Page:
    """Says that a no was heard."""
    text = "<p>You have refused. The terminal is told, and whoever began this has got nothing.</p>"
    return Page(_page("Not signed in", text))


def refusal_page(sentence: str) -> Page:
    """Says why not."""
    text = f"{sentence[:1].upper()}{sentence[1:]}."
    return Page(_page("Not signed in", f"<p>{escape(text)}</p>"))


def _page(title: str, body: str) -> str:
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head>"
        f"<body><h1>{escape(title)}</h1>{body}</body></html>\n"
    )
