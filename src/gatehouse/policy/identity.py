"""Whom the policy judges: a person or a service account, as the identity provider vouches for it."""

from __future__ import annotations

from dataclasses import dataclass

#: Google's service accounts, of any kind, have an e-mail address below this domain, which is Google's own.
#: https://cloud.google.com/iam/docs/service-account-types
SERVICE_ACCOUNT_DOMAIN = "gserviceaccount.com"
#: Mail domains that anybody can have an address of.
OPEN_DOMAINS = (
    "gmail.com", "googlemail.com", "outlook.com", "hotmail.com", "gserviceaccount.com", "iam.gserviceaccount.com",
    "developer.gserviceaccount.com", "appspot.gserviceaccount.com", "cloudbuild.gserviceaccount.com",
)  # fmt: skip


#: Keycloak's user names of clients that stand for themselves (its ``ServiceAccountConstants``). A person who has such a
#: name is taken for less, never for more.
SERVICE_ACCOUNT_USERNAME = "service-account-"


class IdentityError(Exception):
    """The request carries no verified identity; the text says what is missing and how to come in."""


@dataclass(frozen=True)
class Identity:
    """A person, a service account or a machine, as somebody vouches for it.

    ``email`` is in lower case (ASCII letters only: no other letter folds onto another address). A machine's is no
    address but its short name, which has no ``@``; then ``issuer`` is the name of who vouches for it (MACHINE_ISSUERS).
    ``subject`` is the ``sub`` claim, or an issuer's claim of choice; ``groups`` may be fewer than there are, so a group
    may only ever add rights.
    """

    email: str
    subject: str
    groups: tuple[str, ...] = ()
    username: str | None = None
    issuer: str | None = None
    #: The name of the key that came instead of its owner, and the most that it may, as a number of
    #: :class:`gatehouse.policy.roles.Role`.
    key: str | None = None
    key_role: int | None = None

    @property
    def domain(self) -> str:
        """The part of the address after the ``@``; nothing for a machine."""
        return "" if self.issuer else self.email.rpartition("@")[2]

    @property
    def is_service_account(self) -> bool:
        """Whether it is no person's: a machine, an address of Google's service accounts, a client of Keycloak's."""
        domain = self.domain
        return (
            self.issuer is not None
            or domain == SERVICE_ACCOUNT_DOMAIN
            or domain.endswith("." + SERVICE_ACCOUNT_DOMAIN)
            or (self.username or "").startswith(SERVICE_ACCOUNT_USERNAME)
        )
