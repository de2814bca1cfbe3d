"""One job, all stages at once: the decode thread, the workers, the encode thread, and the main loop between them.

    decode thread ── frames, manifests ──► WorkerPool ── results ──► Window ──► encode thread ─► segments
          ▲                                                            │
          └───────────── waits until the window has room ◄─────────────┘

The threads share the window, the frames in storage and a StopToken; the manifests of the decode thread reach the
main loop through the Dispatcher.
"""

import threading
import time
from collections.abc import Callable

from upscaling.common.errors import Stopped
from upscaling.common.system import exit_seconds
from upscaling.job.work_dir import WorkDir
from upscaling.pipeline.dispatcher import Dispatcher
from upscaling.pipeline.frame_store import FrameStore
from upscaling.pipeline.plan import Plan
from upscaling.pipeline.segments import finish
from upscaling.pipeline.stages import DecodeStage, EncodeStage, Look, RunCounts
from upscaling.pipeline.window import StopToken, Window
from upscaling.workers import status
from upscaling.workers.pool import WorkerPool

GRACE_SECONDS = 4.0  # after a stop, for encoding the frames that are upscaled
MARGIN_SECONDS = 1.5  # of exit_seconds, for what comes after closing the open segment; a slower encoder loses it
STATUS_SECONDS = 1.0  # between writes of the status files


class Pipeline:
    """One job's run with a pool of workers."""

    def __init__(
        self, plan: Plan, work_dir: WorkDir, pool: WorkerPool, say: Callable[[str], None], show: Callable,
        look: Look | None = None,
    ):  # fmt: skip
        """`say` takes one line for the user; `show(counts, rows)` is called a few times a second.

        `look(number, frames)` is called in the encode thread with each upscaled frame while it is in storage.
        """
        self.counts = RunCounts(plan.info.frame_count)
        self._plan, self._work_dir, self._pool, self._show = plan, work_dir, pool, show
        self._stop = StopToken()
        frames, window = FrameStore(plan, work_dir), Window(plan.window, self._stop)
        self._dispatcher = Dispatcher(frames, window, pool, self.counts, say, plan.steady)
        self._decode = DecodeStage(plan, frames, window, self.counts, self._dispatcher)
        self._encode = EncodeStage(plan, work_dir, frames, window, self.counts, look)
        self._signal = 0

    @property
    def warnings(self) -> list[str]:
        """Warnings of the decoder; complete when `run` has returned."""
        return self._decode.warnings

    def interrupt(self, number: int) -> None:
        """End the run with Stopped because of a signal; may be called in its handler."""
        self._signal = number
        self._dispatcher.wake_pipe.wake()

    def check(self) -> None:
        """Raise Stopped if the run was interrupted."""
        if self._signal:
            raise Stopped(self._signal)

    def run(self) -> None:
        """Upscale all frames that are not in closed segments yet; raise the error that ends the run early."""
        self.counts.resumed = self.counts.done = self._work_dir.frames_done
        decode = threading.Thread(target=self._guard, args=(self._decode.run,), name="decode", daemon=True)
        encode = threading.Thread(target=self._guard, args=(self._encode.run,), name="encode", daemon=True)
        decode.start()
        encode.start()
        try:
            self._dispatch_until_end_of(encode)
        except BaseException as error:
            self._stop.set(GRACE_SECONDS, error)
        finally:
            self._stop.set(GRACE_SECONDS)
            if self._wait_for(decode, encode):
                self._dispatcher.wake_pipe.close()
        if self._stop.error is not None:
            raise self._stop.error
        self.check()

    def _guard(self, stage: Callable[[], None]) -> None:
        """Run a stage in its thread; its error ends the run and is raised by `run`."""
        try:
            stage()
        except BaseException as error:
            self._stop.set(GRACE_SECONDS, error)
        finally:
            self._dispatcher.wake_pipe.wake()

    def _dispatch_until_end_of(self, encode: threading.Thread) -> None:
        """The main loop: serve the workers and show the progress until the last frame is encoded."""
        written = 0.0
        while encode.is_alive() and not self._stop.is_set:
            self.check()
            self._dispatcher.turn()
            if time.monotonic() - written > STATUS_SECONDS:
                self._write_status()
                written = time.monotonic()
            self._show(self.counts, self._pool.rows)
        self._dispatcher.remove_unneeded()
        self._write_status()  # the final state, for --keep-work

    def _write_status(self) -> None:
        status.write_json(self._pool.rows, self._work_dir.directory, self.counts.facts())

    def _wait_for(self, decode: threading.Thread, encode: threading.Thread) -> bool:
        """Wait for the stages to end; return False if one does not within the time that a signal leaves.

        A stage that is still in the decoder or the encoder then does nothing more when that returns.
        """
        deadline = None
        while decode.is_alive() or encode.is_alive():
            if deadline is None and (self._signal or not encode.is_alive()):
                deadline = time.monotonic() + exit_seconds() - MARGIN_SECONDS
            if deadline is not None and time.monotonic() > deadline:
                return False
            (encode if encode.is_alive() else decode).join(0.05)
        return True

    def finish(self) -> list[str]:
        """Write the output from the segments and move it into place; return warnings.

        This runs in a thread, because neither a muxer nor a disk can be interrupted, but a signal must end it soon.
        """
        results: list[list[str] | BaseException] = []

        def run() -> None:
            try:
                results.append(finish(self._plan, self._work_dir))
            except BaseException as error:
                results.append(error)

        thread = threading.Thread(target=run, name="join", daemon=True)
        thread.start()
        while thread.is_alive():
            self.check()
            thread.join(0.05)
        (result,) = results
        if isinstance(result, BaseException):
            raise result
        return result
