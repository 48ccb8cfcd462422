#!/bin/sh
# Ray takes this script for HAProxy itself (RAY_SERVE_HAPROXY_BINARY_PATH). haproxy.py says what it does.
exec python -P "$(dirname "$0")/haproxy.py" "$@"
