"""A person's browser, as far as a sign-in needs one: pages, forms, cookies, redirects.

As a program it is what `petsem login` opens: `python -m tests.support.login_browser PERSON URL`, or
with the code that it shows, the browser of somebody who types it in: `… PERSON URL CODE`.
"""

from __future__ import annotations

import re
import sys
from typing import Final
from urllib.parse import urljoin

import httpx

from tests.support.patience import PATIENCE_S

_FLOW: Final = re.compile(r'name="flow" value="([^"]+)"')
_STEPS_MAX: Final = 8


def sign_in(
    url: str, person: str, code: str | None = None, *, refuse: bool = False
) -> httpx.Response:
    """Go to `url`, type `code` if it is asked for, or `refuse`, be `person` at the provider, and go
    wherever one is sent then; the last page."""
    with httpx.Client(timeout=PATIENCE_S, trust_env=False) as browser:
        page = browser.get(url)
        for _ in range(_STEPS_MAX):
            if page.is_redirect:
                page = browser.get(urljoin(str(page.url), page.headers["location"]))
            elif "/oauth2/authorize" in str(page.url) and page.request.method == "GET":
                page = browser.post(str(page.url), data={"sub": person})
            elif code is not None and (flow := _FLOW.search(page.text)) is not None:
                form = {"flow": flow[1], "code": code, **({"refuse": "yes"} if refuse else {})}
                code = None
                page = send_form(browser, urljoin(str(page.url), "/sso"), form)
            else:
                return page
        raise AssertionError("the browser is sent round and round")


def send_form(browser: httpx.Client, url: str, form: dict[str, str], **more: str) -> httpx.Response:
    """Send the form of the page at the same place; `more` are headers that say otherwise."""
    at = httpx.URL(url)
    origin = f"{at.scheme}://{at.netloc.decode()}"
    return browser.post(url, data=form, headers={"origin": origin, **more})


if __name__ == "__main__":
    sign_in(sys.argv[2], sys.argv[1], *sys.argv[3:])
