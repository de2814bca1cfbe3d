"""What is told of everything that a run reports: the report of --report is one."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from upscaling.pipeline.plan import Plan
    from upscaling.pipeline.stages import Look, RunCounts


class Watcher:
    """Is told of a run's events in their order; this one does nothing. Facts are those of the events of Progress."""

    def folder(self, files: int) -> None:
        """A run over many files begins, of which so many are due."""

    def file_begins(self, facts: dict) -> None:
        """The next file of a run over many begins: `input` and `output`."""

    def start(self, facts: dict) -> None:
        """A job begins."""

    def plan(self, plan: "Plan") -> "Look | None":
        """What the job that has begun will do; what is returned looks at its frames in the encode thread."""

    def line(self, level: int, line: str) -> None:
        """A line for the user, of the logging level INFO or WARNING."""

    def show(self, counts: "RunCounts", rows) -> None:
        """Called a few times a second with the counts and the rows of the status array."""

    def file(self, facts: dict) -> None:
        """A file of a run over many has ended, or there is nothing to do for it."""

    def done(self, facts: dict) -> None:
        """The run has succeeded, or all files of a run over many have ended."""

    def failed(self, message: str, exit_status: int) -> None:
        """The run has failed, or a signal has ended it."""

    def finish(self) -> None:
        """Nothing more will be reported."""
