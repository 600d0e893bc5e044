"""The settings: environment variables, read in one place. Only `app` and `cli` know this module."""

import hmac
from collections.abc import Mapping
from pathlib import Path
from secrets import token_bytes
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, model_validator

_PREFIX = "ROUTER_"
_LEAST_PEPPER = 32  # bytes


class SettingsInvalid(Exception):
    """A setting cannot be used; the message names the variable and says what would be right."""


class Settings(BaseModel):
    """Each field is the environment variable `ROUTER_<FIELD>`; docs/settings.md lists them all (a test says so)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    policy: Path = Field(Path("configs/router/models-policy.yaml"), description="The policy file.")
    host: str = Field("127.0.0.1", description="The address to listen on.")
    port: int = Field(8086, ge=0, le=65535, description="The port to listen on; 0 picks a free one.")
    tls_cert: Path | None = Field(None, description="The router's own certificate; with it, it serves https.")
    tls_key: Path | None = Field(None, description="The key of that certificate.")
    tls_client_ca: Path | None = Field(None, description="Who issues the certificates that clients must show.")
    workers: int = Field(1, ge=1, le=256, description="Worker processes; each is one event loop.")
    keys_dir: Path | None = Field(None, description="Folder with the tenants' API keys; without it no key is valid.")
    admin_keys_dir: Path | None = Field(None, description="Folder with the keys of administrators, one file each.")
    key_pepper: SecretStr | None = Field(None, description="The secret that self-service keys are hashed with.")
    key_pepper_file: Path | None = Field(None, description="A file with that secret, instead.")
    database_url: str = Field(
        "sqlite:///router.db", description="Database of limits, ledger and keys: sqlite:///FILE or postgresql://…"
    )
    ledger_retention_days: int = Field(
        0, ge=0, description="Days after which rows of the ledger are deleted; 0 keeps them for ever."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least level of the log.")
    access_log: str = Field("stdout", description="Where the access log goes: off, stdout or a file.")
    audit_log: str | None = Field(None, description="Where the audit log goes: stdout or a file; without it nowhere.")
    body_limit: int = Field(32 * 1024 * 1024, ge=1, description="Largest request body, in bytes.")
    body_timeout: float = Field(
        30.0, gt=0, allow_inf_nan=False, description="Seconds for a request's head, and again for its body, to arrive."
    )
    drain_delay: float = Field(
        0.0, ge=0, allow_inf_nan=False, description="Seconds after SIGTERM in which requests are still accepted."
    )
    drain_timeout: float = Field(
        30.0, ge=0, allow_inf_nan=False, description="Seconds after the delay for what is under way to end by itself."
    )
    metrics_dir: Path | None = Field(None, description="Where several workers share their metrics; `serve` sets it.")
    bridge_url: str | None = Field(
        None, pattern=r"^https?://[^\s/?#]+$", description="The LiteLLM bridge, where `serve` shall not start its own."
    )
    bridge_token: SecretStr | None = Field(None, description="The key that the LiteLLM bridge wants of its callers.")
    bridge_python: str | None = Field(None, description="The Python in whose environment LiteLLM is, if not this one.")
    trust_env: bool = Field(False, description="Whether HTTP_PROXY and its kin apply to upstreams.")

    @model_validator(mode="after")
    def _tls_is_whole(self) -> Self:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("ROUTER_TLS_CERT and ROUTER_TLS_KEY go together: set both or neither")
        if self.tls_client_ca is not None and self.tls_cert is None:
            raise ValueError("ROUTER_TLS_CLIENT_CA needs ROUTER_TLS_CERT and ROUTER_TLS_KEY")
        return self

    @property
    def bridge_secret(self) -> str:
        """The bridge's token, in clear; empty where there is none."""
        return self.bridge_token.get_secret_value() if self.bridge_token else ""

    def pepper(self) -> bytes | None:
        """The secret that self-service keys are hashed with; None where there is none. Raises `SettingsInvalid`."""
        if self.key_pepper is not None and self.key_pepper_file is not None:
            raise SettingsInvalid("ROUTER_KEY_PEPPER and ROUTER_KEY_PEPPER_FILE: set one of them, not both")
        if self.key_pepper is not None:
            name, pepper = "ROUTER_KEY_PEPPER", self.key_pepper.get_secret_value().encode().strip()
        elif self.key_pepper_file is not None:
            name = "ROUTER_KEY_PEPPER_FILE"
            try:
                pepper = self.key_pepper_file.read_bytes().strip()
            except OSError as error:
                raise SettingsInvalid(f"{name}: {self.key_pepper_file} cannot be read: {error.strerror}") from None
        else:
            return None
        if len(pepper) < _LEAST_PEPPER:
            raise SettingsInvalid(
                f"{name}: a pepper has at least {_LEAST_PEPPER} bytes; `openssl rand -hex 32` makes one"
            )
        return pepper

    def audit_key(self) -> bytes:
        """The key of the audit log's chain, made from the pepper; empty where there is none. Raises `SettingsInvalid`.

        A secret of its own would be one more to keep, and who has the one reads the other from the same place.
        """
        pepper = self.pepper()
        return b"" if pepper is None else hmac.digest(pepper, b"stratmaster-router audit log", "sha256")

    def fingerprint_key(self) -> bytes:
        """The key of the fingerprints of prompts, made from the pepper; without one it is this process's own.

        Raises `SettingsInvalid`.
        """
        pepper = self.pepper()
        return token_bytes(32) if pepper is None else hmac.digest(pepper, b"stratmaster-router fingerprint", "sha256")

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> "Settings":
        """Read `environ`; an empty variable counts as unset. Raises `SettingsInvalid` naming every wrong one."""
        given = {
            name: environ[_PREFIX + name.upper()] for name in cls.model_fields if environ.get(_PREFIX + name.upper())
        }
        try:
            return cls.model_validate(given)
        except ValidationError as error:
            problems = [
                # What is wrong with several together has no place, and names them itself.
                f"{_PREFIX}{str(e['loc'][0]).upper()}: {e['msg']}" if e["loc"] else str(e["ctx"]["error"])
                for e in error.errors()
            ]
            raise SettingsInvalid("\n".join(problems)) from None
