"""How a connection is made: TLS verified everywhere but on this machine, and outages told from mistakes."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pg8000.dbapi
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from sqlalchemy.exc import DBAPIError, ProgrammingError

from functions.core.errors import DatabaseAway
from functions.db import engine
from functions.db.engine import CA_BUNDLE, connect, error_text, is_not_migrated, is_outage, make_engine
from functions.db.settings import DatabaseSettings

ELSEWHERE = "127.0.0.2"
"""Reaches this machine but does not look like it: to the code it is any other host."""
PASSWORD = "hunter2-hunter2"
SSL_REQUEST = bytes.fromhex("0000000804d2162f")
"""https://www.postgresql.org/docs/current/protocol-message-formats.html"""

Server = Callable[[socket.socket], None]


@contextlib.contextmanager
def listening(host: str, serve: Server, *, clients: int = 1) -> Iterator[DatabaseSettings]:
    """A server that treats its clients, one after the other, as told."""
    with socket.create_server((host, 0)) as listener:

        def run() -> None:
            with contextlib.suppress(OSError):
                for _number in range(clients):
                    client, _ = listener.accept()
                    with client:
                        serve(client)

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield DatabaseSettings(host, listener.getsockname()[1], "d", "u", PASSWORD)
        finally:
            listener.close()
            thread.join(timeout=5)


def test_a_server_elsewhere_that_offers_no_tls_never_sees_who_we_are() -> None:
    seen = bytearray()

    def without_tls(client: socket.socket) -> None:
        seen.extend(client.recv(8))
        client.sendall(b"N")
        while part := client.recv(4096):
            seen.extend(part)

    with (
        listening(ELSEWHERE, without_tls) as settings,
        pytest.raises(DatabaseAway, match=f"PostgreSQL does not answer at {ELSEWHERE}"),
    ):
        connect(settings)
    assert bytes(seen) == SSL_REQUEST


