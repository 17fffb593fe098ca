"""The pool of open sessions; what it holds need not be real ones."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any, cast

import pytest

from voxclick.session import InteractiveSession, SessionPool


@dataclass(eq=False)
class Opened:
    """As much of a session as a pool looks at."""

    memory_bytes: int = 10


class Opener:
    """Opens sessions, and counts them."""

    def __init__(self, memory_bytes: int = 10) -> None:
        self.count = 0
        self._memory_bytes = memory_bytes

    def __call__(self) -> InteractiveSession:
        self.count += 1
        return cast(InteractiveSession, Opened(self._memory_bytes))


def use(pool: SessionPool, key: str, opener: Any, version: int = 0) -> object:
    with pool.lease(key, version, opener) as session:
        return session


def test_a_session_stays_open():
    pool, opener = SessionPool(100), Opener()
    assert use(pool, "a", opener) is use(pool, "a", opener)
    assert use(pool, "a", opener) is not use(pool, "b", opener)
    assert opener.count == 2
    assert len(pool) == 2


def test_another_version_is_opened_anew():
    pool, opener = SessionPool(100), Opener()
    first = use(pool, "a", opener, version=1)
    second = use(pool, "a", opener, version=2)
    assert second is not first
    assert use(pool, "a", opener, version=2) is second
    assert len(pool) == 1


def test_the_longest_unused_is_closed_first():
    pool, opener = SessionPool(25), Opener(10)
    a, b = use(pool, "a", opener), use(pool, "b", opener)
    assert use(pool, "a", opener) is a
    use(pool, "c", opener)
    assert len(pool) == 2
    assert use(pool, "a", opener) is a
    assert use(pool, "b", opener) is not b


def test_what_is_larger_than_the_budget_works_alone():
    pool, opener = SessionPool(5), Opener(10)
    a = use(pool, "a", opener)
    assert use(pool, "a", opener) is a
    use(pool, "b", opener)
    assert len(pool) == 1


def test_a_session_in_use_is_not_closed():
    pool, opener = SessionPool(0), Opener(10)
    with pool.lease("a", 0, opener):
        use(pool, "b", opener)
        use(pool, "c", opener)
        assert len(pool) == 2  # b is gone, though a is older
    assert len(pool) == 1
    use(pool, "c", opener)
    assert opener.count == 3


def test_a_failure_of_its_user_does_not_close_a_session():
    pool, opener = SessionPool(100), Opener()
    with pytest.raises(RuntimeError), pool.lease("a", 0, opener):
        raise RuntimeError
    use(pool, "a", opener)
    assert opener.count == 1


def test_growth_of_an_open_session_counts():
    pool, opener = SessionPool(30), Opener(10)
    use(pool, "a", opener)
    with pool.lease("b", 0, opener) as session:
        cast(Opened, session).memory_bytes = 25
    assert len(pool) == 1
    use(pool, "b", opener)
    assert opener.count == 2


def test_what_cannot_be_opened_is_not_kept():
    pool = SessionPool(100)

    def fails() -> InteractiveSession:
        raise ValueError("no such image")

    for _ in range(2):
        with pytest.raises(ValueError, match="no such image"):
            use(pool, "a", fails)
    assert len(pool) == 0
    use(pool, "a", Opener())
    with pytest.raises(ValueError, match="no such image"):
        use(pool, "a", fails, version=1)
    assert len(pool) == 0


def test_threads_take_turns():
    pool, opener = SessionPool(100), Opener()
    inside, most = 0, 0

    def work() -> None:
        nonlocal inside, most
        for _ in range(200):
            with pool.lease("a", 0, opener):
                inside += 1
                most = max(most, inside)
                inside -= 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1
    assert opener.count == 1


def test_sessions_are_closed_by_their_keys_unless_in_use():
    pool, opener = SessionPool(100), Opener()
    for key in ("a1", "a2", "b1"):
        use(pool, key, opener)
    with pool.lease("a1", 0, opener):
        pool.close(lambda key: str(key).startswith("a"))
        assert len(pool) == 2
    pool.close()
    assert len(pool) == 0
