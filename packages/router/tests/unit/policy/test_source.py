"""The watched policy file: what counts as a change, what a bad change does; nothing is half applied (rule 10)."""

import os
from pathlib import Path

import pytest
from stratmaster_router.policy.compile import content_hash
from stratmaster_router.policy.problems import PolicyInvalid, Problem
from stratmaster_router.policy.source import Failed, PolicySource, Reloaded, Unchanged
from stratmaster_router.upstream.tls import tls_trouble
from support.certificates import chain
from support.certificates import key as private_key
from trustme import CA

ENVIRON = {"OPENAI_API_KEY": "k"}


def policy(model: str, key_file: Path | None = None) -> str:
    """A policy by which task t of tenant acme is `model` at openai, with its key in `key_file`."""
    providers = f"providers: {{openai: {{api_key: {{file: {key_file}}}}}}}\n" if key_file else ""
    return f"{providers}tenants: {{acme: {{providers: {{openai: {{models: {{t: {{default: {model}}}}}}}}}}}}}\n"


def settled(source: PolicySource) -> Reloaded | Unchanged | Failed:
    """The outcome of the poll that sees a change for the second time."""
    assert source.refresh() == Unchanged()
    return source.refresh()


def served(source: PolicySource) -> str:
    """The model that tenant acme gets for its task."""
    return source.snapshot.tenants["acme"].routes["t"].clean.hops[0].model


def key(source: PolicySource) -> str | None:
    """The key with which openai is called, or why there is none."""
    provider = source.snapshot.providers["openai"]
    return provider.api_key.value if provider.api_key else provider.misconfigured


def tls_of(source: PolicySource) -> tuple[str, str]:
    """The certificate and the key that openai is shown."""
    files = source.snapshot.providers["openai"].tls
    assert files is not None
    assert files.cert is not None
    assert files.key is not None
    return files.cert.text, files.key.text


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A policy file that serves the model m1."""
    path = tmp_path / "policy.yaml"
    path.write_text(policy("m1"))
    return path


def test_first_load_gives_the_snapshot_of_the_file(file: Path) -> None:
    """A source has a policy from the start, known by the hash of the file's bytes."""
    source = PolicySource(file, ENVIRON, tls_trouble)
    assert (source.snapshot.hash, served(source)) == (content_hash(file.read_bytes()), "m1")


def test_first_load_of_an_invalid_file_raises_all_problems(file: Path) -> None:
    """A router does not start without a valid policy."""
    file.write_text("tenants: 1\nversion: 2\n")
    with pytest.raises(PolicyInvalid) as caught:
        PolicySource(file, ENVIRON, tls_trouble)
    assert caught.value.problems == (
        Problem("tenants", 1, "expected a mapping, got the number 1"),
        Problem("version", 2, "expected 1, the only version, got the number 2"),
    )


def test_first_load_of_a_missing_file_raises(tmp_path: Path) -> None:
    """A file that is not there is a problem like any other."""
    with pytest.raises(PolicyInvalid) as caught:
        PolicySource(tmp_path / "none.yaml", ENVIRON, tls_trouble)
    assert caught.value.problems == (Problem("", 1, "the policy file cannot be read: No such file or directory"),)


@pytest.mark.parametrize("kind", ["directory", "pipe"])
def test_first_load_of_something_else_than_a_file_raises_at_once(tmp_path: Path, kind: str) -> None:
    """A directory or a pipe in the file's place is refused; reading a pipe would block for ever."""
    path = tmp_path / "policy.yaml"
    if kind == "directory":
        path.mkdir()
    else:
        os.mkfifo(path)
    with pytest.raises(PolicyInvalid) as caught:
        PolicySource(path, ENVIRON, tls_trouble)
    assert caught.value.problems == (Problem("", 1, "the policy file cannot be read: not a regular file"),)


def test_unchanged_file_keeps_the_same_snapshot(file: Path) -> None:
    """Polling an unchanged file changes nothing, not even the reference; a touch is no change."""
    source = PolicySource(file, ENVIRON, tls_trouble)
    before = source.snapshot
    file.touch()
    assert [source.refresh() for _ in range(3)] == [Unchanged()] * 3
    assert source.snapshot is before


def test_rewritten_file_takes_effect_on_the_second_poll(file: Path) -> None:
    """A change in place is taken once it is seen twice; the old snapshot stays whole for requests under way."""
    source = PolicySource(file, ENVIRON, tls_trouble)
    before = source.snapshot
    file.write_text(policy("m2"))
    assert settled(source) == Reloaded(source.snapshot, (str(file),))
    assert (served(source), source.snapshot.hash) == ("m2", content_hash(file.read_bytes()))
    assert before.tenants["acme"].routes["t"].clean.hops[0].model == "m1"
    assert source.refresh() == Unchanged()


