"""In a real organisation: its policies, its networks and its keys."""

from __future__ import annotations

from typing import Any

import pytest

from tests.deploy.conftest import PROJECT, Tool

INGRESS = {"values": {"allowedValues": ["internal", "internal-and-cloud-load-balancing"]}}


@pytest.mark.parametrize(
    ("constraint", "rule", "changes", "bad", "good"),
    [
        (
            "run.allowedIngress",
            INGRESS,
            {"service": {"ingress": "internal-and-cloud-load-balancing"}, "public_url": "https://ml.example.com"},
            "✗ policy run.allowedIngress: forbids ingress all",
            "✓ policy run.allowedIngress: allows ingress internal-and-cloud-load-balancing",
        ),
        (
            "sql.restrictPublicIp",
            {"enforce": True},
            {"sql": {"network": "default", "subnet": "default"}},
            "✗ policy sql.restrictPublicIp: forbids a database with a public address",
            "✓ policy sql.restrictPublicIp: allows a private database",
        ),
        (
            "run.allowedVPCEgress",
            {"values": {"allowedValues": ["all-traffic"]}},
            {"service": {"network": "default", "subnet": "default", "egress": "all-traffic"}},
            "✗ policy run.allowedVPCEgress: forbids egress without a network",
            "✓ policy run.allowedVPCEgress: allows egress all-traffic",
        ),
        (
            "gcp.resourceLocations",
            {"values": {"allowedValues": ["in:us-locations"]}},
            {"region": "us-central1"},
            "✗ policy gcp.resourceLocations: forbids resources in europe-west1",
            "✓ policy gcp.resourceLocations: allows resources in us-central1",
        ),
        (
            "gcp.restrictNonCmekServices",
            {"values": {"deniedValues": ["sqladmin.googleapis.com"]}},
            {"kms_key": f"projects/{PROJECT}/locations/europe-west1/keyRings/r/cryptoKeys/k"},
            "✗ policy gcp.restrictNonCmekServices: forbids resources without a key of your own",
            "✓ policy gcp.restrictNonCmekServices: allows your key",
        ),
    ],
)
def test_doctor_is_right_about_a_policy_and_its_remedy_helps(
    tool: Tool, constraint: str, rule: dict[str, Any], changes: dict[str, Any], bad: str, good: str
) -> None:
    tool.cloud.project.constraints[constraint] = rule
    told = tool.here("doctor").out
    assert bad in told
    assert f"✗ policy {constraint}" in told
    assert told.count("✗ policy") == 1  # no neighbour is blamed
    tool.configure(**changes)
    told = tool.here("doctor").out
    assert good in told
    assert "✗ policy" not in told


def test_a_forbidden_ingress_is_explained_and_an_allowed_one_deploys(tool: Tool) -> None:
    tool.cloud.project.constraints["run.allowedIngress"] = INGRESS
    client = ("--oauth-client", str(tool.client_file()))
    result = tool.here("apply", "--yes", "--no-smoke", *client)
    assert result.code == 1
    assert "set service/ingress to one that it allows" in result.out
    tool.configure(service={"ingress": "internal"}, public_url="https://ml.example.com")
    tool.here_good("apply", "--yes", "--no-smoke", *client)
    meta = tool.cloud.run.services["mlflow-dev"].meta
    assert meta["metadata"]["annotations"]["run.googleapis.com/ingress"] == "internal"
    assert "Nothing to do" in tool.here_good("apply", "--yes", "--no-smoke").out


def test_a_shared_network_a_key_and_another_egress_are_set(tool: Tool) -> None:
    key = f"projects/{PROJECT}/locations/europe-west1/keyRings/r/cryptoKeys/k"
    shared = {
        "network": "projects/host-project/global/networks/shared",
        "subnet": "projects/host-project/regions/europe-west1/subnetworks/ml",
    }
    tool.configure(sql=shared, service={"egress": "all-traffic"}, kms_key=key)
    tool.here_good("apply", "--yes", "--no-smoke", "--oauth-client", str(tool.client_file()))
    cloud = tool.cloud
    server = cloud.sql.instances["mlflow-dev"].meta
    assert server["diskEncryptionConfiguration"]["kmsKeyName"] == key
    assert server["settings"]["ipConfiguration"]["privateNetwork"].endswith(
        "projects/host-project/global/networks/shared"
    )
    assert cloud.storage.buckets[f"{PROJECT}-mlflow-dev"].meta["encryption"]["defaultKmsKeyName"] == key
    notes = cloud.run.services["mlflow-dev"].meta["spec"]["template"]["metadata"]["annotations"]
    assert notes["run.googleapis.com/encryption-key"] == key
    assert notes["run.googleapis.com/vpc-access-egress"] == "all-traffic"
    assert "projects/host-project" in notes["run.googleapis.com/network-interfaces"]
    assert "Nothing to do" in tool.here_good("apply", "--yes", "--no-smoke").out


def test_everything_is_in_the_region(deployed: Tool) -> None:
    cloud = deployed.cloud
    assert {bucket.meta["location"] for bucket in cloud.storage.buckets.values()} == {"EUROPE-WEST1"}
    backup = cloud.sql.instances["mlflow-dev"].meta["settings"]["backupConfiguration"]
    assert backup["location"] == "europe-west1"
