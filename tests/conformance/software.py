# SPDX-License-Identifier: Apache-2.0
"""Software block managers and the requests of a serving stack, to make recordings from.

Written from the meaning of the format's operations, knowing nothing of the controller: :class:`Pool` gives
blocks in the order in which they came back; :class:`LastInPool` gives what came back last, and evicts cached
blocks only when nothing else is free. ``python tests/conformance/software.py --seed 1`` writes a recording.
"""

import argparse
import itertools
import json
import random
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any


class Exhausted(Exception):
    """There are fewer free blocks than are wanted."""


class Pool:
    """Blocks 1 to n - 1: a queue of free ones, counts, and for cached ones their contents' names."""

    def __init__(self, n: int):
        self.n = n
        self.queue = list(range(1, n))
        self.count = [0] * n
        self.content: list[Any] = [None] * n
        self.by_content: dict[Any, int] = {}

    def forget(self, block: int) -> None:
        if self.by_content.get(self.content[block]) == block:
            del self.by_content[self.content[block]]
        self.content[block] = None

    def choose(self) -> int:
        return self.queue.pop(0)

    def alloc(self, n: int) -> list[int]:
        if n > len(self.queue):
            raise Exhausted
        blocks = []
        for _ in range(n):
            block = self.choose()
            self.forget(block)
            self.count[block] = 1
            blocks.append(block)
        return blocks

    def touch(self, block: int) -> None:
        if self.count[block] == 0:
            self.queue.remove(block)
        self.count[block] += 1

    def seal(self, block: int, content: Any) -> None:
        if self.content[block] is None:
            self.content[block] = content
            self.by_content.setdefault(content, block)

    def release(self, block: int) -> None:
        self.count[block] -= 1
        if self.count[block] == 0:
            self.queue.append(block)

    def reset(self) -> bool:
        if any(self.count[1:]):
            return False
        self.content, self.by_content = [None] * self.n, {}
        return True


class LastInPool(Pool):
    """Takes the block that came back last; of the cached ones, when nothing else is left, the oldest."""

    def choose(self) -> int:
        fresh = [block for block in self.queue if self.content[block] is None]
        block = fresh[-1] if fresh else self.queue[0]
        self.queue.remove(block)
        return block


REFUSALS: tuple[dict[str, Any], ...] = (
    {"ret": None},
    {"ret": []},
    {},
    {"error": "no free blocks"},
    {"ret": None, "error": "no free blocks"},
    {"ok": False},
)
"""Ways in which a recording may say that there were too few blocks."""


class Recorder:
    """Does operations on a pool and writes them down."""

    def __init__(self, pool: Pool, ops: list[dict[str, Any]], number: int, rng: random.Random, counted: bool):
        self.pool, self.ops, self.number, self.rng = pool, ops, number, rng
        self.counted = counted
        self.names = itertools.count()
        self.write("INIT", state=False, n=pool.n)

    def write(self, op: str, state: bool = True, **fields: Any) -> None:
        pool = self.pool
        entry = {"op": op, **fields}
        if state:
            if self.counted:
                entry["nfree"] = len(pool.queue)
            else:
                entry["free"] = list(pool.queue)
            entry["ref"] = list(pool.count)
            entry["cached"] = [content is not None for content in pool.content]
        self.ops.append({**entry, "pool": self.number})

    def alloc(self, n: int) -> list[int] | None:
        try:
            blocks = self.pool.alloc(n)
        except Exhausted:
            self.write("ALLOC", n=n, **self.rng.choice(REFUSALS))
            return None
        self.write("ALLOC", n=n, ret=list(blocks))
        return blocks

    def share(self, groups: list[list[int]]) -> None:
        for block in itertools.chain(*groups):
            if block:
                self.pool.touch(block)
        self.write("SHARE", blk=[list(group) for group in groups])

    def seal(self, blocks: list[int], contents: Iterable[Any]) -> None:
        for block, content in zip(blocks, contents, strict=True):
            if block:
                self.pool.seal(block, content)
        self.write("SEAL", state=False, blk=list(blocks))

    def free(self, blocks: list[int]) -> None:
        for block in blocks:
            if block:
                self.pool.release(block)
        self.write("FREE", blk=list(blocks))

    def reset(self) -> None:
        self.write("RESET", state=False, ok=self.pool.reset())


