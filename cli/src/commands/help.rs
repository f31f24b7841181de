//! `completions` and `man`, from the definitions of the command line.

use std::io::Write;

use anyhow::{Context, Result};
use clap::CommandFactory;

use crate::args::{Args, CompletionsArgs, ManArgs};

pub(crate) fn completions(args: &CompletionsArgs) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Args::command(), "chemxor", &mut script);
    Ok(std::io::stdout().write_all(&script)?)
}

pub(crate) fn man(args: &ManArgs) -> Result<()> {
    let mut command = Args::command();
    command.build();
    match &args.output {
        None => {
            let mut page = Vec::new();
            clap_mangen::Man::new(command).render(&mut page)?;
            Ok(std::io::stdout().write_all(&page)?)
        }
        Some(folder) => {
            std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
            clap_mangen::generate_to(command, folder)
                .with_context(|| folder.display().to_string())?;
            say!("manual pages written to {}", folder.display());
            Ok(())
        }
    }
}
