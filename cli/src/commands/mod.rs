//! One file for each group of verbs.

mod catalog;
mod evaluate;
mod features;
mod keys;
mod publish;
mod query;
mod services;
mod train;
mod up;

use anyhow::Result;

use crate::args::{Args, Command, KeysCommand};
use crate::home::Home;

pub(crate) async fn run(args: Args) -> Result<()> {
    let home = Home::of(&args)?;
    let format = args.format;
    match args.command {
        Command::Keys(KeysCommand::New(args)) => keys::new(&home, format, &args),
        Command::Train(args) => train::run(format, &args),
        Command::Features(args) => features::run(format, &args),
        Command::Inspect(args) => publish::inspect(format, &args),
        Command::Publish(args) => publish::run(&home, format, &args).await,
        Command::Approve(args) => catalog::approve(&home, format, &args).await,
        Command::Revoke(args) => catalog::revoke(&home, format, &args).await,
        Command::Catalog => catalog::list(&home, format).await,
        Command::Workers => catalog::workers(&home, format).await,
        Command::Token(args) => catalog::token(&home, format, &args).await,
        Command::Query(args) => query::run(&home, format, &args).await,
        Command::Evaluate(args) => evaluate::run(&home, format, &args).await,
        Command::Up(args) => up::run(&home, format, &args).await,
        Command::Registry(args) => services::registry(&args).await,
        Command::Gateway(args) => services::gateway(&args).await,
        Command::Worker(args) => services::worker(&args).await,
    }
}
