//! `deploy/`: the unit is what systemd takes, the Dockerfile copies what is there.

use std::{fs, path::Path, process::Command};

use crate::kit::TestDir;

fn deploy() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/deploy"))
}

#[test]
fn systemd_has_nothing_to_say_about_the_unit() {
    let installed = "ExecStart=/usr/bin/mailtee ";
    let unit = fs::read_to_string(deploy().join("mailtee.service")).unwrap();
    assert!(unit.contains(installed), "{unit}");
    // What it starts must be there for the check.
    let built = format!("ExecStart={} ", env!("CARGO_BIN_EXE_mailtee"));
    let dir = TestDir::new();
    let file = dir.join("mailtee.service");
    fs::write(&file, unit.replace(installed, &built)).unwrap();
    let output = Command::new("systemd-analyze")
        .args(["verify", "--man=no", "--recursive-errors=no"])
        .arg(&file)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!((said.trim(), output.status.code()), ("", Some(0)));
}

#[test]
fn the_image_is_built_of_what_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let file = fs::read_to_string(deploy().join("Dockerfile")).unwrap();
    let let_in = fs::read_to_string(deploy().join("Dockerfile.dockerignore")).unwrap();
    let copied: Vec<&str> = file
        .lines()
        .filter_map(|line| line.strip_prefix("COPY "))
        .filter(|sources| !sources.starts_with("--from"))
        .flat_map(|line| {
            let mut words: Vec<&str> = line.split_whitespace().collect();
            words.pop();
            words
        })
        .map(|path| path.trim_start_matches("./"))
        .collect();
    assert!(copied.len() >= 5, "{copied:?}");
    for path in copied {
        assert!(root.join(path).exists(), "{path}");
        let exception = format!("!{path}");
        assert!(let_in.lines().any(|line| line == exception), "{path}");
    }
    let image_config = "deploy/mailtee.toml /etc/mailtee/mailtee.toml";
    assert!(file.contains(image_config), "{file}");
    let manifest = fs::read_to_string(root.join("Cargo.toml")).unwrap();
    let rust = manifest
        .lines()
        .find_map(|line| line.strip_prefix("rust-version = \""))
        .and_then(|rest| rest.split('"').next())
        .expect("a rust-version");
    assert!(file.contains(&format!("FROM rust:{rust}-")), "{rust}");
}
