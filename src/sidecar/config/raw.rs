//! One text for each variable that this version acts on.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};

macro_rules! raw {
    ($($field:ident)+) => {
        /// One text for each variable that this version acts on; `None` where it is not set.
        #[derive(Debug, Default)]
        pub(super) struct Raw { $(pub(super) $field: Option<String>,)+ }

        impl Raw {
            /// The fields with their names, which are those of the variables in lower case.
            fn fields(&mut self) -> impl IntoIterator<Item = (&'static str, &mut Option<String>)> {
                [$((stringify!($field), &mut self.$field),)+]
            }
        }
    };
}

/// Written by hand around a table, because derived code for so many fields would be 75 KB of the lean binary.
impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Raw, D::Error> {
        struct Texts;
        impl<'de> Visitor<'de> for Texts {
            type Value = Raw;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("names and texts")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut texts: A) -> Result<Raw, A::Error> {
                let mut raw = Raw::default();
                while let Some((name, text)) = texts.next_entry::<String, String>()? {
                    if let Some((_, field)) = raw.fields().into_iter().find(|(known, _)| *known == name) {
                        *field = Some(text);
                    }
                }
                Ok(raw)
            }
        }
        deserializer.deserialize_map(Texts)
    }
}

raw! {
    registry_host registry_port registry_token service_token registry_each_address enable_registry
    service_name instance_name metadata
    domains route_path port app_port priority routes backend_scheme backend_host backend_each_address web_net_cidr
    health_path health_interval health_timeout health_host health_status health_rise health_fall
    compression enable_websocket preserve_host backend_http2 backend_timeout
    response_headers rate_limit circuit_breaker
    strip_prefix sticky redirect_domains allow_from body_limit weight basic_auth forward_auth
    enable_socketio_route socketio_path
    wait_for_port port_wait_timeout ready_check ready_interval ready_timeout ready_rise ready_fall
    keepalive_interval request_timeout reconnect_min reconnect_max
    maintenance_port maintenance_page maintenance_page_url maintenance_state drain_timeout control_socket
    when_stranded metrics_listen
    log_level log_level_libraries log_format
    etcd_endpoints etcd_base_path etcd_username etcd_password etcd_ttl etcd_timeout
    etcd_ca etcd_cert etcd_key etcd_layout etcd_if_taken
    entry_command app_dir run_as
    wait_for wait_for_timeout pre_start pre_start_failure pre_start_timeout
    restart restart_delay run_every
    update_check update_check_interval update_command update_timeout
    secrets
    drain_ports stop_signal stop_grace_period signal_group signal_rewrite
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sidecar::config::VARIABLES;

    #[test]
    fn every_variable_that_is_read_is_in_the_table_and_the_other_way_round() {
        let mut raw = Raw::default();
        let read: Vec<String> = raw.fields().into_iter().map(|(name, _)| name.to_ascii_uppercase()).collect();
        for name in &read {
            assert!(VARIABLES.iter().any(|known| known.name == *name && known.implemented), "{name}");
        }
        // A whole family of names is read where the environment of the command is made.
        let single = |name: &str| !name.ends_with('*');
        for known in VARIABLES.iter().filter(|known| known.implemented && single(known.name)) {
            assert!(read.iter().any(|name| name == known.name), "{}", known.name);
        }
    }
}