class Request:
    """A request with a table per cache group. ``first`` entries of a table are placeholders by now."""

    def __init__(self, contents: list[Any], groups: int):
        self.contents = contents
        self.tables: list[list[int]] = [[] for _ in range(groups)]
        self.sealed = 0


class Server:
    """Requests on one pool: prefixes are found again, tables grow, windows slide, requests fork and end."""

    def __init__(self, recorder: Recorder, groups: int, window: int | None, rng: random.Random):
        self.recorder, self.groups, self.window, self.rng = recorder, groups, window, rng
        self.pool = recorder.pool
        self.requests: list[Request] = []
        self.longest = min(self.pool.n // 2, max(8, self.pool.n // 6))
        self.families = [[(family, place) for place in range(self.longest)] for family in range(3)]

    def step(self) -> None:
        rng = self.rng
        actions: list[tuple[float, Callable[[], None]]] = [
            (5, self.begin),
            (6, self.grow),
            (2, self.slide),
            (2, self.fork),
            (3, self.end),
            (1, self.end_together),
            (0.7, self.seal_again),
            (0.5, self.borrow),
            (0.3, self.recorder.reset),
            (0.5, self.ask_too_much),
            (0.1, self.drain),
        ]
        weights, functions = zip(*actions, strict=True)
        rng.choices(functions, weights)[0]()

    def cached(self, content: Any, group: int) -> int | None:
        return self.pool.by_content.get((group, content))

    def begin(self) -> None:
        """A new request: the prefix that all groups know is shared, the rest allocated."""
        rng = self.rng
        family = rng.choice(self.families)
        full = rng.randint(0, self.longest)
        contents = family[: rng.randint(0, full)]
        contents += [(next(self.recorder.names), place) for place in range(full - len(contents))]
        request = Request(contents, self.groups)
        hit = 0
        while hit < full and all(self.cached(contents[hit], group) for group in range(self.groups)):
            hit += 1
        shared = [[self.cached(content, group) for content in contents[:hit]] for group in range(self.groups)]
        for group, table in enumerate(shared):
            if group and self.window:
                # Only the window's blocks matter; those before are placeholders.
                table[: max(0, hit - self.window)] = [0] * max(0, hit - self.window)
        if hit or rng.random() < 0.5:
            self.recorder.share(shared)
        missing = full - hit + rng.randint(0, 1)
        request.tables = shared
        for table in shared:
            blocks = self.recorder.alloc(missing) if missing or rng.random() < 0.1 else []
            if blocks is None:
                self.release(request)
                return
            table += blocks
        request.sealed = hit
        self.requests.append(request)
        self.seal(request, full)

    def seal(self, request: Request, full: int) -> None:
        for group, table in enumerate(request.tables):
            places = list(range(request.sealed, min(full, len(table))))
            if self.rng.random() < 0.3:
                self.rng.shuffle(places)
            self.recorder.seal(
                [table[place] for place in places], [(group, request.contents[place]) for place in places]
            )
        request.sealed = max(request.sealed, full)

    def grow(self) -> None:
        """Some more tokens: what is full is sealed, and a block added."""
        if not self.requests:
            return
        request = self.rng.choice(self.requests)
        held = len(request.tables[0])
        while len(request.contents) < held:
            request.contents.append((next(self.recorder.names), len(request.contents)))
        added = self.rng.choice((0, 1, 1, 2))
        for table in request.tables:
            blocks = self.recorder.alloc(added) if added else []
            if blocks is None:
                self.end(request)
                return
            table += blocks
        self.seal(request, held if self.rng.random() < 0.7 else request.sealed)

    def slide(self) -> None:
        """Leading blocks of a group go while later ones live."""
        rng = self.rng
        if not self.requests:
            return
        request = rng.choice(self.requests)
        for table in request.tables:
            end = rng.randint(0, len(table))
            dead = [block for block in table[:end] if block]
            table[:end] = [0] * end
            self.recorder.free(dead[::-1])

    def fork(self) -> None:
        """Another request has the same blocks, sealed or not; sometimes many."""
        rng = self.rng
        if not self.requests:
            return
        request = rng.choice(self.requests)
        for _ in range(rng.choice((1, 1, 2, 5))):
            copy = Request(list(request.contents), self.groups)
            copy.sealed = request.sealed
            low = rng.choice((0, 0, rng.randint(0, len(request.tables[0]))))
            copy.tables = [[0] * low + table[low:] for table in request.tables]
            self.recorder.share([list(table) for table in copy.tables])
            self.requests.append(copy)

    def release(self, request: Request) -> None:
        rng = self.rng
        for table in request.tables:
            order = table[::-1]
            if rng.random() < 0.2:
                rng.shuffle(order)
            if rng.random() < 0.2:
                middle = rng.randint(0, len(order))
                self.recorder.free(order[:middle])
                order = order[middle:]
            self.recorder.free(order)

    def end(self, request: Request | None = None) -> None:
        if self.requests:
            request = request or self.rng.choice(self.requests)
            self.requests.remove(request)
            self.release(request)

    def end_together(self) -> None:
        """One list with the blocks of several requests and groups, some of them twice."""
        count = self.rng.randint(0, min(3, len(self.requests)))
        ended = self.rng.sample(self.requests, count)
        blocks = [block for request in ended for table in request.tables for block in table[::-1]]
        if self.rng.random() < 0.5:
            self.rng.shuffle(blocks)
        self.requests = [request for request in self.requests if request not in ended]
        self.recorder.free(blocks)

    def seal_again(self) -> None:
        if self.requests:
            request = self.rng.choice(self.requests)
            table = request.tables[0][: request.sealed]
            self.recorder.seal(table, [(0, content) for content in request.contents[: len(table)]])

    def borrow(self) -> None:
        """A list with a cached block twice, which goes again at once."""
        cached = [block for block in range(1, self.pool.n) if self.pool.content[block] is not None]
        if cached:
            block = self.rng.choice(cached)
            self.recorder.share([[block, 0, block], [block]])
            self.recorder.free([block, block, 0, block])

    def ask_too_much(self) -> None:
        self.recorder.alloc(len(self.pool.queue) + self.rng.choice((1, 1, 5, self.pool.n, 10**6)))

    def drain(self) -> None:
        while self.requests:
            self.end()
        self.recorder.reset()


def recording(
    seed: int, tests: int = 4, steps: int = 60, most_blocks: int = 40, counted: bool = False
) -> Iterator[dict[str, Any]]:
    """Tests of a recording, as they are written into its lines.

    ``counted``: only the number of free blocks is told, and the pools are of the other kind.
    """
    for test in range(tests):
        rng = random.Random(f"recording {seed} {test}")
        ops: list[dict[str, Any]] = []
        pools = rng.choice((1, 1, 2, 3))
        servers = []
        for number in range(pools):
            n = rng.choice((2, rng.randint(3, most_blocks), rng.randint(3, most_blocks), most_blocks))
            recorder = Recorder((LastInPool if counted else Pool)(n), ops, number, rng, counted)
            groups = rng.choice((1, 1, 2, 3))
            servers.append(Server(recorder, groups, rng.choice((None, 2)), rng))
        for _ in range(steps * pools):
            rng.choice(servers).step()
        yield {"test": f"seed {seed}, test {test}", "ops": ops}


def text(tests: Iterable[dict[str, Any]]) -> str:
    return "".join(json.dumps(test) + "\n" for test in tests)


def main() -> None:
    parser = argparse.ArgumentParser(description="Writes a recording of block-manager operations.")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--tests", type=int, default=4)
    parser.add_argument("--steps", type=int, default=60, help="steps per pool of a test")
    parser.add_argument("--blocks", type=int, default=40, help="size of the largest pools")
    parser.add_argument("--counted", action="store_true", help="nfree instead of free, another free order")
    args = parser.parse_args()
    sys.stdout.write(text(recording(args.seed, args.tests, args.steps, args.blocks, args.counted)))


if __name__ == "__main__":
    main()
