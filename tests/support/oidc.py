"""OIDC providers on loopback: a real one by others, and one that sends whatever a test wants.

`EvilProvider` signs real JWTs and is honest until a test changes something; it checks what an
honest one checks (client, redirect URI, PKCE, codes and refresh tokens used once). `MockProvider`
is the package `oidc-provider-mock` in a process of its own.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import parse_qsl, urlsplit

import httpx
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding
from joserfc.jwk import RSAKey

from tests.support.daemon import until
from tests.support.ports import free_port

CLIENT_ID: Final = "petsem"
CLIENT_SECRET: Final = "a-client-secret"
ANA: Final = {"sub": "ana-1", "email": "ana@example.com", "email_verified": True}

_KEY: Final = RSAKey.generate_key(2048, {"kid": "k1", "use": "sig", "alg": "RS256"})
OTHER_KEY: Final = RSAKey.generate_key(2048, {"kid": "k2", "use": "sig", "alg": "RS256"})

Reply = tuple[int, dict[str, str], bytes]


class EvilProvider:
    """A provider whose every answer a test may change. As a context, it is served."""

    def __init__(self, now_s: Callable[[], int] = lambda: int(time.time()), port: int = 0) -> None:
        self.now_s = now_s
        self.key = _KEY
        self.published: list[RSAKey] = [_KEY]
        self.person: dict[str, Any] = dict(ANA)
        self.claims: dict[str, Any] = {}
        self.header: dict[str, Any] = {}
        self.metadata: dict[str, Any] = {}
        self.secret: str | None = CLIENT_SECRET
        self.refresh_tokens = True
        self.rotate = True
        self.id_token_on_refresh = True
        self.sign: Callable[[dict[str, Any]], str] = self.signed
        self.token_reply: Callable[[dict[str, str]], Reply] | None = None
        self.document_reply: Callable[[], Reply] | None = None
        self.hold = threading.Event()
        self.hold.set()
        self.asked: list[str] = []
        self._codes: dict[str, dict[str, str]] = {}
        self._refresh: set[str] = set()
        self._count = 0
        self._server = ThreadingHTTPServer(("127.0.0.1", port), self._handler())
        self.issuer = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.hold.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    # What a person's browser does

    def sign_in(self, url: str) -> dict[str, str]:
        """What the browser comes back with, once the person has signed in at `url`."""
        parts = urlsplit(url)
        assert f"{parts.scheme}://{parts.netloc}{parts.path}" == f"{self.issuer}/authorize"
        asked = dict(parse_qsl(parts.query))
        assert asked["response_type"] == "code"
        assert asked["client_id"] == CLIENT_ID
        assert asked["code_challenge_method"] == "S256"
        assert "openid" in asked["scope"].split()
        code = self._fresh("code")
        self._codes[code] = asked
        return {"state": asked["state"], "code": code}

    # What it answers

    def id_token(self, **claims: Any) -> str:
        """An ID token with these claims over the usual ones; None leaves one out."""
        now_s = self.now_s()
        usual = {"iss": self.issuer, "aud": CLIENT_ID, "iat": now_s, "exp": now_s + 300}
        merged = {**usual, **self.person, **claims, **self.claims}
        return self.sign({name: v for name, v in merged.items() if v is not None})

    def signed(self, claims: dict[str, Any], **header: Any) -> str:
        """The claims, signed by the provider's key."""
        head = {"alg": "RS256", "kid": self.key.kid, **self.header, **header}
        signed = _signed_part(head, claims)
        made = self.key.private_key.sign(signed.encode(), padding.PKCS1v15(), hashes.SHA256())
        return f"{signed}.{_part(made)}"

    def unsigned(self, claims: dict[str, Any]) -> str:
        """The claims under the algorithm `none`."""
        return _signed_part({"alg": "none", "kid": self.key.kid}, claims) + "."

    def signed_with_public_key(self, claims: dict[str, Any]) -> str:
        """The claims, under HS256 with the provider's public key for a secret."""
        signed = _signed_part({"alg": "HS256", "kid": self.key.kid}, claims)
        secret = self.key.as_pem(private=False)
        return f"{signed}.{_part(hmac.digest(secret, signed.encode(), 'sha256'))}"

    def _document(self) -> Reply:
        if self.document_reply is not None:
            return self.document_reply()
        found = {
            "issuer": self.issuer,
            "authorization_endpoint": f"{self.issuer}/authorize",
            "token_endpoint": f"{self.issuer}/token",
            "jwks_uri": f"{self.issuer}/jwks",
            "id_token_signing_alg_values_supported": ["RS256"],
            "scopes_supported": ["openid", "email", "offline_access"],
            **self.metadata,
        }
        return _json(200, found)

    def _token(self, form: dict[str, str], authorization: str | None) -> Reply:
        if self.token_reply is not None:
            return self.token_reply(form)
        if self.secret is not None:
            pair = base64.b64encode(f"{CLIENT_ID}:{self.secret}".encode()).decode()
            if authorization != f"Basic {pair}":
                return _json(401, {"error": "invalid_client"})
        elif form.get("client_id") != CLIENT_ID:
            return _json(401, {"error": "invalid_client"})
        if form["grant_type"] == "refresh_token":
            return self._renewed(form["refresh_token"])
        asked = self._codes.pop(form["code"], None)
        challenge = _part(hashlib.sha256(form.get("code_verifier", "").encode()).digest())
        if asked is None or form["redirect_uri"] != asked["redirect_uri"]:
            return _json(400, {"error": "invalid_grant"})
        if challenge != asked["code_challenge"]:
            return _json(400, {"error": "invalid_grant", "error_description": "PKCE"})
        return self._tokens(self.id_token(nonce=asked["nonce"]))

    def _renewed(self, refresh_token: str) -> Reply:
        if refresh_token not in self._refresh:
            return _json(400, {"error": "invalid_grant"})
        if self.rotate:
            self._refresh.discard(refresh_token)
        return self._tokens(self.id_token() if self.id_token_on_refresh else None)

    def _tokens(self, id_token: str | None) -> Reply:
        found: dict[str, Any] = {"access_token": self._fresh("access"), "token_type": "Bearer"}
        if id_token is not None:
            found["id_token"] = id_token
        if self.refresh_tokens:
            found["refresh_token"] = self._fresh("refresh")
            self._refresh.add(found["refresh_token"])
        return _json(200, found)

    @property
    def standing(self) -> list[str]:
        """The refresh tokens that are good, for a provider that is started in its place."""
        return sorted(self._refresh)

    def remember(self, refresh_tokens: Iterable[str]) -> None:
        """What another one gave out."""
        self._refresh.update(refresh_tokens)

    def revoke(self) -> None:
        """End every sign-in that could be renewed."""
        self._refresh.clear()

    def _fresh(self, what: str) -> str:
        self._count += 1
        return f"{what}-{self._count}-{id(self):x}"

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        provider = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                provider.asked.append(self.path)
                if self.path == "/.well-known/openid-configuration":
                    self._send(provider._document())
                elif self.path == "/jwks":
                    keys = [key.as_dict(private=False) for key in provider.published]
                    self._send(_json(200, {"keys": keys}))
                else:
                    self._send(_json(404, {}))

            def do_POST(self) -> None:
                provider.asked.append(self.path)
                size = int(self.headers["content-length"])
                form = dict(parse_qsl(self.rfile.read(size).decode()))
                provider.hold.wait()
                self._send(provider._token(form, self.headers.get("authorization")))

            def _send(self, reply: Reply) -> None:
                status, headers, body = reply
                try:
                    self.send_response(status)
                    for name, value in headers.items():
                        self.send_header(name, value)
                    self.send_header("content-length", str(len(body)))
                    self.end_headers()
                    self.wfile.write(body)
                except OSError:
                    # Whoever asked has read as much as it wanted.
                    self.close_connection = True

            def log_message(self, *_: Any) -> None:
                """Nothing: the tests say what went wrong."""

        return Handler


