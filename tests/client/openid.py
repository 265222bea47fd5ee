"""A certified OpenID provider with PKCE, device code and rotating refresh tokens (``provider/``), and its users."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import requests
from joserfc import jwt
from joserfc.jwk import RSAKey

from local.run import CLIENT_ID
from tests.node import node, packages
from tests.support import free_port, wait_for

SOURCE = Path(__file__).parent / "provider"
LOGIN_CLIENT_ID = "gatehouse-cli"
HOURLY_CLIENT_ID = "gatehouse-cli-hourly"  # the same with tokens of an hour
GATE_SECRET = "what the gate shows at the provider"
DEVICE_GRANT = "urn:ietf:params:oauth:grant-type:device_code"


def installed() -> Path:
    """Return the folder with the provider's packages, installed from its lock once."""
    folder = packages("openid-provider", SOURCE)
    shutil.copy(SOURCE / "provider.mjs", folder)
    return folder


@dataclass
class OpenIdProvider:
    """The running provider. ``life`` is the seconds that a token of the command line's client lives."""

    life: int
    key: RSAKey = field(
        default_factory=lambda: RSAKey.generate_key(2048, {"kid": "tests", "alg": "RS256", "use": "sig"})
    )
    lines: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        port = free_port()
        self.issuer = f"http://localhost:{port}"
        gate = {
            "client_id": CLIENT_ID,
            "client_secret": GATE_SECRET,
            "redirect_uris": ["http://localhost/oauth2/callback"],
        }
        command_line = {
            "client_id": LOGIN_CLIENT_ID,
            "token_endpoint_auth_method": "none",
            "application_type": "native",
            "redirect_uris": ["http://127.0.0.1/callback"],
            "grant_types": ["authorization_code", "refresh_token", DEVICE_GRANT],
        }
        settings = {
            "issuer": self.issuer,
            "port": port,
            "jwks": {"keys": [self.key.as_dict(private=True)]},
            "clients": [gate, command_line, command_line | {"client_id": HOURLY_CLIENT_ID}],
            "life": {LOGIN_CLIENT_ID: self.life},
        }
        folder = installed()
        self.process = subprocess.Popen(
            [str(node()), "provider.mjs", json.dumps(settings)],
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        threading.Thread(target=self._read, daemon=True).start()
        wait_for(lambda: {"ready": True} in self.lines, "the OpenID provider", 30, lambda: str(self.lines))

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("{"):  # the rest are its warnings about being for tests
                self.lines.append(json.loads(line))

    def granted(self, grant: str) -> int:
        """How many token requests of this grant were answered with 200."""
        return sum(line.get("grant") == grant and line.get("status") == 200 for line in list(self.lines))

    def stop(self) -> None:
        """Stop it."""
        self.process.terminate()
        self.process.wait(10)

    def sign(self, life: float = 3600, key: RSAKey | None = None, **claims: object) -> str:
        """Sign a token as this provider would; ``None`` leaves a claim out."""
        now = int(time.time())
        email = claims.get("email", "alice@example.com")
        body = {
            "iss": self.issuer,
            "sub": email,
            "aud": CLIENT_ID,
            "iat": now,
            "exp": now + int(life),
            "email": email,
            "email_verified": True,
        } | claims
        kept = {name: value for name, value in body.items() if value is not None}
        return jwt.encode({"alg": "RS256", "kid": "tests"}, kept, key or self.key)

    def token(self, person: str = "alice", audience: str = CLIENT_ID) -> str:
        """An identity token of a person (what ``tests.support.Gate`` asks of its provider)."""
        return self.sign(email=person if "@" in person else f"{person}@example.com", aud=audience)


def sign_in(address: str, person: str = "alice@example.com") -> requests.Response:
    """Do at the provider what a person does in a browser: type the address, agree; return the last page."""
    with requests.Session() as browser:
        page = browser.get(address, timeout=10)
        for _ in range(6):
            form = re.search(r'<form[^>]*action="([^"]+)"[^>]*>(.*?)</form>', page.text, re.DOTALL)
            if not form or "/callback" in page.url:
                return page
            fields = dict(re.findall(r'name="([^"]+)"\s+value="([^"]*)"', form[2]))
            if 'name="login"' in form[2]:
                fields |= {"login": person, "password": "unused"}
            page = browser.post(urljoin(page.url, html.unescape(form[1])), data=fields, timeout=10)
    raise AssertionError(f"still asked after six pages: {page.url}\n{page.text}")
