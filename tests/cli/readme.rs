//! The README's examples on the bundled model print what the README says; `...` stands for any lines.

use std::fs;

use crate::support::Cmd;

/// One `$ reweight ...` of a console block and the lines below it.
struct Example<'a> {
    words: &'a str,
    expected: Vec<&'a str>,
}

fn examples(readme: &str) -> Vec<Example<'_>> {
    let mut examples: Vec<Example<'_>> = Vec::new();
    let mut inside = false;
    for line in readme.lines() {
        if line.starts_with("```") {
            inside = line == "```console";
        } else if let (true, Some(words)) = (inside, line.strip_prefix("$ reweight ")) {
            examples.push(Example { words, expected: Vec::new() });
        } else if let (true, Some(example)) = (inside, examples.last_mut()) {
            example.expected.push(line);
        }
    }
    examples
}

/// Whether the lines are those expected, `...` matching any number of them.
fn matches(expected: &[&str], found: &[&str]) -> bool {
    match expected.split_first() {
        None => found.is_empty(),
        Some((&"...", rest)) => (0..=found.len()).any(|skipped| matches(rest, &found[skipped..])),
        Some((line, rest)) => found.split_first().is_some_and(|(first, after)| line == first && matches(rest, after)),
    }
}

#[test]
fn examples_on_the_bundled_model_print_what_the_readme_says() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/README.md");
    let readme = fs::read_to_string(path).expect("the README is beside Cargo.toml");
    let on_demo: Vec<Example<'_>> =
        examples(&readme).into_iter().filter(|example| example.words.split(' ').any(|word| word == "demo")).collect();
    assert!(on_demo.len() >= 2, "the README has examples that everybody can run");
    for example in on_demo {
        let mut command = Cmd::new("");
        for word in example.words.split(' ') {
            command = command.arg(word.trim_matches('\''));
        }
        let printed = command.run().expect_status(0).stdout;
        let found: Vec<&str> = printed.lines().collect();
        assert!(matches(&example.expected, &found), "reweight {} prints:\n{printed}", example.words);
    }
}
