"""File systems without locks, owners or modes, NFS, a real vfat and a full tmpfs: runs go on, or say what is wrong."""

import fcntl
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from clips import make_clip
from runs import ROOT, Run

FAULTY = ROOT / "tests" / "faulty.py"
QUICK = ("2", "--model", "lanczos", "--workers", "2", "--preset", "ultrafast", "--settle", "0")


@pytest.fixture
def clip(tmp_path):
    return make_clip(tmp_path / "in.mp4", 6)


@pytest.fixture
def folder(tmp_path, clip):
    """A folder of two videos."""
    place = tmp_path / "incoming"
    place.mkdir()
    for name in ("a.mp4", "b.mp4"):
        shutil.copy(clip, place / name)
    return place


def start(place: Path, *arguments, fault: str, more=()) -> Run:
    return Run(place, *arguments, *QUICK, *more, script=FAULTY, env={"FAULT": f"{fault}:0:{place}"})


def names(place: Path) -> list[str]:
    """What users see in a folder."""
    return sorted(path.name for path in place.iterdir() if not path.name.startswith(("temp-", "stderr-", ".")))


@pytest.mark.parametrize("number", ["ENOSYS", "ENOLCK", "EOPNOTSUPP"])
def test_without_locks_a_run_goes_on_and_says_so(tmp_path, clip, number):
    run = start(tmp_path, clip, tmp_path / "out.mp4", fault=f"flock_{number}").succeed()
    assert run.errors.count("file system has no locks") == 1 and "--work-dir on a local disk" in run.errors
    assert names(tmp_path) == ["in.mp4", "out.mp4"]


def test_an_error_of_the_lock_is_not_another_run(tmp_path, clip):
    line = start(tmp_path, clip, tmp_path / "out.mp4", fault="flock_EIO").fail(2)
    assert "cannot lock work directory" in line and "Input/output error; choose a --work-dir" in line
    assert names(tmp_path) == ["in.mp4"]


def test_without_owners_and_modes_a_run_goes_on_and_says_so(tmp_path, clip):
    run = start(tmp_path, clip, tmp_path / "out.mp4", fault="no_modes").succeed()
    assert run.errors.count("no owners and modes") == 1
    assert names(tmp_path) == ["in.mp4", "out.mp4"]


@pytest.mark.parametrize("fault", ["flock_ENOLCK", "no_modes"])
def test_a_folder_run_says_it_once_and_does_everything(tmp_path, folder, fault):
    run = start(tmp_path, folder, tmp_path / "done", fault=fault).succeed()
    assert run.errors.count("the work directory's file system has no") == 1
    assert names(tmp_path / "done") == ["a.mp4", "b.mp4"]


def test_a_folder_that_cannot_be_listed_is_a_failure(tmp_path, folder):
    (folder / "sub").mkdir()
    run = start(tmp_path, folder, tmp_path / "done", fault="no_listing", more=["--recursive"])
    assert run.wait() == 1 and f"cannot read {folder}/sub: Input/output error" in run.errors
    assert names(tmp_path / "done") == ["a.mp4", "b.mp4"]


def test_a_folder_run_that_could_do_nothing_ends_with_75(tmp_path, folder):
    (folder / "b.mp4").unlink()
    work = tmp_path / "done" / "a.mp4.work"
    work.mkdir(parents=True, mode=0o700)
    with (work / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        run = Run(tmp_path, folder, tmp_path / "done", *QUICK)
        assert run.wait() == 75 and "1 busy" in run.errors


def test_on_nfs_the_work_directory_is_gone_in_the_end(tmp_path, clip, folder):
    run = start(tmp_path, clip, tmp_path / "out.mp4", fault="nfs").succeed()
    assert "not removed" not in run.errors and "out.mp4.work" not in names(tmp_path)
    # The workers of a folder run have the log of one job open until the next.
    run = start(tmp_path, folder, tmp_path / "done", fault="nfs").succeed()
    assert "not removed" not in run.errors and names(tmp_path / "done") == ["a.mp4", "b.mp4"]


# Real file systems


@pytest.fixture
def mount(tmp_path):
    """Mounts file systems for the test; a user who may not do that skips it."""
    mounted = []

    def mount(*arguments) -> Path:
        place = tmp_path / f"mount{len(mounted)}"
        place.mkdir()
        done = subprocess.run(["mount", *arguments, str(place)], capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"mount: {done.stderr.strip()}")
        mounted.append(place)
        return place

    yield mount
    for place in mounted:
        subprocess.run(["umount", "-l", str(place)], check=True)


def test_vfat(tmp_path, clip, mount):
    """One owner and mode for all files, no links, no unnamed files: output and work directory on it."""
    if not shutil.which("mkfs.vfat"):
        pytest.skip("no mkfs.vfat")
    image = tmp_path / "disk"
    with image.open("wb") as file:
        file.truncate(300 << 20)
    subprocess.run(["mkfs.vfat", str(image)], capture_output=True, check=True)
    place = mount("-o", "loop,umask=000,uid=12345", str(image))
    run = Run(tmp_path, clip, place / "out.mp4", *QUICK).succeed()
    assert run.errors.count("no owners and modes") == 1 and names(place) == ["out.mp4"]
    Run(tmp_path, clip, tmp_path / "out.mp4", *QUICK, "--work-dir", place).succeed()
    assert (tmp_path / "out.mp4").read_bytes() == (place / "out.mp4").read_bytes() and names(place) == ["out.mp4"]


@pytest.mark.parametrize("files", [1, 3, 8])
def test_a_full_file_system_is_left_as_it_was(tmp_path, clip, mount, files):
    """A tmpfs that takes so many files more: not the work directory, not all of its folders, no frames."""
    place = mount("-t", "tmpfs", "-o", f"size=200m,mode=0700,nr_inodes={files + 1}", "tmpfs")
    run = Run(tmp_path, clip, tmp_path / "out.mp4", *QUICK, "--work-dir", place)
    assert run.wait() in (1, 2) and "o space left on device" in run.errors.lower().replace("no disk", "no")
    assert "another run" not in run.errors and os.listdir(place) == []


def test_status_on_a_file_system_without_locks(tmp_path, monkeypatch):
    from upscaling.cli.status_command import is_running

    (tmp_path / "lock").write_text(f"{os.getpid()}\n")
    assert not is_running(tmp_path)
    monkeypatch.setattr(fcntl, "flock", lambda *_: (_ for _ in ()).throw(OSError(38, "Function not implemented")))
    assert is_running(tmp_path)
    (tmp_path / "lock").write_text("4194304\n")  # more than the largest pid
    assert not is_running(tmp_path)
