"""The window of frames between the decode and the encode stage, and the token that stops it."""

import threading

from upscaling.pipeline.window import ENTRIES_PER_FRAME, Entry, StopToken, Window


def entry(number, repeated=False, complete=False):
    return Entry(number, number * 10, repeated, repeated or complete)


def has_room(window):
    """Whether a frame may be stored now, without waiting."""
    with window.stop.changed:
        return window._has_room()


def test_capacity_counts_stored_frames_but_not_repeated_ones():
    window = Window(3, StopToken())
    for number in (1, 2):
        window.add(entry(number))
    for number in (3, 4, 5):
        window.add(entry(number, repeated=True))
    assert has_room(window)
    window.add(entry(6))
    assert not has_room(window)
    window.complete([1])
    window.release(window.take())
    assert has_room(window)


def test_repeated_frames_are_bounded_too():
    window = Window(2, StopToken())
    window.add(entry(1))
    for number in range(2, 2 * ENTRIES_PER_FRAME + 1):
        assert has_room(window)
        window.add(entry(number, repeated=True))
    assert not has_room(window)


def test_frames_are_taken_in_presentation_order():
    window = Window(9, StopToken())
    taken = []

    def encode():
        while (one := window.take()) is not None:
            taken.append(one.number)
            window.release(one)

    thread = threading.Thread(target=encode)
    thread.start()
    for number in (1, 2, 3, 4):
        window.add(entry(number, repeated=number == 3))
    window.end()
    for number in (4, 2, 1):
        window.complete([number])
    thread.join(30)
    assert not thread.is_alive() and taken == [1, 2, 3, 4]


def test_after_a_stop_only_complete_frames_are_taken_until_the_deadline():
    window = Window(9, StopToken())
    for number in (1, 2):
        window.add(entry(number, complete=number == 1))
    window.stop.set(30)
    window.release(window.take())
    assert window.take() is None and not window.wait_for_room()
    late = Window(9, StopToken())
    late.add(entry(1, complete=True))
    late.stop.set(-1)
    assert late.take() is None


def test_the_first_error_and_the_first_deadline_count():
    stop = StopToken()
    assert not stop.is_set and not stop.is_overdue
    first = ValueError()
    stop.set(-1, first)
    stop.set(1000, KeyError())
    assert stop.error is first and stop.is_set and stop.is_overdue
