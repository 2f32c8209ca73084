"""`python -m unittest discover -s tools/demo`: the way from HTML to text, on small pages."""

import unittest

import baselines
import books

CASES = {
    "prose is unwrapped and entities decoded": (
        "<p>Two\nlines of  <code>Vec&lt;T&gt;</code>.</p>",
        "Two lines of `Vec<T>`.\n",
    ),
    "hidden lines of code are left out, indentation stays": (
        '<pre><code class="language-rust edition2024"><span class="boring">fn main() {\n</span>    let a = 1;\n\n'
        '    a;\n<span class="boring">}</span></code></pre><p>after</p>',
        "```rust\n    let a = 1;\n\n    a;\n```\n\nafter\n",
    ),
    "lists nest": (
        "<ul><li>one<ul><li>inner</li></ul></li><li><p>two</p></li></ul>",
        "- one\n\n  - inner\n\n- two\n",
    ),
    "table cells are told apart": (
        "<table><tr><th>a</th><th>b</th></tr><tr><td>1</td><td>2</td></tr></table>",
        "a | b\n1 | 2\n",
    ),
    "drawings and menus are silent": (
        "<h2>Title</h2><svg><text>no</text></svg><nav>no</nav><button>no</button>",
        "## Title\n",
    ),
}


class BooksTest(unittest.TestCase):
    def test_page_text(self):
        for name, (markup, expected) in CASES.items():
            with self.subTest(name):
                self.assertEqual(books.page_text(f"<p>menu</p><main>{markup}</main><p>foot</p>"), expected)

    def test_chapters_are_held_out_whole(self):
        paths = ("ch08-00-a.html", "ch08-03-b.html", "ch18-00-c.html", "foreword.html")
        pages = [books.Page("book", path, "") for path in paths]
        self.assertEqual([page.held_out for page in pages], [True, True, False, False])
        self.assertFalse(books.Page("cargo", "ch08-00-a.html", "").held_out)

    def test_calibration_text_stays_in_bounds(self):
        pages = [books.Page("book", f"ch01-{index:02}-x.html", "x" * 99 + "\n") for index in range(60)]
        text = books.calibration_text(pages, 1500)
        self.assertLessEqual(len(text), 1500)
        self.assertGreater(len(text), 1300)


class NgramTest(unittest.TestCase):
    def test_probabilities_sum_to_one(self):
        model = baselines.Ngram([0, 1, 2, 0, 1, 1, 3, 0, 1], 3, 5)
        for history in ([], [0], [0, 1], [4, 4]):
            with self.subTest(history=history):
                self.assertAlmostEqual(sum(model.probability(history, word) for word in range(5)), 1.0, places=12)


if __name__ == "__main__":
    unittest.main()
