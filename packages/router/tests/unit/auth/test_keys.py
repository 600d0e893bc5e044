"""Tenant keys in a folder, as Kubernetes mounts a Secret: rotated, shared by mistake or badly written."""

import os
from pathlib import Path

import pytest
from stratmaster_router.auth.keys import KeyFolder, KeyRing
from stratmaster_router.domain.routing import Principal
from support.mounted import MountedSecret

ACME, GLOBEX = Principal("acme"), Principal("globex")


def owners(folder: KeyFolder, *keys: str) -> list[Principal | None]:
    """Whose these keys are."""
    return [folder.ring.owner(key.encode()) for key in keys]


def test_mounted_secret_is_read_and_its_swap_is_seen(tmp_path: Path) -> None:
    """Keys are read through the links, and a swap of `..data` changes them, tenants that come and go included."""
    secret = MountedSecret(tmp_path / "keys")
    secret.write({"acme": "sk-1\n", "globex": "sk-2\n"})
    folder = KeyFolder(secret.folder)
    assert owners(folder, "sk-1", "sk-2", "sk-3", "sk-4") == [ACME, GLOBEX, None, None]
    assert len(folder.ring) == 2

    secret.write({"acme": "sk-3\n", "initech": "sk-4\n"})

    assert owners(folder, "sk-1", "sk-3") == [ACME, None]  # not before it is read again
    assert [folder.refresh(), folder.refresh()] == [False, True]
    assert owners(folder, "sk-1", "sk-2", "sk-3", "sk-4") == [None, None, ACME, Principal("initech")]
    assert len(folder.ring) == 2
    assert folder.refresh() is False


def test_swap_to_the_same_keys_is_no_change(tmp_path: Path) -> None:
    """A new version with the same contents leaves the same ring in force."""
    secret = MountedSecret(tmp_path / "keys")
    secret.write({"acme": "sk-1\n"})
    folder = KeyFolder(secret.folder)
    ring = folder.ring

    secret.write({"acme": "sk-1\n"})

    assert folder.refresh() is False
    assert folder.ring is ring


def test_moment_in_which_keys_are_missing_is_no_change(tmp_path: Path) -> None:
    """One look that finds no file, or an empty one, takes no key away; the second one in a row does."""
    secret = MountedSecret(tmp_path / "keys")
    secret.write({"acme": "sk-1\n", "globex": "sk-2\n"})
    folder = KeyFolder(secret.folder)

    for _ in range(3):
        with secret.missing():
            assert folder.refresh() is False
            assert owners(folder, "sk-1", "sk-2") == [ACME, GLOBEX]
        assert folder.refresh() is False
        assert owners(folder, "sk-1", "sk-2") == [ACME, GLOBEX]

    with secret.missing():
        assert [folder.refresh(), folder.refresh()] == [False, True]
        assert owners(folder, "sk-1", "sk-2") == [None, None]
    assert [folder.refresh(), folder.refresh()] == [False, True]
    assert owners(folder, "sk-1", "sk-2") == [ACME, GLOBEX]


def test_file_that_does_not_come_to_rest_holds_up_no_other(tmp_path: Path) -> None:
    """Each file's change counts by itself, so that one that is always being written keeps no revoked key alive."""
    (tmp_path / "acme").write_text("sk-1\n")
    (tmp_path / "globex").write_text("sk-2\n")
    folder = KeyFolder(tmp_path)

    (tmp_path / "globex").unlink()
    for number in range(2):
        (tmp_path / "acme").write_text(f"sk-1{number}\n")
        folder.refresh()

    assert owners(folder, "sk-1", "sk-2") == [ACME, None]


def test_file_that_cannot_be_read_keeps_its_keys_and_no_others(tmp_path: Path) -> None:
    """The failure is told each time; another tenant's key that is taken away is dead all the same."""
    (tmp_path / "acme").write_text("sk-1\n")
    (tmp_path / "globex").write_text("sk-2\n")
    folder = KeyFolder(tmp_path)

    (tmp_path / "acme").unlink()
    (tmp_path / "acme").symlink_to("/proc/self/mem")  # a file whose first byte is an I/O error
    (tmp_path / "globex").write_text("sk-3\n")
    for _ in range(2):
        with pytest.raises(OSError, match="Input/output error"):
            folder.refresh()

    assert owners(folder, "sk-1", "sk-2", "sk-3") == [ACME, None, GLOBEX]
    with pytest.raises(OSError, match="Input/output error"):
        KeyFolder(tmp_path)


def test_key_is_rotated_with_two_lines(tmp_path: Path) -> None:
    """While both stand in the file both keys open, and afterwards only the new one."""
    file = tmp_path / "acme"
    file.write_text("sk-old\n")
    folder = KeyFolder(tmp_path)

    file.write_text("sk-old\nsk-new\n")
    assert [folder.refresh(), folder.refresh()] == [False, True]
    assert owners(folder, "sk-old", "sk-new") == [ACME, ACME]

    file.write_text("sk-new\n")
    assert [folder.refresh(), folder.refresh()] == [False, True]
    assert owners(folder, "sk-old", "sk-new") == [None, ACME]


