"""Bodies of the ops by which nodes give each other pieces: who holds which, and what of one is asked and given."""

import msgspec

from gridnode import messages
from gridnode.errors import BodyInvalid
from gridnode.messages import MAX_GET, ChunkPart
from gridnode.model import ChunkHash, Root
from gridnode.sync.pieces import MAX_PIECES, bits_of, pieces_in

__all__ = [
    "Have",
    "PieceGet",
    "PieceParts",
    "decode_get",
    "decode_have",
    "decode_parts",
    "encode_get",
    "encode_have",
    "encode_parts",
]

MAX_MORE = 64
"""Pieces told one by one; with more new ones the whole set is shorter."""


class Have(msgspec.Struct, frozen=True):
    """What a node holds of a tree of `count` pieces: all of it, or with `is_more` what came since.

    fetches: it wants to hear what we get from now on; asks: and what we hold.
    """

    root: Root
    count: int
    bits: int
    is_more: bool = False
    asks: bool = False
    fetches: bool = False


class PieceGet(msgspec.Struct, frozen=True):
    """Chunks of one piece, at most MAX_GET."""

    root: Root
    piece: int
    chunks: tuple[ChunkHash, ...]


class PieceParts(msgspec.Struct, frozen=True):
    """Those chunks that are held; refused: none, for now. given: pieces that others have or get, to be had of them."""

    parts: tuple[ChunkPart, ...] = ()
    refused: bool = False
    given: int = 0


class _Have(msgspec.Struct, array_like=True):
    root: bytes
    count: int
    bits: bytes
    more: list[int] = []
    asks: bool = False
    fetches: bool = False


class _Get(msgspec.Struct, array_like=True):
    root: bytes
    piece: int
    chunks: list[bytes]


class _Parts(msgspec.Struct, array_like=True):
    parts: list[ChunkPart]
    refused: bool = False
    given: bytes = b""


def encode_have(have: Have) -> bytes:
    """A few new pieces by number, else the set."""
    root, bits = bytes.fromhex(have.root), _pack(have.bits, have.count)
    if have.is_more and have.bits.bit_count() <= MAX_MORE:
        more = list(pieces_in(have.bits))
        return messages.encode(_Have(root, have.count, b"", more, have.asks, have.fetches))
    # Of many new ones the set says all that is new, and the receiver adds it: `more` marks it as an addition.
    more = [next(pieces_in(have.bits))] if have.is_more else []
    return messages.encode(_Have(root, have.count, bits, more, have.asks, have.fetches))


def decode_have(body: bytes) -> Have:
    """BodyInvalid past the bounds."""
    found = messages.decode(body, _Have)
    if not 0 <= found.count <= MAX_PIECES or len(found.more) > MAX_MORE:
        raise BodyInvalid(f"{len(found.more)} new pieces of a tree of {found.count}")
    if any(not 0 <= piece < found.count for piece in found.more):
        raise BodyInvalid("a piece that the tree does not have")
    bits = _unpack(found.bits, found.count) | bits_of(found.more)
    return Have(_root(found.root), found.count, bits, bool(found.more), found.asks, found.fetches)


def encode_get(get: PieceGet) -> bytes:
    return messages.encode(_Get(bytes.fromhex(get.root), get.piece, list(get.chunks)))


def decode_get(body: bytes) -> PieceGet:
    """BodyInvalid past the bounds."""
    found = messages.decode(body, _Get)
    if not 0 <= found.piece < MAX_PIECES or not 0 < len(found.chunks) <= MAX_GET:
        raise BodyInvalid(f"{len(found.chunks)} chunks of piece {found.piece}")
    if any(len(chunk) != 32 for chunk in found.chunks):
        raise BodyInvalid("a hash is 32 bytes")
    return PieceGet(_root(found.root), found.piece, tuple(ChunkHash(chunk) for chunk in found.chunks))


def encode_parts(parts: PieceParts) -> bytes:
    given = _pack(parts.given, parts.given.bit_length()) if parts.given else b""
    return messages.encode(_Parts(list(parts.parts), parts.refused, given))


def decode_parts(body: bytes) -> PieceParts:
    """BodyInvalid past the bounds."""
    found = messages.decode(body, _Parts)
    if len(found.parts) > MAX_GET or len(found.given) > MAX_PIECES // 8:
        raise BodyInvalid(f"{len(found.parts)} chunks, {len(found.given)} bytes of pieces")
    return PieceParts(tuple(found.parts), found.refused, int.from_bytes(found.given, "little"))


def _pack(bits: int, count: int) -> bytes:
    return bits.to_bytes((count + 7) // 8, "little")


def _unpack(raw: bytes, count: int) -> int:
    if len(raw) not in (0, (count + 7) // 8):
        raise BodyInvalid(f"a set of {count} pieces in {len(raw)} bytes")
    bits = int.from_bytes(raw, "little")
    if bits >> count:
        raise BodyInvalid("a set with a piece that the tree does not have")
    return bits


def _root(raw: bytes) -> Root:
    if len(raw) != 32:
        raise BodyInvalid("a root is 32 bytes")
    return Root(raw.hex())
