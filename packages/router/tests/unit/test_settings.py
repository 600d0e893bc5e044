"""The settings: environment variables, read in one place."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr, ValidationError
from stratmaster_router.settings import Settings, SettingsInvalid

PEPPER = "0123456789abcdef" * 2
DEFAULTS: dict[str, Any] = {
    "policy": Path("configs/router/models-policy.yaml"),
    "host": "127.0.0.1",
    "port": 8086,
    "tls_cert": None,
    "tls_key": None,
    "tls_client_ca": None,
    "workers": 1,
    "keys_dir": None,
    "admin_keys_dir": None,
    "key_pepper": None,
    "key_pepper_file": None,
    "database_url": "sqlite:///router.db",
    "ledger_retention_days": 0,
    "log_level": "info",
    "access_log": "stdout",
    "audit_log": None,
    "body_limit": 33_554_432,
    "body_timeout": 30.0,
    "drain_delay": 0.0,
    "drain_timeout": 30.0,
    "bridge_url": None,
    "bridge_token": None,
    "bridge_python": None,
    "trust_env": False,
    "metrics_dir": None,
}
GIVEN: dict[str, tuple[str, Any]] = {
    "policy": ("/etc/router/policy.yaml", Path("/etc/router/policy.yaml")),
    "host": ("0.0.0.0", "0.0.0.0"),
    "port": ("0", 0),
    "tls_cert": ("/etc/tls/tls.crt", Path("/etc/tls/tls.crt")),
    "tls_key": ("/etc/tls/tls.key", Path("/etc/tls/tls.key")),
    "tls_client_ca": ("/etc/tls/ca.crt", Path("/etc/tls/ca.crt")),
    "workers": ("4", 4),
    "keys_dir": ("/var/run/secrets/keys", Path("/var/run/secrets/keys")),
    "admin_keys_dir": ("/var/run/secrets/administrators", Path("/var/run/secrets/administrators")),
    "key_pepper": ("pepper", SecretStr("pepper")),
    "key_pepper_file": ("/var/run/secrets/pepper", Path("/var/run/secrets/pepper")),
    "database_url": ("postgresql://db/router", "postgresql://db/router"),
    "ledger_retention_days": ("90", 90),
    "log_level": ("debug", "debug"),
    "access_log": ("off", "off"),
    "audit_log": ("stdout", "stdout"),
    "body_limit": ("1024", 1024),
    "body_timeout": ("0.5", 0.5),
    "drain_delay": ("5", 5.0),
    "drain_timeout": ("0", 0.0),
    "bridge_url": ("http://localhost:8087", "http://localhost:8087"),
    "bridge_token": ("token", SecretStr("token")),
    "bridge_python": ("/opt/litellm/bin/python", "/opt/litellm/bin/python"),
    "trust_env": ("true", True),
    "metrics_dir": ("/run/router/metrics", Path("/run/router/metrics")),
}


def test_every_setting_has_its_default() -> None:
    """Nothing set gives a router on loopback with no keys; other variables are not ours."""
    assert Settings.from_environ({}).model_dump() == DEFAULTS
    assert Settings.from_environ({"PORT": "1", "router_port": "2", "HOME": "/root"}).model_dump() == DEFAULTS


@pytest.mark.parametrize("name", DEFAULTS)
def test_empty_variable_counts_as_unset(name: str) -> None:
    """A variable that is there but empty, as compose files leave it, is the default."""
    assert Settings.from_environ({f"ROUTER_{name.upper()}": ""}).model_dump() == DEFAULTS


@pytest.mark.parametrize("name", [name for name in GIVEN if not name.startswith("tls_")])
def test_each_variable_sets_its_field_and_no_other(name: str) -> None:
    """`ROUTER_<FIELD>` is read into the field's type."""
    written, value = GIVEN[name]

    settings = Settings.from_environ({f"ROUTER_{name.upper()}": written})

    assert settings.model_dump() == {**DEFAULTS, name: value}


def test_all_variables_together() -> None:
    """All of them may be set at once; the table above knows every field."""
    settings = Settings.from_environ({f"ROUTER_{name.upper()}": written for name, (written, _) in GIVEN.items()})

    assert settings.model_dump() == {name: value for name, (_, value) in GIVEN.items()}
    assert set(Settings.model_fields) == set(GIVEN) == set(DEFAULTS)


PAIR = "ROUTER_TLS_CERT and ROUTER_TLS_KEY go together: set both or neither"
LONELY_CA = "ROUTER_TLS_CLIENT_CA needs ROUTER_TLS_CERT and ROUTER_TLS_KEY"


@pytest.mark.parametrize(
    ("names", "problem"),
    [
        (["CERT"], PAIR),
        (["KEY"], PAIR),
        (["CERT", "CLIENT_CA"], PAIR),
        (["KEY", "CLIENT_CA"], PAIR),
        (["CLIENT_CA"], LONELY_CA),
        (["CERT", "KEY"], None),
        (["CERT", "KEY", "CLIENT_CA"], None),
    ],
)
def test_settings_of_tls_are_whole_or_refused(names: list[str], problem: str | None) -> None:
    """A router that would serve plain HTTP, or ask nobody for a certificate, although a setting says otherwise."""
    environ = {f"ROUTER_TLS_{name}": f"/etc/tls/{name}" for name in names}
    if problem is None:
        assert Settings.from_environ(environ).tls_cert == Path("/etc/tls/CERT")
    else:
        with pytest.raises(SettingsInvalid) as raised:
            Settings.from_environ(environ)
        assert str(raised.value) == problem


