//! A webhook that Alertmanager posts to: keeps each alert's name and state.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex},
};

/// One alert of one notification.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alert {
    pub name: String,
    /// `firing` or `resolved`
    pub status: String,
    pub labels: serde_json::Value,
    pub annotations: serde_json::Value,
}

pub struct Webhook {
    address: SocketAddr,
    alerts: Arc<Mutex<Vec<Alert>>>,
}

impl Webhook {
    /// Serves until the test's process ends; nothing waits for its end.
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a loopback listener");
        let address = listener.local_addr().expect("bound");
        let alerts: Arc<Mutex<Vec<Alert>>> = Arc::default();
        let kept = alerts.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if let Some(mut posted) = notification(stream) {
                    kept.lock().expect("never poisoned").append(&mut posted);
                }
            }
        });
        Self { address, alerts }
    }

    pub fn url(&self) -> String {
        format!("http://{}/", self.address)
    }

    /// Every alert told so far, in order.
    pub fn alerts(&self) -> Vec<Alert> {
        self.alerts.lock().expect("never poisoned").clone()
    }

    pub fn heard(&self, name: &str, status: &str) -> Option<Alert> {
        let alerts = self.alerts();
        alerts
            .into_iter()
            .find(|alert| alert.name == name && alert.status == status)
    }
}

fn notification(stream: TcpStream) -> Option<Vec<Alert>> {
    let mut writer = stream.try_clone().ok()?;
    let mut reader = BufReader::new(stream);
    let mut length = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        }
        if line.trim_end().is_empty() {
            break;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    writer
        .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        .ok()?;
    let body: serde_json::Value = serde_json::from_slice(&body).ok()?;
    let alerts = body["alerts"].as_array()?;
    Some(
        alerts
            .iter()
            .map(|alert| Alert {
                name: text(&alert["labels"]["alertname"]),
                status: text(&alert["status"]),
                labels: alert["labels"].clone(),
                annotations: alert["annotations"].clone(),
            })
            .collect(),
    )
}

fn text(value: &serde_json::Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}
