"""One org's provider: what it says of itself, its keys, and the two calls that are made to it.

Guarantees: what discovery says counts only if it names the issuer that the org was set to; it and
the keys are kept for an hour, and keys are fetched again for one that is not known, at most once a
minute. PKCE with S256 always. The OAuth requests and replies are Authlib's; how they travel is
`fetching`'s.

Source: OpenID Connect Discovery 1.0, section 4; RFC 6749; RFC 7636.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any, Final

import httpx
from authlib.oauth2 import OAuth2Error
from authlib.oauth2.client import OAuth2Client

from petsem.clock import Clock
from petsem.errors import PetsemError
from petsem.sso.claims import Person
from petsem.sso.fetching import Fetcher
from petsem.sso.id_token import ALGORITHMS, key_id_of, read_id_token
from petsem.sso.keys import PublicKey, fitting, read_keys
from petsem.sso.orgs import SsoOrg
from petsem.sso.refusals import provider_failed, refused
from petsem.sso.urls import may_ask

_NOT_NOW: Final = frozenset({"temporarily_unavailable", "server_error", "slow_down"})
_REFUSALS: Final = frozenset({400, 401, 403})
"""Without a reason in JSON, these are about the request; others are about the provider."""

KEPT_S: Final = 3_600.0
KEYS_AGAIN_S: Final = 60.0
FAILED_S: Final = 5.0
PROVIDERS_MAX: Final = 256


@dataclass(frozen=True, slots=True)
class Metadata:
    """What discovery says, as far as it matters here."""

    authorization_endpoint: str
    token_endpoint: str
    jwks_uri: str
    scopes: tuple[str, ...]
    auth_methods: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Tokens:
    """What the token endpoint gave."""

    id_token: str | None = field(repr=False)
    access_token: str | None = field(repr=False)
    refresh_token: str | None = field(repr=False)


class Provider:
    """A provider, by its issuer. Its clients are the orgs."""

    def __init__(self, issuer: str, fetcher: Fetcher, clock: Clock) -> None:
        self._issuer = issuer
        self._fetcher = fetcher
        self._clock = clock
        self._lock = asyncio.Lock()
        self._metadata: Metadata | None = None
        self._metadata_s = 0.0
        self._keys: tuple[PublicKey, ...] = ()
        self._keys_s: float | None = None
        self._failed_s: float | None = None

    async def authorization_url(
        self, org: SsoOrg, redirect_uri: str, state: str, nonce: str, verifier: str
    ) -> str:
        """Where a browser signs in."""
        metadata = await self.metadata()
        client = self._client(org, metadata, redirect_uri)
        # Both are refused by providers that do not know them.
        wanted = ("offline_access", *(("groups",) if org.groups else ()))
        scope = " ".join(("openid", "email", *(s for s in wanted if s in metadata.scopes)))
        url, _ = client.create_authorization_url(
            metadata.authorization_endpoint,
            state=state,
            code_verifier=verifier,
            nonce=nonce,
            scope=scope,
        )
        return str(url)

    async def exchange(
        self, org: SsoOrg, redirect_uri: str, code: str, verifier: str, nonce: str
    ) -> tuple[Person, str | None]:
        """Whom a code stands for, and the refresh token, if there is one."""
        metadata = await self.metadata()
        client = self._client(org, metadata, redirect_uri)
        tokens = await _tokens(
            client.fetch_token(
                metadata.token_endpoint,
                grant_type="authorization_code",
                code=code,
                code_verifier=verifier,
            )
        )
        return await self._person(tokens, org, nonce), tokens.refresh_token

    async def refresh(self, org: SsoOrg, refresh_token: str) -> tuple[Person | None, str]:
        """Whether the provider still stands by a sign-in: `denied` if not. The person, if it says
        again who it is, and the refresh token for the next time."""
        metadata = await self.metadata()
        client = self._client(org, metadata, None)
        tokens = await _tokens(
            client.refresh_token(metadata.token_endpoint, refresh_token=refresh_token)
        )
        person = None if tokens.id_token is None else await self._person(tokens, org, None)
        return person, tokens.refresh_token or refresh_token

    @property
    def is_known(self) -> bool:
        """Whether nothing has to be asked for the URL of a sign-in."""
        return self._metadata is not None and self._age_s(self._metadata_s) < KEPT_S

    async def metadata(self) -> Metadata:
        """What discovery says."""
        async with self._lock:
            if self._metadata is None or self._age_s(self._metadata_s) >= KEPT_S:
                url = self._issuer.rstrip("/") + "/.well-known/openid-configuration"
                document = await self._get(url)
                self._metadata = _read_metadata(document, self._issuer)
                self._metadata_s = self._clock.boot_s()
            return self._metadata

    def _client(self, org: SsoOrg, metadata: Metadata, redirect_uri: str | None) -> _Client:
        return _Client(
            self._fetcher,
            client_id=org.client_id,
            client_secret=org.client_secret,
            token_endpoint_auth_method=_auth_method(org, metadata),
            redirect_uri=redirect_uri,
            code_challenge_method="S256",
        )

    async def _person(self, tokens: Tokens, org: SsoOrg, nonce: str | None) -> Person:
        kid = key_id_of(tokens.id_token)
        assert tokens.id_token is not None
        return read_id_token(
            tokens.id_token,
            await self._keys_for(kid),
            org,
            nonce=nonce,
            access_token=tokens.access_token,
            now_s=self._clock.unix_ms() // 1000,
        )

    async def _keys_for(self, kid: str | None) -> tuple[PublicKey, ...]:
        metadata = await self.metadata()
        async with self._lock:
            age_s = None if self._keys_s is None else self._age_s(self._keys_s)
            found = fitting(self._keys, kid)
            if age_s is None or age_s >= KEPT_S or (not found and age_s >= KEYS_AGAIN_S):
                self._keys = read_keys(await self._get(metadata.jwks_uri))
                self._keys_s = self._clock.boot_s()
                found = fitting(self._keys, kid)
            return found

    async def _get(self, url: str) -> dict[str, Any]:
        """A document; for a while after one that did not come, none is asked for: those who wait
        here would wait for one another."""
        if self._failed_s is not None and self._age_s(self._failed_s) < FAILED_S:
            raise provider_failed()
        try:
            return await self._fetcher.get_json(url)
        except PetsemError:
            self._failed_s = self._clock.boot_s()
            raise

    def _age_s(self, then_s: float) -> float:
        return self._clock.boot_s() - then_s


class Providers:
    """The providers of all orgs, the least recently used forgotten first."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._fetcher = Fetcher()
        self._all: dict[str, Provider] = {}

    def of(self, org: SsoOrg) -> Provider:
        """The org's provider."""
        found = self._all.pop(org.issuer, None)
        if found is None:
            found = Provider(org.issuer, self._fetcher, self._clock)
            if len(self._all) >= PROVIDERS_MAX:
                del self._all[next(iter(self._all))]
        self._all[org.issuer] = found
        return found

    async def close(self) -> None:
        """Close the connections to them."""
        await self._fetcher.close()


