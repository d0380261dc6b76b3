-- The load: requests of a list, one after the other, each with the status that it has to have.
--
-- Each line of the list is `METHOD STATUS PATH`; every thread begins elsewhere in it.

local threads = {}

function setup(thread)
  thread:set("id", #threads)
  table.insert(threads, thread)
end

function init(args)
  requests, wrong = {}, 0
  local headers = {}
  if args[2] then headers["Authorization"] = "Bearer " .. args[2] end
  for line in io.lines(args[1]) do
    local method, path = line:match("^(%S+) %S+ (%S+)$")
    table.insert(requests, wrk.format(method, path, headers))
  end
  good = {}
  for line in io.lines(args[1]) do good[tonumber(line:match("^%S+ (%S+)"))] = true end
  at = id * 7919
end

function request()
  at = at + 1
  return requests[at % #requests + 1]
end

function response(status)
  if not good[status] then wrong = wrong + 1 end
end

function done(summary, latency)
  local wrong = 0
  for _, thread in ipairs(threads) do wrong = wrong + thread:get("wrong") end
  local errors = summary.errors
  io.write(string.format(
    'JSON {"requests": %d, "seconds": %f, "bytes": %d, "p50_ms": %f, "p99_ms": %f, "wrong": %d, "broken": %d}\n',
    summary.requests, summary.duration / 1e6, summary.bytes, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3,
    wrong, errors.connect + errors.read + errors.write + errors.timeout))
end
