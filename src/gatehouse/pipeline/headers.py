"""The headers by which an identity is stated, and those by which a client could claim one."""

from __future__ import annotations

#: What the proxy says of an identity.
STATEMENTS = frozenset(
    b"""
x-forwarded-email x-forwarded-groups x-forwarded-preferred-username x-forwarded-user
""".split()
)
#: What the proxy states; each at most once.
STATED = STATEMENTS | {b"authorization", b"x-forwarded-for"}

#: Headers that no client has a say in: credentials, identities, addresses, other methods and paths, and the
#: hop-by-hop ones. Names with an underscore are dropped altogether, because WSGI cannot tell
#: ``X_Forwarded_User`` from ``X-Forwarded-User``.
STRIPPED = frozenset(
    b"""
authorization client-ip connection forwarded http2-settings keep-alive proxy remote-user true-client-ip upgrade
x-client-ip x-cluster-client-ip x-http-method x-http-method-override x-method-override x-real-ip
x-serverless-authorization
""".split()
)
STRIPPED_PREFIXES = tuple(
    b"""
cf- gap- proxy- remote- x-amzn-oidc- x-auth- x-authenticated- x-forwarded x-goog-authenticated- x-goog-iap-
x-ms-client-principal x-ms-token- x-original- x-remote- x-rewrite- x-webauth-
""".split()
)
