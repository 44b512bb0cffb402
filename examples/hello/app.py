"""An application that uses the grid. It runs on your machine; the tasks run on the nodes.

    python app.py

It finds the Gridfile in this directory or above it, or where $GRIDCTL_GRIDFILE says.
"""

import asyncio

from gridctl import Grid
from gridnode.errors import GridError, TaskRaised

TEXT = "the quick brown fox jumps over the lazy dog while the other dog sleeps"


async def main() -> None:
    async with Grid.connect() as grid:
        # One call.
        print("echo:", await grid.invoke("echo", {"hello": "grid"}))
        print("words:", await grid.invoke("words", TEXT))

        # Six calls at once: see how they spread over the nodes.
        for outcome in await asyncio.gather(*(grid.call("whoami") for _ in range(6))):
            print(f"whoami: {outcome.name or outcome.node} in {outcome.duration * 1000:.1f} ms")

        # Work split into parts that run side by side.
        parts = [250_000, 500_000, 750_000, 1_000_000]
        counts = await asyncio.gather(*(grid.invoke("primes", {"below": below}) for below in parts))
        for count in counts:
            print(f"primes below {count['below']}: {count['primes']}")

        # What a task raises is raised here, with its traceback.
        try:
            await grid.invoke("words", 42)
        except TaskRaised as exc:
            print("words raised:", exc.message)


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except GridError as exc:
        raise SystemExit(f"{exc.message}\n{exc.hint or ''}") from exc
