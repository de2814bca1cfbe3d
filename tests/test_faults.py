"""Fault injection: killed and stopped processes, damaged files, full disks. The output equals an undisturbed run's.

After each test no process is left, and no temporary file outside the work directory.
"""

import json
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from runs import LOSSLESS, ROOT, Run, frames_of, make_input, records, streams_of, wait_until

FAULTY = ROOT / "tests" / "faulty.py"
EXIT_SECONDS = 10.0  # what the README promises after a signal
RESUMED = re.compile(r"resuming: (\d+) frames done, about (\d+) left")


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return make_input(tmp_path_factory.mktemp("source") / "in.mkv")


@pytest.fixture(scope="module")
def finished(source, tmp_path_factory):
    """A directory with the output of an uninterrupted run, its work directory kept."""
    place = tmp_path_factory.mktemp("finished")
    Run(place, source, place / "out.mp4", *LOSSLESS, "--keep-work").succeed()
    assert records(place / "out.mp4.work") == 10
    return place


@pytest.fixture(scope="module")
def expected(finished):
    output = finished / "out.mp4"
    frames = frames_of(output)
    assert len({time for time, _ in frames}) == 160 and len({digest for _, digest in frames}) == 145
    return frames, streams_of(output)


@pytest.fixture
def start(tmp_path, source):
    """Starts runs of `source` into out.mp4; kills what a failed test leaves."""
    runs = []

    def start(*arguments, fault="", output="out.mp4", **options) -> Run:
        if fault:
            folder = tmp_path / f"fault-{len(runs)}"
            folder.mkdir()
            options |= {"script": FAULTY, "env": {"FAULT": f"{fault}:{folder}"}}
        runs.append(Run(tmp_path, source, tmp_path / output, *LOSSLESS, *arguments, **options))
        return runs[-1]

    yield start
    for run in runs:
        run.kill_all()


@pytest.fixture
def tmpfs(tmp_path):
    """Mounts small file systems, unmounted after the test."""
    mounted = []

    def mount(size: str) -> Path:
        place = tmp_path / f"tmpfs{len(mounted)}"
        place.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={size},mode=0700", "tmpfs", str(place)]
        if not shutil.which("mount") or subprocess.run(command, capture_output=True, check=False).returncode:
            pytest.skip("this user may not mount a tmpfs; the tests with RLIMIT_FSIZE stand in")
        mounted.append(place)
        return place

    yield mount
    for place in mounted:
        subprocess.run(["umount", "-l", str(place)], check=True)


def check(output: Path, expected) -> None:
    """The output equals an undisturbed run's, and no other file is beside it."""
    assert (frames_of(output), streams_of(output)) == expected
    assert not [path.name for path in output.parent.iterdir() if path.name.startswith((output.name + ".", "."))]


def resume(place: Path, line: str) -> Run:
    """Run the command of an error line in a shell, from another directory."""
    command = line.partition("; to resume: ")[2].replace("tests/faulty.py", "upscale.py")
    return Run(place, shell=command, cwd=Path("/")).succeed()


def segments(work: Path, count: int):
    """Wait until so many segments are closed."""
    wait_until(lambda: records(work) >= count, f"{count} segments")


# The main process


@pytest.mark.parametrize("seed", [1, 2])
def test_main_process_killed_at_random_moments(start, tmp_path, expected, seed):
    moments = random.Random(seed)
    for _ in range(3):
        run = start(fault="slow:0")
        time.sleep(moments.uniform(0.3, 3))
        if moments.random() < 0.5:
            run.signal(signal.SIGKILL)
        else:
            os.killpg(run.pid, signal.SIGKILL)
        run.wait()
        if moments.random() < 0.7:  # else the rerun meets workers that are still alive
            run.check_gone()
    start().succeed()
    check(tmp_path / "out.mp4", expected)


def test_a_killed_run_goes_on_after_its_last_segment_and_says_so(start, tmp_path, expected):
    run = start(fault="slow:0")
    segments(tmp_path / "out.mp4.work", 3)
    run.signal(signal.SIGKILL)
    run.wait()
    done = records(tmp_path / "out.mp4.work")
    again = start().succeed()
    kept, left = map(int, RESUMED.search(again.errors).groups())
    assert kept == done * 16 and kept + left in (160, 161)
    check(tmp_path / "out.mp4", expected)


