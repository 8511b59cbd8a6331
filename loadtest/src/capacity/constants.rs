//! The constants of the model, from `capacity/constants.toml`, and what is laid over them.

use anyhow::{Result, bail};
use serde::Deserialize;
use serde::de::Error as _;
use toml::{Table, Value};

use super::strict;

/// All constants.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Constants {
    /// A node.
    pub gateway: Gateway,
    /// One Redis process.
    pub redis: Redis,
    /// Limits and prices.
    pub aws: Aws,
}

/// Declares a table of constants, each a plain number to those who reckon with it.
macro_rules! constants {
    ($(#[$about:meta])* $name:ident { $($field:ident)* }) => {
        $(#[$about])*
        #[derive(Debug, Clone, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub struct $name {
            $(#[serde(deserialize_with = "number")] pub $field: f64,)*
        }
    };
}

constants! {
    /// Memory and CPU of a node.
    Gateway {
        base_bytes base_us native_bytes stomp_bytes events_bytes sockjs_bytes subscription_bytes
        kernel_bytes connect_us idle_us publish_us receive_us send_us message_us head_bytes
        fds_reserved
    }
}

constants! {
    /// Time and memory of one Redis process.
    Redis {
        publish_us publish_node_us publish_alone_us publish_node_alone_us history_us idempotent_us
        registry_call_us registry_operation_us event_us reap_session_us reap_call_us reap_claim_us
        reap_claim_dead_us presence_us lease_us lease_node_us lease_change_us lease_node_bytes
        canary_us info_us
        turn_us dead_look_us ping_us
        session_bytes claim_bytes member_bytes channel_bytes channel_node_bytes kept_bytes
        base_bytes base_us envelope_bytes
    }
}

constants! {
    /// Limits and prices of AWS.
    Aws {
        alb_new_per_lcu alb_active_per_lcu alb_gb_per_lcu alb_rules_per_lcu alb_free_rules
        alb_ports alb_targets alb_usd_hour lcu_usd_hour vcpu_usd_hour gib_usd_hour task_nofile task_bits
        redis_usd_hour redis_gib redis_bits egress_usd_gb zone_usd_gb hours_month
    }
}

impl Constants {
    /// Those of this repository, with `over` laid over them.
    pub fn read(over: Option<&str>) -> Result<Self> {
        let mut all: Table = strict::read(OURS, "constants.toml")?;
        if let Some(over) = over {
            lay_over(&mut all, strict::read(over, "the constants")?)?;
        }
        all.try_into().map_err(|error| strict::refusal(&error, "the constants"))
    }
}

fn lay_over(all: &mut Table, over: Table) -> Result<()> {
    for (section, values) in over {
        let Value::Table(values) = values else {
            bail!(
                "the constants: `{section}` is no table; put it under [gateway], [redis] or [aws]"
            )
        };
        match all.get_mut(&section) {
            Some(Value::Table(known)) => known.extend(values),
            _ => {
                bail!("the constants: there is no [{section}]; there are [gateway], [redis], [aws]")
            }
        }
    }
    Ok(())
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Written {
    Whole(i64),
    Bare(f64),
    Sourced(Sourced),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Sourced {
    value: f64,
    source: String,
}

fn number<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    let value = match Written::deserialize(deserializer)? {
        Written::Whole(value) => value as f64,
        Written::Sourced(Sourced { source, .. }) if source.is_empty() => {
            return Err(D::Error::custom("a constant's source is empty; say where it is from"));
        }
        Written::Bare(value) | Written::Sourced(Sourced { value, .. }) => value,
    };
    if !value.is_finite() || value < 0.0 {
        return Err(D::Error::custom("a constant is negative or no number"));
    }
    Ok(value)
}

const OURS: &str = include_str!("../../capacity/constants.toml");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_ones_own_replaces_only_what_it_names() {
        let ours = Constants::read(None).unwrap();
        let other = Constants::read(Some("[gateway]\nconnect_us = 1000")).unwrap();
        assert!((other.gateway.connect_us - 1000.0).abs() < f64::EPSILON);
        assert!((other.gateway.native_bytes - ours.gateway.native_bytes).abs() < f64::EPSILON);
    }

    #[test]
    fn an_unknown_constant_is_refused_with_the_one_it_resembles() {
        let error = Constants::read(Some("[gateway]\nconect_us = 1000")).unwrap_err();
        assert!(error.to_string().contains("write `connect_us`"), "{error}");
        let error = Constants::read(Some("[gatway]\nconnect_us = 1000")).unwrap_err();
        assert!(error.to_string().contains("there is no [gatway]"), "{error}");
    }

    #[test]
    fn every_constant_of_ours_has_a_source() {
        let all: Table = toml::from_str(OURS).unwrap();
        for (section, values) in &all {
            for (name, value) in values.as_table().unwrap() {
                let source = value.get("source").and_then(Value::as_str).unwrap_or_default();
                assert!(source.len() > 3, "{section}.{name} has no source");
            }
        }
    }
}
