"""The retry policy, as a table: who is to blame for a worker's death, and how often a manifest may fail."""

from pathlib import Path

import pytest

from upscaling.workers.retry import RetryPolicy

A, B = Path("a"), Path("b")


@pytest.mark.parametrize(
    ("outstanding", "loaded", "reported", "to_blame", "suspects"),
    [
        ([], True, False, None, set()),  # died while it had nothing to do
        ([A], True, False, A, {A}),
        ([A, B], True, False, A, {A, B}),  # the first is in progress; the second may have been, too
        ([B], True, True, None, {B}),  # it named its manifest before: B came after that one
        ([A, B], False, False, None, set()),  # died while it loaded its model
        ([A], False, True, None, set()),
    ],
)
def test_who_is_to_blame(outstanding, loaded, reported, to_blame, suspects):
    policy = RetryPolicy()
    assert policy.record_death(outstanding, loaded, reported) == to_blame
    assert {path for path in (A, B) if policy.is_suspect(path)} == suspects


def test_a_manifest_may_fail_twice():
    policy = RetryPolicy()
    assert [policy.record_failure(A) for _ in range(3)] == [True, True, False]
    assert policy.record_failure(B)


def test_being_a_suspect_is_no_failure():
    policy = RetryPolicy()
    for _ in range(9):
        policy.record_death([A, B], loaded=True, reported=False)
    assert policy.is_suspect(B)
    assert [policy.record_failure(B) for _ in range(3)] == [True, True, False]


def test_a_worker_may_fail_to_start_twice():
    assert [RetryPolicy().may_restart(failed_starts) for failed_starts in range(4)] == [True, True, True, False]


def test_clear_forgets_everything():
    policy = RetryPolicy()
    policy.record_failure(A)
    policy.clear()
    assert not policy.is_suspect(A)
    assert [policy.record_failure(A) for _ in range(3)] == [True, True, False]
