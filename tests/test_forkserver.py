"""The fork server: what is imported where, what a worker inherits, and which processes outlive which."""

import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from multiprocessing.connection import Connection, Pipe
from pathlib import Path

import numpy as np
import pytest
from runs import LOSSLESS, ROOT, Run, frames_of, make_input, wait_until

from upscaling.frames.conversion import FrameConversion
from upscaling.frames.layout import FrameLayout
from upscaling.inference.engine import make_upscaler
from upscaling.inference.settings import ModelSettings
from upscaling.workers.forkserver import ForkServer
from upscaling.workers.pool import WorkerPool

SECONDS = 60.0


@pytest.fixture
def server():
    server = ForkServer(["wave"])
    yield server
    server.stop()


def answer(server, target, *args):
    """What a worker sends; AssertionError if it sends nothing."""
    reader, writer = Pipe(duplex=False)
    with writer:
        process = server.fork(target, args, [writer.fileno()])
    with reader:
        assert reader.poll(SECONDS)
        found = reader.recv()
    process.join(SECONDS)
    assert not process.is_alive() and process.exit_code == 0
    process.close()
    return found


def send_facts(number, pipe):
    links = [Path(f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd")]
    descriptors = [os.readlink(link) for link in links if link.is_symlink()]  # but for that of the listing itself
    Connection(pipe).send((number, os.getppid(), "wave" in sys.modules, descriptors))


def exit_with(code):
    os._exit(code)


def raise_error():
    raise ValueError("what a worker raises")


def sleep():
    time.sleep(1000)


def send_late_imports(index, rows, tasks, results, settings, log_folder):
    """A worker's target: which packages are imported after the fork, by loading the model and upscaling a frame."""
    before = set(sys.modules)
    upscaler = make_upscaler(settings, lambda: None)
    source = FrameLayout(width=16, height=16, pixel_format="rgb24", matrix="gbr", full_range=True)
    target = replace(source, width=32, height=32)
    upscaler.submit([np.zeros((16, 16, 3), np.uint8)], FrameConversion(source=source, target=target))
    upscaler.collect()
    # torch imports a small module of its own late
    packages = {name.partition(".")[0] for name in sys.modules.keys() - before} - sys.stdlib_module_names
    results.send(("failed", "", f"torch before: {'torch' in before}, late: {sorted(packages - {'torch'})}"))
    time.sleep(1000)


def test_modules_are_imported_once_by_the_server(server):
    first, second = (answer(server, send_facts, number) for number in (1, 2))
    assert first[0] == 1 and second[0] == 2
    assert first[1] == second[1] == server.pid
    assert first[2] and "wave" not in sys.modules


def test_a_worker_inherits_no_descriptor_of_another(server):
    others = [server.fork(sleep, (), []) for _ in range(3)]
    descriptors = answer(server, send_facts, 1)[3]
    assert len([name for name in descriptors if name.startswith("pipe:")]) <= 3, descriptors  # stdout, stderr, its own
    assert not [name for name in descriptors if name.startswith("socket:")], descriptors
    for other in others:
        other.kill()
        other.join(SECONDS)
        assert other.exit_code == -signal.SIGKILL
        other.close()


def test_exit_codes_and_tracebacks_are_reported(server, capfd):
    processes = [server.fork(exit_with, (7,), []), server.fork(raise_error, (), [])]
    for process in processes:
        process.join(SECONDS)
        process.close()
    assert [process.exit_code for process in processes] == [7, 1]
    assert "ValueError: what a worker raises" in capfd.readouterr().err


def test_a_module_that_fails_to_import_is_an_error(capfd):
    server = ForkServer(["upscaling.no_such_module"])
    process = server.fork(sleep, (), [])
    process.join(SECONDS)
    assert not process.is_alive() and process.pid is None and process.exit_code is None
    assert process.start_error == "ModuleNotFoundError: No module named 'upscaling.no_such_module'"
    assert capfd.readouterr().err == ""
    process.close()
    server.stop()


@pytest.mark.parametrize("model", ["lanczos", "realesr-animevideov3", "RealESRGAN_x4plus_anime_6B"])
def test_workers_import_no_package_after_the_fork(tmp_path, capfd, model):
    """Otherwise each worker would import torch, or spandrel, by itself."""
    pool = WorkerPool([ModelSettings(model)], send_late_imports, tmp_path)
    pool.start()
    try:
        worker = pool.workers[0]
        deadline = time.monotonic() + SECONDS
        while not worker.exit_reason:
            assert time.monotonic() < deadline
            pool.wait(0.1)
        assert worker.exit_reason == f"failed (torch before: {model != 'lanczos'}, late: [])"
    finally:
        pool.stop()
    assert capfd.readouterr().err == ""


def test_workers_outlive_the_thread_that_started_them(server):
    started = []
    thread = threading.Thread(target=lambda: started.append(server.fork(sleep, (), [])))
    thread.start()
    thread.join()
    process = started[0]
    wait_until(lambda: process.is_alive() and process.pid, "the worker is forked")
    time.sleep(0.2)
    assert process.is_alive()
    server.stop()
    wait_until(lambda: not is_running(process.pid), "the worker ends with the server")
    assert not process.is_alive()
    process.close()


def test_a_server_that_was_killed_is_started_again(server):
    before = answer(server, send_facts, 1)[1]
    os.kill(before, signal.SIGKILL)
    wait_until(lambda: not is_running(before), "it is dead")
    assert answer(server, send_facts, 2)[1] == server.pid != before


@pytest.mark.parametrize("moment", ["importing", "idle"])
def test_the_server_ends_with_the_main_process(moment):
    code = (
        "import sys, time\n"
        "from upscaling.workers.forkserver import ForkServer\n"
        "server = ForkServer(['upscaling.inference.upscaler'])\n"  # imports torch
        "process = server.fork(time.sleep, (1000,), [])\n"
        "if sys.argv[1] == 'idle':\n"
        "    while process.is_alive() and process.pid is None: time.sleep(0.01)\n"
        "print(server.pid, process.pid, flush=True)\n"
        "time.sleep(1000)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code, moment], cwd=ROOT, stdout=subprocess.PIPE, text=True) as main:
        pids = [pid for pid in main.stdout.readline().split() if pid != "None"]
        main.kill()
    assert len(pids) == {"importing": 1, "idle": 2}[moment]
    wait_until(lambda: not any(is_running(pid) for pid in pids), "server and worker have ended")


def is_running(pid):
    """Whether a process exists that is not a zombie: who adopts it may not wait for it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


@pytest.mark.parametrize("safe_path", [False, True])
def test_no_module_of_the_current_directory_is_imported(tmp_path, safe_path):
    place = tmp_path / "cwd"
    place.mkdir()
    for name in ("json", "torch", "selectors", "socket", "pickle", "numpy", "ctypes", "upscaling", "sitecustomize"):
        (place / f"{name}.py").write_text(f"open({str(tmp_path / 'trace')!r}, 'a').write({name!r})\nraise SystemExit\n")
    source = make_input(tmp_path / "in.mkv", frames=20)
    env = {"PYTHONSAFEPATH": "1"} if safe_path else {}
    Run(tmp_path, source, tmp_path / "out.mp4", *LOSSLESS, cwd=place, env=env).succeed()
    assert len(frames_of(tmp_path / "out.mp4")) == 20
    assert not (tmp_path / "trace").exists()
    assert not (place / "__pycache__").exists()
