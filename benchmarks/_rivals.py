"""An echo called through Ray, Dask or Celery, each as its documentation has it; runs in that program's environment."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from _load import BODY, Run, serve, windowed


def echo(value: Any) -> Any:
    return value


@contextmanager
def ray() -> Iterator[Run]:
    """An actor."""
    import ray  # type: ignore[import-not-found]

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=100 * 1024 * 1024)

    class Echo:
        def echo(self, value: Any) -> Any:
            return value

    actor = ray.remote(Echo).remote()
    yield windowed(lambda: actor.echo.remote(BODY), ray.get)
    ray.shutdown()


@contextmanager
def dask() -> Iterator[Run]:
    """Tasks on one worker process."""
    from distributed import Client, LocalCluster  # type: ignore[import-not-found]

    with (
        LocalCluster(n_workers=1, threads_per_worker=1, processes=True, dashboard_address=None) as local,
        Client(local) as client,
    ):
        yield windowed(lambda: client.submit(echo, BODY, pure=False), lambda future: future.result())


def celery_app() -> Any:
    from celery import Celery  # type: ignore[import-not-found]

    url = os.environ["BENCH_REDIS"]
    app = Celery("bench", broker=f"redis+socket://{url}", backend=f"redis+socket://{url}")
    app.conf.worker_hijack_root_logger = False
    app.task(name="echo")(echo)
    return app


@contextmanager
def celery() -> Iterator[Run]:
    """One worker process that takes from Redis; results come back through Redis."""
    with tempfile.TemporaryDirectory() as directory:
        path = f"{directory}/redis"
        argv = ["redis-server", "--port", "0", "--unixsocket", path, "--save", "", "--appendonly", "no"]
        os.environ["BENCH_REDIS"] = path
        redis = subprocess.Popen([*argv, "--dir", directory], stdout=subprocess.DEVNULL)
        while not Path(path).exists() and redis.poll() is None:
            time.sleep(0.05)
        worker = subprocess.Popen([sys.executable, __file__, "celery-worker"], stdout=subprocess.DEVNULL)
        app = celery_app()
        task = app.tasks["echo"]
        try:
            task.delay(BODY).get(timeout=60)
            yield windowed(lambda: task.delay(BODY), lambda result: result.get(timeout=60))
        finally:
            worker.terminate()
            worker.wait()
            redis.terminate()
            redis.wait()


def main(name: str) -> None:
    if name == "celery-worker":
        celery_app().worker_main(["worker", "--pool=solo", "--loglevel=error", "--without-gossip", "--without-mingle"])
        return
    with {"ray": ray, "dask": dask, "celery": celery}[name]() as run:
        serve(run)


if __name__ == "__main__":
    main(sys.argv[1])
