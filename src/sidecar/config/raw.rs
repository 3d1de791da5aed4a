//! One text for each variable that this version acts on.

use serde::Deserialize;

macro_rules! raw {
    ($($field:ident)+) => {
        /// One text for each variable that this version acts on; `None` where it is not set.
        #[derive(Debug, Default, Deserialize)]
        pub(super) struct Raw { $(pub(super) $field: Option<String>,)+ }

        impl Raw {
            /// The fields, which are the variables' names in lower case.
            #[cfg(test)]
            const FIELDS: &'static [&'static str] = &[$(stringify!($field),)+];
        }
    };
}

raw! {
    registry_host registry_port registry_token service_token registry_each_address enable_registry
    service_name instance_name metadata
    domains route_path port app_port priority routes backend_scheme backend_host web_net_cidr
    health_path health_interval health_timeout
    compression enable_websocket preserve_host backend_http2 backend_timeout
    response_headers rate_limit circuit_breaker
    enable_socketio_route socketio_path
    wait_for_port port_wait_timeout ready_check ready_interval ready_timeout ready_rise ready_fall
    keepalive_interval request_timeout reconnect_min reconnect_max
    maintenance_port maintenance_page maintenance_page_url maintenance_state drain_timeout control_socket
    metrics_listen
    log_level log_format
    entry_command app_dir run_as
    wait_for wait_for_timeout pre_start pre_start_failure pre_start_timeout
    restart restart_delay run_every
    update_check update_check_interval update_command update_timeout
    secrets
    stop_signal stop_grace_period signal_group signal_rewrite
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sidecar::config::VARIABLES;

    #[test]
    fn every_variable_that_is_read_is_in_the_table_and_the_other_way_round() {
        let read: Vec<String> = Raw::FIELDS.iter().map(|field| field.to_ascii_uppercase()).collect();
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
