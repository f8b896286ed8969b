import threading

from beam_jobs.io.idle import IdleCache


def test_what_is_parked_can_be_taken_once() -> None:
    closed: list[str] = []
    cache = IdleCache(closed.append)
    cache.park("key", "a")
    assert cache.take("key") == "a"
    assert cache.take("key") is None
    assert closed == []


def test_what_is_replaced_or_discarded_is_closed() -> None:
    closed: list[str] = []
    cache = IdleCache(closed.append)
    cache.park("key", "a")
    cache.park("key", "b")
    assert closed == ["a"]
    cache.discard("key", "a")  # no longer the one that is parked
    assert closed == ["a"]
    cache.discard("key", "b")
    assert closed == ["a", "b"]
    cache.park("key", "c")
    cache.close_all()
    assert closed == ["a", "b", "c"]
    assert len(cache) == 0


def test_what_nobody_takes_is_closed_after_a_while() -> None:
    closed = threading.Event()
    cache: IdleCache[str] = IdleCache(lambda thing: closed.set(), idle_s=0.05)
    cache.park("key", "a")
    assert closed.wait(10)
    assert cache.take("key") is None


def test_a_failing_close_does_not_stop_the_others() -> None:
    closed: list[str] = []

    def close(thing: str) -> None:
        if thing == "bad":
            raise RuntimeError("cannot close")
        closed.append(thing)

    cache = IdleCache(close)
    cache.park(1, "bad")
    cache.park(2, "good")
    cache.close_all()
    assert closed == ["good"]
