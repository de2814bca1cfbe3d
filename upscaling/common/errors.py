"""Errors that a user can act on. Each has a message of one line and the exit status of the command."""

import errno
import signal


class UpscaleError(Exception):
    """The job failed; rerun the same command to resume (exit status 1).

    The message is one line: what happened and what to do.
    """

    exit_status = 1


class InputError(UpscaleError):
    """Bad usage or bad input; nothing was touched (exit status 2)."""

    exit_status = 2


class UnsuitableInput(InputError):
    """An input that gives no result with these options however often it is tried, such as sound without a video."""


class BusyError(UpscaleError):
    """Another run holds this job (exit status 75, EX_TEMPFAIL of sysexits.h)."""

    exit_status = 75


class Stopped(UpscaleError):
    """A signal stopped the run; everything done is kept (exit status 128 + the signal's number)."""

    def __init__(self, number: int):
        super().__init__(f"stopped by {signal.Signals(number).name}; everything done is kept")
        self.exit_status = 128 + number


def full_disk(error: BaseException) -> str | None:
    """The message for an error that means a full disk, quota or file size limit; None for other errors."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return f"no disk space left ({error.strerror}); free some, then rerun to resume"
    return None