def kill_after(run, work, count: int) -> int:
    """Kill a run when so many segments are closed; the frames in closed segments."""
    segments(work, count)
    run.signal(signal.SIGKILL)
    run.wait()
    run.check_gone()
    return records(work) * 16


def segment_files(work) -> dict:
    return {path.name: path.read_bytes() for path in (work / "segments").glob("*.mkv")}


def test_finished_frames_made_with_other_options_are_not_deleted(start, tmp_path, expected):
    """One option after the other, and what is said names it; --restart discards them, the same options resume."""
    work = tmp_path / "out.mp4.work"
    frames = kill_after(start("--deinterlace", "off", fault="slow:0"), work, 2)
    before = segment_files(work)
    for change, words in (
        (("--crf", "30"), "made with --crf 0;"),
        (("--preset", "medium", "--codec", "libx265"), "made with --preset ultrafast and without --codec;"),
        (("--frame-format", "png"), "made without --frame-format;"),
        (("--frames", "1:80"), "made without --frames;"),
        (("--pix-fmt", "yuv444p"), "made without --pix-fmt;"),
    ):
        line = start("--deinterlace", "off", *change).fail(2)
        assert f"holds {frames} finished frames {words} repeat that, or add --restart" in line
    assert segment_files(work) == before
    # What changes nothing in the result may change.
    again = start("--codec", "libx264", "--device", "cpu", "--batch-size", "3", "--pix-fmt", "yuv420p").succeed()
    assert int(RESUMED.search(again.errors)[1]) == frames
    check(tmp_path / "out.mp4", expected)


def test_the_speed_of_a_resumed_run_is_that_of_its_new_frames(start, tmp_path):
    """Neither the frames that were done nor the time to decode past them counts."""
    frames = kill_after(start(fault="slow:0"), tmp_path / "out.mp4.work", 2)
    with (tmp_path / "events").open("wb") as out:
        start("--progress", "json", fault="slow_skip:0", stdout=out).succeed()
    done = json.loads((tmp_path / "events").read_text().splitlines()[-1])
    assert done["frames"] == 160 and done["frames_per_second"] > 0
    assert done["seconds"] - (160 - frames) / done["frames_per_second"] >= 3  # seconds of slow_skip


def test_restart_discards_and_nothing_finished_is_not_asked_about(start, tmp_path, expected):
    work = tmp_path / "out.mp4.work"
    run = start("--crf", "30", "--segment-frames", "1000", fault="slow:0")
    wait_until(lambda: list((work / "output_frames").glob("*")), "frames")
    run.signal(signal.SIGKILL)
    run.wait()
    kill_after(start("--crf", "20", fault="slow:0"), work, 2)
    assert "made with --crf 20" in start().fail(2)
    assert "starting over" in start("--restart").succeed().errors
    check(tmp_path / "out.mp4", expected)


def test_an_input_that_changed_since_is_not_resumed(tmp_path, source):
    copy = Path(shutil.copy(source, tmp_path / "copy.mkv"))
    arguments = (copy, tmp_path / "out.mp4", *LOSSLESS)
    run = Run(tmp_path, *arguments, script=FAULTY, env={"FAULT": f"slow:0:{tmp_path}"})
    frames = kill_after(run, tmp_path / "out.mp4.work", 1)
    make_input(copy, frames=50)
    line = Run(tmp_path, *arguments).fail(2)
    assert f"holds {frames} finished frames of the input as it was before it changed; to discard them add" in line
    Run(tmp_path, *arguments, "--restart").succeed()
    assert len(frames_of(tmp_path / "out.mp4")) == 50


def test_an_upgrade_of_the_encoder_is_found_when_a_segment_is_opened(start, tmp_path, expected):
    work = tmp_path / "out.mp4.work"
    frames = kill_after(start(fault="slow:0"), work, 2)
    before = segment_files(work)
    line = start(fault="upgrade:0").fail(2)
    assert f"holds {frames} finished frames made with another version of libx264" in line
    assert segment_files(work) == before and records(work) * 16 == frames
    start().succeed()
    check(tmp_path / "out.mp4", expected)


