"""What mkdocs does to the pages before it renders them.

Links to files outside docs/ are relative in the repository (`../rayrec/...`); on the site they lead to the repository's address,
`extra.repository` in mkdocs.yml.
"""

import re
from typing import Any

REPOSITORY_LINK = re.compile(r"\]\(\.\./([^)]+)\)")


def on_page_markdown(markdown: str, *, page: Any, config: Any, **_: Any) -> str:
    """A page's Markdown with its links to the repository."""
    return REPOSITORY_LINK.sub(rf"]({config['extra']['repository']}/blob/main/\1)", markdown)
