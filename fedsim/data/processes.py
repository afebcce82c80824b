"""Work on many independent parts in several processes that end with the one that started them."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from fedsim.errors import RunError

Part = TypeVar("Part")
Made = TypeVar("Made")


def in_processes(
    work: Callable[[Part], Made], parts: Sequence[Part], workers: int, what: str
) -> Iterator[Made]:
    """What `work` makes of each part, in any order.

    Args:
        work: a function of a module, so that any process can run it.
        parts: what it is called with.
        workers: processes; 1 works here, in order.
        what: such as "decodes images", for the message when a process died.

    Raises:
        RunError: a process died.
    """
    workers = min(workers, len(parts))
    if workers <= 1:
        yield from map(work, parts)
        return
    with ProcessPoolExecutor(workers, initializer=end_with_parent) as pool:
        futures = [pool.submit(work, part) for part in parts]
        try:
            for future in as_completed(futures):
                yield future.result()
        except BrokenProcessPool as error:
            raise RunError(
                f"a process that {what} died: out of memory, or killed. (Where Python starts "
                "processes by importing the script again, as on macOS, it must call fedsim below "
                "`if __name__ == '__main__':`.)"
            ) from error
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def end_with_parent() -> None:
    """Let this process end when the one that started it is gone, however that ended."""
    # Ctrl-C reaches all processes of a terminal; the parent ends this one in good order.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    parent = multiprocessing.parent_process()

    def wait() -> None:
        assert parent is not None
        parent.join()
        os._exit(1)

    if parent is not None:
        threading.Thread(target=wait, daemon=True).start()
