"""An emulator of the Google Cloud REST APIs that `python -m deploy` reaches through the real gcloud.

It keeps state, checks every request against the API descriptions that Google publishes (discovery documents), and
enforces what bites in reality: an API that is not enabled, a right that is missing, a name that is too long or taken, a
service account that IAM does not know yet, an operation that takes a while, a secret that a revision may not read.

One module per API; `core` has the routing and the errors, `server` the HTTP and the recording.
"""

from __future__ import annotations

from tests.deploy.emulator.server import Emulator

__all__ = ["Emulator"]
