//! mutt in a terminal of tmux's, told what to do key by key: it shows the same directly and through the proxy, and leaves
//! the same account behind.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use crate::{
    kit::{TestDir, mailbox::Kind, wait_until},
    mailbox_rig::{Rig, Tls, Way},
};

/// A terminal of its own, with a program in it.
struct Terminal {
    socket: PathBuf,
    _dir: TestDir,
}

impl Terminal {
    fn start(command: &str, home: &Path) -> Self {
        let dir = TestDir::new();
        let terminal = Self {
            socket: dir.join("tmux"),
            _dir: dir,
        };
        let command = format!(
            "exec env HOME={home} LC_ALL=C.UTF-8 sh -c '{command}; echo ended with $?; exec cat'",
            home = home.display(),
        );
        terminal.tmux(&["new-session", "-d", "-x", "110", "-y", "40", &command]);
        terminal
    }

    fn tmux(&self, arguments: &[&str]) -> String {
        let output = Command::new("tmux")
            .args(["-f", "/dev/null", "-S"])
            .arg(&self.socket)
            .args(arguments)
            .output()
            .expect("tmux");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Waits for the screen that has this on it.
    #[track_caller]
    fn until(&self, text: &str) -> String {
        let mut screen = String::new();
        let found = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            wait_until(Duration::from_secs(60), text, || {
                screen = self.tmux(&["capture-pane", "-p"]);
                screen.contains(text).then_some(())
            });
        }));
        assert!(found.is_ok(), "no {text:?} on\n{screen}");
        screen
    }

    fn key(&self, key: &str) {
        self.tmux(&["send-keys", key]);
    }

    /// In place of what a prompt proposes.
    fn answer(&self, text: &str) {
        self.key("C-u");
        self.tmux(&["send-keys", "-l", text]);
        self.key("Enter");
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.tmux(&["kill-server"]);
    }
}

/// Reads, saves to another folder, deletes, postpones, sends with a copy to be kept, changes folders, quits. Gives the
/// screens.
fn mutt(rig: &Rig, way: &Way) -> Vec<String> {
    let (scheme, starttls) = match way.tls {
        Tls::None => ("imap", "no"),
        Tls::Start => ("imap", "yes"),
        Tls::Implicit => ("imaps", "no"),
    };
    let body = way.write("body", "What was composed.\n");
    let dir = way.dir.path().display();
    let folder = |name| rig.folder(&[name]);
    let text = format!(
        "set imap_user=\"{user}\" imap_pass=\"{password}\" folder=\"{scheme}://localhost:{port}/\" spoolfile=\"+INBOX\"\n\
         set ssl_starttls={starttls} ssl_force_tls=no certificate_file=\"{ca}\"\n\
         set record=\"+{sent}\" postponed=\"+{drafts}\" tmpdir=\"{dir}\" header_cache=\"\"\n\
         set sendmail=\"/bin/true\" from=\"ben@mailtee.test\" realname=\"Ben\" hostname=\"mailtee.test\" user_agent=yes\n\
         set editor=\"sh -c 'cat {body} >> $0'\" autoedit=no abort_nosubject=no recall=yes postpone=yes\n\
         set sort=mailbox-order confirmappend=no confirmcreate=no delete=yes quit=yes move=no mark_old=no wait_key=no\n\
         set status_format=\"-%f: %m messages, %d deleted-\" index_format=\"%3C %Z %-20.20n %s\" sleep_time=0 beep=no\n\
         set pager_format=\"-%C/%m-\" compose_format=\"-compose-\" timeout=5\n",
        user = way.user.0,
        password = way.user.1,
        port = way.port(),
        ca = way.ca.display(),
        sent = folder("Sent"),
        drafts = folder("Drafts"),
        body = body.display(),
    );
    let rc = way.write("muttrc", &text);
    let terminal = Terminal::start(
        &format!("mutt -n -F {} 2>{dir}/errors", rc.display()),
        way.dir.path(),
    );
    let mut screens = Vec::new();
    let mut shown = |screen: String| {
        // the last line is for what has just happened
        let lines: Vec<_> = screen.lines().map(str::trim_end).collect();
        let text = lines.iter().rposition(|line| line.starts_with('-'));
        let kept = lines.into_iter().take(text.map_or(usize::MAX, |at| at + 1));
        let kept = kept.filter(|line| !line.contains("/mutt-"));
        screens.push(kept.collect::<Vec<_>>().join("\n"));
    };
    let mut inbox = rig.server.account(&way.user)["INBOX"].clone();
    let total = inbox.len();

    shown(terminal.until(&format!("INBOX: {total} messages, 0 deleted")));
    terminal.key("Enter");
    shown(terminal.until(&format!("-1/{total}-")));
    way.passes(&inbox[0].bytes);
    terminal.key("s");
    terminal.until("Save to mailbox");
    terminal.answer(&format!("={}", folder("Work")));
    shown(terminal.until(&format!("-2/{total}-")));
    way.passes(&inbox[1].bytes);
    terminal.key("d");
    shown(terminal.until(&format!("-3/{total}-")));
    way.passes(&inbox[2].bytes);
    terminal.key("i");
    terminal.until("2 deleted");
    // one that is larger than a screen, to its end
    terminal.key("8");
    terminal.until("Jump to");
    terminal.key("Enter");
    terminal.key("Enter");
    terminal.until(&format!("-8/{total}-"));
    way.passes(&inbox[7].bytes);
    terminal.key("End");
    shown(terminal.until(
        &String::from_utf8_lossy(&inbox[7].bytes[inbox[7].bytes.len() - 70..]).trim_end()[..60],
    ));
    terminal.key("i");
    terminal.until("2 deleted");
    terminal.key("$");
    shown(terminal.until(&format!("{} messages, 0 deleted", total - 2)));
    inbox.drain(..2);

    terminal.key("m");
    terminal.until("To:");
    terminal.answer("carol@mailtee.test");
    terminal.until("Subject:");
    terminal.answer("composed here");
    shown(terminal.until("Security:"));
    terminal.key("P");
    terminal.until("Message postponed");
    // what was postponed is read to go on with it
    let drafts = rig.server.account(&way.user);
    way.passes(&drafts[&folder("Drafts")][0].bytes);
    terminal.key("m");
    shown(terminal.until("Security:"));
    terminal.key("y");
    terminal.until("Mail sent");
    let account = rig.server.account(&way.user);
    way.passes(&account[&folder("Sent")][0].bytes);
    assert!(account[&folder("Drafts")].is_empty(), "it was sent");

    for name in ["Work", "Sent"] {
        terminal.key("c");
        terminal.until("Open mailbox");
        terminal.answer(&format!("={}", folder(name)));
        shown(terminal.until(&format!("={}: ", folder(name))));
    }
    terminal.key("Enter");
    let sent = terminal.until("What was composed.");
    assert!(sent.contains("composed here"), "{sent}");
    terminal.key("q");
    terminal.until("0 deleted");
    terminal.key("q");
    terminal.until("ended with 0");
    screens
}

#[test]
fn mutt_before_dovecot() {
    Rig::before(Kind::Dovecot, Tls::None, Tls::Implicit).same(mutt);
}

#[test]
fn mutt_before_cyrus() {
    Rig::before(Kind::Cyrus, Tls::Start, Tls::Start).same(mutt);
}

#[test]
fn mutt_before_courier() {
    Rig::before(Kind::Courier, Tls::None, Tls::None).same(mutt);
}