def test_a_server_elsewhere_whose_certificate_nobody_vouches_for_is_refused(tmp_path: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(_self_signed(tmp_path))
    seen = bytearray()

    def impostor(client: socket.socket) -> None:
        seen.extend(client.recv(8))
        client.sendall(b"S")
        with contextlib.suppress(ssl.SSLError), context.wrap_socket(client, server_side=True) as secured:
            seen.extend(secured.recv(4096))

    with listening(ELSEWHERE, impostor) as settings, pytest.raises(DatabaseAway, match="certificate verify failed"):
        connect(settings)
    assert bytes(seen) == SSL_REQUEST


def test_on_this_machine_tls_may_be_missing() -> None:
    seen = bytearray()

    def without_tls(client: socket.socket) -> None:
        if client.recv(8) == SSL_REQUEST:
            client.sendall(b"N")
        seen.extend(client.recv(4096))

    with listening("127.0.0.1", without_tls) as settings, pytest.raises(DatabaseAway):
        connect(settings)
    assert b"user\x00u\x00" in seen


def test_the_authorities_of_rds_are_at_hand_and_none_is_garbled() -> None:
    authorities = x509.load_pem_x509_certificates(CA_BUNDLE.read_bytes())
    assert len(authorities) > 50
    for authority in authorities:
        authority.verify_directly_issued_by(authority)
        assert authority.subject.rfc4514_string().count("Amazon RDS")
        assert authority.not_valid_after_utc > datetime(2060, 1, 1, tzinfo=UTC)


def test_nobody_listening_is_an_outage_that_says_where_it_looked() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(DatabaseAway, match=f"does not answer at 127.0.0.1, port {port} .* is it running") as away:
        connect(DatabaseSettings("127.0.0.1", port, "d", "u", PASSWORD))
    assert is_outage(away.value)
    assert PASSWORD not in str(away.value)


def test_a_socket_directory_without_a_server_is_an_outage(tmp_path: Path) -> None:
    with pytest.raises(DatabaseAway, match="does not answer"):
        connect(DatabaseSettings(str(tmp_path), 5432, "d", "u", None))


@pytest.mark.parametrize("host", ["127.0.0.1", ELSEWHERE])
def test_a_server_that_accepts_and_then_says_nothing_is_an_outage(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "CONNECT_TIMEOUT_SECONDS", 0.2)
    # The server hangs up at last; without a timeout that, and not the silence, would be what was noticed.
    with listening(host, lambda _: time.sleep(0.6)) as settings, pytest.raises(DatabaseAway, match="timed out"):
        connect(settings)


def _refusing(code: str, seen: list[bytes], *, only_with: bytes = b"") -> Server:
    """A server that refuses the start of a connection, or only one with a parameter of this name."""
    details = f"SFATAL\0C{code}\0Mnot now\0\0".encode()
    refusal = b"E" + (len(details) + 4).to_bytes(4, "big") + details
    welcome = b"R" + (8).to_bytes(4, "big") + bytes(4) + b"Z" + (5).to_bytes(4, "big") + b"I"

    def serve(client: socket.socket) -> None:
        said = client.recv(4096)
        if said == SSL_REQUEST:
            client.sendall(b"N")
            said = client.recv(4096)
        seen.append(said)
        client.sendall(refusal if only_with in said else welcome)
        client.recv(4096)

    return serve


@pytest.mark.parametrize("code", ["28P01", "28000", "53300", "3D000", "57P03", "42501", "55000", "XX000"])
def test_whatever_keeps_a_connection_from_being_made_is_an_outage_in_the_servers_words(code: str) -> None:
    with (
        listening("127.0.0.1", _refusing(code, [])) as settings,
        pytest.raises(DatabaseAway, match=f"takes no connection .not now .SQLSTATE {code}.") as away,
    ):
        connect(settings)
    assert is_outage(away.value)


@pytest.mark.parametrize("code", ["08P01", "0A000", "42704", "22023"])
def test_a_pooler_that_refuses_parameters_is_asked_again_without_them(code: str) -> None:
    seen: list[bytes] = []
    with listening("127.0.0.1", _refusing(code, seen, only_with=b"statement_timeout"), clients=2) as settings:
        connection = connect(settings)
    connection.close()
    assert [b"statement_timeout" in said for said in seen] == [True, False]
    assert b"DateStyle\0ISO, MDY\0" in seen[1]


def test_a_proxy_is_told_what_every_proxy_takes_and_no_more() -> None:
    seen: list[bytes] = []
    with listening("127.0.0.1", _refusing("08P01", seen, only_with=b"statement_timeout")) as settings:
        connect(replace(settings, through_proxy=True)).close()
    names = set(seen[0][8:].split(b"\0")[::2])
    assert names - {b""} == {b"user", b"database", b"client_encoding", b"DateStyle", b"TimeZone"}


def test_an_engine_connects_to_nothing_until_it_is_used() -> None:
    make_engine(DatabaseSettings("nowhere.invalid", 5432, "d", "u", None)).dispose()


def _failure(code: str, message: str = "it failed") -> DBAPIError:
    details = {"S": "ERROR", "C": code, "M": message, "D": "Failing row contains (erika@example.com)."}
    return ProgrammingError("SELECT 1", {}, pg8000.dbapi.ProgrammingError(details))


@pytest.mark.parametrize(
    ("code", "outage", "not_migrated"),
    [
        ("57P01", True, False),
        ("08006", True, False),
        ("53300", True, False),
        ("53100", True, False),
        ("57P02", True, False),
        ("57P03", True, False),
        ("25006", True, False),
        ("25P03", True, False),
        ("25P04", True, False),
        ("57014", False, False),
        ("25P02", False, False),
        ("55P03", False, False),
        ("42P01", False, True),
        ("42883", False, True),
        ("42703", False, True),
        ("23505", False, False),
        ("22P02", False, False),
        ("40P01", False, False),
    ],
)
def test_an_outage_is_told_from_a_mistake_and_from_an_old_schema(code: str, outage: bool, not_migrated: bool) -> None:
    error = _failure(code)
    assert (is_outage(error), is_not_migrated(error)) == (outage, not_migrated)


@pytest.mark.parametrize("error", [ValueError("x"), OSError("x"), ProgrammingError("s", {}, Exception())])
def test_an_error_from_elsewhere_is_neither(error: Exception) -> None:
    assert not is_outage(error)
    assert not is_not_migrated(error)


def test_the_text_of_a_database_error_quotes_no_row() -> None:
    assert error_text(_failure("23505", "duplicate key")) == "duplicate key (SQLSTATE 23505)"
    assert error_text(LookupError("no client")) == "no client"


def _self_signed(folder: Path) -> Path:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, ELSEWHERE)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path = folder / "server.pem"
    path.write_bytes(private + certificate.public_bytes(serialization.Encoding.PEM))
    return path


def test_placeholders_are_converted_as_pg8000_does_and_once() -> None:
    engine._remember_placeholders()
    statement = "SELECT %s, 'a%%b', '%s in a text', $$%s$$ -- %s\n, %s"
    first = pg8000.dbapi.convert_paramstyle("format", statement, (1, 2))
    again = pg8000.dbapi.convert_paramstyle("format", statement, (3, 4))
    assert first[0] == "SELECT $1, 'a%%b', '%s in a text', $$%s$$ -- %s\n, $2"
    assert first[0] is again[0]
    assert (first[1], again[1]) == ((1, 2), (3, 4))
    named = pg8000.dbapi.convert_paramstyle("named", "SELECT :a, :b, :a", {"a": 1, "b": 2})
    assert named == ("SELECT $1, $2, $1", (1, 2))
