//! `volvelle token`: makes, lists and revokes the tokens that a server accepts.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use serde_json::json;

use super::{CliError, Global, Output};
use crate::report;
use crate::server::{Scope, Token, TokenFile};
use crate::settings::parse_age;
use crate::store::Timestamp;

/// Arguments of `token`.
#[derive(Debug, Args)]
pub struct TokenArgs {
    #[command(subcommand)]
    action: Action,
    /// The file of tokens [default: `serve/tokens` in the cache]
    #[arg(long, global = true, value_name = "FILE")]
    tokens: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Make a token and print it; it can't be printed again
    New {
        /// Who or what will use it
        name: String,
        /// What it allows
        #[arg(long, value_enum)]
        scope: ScopeArg,
        /// After what time it ends, such as 90d; without this never
        #[arg(long, value_name = "TIME", value_parser = parse_age)]
        expires: Option<Duration>,
    },
    /// List the tokens, without what only their users know
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Take a token back; servers that run notice at once
    Revoke {
        /// Its name
        name: String,
    },
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum ScopeArg {
    Read,
    /// Reading as well
    Write,
}

pub(super) fn run(args: &TokenArgs, global: &Global, output: &mut Output) -> Result<(), CliError> {
    let file = match &args.tokens {
        Some(path) => TokenFile::at(path.clone()),
        None => TokenFile::of_store(global.local_store(None)?.root()),
    };
    match &args.action {
        Action::New { name, scope, expires } => {
            let scope = match scope {
                ScopeArg::Read => Scope::Read,
                ScopeArg::Write => Scope::Write,
            };
            let token = file.add(name, scope, *expires)?;
            output.line(&token)
        }
        Action::List { json } => list(&file, *json, output),
        Action::Revoke { name } => Ok(file.revoke(name)?),
    }
}

fn list(file: &TokenFile, json: bool, output: &mut Output) -> Result<(), CliError> {
    let (tokens, now) = (file.read()?, Timestamp::now());
    if json {
        let shown = tokens.iter().map(|token| {
            json!({
                "name": token.name,
                "scope": token.scope,
                "created": token.created,
                "expires": token.expires,
                "expired": token.is_expired(now),
            })
        });
        return output.json(&shown.collect::<Vec<_>>());
    }
    let mut rows = vec![["name", "scope", "created", "expires"].map(str::to_owned).to_vec()];
    rows.extend(tokens.iter().map(|token| row(token, now)));
    output.text(&report::table(&rows))
}

fn row(token: &Token, now: Timestamp) -> Vec<String> {
    let scope = match token.scope {
        Scope::Read => "read",
        Scope::Write => "write",
    };
    let expires = match token.expires {
        None => "never".to_owned(),
        Some(expires) if token.is_expired(now) => format!("{expires} (expired)"),
        Some(expires) => expires.to_string(),
    };
    vec![token.name.clone(), scope.to_owned(), token.created.to_string(), expires]
}
