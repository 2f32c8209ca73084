"""Text of the books that ship with a Rust toolchain, from their HTML pages.

Owns the way from `share/doc/rust/html/<book>` to plain text and the split into training and held-out text. It keeps
prose, headings, lists, tables and code blocks, and leaves out lines that mdBook hides, menus and drawings. The result
depends only on the HTML: the same toolchain gives the same text. Standard library of Python only, 3.11 or newer.
"""

import dataclasses
import html.parser
import pathlib
import re
import subprocess

# Only books under "MIT OR Apache-2.0" in the toolchain's COPYRIGHT.html. The embedded book is left out: its own
# introduction puts its prose under CC-BY-SA.
BOOKS = (
    "book",
    "rust-by-example",
    "reference",
    "nomicon",
    "cargo",
    "rustc",
    "rustdoc",
    "edition-guide",
    "style-guide",
    "clippy",
)
# Pages that are logs rather than prose.
SKIPPED_PAGES = {("cargo", "CHANGELOG.html")}
# Chapters of `book` that nothing is trained on: one on collections, one on concurrency.
HELD_OUT_CHAPTERS = ("ch08", "ch16")

SILENT = {"svg", "script", "style", "button", "nav", "del"}
HEADINGS = {"h1": "#", "h2": "##", "h3": "###", "h4": "####", "h5": "#####", "h6": "######"}
BLOCKS = set("p div section blockquote figure figcaption ul ol table dl dt dd details summary".split())


@dataclasses.dataclass(frozen=True)
class Page:
    """One page of a book, in reading order."""

    book: str
    path: str
    text: str

    @property
    def chapter(self) -> str:
        """`ch08` for `ch08-01-vectors.html`; the path itself where pages carry no chapter number."""
        numbered = re.match(r"(ch\d+)-", self.path)
        return numbered.group(1) if numbered else self.path

    @property
    def held_out(self) -> bool:
        """Whether the page belongs to a chapter that is kept for evaluation."""
        return self.book == "book" and self.chapter in HELD_OUT_CHAPTERS


class PageParser(html.parser.HTMLParser):
    """Collects the text of `<main>` as lightly marked-up text."""

    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.parts = []
        self.inside_main = False
        self.silent_depth = 0
        self.in_pre = False
        self.spans = []
        self.lists = []
        self.row_cells = 0

    def handle_starttag(self, tag, attrs):
        classes = (dict(attrs).get("class") or "").split()
        if tag == "main":
            self.inside_main = True
        elif tag in SILENT:
            self.silent_depth += 1
        if not self.inside_main or self.silent_depth:
            return
        if tag == "span":
            self.spans.append("boring" in classes)
        elif tag == "pre":
            self.in_pre = True
            self.parts.append("\n\n```")
        elif tag == "code":
            self.parts.append(fence_language(classes) if self.in_pre else "`")
        elif tag in HEADINGS:
            self.parts.append(f"\n\n{HEADINGS[tag]} ")
        elif tag == "li":
            self.parts.append(f"\n{'  ' * (len(self.lists) - 1)}- ")
        elif tag == "br":
            self.parts.append("\n")
        elif tag == "tr":
            self.row_cells = 0
            self.parts.append("\n")
        elif tag in ("td", "th"):
            self.parts.append(" | " if self.row_cells else "")
            self.row_cells += 1
        elif tag in BLOCKS and not (tag == "p" and self.parts and self.parts[-1].endswith("- ")):
            self.parts.append("\n\n")
        if tag in ("ul", "ol"):
            self.lists.append(tag)

    def handle_endtag(self, tag):
        if tag == "main":
            self.inside_main = False
        elif tag in SILENT:
            self.silent_depth -= 1
            return
        if not self.inside_main or self.silent_depth:
            return
        if tag == "span" and self.spans:
            self.spans.pop()
        elif tag == "pre":
            self.in_pre = False
            self.parts.append("\n```\n\n")
        elif tag == "code" and not self.in_pre:
            self.parts.append("`")
        elif tag in ("ul", "ol") and self.lists:
            self.lists.pop()
        if tag in HEADINGS or tag in BLOCKS:
            self.parts.append("\n\n")

    def handle_data(self, data):
        if not self.inside_main or self.silent_depth or any(self.spans):
            return
        self.parts.append(data if self.in_pre else re.sub(r"\s+", " ", data))

    def text(self) -> str:
        """The page, blocks apart by one empty line, without trailing blanks."""
        lines, fenced = [], False
        for line in "".join(self.parts).replace("\u00a0", " ").split("\n"):
            line = line.rstrip()
            if line.startswith("```"):
                fenced = not fenced
                # A block whose first or last lines were hidden starts or ends without empty lines.
                while not fenced and lines and not lines[-1]:
                    lines.pop()
            elif not fenced:
                line = tidy_prose(line)
            if line or (lines and lines[-1] and not (fenced and lines[-1].startswith("```"))):
                lines.append(line)
        return "\n".join(lines).strip() + "\n"


