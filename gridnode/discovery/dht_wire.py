"""What DHT nodes say to each other, inside a sealed datagram: rpcudp's format, read strictly.

    request   0x00, 20 bytes that name it, msgpack [name, args]   ping [id] · store [id, key, value]
                                                                  find_node [id, key] · find_value [id, key]
    response  0x01, the same 20 bytes, msgpack                    id · bool · [[id, host, port], ...] · {"value": bytes}

Ids and keys have 20 bytes. umsgpack, which rpcudp reads with, never sees what others sent.
"""

from typing import Final

import msgspec

from gridnode.discovery.peer_record import MAX_VALUE, is_contact

__all__ = ["ID_SIZE", "KSIZE", "NAMES", "Response", "encode", "read_request", "read_response", "split"]

ID_SIZE: Final = 20
KSIZE: Final = 16
"""Contacts in an answer: as many as fit into a datagram."""
NAMES: Final = {"ping": 1, "store": 3, "find_node": 2, "find_value": 2}
"""By request: how many arguments."""

Found = tuple[bytes, str, int]
Response = bytes | bool | list[Found] | dict[str, bytes]
encode = msgspec.msgpack.Encoder().encode
_decode_request = msgspec.msgpack.Decoder(tuple[str, tuple[bytes, ...]]).decode
_decode_response = msgspec.msgpack.Decoder(Response).decode
_INVALID = (ValueError, msgspec.MsgspecError, RecursionError)


def split(message: bytes) -> tuple[bool, bytes, bytes] | None:
    """Whether it is a response, its name and its body; None for what is neither."""
    if len(message) <= ID_SIZE + 1 or message[0] > 1:
        return None
    return message[0] == 1, message[1 : ID_SIZE + 1], message[ID_SIZE + 1 :]


def read_request(body: bytes) -> tuple[str, tuple[bytes, ...]] | None:
    try:
        name, args = _decode_request(body)
    except _INVALID:
        return None
    if len(args) != NAMES.get(name) or any(len(one) != ID_SIZE for one in args[:2]):
        return None
    return (name, args) if all(len(one) <= MAX_VALUE for one in args) else None


def read_response(name: str, body: bytes) -> Response | None:
    """What may answer the request of that name; contacts nobody can send to are left out."""
    try:
        response = _decode_response(body)
    except _INVALID:
        return None
    match response:
        case bool() if name == "store":
            return response
        case bytes() if name == "ping" and len(response) == ID_SIZE:
            return response
        case dict() if name == "find_value" and response.keys() == {"value"}:
            return response
        case list() if name in ("find_node", "find_value") and len(response) <= KSIZE:
            return _contacts(response)
        case _:
            return None


def _contacts(found: list[Found]) -> Response:
    return [(node, host, port) for node, host, port in found if len(node) == ID_SIZE and is_contact(host, port)]
