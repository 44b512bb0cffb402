"""Runs in a container on a grid's network, on its bare python3, as somebody who holds nothing of the grid.

`listen SECONDS`: prints the UDP payloads of 7400 and 5353 that pass by, `port hex` a line (with NET_RAW, in a node's
network). `flood KIND SECONDS HOST...`: sends to these as fast as it can, and prints how often; payloads to repeat
come as `listen` prints them on stdin.
"""

import os
import random
import socket
import struct
import sys
import time

LINK, MDNS, GROUP = 7400, 5353, "224.0.0.251"
HELD = 400


def listen(seconds):
    end = time.monotonic() + float(seconds)
    with socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x0800)) as sock:
        sock.settimeout(0.2)
        while time.monotonic() < end:
            try:
                packet = sock.recv(65536)
            except TimeoutError:
                continue
            head = (packet[0] & 15) * 4
            port = struct.unpack_from(">H", packet, head + 2)[0]
            if packet[9] == socket.IPPROTO_UDP and port in (LINK, MDNS):
                print(port, packet[head + 8 :].hex(), flush=True)


def name(*labels):
    return b"".join(bytes([len(label)]) + label for label in labels) + b"\0"


def announcement():
    """A well-formed one of an instance that nobody knows, and garbage for its seal."""
    kind = (b"_gridcontrol", b"_tcp", b"local")
    instance = name(os.urandom(8).hex().encode(), *kind)
    text = b"".join(bytes([103]) + b"p%d=" % part + os.urandom(50).hex().encode() for part in range(4))
    pointer = name(*kind) + struct.pack(">HHIH", 12, 1, 4500, len(instance)) + instance
    return (
        struct.pack(">6H", 0, 0x8400, 0, 2, 0, 0)
        + pointer
        + instance
        + struct.pack(">HHIH", 16, 1, 4500, len(text))
        + text
    )


def payloads(kind, heard):
    if kind == "dht-garbage":
        return LINK, [os.urandom(random.randrange(1, 1400)) for _ in range(500)]
    if kind == "mdns-garbage":
        return MDNS, [os.urandom(random.randrange(1, 1400)) for _ in range(500)]
    if kind == "mdns-strangers":
        return MDNS, [announcement() for _ in range(500)]
    port = LINK if kind == "dht-replays" else MDNS
    return port, [bytes.fromhex(text) for number, text in heard if int(number) == port]


def datagrams(kind, end, hosts):
    port, sent = payloads(kind, [line.split() for line in sys.stdin])
    assert sent, "nothing was heard to repeat"
    targets = [*hosts, *([GROUP] if port == MDNS else [])]
    count = 0
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        if port == MDNS:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            sock.bind(("0.0.0.0", MDNS))
        while time.monotonic() < end:
            for payload in sent:
                for host in targets:
                    sock.sendto(payload, (host, port))
                    count += 1
    return count


def connections(kind, end, hosts):
    """Garbage in place of a handshake; or nothing, held open."""
    count, held = 0, []
    while time.monotonic() < end:
        for host in hosts:
            sock = socket.socket()
            sock.settimeout(2)
            try:
                sock.connect((host, LINK))
                if kind == "tcp-garbage":
                    sock.sendall(os.urandom(500))
            except OSError:
                sock.close()
                continue
            count += 1
            held.append(sock)
        while len(held) > (HELD if kind == "tcp-silent" else 0):
            held.pop(0).close()
    return count


def flood(kind, seconds, *hosts):
    attack = connections if kind.startswith("tcp") else datagrams
    print(attack(kind, time.monotonic() + float(seconds), hosts))


{"listen": listen, "flood": flood}[sys.argv[1]](*sys.argv[2:])