def test_file_that_is_still_being_written_is_not_taken(file: Path) -> None:
    """A half-written file can be a valid policy that lacks its last tenants, so one look is not enough."""
    source = PolicySource(file, ENVIRON, tls_trouble)
    whole = policy("m2") + "version: 1\n"
    for end in (len(whole) - 11, len(whole) - 5, len(whole)):
        file.write_text(whole[:end])
        assert source.refresh() == Unchanged()
        assert served(source) == "m1"
    assert source.refresh() == Reloaded(source.snapshot, (str(file),))
    assert source.snapshot.hash == content_hash(whole.encode())


def test_file_put_back_between_polls_is_no_change(file: Path) -> None:
    """A change that is taken back before it was seen twice never happened."""
    source = PolicySource(file, ENVIRON, tls_trouble)
    file.write_text(policy("m2"))
    assert source.refresh() == Unchanged()
    file.write_text(policy("m1"))
    assert [source.refresh(), source.refresh()] == [Unchanged(), Unchanged()]
    assert served(source) == "m1"


def test_replaced_file_takes_effect(file: Path, tmp_path: Path) -> None:
    """An editor or a deployment that renames a new file over the old one is seen, whatever its time stamps say."""
    source = PolicySource(file, ENVIRON, tls_trouble)
    times = file.stat()
    new = tmp_path / "new"
    new.write_text(policy("m2"))
    os.utime(new, ns=(times.st_atime_ns, times.st_mtime_ns))
    new.replace(file)
    assert settled(source) == Reloaded(source.snapshot, (str(file),))
    assert served(source) == "m2"


def test_config_map_swap_takes_effect(tmp_path: Path) -> None:
    """Kubernetes swaps the link `..data`, two steps from the watched file; policy and secret change together."""
    volume = tmp_path / "volume"
    key_file = volume / "key"
    for revision in ("1", "2"):
        directory = volume / f"..{revision}"
        directory.mkdir(parents=True)
        (directory / "policy.yaml").write_text(policy(f"m{revision}", key_file))
        (directory / "key").write_text(f"key-{revision}\n")
    (volume / "..data").symlink_to("..1")
    for name in ("policy.yaml", "key"):
        (volume / name).symlink_to(f"..data/{name}")
    source = PolicySource(volume / "policy.yaml", {}, tls_trouble)
    assert (served(source), key(source)) == ("m1", "key-1")

    (volume / "..data_tmp").symlink_to("..2")
    (volume / "..data_tmp").rename(volume / "..data")

    assert settled(source) == Reloaded(source.snapshot, (str(volume / "policy.yaml"), str(key_file)))
    assert (served(source), key(source)) == ("m2", "key-2")


def test_rotated_secret_takes_effect_under_the_same_hash(file: Path, tmp_path: Path) -> None:
    """A secret file that changes gives a new snapshot of the same policy."""
    key_file = tmp_path / "key"
    key_file.write_text("old")
    file.write_text(policy("m1", key_file))
    source = PolicySource(file, {}, tls_trouble)
    before = source.snapshot
    key_file.write_text("new\n")
    assert settled(source) == Reloaded(source.snapshot, (str(key_file),))
    assert (key(source), source.snapshot.hash) == ("new", before.hash)
    assert before.providers["openai"].api_key is not None
    assert before.providers["openai"].api_key.value == "old"


def test_secret_that_comes_and_goes_is_followed(file: Path, tmp_path: Path) -> None:
    """A provider is misconfigured while its secret file is missing, and well again once it is there."""
    key_file = tmp_path / "key"
    file.write_text(policy("m1", key_file))
    source = PolicySource(file, {}, tls_trouble)
    missing = f"secret file {key_file} cannot be read (No such file or directory)"
    assert key(source) == missing
    key_file.write_text("k")
    assert isinstance(settled(source), Reloaded)
    assert key(source) == "k"
    key_file.unlink()
    assert isinstance(settled(source), Reloaded)
    assert key(source) == missing
    key_file.write_bytes(b"\xff\xfe")
    assert isinstance(settled(source), Reloaded)
    assert key(source) == f"secret file {key_file} is not text"


