"""The grid where a program takes a concurrent.futures.Executor, step by step, as in a notebook.

    python examples/executor.py             # with the Gridfile here or above, or where $GRIDCTL_GRIDFILE says

It calls tasks of examples/hello: `scripts/demo` leaves a grid that serves them.
"""

# %% Connect. The tasks are on the grid already; no code of this file goes there.
import concurrent.futures
import time

from gridctl import Grid, GridExecutor
from gridnode.errors import TaskRaised

grid = Grid.open()
executor = GridExecutor(grid, concurrency=16)

# %% One call: a task's name instead of a function, and a future as ever.
future = executor.submit("words", "the quick brown fox jumps over the lazy dog")
print("words:", future.result()["words"])

# %% Map: results in the order of the items, however the calls end.
texts = ["to be or not to be", "a rose is a rose is a rose", "so it goes"]
for text, longest in zip(texts, executor.map("words.longest", texts), strict=True):
    print(f"longest of {text!r}: {longest}")

# %% As they complete, whichever node is done first.
futures = [executor.submit("primes", {"below": below}) for below in (1_000_000, 500_000, 1_000)]
for done in concurrent.futures.as_completed(futures):
    print("primes below {below}: {primes}".format(**done.result()))

# %% What a task raises comes out of the future, with its own traceback as the cause.
try:
    executor.submit("words", 42).result()
except TaskRaised as exc:
    print("words raised:", exc.message)
    print("there:", str(exc.__cause__).strip('" \n').splitlines()[-1])

# %% Many small calls: the same connection has map itself, which reads and holds no more than it needs.
started = time.perf_counter()
total = sum(grid.map("echo", range(5000)))
print(f"5000 echoes, sum {total}: {5000 / (time.perf_counter() - started):,.0f} calls a second")

# %% Done.
executor.shutdown()
grid.close()
