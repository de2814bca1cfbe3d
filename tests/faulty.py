"""The command with an injected fault: FAULT=KIND:TIMES:FOLDER python tests/faulty.py INPUT OUTPUT SCALE …

A worker meets the fault when it reads the frame POISON, TIMES times in all; files in FOLDER count. `slow` adds 30 ms
to each frame, so that a test can act during the run; `steadying` needs TIMES 2. Faults of the main process:
`slow_join`, `slow_close`, `slow_load`, `slow_skip`, `stuck_load`, `upgrade` (of the encoder, which then writes another
header). Faults of file systems are those of tests/file_systems.py.
"""

import ctypes
import os
import signal
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import file_systems

from upscaling.workers import worker

POISON = "frame_000030.npy"
AT_POISON = ("raise", "die", "exit", "silent", "stuck", "kill_server", "kill_workers")  # happen in read_frame
FOREVER = 1000  # seconds
real_run_worker, real_steady_batch = worker.run_worker, worker.steady_batch


def fault() -> tuple[str, int, Path]:
    kind, times, folder = os.environ["FAULT"].split(":", 2)
    return kind, int(times), Path(folder)


def claim() -> bool:
    """Return whether the fault happens now; count it."""
    _, times, folder = fault()
    for number in range(times):
        try:
            (folder / f"happened-{number}").touch(exist_ok=False)
            return True
        except FileExistsError:
            continue
    return False


def happen(kind: str) -> None:
    if kind == "raise":
        raise RuntimeError("CUDA error: an illegal memory access was encountered\nsecond line")
    if kind == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == "kill_server":  # as somebody else would
        os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(FOREVER)
    if kind == "kill_workers":
        server = os.getppid()
        workers = map(int, Path(f"/proc/{server}/task/{server}/children").read_text().split())
        for pid in sorted(workers, key=lambda pid: pid == os.getpid()):  # itself last
            os.kill(pid, signal.SIGKILL)
    if kind == "exit":
        os._exit(7)
    if kind == "silent":
        time.sleep(FOREVER)
    if kind == "stuck":  # in a C function that holds the GIL
        ctypes.PyDLL(None).sleep(FOREVER)


def steady_badly(manifest, names, conversion, heartbeat) -> None:
    """worker.steady_batch: once the worker dies before it has steadied, once it leaves half a frame."""
    if names[0] >= "frame_000011" and claim():
        if len(list(fault()[2].iterdir())) == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        real_steady_batch(manifest, names, conversion, heartbeat)
        os.truncate(manifest.output_dir / names[0], 1000)
    else:
        real_steady_batch(manifest, names, conversion, heartbeat)


def run_worker(index, rows, tasks, results, settings, log_folder) -> None:
    """worker.run_worker with the fault."""
    kind = fault()[0]
    file_systems.simulate(kind)
    read, write, make = worker.read_frame, worker.write_frame, worker.make_upscaler

    def read_frame(path):
        if kind == "slow":
            time.sleep(0.03)
        elif kind in AT_POISON and path.name == POISON and claim():
            happen(kind)
        return read(path)

    def write_frame(path, samples):
        if path.name == POISON and kind == "wrong_size" and claim():
            samples = samples[:-2]
        write(path, samples)
        if path.name == POISON and kind == "cut" and claim():
            os.truncate(path, 1000)
        if path.name == POISON and kind == "die_before_report" and claim():
            os.kill(os.getpid(), signal.SIGKILL)  # its output is complete, but not reported

    def make_upscaler(settings, heartbeat):
        if kind == "no_start" and claim():
            raise RuntimeError("no device")
        if kind == "die_loading" and claim():
            os.kill(os.getpid(), signal.SIGKILL)
        return make(settings, heartbeat)

    worker.read_frame, worker.write_frame, worker.make_upscaler = read_frame, write_frame, make_upscaler
    if kind == "steadying":
        worker.steady_batch = steady_badly
    real_run_worker(index, rows, tasks, results, settings, log_folder)


def slow_main(kind: str) -> None:
    """Make a stage of the main process take long."""
    if kind == "slow_join":
        from upscaling.mux import muxer

        real = muxer.heapq.merge
        muxer.heapq.merge = lambda *sources, **options: (time.sleep(0.1) or item for item in real(*sources, **options))
    if kind == "slow_skip":
        from upscaling.decode import decoder

        frames = decoder.Decoder.numbered_frames
        decoder.Decoder.numbered_frames = lambda self: (self._skip and time.sleep(3)) or frames(self)
    if kind == "upgrade":
        from upscaling.encode import segment_writer as writer

        real_options = writer.libav_options
        writer.libav_options = lambda settings: real_options(settings) | {"refs": "5"}
    if kind == "slow_close":
        from upscaling.encode import segment_writer

        real_close = segment_writer.SegmentWriter.close
        segment_writer.SegmentWriter.close = lambda self: time.sleep(FOREVER) or real_close(self)
    if kind == "stuck_load":  # in a C function that no signal interrupts: a mutex locked twice
        from upscaling.pipeline import plan

        libc, mutex = ctypes.CDLL(None), ctypes.create_string_buffer(64)
        plan.make_plan = lambda options: claim() and [libc.pthread_mutex_lock(mutex) for _ in range(2)]
    if kind == "slow_load":
        from upscaling.pipeline import plan

        real_plan = plan.make_plan
        plan.make_plan = lambda options: (claim() and time.sleep(FOREVER)) or real_plan(options)


if __name__ == "__main__":
    import faulty  # workers import it by this name

    worker.run_worker = faulty.run_worker
    slow_main(fault()[0])
    file_systems.simulate(fault()[0])
    from upscaling.cli import main

    main.console()