@pytest.mark.parametrize("fault", ["stopped", "stuck:9"])
def test_workers_end_with_the_main_process_whatever_they_do(start, tmp_path, fault):
    run = start(fault="slow:0" if fault == "stopped" else fault)
    if fault == "stopped":
        segments(tmp_path / "out.mp4.work", 1)
        for pid in run.workers():
            os.kill(pid, signal.SIGSTOP)
    else:
        wait_until(lambda: list(run.temp.parent.glob("fault-*/happened-*")), "a worker hangs with the GIL held")
    run.signal(signal.SIGKILL)
    run.wait()
    run.check_gone()


# Signals


STAGES = {
    "loading": ("slow_load:1", lambda work: list(work.parent.glob("fault-0/happened-*"))),
    "running": ("slow:0", lambda work: records(work) >= 2),
    "joining": ("slow_join:0", lambda work: list(work.glob("joined.*"))),
}
STATUS = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}


@pytest.mark.parametrize(
    ("stage", "number"),
    [(stage, number) for stage in STAGES for number in STATUS if stage == "running" or number == signal.SIGTERM],
)
def test_a_signal_keeps_what_is_done_and_tells_how_to_resume(start, tmp_path, expected, stage, number):
    fault, reached = STAGES[stage]
    work = tmp_path / "out.mp4.work"
    (tmp_path / "cwd dir").mkdir()
    run = start(fault=fault, cwd=tmp_path / "cwd dir")
    wait_until(lambda: reached(work), f"the run is {stage}")
    started = time.monotonic()
    run.signal(number)
    line = run.fail(STATUS[number])
    assert time.monotonic() - started < EXIT_SECONDS
    assert number.name in line
    assert not list(work.glob("segments/*.tmp")) and not list(work.glob("joined.*"))
    before = records(work)
    again = resume(tmp_path, line)
    if stage != "loading":
        assert int(RESUMED.search(again.errors)[1]) > 16 * (before - 1)  # the open segment was closed and kept
    check(tmp_path / "out.mp4", expected)


def test_a_signal_to_the_whole_group_restarts_nobody(start, tmp_path):
    run = start(fault="slow:0")
    segments(tmp_path / "out.mp4.work", 2)
    os.killpg(run.pid, signal.SIGTERM)
    run.fail(143)
    assert "restarting it" not in run.errors


def test_what_does_not_come_back_is_not_waited_for_and_a_second_signal_ends_at_once(start, tmp_path):
    stuck = start(fault="stuck_load:1", output="c.mp4")
    wait_until(lambda: list(tmp_path.glob("fault-0/happened-*")), "the main thread hangs")
    stuck.signal(signal.SIGHUP)
    runs = [start(fault="slow_close:0", output=f"{name}.mp4") for name in "ab"]
    for run, name in zip(runs, "ab", strict=True):
        wait_until(lambda name=name: list(tmp_path.glob(f"{name}.mp4.work/segments/*.tmp")), "a segment is open")
        run.signal(signal.SIGTERM)
    time.sleep(1.2)  # before, it would be the same signal
    assert runs[1].process.poll() is None
    runs[1].signal(signal.SIGINT)
    assert runs[1].wait(3) == 130
    assert runs[0].wait(EXIT_SECONDS) == 143
    assert "SIGHUP" in stuck.fail(129)
    for run in runs:
        run.check_gone()


@pytest.mark.parametrize(("first", "second"), [(signal.SIGTERM, signal.SIGTERM), (signal.SIGHUP, signal.SIGTERM)])
def test_a_double_signal_is_one_signal(start, tmp_path, expected, first, second):
    """`timeout` and `tmux kill-session` signal the process and then its group."""
    run = start(fault="slow:0")
    segments(tmp_path / "out.mp4.work", 2)
    run.signal(first)
    time.sleep(0.05)
    os.killpg(run.pid, second)
    line = run.fail(STATUS[first])
    before = records(tmp_path / "out.mp4.work")
    again = resume(tmp_path, line)
    assert int(RESUMED.search(again.errors)[1]) > 16 * (before - 1)  # the open segment was closed and kept
    check(tmp_path / "out.mp4", expected)


