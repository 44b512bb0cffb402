"""Names for nodes whose host has none to speak of: two words, made from the node's id."""

import hashlib
import re
from collections.abc import Collection
from typing import Final

from gridnode.model import NodeId, NodeRecord

__all__ = ["MAX_NAME", "gives_way", "is_name", "made_name", "says_nothing"]

MAX_NAME: Final = 64
_ADJECTIVES: Final = (
    "amber azure bold brave brisk bright calm clear cobalt coral cosmic crimson curious dapper deep eager early "
    "fair fancy fleet fresh gentle glad golden grand green happy hazel honest humble indigo ivory jade jolly keen "
    "kind lilac lively lucid lucky lunar mellow merry mighty misty neat nimble noble olive opal patient plucky "
    "polite prime proud quick quiet rapid rosy royal rustic sage scarlet serene silent silver sleek smart snowy "
    "solar solid spry stellar sturdy sunny swift tidy topaz umber upbeat velvet vivid warm wise witty zesty"
)
_FIRST: Final = tuple(_ADJECTIVES.split())
_THINGS: Final = (
    "acorn alder aspen badger basin beacon bear beaver birch bison brook canyon cedar cliff condor coral cove "
    "crane creek crow cypress delta dolphin dune eagle elk elm ember falcon fern finch fjord fox garnet geyser "
    "glacier grove gull harbor hare hawk heron hill ibis island jay juniper lagoon lake lark lemur lotus lynx "
    "maple marten meadow mesa moose moss oak orca oriole osprey otter owl panda peak pebble pine plover pond "
    "puffin quail rapids raven reef ridge river robin sable salmon seal shore sparrow spruce stork stream summit "
    "swan thistle tiger trout tulip tundra valley walrus willow wolf wren yak yew zebra"
)
_SECOND: Final = tuple(_THINGS.split())
_NOTHING: Final = re.compile(
    r"|\(none\)|localhost\d*|localhost[.-].*|debian|ubuntu|centos|fedora|alpine|arch|archlinux|rocky|almalinux|opensuse"
    r"|raspberrypi|linux|host|hostname|server|vps|vm|cloud|instance|template|unknown|[0-9a-f]{12}|[0-9a-f]{64}",
    re.IGNORECASE,
)
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def says_nothing(hostname: str) -> bool:
    """Whether it is one that many hosts have, or a container's id: no name to know a node by."""
    return bool(_NOTHING.fullmatch(hostname.partition(".")[0])) or bool(_NOTHING.fullmatch(hostname))


def is_name(text: str) -> bool:
    """Whether it can be a node's name as one is made or kept."""
    return bool(_NAME.fullmatch(text))


def made_name(node: NodeId, taken: Collection[str] = ()) -> str:
    """`brisk-otter`: the same for the same node, another where that is taken."""
    number = 0
    while True:
        digest = hashlib.sha256(f"{node}\n{number}".encode()).digest()
        name = f"{_FIRST[digest[0] % len(_FIRST)]}-{_SECOND[digest[1] % len(_SECOND)]}"
        if number > 7:  # thousands of nodes: words alone do not tell them apart
            name += f"-{int.from_bytes(digest[2:4]) % 10_000}"
        if name not in taken:
            return name
        number += 1


def gives_way(own: NodeRecord, other: NodeRecord) -> bool:
    """Whether of two nodes with one name it is ours that takes another: the one that started later, then by id."""
    return own.name == other.name and (own.started, own.id) > (other.started, other.id)
