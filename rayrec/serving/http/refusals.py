"""The answer to a request that middleware refuses before it reaches a route."""

import json
from dataclasses import dataclass, field

from starlette.types import Send


@dataclass
class RefusedError(Exception):
    """A request that is answered with this status and sentence, and with nothing else."""

    status: int
    sentence: str
    headers: dict[str, str] = field(default_factory=dict)

    async def answer(self, send: Send) -> None:
        body = json.dumps({"error": self.sentence}).encode()
        headers = {"content-type": "application/json", "content-length": str(len(body)), **self.headers}
        encoded = [(name.encode(), value.encode()) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": self.status, "headers": encoded})
        await send({"type": "http.response.body", "body": body})
