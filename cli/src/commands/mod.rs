//! One file for each group of verbs.

mod audit;
mod audit_privacy;
mod card;
mod card_figures;
mod catalog;
mod cert;
mod conform;
mod distil;
mod doctor;
mod estimate;
mod evaluate;
mod evaluate_local;
mod features;
mod govern;
mod help;
mod keys;
mod load;
mod local;
mod model;
mod org;
mod profiles;
mod publish;
mod query;
mod serve;
mod services;
mod train;
mod up;
mod verify;
mod workers;

use anyhow::Result;

use crate::args::{Args, Command};
use crate::home::Home;

pub(crate) async fn run(args: Args) -> Result<()> {
    let home = Home::of(&args)?;
    let format = args.format;
    match args.command {
        Command::Keys(command) => keys::run(&home, format, &command),
        Command::Train(args) => train::run(format, &args),
        Command::Import(args) => train::import(format, &args),
        Command::Distil(args) => distil::run(format, *args),
        Command::AuditPrivacy(args) => audit_privacy::run(format, &args),
        Command::Features(args) => features::run(format, &args),
        Command::Inspect(args) => publish::inspect(format, &args),
        Command::Publish(args) => publish::run(&home, format, &args).await,
        Command::Conform(args) => conform::run(&home, format, &args).await,
        Command::Approve(args) => catalog::approve(&home, format, &args).await,
        Command::Revoke(args) => catalog::revoke(&home, format, &args).await,
        Command::Catalog => catalog::list(&home, format).await,
        Command::Workers(args) => workers::run(&home, format, args.command).await,
        Command::Org(command) => org::org(&home, format, &command).await,
        Command::Consortium(command) => org::consortia(&home, format, &command).await,
        Command::Member(command) => org::members(&home, format, &command).await,
        Command::Token(command) => org::tokens(&home, format, &command).await,
        Command::Model(command) => model::models(&home, format, &command).await,
        Command::Alias(command) => model::aliases(&home, format, &command).await,
        Command::Quota(command) => model::quotas(&home, format, &command).await,
        Command::Audit(command) => audit::run(&home, format, &command).await,
        Command::Join(args) => cert::join(format, &args),
        Command::Cert(command) => cert::run(&home, format, &command).await,
        Command::Card(command) => card::run(&home, format, &command).await,
        Command::Verify(args) => verify::run(&home, format, &args).await,
        Command::Query(args) => query::run(&home, format, &args).await,
        Command::Evaluate(args) if args.encrypted_local => evaluate_local::run(format, &args),
        Command::Evaluate(args) => evaluate::run(&home, format, &args).await,
        Command::Load(args) => load::run(&home, format, &args).await,
        Command::Up(args) if args.foreground => up::run(&home, format, &args).await,
        Command::Up(args) => local::start(&home, format, &args).await,
        Command::Status => local::status(&home, format).await,
        Command::Logs(args) => local::logs(&home, &args).await,
        Command::Stop => local::stop(&home, format).await,
        Command::Reset(args) => local::reset(&home, format, &args).await,
        Command::Serve(args) => serve::run(&home, format, &args).await,
        Command::Profiles(command) => profiles::run(&home, format, &command),
        Command::Doctor => doctor::run(&home, format).await,
        Command::Completions(args) => help::completions(&args),
        Command::Man(args) => help::man(&args),
        Command::Registry(args) => services::registry(format, &args).await,
        Command::Gateway(args) => services::gateway(&args).await,
        Command::Worker(args) => services::worker(format, &args).await,
    }
}
