"""Batches placed on the device ahead of the step that needs them."""

import queue
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Generic, TypeVar

__all__ = ["Prefetch", "prefetch"]

T = TypeVar("T")
_Queue = queue.Queue[tuple[Any, BaseException | None]]


class Prefetch(Generic[T]):
    """An iterator over placed batches, filled by one thread; made by `prefetch`."""

    def __init__(self, iterator: Iterator[Any], place: Callable[[Any], T], depth: int):
        self._placed: _Queue = queue.Queue(depth)
        self._stopped = threading.Event()
        weakref.finalize(self, self._stopped.set)
        self._thread = threading.Thread(
            target=_fill,
            args=(iterator, place, self._placed, self._stopped),
            name="jaxflow-prefetch",
            daemon=True,
        )
        self._thread.start()

    def __iter__(self) -> "Prefetch[T]":
        return self

    def __next__(self) -> T:
        if self._stopped.is_set():
            raise StopIteration
        batch, error = self._placed.get()
        if error is not None:
            self.close()
            raise error
        return batch

    def close(self) -> None:
        """Stop the thread and let go of what it held; further batches are refused."""
        self._stopped.set()
        while not self._placed.empty():
            self._placed.get_nowait()
        if self._thread is not threading.current_thread():
            self._thread.join(timeout=5.0)

    def __enter__(self) -> "Prefetch[T]":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _fill(
    iterator: Iterator[Any],
    place: Callable[[Any], Any],
    placed: _Queue,
    stopped: threading.Event,
) -> None:
    try:
        for batch in iterator:
            if not _put(placed, (place(batch), None), stopped):
                return
        _put(placed, (None, StopIteration()), stopped)
    except BaseException as error:
        _put(placed, (None, error), stopped)


def _put(placed: _Queue, entry: tuple[Any, BaseException | None], stopped: threading.Event) -> bool:
    while not stopped.is_set():
        try:
            placed.put(entry, timeout=0.1)
        except queue.Full:
            continue
        return True
    return False


def prefetch(iterator: Iterable[Any], place: Callable[[Any], T], depth: int = 2) -> Prefetch[T]:
    """Place batches on the device in the background, at most `depth` of them ahead.

    Args:
        iterator: host batches. It runs ahead of the step, so a resumed run starts it at the number
            of batches that were taken, not at its own position.
        place: a host batch to a device batch, such as `jax.device_put`.
        depth: batches that wait on the device.

    Returns:
        An iterator, also a context manager; `close()` stops it. An error of `iterator` or `place`
        is raised where the batch would have been taken.

    Raises:
        ValueError: for a depth below one.

    >>> list(prefetch([1, 2, 3], lambda batch: 10 * batch))
    [10, 20, 30]
    """
    if depth < 1:
        raise ValueError(f"depth = {depth}: at least one batch must fit ahead of the step")
    return Prefetch(iter(iterator), place, depth)
