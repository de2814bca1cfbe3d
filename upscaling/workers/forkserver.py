"""Worker processes from a fork server that leaves nothing behind: its socket, its signals, its end.

    main process ──► fork server (heavy modules imported once) ──► worker, worker, …
         └──────────── pipe that only the main process holds: its end ends the fork server ───┘

multiprocessing's fork server keeps its socket in the temp directory, where a killed run would leave it, takes
the signals that a terminal sends to all, and lives for as long as any worker does. Here the socket is unlinked
as soon as the server listens, the server blocks SIGINT, SIGTERM and SIGHUP, and `tie_to_main` makes a worker die
with the server and the server with the main process. What is private to multiprocessing is touched in this
file only (`_config`, `_forkserver`: the same in Python 3.10 to 3.12).
"""

import ctypes
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Sequence
from multiprocessing import connection, forkserver, parent_process, resource_tracker
from multiprocessing.process import BaseProcess
from pathlib import Path

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
START_TRIES = 3
JOIN_SECONDS = 3.0  # for a process that was sent SIGKILL; one in an uninterruptible wait is left behind
PR_SET_PDEATHSIG = 1  # prctl(2)


class ProcessStarter:
    """Starts processes through a fork server that has imported `modules`; stops the server in the end."""

    def __init__(self, scratch: Path, modules: Sequence[str]):
        """`scratch`: a directory of this user alone, where the server's socket is for a moment at its start."""
        self.context = multiprocessing.get_context("forkserver")
        self.scratch = scratch
        self._server = forkserver._forkserver
        self._ours = self._server._forkserver_pid is None  # else the program that called us has its own
        self._address = ""
        self._socket = -1
        self.context.set_forkserver_preload(list(modules))

    def start(self, target: Callable, args: tuple, name: str) -> BaseProcess:
        """A running daemon process; the server is started first, or again where it was killed."""
        for left in reversed(range(START_TRIES)):
            process = self.context.Process(target=target, args=args, name=name, daemon=True)
            try:
                self._ensure_server()
                process.start()
                return process
            except (EOFError, OSError):  # the server died just now, and waitpid(2) does not know yet
                if not left or not self._ours:
                    raise
                self._stop_server()
        raise AssertionError("not reached")

    def _ensure_server(self) -> None:
        if not self._ours:
            return
        config = multiprocessing.current_process()._config
        before = config.get("tempdir")
        folder = os.open(self.scratch, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        resource_tracker.ensure_running()  # before: it sets a signal mask of its own
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)  # the server inherits it
        try:
            # By way of /proc, because the path of a socket may have 107 bytes only (unix(7)).
            config["tempdir"] = f"/proc/{os.getpid()}/fd/{folder}"
            forkserver.ensure_running()
            if self._server._forkserver_address != self._address:
                self._hide_socket()
        finally:
            config["tempdir"] = before
            if before is None:
                del config["tempdir"]
            os.close(folder)
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    def _hide_socket(self) -> None:
        """Unlink the server's socket; a descriptor of it (O_PATH) is enough to connect to it."""
        address = self._server._forkserver_address
        self._close_socket()
        self._socket = os.open(address, os.O_PATH | os.O_CLOEXEC)
        os.unlink(address)
        self._server._forkserver_address = self._address = f"/proc/self/fd/{self._socket}"

    def _close_socket(self) -> None:
        if self._socket >= 0:
            os.close(self._socket)
        self._socket = -1

    def _stop_server(self) -> None:
        pid = self._server._forkserver_pid
        if pid is not None:
            os.kill(pid, signal.SIGKILL)  # it is a child of ours and not waited for: the pid is not another's
            self._server._forkserver_address = "\0"  # to `_stop`: there is nothing to unlink
            self._server._stop()
        self._address = ""
        self._close_socket()

    def stop(self) -> None:
        """End the server, and with it what it has forked."""
        if self._ours:
            self._stop_server()


def end_process(process: BaseProcess) -> None:
    """SIGKILL a process and let go of it; whatever it does at that moment."""
    process.kill()
    process.join(JOIN_SECONDS)
    if process.exitcode is not None:  # else it hangs in the kernel and ends when that lets it
        process.close()


# In the worker


def tie_to_main() -> None:
    """Have this worker die with its main process, even where it is stopped or hangs in a C function."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # a terminal sends them to all; the main process decides
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
    # A fork server's children hold its "alive" pipe too, which would keep it for as long as one of them is stopped.
    server = forkserver._forkserver
    if server._forkserver_alive_fd is not None:
        os.close(server._forkserver_alive_fd)
        server._forkserver_alive_fd = None
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    threading.Thread(target=_end_with_main, daemon=True, name="main watch").start()


def _end_with_main() -> None:
    connection.wait([parent_process().sentinel])
    os._exit(1)  # at once, also out of a long kernel: nothing keeps a device busy for nobody