def fence_language(classes) -> str:
    """`rust\\n` for `language-rust edition2024`: what follows the opening fence of a code block."""
    languages = [name.removeprefix("language-") for name in classes if name.startswith("language-")]
    return (languages[0] if languages else "") + "\n"


def tidy_prose(line: str) -> str:
    """Blanks of a line of prose, single, its list indentation kept."""
    indent = re.match(r" *(?=- )", line)
    return (indent.group(0) if indent else "") + re.sub(r" {2,}", " ", line).strip()


def page_text(markup: str) -> str:
    """The text of one HTML page."""
    parser = PageParser()
    parser.feed(markup)
    parser.close()
    return parser.text()


def page_paths(toc: str) -> list[str]:
    """Pages in reading order: the links of a book's `toc.html`, without fragments and repeats."""
    links = re.findall(r'href="([^"#]+\.html)', toc)
    return list(dict.fromkeys(links))


def read_book(docs: pathlib.Path, book: str) -> list[Page]:
    """All pages of one book."""
    folder = docs / book
    paths = page_paths((folder / "toc.html").read_text(encoding="utf-8"))
    kept = [path for path in paths if (book, path) not in SKIPPED_PAGES]
    return [Page(book, path, page_text((folder / path).read_text(encoding="utf-8"))) for path in kept]


def read_books(docs: pathlib.Path, books=BOOKS) -> list[Page]:
    """All pages of `books`, in order."""
    return [page for book in books for page in read_book(docs, book)]


def default_docs() -> pathlib.Path:
    """The documentation folder of the toolchain that `rustc` on the path belongs to."""
    sysroot = subprocess.run(["rustc", "--print", "sysroot"], check=True, capture_output=True, text=True).stdout.strip()
    return pathlib.Path(sysroot) / "share/doc/rust/html"


def rustc_version() -> str:
    """The version line of `rustc`, which names the release the text comes from."""
    return subprocess.run(["rustc", "--version"], check=True, capture_output=True, text=True).stdout.strip()


def held_out_text(pages: list[Page]) -> str:
    """The pages kept for evaluation, an empty line between pages."""
    return "\n".join(page.text for page in pages if page.held_out)


def calibration_text(pages: list[Page], bytes_max: int = 200_000) -> str:
    """Whole pages of training text spread evenly over `book`, at most `bytes_max` bytes."""
    candidates = [page for page in pages if page.book == "book" and not page.held_out]
    total = sum(len(page.text.encode()) for page in candidates)
    chosen, seen, taken = [], 0, 0
    for page in candidates:
        size = len(page.text.encode()) + 1
        seen += size
        # Take a page whenever the share taken lags behind the share seen.
        if taken + size <= min(bytes_max, bytes_max * seen / total + size / 2):
            chosen.append(page.text)
            taken += size
    return "\n".join(chosen)
