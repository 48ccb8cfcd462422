"""What commands print is what is in the catalog, whatever the catalog holds."""

import pytest
from rich.table import Table

from rayrec.cli import topics
from rayrec.cli.common import PlainConsole, console, counted, say
from rayrec.topics.describing import Description

TEXTS = ["[/i]", "[bold red]x[/]", ":smile:", "a [link=http://example.org]b[/link]", "\\[x]", "$a$", "<b>x</b>", "naïve ✓"]


@pytest.mark.parametrize("text", TEXTS)
def test_text_is_no_markup(text: str) -> None:
    table = Table("title", text, title=text)
    table.add_row(text, "x")
    with console.capture() as printed:
        console.print(table)
        console.print(text)
        say(text)
    assert printed.get().count(text) == 5


def test_control_codes_are_shown_and_not_obeyed() -> None:
    plain = PlainConsole(force_terminal=True)
    table = Table("title")
    table.add_row("\x1b[31mred\x1b]0;title\x07 \u202eback \x9b2J")
    with plain.capture() as printed:
        plain.print(table)
        plain.print("\x1b[31mred")
    for code in ("\x1b[31m", "\x1b]0;", "\x07", "\u202e", "\x9b"):
        assert code not in printed.get()
    assert "[31mred" in printed.get()


def test_topics_are_shown_whatever_their_tags() -> None:
    one = Description(0, 3, ["[/i]"], ["[/b]", ":dog:"], ["v1"], [(1, 0.5)])
    with console.capture() as printed:
        topics.show_topic(one, {"v1": "[/red] title"})
    for text in ("[/i]", "[/b], :dog:", "[/red] title"):
        assert text in printed.get()


@pytest.mark.parametrize(("number", "words"), [(0, "0 clicks"), (1, "1 click"), (2, "2 clicks"), (1234, "1,234 clicks")])
def test_one_is_no_plural(number: int, words: str) -> None:
    assert counted(number, "click") == words
