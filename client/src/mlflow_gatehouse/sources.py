"""Where an identity token can come from, in the order in which the places are asked.

What a person sets by hand goes before what happens to be around: a token, then a sign-in to this very server. A source
says :class:`NotHere` when it isn't configured, and the next one is asked; :func:`first_token` keeps the reasons for
``mlflow-gatehouse token --explain``. google-auth does the talking to Google.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import google.auth
import google.auth.aws
import google.auth.exceptions
import google.auth.identity_pool
import google.auth.pluggable
import google.auth.transport.requests
from google.auth import compute_engine, impersonated_credentials
from google.auth.compute_engine import _metadata as gce_metadata
from google.oauth2 import credentials as user_credentials
from google.oauth2 import service_account

from mlflow_gatehouse import sign_ins
from mlflow_gatehouse.errors import ClientError, ConfigurationError, NoIdentity
from mlflow_gatehouse.identity_token import IdentityToken
from mlflow_gatehouse.server import Server

CLOUD_PLATFORM = "https://www.googleapis.com/auth/cloud-platform"
GCLOUD_TIMEOUT = 60.0  # seconds; a cold gcloud takes 1 to 3, behind a slow proxy 20


class NotHere(Exception):
    """This source isn't configured here; the message says what is missing."""


class SourceFailed(ClientError):
    """This source is configured, and gave no token."""

    exit_code = NoIdentity.exit_code


@dataclass(frozen=True)
class Source:
    """A place that tokens come from."""

    name: str
    summary: str
    #: (server, the token that it refused or None) → token; see :func:`ask` for what it raises
    fetch: Callable[[Server, str | None], str]


# --- talking to Google -----------------------------------------------------------------------------------


def _transport() -> Any:
    return google.auth.transport.requests.Request()


def _reason(error: Exception) -> str:
    """The first line of google-auth's error, which can be a page of JSON."""
    text = " ".join(str(part) for part in error.args[:1]) or type(error).__name__
    return " ".join(text.split())[:300]


def _refreshed(credentials: Any, fix: str) -> str:
    """Have google-auth fetch the token of ``credentials``."""
    try:
        credentials.refresh(_transport())
    except google.auth.exceptions.GoogleAuthError as error:
        raise SourceFailed(_reason(error), fix) from None
    return str(credentials.token)


def _adc_path() -> tuple[Path, bool]:
    """The file of application default credentials, and whether it was named by hand."""
    named = os.environ.get("GOOGLE_APPLICATION_CREDENTIALS", "").strip()
    if named:
        return Path(named), True
    if os.environ.get("CLOUDSDK_CONFIG"):
        folder = Path(os.environ["CLOUDSDK_CONFIG"])
    elif os.name == "nt":
        folder = Path(os.environ.get("APPDATA", "")) / "gcloud"
    else:
        folder = Path.home() / ".config" / "gcloud"
    return folder / "application_default_credentials.json", False


def _adc(*types: str) -> dict[str, Any]:
    """Application default credentials, if there are any and they are of one of these types."""
    path, named = _adc_path()
    try:
        info = json.loads(path.read_text(encoding="utf-8"))
        kind = info["type"]
    except FileNotFoundError:
        if named:
            raise ConfigurationError(
                f"GOOGLE_APPLICATION_CREDENTIALS names {path}, which doesn't exist",
                "correct the path, or unset GOOGLE_APPLICATION_CREDENTIALS",
            ) from None
        raise NotHere(f"no {path}") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigurationError(
            f"{path} isn't a credentials file of Google: {type(error).__name__}",
            "create it again: gcloud auth application-default login",
        ) from None
    if kind not in types:
        raise NotHere(f"{path} is of type {kind}")
    return dict(info)


def _impersonated(source: Any, account: str, server: Server) -> str:
    target = impersonated_credentials.Credentials(
        source_credentials=source, target_principal=account, target_scopes=[CLOUD_PLATFORM]
    )
    return _mint(target, account, server)


def _mint(target: Any, account: str, server: Server) -> str:
    credentials = impersonated_credentials.IDTokenCredentials(
        target, target_audience=server.audience, include_email=True
    )
    return _refreshed(
        credentials,
        f"grant roles/iam.serviceAccountOpenIdTokenCreator on {account} to who runs this, and enable "
        "iamcredentials.googleapis.com",
    )


