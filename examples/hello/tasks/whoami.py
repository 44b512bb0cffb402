"""Which node ran this call? Call it a few times: the grid spreads calls over its nodes."""

import os
import socket


def handler(event, context):
    context.log.info("asked who I am, call %s", context.invocation_id)
    return {
        "node": context.node,
        "instance": context.instance,
        "hostname": socket.gethostname(),
        "pid": os.getpid(),
    }
