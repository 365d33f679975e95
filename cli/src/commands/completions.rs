//! Completion scripts and the manual page, from the same definition as `--help`.

use clap::CommandFactory;
use vcb_mountd::{Code, Exit, Failure, Outcome};

use crate::args::Cli;
use crate::output::Out;

/// Prints the completion script for `shell`.
pub fn completions(shell: clap_complete::Shell) -> Outcome<Exit> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "vcbmount", &mut script);
    print(&script)
}

/// Prints the manual page: the program's, then each command's as a section of its own.
pub fn man() -> Outcome<Exit> {
    let failed = |err: std::io::Error| Failure::new(Code::Failed, "cannot make the manual page").because(err);
    let mut command = Cli::command();
    command.build();
    let mut page = Vec::new();
    let man = clap_mangen::Man::new(command.clone());
    man.render_title(&mut page).map_err(failed)?;
    man.render_name_section(&mut page).map_err(failed)?;
    man.render_synopsis_section(&mut page).map_err(failed)?;
    man.render_description_section(&mut page).map_err(failed)?;
    man.render_options_section(&mut page).map_err(failed)?;
    render_commands(&command, "", &mut page).map_err(failed)?;
    render_exit_codes(&mut page);
    man.render_version_section(&mut page).map_err(failed)?;
    print(&page)
}

/// A section per command that is not hidden, with its own options; global ones stand in the first section.
fn render_commands(command: &clap::Command, prefix: &str, page: &mut Vec<u8>) -> std::io::Result<()> {
    for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set() && sub.get_name() != "help") {
        let name = format!("{prefix}{}", sub.get_name());
        page.extend_from_slice(format!(".SH {}\n", name.to_uppercase().replace('-', "\\-")).as_bytes());
        let own = sub.clone().mut_args(|arg| if arg.is_global_set() { arg.hide(true) } else { arg });
        let man = clap_mangen::Man::new(own);
        let mut section = Vec::new();
        man.render_description_section(&mut section)?;
        man.render_synopsis_section(&mut section)?;
        man.render_options_section(&mut section)?;
        // Sections of a command are subsections of the page.
        page.extend_from_slice(String::from_utf8_lossy(&section).replace(".SH ", ".SS ").as_bytes());
        render_commands(sub, &format!("{name} "), page)?;
    }
    Ok(())
}

fn render_exit_codes(page: &mut Vec<u8>) {
    page.extend_from_slice(b".SH \"EXIT STATUS\"\n");
    for exit in Exit::ALL {
        page.extend_from_slice(format!(".TP\n{}\n{}\n", exit.number(), exit.meaning()).as_bytes());
    }
}

fn print(bytes: &[u8]) -> Outcome<Exit> {
    let mut out = Out::new();
    out.bytes(bytes)?;
    out.finish()
}
