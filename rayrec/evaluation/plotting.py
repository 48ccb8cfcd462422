"""Text of users in plots."""


def plain(text: str) -> str:
    """The text so that Matplotlib draws it as it is, and takes no dollar sign for the beginning of a formula."""
    return text.replace("$", r"\$")
