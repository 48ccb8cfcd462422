"""Object stores such as S3: how their URIs are read, how they differ from a disk, and what their errors mean.

The path of a URI is taken literally, as other tools for S3 do: `%` and `#` mean nothing in it. Options of the file system may stand
at the end, as in `s3://bucket/folder?endpoint_override=127.0.0.1:9000&scheme=http`. Credentials come from the environment.
"""

import hashlib
import os
import re
import socket
from typing import NamedTuple
from urllib.parse import parse_qsl

import pyarrow.fs as pafs

CONNECT_S = 5.0  # to an endpoint; by itself Arrow tries one that does not answer for 100 s
LITERAL = ("s3", "gs", "gcs")  # schemes whose paths are names of objects
WHOLE = ("s3", "gcs", "abfs")  # kinds of file systems in which an object is visible only when all of it is there
OPTIONS = re.compile(r"\?\w+=[^?&]*(?:&\w+=[^?&]*)*$")
REASONS = {
    "NETWORK_CONNECTION": "nothing answers there; check the network, and the endpoint and the scheme in the URI",
    "NO_SUCH_BUCKET": "there is no such bucket; make it, or name another one",
    "INVALID_ACCESS_KEY_ID": "the store does not know the access key; check AWS_ACCESS_KEY_ID in the environment",
    "SIGNATURE_DOES_NOT_MATCH": "the secret key is wrong; check AWS_SECRET_ACCESS_KEY in the environment",
    "ACCESS_DENIED": (
        "the store refuses the credentials; check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN in the "
        "environment, and what they allow"
    ),
}

_usable: set[str] = set()  # the URIs in which this process has found a bucket


class ObjectUri(NamedTuple):
    """The parts of a URI; together they are the URI."""

    root: str  # scheme://host
    path: str  # begins with a slash, or is empty
    options: str  # begins with a question mark, or is empty


def split_uri(uri: str) -> ObjectUri:
    found = OPTIONS.search(uri)
    options = found[0] if found else ""
    scheme, mark, rest = uri.removesuffix(options).partition("://")
    host, slash, path = rest.partition("/")
    return ObjectUri(scheme + mark + host, slash + path, options)


def join_uri(root: str, path: str) -> str:
    """A path below a folder. The folder is a local path or a URI, whose options stay at the end."""
    options = split_uri(root).options if "://" in root else ""
    return f"{root.removesuffix(options).rstrip('/')}/{path}{options}"


def open_store(root: str, options: str) -> tuple[pafs.FileSystem, str]:
    """The file system of a bucket, and the bucket's name."""
    if root.startswith("s3://") and "allow_delayed_open=" not in options:
        options = f"{options or '?'}{'&' if options else ''}allow_delayed_open=true"  # one request for a small file, not three
    return pafs.FileSystem.from_uri(root + options)


def credentials() -> str:
    """A fingerprint of what the environment says about S3, "" if it says nothing."""
    found = sorted(f"{name}={value}" for name, value in os.environ.items() if name.startswith("AWS_"))
    return hashlib.sha256("\n".join(found).encode()).hexdigest() if found else ""


def in_words(error: BaseException) -> str:
    """What an error of a file system means, with its own words."""
    found = re.search(r"AWS Error ([A-Z_]+)", str(error))
    code = "NO_SUCH_BUCKET" if re.match(r"Bucket '.*' not found", str(error)) else found[1] if found else ""
    return f"{REASONS[code]} ({error})" if code in REASONS else str(error)


def is_of_the_store(error: BaseException) -> bool:
    """Whether an error says that a store can't be used, so that it is no bug."""
    return in_words(error) != str(error)


def problem_of(fs: pafs.FileSystem, uri: str, path: str) -> str | None:
    """Why a folder in S3 can't be used at all, None where it can; a process looks once.

    Where an endpoint is named, this takes a few seconds at most.
    """
    if fs.type_name != "s3" or uri in _usable:
        return None
    if address := _endpoint(uri):
        try:
            socket.create_connection(address, CONNECT_S).close()
        except OSError as error:
            return f"nothing answers at {address[0]}:{address[1]} ({error}); check the endpoint in the URI and the network"
    try:
        if fs.get_file_info(path).type == pafs.FileType.NotFound and _lacks_bucket(fs, path):
            return REASONS["NO_SUCH_BUCKET"]
    except OSError as error:
        return in_words(error)
    _usable.add(uri)
    return None


def _lacks_bucket(fs: pafs.FileSystem, path: str) -> bool:
    try:
        return bool(fs.get_file_info(path.partition("/")[0]).type == pafs.FileType.NotFound)
    except OSError:  # of a user who may list only some folders of the bucket
        return False


def _endpoint(uri: str) -> tuple[str, int] | None:
    """The host and the port of the endpoint that the URI or the environment names."""
    options = dict(parse_qsl(split_uri(uri).options[1:]))
    named = options.get("endpoint_override") or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    if not named:
        return None
    scheme, _, place = named.rpartition("://")
    host, _, port = place.partition("/")[0].rpartition(":")
    if not host or not port.isdigit():
        host, port = place.partition("/")[0], "80" if (scheme or options.get("scheme")) == "http" else "443"
    return host.strip("[]"), int(port)
