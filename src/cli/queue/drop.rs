//! `mailtee queue drop`: says which capture would never reach a target, and with `--yes` sees to it.

use serde::Serialize;
use serde_json::Value;

use super::{absent, shown};
use crate::{
    cli::{
        Format, Verdict,
        output::{self, printable},
        source::{Change, Source},
    },
    message::CaptureId,
};

/// What was dropped, or would be.
#[derive(Serialize)]
struct Dropped<'a> {
    id: CaptureId,
    target: &'a str,
    sender: String,
    recipients: usize,
    bytes: u64,
    /// What the target had of it before.
    state: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<&'a str>,
    dropped: bool,
}

pub(super) async fn run(
    source: &Source,
    id: CaptureId,
    target: &str,
    yes: bool,
    format: Format,
) -> anyhow::Result<Verdict> {
    let Some(capture) = source.show(id).await? else {
        return absent(id);
    };
    let mut states = capture["targets"].as_array().into_iter().flatten();
    let state = states.find(|pair| pair[0] == *target);
    let state = state.map_or(&Value::Null, |pair| &pair[1]);
    let name = state["state"].as_str().unwrap_or("done");
    if !["parked", "held"].contains(&name) {
        eprintln!("mailtee: {id}: {name} for {target}: only what is parked or held can be dropped");
        return Ok(Verdict::Amiss);
    }
    // It may have gone its way since it was shown: the journal looks again.
    let dropped = yes && source.change(Change::Drop, id, Some(target)).await?;
    let sighting = &capture["sighting"];
    let envelope = &sighting["origin"]["transaction"]["envelope"];
    let told = Dropped {
        id,
        target,
        sender: shown(&envelope["sender"]),
        recipients: envelope["recipients"].as_array().map_or(0, Vec::len),
        bytes: sighting["bytes"].as_u64().unwrap_or(0),
        state: name,
        why: state["why"].as_str(),
        dropped,
    };
    match format {
        Format::Json => output::line(&serde_json::to_string(&told)?)?,
        Format::Text => output::line(&told.text(yes))?,
    }
    Ok(if dropped {
        Verdict::Well
    } else {
        Verdict::Amiss
    })
}

impl Dropped<'_> {
    fn text(&self, yes: bool) -> String {
        let verb = match (self.dropped, yes) {
            (true, _) => "dropped",
            (false, true) => "not dropped, being on its way by now",
            (false, false) => "would be dropped (say --yes)",
        };
        let why = self.why.map(|why| format!(" ({})", printable(why)));
        format!(
            "{}: {verb} for {}: {} bytes from <{}> to {} recipients, {}{}",
            self.id,
            self.target,
            self.bytes,
            self.sender,
            self.recipients,
            self.state,
            why.unwrap_or_default()
        )
    }
}