def test_under_nohup_a_hangup_changes_nothing(start, tmp_path, expected):
    run = start(fault="slow:0", preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    segments(tmp_path / "out.mp4.work", 1)
    os.killpg(run.pid, signal.SIGHUP)
    run.succeed()
    check(tmp_path / "out.mp4", expected)


def test_started_without_standard_streams(start, tmp_path, expected):
    """A library that writes to descriptor 2 must not write into the lock or the ledger."""
    run = start(stdin=None, stdout=None, stderr=None, preexec_fn=lambda: os.closerange(0, 3))
    run.succeed()
    check(tmp_path / "out.mp4", expected)


def test_a_reader_of_its_messages_that_goes_away_ends_nothing(start, tmp_path, expected):
    reader, writer = os.pipe()
    run = start("--progress", "json", stdout=writer, stderr=writer)
    os.close(writer)
    os.close(reader)
    run.succeed()
    check(tmp_path / "out.mp4", expected)


# Workers


@pytest.mark.parametrize("seed", [1, 2])
def test_workers_killed_at_random_moments(start, tmp_path, expected, seed):
    moments = random.Random(seed)
    run = start(fault="slow:0")
    for _ in range(4):
        workers = wait_until(run.workers, "workers")
        os.kill(moments.choice(workers), signal.SIGKILL)
        time.sleep(moments.uniform(0.05, 0.6))
    run.succeed()
    assert "was killed by SIGKILL; restarting it" in run.errors
    check(tmp_path / "out.mp4", expected)


def test_a_stopped_worker_counts_as_dead(start, tmp_path, expected):
    run = start("--stall-timeout", "1", fault="slow:0")
    segments(tmp_path / "out.mp4.work", 1)
    os.kill(run.workers()[0], signal.SIGSTOP)
    run.succeed()
    assert "sent no heartbeat" in run.errors
    check(tmp_path / "out.mp4", expected)


def test_a_run_that_is_stopped_as_a_whole_goes_on(start, tmp_path, expected):
    """Ctrl-Z, and fg after more than the stall timeout: the workers do not count as stalled."""
    run = start("--stall-timeout", "3", fault="slow:0")
    segments(tmp_path / "out.mp4.work", 1)
    os.killpg(run.pid, signal.SIGSTOP)
    time.sleep(3.5)
    os.killpg(run.pid, signal.SIGCONT)
    run.succeed()
    assert "no heartbeat" not in run.errors
    check(tmp_path / "out.mp4", expected)


def test_the_fork_server_killed(start, tmp_path, expected):
    run = start(fault="slow:0")
    segments(tmp_path / "out.mp4.work", 1)
    os.kill(run.fork_server(), signal.SIGKILL)
    run.succeed()
    assert run.errors.count("restarting it") == 2
    check(tmp_path / "out.mp4", expected)


@pytest.mark.parametrize("what", ["kill_server", "kill_workers"])
def test_deaths_together_are_no_ones_fault(start, tmp_path, expected, what):
    """However often it is the same manifest that they were at."""
    run = start(fault=f"{what}:4").succeed()
    assert run.errors.count("restarting it") == 8
    check(tmp_path / "out.mp4", expected)


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (
            "raise:2",
            "failed (RuntimeError: CUDA error: an illegal memory access was encountered second line); restarting it",
        ),
        ("die:2", "was killed by SIGKILL; restarting it"),
        ("exit:1", "ended with exit status 7; restarting it"),
        ("silent:1", "sent no heartbeat"),
        ("stuck:1", "sent no heartbeat"),
        ("cut:2", "frame 30 is damaged"),
        ("die_before_report:1", "was killed by SIGKILL"),
        ("die_loading:2", "was killed by SIGKILL; restarting it"),
        ("no_start:2", "failed (RuntimeError: no device); restarting it"),
        ("wrong_size:2", "frame 30 has the wrong size; frames"),
    ],
)
def test_a_worker_that_fails_costs_another_try(start, tmp_path, expected, fault, said):
    run = start("--stall-timeout", "1.5", fault=fault).succeed()
    assert said in run.errors
    check(tmp_path / "out.mp4", expected)


@pytest.mark.parametrize(
    ("fault", "last"),
    [
        ("raise:9", "failed (RuntimeError: CUDA error"),
        ("die:9", "was killed by SIGKILL"),
        ("silent:9", "sent no heartbeat"),
        ("wrong_size:9", "wrote a bad frame: upscaled frame 30 has the wrong size"),
    ],
)
def test_a_manifest_that_kills_three_workers_ends_the_run_and_is_named(start, tmp_path, expected, fault, last):
    line = start("--stall-timeout", "1", fault=fault).fail(1)
    named = re.search(r"frames (\d+) to (\d+): given up after 3 tries", line)
    assert named and int(named[1]) <= 30 <= int(named[2]) and last in line
    work = tmp_path / "out.mp4.work"
    assert records(work) >= 1 and not any((work / "input_frames").iterdir())
    again = start().succeed()
    assert int(RESUMED.search(again.errors)[1]) >= 16
    check(tmp_path / "out.mp4", expected)


