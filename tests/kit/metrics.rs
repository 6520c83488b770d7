//! A scrape, looked up by name and labels.

/// One scrape of `/metrics`.
#[derive(Clone, Debug)]
pub struct Metrics(pub String);

impl Metrics {
    /// The value of the one series with this name (`mailtee_` is put before it) and, at least, these labels.
    pub fn find(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let wanted = format!("mailtee_{name}");
        let mut found = self.0.lines().filter_map(|line| {
            let (series, value) = line.rsplit_once(' ')?;
            let (series_name, series_labels) = series.split_once('{').unwrap_or((series, ""));
            let fits = series_name == wanted
                && labels
                    .iter()
                    .all(|(key, value)| series_labels.contains(&format!("{key}=\"{value}\"")));
            fits.then(|| value.parse::<f64>().ok()).flatten()
        });
        found.next()
    }

    /// The same, where the series must exist.
    #[track_caller]
    pub fn value(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.find(name, labels)
            .unwrap_or_else(|| panic!("no series mailtee_{name} {labels:?} in\n{}", self.0))
    }
}
