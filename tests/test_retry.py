"""The retry policy, as a table: who is to blame for a worker's death, and how often a manifest may fail."""

from pathlib import Path

import pytest

from upscaling.workers.retry import MAX_FRUITLESS, TOGETHER_SECONDS, Death, RetryPolicy, Verdict

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
    assert policy.to_blame(outstanding, loaded, reported) == to_blame
    assert {path for path in (A, B) if policy.is_suspect(path)} == suspects


def test_a_manifest_may_fail_twice():
    policy = RetryPolicy()
    assert [policy.record_failure(A) for _ in range(3)] == [True, True, False]
    assert policy.record_failure(B)


def test_being_a_suspect_is_no_failure():
    policy = RetryPolicy()
    for _ in range(9):
        policy.to_blame([A, B], loaded=True, reported=False)
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


def verdicts(*deaths: Death) -> list[Verdict]:
    policy = RetryPolicy()
    for death in deaths:
        policy.record_death(death)
    assert policy.judge(deaths[0].time + TOGETHER_SECONDS / 2) is None  # another worker may die yet
    assert all(policy.is_unjudged(death.worker) for death in deaths)
    found = list(iter(lambda: policy.judge(deaths[-1].time + TOGETHER_SECONDS), None))
    assert not policy.deaths
    return found


def test_a_worker_that_dies_alone_counts_and_those_that_die_together_do_not():
    alone, soon, late = Death(0, A, "", 5.0), Death(1, B, "", 5.1), Death(1, B, "", 6.0)
    assert verdicts(alone) == [Verdict((alone,), False)]
    assert verdicts(alone, soon) == [Verdict((alone, soon), True)]
    assert verdicts(alone, late) == [Verdict((alone,), False), Verdict((late,), False)]


def test_a_worker_that_dies_with_the_fork_server_does_not_count():
    death = Death(0, A, "", 5.0, with_server=True)
    assert verdicts(death) == [Verdict((death,), True)]


def test_deaths_together_are_forgiven_as_long_as_there_is_progress():
    policy = RetryPolicy()

    def rounds(count: int) -> None:
        for _ in range(count):
            policy.record_death(Death(0, A, "", 0.0, with_server=True))
            policy.judge(1.0)

    rounds(MAX_FRUITLESS - 1)
    assert policy.may_go_on()
    policy.record_progress()
    rounds(MAX_FRUITLESS - 1)
    assert policy.may_go_on()
    rounds(1)
    assert not policy.may_go_on()
