//! The figures that a round may give: names, headings, units.

use serde::{Deserialize, Serialize};

/// A figure of one round.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// What connections added to the server's memory, each.
    BytesPerConnection,
    /// The server's memory once all are connected.
    MemoryMib,
    /// The server's file descriptors then.
    FileDescriptors,
    /// How many sessions were made per second.
    ConnectsPerSecond,
    /// The server's CPU time of a session.
    CpuUsPerConnect,
    /// Percentiles, from the intended dial to the session.
    ConnectP50Ms,
    /// See [`Self::ConnectP50Ms`].
    ConnectP99Ms,
    /// From asking for a subscription to its being live.
    SubscribeP99Ms,
    /// The server's CPU time of a delivery, publishing included.
    CpuUsPerDelivery,
    /// The same the other way round.
    DeliveriesPerCpuSecond,
    /// How many deliveries there were per second.
    DeliveriesPerSecond,
    /// Percentiles, from the intended publication to its being accepted.
    PublishP50Ms,
    /// See [`Self::PublishP50Ms`].
    PublishP99Ms,
    /// Percentiles, from the intended publication to a subscriber.
    DeliverP50Ms,
    /// See [`Self::DeliverP50Ms`].
    DeliverP99Ms,
    /// See [`Self::DeliverP50Ms`].
    DeliverP999Ms,
    /// The slowest delivery.
    DeliverMaxMs,
    /// The server's CPU time of one who left and came again, whatever else was done meanwhile.
    CpuUsPerChurn,
    /// Notices of who came and went.
    PresenceNotices,
    /// From the storm until half of all were live again.
    RecoverP50S,
    /// From the storm until 99 in 100 were live again.
    RecoverP99S,
    /// From the storm until all were.
    RecoverAllS,
    /// The server's CPU time from the load's begin to its end, in seconds.
    CpuS,
    /// Attempts to connect that failed.
    Refused,
    /// Slow connections that the server closed.
    SlowClosed,
    /// Requests that were answered by errors.
    Errors,
    /// Deliveries that never came.
    Lost,
    /// The p99 by which publications left later than they should.
    ScheduleLagP99Ms,
    /// The largest share of a core that a client process used.
    ClientCpu,
}

impl Metric {
    /// A column's heading.
    pub fn heading(self) -> &'static str {
        match self {
            Self::BytesPerConnection => "bytes per connection",
            Self::MemoryMib => "memory, MiB",
            Self::FileDescriptors => "file descriptors",
            Self::ConnectsPerSecond => "connects/s",
            Self::CpuUsPerConnect => "CPU per connect, µs",
            Self::ConnectP50Ms => "connect p50, ms",
            Self::ConnectP99Ms => "connect p99, ms",
            Self::SubscribeP99Ms => "subscribe p99, ms",
            Self::CpuUsPerDelivery => "CPU per delivery, µs",
            Self::DeliveriesPerCpuSecond => "deliveries per CPU second",
            Self::DeliveriesPerSecond => "deliveries/s",
            Self::PublishP50Ms => "publish p50, ms",
            Self::PublishP99Ms => "publish p99, ms",
            Self::DeliverP50Ms => "deliver p50, ms",
            Self::DeliverP99Ms => "deliver p99, ms",
            Self::DeliverP999Ms => "deliver p99.9, ms",
            Self::DeliverMaxMs => "deliver max, ms",
            Self::CpuUsPerChurn => "CPU per return, µs",
            Self::PresenceNotices => "presence notices",
            Self::RecoverP50S => "half back, s",
            Self::RecoverP99S => "99 % back, s",
            Self::RecoverAllS => "all back, s",
            Self::CpuS => "server CPU, s",
            Self::Refused => "refused attempts",
            Self::SlowClosed => "slow ones closed",
            Self::Errors => "requests refused",
            Self::Lost => "lost",
            Self::ScheduleLagP99Ms => "tester's lag p99, ms",
            Self::ClientCpu => "tester's CPU, cores",
        }
    }

    /// A value as it is shown.
    pub fn shown(value: f64) -> String {
        match value.abs() {
            0.0 => "0".into(),
            size if size >= 100.0 => grouped(value.round() as i64),
            size if size >= 10.0 => format!("{value:.1}"),
            size if size >= 0.1 => format!("{value:.2}"),
            _ => format!("{value:.3}"),
        }
    }
}

/// With a comma after each thousand.
fn grouped(number: i64) -> String {
    let digits = number.abs().to_string();
    let mut grouped = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    if number < 0 { format!("-{grouped}") } else { grouped }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_shown_with_as_many_digits_as_they_bear() {
        let shown =
            [1_234_567.0, -1234.0, 100.4, 12.345, 0.123_4, 0.012_34, 0.0].map(Metric::shown);
        assert_eq!(shown, ["1,234,567", "-1,234", "100", "12.3", "0.12", "0.012", "0"]);
    }
}
