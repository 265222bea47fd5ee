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


@dataclass(frozen=True)
class Identity:
    """A person or a service account, as the identity provider vouches for it.

    ``email`` is in lower case (ASCII letters only: no other letter folds onto another address); ``subject``
    is the provider's ``sub`` claim; ``groups`` may lack groups that the client made vanish, so a group may
    only ever add rights.
    """

    email: str
    subject: str
    groups: tuple[str, ...] = ()
    username: str | None = None

    @property
    def domain(self) -> str:
        """The part of the address after the ``@``."""
        return self.email.rpartition("@")[2]

    @property
    def is_service_account(self) -> bool:
        """Whether the address is one of Google's service accounts, which no person can have."""
        return self.domain == SERVICE_ACCOUNT_DOMAIN or self.domain.endswith("." + SERVICE_ACCOUNT_DOMAIN)
