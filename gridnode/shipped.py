"""What the grid ships besides releases, put together for a node: container images and directories of files."""

import shutil
from collections.abc import Callable, Iterable

from gridnode.files import write_durably
from gridnode.image_document import canonical
from gridnode.sandbox.pool import Pool
from gridnode.settings import Settings
from gridnode.sync import ChunkStore
from gridnode.sync.file_sets import FileLimits, FileSets, TreeDisk
from gridnode.sync.images import ImageEngine, ImageLimits, Images
from gridnode.sync.transfer import Fetch, Progress

__all__ = ["open_files", "open_images"]

MakeFetch = Callable[[Progress], Fetch]


def open_images(
    settings: Settings,
    engine: ImageEngine,
    store: ChunkStore,
    fetch: MakeFetch,
    references: Callable[[], Iterable[str]],
    on_change: Callable[[], None],
) -> Images:
    """references: those of images that releases of this node run."""
    return Images(
        engine,
        store,
        fetch,
        settings.data_dir / "images",
        write_durably,
        lambda: shutil.disk_usage(settings.data_dir).free,
        lambda: {canonical(reference) or "" for reference in references()},
        on_change,
        ImageLimits(settings.max_image_size, settings.disk_reserve, settings.image_timeout),
    )


def open_files(
    settings: Settings, disk: TreeDisk, fetch: MakeFetch, pool: Pool, on_change: Callable[[], None]
) -> FileSets:
    """pool: whose instances read them."""
    return FileSets(
        disk,
        fetch,
        lambda: shutil.disk_usage(settings.data_dir).free,
        lambda: pool.files,
        pool.renew,
        on_change,
        FileLimits(settings.disk_reserve, settings.image_timeout),
    )
