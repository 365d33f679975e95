//! What is documented is what is done: help, manual, guide and code agree.

#![allow(clippy::unwrap_used)]

mod support;

use support::World;
use vcb_mountd::{Code, Exit};

const ERRORS: &str = include_str!("../../docs/errors.md");
const JSON: &str = include_str!("../../docs/json.md");
const CONFIGURATION: &str = include_str!("../../docs/configuration.md");

#[test]
fn exit_codes_agree_in_help_manual_and_guide() {
    let world = World::new();
    let help = world.ok(&["--help"]);
    let short = world.ok(&["-h"]);
    let man = world.ok(&["man"]);
    for exit in Exit::ALL {
        let (number, meaning) = (exit.number(), exit.meaning());
        let line = format!("{number:>5}  {meaning}");
        assert!(help.contains(&line) && short.contains(&line), "help lacks: {line}");
        assert!(man.contains(&format!(".TP\n{number}\n{meaning}\n")), "the manual lacks {number}");
        assert!(ERRORS.contains(&format!("| {number} | {meaning} |")), "docs/errors.md lacks {number}");
    }
    let rows = ERRORS.lines().take_while(|line| !line.starts_with("## Error codes"));
    assert_eq!(
        rows.filter(|line| line.starts_with("| ") && line.as_bytes()[2].is_ascii_digit()).count(),
        Exit::ALL.len()
    );
}

#[test]
fn error_codes_are_documented() {
    for code in Code::ALL {
        let row = format!("| {code} | {} | {} |", code.exit().number(), code.title());
        assert!(ERRORS.contains(&row), "docs/errors.md lacks: {row}");
    }
    assert_eq!(ERRORS.lines().filter(|line| line.starts_with("| E")).count(), Code::ALL.len());
}

#[test]
fn the_documented_configuration_is_valid_and_complete() {
    let world = World::new();
    let example = CONFIGURATION.split("```toml\n").nth(1).unwrap().split("```").next().unwrap();
    // Its paths are those of Unix.
    let root = if std::path::Path::new("/").is_absolute() { "" } else { "C:" };
    // Nor is the host's own log written to.
    let log = world.path("vcbmount.log").display().to_string().replace(std::path::MAIN_SEPARATOR, "/");
    let example = example.replace("/var/log/vcbmount.log", &log).replace("\"/", &format!("\"{root}/"));
    let file = world.write("example.toml", &example);
    let shown = world.ok(&["config", "show", "--config", file.to_str().unwrap()]);
    for key in shown.lines().filter_map(|line| line.split_once(" = ")).map(|(key, _)| key) {
        assert!(example.lines().any(|line| line.starts_with(&format!("{key} = "))), "{key} is not documented");
    }
}

#[test]
fn every_command_has_help_a_section_in_the_manual_and_completions() {
    let world = World::new();
    let help = world.ok(&["--help"]);
    let man = world.ok(&["man"]);
    let bash = world.ok(&["completions", "bash"]);
    let commands: Vec<&str> = help
        .split("Commands:\n")
        .nth(1)
        .unwrap()
        .lines()
        .take_while(|line| line.starts_with("  "))
        .filter(|line| !line.starts_with("    "))
        .map(|line| line.split_whitespace().next().unwrap())
        .collect();
    assert!(commands.len() >= 10, "{commands:?}");
    for command in commands.iter().filter(|command| **command != "help") {
        assert!(!world.ok(&[command, "--help"]).is_empty());
        assert!(man.contains(&format!(".SH {}", command.to_uppercase())), "the manual lacks {command}");
        assert!(bash.contains(command));
        let printing = !matches!(*command, "run" | "cat" | "cp" | "completions" | "man");
        assert!(!printing || JSON.contains(&format!("`{command}")), "docs/json.md lacks {command}");
    }
    for shell in ["zsh", "fish", "elvish", "powershell"] {
        assert!(world.ok(&["completions", shell]).contains("vcbmount"));
    }
}

#[test]
fn wrong_usage_exits_with_2_and_version_with_0() {
    let world = World::new();
    for args in [&["frobnicate"][..], &["mount"], &["ls"], &["export", "x"], &["-q", "-v", "man"], &["mount", "--vm"]] {
        assert_eq!(world.run(args).exit(), 2, "{args:?}");
    }
    assert!(world.ok(&["--version"]).starts_with("vcbmount "));
}
