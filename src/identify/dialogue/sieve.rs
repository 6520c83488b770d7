//! ManageSieve: the capabilities are the greeting, and come again by themselves after STARTTLS (RFC 5804 sections 1.7 and 2.2).

use super::{Dialogue, Kind, Trouble};
use crate::identify::{identity::Capabilities, talk::LINES_MAX};

pub(super) async fn hold(mut dialogue: Dialogue<'_>) -> Result<(), Trouble> {
    dialogue.found.kind = Kind::ManageSieve;
    let offers_tls = capabilities(&mut dialogue).await?;
    if !dialogue.under_tls() && offers_tls {
        dialogue.talk.command("STARTTLS").await?;
        let line = dialogue.talk.line().await?;
        if is(&line, "OK") {
            dialogue = dialogue.secure().await?;
            capabilities(&mut dialogue).await?;
        } else {
            dialogue.refuses_tls(&line);
        }
    }
    dialogue.talk.leave("LOGOUT").await;
    Ok(())
}

/// Tells whether STARTTLS is offered.
async fn capabilities(dialogue: &mut Dialogue<'_>) -> Result<bool, Trouble> {
    let mut all = Vec::new();
    loop {
        let mut line = dialogue.talk.line().await?;
        if dialogue.found.greeting.is_none() {
            dialogue.heard("it greets", &line);
        }
        if is(&line, "OK") {
            break;
        }
        if is(&line, "NO") || is(&line, "BYE") {
            dialogue.found.saw(format!("it turns us away: {line}"));
            return Ok(false);
        }
        if all.len() == LINES_MAX {
            return Err(Trouble::TooMuch);
        }
        while let Some(length) = literal(&line) {
            let bytes = dialogue.talk.exactly(length).await?;
            let rest = dialogue.talk.line().await?;
            let before = &line[..line.rfind('{').unwrap_or_default()];
            line = format!("{before}{}{rest}", String::from_utf8_lossy(&bytes));
        }
        all.push(line.replace('"', ""));
    }
    let value = |name: &str| {
        all.iter().find_map(|line| {
            let (key, rest) = line.split_once(' ')?;
            key.eq_ignore_ascii_case(name).then(|| rest.to_owned())
        })
    };
    if let Some(software) = value("IMPLEMENTATION") {
        dialogue.found.tells(&format!("IMPLEMENTATION {software}"));
    }
    let capabilities = Capabilities {
        auth: value("SASL")
            .unwrap_or_default()
            .split_whitespace()
            .map(str::to_owned)
            .collect(),
        size: None,
        all,
    };
    let offers_tls = capabilities
        .all
        .iter()
        .any(|it| it.eq_ignore_ascii_case("STARTTLS"));
    dialogue.found.can(capabilities);
    Ok(offers_tls)
}

fn is(line: &str, word: &str) -> bool {
    let first = line.split([' ', '(']).next().unwrap_or_default();
    first.eq_ignore_ascii_case(word)
}

/// The length in `… {n}` or `… {n+}` at a line's end.
fn literal(line: &str) -> Option<usize> {
    let inside = line.strip_suffix('}')?.trim_end_matches('+');
    let (_, length) = inside.rsplit_once('{')?;
    length.parse().ok()
}