WRITTEN = {
    "one line": ("sk-1", ["sk-1"]),
    "a last newline": ("sk-1\n", ["sk-1"]),
    "CR LF": ("sk-1\r\nsk-2\r\n", ["sk-1", "sk-2"]),
    "CR": ("sk-1\rsk-2\r", ["sk-1", "sk-2"]),
    "empty lines": ("\n\nsk-1\n\n \t\nsk-2\n\n", ["sk-1", "sk-2"]),
    "spaces around": ("  sk-1\t\n\tsk-2  \n", ["sk-1", "sk-2"]),
    "the same twice": ("sk-1\nsk-1\n", ["sk-1"]),
    "nothing": ("", []),
    "blank": (" \n\n", []),
}


@pytest.mark.parametrize(("text", "keys"), WRITTEN.values(), ids=WRITTEN)
def test_each_line_that_is_not_blank_is_a_key(tmp_path: Path, text: str, keys: list[str]) -> None:
    """Line ends of every system, blank lines and spaces around a key do no harm, and a blank line is no key."""
    (tmp_path / "acme").write_bytes(text.encode())

    folder = KeyFolder(tmp_path)

    assert owners(folder, *keys) == [ACME] * len(keys)
    assert owners(folder, "", " ", "\n", "sk-1\r", " sk-1") == [None] * 5
    assert (len(folder.ring), folder.ring.problems) == (len(keys), ())


def test_key_that_two_tenants_have_opens_nothing(tmp_path: Path) -> None:
    """A shared key is refused for each of them and told to the operator, without the key; their own keys still open."""
    (tmp_path / "acme").write_text("sk-shared\nsk-1\n")
    (tmp_path / "globex").write_text("sk-2\nsk-shared\nsk-shared\n")
    (tmp_path / "initech").write_text("sk-shared\n")

    folder = KeyFolder(tmp_path)

    assert owners(folder, "sk-shared", "sk-1", "sk-2") == [None, ACME, GLOBEX]
    assert len(folder.ring) == 2
    assert folder.ring.problems == ("1 keys stand in more than one tenant's file and are refused",)


def test_shared_key_opens_again_once_it_is_one_tenants(tmp_path: Path) -> None:
    """When the mistake is mended the key is its tenant's, and there is no problem left."""
    (tmp_path / "acme").write_text("sk-shared\n")
    (tmp_path / "globex").write_text("sk-shared\n")
    folder = KeyFolder(tmp_path)

    (tmp_path / "globex").unlink()

    assert [folder.refresh(), folder.refresh()] == [False, True]
    assert owners(folder, "sk-shared") == [ACME]
    assert folder.ring.problems == ()


def test_only_plain_files_with_visible_names_hold_keys(tmp_path: Path) -> None:
    """Hidden files, folders, pipes and links to nowhere are left out, and none of them blocks or fails."""
    (tmp_path / "acme").write_text("sk-1\n")
    (tmp_path / ".acme.swp").write_text("sk-2\n")
    (tmp_path / "..data").mkdir()
    (tmp_path / "..data" / "globex").write_text("sk-3\n")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "globex").write_text("sk-4\n")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "nowhere").symlink_to(tmp_path / "not-there")

    folder = KeyFolder(tmp_path)

    assert owners(folder, "sk-1", "sk-2", "sk-3", "sk-4") == [ACME, None, None, None]
    assert len(folder.ring) == 1


def test_without_a_folder_there_are_no_keys() -> None:
    """No folder is no key at all, and stays so."""
    folder = KeyFolder(None)

    assert (len(folder.ring), folder.refresh(), folder.ring.owner(b"")) == (0, False, None)


def test_folder_that_is_not_there_is_told_at_the_start(tmp_path: Path) -> None:
    """A wrong setting stops the router instead of locking everybody out silently."""
    with pytest.raises(FileNotFoundError):
        KeyFolder(tmp_path / "not-there")


def test_keys_stay_in_force_while_the_folder_cannot_be_read(tmp_path: Path) -> None:
    """A folder that goes away for a moment raises and changes nothing; afterwards the keys are read again."""
    keys = tmp_path / "keys"
    keys.mkdir()
    (keys / "acme").write_text("sk-1\n")
    folder = KeyFolder(keys)

    keys.rename(tmp_path / "away")
    with pytest.raises(FileNotFoundError):
        folder.refresh()
    assert owners(folder, "sk-1") == [ACME]

    (tmp_path / "away" / "acme").write_text("sk-2\n")
    (tmp_path / "away").rename(keys)
    assert [folder.refresh(), folder.refresh()] == [False, True]
    assert owners(folder, "sk-1", "sk-2") == [None, ACME]


def test_ring_keeps_no_key() -> None:
    """Neither the ring's values nor its repr hold a key: a dump of the process gives none away."""
    ring = KeyRing({"acme": [b"sk-very-secret"]})

    held = repr(ring) + repr(vars(ring))

    assert "very-secret" not in held
    assert ring.owner(b"sk-very-secret") == ACME


def test_key_of_any_bytes_opens_up_to_the_longest() -> None:
    """A key is bytes; 4096 of them are the most that is looked up."""
    longest = b"\xff" * 4096

    ring = KeyRing({"acme": [longest, longest + b"x"]})

    assert ring.owner(longest) == ACME
    assert ring.owner(longest + b"x") is None
