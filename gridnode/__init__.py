"""gridnode: the container every server of a grid runs.

    api.py (HTTP, loopback) ─┐
    link/server.py (clients) ┴▶ router ─▶ placement ─▶ Invoker ┬ self: sandbox/pool ─▶ instance
                                                              └ peer: link/client ─▶ its sandbox/pool
    discovery/ ─▶ sightings ─▶ link/client (mTLS handshake) ─▶ membership
    ledger ─▶ sync/transfer (chunks from peers) ─▶ sync/release (start, prove, switch) ─▶ sandbox/pool

Layers, imports pointing down only: root (node, __main__, settings) → edges (api, link/server) →
services (router, sync/transfer, sync/release, sandbox/pool) → ports (package __init__) →
pure (wire, membership, placement, ledger, …) → model, errors.
"""

__version__ = "0.1.0"