def test_workers_that_never_start_end_the_run(start):
    assert "could not start, 3 times" in start(fault="no_start:99").fail(1)


# Disk


def test_less_space_than_the_smallest_window_is_refused(start, tmp_path):
    assert "work space" in start("--work-space", "40K").fail(2)
    assert not (tmp_path / "out.mp4.work").exists()
    run = start("--work-space", "200K").succeed()
    assert "up to 8 frames at a time" in run.errors


def test_a_disk_without_space_is_refused(start, tmpfs, tmp_path):
    place = tmpfs("4m")
    assert "MiB" in start("--work-dir", place).fail(2)
    assert list(place.iterdir()) == []


def test_a_disk_that_fills_up_ends_the_run_and_the_rerun_resumes(start, tmpfs, tmp_path, expected):
    place = tmpfs("70m")
    run = start("--work-dir", place, fault="slow:0")
    segments(place / "out.mp4.work", 2)
    with (place / "ballast").open("wb", buffering=0) as ballast:
        try:
            while True:
                ballast.write(b"x" * 4096)
        except OSError:
            pass
    assert "no disk space left" in run.fail(1)
    assert records(place / "out.mp4.work") >= 2
    (place / "ballast").unlink()
    again = start("--work-dir", place).succeed()
    assert int(RESUMED.search(again.errors)[1]) >= 32
    check(tmp_path / "out.mp4", expected)
    assert list(place.iterdir()) == []


@pytest.mark.parametrize("limit", [4_500, 12_000, 100_000, 1_000_000])
def test_a_limit_on_file_sizes_ends_the_run_and_the_rerun_resumes(start, tmp_path, expected, finished, limit):
    """Limits too small for input frames (4.7 KB), output frames (18 KB), segments and the joined output, in turn."""
    assert max(p.stat().st_size for p in finished.glob("out.mp4.work/segments/*")) > 100_000
    assert (finished / "out.mp4").stat().st_size > 1_000_000
    run = start(preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)))
    assert "no disk space left (File too large); free some, then rerun to resume" in run.fail(1)
    assert not (tmp_path / "out.mp4").exists()
    start().succeed()
    check(tmp_path / "out.mp4", expected)


# Torn files


def tear_ledger(work, chance):
    data = (work / "ledger.jsonl").read_bytes()
    (work / "ledger.jsonl").write_bytes(data[: chance.randrange(len(data))])


def spoil_ledger(work, chance):
    data = bytearray((work / "ledger.jsonl").read_bytes())
    data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    (work / "ledger.jsonl").write_bytes(data)


def tear_segment(work, chance):
    path = work / "segments" / f"segment_{chance.randrange(10):06d}.mkv"
    os.truncate(path, chance.randrange(path.stat().st_size))


def spoil_segment(work, chance):
    path = work / "segments" / f"segment_{chance.randrange(10):06d}.mkv"
    data = bytearray(path.read_bytes())
    data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    path.write_bytes(data)


def lose_segment(work, chance):
    (work / "segments" / f"segment_{chance.randrange(10):06d}.mkv").unlink()


def swap_segments(work, _chance):
    first, second = (work / "segments" / f"segment_{number:06d}.mkv" for number in (3, 4))
    first.rename(work / "swap")
    second.rename(first)
    (work / "swap").rename(second)


def tear_job(work, _chance):
    os.truncate(work / "job.json", 100)


def tear_status(work, _chance):
    for path in (work / "status").iterdir():
        os.truncate(path, 10)


@pytest.mark.parametrize(
    "tear", [tear_ledger, spoil_ledger, tear_segment, spoil_segment, lose_segment, swap_segments, tear_job, tear_status]
)
def test_torn_files_cost_work_and_nothing_else(start, tmp_path, finished, expected, tear):
    chance = random.Random(tear.__name__)
    work = tmp_path / "out.mp4.work"
    shutil.copytree(finished / "out.mp4.work", work)
    job = (work / "job.json").read_text()
    (work / "job.json").write_text(job.replace(os.fsencode(finished).hex(), os.fsencode(tmp_path).hex()))
    tear(work, chance)
    again = start().succeed()
    if tear not in (tear_job, tear_status):
        assert 0 <= int(RESUMED.search(again.errors + "resuming: 0 frames done, about 160 left")[1]) < 160
    check(tmp_path / "out.mp4", expected)