class _Client(OAuth2Client):  # type: ignore[misc]  # Authlib has no types
    """Authlib's client, over our way of asking."""

    def __init__(self, fetcher: Fetcher, **settings: Any) -> None:
        super().__init__(session=None, **settings)
        self._fetcher = fetcher

    async def _fetch_token(
        self, url: str, body: str = "", headers: Any = None, auth: Any = None, **_: Any
    ) -> Any:
        return self.parse_response_token(await self._post(url, body, headers, auth))

    async def _refresh_token(
        self, url: str, body: str = "", headers: Any = None, auth: Any = None, **_: Any
    ) -> Any:
        return self.parse_response_token(await self._post(url, body, headers, auth))

    async def _post(self, url: str, body: str, headers: Any, auth: Any) -> httpx.Response:
        url, headers, body = auth.prepare("POST", url, dict(headers), body)
        return await self._fetcher.ask("POST", url, headers=headers, body=body)


async def _tokens(asking: Any) -> Tokens:
    """What came of a request to the token endpoint."""
    try:
        found = dict(await asking)
    except OAuth2Error as error:
        if error.error in _NOT_NOW:
            raise provider_failed() from None
        raise refused("the provider does not confirm the sign-in") from None
    except httpx.HTTPStatusError as error:
        if error.response.status_code in _REFUSALS:
            raise refused("the provider does not confirm the sign-in") from None
        raise provider_failed() from None
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise provider_failed() from None
    texts = (found.get(name) for name in ("id_token", "access_token", "refresh_token"))
    return Tokens(*(text if isinstance(text, str) and text else None for text in texts))


def _read_metadata(document: dict[str, Any], issuer: str) -> Metadata:
    if document.get("issuer") != issuer:
        raise provider_failed()
    urls = [document.get(n) for n in ("authorization_endpoint", "token_endpoint", "jwks_uri")]
    if not all(may_ask(url, issuer) for url in urls):
        raise provider_failed()
    offered = _texts(document, "id_token_signing_alg_values_supported")
    if offered and not set(offered) & set(ALGORITHMS):
        raise provider_failed()
    authorization, token, keys = map(str, urls)
    return Metadata(
        authorization,
        token,
        keys,
        _texts(document, "scopes_supported"),
        _texts(document, "token_endpoint_auth_methods_supported"),
    )


def _texts(document: dict[str, Any], name: str) -> tuple[str, ...]:
    found = document.get(name)
    if not isinstance(found, list):
        return ()
    return tuple(each for each in found if isinstance(each, str))


def _auth_method(org: SsoOrg, metadata: Metadata) -> str:
    """How the client says who it is: as the provider asks, else as RFC 6749 has it."""
    if org.client_secret is None:
        return "none"
    offered = metadata.auth_methods
    if "client_secret_post" in offered and "client_secret_basic" not in offered:
        return "client_secret_post"
    return "client_secret_basic"
