"""Fork server: a process that imports the heavy modules once and forks every worker.

    main process ── socket pair: requests ──► fork server ── fork ──► worker, worker, …
         ◄── a pipe for each worker: its pid, then its exit status ──┘

Nothing survives the main process, however it ends:

- Only the main process holds the other end of the server's socket. When it dies, the server reads the end of
  the stream and exits.
- Each worker has the kernel kill it when the server dies (PR_SET_PDEATHSIG of prctl(2)). This works even if the
  worker is stopped or hangs in a C function that holds the GIL.
- A terminal sends its signals to all processes of a group. The server blocks them: the main process decides.

The fork server of `multiprocessing` is not used. It creates a socket in the temp directory, which a killed run
leaves behind; it ignores a module of its preload list that fails to import, so that every worker imports torch
itself; it takes modules from the current directory; and it runs the caller's main script again in each worker.
"""

import ctypes
import importlib
import os
import pickle
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import NoReturn

from upscaling.common.memory_limits import memory_error

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
START_TRIES = 3
KILL_SECONDS = 3.0  # for a process to end after SIGKILL; one in an uninterruptible wait is left behind
MAX_REQUEST = 1 << 16  # bytes
MAX_DESCRIPTORS = 8  # in one request
PR_SET_PDEATHSIG = 1  # prctl(2)


class ForkServer:
    """The main process's side: starts the server when it is needed and asks it to fork workers."""

    def __init__(self, modules: Sequence[str], environment: Mapping[str, str] | None = None):
        """`modules` are imported once, in the server. If one fails to import, no worker starts.

        `environment` has variables for the server and its workers, beside those of this process.
        """
        self.modules, self.environment = tuple(modules), dict(environment or {})
        self._process: subprocess.Popen | None = None
        self._socket: socket.socket | None = None

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    def fork(self, target: Callable, args: tuple, descriptors: Sequence[int]) -> "WorkerProcess":
        """Fork a worker that calls `target(*args, *descriptors)`, with its own copies of the descriptors.

        Returns at once; the server forks when its imports are done. `target` must be importable by name: the
        caller's main script is not loaded in the worker. A server that was killed is started again.
        """
        request = pickle.dumps((target, args))
        status, remote_status = Pipe(duplex=False)
        with remote_status:
            for tries_left in reversed(range(START_TRIES)):
                server = self._socket or self._start()
                try:
                    socket.send_fds(server, [request], [remote_status.fileno(), *descriptors])
                    break
                except (BrokenPipeError, ConnectionResetError):  # the server is dead
                    self.stop()
                    if not tries_left:
                        status.close()
                        raise
        return WorkerProcess(status)

    def _start(self) -> socket.socket:
        self._socket, remote = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        code = (
            f"import sys; sys.path[:] = {_import_path()!a}; "
            f"from {__name__} import serve; serve({remote.fileno()}, {self.modules!r})"
        )
        # -P: the current directory is not searched for modules, not even for those that are imported at start-up.
        flags = ["-P", *["-E"] * sys.flags.ignore_environment, *["-s"] * sys.flags.no_user_site]
        with remote:
            mask = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)  # the server inherits it
            try:
                self._process = subprocess.Popen(
                    [sys.executable, *flags, "-c", code],
                    stdin=subprocess.DEVNULL,
                    pass_fds=[remote.fileno()],
                    env={**os.environ, **self.environment},
                )
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        return self._socket

    def stop(self) -> None:
        """End the server; the kernel kills the workers with it."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        if self._process is not None:
            self._process.kill()
            try:
                self._process.wait(KILL_SECONDS)
            except subprocess.TimeoutExpired:
                pass  # it hangs in the kernel and ends when that lets it
            self._process = None


def _import_path() -> list[str]:
    """Where this process finds modules, as absolute paths; and this package, even if the directory has changed."""
    package_parent = str(Path(__file__).resolve().parents[2])
    return list(dict.fromkeys([*map(os.path.abspath, sys.path), package_parent]))


class WorkerProcess:
    """A forked worker as the main process sees it."""

    def __init__(self, status: Connection):
        self.sentinel = status
        """For multiprocessing.connection.wait: readable when there is news, see `is_alive`."""
        self.pid: int | None = None
        """None until the server has forked the worker."""
        self.exit_code: int | None = None
        """As subprocess.Popen.returncode has it; None while the worker lives, and if the server died with it."""
        self.start_error = ""
        """Why the server did not fork the worker."""
        self._ended = False

    def is_alive(self) -> bool:
        """Take in what the server reported; return False if the worker has ended or the server died."""
        self._read(0)
        return not self._ended

    def _read(self, timeout: float) -> None:
        try:
            while not self._ended and self.sentinel.poll(timeout):
                news = self.sentinel.recv()
                if isinstance(news, str):
                    self.start_error, self._ended = news, True
                elif self.pid is None:
                    self.pid = news
                else:
                    self.exit_code, self._ended = news, True
        except (EOFError, OSError):
            self._ended = True

    def join(self, seconds: float) -> None:
        """Wait until the worker has ended, for at most that long."""
        deadline = time.monotonic() + seconds
        while not self._ended and (left := deadline - time.monotonic()) > 0:
            self._read(left)

    def kill(self) -> None:
        """Send SIGKILL. A worker that is not forked yet ends with the server only."""
        if self.is_alive() and self.pid is not None:
            try:
                os.kill(self.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass

    def close(self) -> None:
        self.sentinel.close()


# In the server


def serve(descriptor: int, modules: Sequence[str]) -> NoReturn:
    """Fork workers on request until the main process closes its end of the socket `descriptor`."""
    import_error = _import_modules(modules)
    status_pipes: dict[int, Connection] = {}  # by worker's pid

    def reap(*_) -> None:
        while status_pipes:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            with status_pipes.pop(pid) as pipe:
                _report(pipe, os.waitstatus_to_exitcode(status))

    signal.signal(signal.SIGCHLD, reap)
    with socket.socket(fileno=descriptor) as requests:
        while True:
            request, descriptors = _receive(requests)
            pipe = Connection(descriptors[0], readable=False)
            server_pid = os.getpid()
            # Blocked until the worker is entered in `status_pipes`: it may end before that.
            signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])
            forked = import_error or _fork()
            if forked == 0:
                requests.close()
                for other in (pipe, *status_pipes.values()):
                    other.close()  # so that these pipes end with the server
                _run_child(server_pid, request, descriptors[1:])
            _report(pipe, forked)
            if isinstance(forked, int):
                status_pipes[forked] = pipe
            else:
                pipe.close()
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGCHLD])
            _close(descriptors[1:])


def _fork() -> int | str:
    """fork(2): the worker's pid, 0 in the worker, or why there is none."""
    try:
        return os.fork()
    except OSError as error:  # no memory, or too many processes
        return f"cannot fork: {error.strerror}"