@pytest.mark.parametrize("url", ["localhost:8087", "http://", "http://h/v1", "ftp://h", "http://h?x", "http://a b"])
def test_address_of_the_bridge_has_no_path(url: str) -> None:
    """Providers are appended to it, so a path would never be right."""
    with pytest.raises(SettingsInvalid, match="ROUTER_BRIDGE_URL"):
        Settings.from_environ({"ROUTER_BRIDGE_URL": url})


def test_token_of_the_bridge_is_not_shown() -> None:
    """Printing the settings, as a log or a traceback might, shows no secret."""
    settings = Settings.from_environ({"ROUTER_BRIDGE_TOKEN": "very-secret"})

    assert "very-secret" not in repr(settings)
    assert settings.bridge_secret == "very-secret"


INTEGER = "Input should be a valid integer, unable to parse string as an integer"
WRONG = [
    ("port", "http", INTEGER),
    ("port", "80.5", INTEGER),
    ("port", "-1", "Input should be greater than or equal to 0"),
    ("port", "65536", "Input should be less than or equal to 65535"),
    ("workers", "0", "Input should be greater than or equal to 1"),
    ("workers", "257", "Input should be less than or equal to 256"),
    ("workers", "auto", INTEGER),
    ("log_level", "INFO", "Input should be 'debug', 'info', 'warning' or 'error'"),
    ("log_level", "trace", "Input should be 'debug', 'info', 'warning' or 'error'"),
    ("body_limit", "0", "Input should be greater than or equal to 1"),
    ("body_limit", "32MiB", INTEGER),
    ("body_timeout", "0", "Input should be greater than 0"),
    ("body_timeout", "30s", "Input should be a valid number, unable to parse string as a number"),
    ("drain_delay", "-1", "Input should be greater than or equal to 0"),
    ("drain_delay", "inf", "Input should be a finite number"),
    ("drain_timeout", "-0.5", "Input should be greater than or equal to 0"),
    ("trust_env", "maybe", "Input should be a valid boolean, unable to interpret input"),
]


@pytest.mark.parametrize(("name", "written", "problem"), WRONG)
def test_wrong_variable_is_named_with_what_would_be_right(name: str, written: str, problem: str) -> None:
    """The message names the variable as the operator wrote it."""
    with pytest.raises(SettingsInvalid) as raised:
        Settings.from_environ({f"ROUTER_{name.upper()}": written})

    assert str(raised.value) == f"ROUTER_{name.upper()}: {problem}"


@pytest.mark.parametrize("written", ["nan", "-inf", "-1"])
def test_body_timeout_is_a_length_of_time(written: str) -> None:
    """What is no length of time would refuse every body."""
    with pytest.raises(SettingsInvalid) as raised:
        Settings.from_environ({"ROUTER_BODY_TIMEOUT": written})

    assert str(raised.value).startswith("ROUTER_BODY_TIMEOUT: ")


def test_all_problems_are_told_at_once() -> None:
    """An operator mends every variable in one go."""
    with pytest.raises(SettingsInvalid) as raised:
        Settings.from_environ(
            {"ROUTER_PORT": "x", "ROUTER_HOST": "::1", "ROUTER_WORKERS": "0", "ROUTER_TRUST_ENV": "?"}
        )

    assert str(raised.value).splitlines() == [
        f"ROUTER_PORT: {INTEGER}",
        "ROUTER_WORKERS: Input should be greater than or equal to 1",
        "ROUTER_TRUST_ENV: Input should be a valid boolean, unable to interpret input",
    ]


def test_message_does_not_repeat_the_value() -> None:
    """What stands in a variable may be a secret in the wrong place."""
    with pytest.raises(SettingsInvalid) as raised:
        Settings.from_environ({"ROUTER_PORT": "sk-secret"})

    assert "sk-secret" not in str(raised.value)
    assert raised.value.__suppress_context__


def test_settings_cannot_change() -> None:
    """What a part was made with stays what it reads."""
    settings = Settings.from_environ({})

    with pytest.raises(ValidationError):
        settings.port = 1


def test_pepper_comes_from_a_variable_or_a_file(tmp_path: Path) -> None:
    """Blanks and line ends around it do not count, so that both ways give the same."""
    (tmp_path / "pepper").write_text(f"{PEPPER}\n")

    assert Settings.from_environ({}).pepper() is None
    assert Settings.from_environ({"ROUTER_KEY_PEPPER": f" {PEPPER} "}).pepper() == PEPPER.encode()
    assert Settings.from_environ({"ROUTER_KEY_PEPPER_FILE": f"{tmp_path}/pepper"}).pepper() == PEPPER.encode()


def test_pepper_that_cannot_be_used_is_told_without_it(tmp_path: Path) -> None:
    """With the variable and what would be right."""
    (tmp_path / "short").write_text("short-secret\n")
    wrong = [
        (
            {"ROUTER_KEY_PEPPER": PEPPER, "ROUTER_KEY_PEPPER_FILE": "/x"},
            "ROUTER_KEY_PEPPER and ROUTER_KEY_PEPPER_FILE: set one of them, not both",
        ),
        (
            {"ROUTER_KEY_PEPPER": "short-secret"},
            "ROUTER_KEY_PEPPER: a pepper has at least 32 bytes; `openssl rand -hex 32` makes one",
        ),
        (
            {"ROUTER_KEY_PEPPER_FILE": f"{tmp_path}/short"},
            "ROUTER_KEY_PEPPER_FILE: a pepper has at least 32 bytes; `openssl rand -hex 32` makes one",
        ),
        (
            {"ROUTER_KEY_PEPPER_FILE": f"{tmp_path}/missing"},
            f"ROUTER_KEY_PEPPER_FILE: {tmp_path}/missing cannot be read: No such file or directory",
        ),
    ]
    for environ, message in wrong:
        with pytest.raises(SettingsInvalid) as raised:
            Settings.from_environ(environ).pepper()
        assert str(raised.value) == message
