"""Tables as text and Markdown."""

from collections.abc import Sequence


def text_table(lines: Sequence[Sequence[str]]) -> str:
    """Align cells in columns with spaces."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def ruled_table(lines: Sequence[Sequence[str]]) -> list[str]:
    """The lines of `text_table`, with a rule below the header."""
    header, *rest = text_table(lines).splitlines()
    return [header, "-" * max(map(len, (header, *rest))), *rest]


def markdown_table(lines: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose header is the first line."""
    header, *rest = lines
    return "\n".join([_markdown(header), "|---" * len(header) + "|", *map(_markdown, rest)])


def _markdown(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
