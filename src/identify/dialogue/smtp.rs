//! SMTP and LMTP: one greeting, two protocols. EHLO tells SMTP, LHLO tells LMTP (RFC 2033 section 4.1: an LMTP server must
//! not take EHLO); what the greeting calls itself is not asked.

use super::{Dialogue, Kind, Trouble};
use crate::identify::{identity::Capabilities, talk::LINES_MAX};

struct Reply {
    code: u16,
    lines: Vec<String>,
}

impl Reply {
    fn is_well(&self) -> bool {
        self.code / 100 == 2
    }
}

pub(super) async fn hold(mut dialogue: Dialogue<'_>) -> Result<(), Trouble> {
    let greeting = greeting(&mut dialogue).await?;
    if !greeting.is_well() {
        dialogue.found.saw("it turns us away at the greeting");
        dialogue.talk.leave("QUIT").await;
        return Ok(());
    }
    let Some(hello) = introduce(&mut dialogue).await? else {
        dialogue.talk.leave("QUIT").await;
        return Ok(());
    };
    let offers_tls = |dialogue: &Dialogue<'_>| {
        let plain = dialogue.found.plain.iter();
        plain
            .flat_map(|it| &it.all)
            .any(|it| it.eq_ignore_ascii_case("STARTTLS"))
    };
    if !dialogue.under_tls() && offers_tls(&dialogue) {
        let agreed = ask(&mut dialogue, "STARTTLS").await?;
        if agreed.code == 220 {
            dialogue = dialogue.secure().await?;
            let reply = ask(&mut dialogue, &hello).await?;
            if reply.is_well() {
                dialogue.found.can(keywords(&reply));
            }
        } else {
            let line = agreed.lines.first().cloned().unwrap_or_default();
            dialogue.refuses_tls(&format!("{} {line}", agreed.code));
        }
    }
    dialogue.found.is_settled = true;
    dialogue.talk.leave("QUIT").await;
    Ok(())
}

/// The whole greeting: postscreen says its first line and keeps the last back, to see who speaks too early.
async fn greeting(dialogue: &mut Dialogue<'_>) -> Result<Reply, Trouble> {
    let mut lines = Vec::new();
    loop {
        let line = dialogue.greeting(Kind::Smtp).await?;
        let (code, last, text) = parts(&line)?;
        lines.push(text);
        if last {
            return Ok(Reply { code, lines });
        }
        if lines.len() == LINES_MAX {
            return Err(Trouble::TooMuch);
        }
    }
}

/// Says hello in each way until one is taken; gives the hello that was.
async fn introduce(dialogue: &mut Dialogue<'_>) -> Result<Option<String>, Trouble> {
    let name = dialogue.talk.own_literal();
    for (verb, kind) in [
        ("EHLO", Kind::Smtp),
        ("LHLO", Kind::Lmtp),
        ("HELO", Kind::Smtp),
    ] {
        let hello = format!("{verb} {name}");
        let reply = ask(dialogue, &hello).await?;
        dialogue.found.saw(format!("{verb}: {}", reply.code));
        match reply.code {
            // Not a refusal of the verb: it goes by the greeting's word, SMTP.
            421 => return Ok(None),
            _ if reply.is_well() => {
                dialogue.found.kind = kind;
                dialogue.found.can(keywords(&reply));
                return Ok(Some(hello));
            }
            _ => {}
        }
    }
    dialogue.found.kind = Kind::Unknown;
    dialogue
        .found
        .saw("it greets like SMTP, and takes neither EHLO nor LHLO nor HELO");
    Ok(None)
}

async fn ask(dialogue: &mut Dialogue<'_>, command: &str) -> Result<Reply, Trouble> {
    dialogue.talk.command(command).await?;
    let mut lines = Vec::new();
    loop {
        let line = dialogue.talk.line().await?;
        let (code, last, text) = parts(&line)?;
        lines.push(text);
        if last {
            return Ok(Reply { code, lines });
        }
        if lines.len() == LINES_MAX {
            return Err(Trouble::TooMuch);
        }
    }
}

/// Code, whether it is the last line, text (RFC 5321 section 4.2.1).
fn parts(line: &str) -> Result<(u16, bool, String), Trouble> {
    let code = line.get(..3).and_then(|code| code.parse().ok());
    let code = code.ok_or_else(|| Trouble::Broken(format!("no SMTP reply: {line}")))?;
    let text = line.get(4..).unwrap_or_default().to_owned();
    Ok((code, line.as_bytes().get(3) != Some(&b'-'), text))
}

/// The lines after the first are keywords with parameters.
fn keywords(reply: &Reply) -> Capabilities {
    let all: Vec<String> = reply.lines.iter().skip(1).cloned().collect();
    let parameters = |keyword: &str| {
        all.iter().find_map(|line| {
            let (name, rest) = line.split_once(' ').unwrap_or((line, ""));
            name.eq_ignore_ascii_case(keyword).then(|| rest.to_owned())
        })
    };
    let auth = parameters("AUTH").unwrap_or_default();
    Capabilities {
        auth: auth.split_whitespace().map(str::to_owned).collect(),
        size: parameters("SIZE").and_then(|size| size.trim().parse().ok()),
        all,
    }
}
