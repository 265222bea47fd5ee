"""The issuers of machines' tokens: the setting MACHINE_ISSUERS, and what a subject of each is called.

``github=https://token.actions.githubusercontent.com; audience=https://a.example.com, b=https://…`` names two.
The policy and the audit log call an issuer by its name here. Standard library alone: the settings are checked with it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

#: Issuers that everybody knows, by the form of their subjects.
GITHUB = "https://token.actions.githubusercontent.com"
GITLAB = "https://gitlab.com"

_NAME = re.compile(r"[a-z][a-z0-9-]{0,30}")
#: Names that a policy's members have, and so no issuer.
RESERVED = frozenset({"user", "serviceAccount", "serviceaccount", "domain", "group", "machine", "key"})
_CLAIM = re.compile(r"[A-Za-z_][A-Za-z0-9_.:/-]{0,80}")
_OPTIONS = ("audience", "keys", "ca", "token", "subject", "groups")
EXAMPLE = "for example github=https://token.actions.githubusercontent.com; audience=https://mlflow.example.com"
_KUBERNETES = re.compile(r"system:serviceaccount:([a-z0-9-]{1,63}):([a-z0-9.-]{1,253})")
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


class BadIssuer(ValueError):
    """An entry of MACHINE_ISSUERS can't be used; the text says which, and why."""


@dataclass(frozen=True)
class Issuer:
    """Somebody who vouches for machines.

    Args:
        name: what the policy calls it.
        url: the ``iss`` of its tokens, to the letter.
        audiences: a token must be for one of these; empty until the public address is known.
        keys: an address or a file (``/…``) of its key set, where its discovery document can't be had.
        ca: a file of certificates by which its address is checked, instead of the system's.
        token: a file with a bearer token that its address asks for.
        subject: the claim that tells machines apart.
        groups: the claim with a machine's groups; none by default.
    """

    name: str
    url: str
    audiences: tuple[str, ...] = ()
    keys: str | None = None
    ca: Path | None = None
    token: Path | None = None
    subject: str = "sub"
    groups: str | None = None

    def short(self, subject: str) -> str:
        """Return the name of a subject that people read in lists, owners and the audit log.

        It has no ``@``, so it is nobody's e-mail address: ``github:acme/train:heads/main``, ``cluster:fraud/trainer``.
        """
        text = subject
        if match := _KUBERNETES.fullmatch(subject):
            text = f"{match[1]}/{match[2]}"
        elif self.url == GITHUB and subject.startswith("repo:"):
            # Neither an organisation, nor a repository, nor a branch has a colon in its name.
            text = subject.removeprefix("repo:").replace(":ref:refs/", ":", 1)
        return f"{self.name}:{text.replace('%', '%25').replace('@', '%40')}"

    def pattern(self, text: str) -> str | None:
        """Return the prefix that a subject with a ``*`` at its end stands for; None where that isn't safe.

        Safe is what ends where the issuer itself ends a name, with a sign that no name there has.
        """
        prefix = text.removesuffix("*")
        if "*" in prefix or self.subject != "sub":
            return None
        if self.url == GITHUB:
            # A whole repository, or all repositories of an organisation.
            safe = r"repo:[A-Za-z0-9_.-]+(?:@[0-9]+)?/(?:[A-Za-z0-9_.-]+(?:@[0-9]+)?:(?:ref:refs/(?:heads|tags)/)?)?"
        elif self.url == GITLAB:
            safe = r"project_path:[A-Za-z0-9_.-]+(?:/[A-Za-z0-9_.-]+)*(?:/|:(?:ref_type:(?:branch|tag):ref:)?)"
        else:
            # A namespace of a cluster, if it is one.
            safe = r"system:serviceaccount:[a-z0-9-]{1,63}:"
        return prefix if re.fullmatch(safe, prefix) else None


def _address(text: str, what: str) -> str:
    """Return an address whose answers nobody on the way can change, or raise BadIssuer."""
    try:
        url = urlsplit(text)
        host = url.hostname
    except ValueError:
        host = None
    if not host or url.query or url.fragment or url.username is not None or not re.fullmatch(r"[\x21-\x7e]+", text):
        raise BadIssuer(f"{what} is {text!r}, which isn't an address")
    if url.scheme != "https" and not (url.scheme == "http" and host in _LOOPBACK):
        raise BadIssuer(f"{what} is {text!r}, which isn't https: whoever stands in between could make tokens")
    return text


def _entry(text: str) -> Issuer:
    """Return one issuer of the list, or raise BadIssuer."""
    head, *options = (part.strip() for part in text.split(";"))
    name, equals, url = (part.strip() for part in head.partition("="))
    if not equals or not _NAME.fullmatch(name) or name in RESERVED:
        raise BadIssuer(f"has {head!r}, which doesn't begin with a name (small letters, digits, hyphens) and =")
    issuer = Issuer(name, _address(url, f"the issuer {name}"))
    audiences: list[str] = []
    for option in options:
        key, equals, value = (part.strip() for part in option.partition("="))
        if key not in _OPTIONS or not equals or not value:
            raise BadIssuer(f"has {option!r} for {name}, and the options are {', '.join(_OPTIONS)}")
        if key == "audience":
            audiences.append(value)
        elif key == "keys":
            issuer = replace(issuer, keys=value if value.startswith("/") else _address(value, f"keys of {name}"))
        elif key in {"ca", "token"}:
            if not Path(value).is_absolute():
                raise BadIssuer(f"has {option!r} for {name}, which isn't the path of a file")
            issuer = replace(issuer, ca=Path(value)) if key == "ca" else replace(issuer, token=Path(value))
        elif not _CLAIM.fullmatch(value):
            raise BadIssuer(f"has {option!r} for {name}, which isn't the name of a claim")
        else:
            issuer = replace(issuer, subject=value) if key == "subject" else replace(issuer, groups=value)
    return replace(issuer, audiences=tuple(audiences))


def parse(value: str) -> tuple[Issuer, ...]:
    """Return the issuers that a list names.

    Raises:
        BadIssuer: with what is wrong.
    """
    issuers = tuple(_entry(text.strip()) for text in value.split(",") if text.strip())
    for what, found in (("the name", [i.name for i in issuers]), ("the issuer", [i.url for i in issuers])):
        twice = sorted({text for text in found if found.count(text) > 1})
        if twice:
            raise BadIssuer(f"has {what} {twice[0]} twice")
    return issuers


def with_audience(issuers: tuple[Issuer, ...], audience: str) -> tuple[Issuer, ...]:
    """Return the issuers, with an audience for those that have none of their own."""
    return tuple(issuer if issuer.audiences else replace(issuer, audiences=(audience,)) for issuer in issuers)
