#!/usr/bin/env python3
"""Makes the texts of docs/quality.md: the Rust book and Debian's `fortunes`, each cut in two halves.

    tools/evaluation-texts.py FOLDER [--book HTML_FOLDER] [--fortunes FOLDER]

Writes book-calibration.txt, book-heldout.txt, quotations-calibration.txt and quotations-heldout.txt. The book (MIT or Apache-2.0)
is that of the toolchain's own documentation, chapter after chapter in the order of its contents; the quotations come from the
Debian package `fortunes`. Neither is in this repository.
"""

import argparse
import html.parser
import pathlib
import re
import subprocess
import sys

SKIPPED = {"script", "style", "nav", "head", "button"}


class Words(html.parser.HTMLParser):
    """Text of a page's <main>, without markup."""

    def __init__(self):
        super().__init__()
        self.parts, self.inside, self.skipping = [], 0, 0

    def handle_starttag(self, tag, attributes):
        self.inside += tag == "main"
        self.skipping += tag in SKIPPED
        if tag in ("p", "h1", "h2", "h3", "li", "pre", "tr"):
            self.parts.append("\n")

    def handle_endtag(self, tag):
        self.inside -= tag == "main"
        self.skipping -= tag in SKIPPED

    def handle_data(self, data):
        if self.inside and not self.skipping:
            self.parts.append(data)

    def text(self):
        return re.sub(r"\n{3,}", "\n\n", "".join(self.parts)).strip() + "\n"


def chapters(folder):
    """Chapters in the order of the book: ch01-00, ch01-01, .."""
    pages = sorted(folder.glob("ch[0-9][0-9]-*.html"))
    if not pages:
        sys.exit(f"evaluation-texts: no chapters in `{folder}`")
    for page in pages:
        words = Words()
        words.feed(page.read_text(encoding="utf-8"))
        yield words.text()


def quotations(folder):
    files = sorted(file for file in folder.iterdir() if file.is_file() and not file.suffix)
    if not files:
        sys.exit(f"evaluation-texts: nothing in `{folder}`: install the package `fortunes`")
    for file in files:
        for quotation in file.read_text(encoding="utf-8", errors="replace").split("\n%\n"):
            if text := quotation.strip():
                yield text + "\n"


def halves(parts):
    """Two lists of whole parts with about as many characters each."""
    parts = list(parts)
    half, first = sum(map(len, parts)) / 2, []
    while parts and sum(map(len, first)) < half:
        first.append(parts.pop(0))
    return first, parts


def main():
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("folder", type=pathlib.Path)
    options.add_argument("--book", type=pathlib.Path)
    options.add_argument("--fortunes", type=pathlib.Path, default=pathlib.Path("/usr/share/games/fortunes"))
    given = options.parse_args()
    if given.book is None:
        sysroot = subprocess.check_output(["rustc", "--print", "sysroot"], text=True).strip()
        given.book = pathlib.Path(sysroot) / "share/doc/rust/html/book"
    given.folder.mkdir(parents=True, exist_ok=True)
    for name, parts in (("book", chapters(given.book)), ("quotations", quotations(given.fortunes))):
        for part, texts in zip(("calibration", "heldout"), halves(parts)):
            (given.folder / f"{name}-{part}.txt").write_text("\n".join(texts), encoding="utf-8")


if __name__ == "__main__":
    main()
