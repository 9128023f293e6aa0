-- Sends prepared requests one after another, each once: "00000123" and that many bytes, again and again.
-- Prints one JSON line; a file that ended too early is counted, for what came after it was not asked for.
local file, short

function init(args)
  file = assert(io.open(args[1], "rb"))
end

function request()
  local size = file:read(8)
  if not size then
    short = true
    wrk.thread:stop()
    return wrk.format("GET", "/")
  end
  return file:read(tonumber(size))
end

function setup(thread)
  sender = thread
end

function done(summary, latency)
  local errors = summary.errors
  io.write(string.format(
    '{"requests": %d, "micros": %d, "p50": %d, "p99": %d, "refused": %d, "broken": %d, "short": %s}\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99), errors.status,
    errors.connect + errors.read + errors.write + errors.timeout, tostring(sender:get("short") or false)))
end
