"""The store: durable in the right order, whole or not at all, never outside its folder."""

from __future__ import annotations

import errno
import os
import shutil
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node.errors import StoreFull
from node.part import PART
from node.store import Store, sha256_hex
from tests.rig import put_instance

DATA = b"bytes of an instance"


def put(store: Store, data: bytes = DATA, *, study_uid: str = "2.25.1", sop_uid: str = "2.25.1.1") -> str:
    """Keep one instance and return its name."""
    return put_instance(store, data, study_uid=study_uid, sop_uid=sop_uid)


class Recorder:
    """Notes what is synced and renamed, in order, as a power cut would see it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.acts: list[tuple[str, Path]] = []
        real_sync, real_replace = os.fsync, Path.replace

        def sync(handle: int) -> None:
            self.acts.append(("sync", Path(f"/proc/self/fd/{handle}").readlink()))
            real_sync(handle)

        def replace(path: Path, target: Path) -> Path:
            self.acts.append(("rename", target))
            return real_replace(path, target)

        monkeypatch.setattr(os, "fsync", sync)
        monkeypatch.setattr(Path, "replace", replace)


def test_data_is_synced_before_the_rename_and_the_folder_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In any other order a power cut leaves an empty file, or none, behind a success."""
    store = Store(tmp_path)
    first = store.path(put(store))
    recorder = Recorder(monkeypatch)
    second = store.path(put(store, b"other bytes"))
    data, rename, folder = recorder.acts
    assert data[0] == "sync" and data[1].parent.name == "incoming" and data[1].suffix == PART
    assert rename == ("rename", second)
    assert folder == ("sync", second.parent)
    assert first.parent == second.parent


def test_each_new_folder_is_synced_into_its_parent_before_the_file_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The entry of the study's folder, and of the one above, must survive too."""
    store = Store(tmp_path)
    recorder = Recorder(monkeypatch)
    file = store.path(put(store))
    synced = [path for act, path in recorder.acts if act == "sync" and path.suffix != PART]
    assert synced[:2] == [file.parents[2], file.parents[1]]
    assert synced[-1] == file.parent


def test_a_folder_that_somebody_else_made_is_synced_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process may have made it and not be so far yet: we say success, so we sync."""
    folder = Store(tmp_path).path(put(Store(tmp_path))).parent
    store = Store(tmp_path)
    recorder = Recorder(monkeypatch)
    put(store)
    assert ("sync", folder.parent) in recorder.acts


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS])
def test_a_disk_that_takes_no_more_is_a_full_store_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Whatever the system says while syncing, the peer hears to come back, and no half file stays."""
    store = Store(tmp_path)

    def fail(handle: int) -> None:
        if Path(f"/proc/self/fd/{handle}").readlink().suffix == PART:
            raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(StoreFull, match="could not keep an instance"):
        put(store)
    with pytest.raises(StoreFull, match="could not freeze a result set"):
        store.put_results("job", 1, [("seg.dcm", DATA)])
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_nearly_full_disk_is_refused_before_it_is_full(tmp_path: Path) -> None:
    """The reserve is kept for the database and the results."""
    with pytest.raises(StoreFull, match="nearly full"):
        put(Store(tmp_path, min_free=shutil.disk_usage(tmp_path).free * 2))


@pytest.mark.parametrize("name", ["../outside", "instances/../../outside", "/etc/passwd"])
def test_a_name_that_leads_out_of_the_store_is_refused(tmp_path: Path, name: str) -> None:
    """Names come from our own table; one that does not is not followed."""
    store = Store(tmp_path / "store")
    with pytest.raises(ValueError, match="outside the store"):
        store.path(name)


@settings(max_examples=40)
@given(study_uid=st.text(max_size=80), sop_uid=st.text(max_size=80), data=st.binary(max_size=40))
def test_no_uid_however_hostile_decides_where_a_file_lies(
    tmp_path_factory: pytest.TempPathFactory, study_uid: str, sop_uid: str, data: bytes
) -> None:
    """Slashes, dots, NUL: the file lies in the store under digests, and reads back."""
    store = Store(tmp_path_factory.getbasetemp() / "hostile")
    name = put(store, data, study_uid=study_uid, sop_uid=sop_uid)
    assert store.path(name).read_bytes() == data
    assert len(Path(name).parts) == 4


def test_the_same_bytes_have_one_name_and_other_bytes_another(tmp_path: Path) -> None:
    """A resend replaces nothing else; a second version lies beside the first."""
    store = Store(tmp_path)
    assert put(store) == put(store)
    assert put(store) != put(store, b"other bytes")
    assert store.verify(put(store), sha256_hex(DATA))


def test_a_result_set_lies_under_its_job_and_epoch(tmp_path: Path) -> None:
    """A second attempt freezes beside the first and overwrites nothing of it."""
    store = Store(tmp_path)
    names = store.put_results("job-1", 1, [("seg.dcm", b"seg"), ("sr.dcm", b"sr")])
    assert names == ["results/job-1/1/seg.dcm", "results/job-1/1/sr.dcm"]
    assert store.put_results("job-1", 2, [("seg.dcm", b"new")]) == ["results/job-1/2/seg.dcm"]
    assert store.path(names[0]).read_bytes() == b"seg"


def test_verify_sees_a_changed_byte_and_a_missing_file(tmp_path: Path) -> None:
    """What was frozen is what is sent, or nothing."""
    store = Store(tmp_path)
    name = put(store)
    store.path(name).write_bytes(DATA[:-1] + b"!")
    assert not store.verify(name, sha256_hex(DATA))
    store.path(name).unlink()
    assert not store.verify(name, sha256_hex(DATA))


def test_only_part_files_that_nobody_writes_any_more_are_removed(tmp_path: Path) -> None:
    """An hour old: stale; fresh: somebody is writing; an instance: never."""
    store = Store(tmp_path)
    file = store.path(put(store))
    stale, fresh = (tmp_path / "incoming" / f"{name}{PART}" for name in "ab")
    for part in (stale, fresh):
        part.write_bytes(b"")
    os.utime(stale, (1, 1))
    os.utime(file, (1, 1))
    assert store.remove_stale_parts() == 1
    assert (stale.exists(), fresh.exists(), file.exists()) == (False, True, True)


def test_many_threads_may_keep_into_one_new_study_at_once(tmp_path: Path) -> None:
    """The folder is made once, and every file is there."""
    store, names = Store(tmp_path), list[str]()
    gate = threading.Barrier(8)

    def keep(number: int) -> None:
        gate.wait()
        names.append(put(store, sop_uid=f"2.25.1.{number}"))

    threads = [threading.Thread(target=keep, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(names)) == 8
    assert all(store.verify(name, sha256_hex(DATA)) for name in names)


def test_a_scratch_folder_is_fresh_and_goes(tmp_path: Path) -> None:
    """What an earlier attempt of the same epoch left is not seen by the next."""
    store = Store(tmp_path)
    folder = store.scratch("job", 1)
    (folder / "left").write_bytes(b"x")
    assert list(store.scratch("job", 1).iterdir()) == []
    store.drop_scratch(folder)
    assert not folder.exists()
