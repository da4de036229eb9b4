"""What moves orders goes before what only tells of them, for a bounded time."""

import threading
import time

from shared.messaging.right_of_way import RightOfWay


class TestRightOfWay:
    def test_a_background_delivery_starts_when_nothing_is_ahead_any_more(self) -> None:
        way = RightOfWay(patience_seconds=30)
        order: list[str] = []
        waiting = threading.Event()

        def background() -> None:
            waiting.set()
            with way.behind():
                order.append("behind")

        with way.ahead():
            thread = threading.Thread(target=background)
            thread.start()
            waiting.wait(5)
            time.sleep(0.05)
            order.append("ahead")
        thread.join(5)
        assert order == ["ahead", "behind"]

    def test_it_does_not_wait_for_ever(self) -> None:
        way = RightOfWay(patience_seconds=0.05)
        with way.ahead(), way.behind():
            pass

    def test_of_two_that_come_together_it_is_the_second_even_if_it_came_first(self) -> None:
        way = RightOfWay(patience_seconds=30, calm_seconds=0.5)
        order: list[str] = []
        waiting = threading.Event()

        def background() -> None:
            waiting.set()
            with way.behind():
                order.append("behind")

        thread = threading.Thread(target=background)
        thread.start()
        waiting.wait(5)
        with way.ahead():
            order.append("ahead")
        thread.join(5)
        assert order == ["ahead", "behind"]

    def test_with_nothing_ahead_it_only_waits_for_a_moment(self) -> None:
        way = RightOfWay(patience_seconds=3600)
        with way.behind():
            pass

    def test_what_failed_ahead_is_not_waited_for(self) -> None:
        way = RightOfWay(patience_seconds=3600)
        try:
            with way.ahead():
                raise ValueError
        except ValueError:
            pass
        with way.behind():
            pass
