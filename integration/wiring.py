"""Runs in a container with NET_ADMIN, on its bare python3: sets up interfaces, as `ip` would, by rtnetlink.

`pair NAME PEER PID`: a veth pair, the peer in that process's network; `address NAME A.B.C.D/N`: and the interface is
up; `route A.B.C.D/N GATEWAY`; `addresses`: prints the IPv4 addresses of all interfaces.
"""

import fcntl
import socket
import struct
import sys

ROUTE, REQUEST, ACK, CREATE, EXCLUSIVE, REPLACE = 0, 1, 4, 0x400, 0x200, 0x100
NEW_LINK, SET_LINK, NEW_ADDRESS, NEW_ROUTE = 16, 19, 20, 24
SIOCGIFADDR = 0x8915
UP = 1


def attribute(kind, value):
    head = struct.pack("=HH", 4 + len(value), kind) + value
    return head + bytes(-len(head) % 4)


def link(index=0, flags=0):
    return struct.pack("=BxHiII", 0, 0, index, flags, flags)


def send(kind, flags, body):
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, ROUTE) as netlink:
        netlink.send(struct.pack("=IHHII", 16 + len(body), kind, REQUEST | ACK | flags, 1, 0) + body)
        code = struct.unpack_from("=i", netlink.recv(65536), 16)[0]
    if code:
        raise OSError(-code, f"rtnetlink {kind}")


def pair(name, peer, pid):
    other = link() + attribute(3, peer.encode() + b"\0") + attribute(19, struct.pack("=I", int(pid)))
    info = attribute(1, b"veth\0") + attribute(2, attribute(1, other))
    send(NEW_LINK, CREATE | EXCLUSIVE, link() + attribute(3, name.encode() + b"\0") + attribute(18, info))


def address(name, network):
    host, length = network.split("/")
    index, raw = socket.if_nametoindex(name), socket.inet_aton(host)
    body = struct.pack("=BBBBi", socket.AF_INET, int(length), 0, 0, index) + attribute(2, raw) + attribute(1, raw)
    send(NEW_ADDRESS, CREATE | EXCLUSIVE, body)
    send(SET_LINK, 0, link(index, UP))


def route(network, gateway):
    host, length = network.split("/")
    body = struct.pack("=BBBBBBBBI", socket.AF_INET, int(length), 0, 0, 254, 4, 0, 1, 0)
    if int(length):
        body += attribute(1, socket.inet_aton(host))
    send(NEW_ROUTE, CREATE | REPLACE, body + attribute(5, socket.inet_aton(gateway)))


def addresses():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for _, name in socket.if_nameindex():
            try:
                found = fcntl.ioctl(sock, SIOCGIFADDR, struct.pack("256s", name.encode()))
            except OSError:
                continue
            print(socket.inet_ntoa(found[20:24]))


{"pair": pair, "address": address, "route": route, "addresses": addresses}[sys.argv[1]](*sys.argv[2:])
