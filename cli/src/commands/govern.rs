//! What the verbs of administrators share: the connection, questions, times, tables.

use std::io::{BufRead, IsTerminal};

use anyhow::{Result, bail};
use chemxor_client::governance::Governance;
use serde_json::Value;
use time::format_description::well_known::Rfc3339;

use crate::home::Home;
use crate::output;

/// The registry with the first token that the profile has of these roles.
pub(crate) async fn registry(home: &Home, roles: &[&str]) -> Result<Governance> {
    let access = home.registry_as(roles)?;
    Ok(Governance::connect(access).await?)
}

/// Has `word` typed before something that others feel at once; `yes` skips the question.
pub(crate) fn ask(yes: bool, word: &str, what: &str, consequence: &str) -> Result<()> {
    if yes {
        return Ok(());
    }
    if !std::io::stdin().is_terminal() {
        bail!("{word} {what}: {consequence}; pass --yes to do it without a question");
    }
    eprint!("{word} {what}: {consequence}. Type `{word}`: ");
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    if answer.trim() != word {
        bail!("nothing was changed");
    }
    Ok(())
}

/// A time in milliseconds since 1970 as text, UTC; nothing for 0.
pub(crate) fn moment(unix_ms: i64) -> String {
    if unix_ms == 0 {
        return String::new();
    }
    time::OffsetDateTime::from_unix_timestamp(unix_ms.div_euclid(1000))
        .ok()
        .and_then(|time| time.format(&Rfc3339).ok())
        .unwrap_or_default()
}

/// The same for JSON.
pub(crate) fn moment_json(unix_ms: i64) -> Value {
    match unix_ms {
        0 => Value::Null,
        ms => Value::String(moment(ms)),
    }
}

/// Prints objects as a table: one column for each key of `columns`.
pub(crate) fn rows(columns: &[(&str, &str)], values: &[Value]) {
    let cell = |value: &Value| match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Array(items) => items
            .iter()
            .map(|item| {
                item.as_str()
                    .map_or_else(|| item.to_string(), str::to_owned)
            })
            .collect::<Vec<_>>()
            .join(","),
        other => other.to_string(),
    };
    let header: Vec<&str> = columns.iter().map(|(title, _)| *title).collect();
    let rows: Vec<Vec<String>> = values
        .iter()
        .map(|value| columns.iter().map(|(_, key)| cell(&value[*key])).collect())
        .collect();
    output::table(&header, &rows);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_utc_and_nothing_is_nothing() {
        assert_eq!(moment(0), "");
        assert_eq!(moment(1_700_000_000_999), "2023-11-14T22:13:20Z");
        assert_eq!(moment(i64::MAX), "");
        assert_eq!(moment_json(0), Value::Null);
    }
}
