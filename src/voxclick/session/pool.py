"""Open sessions of many images and users, within a budget of memory."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from voxclick.session.session import InteractiveSession


@dataclass(eq=False)
class _Place:
    """Where a session is kept.

    Attributes:
        session: None until it is opened.
        version: of what it was opened from.
        users: threads that hold it or wait for it; with any, it is not closed.
        lock: held by the one thread that uses the session.
        memory_bytes: of the session, when it was last given back.
    """

    session: InteractiveSession | None = None
    version: Hashable = None
    users: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)
    memory_bytes: int = 0


class SessionPool:
    """Sessions that stay open between requests; any thread may ask for one.

    When they take more memory than the budget, those that were not used for the longest time are
    closed. A session in use stays open, so one that is alone larger than the budget works, too.

    Args:
        memory_bytes: of all sessions together, of main memory and of the GPU's.
    """

    def __init__(self, memory_bytes: int) -> None:
        self._budget = memory_bytes
        self._places: OrderedDict[Hashable, _Place] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """How many sessions are open."""
        with self._lock:
            return sum(place.session is not None for place in self._places.values())

    @contextmanager
    def lease(
        self, key: Hashable, version: Hashable, open_session: Callable[[], InteractiveSession]
    ) -> Iterator[InteractiveSession]:
        """A session for one thread, until the block ends; others that want it wait.

        Args:
            key: what the session is known by, such as the image and the user.
            version: of what it is opened from. A session of another version is closed, and a new
                one opened.
            open_session: makes it, where there is none. What it raises reaches the caller.
        """
        place = self._take(key)
        try:
            with place.lock:
                if place.session is None or place.version != version:
                    place.session = None  # room for the new one, before it is made
                    place.session, place.version = open_session(), version
                try:
                    yield place.session
                finally:
                    place.memory_bytes = place.session.memory_bytes
        finally:
            self._give_back(key, place)

    def close(self, which: Callable[[Hashable], bool] = lambda key: True) -> None:
        """Close sessions that nobody uses at the moment.

        Args:
            which: of them, by their keys; all without it.
        """
        with self._lock:
            for key in list(self._places):
                if self._places[key].users == 0 and which(key):
                    del self._places[key]

    def _take(self, key: Hashable) -> _Place:
        with self._lock:
            place = self._places.setdefault(key, _Place())
            self._places.move_to_end(key)
            place.users += 1
            return place

    def _give_back(self, key: Hashable, place: _Place) -> None:
        with self._lock:
            place.users -= 1
            if place.session is None and place.users == 0:
                del self._places[key]
            self._close_the_oldest()

    def _close_the_oldest(self) -> None:
        """Down to the budget, but for the session that was used last and those in use."""
        excess = sum(place.memory_bytes for place in self._places.values()) - self._budget
        for key in list(self._places)[:-1]:
            if excess <= 0:
                return
            if self._places[key].users == 0:
                excess -= self._places.pop(key).memory_bytes