def test_rotated_certificate_takes_effect(file: Path, tmp_path: Path) -> None:
    """Certificate files are watched as secrets are; the old pair stays until both of the new one are there."""
    authority = CA()
    old, new = authority.issue_cert("old.example"), authority.issue_cert("new.example")
    (tmp_path / "crt").write_text(chain(old))
    (tmp_path / "key").write_text(private_key(old))
    tls = f"providers: {{openai: {{tls: {{cert: {tmp_path}/crt, key: {tmp_path}/key}}}}}}\n"
    file.write_text(tls + policy("m1"))
    source = PolicySource(file, ENVIRON, tls_trouble)
    assert tls_of(source) == (chain(old), private_key(old))

    (tmp_path / "crt").write_text(chain(new))
    assert settled(source) == Reloaded(source.snapshot, (f"{tmp_path}/crt",))
    assert tls_of(source) == (chain(old), private_key(old))
    pair = f"tls.cert file {tmp_path}/crt and tls.key file {tmp_path}/key do not belong together"
    assert list(source.snapshot.warnings) == [f"providers.openai: {pair}; what these files held before stays in use"]

    (tmp_path / "key").write_text(private_key(new))
    assert settled(source) == Reloaded(source.snapshot, (f"{tmp_path}/key",))
    assert tls_of(source) == (chain(new), private_key(new))
    assert not source.snapshot.warnings


def test_invalid_change_keeps_the_last_good_policy_and_fails_once(file: Path) -> None:
    """A bad change is reported once, and the policy in force stays the same object."""
    source = PolicySource(file, ENVIRON, tls_trouble)
    before = source.snapshot
    file.write_text("tenants: 1\n")
    assert settled(source) == Failed((Problem("tenants", 1, "expected a mapping, got the number 1"),))
    assert [source.refresh() for _ in range(3)] == [Unchanged()] * 3
    assert source.snapshot is before


def test_each_distinct_invalid_content_fails_once(file: Path) -> None:
    """Another bad change is another failure."""
    source = PolicySource(file, ENVIRON, tls_trouble)
    for content in ("tenants: 1\n", "tenants: 2\n"):
        file.write_text(content)
        assert isinstance(settled(source), Failed)
        assert source.refresh() == Unchanged()


def test_change_back_to_the_last_good_content_is_a_reload(file: Path) -> None:
    """When a failure ends, one learns of it, though the policy in force is the same."""
    source = PolicySource(file, ENVIRON, tls_trouble)
    file.write_text("tenants: 1\n")
    assert isinstance(settled(source), Failed)
    file.write_text(policy("m1"))
    assert settled(source) == Reloaded(source.snapshot, (str(file),))
    assert served(source) == "m1"


def test_secret_rotates_while_the_policy_file_is_invalid(file: Path, tmp_path: Path) -> None:
    """The policy in force is the last good one with today's secrets, also while its successor is broken."""
    key_file = tmp_path / "key"
    key_file.write_text("old")
    file.write_text(policy("m1", key_file))
    source = PolicySource(file, {}, tls_trouble)
    good = source.snapshot.hash
    file.write_text("tenants: 1\n")
    key_file.write_text("new")
    assert isinstance(settled(source), Failed)
    assert settled(source) == Reloaded(source.snapshot, (str(key_file),))
    assert (key(source), served(source), source.snapshot.hash) == ("new", "m1", good)
    assert source.refresh() == Unchanged()


def test_vanished_file_keeps_the_last_good_policy_until_it_returns(file: Path) -> None:
    """A file that goes away is a failure, once; its return with another content is a reload."""
    source = PolicySource(file, ENVIRON, tls_trouble)
    file.unlink()
    gone = Failed((Problem("", 1, "the policy file cannot be read: No such file or directory"),))
    assert settled(source) == gone
    assert source.refresh() == Unchanged()
    assert served(source) == "m1"
    file.write_text(policy("m2"))
    assert isinstance(settled(source), Reloaded)
    assert served(source) == "m2"


def test_file_missing_for_one_poll_only_is_no_failure(file: Path) -> None:
    """Whoever removes a file to write it anew leaves a gap, which is not reported."""
    source = PolicySource(file, ENVIRON, tls_trouble)
    file.unlink()
    assert source.refresh() == Unchanged()
    file.write_text(policy("m2"))
    assert isinstance(settled(source), Reloaded)


def test_file_that_is_not_text_is_a_failure(file: Path) -> None:
    """Bytes that are no UTF-8 are refused as any other invalid content."""
    source = PolicySource(file, ENVIRON, tls_trouble)
    file.write_bytes(b"\xff\xfe")
    assert settled(source) == Failed((Problem("", 1, "not UTF-8: byte 0xff"),))


def test_new_policy_with_other_secrets_watches_those(file: Path, tmp_path: Path) -> None:
    """After a reload it is the new policy's secret files that count."""
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_text("k1")
    two.write_text("k2")
    file.write_text(policy("m1", one))
    source = PolicySource(file, {}, tls_trouble)
    file.write_text(policy("m1", two))
    assert settled(source) == Reloaded(source.snapshot, (str(file),))
    assert key(source) == "k2"
    one.write_text("changed")
    assert [source.refresh(), source.refresh()] == [Unchanged(), Unchanged()]
    two.write_text("k3")
    assert settled(source) == Reloaded(source.snapshot, (str(two),))
    assert key(source) == "k3"
