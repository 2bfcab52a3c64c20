"""Addresses in messages never show any part of a password."""

from urllib.parse import quote

import pytest

from captionlab.tracking.address import reason, shown


@pytest.mark.parametrize(("uri", "expected"), [
    ("http://127.0.0.1:5000", "http://127.0.0.1:5000"),
    ("http://me:secret@127.0.0.1:5000/mlflow", "http://127.0.0.1:5000/mlflow"),
    ("http://token@lab.example.org", "http://lab.example.org"),
    ("http://me:p@ss@127.0.0.1:9", "http://127.0.0.1:9"),
    ("http://me:pa/ss@127.0.0.1:9", "http://127.0.0.1:9"),
    ("http://me:p%40s%2Fs@127.0.0.1:9", "http://127.0.0.1:9"),
    ("http://me:pa?ss@127.0.0.1:9", "http://..."),
    ("http://me:pa#ss@127.0.0.1:9", "http://..."),
    ("postgresql+psycopg://me:secret@db/runs?sslpassword=hidden", "postgresql+psycopg://db/runs"),
    ("postgresql://db/runs?password=se@cret", "postgresql://..."),
    ("mssql+pyodbc:///?odbc_connect=UID%3Dme%3BPWD%3Dsecret", "mssql+pyodbc:///"),
    ("sqlite:////home/me@work/mlflow.db", "sqlite:////home/me@work/mlflow.db"),
    ("file:///home/me@work/mlruns", "file:///home/me@work/mlruns"),
    ("databricks", "databricks"),
    ("me:secret@lab.example.org:5000", "lab.example.org:5000"),
    ("me:p@ss?word@lab.example.org", "..."),
    ("/home/me@work/mlruns", "/home/me@work/mlruns"),
    ("sqlite+pysqlcipher://:secret@/runs.db", "sqlite+pysqlcipher:///runs.db"),
    ("sqlite:////runs.db?key=secret", "sqlite:////runs.db"),
    ("file://me:secret@lab/mlruns", "file://lab/mlruns"),
    ("//me:secret@lab", "lab"),
    ("./me:secret@lab", "lab"),
])  # fmt: skip
def test_addresses_are_shown_without_credentials_and_query(uri: str, expected: str) -> None:
    assert shown(uri) == expected


@pytest.mark.parametrize("password", ["secret", "p@ss", "pa/ss", "Pa:Ss", "50%", "päss wort"])
@pytest.mark.parametrize("form", ["{}", "{encoded}", "cannot find the host '{}@127.0.0.1'", "port '{lower}' is none"])
def test_errors_with_the_password_are_left_out(password: str, form: str) -> None:
    encoded = quote(password, safe="")
    said = form.format(password, encoded=encoded, lower=password.lower())
    for written in (password, encoded):
        assert reason(ValueError(said), f"http://me:{written}@127.0.0.1:9") is None


@pytest.mark.parametrize("uri", [
    "http://me:secret@127.0.0.1:9", "http://token@127.0.0.1:9", "http://127.0.0.1:9", "sqlite:////home/x/mlflow.db",
    "mysql://db/runs?password=secret",
])  # fmt: skip
def test_other_errors_are_shortened_to_one_line(uri: str) -> None:
    """The user's name is not secret: databases name it when they refuse a password."""
    assert reason(OSError("refused\n for me at 127.0.0.1:9"), uri) == "refused for me at 127.0.0.1:9"
    assert len(reason(OSError("x" * 1000), uri) or "") == 200


def test_the_values_of_a_query_are_secrets_too() -> None:
    assert reason(ValueError("invalid: hidden"), "postgresql://db/runs?sslpassword=hidden") is None
    assert reason(ValueError("invalid token"), "http://token@127.0.0.1:9") is None


def test_the_password_of_another_address_is_left_out() -> None:
    """MLFLOW_REGISTRY_URI may name another server."""
    said = reason(OSError("API request to http://me:p@ss@lab.example.org/api failed"), "http://127.0.0.1:9")
    assert said == "API request to http://...@lab.example.org/api failed"


def test_the_password_of_an_address_without_a_scheme_is_secret_too() -> None:
    assert reason(ValueError("unsupported: 'me:secret@lab/api'"), "me:secret@lab/api") is None


@pytest.mark.parametrize("uri", ["localhost:5000", "127.0.0.1:5000/", "me:secret@127.0.0.1:9"])
def test_a_server_without_a_scheme_is_told_so(uri: str) -> None:
    assert reason(ValueError(f"unsupported: {uri}"), uri) == "it does not begin with http:// or https://"