def _federated(info: Mapping[str, Any]) -> Any:
    """The credentials of another cloud or a CI, of the kind that google-auth would choose.

    Its own loader also asks for the project's name, over a network that need not be open.
    """
    if info.get("subject_token_type") == "urn:ietf:params:aws:token-type:aws4_request":
        kind: Any = google.auth.aws.Credentials
    elif "executable" in (info.get("credential_source") or {}):
        kind = google.auth.pluggable.Credentials
    else:
        kind = google.auth.identity_pool.Credentials
    try:
        return kind.from_info(info, scopes=[CLOUD_PLATFORM])
    except (google.auth.exceptions.GoogleAuthError, ValueError, KeyError) as error:
        raise SourceFailed(_reason(error), "create the credentials file again") from None


def _load(info: Mapping[str, Any]) -> Any:
    try:
        credentials, _ = google.auth.load_credentials_from_dict(dict(info), scopes=[CLOUD_PLATFORM])
    except (google.auth.exceptions.GoogleAuthError, ValueError, KeyError) as error:
        raise SourceFailed(_reason(error), "create the credentials file again") from None
    return credentials


# --- the sources -----------------------------------------------------------------------------------------


def from_environment(_server: Server, _refused: str | None) -> str:
    """``MLFLOW_TRACKING_TOKEN``, or the file ``MLFLOW_TRACKING_TOKEN_FILE``, read anew each time."""
    token = os.environ.get("MLFLOW_TRACKING_TOKEN", "").strip()
    path = os.environ.get("MLFLOW_TRACKING_TOKEN_FILE", "").strip()
    if path and token:
        raise ConfigurationError("MLFLOW_TRACKING_TOKEN and MLFLOW_TRACKING_TOKEN_FILE are both set", "unset one")
    if path:
        try:
            token = Path(path).read_text(encoding="utf-8").strip()
        except (OSError, ValueError) as error:
            raise ConfigurationError(
                f"MLFLOW_TRACKING_TOKEN_FILE: {path} can't be read: {type(error).__name__}",
                "correct the path",
            ) from None
    if not token:
        raise NotHere("MLFLOW_TRACKING_TOKEN isn't set")
    if not token.isascii() or any(letter.isspace() for letter in token):
        raise ConfigurationError(
            "MLFLOW_TRACKING_TOKEN holds a space or a letter that no token has", "set it to the token alone"
        )
    return token


def from_federation(server: Server, _refused: str | None) -> str:
    """Workload identity federation: another cloud's or a CI's identity stands for a service account."""
    info = _adc("external_account")
    url = info.pop("service_account_impersonation_url", "")
    named = os.environ.get("GATEHOUSE_IMPERSONATE_SERVICE_ACCOUNT", "").strip()
    account = named or url.rpartition("/serviceAccounts/")[2].partition(":")[0]
    if not account:
        raise SourceFailed(
            "the federated identity stands for no service account, and only one of those has identity tokens",
            "export GATEHOUSE_IMPERSONATE_SERVICE_ACCOUNT=name@project.iam.gserviceaccount.com",
        )
    return _impersonated(_federated(info), account, server)


def from_metadata(server: Server, _refused: str | None) -> str:
    """The metadata server of Cloud Run, GKE, Compute Engine, Vertex AI and Cloud Build."""
    if os.environ.get("GOOGLE_APPLICATION_CREDENTIALS", "").strip():
        raise NotHere("GOOGLE_APPLICATION_CREDENTIALS is set, and goes first")
    if os.environ.get("NO_GCE_CHECK", "").lower() == "true":
        raise NotHere("NO_GCE_CHECK is set")
    transport = _transport()
    certain = os.environ.get("GCE_METADATA_HOST") or gce_metadata.detect_gce_residency_linux()
    # One second, once: on a machine that isn't Google's nobody answers at the link-local address.
    if not certain and not gce_metadata.ping(transport, timeout=1, retry_count=1):
        raise NotHere("no metadata server: this machine isn't Google's")
    try:
        credentials = compute_engine.IDTokenCredentials(
            transport, target_audience=server.audience, use_metadata_identity_endpoint=True
        )
    except google.auth.exceptions.GoogleAuthError as error:
        raise SourceFailed(_reason(error), "give this machine a service account") from None
    return _refreshed(credentials, "give this machine a service account")


def from_key(server: Server, _refused: str | None) -> str:
    """The key of a service account, a file that ``GOOGLE_APPLICATION_CREDENTIALS`` names."""
    info = _adc("service_account")
    try:
        credentials = service_account.IDTokenCredentials.from_service_account_info(
            info, target_audience=server.audience
        )
    except (google.auth.exceptions.GoogleAuthError, ValueError) as error:
        raise SourceFailed(f"the key can't be used: {_reason(error)}", "make a new key") from None
    return _refreshed(credentials, "make sure that the key hasn't been revoked, and that the clock is right")


