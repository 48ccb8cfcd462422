"""Where stages get their Ray cluster from. A stage connects right before it first uses Ray, and not at all if it needs none."""

from rayrec.config import Config
from rayrec.serving.cluster import connection


def connect(config: Config) -> None:
    """Connect this process to Ray unless it is connected.

    It joins the cluster that RAY_ADDRESS names, else the head that runs for the workspace (`rayrec up`), else a local Ray that ends
    with this process. In a worker process, which Ray itself has connected, it does nothing.
    """
    connection.connect(config)
