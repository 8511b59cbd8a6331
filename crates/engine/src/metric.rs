//! What there is to know about a metric: said once, for the recorder and for the documentation.

/// One metric: the recorder is told its `help`, and `docs/metrics.md` has all of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Metric {
    /// `fanlight_` and what it measures; the end tells the unit.
    pub name: &'static str,
    /// What it is.
    pub kind: Kind,
    /// Its labels.
    pub labels: &'static [Label],
    /// What it counts, in one sentence without markup.
    pub help: &'static str,
    /// What the documentation says beyond that, in Markdown: what the labels' values mean.
    pub detail: &'static str,
}

/// A label's name and its values, where these are few and known.
pub type Label = (&'static str, &'static [&'static str]);

/// Metrics that belong together, under a name for the documentation.
#[derive(Debug, Clone, Copy)]
pub struct Section {
    /// The name of its table in `docs/metrics.md`.
    pub name: &'static str,
    /// What it has, in the order of the table.
    pub metrics: &'static [Metric],
}

/// What a metric is to Prometheus.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It only grows.
    Counter,
    /// It is as it is now.
    Gauge,
    /// A distribution over buckets.
    Histogram,
}

/// What a metric's numbers mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// How many.
    Count,
    /// Seconds.
    Seconds,
    /// Bytes.
    Bytes,
    /// A part of one.
    Ratio,
}

impl Metric {
    /// A counter.
    pub const fn counter(name: &'static str, help: &'static str) -> Self {
        Self { name, kind: Kind::Counter, labels: &[], help, detail: "" }
    }

    /// A gauge.
    pub const fn gauge(name: &'static str, help: &'static str) -> Self {
        Self { kind: Kind::Gauge, ..Self::counter(name, help) }
    }

    /// A histogram.
    pub const fn histogram(name: &'static str, help: &'static str) -> Self {
        Self { kind: Kind::Histogram, ..Self::counter(name, help) }
    }

    /// The same with labels.
    #[must_use]
    pub const fn by(self, labels: &'static [Label]) -> Self {
        Self { labels, ..self }
    }

    /// The same with more for the documentation.
    #[must_use]
    pub const fn detail(self, detail: &'static str) -> Self {
        Self { detail, ..self }
    }

    /// As the name's end says.
    pub fn unit(&self) -> Unit {
        match self.name.trim_end_matches("_total").rsplit('_').next() {
            Some("seconds") => Unit::Seconds,
            Some("bytes") => Unit::Bytes,
            Some("ratio") => Unit::Ratio,
            _ => Unit::Count,
        }
    }

    /// Every combination of its labels' values, each with the label's name; none where a label's
    /// values are not known beforehand.
    pub fn series(&self) -> Vec<Vec<(&'static str, &'static str)>> {
        self.labels.iter().fold(vec![Vec::new()], |series, &(name, values)| {
            let with = |before: &Vec<_>, value| [before.as_slice(), &[(name, value)]].concat();
            series
                .iter()
                .flat_map(|before| values.iter().map(move |&value| with(before, value)))
                .collect()
        })
    }
}

/// The values of a label that are not known beforehand.
pub const OPEN: &[&str] = &[];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_name_tells_the_unit() {
        for (name, unit) in [
            ("fanlight_received_bytes_total", Unit::Bytes),
            ("fanlight_fanout_seconds", Unit::Seconds),
            ("fanlight_limit_used_ratio", Unit::Ratio),
            ("fanlight_closes_total", Unit::Count),
        ] {
            assert_eq!(Metric::counter(name, "").unit(), unit, "{name}");
        }
    }

    #[test]
    fn series_are_all_combinations_of_known_values_and_none_where_a_value_is_open() {
        let metric = Metric::counter("a_total", "");
        assert_eq!(metric.series(), [vec![]]);
        let metric = metric.by(&[("x", &["1", "2"]), ("y", &["3"])]);
        assert_eq!(metric.series(), [vec![("x", "1"), ("y", "3")], vec![("x", "2"), ("y", "3")]]);
        assert!(metric.by(&[("x", &["1"]), ("shard", OPEN)]).series().is_empty());
    }
}
