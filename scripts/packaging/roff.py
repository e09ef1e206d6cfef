"""Words as man(1) reads them: what roff would take for its own is escaped."""

from __future__ import annotations

import re


def text(words: str) -> str:
    """Return `words` as text that roff leaves alone."""
    # A minus is typed by people who copy a command, so it must stay the ASCII one.
    escaped = words.replace("\\", "\\e").replace("-", "\\-")
    # A line that begins so would be a request.
    return re.sub(r"(?m)^(?=[.'])", r"\\&", escaped)


def quoted(words: str) -> str:
    """Return `words` as one argument of a request."""
    return '"' + text(words).replace('"', "\\(dq") + '"'


def head(name: str, section: int, version: str, date: str) -> str:
    """Return the title line of the page `name`(`section`)."""
    return f".TH {quoted(name.upper())} {section} {date} {quoted(f'nebfs {version}')}\n"


def section(title: str, body: str) -> str:
    """Return a section, or nothing where the body is empty."""
    return f".SH {quoted(title.upper())}\n{begun(body)}" if body else ""


def subsection(title: str, body: str) -> str:
    """Return a part of a section."""
    return f".SS {quoted(title)}\n{begun(body)}"


def begun(body: str) -> str:
    """Return what stands below a heading, which begins a paragraph by itself."""
    return body.removeprefix(".PP\n")


def entry(term: str, body: str) -> str:
    """Return one item of a list: the term bold, what it means indented."""
    return f".TP\n\\fB{text(term)}\\fR\n{body or '.br'}\n"


def literal(words: str) -> str:
    """Return lines that keep their breaks and their blanks."""
    return f".PP\n.nf\n{text(words)}\n.fi\n"


def paragraphs(words: str) -> str:
    r"""Return click's kind of text: paragraphs between empty lines, those after \b as they are."""
    out = []
    for paragraph in re.split(r"\n\s*\n", words.strip("\n")):
        first, _, rest = paragraph.partition("\n")
        if first.strip() == "\b":
            out.append(literal(rest))
        elif paragraph.strip():
            out.append(f".PP\n{text(' '.join(paragraph.split()))}\n")
    return "".join(out)
