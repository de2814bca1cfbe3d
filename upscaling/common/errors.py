"""The errors that a person can act on: each one line, each with the exit status that it ends the command with."""

import errno
import signal


class UpscaleError(Exception):
    """The job failed; rerun the same command to resume (exit status 1).

    The message is one line that says what is wrong and what to do.
    """

    exit_status = 1


class InputError(UpscaleError):
    """Bad usage or bad input; nothing was touched (exit status 2)."""

    exit_status = 2


class BusyError(UpscaleError):
    """Another run holds this job (exit status 75, EX_TEMPFAIL of sysexits.h)."""

    exit_status = 75


class Stopped(UpscaleError):
    """A signal asked the run to end; everything done is kept (exit status 128 + the signal's number)."""

    def __init__(self, number: int):
        super().__init__(f"stopped by {signal.Signals(number).name}; everything done is kept")
        self.exit_status = 128 + number


def full_disk(error: BaseException) -> str | None:
    """The line for an error that means a full disk, quota or file size limit; None for any other."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return f"no space left to write to ({error.strerror}); free some, then rerun to resume"
    return None