class MockProvider:
    """`oidc-provider-mock`, in a process of its own: it is imported with warnings."""

    def __init__(self, **claims: dict[str, Any]) -> None:
        self.port = free_port()
        self.issuer = f"http://127.0.0.1:{self.port}"
        self._people = claims
        self._child: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self._child = subprocess.Popen(
            [sys.executable, "-m", "oidc_provider_mock", "--port", str(self.port)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        until(self._answers, "OIDC provider")
        for sub, claims in self._people.items():
            httpx.put(f"{self.issuer}/users/{sub}", json=claims, trust_env=False).raise_for_status()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._child is not None
        self._child.kill()
        self._child.wait()

    def sign_in(self, url: str, sub: str) -> str:
        """Where it sends the browser of the person who signs in at `url`."""
        with httpx.Client(trust_env=False) as browser:
            assert browser.get(url).status_code == 200
            came = browser.post(url, data={"sub": sub})
        assert came.status_code == 302, came.text
        return str(came.headers["location"])

    def revoke(self, sub: str) -> None:
        """End that person's sign-ins."""
        url = f"{self.issuer}/users/{sub}/revoke-tokens"
        httpx.post(url, trust_env=False).raise_for_status()

    def _answers(self) -> bool:
        try:
            return httpx.get(f"{self.issuer}/jwks", trust_env=False).status_code == 200
        except httpx.TransportError:
            return False


def _json(status: int, body: Any) -> Reply:
    return status, {"content-type": "application/json"}, json.dumps(body).encode()


def _signed_part(head: Any, claims: Any) -> str:
    return f"{_part(json.dumps(head).encode())}.{_part(json.dumps(claims).encode())}"


def _part(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
