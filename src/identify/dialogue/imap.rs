//! IMAP: CAPABILITY, ID where it is offered, NAMESPACE where the greeting is PREAUTH, STARTTLS, LOGOUT (RFC 3501, 2971, 2342).

use super::{Dialogue, Kind, Trouble};
use crate::identify::{identity::Capabilities, talk::LINES_MAX};

struct Answer {
    /// Untagged responses, without their `* `.
    untagged: Vec<String>,
    well: bool,
    /// The tagged line, without its tag.
    told: String,
}

pub(super) async fn hold(mut dialogue: Dialogue<'_>) -> Result<(), Trouble> {
    let greeting = dialogue.greeting(Kind::Imap).await?.to_ascii_uppercase();
    if greeting.starts_with("* BYE") {
        dialogue.found.saw("it turns us away at the greeting");
        return Ok(());
    }
    let plain = capabilities(&mut dialogue).await?;
    let mut has_introduced = false;
    if has(&plain, "ID") {
        introduce(&mut dialogue).await?;
        has_introduced = true;
    }
    if greeting.starts_with("* PREAUTH") {
        for response in ask(&mut dialogue, "NAMESPACE").await?.untagged {
            if response
                .get(..9)
                .is_some_and(|it| it.eq_ignore_ascii_case("NAMESPACE"))
            {
                dialogue.found.tells(&response);
            }
        }
    } else {
        dialogue.found.saw("NAMESPACE: told after a login only");
    }
    if !dialogue.under_tls() && has(&plain, "STARTTLS") {
        let agreed = ask(&mut dialogue, "STARTTLS").await?;
        if agreed.well {
            dialogue = dialogue.secure().await?;
            let secured = capabilities(&mut dialogue).await?;
            if !has_introduced && has(&secured, "ID") {
                introduce(&mut dialogue).await?;
            }
        } else {
            dialogue.refuses_tls(&agreed.told);
        }
    }
    dialogue.found.is_settled = true;
    dialogue.talk.leave("z LOGOUT").await;
    Ok(())
}

fn has(capabilities: &Capabilities, name: &str) -> bool {
    let mut all = capabilities.all.iter();
    all.any(|it| it.eq_ignore_ascii_case(name))
}

async fn capabilities(dialogue: &mut Dialogue<'_>) -> Result<Capabilities, Trouble> {
    let answer = ask(dialogue, "CAPABILITY").await?;
    let listed = answer.untagged.iter().find_map(|response| {
        let (name, rest) = response.split_once(' ')?;
        name.eq_ignore_ascii_case("CAPABILITY").then_some(rest)
    });
    let all: Vec<String> = listed
        .unwrap_or_default()
        .split_whitespace()
        .map(str::to_owned)
        .collect();
    let mechanisms = all.iter().filter_map(|it| {
        let is_auth = it.get(..5)?.eq_ignore_ascii_case("AUTH=");
        is_auth.then(|| it[5..].to_owned())
    });
    let capabilities = Capabilities {
        auth: mechanisms.collect(),
        size: None,
        all,
    };
    dialogue.found.can(capabilities.clone());
    Ok(capabilities)
}

/// Some servers tell who they are to those alone who say it of themselves.
async fn introduce(dialogue: &mut Dialogue<'_>) -> Result<(), Trouble> {
    for response in ask(dialogue, "ID (\"name\" \"mailtee\")").await?.untagged {
        let Some((name, told)) = response.split_once(' ') else {
            continue;
        };
        if name.eq_ignore_ascii_case("ID") && !told.eq_ignore_ascii_case("NIL") {
            dialogue.found.tells(&format!("ID {told}"));
        }
    }
    Ok(())
}

/// One command at a time, so the tag need not differ.
async fn ask(dialogue: &mut Dialogue<'_>, command: &str) -> Result<Answer, Trouble> {
    dialogue.talk.command(&format!("a {command}")).await?;
    let mut untagged = Vec::new();
    while untagged.len() < LINES_MAX {
        let mut line = dialogue.talk.line().await?;
        if let Some(result) = line.strip_prefix("a ") {
            let well = result
                .get(..2)
                .is_some_and(|it| it.eq_ignore_ascii_case("OK"));
            let told = result.to_owned();
            return Ok(Answer {
                untagged,
                well,
                told,
            });
        }
        // A status is free text and carries no literal, whatever its end looks like.
        let is_status = ["* OK", "* NO", "* BAD", "* BYE", "* PREAUTH"]
            .iter()
            .any(|status| {
                line.get(..status.len())
                    .is_some_and(|it| it.eq_ignore_ascii_case(status))
            });
        while let Some(length) = (!is_status).then(|| literal(&line)).flatten() {
            let bytes = dialogue.talk.exactly(length).await?;
            line.truncate(line.rfind('{').unwrap_or_default());
            // Told as the quoted string that it could have been.
            line.push_str(&format!("\"{}\"", String::from_utf8_lossy(&bytes)));
            line.push_str(&dialogue.talk.line().await?);
        }
        if let Some(response) = line.strip_prefix("* ") {
            untagged.push(response.to_owned());
        }
    }
    Err(Trouble::TooMuch)
}

/// The length in `… {n}` at a line's end.
fn literal(line: &str) -> Option<usize> {
    let inside = line.strip_suffix('}')?;
    let (_, length) = inside.rsplit_once('{')?;
    length.parse().ok()
}