def test_a_torn_ledger_costs_one_segment_however_often_the_run_dies(start, tmp_path, expected):
    """Lines appended after a torn one must not be lost with it."""
    work = tmp_path / "out.mp4.work"
    for least in (1, 2, 3):
        run = start(fault="slow:0")
        segments(work, least)
        run.signal(signal.SIGKILL)
        run.wait()
        with (work / "ledger.jsonl").open("r+b") as ledger:
            ledger.truncate(ledger.seek(-5, os.SEEK_END))
    again = start().succeed()
    assert int(RESUMED.search(again.errors)[1]) >= 32
    check(tmp_path / "out.mp4", expected)


# Two runs


@pytest.mark.parametrize("elsewhere", [False, True])
def test_a_second_run_for_one_output_is_told_the_firsts_pid(start, tmp_path, expected, elsewhere):
    first = start(fault="slow:0")
    segments(tmp_path / "out.mp4.work", 1)
    (tmp_path / "other").mkdir()
    options = ["--work-dir", tmp_path / "other"] if elsewhere else []
    assert f"another run (pid {first.pid}) is writing this output" in start(*options).fail(75)
    assert list((tmp_path / "other").iterdir()) == []
    first.succeed()
    check(tmp_path / "out.mp4", expected)


# The output


def test_an_existing_output_stays_until_the_new_one_is_complete(start, tmp_path, expected):
    output = tmp_path / "out.mp4"
    output.write_bytes(b"old")
    assert "exists, skipped (--no-clobber)" in start("--no-clobber").succeed().errors
    run = start("--overwrite", fault="slow_join:0")
    wait_until(lambda: list(tmp_path.glob("out.mp4.work/joined.*")), "joining")
    run.signal(signal.SIGKILL)
    run.wait()
    assert output.read_bytes() == b"old"
    start("--overwrite").succeed()
    check(output, expected)


def test_a_run_killed_while_it_joins_on_another_file_system_leaves_nothing_there(start, tmpfs, tmp_path, expected):
    outputs = tmpfs("20m")
    (tmp_path / "work").mkdir()
    arguments = ("--work-dir", tmp_path / "work")
    run = start(*arguments, output=outputs / "out.mp4", fault="slow_join:0")
    segments(tmp_path / "work" / "out.mp4.work", 10)
    time.sleep(0.5)
    assert run.process.poll() is None
    run.signal(signal.SIGKILL)
    run.wait()
    assert list(outputs.iterdir()) == []
    start(*arguments, output=outputs / "out.mp4").succeed()
    check(outputs / "out.mp4", expected)
    assert list((tmp_path / "work").iterdir()) == []


def test_a_link_as_output_is_followed_and_stays(start, tmp_path, expected):
    (tmp_path / "real").mkdir()
    (tmp_path / "out.mp4").symlink_to("real/film.mp4")
    start().succeed()
    assert os.readlink(tmp_path / "out.mp4") == "real/film.mp4"
    check(tmp_path / "real" / "film.mp4", expected)


# Poison


@pytest.mark.parametrize(
    "name",
    ["$(touch x);`id` quo'te\"", " edge 50%d#?* ", "new\nline", "-dash", "--restart", "\udcff\udcfe"],
)
def test_any_name_works(tmp_path, source, expected, name):
    """As INPUT, OUTPUT and --work-dir, relative to the current directory."""
    place = tmp_path / name
    (place / name).mkdir(parents=True)
    shutil.copy(source, place / f"{name}.mkv")
    run = Run(tmp_path, "--work-dir=" + name, *LOSSLESS[1:], "--", f"{name}.mkv", f"{name}.mp4", "2", cwd=place)
    try:
        run.succeed()
    finally:
        run.kill_all()
    assert (frames_of(place / f"{name}.mp4"), streams_of(place / f"{name}.mp4")) == expected
    assert sorted(os.listdir(place)) == sorted([name, f"{name}.mkv", f"{name}.mp4"])
    assert os.listdir(place / name) == []


