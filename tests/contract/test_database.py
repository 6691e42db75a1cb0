"""infra/database.yaml: a database of our own is private, encrypted, backed up, and not lost by accident."""

from __future__ import annotations

import re
from typing import Any

import pytest

from duecourse.lint_template import REPOSITORY
from functions.db.sessions import SETTINGS
from tests.contract.templates import NESTED, PSEUDO, Template, nested

ENVIRONMENTS = pytest.mark.parametrize("environment", ["dev", "staging", "prod"])
ENDPOINTS = {"sesv2": "email", "cloudwatch": "monitoring"}
"""A service's name in an endpoint, where boto3 has another."""


def database(environment: str = "prod", **given: str) -> Template:
    return nested(NESTED["Database"], Prefix="firm", Environment=environment, **given)


def endpoints(**given: str) -> dict[str, dict[str, Any]]:
    """The VPC's endpoints by service."""
    found = database(**given).resources("AWS::EC2::VPCEndpoint").values()
    return {properties["ServiceName"].rsplit(".", 1)[1]: properties for properties in found}


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


def test_the_proxy_s_own_connections_have_the_settings_of_our_sessions() -> None:
    query = only("AWS::RDS::DBProxyTargetGroup")["ConnectionPoolConfigurationInfo"]["InitQuery"]
    assert dict(re.findall(r"SET (\w+) = '([^']*)'", query)) == dict(SETTINGS)


def test_nothing_is_reachable_from_outside() -> None:
    assert not database().resources("AWS::EC2::InternetGateway")
    assert not any(found["PubliclyAccessible"] for found in database().resources("AWS::RDS::DBInstance").values())
    for group in database().resources("AWS::EC2::SecurityGroup").values():
        for rule in group.get("SecurityGroupIngress", []):
            assert "SourceSecurityGroupId" in rule
            assert "CidrIp" not in rule


def test_functions_reach_every_service_they_call_without_the_internet() -> None:
    """Logs and traces need none: they leave by Lambda itself."""
    sources = "".join(path.read_text() for path in (REPOSITORY / "functions").rglob("*.py"))
    called = {ENDPOINTS.get(name, name) for name in re.findall(r"\bclient\(\"(\w+)\"", sources)}
    assert set(endpoints()) == called >= {"sqs", "secretsmanager", "s3", "email"}


@pytest.mark.parametrize(
    ("zones", "subnets"), [("both", ["SubnetA", "SubnetB"]), ("first", ["SubnetA"]), ("second", ["SubnetB"])]
)
def test_ses_is_reached_from_the_zones_that_have_it(zones: str, subnets: list[str]) -> None:
    assert endpoints(MailZones=zones)["email"]["SubnetIds"] == subnets
    assert "email" not in endpoints(MailZones="none")


def test_endpoints_take_the_functions_alone_and_carry_nothing_to_another_account() -> None:
    found = endpoints()
    gateway = found.pop("s3")
    assert all(each["SecurityGroupIds"] == ["EndpointSecurityGroup.GroupId"] for each in found.values())
    for service in ("sqs", "secretsmanager"):
        [statement] = found[service]["PolicyDocument"]["Statement"]
        own = {"aws:PrincipalAccount": PSEUDO["AWS::AccountId"], "aws:ResourceAccount": PSEUDO["AWS::AccountId"]}
        assert statement["Condition"] == {"StringEquals": own}
    for service in ("lambda", "monitoring"):  # of an account, not of a resource in one
        [statement] = found[service]["PolicyDocument"]["Statement"]
        assert statement["Condition"] == {"StringEquals": {"aws:PrincipalAccount": PSEUDO["AWS::AccountId"]}}
    [read, write] = gateway["PolicyDocument"]["Statement"]
    assert (read["Action"], write["Action"]) == ("s3:GetObject", "s3:PutObject")
    assert write["Resource"].startswith("arn:aws:s3:::cloudformation-")
