-- wrk: POST $BENCH_BODY, and print what happened as one line of JSON. Latencies in microseconds.
wrk.method = "POST"
wrk.body = os.getenv("BENCH_BODY")
wrk.headers["Content-Type"] = "application/json"

function done(summary, latency, requests)
  local errors = summary.errors
  local quantiles = {}
  for percent = 1, 99 do quantiles[percent] = latency:percentile(percent) end
  io.write(string.format(
    '\nRESULT {"requests": %d, "duration": %d, "p50": %d, "p99": %d, "status": %d, "socket": %d, "quantiles": [%s]}\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99), errors.status,
    errors.connect + errors.read + errors.write + errors.timeout, table.concat(quantiles, ",")))
end