def _close(descriptors: Sequence[int]) -> None:
    for number in descriptors:
        os.close(number)


def _import_modules(modules: Sequence[str]) -> str:
    """Import them; return the error in one line, or nothing."""
    try:
        for name in modules:
            importlib.import_module(name)
    except Exception as error:  # a broken library raises whatever it likes
        found = memory_error(error)
        return str(found) if found else f"{type(error).__name__}: {' '.join(str(error).split())}"
    return ""


def _receive(requests: socket.socket) -> tuple[bytes, list[int]]:
    try:
        request, descriptors, _, _ = socket.recv_fds(requests, MAX_REQUEST, MAX_DESCRIPTORS, socket.MSG_CMSG_CLOEXEC)
    except OSError:
        request = b""
    if not request:
        os._exit(0)  # the main process is gone
    return request, descriptors


def _report(pipe: Connection, news: int | str) -> None:
    try:
        pipe.send(news)
    except OSError:
        pass  # the main process has let go of this worker


def _run_child(server_pid: int, request: bytes, descriptors: Sequence[int]) -> NoReturn:
    """In the worker: run the target and exit, with status 0 if it returns and 1 if it raises."""
    exit_code = 1
    try:
        _set_up_child(server_pid)
        target, args = pickle.loads(request)
        target(*args, *descriptors)
        exit_code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(exit_code)


def _set_up_child(server_pid: int) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # a terminal sends them to all; the main process decides
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [*STOP_SIGNALS, signal.SIGCHLD])
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != server_pid:  # the server died before the kernel was told
        os._exit(1)
