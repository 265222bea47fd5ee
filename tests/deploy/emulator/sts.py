"""Who signs in without a key:

Google's token exchange, the pools and providers of federation, and refresh tokens of people.
"""

from __future__ import annotations

import base64
import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

from tests.deploy.emulator.core import ApiError, Call, missing, rest, taken

if TYPE_CHECKING:
    from tests.deploy.emulator.server import Emulator


@dataclass
class Federation:
    """Workload identity pools (name → settings) with their providers (`POOL/PROVIDER` → settings).

    Refresh tokens (token → person).
    """

    pools: dict[str, dict[str, Any]] = field(default_factory=dict)
    providers: dict[str, dict[str, Any]] = field(default_factory=dict)
    refresh_tokens: dict[str, str] = field(default_factory=dict)


def exchange(cloud: Emulator, host: str, raw: bytes) -> dict[str, Any]:
    """Answer a token endpoint: GitHub's token for a federated one, or a refresh token for a person's."""
    form = {key: values[0] for key, values in parse_qs(raw.decode()).items()}
    if host == "oauth2.googleapis.com":
        person = cloud.federation.refresh_tokens.get(form.get("refresh_token", ""))
        if person is None:
            raise ApiError(400, "invalid_grant", "Token has been expired or revoked.")
        return _token(cloud, person) | {"id_token": "e30.e30.c2ln", "scope": form.get("scope", "")}
    found = re.search(r"workloadIdentityPools/([^/]+)/providers/([^/]+)$", form["audience"])
    provider = cloud.federation.providers.get(f"{found[1]}/{found[2]}") if found else None
    if provider is None or found is None:
        raise ApiError(400, "invalid_target", "The target service indicated by the audience parameters is invalid.")
    # What GitHub signs; the signature is the one thing that isn't looked at here.
    payload = form["subject_token"].split(".")[1]
    claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    if claims["iss"] != provider["oidc"]["issuerUri"]:
        raise ApiError(400, "invalid_grant", f"The issuer {claims['iss']} is not the provider's.")
    for name, value in re.findall(r"assertion\.(\w+) == ['\"]([^'\"]*)['\"]", provider.get("attributeCondition", "")):
        if claims.get(name) != value:
            raise ApiError(400, "unauthorized_client", "The given credential is rejected by the attribute condition.")
    pool = f"iam.googleapis.com/projects/{cloud.project.number}/locations/global/workloadIdentityPools/{found[1]}"
    answer = _token(cloud, f"principal://{pool}/subject/{claims['sub']}")
    return answer | {"issued_token_type": "urn:ietf:params:oauth:token-type:access_token"}


def _token(cloud: Emulator, who: str) -> dict[str, Any]:
    token = f"ya29.emulated-{len(cloud.callers)}"
    cloud.callers[token] = who
    return {"access_token": token, "token_type": "Bearer", "expires_in": 3599}


def give_access(cloud: Emulator, who: str) -> str:
    """Return a new access token of somebody's."""
    return str(_token(cloud, who)["access_token"])


def _pool(call: Call) -> str:
    return (call.parameters.get("name") or call.parameters["parent"]).split("/")[5]


@rest("iam.projects.locations.workloadIdentityPools.create", permission="iam.workloadIdentityPools.create", writes=True)
def create_pool(call: Call) -> Any:
    pools, name = call.emulator.federation.pools, call.option("workloadIdentityPoolId")
    if name in pools:
        raise taken(f"Requested entity already exists: {name}")
    pools[name] = {**call.body, "name": f"{call.parameters['parent']}/workloadIdentityPools/{name}", "state": "ACTIVE"}
    return {"name": f"{pools[name]['name']}/operations/o1", "done": True, "response": pools[name]}


@rest("iam.projects.locations.workloadIdentityPools.get", permission="iam.workloadIdentityPools.get")
def get_pool(call: Call) -> Any:
    if _pool(call) not in call.emulator.federation.pools:
        raise missing("Requested entity was not found.")
    return call.emulator.federation.pools[_pool(call)]


@rest(
    "iam.projects.locations.workloadIdentityPools.providers.create",
    permission="iam.workloadIdentityPoolProviders.create",
    writes=True,
)
def create_provider(call: Call) -> Any:
    federation, name = call.emulator.federation, call.option("workloadIdentityPoolProviderId")
    if _pool(call) not in federation.pools:
        raise missing("Requested entity was not found.")
    if f"{_pool(call)}/{name}" in federation.providers:
        raise taken(f"Requested entity already exists: {name}")
    full = f"{call.parameters['parent']}/providers/{name}"
    federation.providers[f"{_pool(call)}/{name}"] = {**call.body, "name": full, "state": "ACTIVE"}
    return {"name": f"{full}/operations/o1", "done": True, "response": federation.providers[f"{_pool(call)}/{name}"]}


@rest(
    "iam.projects.locations.workloadIdentityPools.providers.get",
    permission="iam.workloadIdentityPoolProviders.get",
)
def get_provider(call: Call) -> Any:
    parts = call.parameters["name"].split("/")
    found = call.emulator.federation.providers.get(f"{parts[5]}/{parts[7]}")
    if found is None:
        raise missing("Requested entity was not found.")
    return found


@rest(
    "iam.projects.locations.workloadIdentityPools.providers.patch",
    permission="iam.workloadIdentityPoolProviders.update",
    writes=True,
)
def patch_provider(call: Call) -> Any:
    found = get_provider(call)
    found |= {key: value for key, value in call.body.items() if key != "name"}
    return {"name": f"{found['name']}/operations/o2", "done": True, "response": found}
