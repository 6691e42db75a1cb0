"""Where the database is: URLs, secrets, and errors that say what is wrong without quoting a password."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from functions.core.errors import ConfigurationError
from functions.db.settings import DatabaseSettings, connection_url, from_secret, from_url, load_settings

words = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), min_size=1, max_size=20)
hosts = st.one_of(
    st.from_regex(r"[a-z][a-z0-9-]{0,20}(\.[a-z][a-z0-9-]{0,20}){0,3}", fullmatch=True),
    st.ip_addresses().map(str),
    words.map(lambda text: f"/tmp/{text}"),
)
settings_of_all_kinds = st.builds(
    DatabaseSettings,
    host=hosts,
    port=st.integers(1, 65_535),
    database=words,
    user=words,
    password=st.none() | words,
)
SECRET = {"username": "app", "password": "hunter2", "host": "db.example", "port": 5433, "dbname": "due"}


@given(settings_of_all_kinds)
def test_every_database_has_a_url_that_leads_back_to_it(settings: DatabaseSettings) -> None:
    assert from_url(connection_url(settings)) == settings


@given(settings_of_all_kinds, st.none() | hosts)
def test_every_database_has_a_secret_that_leads_back_to_it(settings: DatabaseSettings, proxy: str | None) -> None:
    text = json.dumps(
        {
            "engine": "postgres",
            "username": settings.user,
            "password": settings.password,
            "host": settings.host,
            "port": settings.port,
            "dbname": settings.database,
        }
    )
    found = from_secret(text, host=proxy)
    assert found.host == (proxy or settings.host)
    assert (found.port, found.database) == (settings.port, settings.database)
    assert (found.user, found.password) == (settings.user, settings.password)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("postgresql://u:p@h:6000/d", DatabaseSettings("h", 6000, "d", "u", "p")),
        ("postgres://u@h/d", DatabaseSettings("h", 5432, "d", "u", None)),
        ("postgresql+pg8000://h", DatabaseSettings("h", 5432, "postgres", "postgres", None)),
        ("postgresql://u:a%40b%2Fc@h/d", DatabaseSettings("h", 5432, "d", "u", "a@b/c")),
        ("postgresql:///d?host=/run/postgres", DatabaseSettings("/run/postgres", 5432, "d", "postgres", None)),
        ("postgresql://u@h/d?sslmode=require", DatabaseSettings("h", 5432, "d", "u", None)),
    ],
)
def test_what_a_url_leaves_out_has_the_usual_default(url: str, expected: DatabaseSettings) -> None:
    assert from_url(url) == expected


def test_only_a_directory_is_a_local_socket() -> None:
    assert from_url("postgresql:///d?host=/run").is_local_socket
    assert not from_url("postgresql://localhost/d").is_local_socket


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("mysql://root:hunter2@h/d", "must start with postgresql://, not mysql://"),
        ("h:5432/d", "must start with postgresql://"),
        ("postgresql://u:hunter2@h:port/d", "usable port"),
        ("postgresql://u:hunter2@h:99999/d", "usable port"),
        ("postgresql://u:hunter2/+@h/d", "percent-encode the special characters"),
        ("postgresql://u:hunter2@[h/d", "is no URL"),
    ],
)
def test_a_url_that_is_none_is_refused_with_the_reason_and_without_the_password(url: str, why: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        from_url(url)
    assert why in str(refused.value)
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize("proxy", [None, "proxy.example"])
@pytest.mark.parametrize(
    "text",
    [
        "",
        "hunter2",
        "[]",
        '["hunter2"]',
        '"hunter2"',
        "17",
        "null",
        json.dumps({"password": "hunter2"}),
        json.dumps({key: value for key, value in SECRET.items() if key != "username"}),
        json.dumps(SECRET | {"port": None}),
        json.dumps(SECRET | {"port": "port"}),
    ],
)
def test_a_secret_that_is_not_rds_json_is_refused_without_its_password(text: str, proxy: str | None) -> None:
    with pytest.raises(ConfigurationError, match="the database secret is not RDS's JSON") as refused:
        from_secret(text, host=proxy)
    assert "hunter2" not in str(refused.value)


def test_a_secret_without_a_host_is_enough_behind_a_proxy_and_only_there() -> None:
    text = json.dumps({key: value for key, value in SECRET.items() if key != "host"})
    assert from_secret(text, host="proxy.example").host == "proxy.example"
    with pytest.raises(ConfigurationError, match="host"):
        from_secret(text, host=None)


def test_a_missing_database_names_both_variables() -> None:
    for environ in ({}, {"DATABASE_URL": ""}, {"DATABASE_HOST": "proxy.example"}):
        with pytest.raises(ConfigurationError, match="neither DATABASE_URL nor DATABASE_SECRET_ARN is set"):
            load_settings(environ)


def test_the_url_comes_before_the_secret() -> None:
    environ = {"DATABASE_URL": "postgresql://h/d", "DATABASE_SECRET_ARN": "arn:never:read"}
    assert load_settings(environ).host == "h"


def test_the_password_does_not_show_when_settings_are_printed() -> None:
    shown: Any = DatabaseSettings("h", 5432, "d", "u", "hunter2")
    assert "hunter2" not in repr(shown)
