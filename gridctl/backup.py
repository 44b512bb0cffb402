"""`gridctl backup` and `gridctl restore`: the ledger in a file, and back."""

import asyncio
from pathlib import Path

import click

from gridctl.new import write_private_bytes
from gridctl.options import Settings, confirm, examples, gridfile_option, json_option, pass_settings, yes_option
from gridctl.render import Progress, print_json
from gridnode.audit import AUDIT
from gridnode.errors import SignatureInvalid, UsageError
from gridnode.files_document import FILES
from gridnode.gridfile import Gridfile
from gridnode.image_document import IMAGE
from gridnode.ledger import (
    MAX_BATCH,
    MAX_BODY,
    MAX_TOTAL,
    ORDER,
    RELEASE,
    SECRET,
    Document,
    decode_documents,
    encode_documents,
    verifier,
)
from gridnode.node_document import NODE
from gridnode.renewal import RENEWAL
from gridnode.revocation import REVOCATION

__all__ = ["backup_command", "restore_command"]

KINDS = (REVOCATION, RENEWAL, NODE, SECRET, IMAGE, FILES, ORDER, RELEASE, AUDIT)
"""In the order they are brought back: what a release needs comes before it."""


@click.command("backup", epilog=examples("gridctl backup shop.backup", "gridctl backup shop.backup --json"))
@click.argument("file", type=click.Path(path_type=Path))
@json_option
@gridfile_option
@pass_settings
def backup_command(settings: Settings, file: Path) -> None:
    """Save the grid's ledger in FILE: releases, orders, secrets (sealed), images, revocations, who changed what.

    Together with the Gridfile it brings a grid back. Files of projects and images are not in it: nodes hold them.
    """
    documents = asyncio.run(_all(settings.gridfile()))
    try:
        write_private_bytes(file, encode_documents(documents), replacing=True)
    except OSError as exc:
        raise UsageError(f"{file} cannot be written: {exc.strerror}", hint="choose another place") from exc
    for kind in crowded(documents):
        text = f"warning: the grid has more of kind {kind} than one answer holds: the oldest may be missing"
        Progress().line(text, "yellow")
    counts = {kind: sum(document.kind == kind for document in documents) for kind in KINDS}
    if settings.as_json:
        print_json({"path": str(file), "documents": counts})
        return
    click.echo(f"saved {len(documents)} documents in {file}; keep it beside a copy of the Gridfile", err=True)


def crowded(documents: list[Document]) -> list[str]:
    """Kinds of which the grid may have more documents than it gave."""
    sizes = {kind: sum(len(one.body) for one in documents if one.kind == kind) for kind in KINDS}
    return [kind for kind, size in sizes.items() if size > MAX_BATCH - MAX_BODY]


@click.command("restore", epilog=examples("gridctl restore shop.backup", "gridctl restore shop.backup --yes --json"))
@click.argument("file", type=click.Path(path_type=Path))
@yes_option
@json_option
@gridfile_option
@pass_settings
def restore_command(settings: Settings, file: Path) -> None:
    """Bring back what FILE has and the grid does not; what the grid has is as new or newer, and stays.

    A release whose files no node has fails there: `gridctl deploy` puts them back.
    """
    gridfile = settings.gridfile()
    documents = read_backup(file, gridfile)
    confirm(f"This brings {len(documents)} documents of {file} to the grid {gridfile.grid_name}.", settings)
    brought = asyncio.run(_bring(gridfile, documents))
    if settings.as_json:
        print_json({"restored": [{"kind": one.kind, "name": one.name, "sequence": one.sequence} for one in brought]})
        return
    click.echo(f"{len(brought)} of {len(documents)} documents were missing, and are back", err=True)


def read_backup(file: Path, gridfile: Gridfile) -> list[Document]:
    """Its documents but audit entries, in the order to bring them; UsageError, LedgerError, SignatureInvalid."""
    from gridnode.identity import authority_of, public_key_of  # certificates take 0.1 s to import

    try:
        with file.open("rb") as content:
            raw = content.read(2 * MAX_TOTAL)
    except OSError as exc:
        raise UsageError(f"{file} cannot be read: {exc.strerror}") from exc
    verified = verifier(public_key_of(authority_of(gridfile).deploy_key))
    documents = decode_documents(raw)
    if not all(map(verified, documents)):
        raise SignatureInvalid(f"{file} is not of the grid of {gridfile.path}", hint="--gridfile PATH names another")
    known = [document for document in documents if document.kind in KINDS and document.kind != AUDIT]
    return sorted(known, key=lambda document: (KINDS.index(document.kind), document.sequence))


async def _all(gridfile: Gridfile) -> list[Document]:
    from gridctl.client import Grid

    async with Grid.connect(gridfile) as grid:
        return [document for kind in KINDS for document in await grid.documents(kind)]


async def _bring(gridfile: Gridfile, documents: list[Document]) -> list[Document]:
    from gridctl.client import Grid

    brought = []
    async with Grid.connect(gridfile) as grid:
        held = {(one.kind, one.name): one.sequence for kind in KINDS for one in await grid.documents(kind)}
        for document in documents:
            if document.sequence > held.get((document.kind, document.name), 0):
                await grid.put(document)
                brought.append(document)
    return brought
