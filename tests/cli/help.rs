//! What every verb says about itself.

use crate::support::Cmd;

/// Every command that has help, and the name of its snapshots.
const COMMANDS: [(&str, &str); 22] = [
    ("", "reweight"),
    ("inspect", "inspect"),
    ("calibrate", "calibrate"),
    ("plan", "plan"),
    ("quantize", "quantize"),
    ("convert", "convert"),
    ("eval", "eval"),
    ("diff", "diff"),
    ("verify", "verify"),
    ("patch", "patch"),
    ("patch extract", "patch-extract"),
    ("patch diff", "patch-diff"),
    ("patch add", "patch-add"),
    ("patch remove", "patch-remove"),
    ("patch scale", "patch-scale"),
    ("patch list", "patch-list"),
    ("patch verify", "patch-verify"),
    ("patch compare", "patch-compare"),
    ("bench", "bench"),
    ("generate", "generate"),
    ("generate completions", "generate-completions"),
    ("generate man", "generate-man"),
];

#[test]
fn short_help_is_as_committed_and_fits_a_terminal() {
    for (command, name) in COMMANDS {
        let ran = Cmd::new(&format!("{command} -h")).run();
        ran.matches_snapshot(&format!("{name}-short"));
        let help = ran.data();
        let widest = help.lines().map(|line| line.chars().count()).max();
        assert!(widest <= Some(80), "`{command} -h` is {widest:?} columns wide");
        let height = help.lines().count();
        assert!(height <= 40, "`{command} -h` is {height} lines high");
    }
}

#[test]
fn long_help_is_as_committed_and_ends_with_examples() {
    for (command, name) in COMMANDS {
        let ran = Cmd::new(&format!("{command} --help")).run();
        ran.matches_snapshot(&format!("{name}-long"));
        let help = ran.data();
        let wide: Vec<&str> = help.lines().filter(|line| line.chars().count() > 80).collect();
        assert!(wide.is_empty(), "`{command} --help` is wider than 80 columns: {wide:?}");
        let (_, examples) = help.split_once("\nExamples:\n").expect("there are examples");
        let n_examples = examples.lines().filter(|line| line.starts_with("  reweight ")).count();
        assert!((2..=4).contains(&n_examples), "`{command} --help` has {n_examples} examples");
        assert_eq!(examples.lines().count(), n_examples, "an example of `{command}` does not fit its line");
    }
}

/// An example that the parser refuses would teach a mistake. `|` and `>` end the words that the program itself sees.
#[test]
fn every_example_is_a_command_line_that_parses() {
    let mut n_checked = 0;
    for (command, _) in COMMANDS {
        let help = Cmd::new(&format!("{command} --help")).run().data();
        for line in help.lines().filter_map(|line| line.strip_prefix("  reweight ")) {
            let words = line.split(['|', '>']).next().expect("a split has a first part");
            let ran = words.split_whitespace().fold(Cmd::new(""), |cmd, word| cmd.arg(word.trim_matches('\''))).run();
            let refused = ran.stderr.contains("For more information, try '--help'");
            assert!(!refused, "`reweight {line}` is refused:\n{}", ran.stderr);
            n_checked += 1;
        }
    }
    assert!(n_checked >= 2 * COMMANDS.len(), "only {n_checked} examples were found");
}

#[test]
fn help_is_a_verb_too() {
    for (command, _) in COMMANDS {
        let verb = Cmd::new(&format!("help {command}")).run().data();
        assert_eq!(verb, Cmd::new(&format!("{command} --help")).run().data(), "help {command}");
    }
}

#[test]
fn every_verb_that_is_told_of_is_there_and_the_other_way_round() {
    let help = Cmd::new("-h").run().data();
    let commands = help.split("Commands:\n").nth(1).expect("a list of commands").split("\n\n").next().unwrap_or("");
    let told: Vec<&str> = commands.lines().filter_map(|line| line.split_whitespace().next()).collect();
    let known: Vec<&str> = COMMANDS.iter().map(|(name, _)| *name).filter(|name| !name.is_empty()).collect();
    let verbs: Vec<&str> = known.iter().filter(|name| !name.contains(' ')).copied().chain(["help"]).collect();
    assert_eq!(told, verbs);
}

#[test]
fn the_version_is_the_package_s() {
    for option in ["-V", "--version"] {
        assert_eq!(Cmd::new(option).run().data(), format!("reweight {}\n", env!("CARGO_PKG_VERSION")));
    }
}
