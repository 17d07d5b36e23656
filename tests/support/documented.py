"""What the pages of the documentation hold besides prose: fenced blocks, and commands inside of sentences."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
_BLOCK = re.compile(r"^(?P<indent> *)```(?P<language>\w*)\n(?P<text>.*?)^(?P=indent)```$", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"(?<!`)`([^`]+)`(?!`)")
_DRAWN = re.compile("[\u2500-\u257f]")
"""Characters that lines and boxes are drawn of."""
_ASSIGNMENT = re.compile(r"[A-Za-z_][A-Za-z0-9_]*=")


@dataclass(frozen=True)
class Block:
    """A fenced block: where it begins, what it says it is, and its text without indent."""

    page: str
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def is_drawing(self) -> bool:
        return not self.language and bool(_DRAWN.search(self.text))


@dataclass(frozen=True)
class Command:
    """A command line as a shell reads it: variables before it, and its words; without words it only sets variables."""

    text: str
    variables: tuple[tuple[str, str], ...]
    words: tuple[str, ...]


def blocks(*languages: str) -> list[Block]:
    """All blocks, or those in these languages, in the order of pages."""
    return [block for page in PAGES for block in _blocks_of(page) if not languages or block.language in languages]


def commands_of(block: Block) -> list[Command]:
    """Its lines, continued ones joined, without comments."""
    lines = block.text.replace("\\\n", " ").splitlines()
    return [_command(" ".join(line.split())) for line in lines if line.strip() and not line.lstrip().startswith("#")]


def inline_commands(program: str) -> Iterator[tuple[str, str]]:
    """(page, command) of each piece of code in a sentence or a table that begins with this program."""
    for page in PAGES:
        prose = _BLOCK.sub("", page.read_text(encoding="utf-8"))
        for code in _CODE.findall(prose):
            text = " ".join(code.split())
            if text == program or text.startswith(f"{program} "):
                yield page.relative_to(ROOT).as_posix(), text


def _blocks_of(page: Path) -> Iterator[Block]:
    text = page.read_text(encoding="utf-8")
    for found in _BLOCK.finditer(text):
        line = text.count("\n", 0, found.start()) + 1
        yield Block(page.relative_to(ROOT).as_posix(), line, found["language"], dedent(found["text"]))


def _command(line: str) -> Command:
    words = shlex.split(line, comments=True)
    count = next((n for n, word in enumerate(words) if not _ASSIGNMENT.match(word)), len(words))
    variables = tuple((name, value) for name, _, value in (word.partition("=") for word in words[:count]))
    return Command(line, variables, tuple(words[count:]))