def test_the_command_to_resume_names_any_file(tmp_path, source, expected):
    name = 'it\'s "é" $x'
    shutil.copy(source, tmp_path / f"{name}.mkv")
    env = {"FAULT": f"slow:0:{tmp_path}"}
    run = Run(tmp_path, f"{name}.mkv", f"{name}.mp4", *LOSSLESS, script=FAULTY, env=env, cwd=tmp_path)
    try:
        segments(tmp_path / f"{name}.mp4.work", 1)
        run.signal(signal.SIGTERM)
        line = run.fail(143)
    finally:
        run.kill_all()
    assert RESUMED.search(resume(tmp_path, line).errors)
    assert frames_of(tmp_path / f"{name}.mp4") == expected[0]


def test_weights_that_run_code_are_refused(tmp_path, source):
    class Poison:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "poisoned"),)

    import pickle

    import torch

    torch.save({"params": Poison()}, tmp_path / "new.pth")
    (tmp_path / "old.pth").write_bytes(pickle.dumps(Poison()))
    for name in ("new.pth", "old.pth"):
        run = Run(tmp_path, source, tmp_path / "out.mp4", "2", "--model", tmp_path / name, "--workers", "1")
        assert name in run.fail(2)
    assert not (tmp_path / "poisoned").exists() and not (tmp_path / "out.mp4.work").exists()


def test_a_work_directory_that_is_not_ours_is_refused(start, tmp_path):
    work = tmp_path / "out.mp4.work"
    (tmp_path / "elsewhere").mkdir()
    work.symlink_to(tmp_path / "elsewhere")
    assert "is a link" in start().fail(2)
    work.unlink()
    work.mkdir()
    work.chmod(0o777)
    assert "others may write" in start().fail(2)
    work.chmod(0o700)
    (work / "segments").symlink_to(tmp_path / "elsewhere")
    assert "is a link" in start().fail(2)
    assert os.listdir(tmp_path / "elsewhere") == []


def test_an_input_in_its_own_work_directory_is_refused(tmp_path, source):
    folder = tmp_path / "out.mp4.work" / "segments"
    folder.mkdir(parents=True, mode=0o700)
    (tmp_path / "out.mp4.work").chmod(0o700)
    precious = shutil.copy(source, folder / "segment_000000.mkv")
    assert "work directory" in Run(tmp_path, precious, tmp_path / "out.mp4", *LOSSLESS).fail(2)
    assert Path(precious).read_bytes() == source.read_bytes()


def test_an_input_that_changes_meanwhile_is_noticed(tmp_path, source):
    copy = Path(shutil.copy(source, tmp_path / "copy.mkv"))
    run = Run(tmp_path, copy, tmp_path / "out.mp4", *LOSSLESS, script=FAULTY, env={"FAULT": f"slow:0:{tmp_path}"})
    segments(tmp_path / "out.mp4.work", 1)
    with copy.open("ab") as file:
        file.write(b"more")
    assert "changed while it was upscaled" in run.fail(1)
    assert not (tmp_path / "out.mp4").exists()


def test_a_damaged_video_without_any_frame_leaves_nothing_behind(tmp_path):
    (tmp_path / "noise.mp4").write_bytes(random.Random(1).randbytes(5000))
    before = sorted(p.name for p in tmp_path.iterdir())
    run = Run(tmp_path, tmp_path / "noise.mp4", tmp_path / "out.mp4", *LOSSLESS)
    run.fail(2)
    assert sorted(p.name for p in tmp_path.iterdir() if p not in (run.temp, run.error_path)) == before


def test_twice_in_one_process(tmp_path, source, expected):
    """upscale_video twice, without a main guard: no process and no descriptor remains while the caller lives on."""
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "from upscale import upscale_video\n"
        "import multiprocessing, os\n"
        "for name in sys.argv[2:]:\n"
        "    upscale_video(sys.argv[1], name, 2, model='lanczos', crf=0, preset='ultrafast', workers=2)\n"
        "    assert not multiprocessing.active_children()\n"
        "    assert [fd for fd in os.listdir('/proc/self/fd') if int(fd) > 2][5:] == []\n"
    )
    (tmp_path / "twice.py").write_text(code)
    outputs = [tmp_path / f"{name}.mp4" for name in "ab"]
    Run(tmp_path, source, *outputs, script=tmp_path / "twice.py").succeed()
    for output in outputs:
        check(output, expected)
