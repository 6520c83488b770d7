//! POP3: CAPA, STLS, CAPA again (RFC 2449, 2595). A server that knows no CAPA is POP3 all the same.

use super::{Dialogue, Kind, Trouble};
use crate::identify::{identity::Capabilities, talk::LINES_MAX};

pub(super) async fn hold(mut dialogue: Dialogue<'_>) -> Result<(), Trouble> {
    let greeting = dialogue.greeting(Kind::Pop3).await?;
    if !greeting.starts_with('+') {
        dialogue.found.saw("it turns us away at the greeting");
        return Ok(());
    }
    if greeting.contains('<') && greeting.contains('@') {
        dialogue
            .found
            .saw("the greeting has a stamp: APOP is offered");
    }
    let offers_tls = capabilities(&mut dialogue).await?;
    if !dialogue.under_tls() && offers_tls {
        dialogue.talk.command("STLS").await?;
        let line = dialogue.talk.line().await?;
        if line.starts_with("+OK") {
            dialogue = dialogue.secure().await?;
            capabilities(&mut dialogue).await?;
        } else {
            dialogue.refuses_tls(&line);
        }
    }
    dialogue.found.is_settled = true;
    dialogue.talk.leave("QUIT").await;
    Ok(())
}

/// Tells whether STLS is offered.
async fn capabilities(dialogue: &mut Dialogue<'_>) -> Result<bool, Trouble> {
    dialogue.talk.command("CAPA").await?;
    let line = dialogue.talk.line().await?;
    if !line.starts_with("+OK") {
        dialogue.found.saw(format!("CAPA: {line}"));
        return Ok(false);
    }
    let mut all = Vec::new();
    loop {
        let line = dialogue.talk.line().await?;
        if line == "." {
            break;
        }
        if all.len() == LINES_MAX {
            return Err(Trouble::TooMuch);
        }
        all.push(line);
    }
    let mechanisms = all.iter().find_map(|line| {
        let (name, rest) = line.split_once(' ')?;
        name.eq_ignore_ascii_case("SASL").then_some(rest)
    });
    let mechanisms = mechanisms.unwrap_or_default();
    let capabilities = Capabilities {
        auth: mechanisms.split_whitespace().map(str::to_owned).collect(),
        size: None,
        all,
    };
    let offers_tls = capabilities
        .all
        .iter()
        .any(|it| it.eq_ignore_ascii_case("STLS"));
    dialogue.found.can(capabilities);
    Ok(offers_tls)
}
