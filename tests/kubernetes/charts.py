"""What the chart's tests are made of: the real Helm, and the schemas of Kubernetes' own objects and of others' CRDs."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from local.chart_schema import CHART
from local.go_program import NoProgramError, digest, only_one
from local.proxy_binary import ROOT
from release.tools import tool
from tests.support import missing

EXAMPLES = sorted((CHART / "examples").glob("*.yaml"))
#: The least values that can be.
LEAST: dict[str, Any] = {
    "settings": {"PUBLIC_URL": "https://mlflow.example.com", "OAUTH2_PROXY_EMAIL_DOMAINS": "example.com"},
    "mlflow": {"backendStoreUri": "postgresql://mlflow@database/mlflow", "artifactsDestination": "gs://bucket"},
}
#: Modules that carry schemas (Go's proxy has whole repositories), their checksums as go.sum has them, and the files.
CARRIERS = (
    ("k8s.io/kubernetes@v1.37.2", "h1:A2VDEiObzkYqFTKhSsn0ZEb0RlLEXpHWj93gi2HqEwE=", "api/openapi-spec/v3/*.json"),
    ("sigs.k8s.io/gateway-api@v1.5.1", "h1:RqVRIlkhLhUO8wOHKTLnTJA6o/1un4po4/6M1nRzdd0=", "config/crd/standard/*_httproutes.yaml"),
    (
        "github.com/external-secrets/external-secrets@v1.3.2",
        "h1:u2J8RjlHIeF0oZCqtl92adI/uZWUwOesJIDkfql6LqQ=",
        "config/crds/bases/external-secrets.io_*stores.yaml config/crds/bases/external-secrets.io_externalsecrets.yaml",
    ),
    (
        "github.com/prometheus-operator/prometheus-operator@v0.85.0",
        "h1:M5xLCLEoaW2IJfnuCwFzzpL+jSVQu3KGT84Pye+fW8s=",
        "example/prometheus-operator-crd/*_servicemonitors.yaml",
    ),
)  # fmt: skip


def program(name: str) -> str:
    """Return the path of a kept tool, built if need be."""
    try:
        return str(tool(name))
    except NoProgramError as error:
        missing(f"{name} ({error})", "install Go 1.26 or newer")
        raise


def helm(*arguments: str, stdin: str | None = None, limit_s: float = 120) -> subprocess.CompletedProcess[str]:
    """Run Helm; look at the exit code yourself."""
    return subprocess.run(
        [program("helm"), *arguments], input=stdin, capture_output=True, text=True, timeout=limit_s, check=False
    )


def merged(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Return ``base`` with ``over`` laid over it, as Helm does."""
    both = dict(base)
    for key, value in over.items():
        there = both.get(key)
        both[key] = merged(there, value) if isinstance(there, dict) and isinstance(value, dict) else value
    return both


def template(values: dict[str, Any] | Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Run `helm template` with values from a file or as they are."""
    if isinstance(values, Path):
        return helm("template", "gate", str(CHART), "--namespace", "mlflow", "--values", str(values), *options)
    text = json.dumps(values)
    return helm("template", "gate", str(CHART), "--namespace", "mlflow", "--values", "-", *options, stdin=text)


def rendered(values: dict[str, Any] | Path, *options: str) -> dict[tuple[str, str], dict[str, Any]]:
    """Return the objects that values make, by kind and name."""
    done = template(values, *options)
    assert done.returncode == 0, done.stderr
    objects = [one for one in yaml.safe_load_all(done.stdout) if one]
    found = {(one["kind"], one["metadata"]["name"]): one for one in objects}
    assert len(found) == len(objects), "two objects have one name"
    return found


def containers(objects: dict[tuple[str, str], dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    """Yield each container of each pod: where it is, itself, and the pod's spec."""
    for (kind, name), one in objects.items():
        spec = one.get("spec", {})
        for key in {"Pod": (), "Deployment": ("template", "spec"), "Job": ("template", "spec")}.get(
            kind, ("jobTemplate", "spec", "template", "spec") if kind == "CronJob" else (None,)
        ):
            spec = spec[key] if key else {}
        for part in ("initContainers", "containers"):
            for container in spec.get(part) or ():
                yield f"{kind}/{name}/{container['name']}", container, spec


def variables(container: dict[str, Any]) -> dict[str, str | None]:
    """Return a container's environment; None for what comes from elsewhere."""
    return {one["name"]: one.get("value") for one in container["env"]}


def schemas() -> Path:
    """Return a folder with a schema for each kind that charts make, as kubeconform wants them; made once."""
    target = ROOT / ".build" / f"kubernetes-schemas-{digest([Path(__file__)])}"
    if not target.exists() and not shutil.which("go"):
        missing("Go, which fetches Kubernetes' schemas", "install Go 1.26 or newer")
    with only_one("kubernetes-schemas"):
        if not target.exists():
            aside = Path(tempfile.mkdtemp(dir=target.parent))
            for module, checksum, patterns in CARRIERS:
                for pattern in patterns.split():
                    for file in sorted(_fetched(module, checksum).glob(pattern)):
                        for name, schema in _kinds(file):
                            (aside / name).write_text(json.dumps(schema))
            aside.replace(target)
    return target


def _fetched(module: str, checksum: str) -> Path:
    done = subprocess.run(
        ["go", "mod", "download", "-json", module], cwd=tempfile.gettempdir(), capture_output=True, text=True, timeout=300, check=True
    )  # fmt: skip
    about = json.loads(done.stdout)
    assert about["Sum"] == checksum, f"{module} is not what it was"
    return Path(about["Dir"])


def _kinds(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the file name and the schema of each kind in an OpenAPI document or a CustomResourceDefinition."""
    if file.suffix == ".json":
        components = json.loads(file.read_text()).get("components", {})
        for name, schema in components.get("schemas", {}).items():
            for kind in schema.get("x-kubernetes-group-version-kind", ()):
                group = kind["group"].split(".")[0]
                label = "-".join(part for part in (kind["kind"], group, kind["version"]) if part).lower()
                whole = {"$ref": f"#/components/schemas/{name}", "components": components}
                yield f"{label}.json", _strict(whole)
    else:
        spec = yaml.safe_load(file.read_text())["spec"]
        for version in spec["versions"]:
            label = f"{spec['names']['kind']}-{spec['group'].split('.')[0]}-{version['name']}".lower()
            yield f"{label}.json", _strict(version["schema"]["openAPIV3Schema"])


def _strict(schema: Any) -> Any:
    """Return the schema, in which a word that nobody knows is an error, as in the API server's strict validation."""
    if isinstance(schema, list):
        return [_strict(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: _strict(value) for key, value in schema.items()}
    # Of two types, or of any: what the document of the API writes as a text of a format.
    if str(made.get("format")) in {"int-or-string", "quantity"} or made.get("x-kubernetes-int-or-string"):
        made = {key: value for key, value in made.items() if key not in {"type", "format"}}
    if isinstance(made.get("properties"), dict) and made.get("type") == "object":
        loose = made.get("x-kubernetes-preserve-unknown-fields") or "additionalProperties" in made
        made = made if loose else {**made, "additionalProperties": False}
    return made
