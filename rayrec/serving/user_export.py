"""Gives what was said of users while the service runs back to the table of users: `<folder>/users.parquet`.

The file is marked, so that `ingest` reads it beside the user's own tables (`dataset.users` takes a list), and takes its row of a
user instead of theirs, as the service does. Every export writes the whole file, in one atomic step; people who were forgotten are
no longer in it.
"""

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from rayrec.config import Config, ConfigError
from rayrec.datasets.files import EXPORTED_USERS
from rayrec.serving.state.opening import is_redis, open_store, state_path
from rayrec.tables import TEXT
from rayrec.values import text_of
from rayrec.workspace.files import open_filesystem, write_whole
from rayrec.workspace.stores import join_uri

FILE = "users.parquet"
NO_USERS = "nobody has told a service of this workspace anything about users, so there is nothing to export"


class UserExport(NamedTuple):
    """What an export has done."""

    users: int  # in the file
    path: str


def export_users(config: Config, folder: str) -> UserExport:
    """Writes the file in a folder (a local path or a URI).

    Raises `ConfigError` if nothing was said of any user and there is no file, or if the folder can't be read or written.
    """
    if not is_redis(config) and not state_path(config).exists():
        raise ConfigError(f"{NO_USERS} (there is no file {state_path(config)})")
    store = open_store(config)
    try:
        said = store.users()
    finally:
        store.close()
    path = join_uri(folder, FILE)
    try:
        fs, inside = open_filesystem(path)
        if not said and not fs.get_file_info(inside).is_file:
            raise ConfigError(NO_USERS)
        with pa.BufferOutputStream() as stream:
            pq.write_table(user_table(said).replace_schema_metadata(EXPORTED_USERS), stream, compression="zstd")
            write_whole(fs, inside, stream.getvalue())
    except (OSError, pa.ArrowInvalid) as error:
        raise ConfigError(f"{path} can't be read or written: {error}") from error
    return UserExport(len(said), path)


def user_table(said: Mapping[str, str]) -> pa.Table:
    """A row for each user, of whom `said` has a JSON object: column -> value.

    Values have their canonical text, from which `ingest` finds the type of a column as it does in any table. A column in which
    somebody has a list holds lists.
    """
    rows = {user: json.loads(text) for user, text in sorted(said.items())}
    columns = {"user_id": pa.array(rows, TEXT)}
    for name in sorted({name for fields in rows.values() for name in fields} - {"user_id"}):
        values = [fields.get(name) for fields in rows.values()]
        lists = any(isinstance(value, list) for value in values)
        columns[name] = pa.array(map(_texts, values), pa.large_list(TEXT)) if lists else pa.array(map(text_of, values), TEXT)
    return pa.table(columns)


def _texts(value: Any) -> list[str | None] | None:
    if value is None:
        return None
    return [text_of(each) for each in value] if isinstance(value, list) else [text_of(value)]
