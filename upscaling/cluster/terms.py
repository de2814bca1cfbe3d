"""What a job's coordinator asks of its tasks, on whatever node they run: read, checked, and fitted to the node."""

import os
import socket
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from upscaling.cluster import claims
from upscaling.cluster.claims import SETTINGS, TASKS, TOKEN
from upscaling.common.devices import cuda_device_count
from upscaling.common.errors import InputError, UpscaleError
from upscaling.frames.settings import LANCZOS, ModelSettings

NOT_SHARED = 3  # exit status of a task whose node does not see the coordinator's work directory


class NotSharedError(UpscaleError):
    """This node does not see what the coordinator wrote."""

    exit_status = NOT_SHARED


@dataclass(frozen=True)
class Terms:
    """What a coordinator asks of its tasks: JSON in the work directory.

    `model` are the fields of settings.ModelSettings, its device "auto", "cpu" or "cuda". A task writes its
    status every `beat` seconds and ends when the coordinator was silent for `patience` seconds.
    """

    model: Mapping
    beat: float
    patience: float


def not_shared(job: Path) -> str:
    """What the coordinator says where no task sees its work directory."""
    return (
        f"the nodes do not see {job}: a work directory for --slurm must lie on storage that all nodes share; "
        "choose one with --work-dir"
    )


def write_terms(job: Path, token: str, terms: Terms) -> None:
    """Coordinator: the terms into the work directory; the token last, for it is what tasks look for."""
    claims.put_json(job / TASKS / SETTINGS, asdict(terms))
    claims.put(job / TASKS / TOKEN, token + "\n")


def take_terms(job: Path, token: str = "", seconds: float = claims.SEEN_SECONDS) -> tuple[Terms, str]:
    """(the coordinator's terms, its token); NotSharedError where they are not seen here.

    `token` is what the coordinator handed over by another way than the storage: it must be the one that lies
    in the work directory, or that is another directory of the same name. Empty: any.
    """
    node = socket.gethostname()
    if claims.wait_until_seen([job / TASKS / TOKEN, job / TASKS / SETTINGS], seconds):
        raise NotSharedError(
            f"node {node} does not see the job in {job}: a work directory for --slurm must lie on storage that "
            "all nodes share; choose one with --work-dir"
        )
    found = claims.read_token(job)
    if not found or token not in ("", found):
        raise NotSharedError(
            f"node {node} sees another {job} than the coordinator does: it is not on storage that all nodes share, "
            "or another run has taken it over"
        )
    content = claims.read_json(job / TASKS / SETTINGS)
    try:
        terms = Terms(dict(content["model"]), float(content["beat"]), float(content["patience"]))
    except (KeyError, TypeError, ValueError) as error:
        raise UpscaleError(f"{job / TASKS / SETTINGS} is damaged; start the job again") from error
    return terms, found


def slurm_threads() -> int:
    """CPU threads of this task: its share by Slurm, else the cores that it may use."""
    share = os.environ.get("SLURM_CPUS_PER_TASK") or os.environ.get("SLURM_CPUS_ON_NODE") or ""
    cores = len(os.sched_getaffinity(0))
    return max(1, min(int(share), cores)) if share.isascii() and share.isdigit() else cores


def task_settings(terms: Terms) -> ModelSettings:
    """The model on this node's device: the GPU that the task sees, else the CPU with the task's share of cores."""
    try:
        asked = ModelSettings(**terms.model)
    except TypeError as error:
        raise UpscaleError(f"the job's settings are of another version of this program ({error})") from error
    gpu = asked.model != LANCZOS and asked.device != "cpu" and cuda_device_count() > 0
    if asked.device == "cuda" and asked.model != LANCZOS and not gpu:
        raise InputError('--device cuda: the task sees no GPU; ask for one with --sbatch "--gres=gpu:1"')
    return replace(asked, device="cuda:0" if gpu else "cpu", threads=slurm_threads())
