"""What peers said of themselves when their links were opened: by that a twin, and a newer certificate, are told."""

from gridnode.model import NodeId, NodeRecord

__all__ = ["Hellos", "is_same_life"]

_ANEW_EVERY = 1.0
"""Seconds between links that one peer has us dial anew: one that claims more with every record gains little."""


def is_same_life(record: NodeRecord, known: NodeRecord | None) -> bool:
    """Of one id: a node may raise its incarnation, but not when and where it started."""
    if known is None or record.incarnation == known.incarnation:
        return True
    return (record.started, record.addresses) == (known.started, known.addresses)


class Hellos(dict[NodeId, NodeRecord]):
    """Of the links in use."""

    def __init__(self) -> None:
        self._anew: dict[NodeId, float] = {}

    def is_same_life(self, record: NodeRecord) -> bool:
        """Whether this is the node that the link in use leads to, if there is one."""
        return is_same_life(record, self.get(record.id))

    def outlasts(self, record: NodeRecord, now: float) -> bool:
        """Whether the peer's certificate lasts longer than the one its link was opened with; once in a while."""
        linked = self.get(record.id)
        if linked is None or record.until <= linked.until:
            return False
        self._anew = {one: at for one, at in self._anew.items() if now - at < _ANEW_EVERY}
        return self._anew.setdefault(record.id, now) == now
