#!/bin/sh
# How long has the server run? Any executable file is a task: its argument comes as JSON on standard input, what it
# prints is the result, and what it writes to standard error goes to the log.
read -r seconds _ </proc/uptime
read -r load _ </proc/loadavg
echo "asked for the uptime of $GRID_NODE" >&2
printf '{"node": "%s", "seconds": %s, "load": %s}\n' "$GRID_NODE" "$seconds" "$load"
