//! NNTP: CAPABILITIES, and goodbye (RFC 3977 section 5.2). It is named so that nobody takes it for mail; its TLS is not asked.

use super::{Dialogue, Kind, Trouble};
use crate::identify::{identity::Capabilities, talk::LINES_MAX};

pub(super) async fn hold(mut dialogue: Dialogue<'_>) -> Result<(), Trouble> {
    let greeting = dialogue.greeting(Kind::Nntp).await?;
    if !greeting.starts_with('2') {
        dialogue.found.saw("it turns us away at the greeting");
        return Ok(());
    }
    dialogue.talk.command("CAPABILITIES").await?;
    let line = dialogue.talk.line().await?;
    dialogue.found.saw(format!("CAPABILITIES: {line}"));
    if line.starts_with("101") {
        let mut all = Vec::new();
        loop {
            let line = dialogue.talk.line().await?;
            if line == "." || all.len() == LINES_MAX {
                break;
            }
            all.push(line);
        }
        let capabilities = Capabilities {
            all,
            ..Capabilities::default()
        };
        dialogue.found.can(capabilities);
    }
    dialogue.talk.leave("QUIT").await;
    Ok(())
}