def from_impersonation(server: Server, _refused: str | None) -> str:
    """A service account that these credentials may stand for."""
    account = os.environ.get("GATEHOUSE_IMPERSONATE_SERVICE_ACCOUNT", "").strip()
    if not account:
        target = _load(_adc("impersonated_service_account"))
        return _mint(target, str(target.service_account_email), server)
    try:
        source, _ = google.auth.default(scopes=[CLOUD_PLATFORM], request=_transport())
    except google.auth.exceptions.GoogleAuthError as error:
        raise SourceFailed(
            f"no credentials to stand for {account} with: {_reason(error)}",
            "gcloud auth application-default login",
        ) from None
    return _impersonated(source, account, server)


def from_user(_server: Server, _refused: str | None) -> str:
    """Application default credentials of a person. Their audience is Google's, whatever is asked for."""
    info = _adc("authorized_user")
    again = "gcloud auth application-default login"
    try:
        credentials = user_credentials.Credentials.from_authorized_user_info(info)
    except ValueError as error:
        raise SourceFailed(f"the credentials can't be used: {_reason(error)}", again) from None
    _refreshed(credentials, again)
    if not credentials.id_token:
        raise SourceFailed("Google gave no identity token: the scope openid was not granted", again)
    return str(credentials.id_token)


def _gcloud(*arguments: str) -> str:
    program = shutil.which("gcloud")
    if program is None:
        raise NotHere("gcloud isn't on the PATH")
    environment = os.environ | {"CLOUDSDK_CORE_DISABLE_PROMPTS": "1"}
    try:
        result = subprocess.run(
            [program, *arguments],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=GCLOUD_TIMEOUT,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise SourceFailed(f"gcloud gave no answer in {GCLOUD_TIMEOUT:.0f} s", "check gcloud's network") from None
    if result.returncode != 0:
        said = " ".join(result.stderr.replace("ERROR: ", "").split())[:300]
        raise SourceFailed(f"gcloud: {said}", "gcloud auth login")
    return result.stdout


def from_gcloud(server: Server, _refused: str | None) -> str:
    """gcloud's active account. A person's token has gcloud's own audience, whatever is asked for."""
    configured = json.loads(_gcloud("config", "list", "--format=json") or "{}")
    account = configured.get("core", {}).get("account", "")
    impersonated = configured.get("auth", {}).get("impersonate_service_account")
    if not account and not impersonated:
        raise NotHere("gcloud has no active account")
    command = ["auth", "print-identity-token"]
    if impersonated:
        command += [f"--audiences={server.audience}", "--include-email"]
    elif account.endswith(".gserviceaccount.com"):
        command += [f"--audiences={server.audience}"]
    return _gcloud(*command).strip()


def from_login(server: Server, refused: str | None) -> str:
    """What ``mlflow-gatehouse login`` kept, renewed at the provider when it is due."""
    record = sign_ins.load(server.origin)
    if record is None:
        raise NotHere(f"nobody has signed in: mlflow-gatehouse login {server.origin}")
    from mlflow_gatehouse import oidc

    return oidc.living_token(server.origin, refused)


SOURCES: tuple[Source, ...] = (
    Source("environment", "MLFLOW_TRACKING_TOKEN or MLFLOW_TRACKING_TOKEN_FILE", from_environment),
    Source("login", "mlflow-gatehouse login", from_login),
    Source("federation", "workload identity federation", from_federation),
    Source("metadata", "the metadata server", from_metadata),
    Source("key", "a service account's key", from_key),
    Source("impersonation", "an impersonated service account", from_impersonation),
    Source("user", "application default credentials of a person", from_user),
    Source("gcloud", "gcloud's active account", from_gcloud),
)

#: Every variable that decides which source is used: when one changes, the choice is made anew.
DECIDING = (
    "MLFLOW_TRACKING_TOKEN",
    "MLFLOW_TRACKING_TOKEN_FILE",
    "GOOGLE_APPLICATION_CREDENTIALS",
    "GATEHOUSE_AUDIENCE",
    "GATEHOUSE_IMPERSONATE_SERVICE_ACCOUNT",
    "GATEHOUSE_TOKEN_SOURCE",
)


def chosen() -> Sequence[Source]:
    """The sources to ask: those that ``GATEHOUSE_TOKEN_SOURCE`` names (comma-separated, in order), or all."""
    names = os.environ.get("GATEHOUSE_TOKEN_SOURCE", "").replace(",", " ").split()
    known = {source.name: source for source in SOURCES}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ConfigurationError(
            f"GATEHOUSE_TOKEN_SOURCE: there is no source {', '.join(unknown)}",
            f"choose from {', '.join(known)}",
        )
    if names:
        return [known[name] for name in names]
    if os.environ.get("GATEHOUSE_IMPERSONATE_SERVICE_ACCOUNT", "").strip():
        # Asked for by name: falling back to somebody else's identity would be a surprise.
        federated = "federation" if _is_federated() else "impersonation"
        return [known["environment"], known[federated]]
    return SOURCES


def _is_federated() -> bool:
    try:
        _adc("external_account")
    except (NotHere, ClientError):
        return False
    return True


def objection(token: IdentityToken, server: Server, now: float) -> str | None:
    """Why the server wouldn't take this token, as far as can be told from here; None if it may."""
    if not token.claims:
        return None  # opaque: nothing can be told
    if not token.living(now):
        return f"it ended {_ago(now - token.ends_at)} ago"
    if server.audiences and not server.audiences.intersection(token.audiences):
        return f"it is for the audience {', '.join(token.audiences) or '(none)'}, and the server takes " + ", ".join(
            sorted(server.audiences)
        )
    if not token.email:
        return "it has no e-mail claim, by which the server judges"
    if token.claims.get("email_verified") is False:
        return f"its provider hasn't verified the address {token.email}"
    return None


def _ago(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


@dataclass(frozen=True)
class Tried:
    """What came of one source: used, or why not."""

    source: Source
    outcome: str
    fix: str = ""
    configured: bool = True


def ask(source: Source, server: Server, now: Callable[[], float], refused: str | None = None) -> IdentityToken:
    """Fetch a token from one source and check it. ``refused`` is one that the server wouldn't take.

    Raises:
        NotHere: the source isn't configured.
        ClientError: it is, and gave no token that the server would take.
    """
    minted = source.name != "environment"  # what was set by hand may be old
    token = IdentityToken.parse(source.fetch(server, refused), source.name, now, minted=minted)
    if not token.value:
        raise SourceFailed("it gave an empty answer")
    problem = objection(token, server, now())
    if problem:
        raise SourceFailed(f"its token isn't of use: {problem}", remedy(problem, token, server))
    return token


def remedy(problem: str, token: IdentityToken, server: Server) -> str:
    """The fix for what :func:`objection` found."""
    if "audience" in problem:
        fitting = sorted(server.audiences)[0] if server.audiences else server.origin
        return f"export GATEHOUSE_AUDIENCE={fitting} (for a service account), or mlflow-gatehouse login (for a person)"
    if "e-mail" in problem:
        return "ask for the e-mail: scope email, or for a service account --include-email / format=full"
    if "ended" in problem:
        return "unset MLFLOW_TRACKING_TOKEN: the plug-in then fetches one by itself"
    return f"have {token.email} verified at the provider"


def first_token(
    server: Server, now: Callable[[], float], sources: Iterable[Source] | None = None
) -> tuple[IdentityToken, Source, list[Tried]]:
    """Ask each source in turn; return the first token that will do, its source, and what came of all asked.

    Raises:
        ClientError: what was set by hand can't be used, or the sign-in has ended; nothing else is tried in its place.
        NoIdentity: no source has one; the message lists each with its reason.
    """
    tried: list[Tried] = []
    for source in chosen() if sources is None else sources:
        try:
            token = ask(source, server, now)
        except NotHere as reason:
            tried.append(Tried(source, f"not here: {reason}", configured=False))
        except ConfigurationError:
            raise
        except ClientError as error:
            if source.name == "login":
                raise  # a person signed in to be that person: not to go on as the machine, without a word
            tried.append(Tried(source, error.problem, error.fix))
        else:
            tried.append(Tried(source, "used"))
            return token, source, tried
    reasons = "\n".join(f"    {item.source.name}: {item.outcome}" for item in tried)
    fixes = [item.fix for item in tried if item.configured and item.fix]
    raise NoIdentity(
        f"no identity token for {server.origin}. Asked in this order:\n{reasons}",
        fixes[0] if fixes else f"sign in: mlflow-gatehouse login {server.origin}",
    )
