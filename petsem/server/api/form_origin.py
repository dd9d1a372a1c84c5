"""Was a form sent from our own page: what browsers say of where a form was.

Guarantees: a form that a page of another site has a browser send is refused, whether or not the
browser sends our cookie along. `Sec-Fetch-Site` has to be `same-origin` where a browser sends it,
which it does over https and to its own machine. `Origin` has to be an origin of ours where it names
one; where it hides it (`null`), only `Sec-Fetch-Site` can speak for the form. Who sends neither is
refused too: every browser of the last years sends one of them with a form, and one that sends none
may not know `SameSite` either, and send our cookie for another site's form.

Origins of ours are that of the public URL, and the host that the request names, which no page can
choose; both with the public URL's scheme, because anybody on the way can write a page that came in
clear.
"""

from __future__ import annotations

from typing import Final
from urllib.parse import urlsplit

from petsem.errors import Code, PetsemError

_DEFAULT_PORTS: Final = {"http": ":80", "https": ":443"}


def check_form_origin(
    site: str | None, origin: str | None, host: str | None, public_url: str | None
) -> None:
    """`denied` unless the form was on a page of ours; `site`, `origin` and `host` are what the
    headers Sec-Fetch-Site, Origin and Host say, None without one."""
    if site not in (None, "same-origin"):
        raise _elsewhere()
    if origin in (None, "null"):
        if site is None:
            raise PetsemError(
                Code.DENIED,
                "the browser does not say which site this form was on; open the link in a newer "
                "one, on any machine",
            )
    elif origin not in _ours(host, public_url):
        raise _elsewhere()


def _ours(host: str | None, public_url: str | None) -> set[str]:
    if public_url is None:
        return set()
    parts = urlsplit(public_url)
    names = (parts.netloc, host)
    end = _DEFAULT_PORTS.get(parts.scheme, "")
    return {f"{parts.scheme}://{name.lower().removesuffix(end)}" for name in names if name}


def _elsewhere() -> PetsemError:
    return PetsemError(Code.DENIED, "this form was sent by another site; close this page")
