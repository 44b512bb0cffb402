"""Trees of packages as part of a release: where each goes, and what is in all of them."""

import os
from collections.abc import Collection, Iterator
from typing import NamedTuple

from gridctl.vendored import Piece, Vendored
from gridnode.errors import ManifestInvalid, ProjectInvalid
from gridnode.sync.manifest import EntryKind, check_target

__all__ = ["Graft", "check_links", "pieces_of"]


class Graft(NamedTuple):
    """A tree of packages, and where in the release it goes."""

    prefix: str
    tree: Vendored


def pieces_of(grafts: Collection[Graft]) -> Iterator[tuple[str, Piece]]:
    """(path in the release, file) of all of them; of two at one place, the first."""
    seen: set[str] = set()
    for graft in grafts:
        for piece in graft.tree.pieces():
            path = f"{graft.prefix}/{piece.path}"
            if path not in seen:
                seen.add(path)
                yield path, piece


def check_links(graft: Graft) -> None:
    """ProjectInvalid when a link of the tree would leave the project from there."""
    for piece in graft.tree.pieces():
        if piece.kind is EntryKind.LINK:
            try:
                check_target(os.fsencode(piece.target), f"{graft.prefix}/{piece.path}".count("/"))
            except ManifestInvalid as exc:
                hint = "packages from a directory have to lie in the project"
                raise ProjectInvalid(f"{graft.prefix}/{piece.path}: {exc.message}", hint=hint) from exc
