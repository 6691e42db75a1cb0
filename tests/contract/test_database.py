"""infra/database.yaml: a database of our own is private, encrypted, backed up, and not lost by accident."""

from __future__ import annotations

from typing import Any

import pytest

from tests.contract.templates import NESTED, Template, nested

ENVIRONMENTS = pytest.mark.parametrize("environment", ["dev", "staging", "prod"])


def database(environment: str = "prod") -> Template:
    return nested(NESTED["Database"], Prefix="firm", Environment=environment)


def only(kind: str, environment: str = "prod") -> dict[str, Any]:
    [properties] = database(environment).resources(kind).values()
    return properties


@ENVIRONMENTS
def test_data_is_encrypted_backed_up_and_kept_as_a_snapshot(environment: str) -> None:
    cluster = only("AWS::RDS::DBCluster", environment)
    assert cluster["StorageEncrypted"] is True
    assert cluster["BackupRetentionPeriod"] >= 1
    body = database().body["Resources"]["Cluster"]
    assert (body["DeletionPolicy"], body["UpdateReplacePolicy"]) == ("Snapshot", "Snapshot")


def test_production_cannot_be_deleted_and_survives_a_zone() -> None:
    assert only("AWS::RDS::DBCluster", "prod")["DeletionProtection"] is True
    assert only("AWS::RDS::DBCluster", "dev")["DeletionProtection"] is False
    instances = {
        environment: database(environment).resources("AWS::RDS::DBInstance") for environment in ("dev", "prod")
    }
    assert {environment: len(found) for environment, found in instances.items()} == {"dev": 1, "prod": 2}


def test_the_proxy_speaks_tls_alone_and_logs_in_with_the_generated_secret() -> None:
    proxy = only("AWS::RDS::DBProxy")
    assert proxy["RequireTLS"] is True
    assert [found["SecretArn"] for found in proxy["Auth"]] == ["Secret"]
    assert (
        "{{resolve:secretsmanager:Secret:SecretString:password}}" in only("AWS::RDS::DBCluster")["MasterUserPassword"]
    )


def test_nothing_is_reachable_from_outside() -> None:
    assert not database().resources("AWS::EC2::InternetGateway")
    assert not any(found["PubliclyAccessible"] for found in database().resources("AWS::RDS::DBInstance").values())
    for group in database().resources("AWS::EC2::SecurityGroup").values():
        for rule in group.get("SecurityGroupIngress", []):
            assert "SourceSecurityGroupId" in rule
            assert "CidrIp" not in rule


def test_functions_reach_the_services_they_call_without_the_internet() -> None:
    endpoints = database().resources("AWS::EC2::VPCEndpoint").values()
    assert {found["ServiceName"].rsplit(".", 1)[1] for found in endpoints} == {"sqs", "secretsmanager", "s3"}
