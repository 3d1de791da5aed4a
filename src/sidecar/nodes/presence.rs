//! Keeps the node in etcd while people are to see the application, and takes it out at once when they are not.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use registry_nodes::{Error, Event, Events, Registration, Registry, State};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tracing::{debug, error, info, warn};

use crate::shutdown::{Shutdown, ShutdownTrigger, shutdown};
use crate::sidecar::address::{Lookup, follow};
use crate::sidecar::config::{Config, EtcdConfig};
use crate::sidecar::state::{DaemonState, NodeStatus};
use registry_client::{SystemResolver, Visibility};

use super::info::node;

/// How long etcd may take to hear that the node is gone; after that it goes with its lease.
const LEAVE: Duration = Duration::from_secs(2);

/// The task that keeps the node; none without ETCD_ENDPOINTS.
pub(crate) struct NodePresence {
    task: Option<(ShutdownTrigger, JoinHandle<()>)>,
}

impl NodePresence {
    /// Starts the task. The node comes as soon as the application is ready and there is an address.
    pub(crate) fn start(config: &Arc<Config>, state: &DaemonState) -> NodePresence {
        let task = config.etcd.clone().map(|etcd| {
            let (leave, left) = shutdown();
            let (config, state) = (Arc::clone(config), state.clone());
            (leave, tokio::spawn(async move { keep_node(&config, &etcd, &state, &left).await }))
        });
        NodePresence { task }
    }

    /// Takes the node out, and returns when etcd knows, or after 2 s.
    pub(crate) async fn leave(self) {
        if let Some((leave, task)) = self.task {
            leave.request();
            // It ends by itself in that time; a panic in it was told already.
            let _ = timeout(LEAVE + Duration::from_millis(500), task).await;
        }
    }
}

async fn keep_node(config: &Config, etcd: &EtcdConfig, state: &DaemonState, left: &Shutdown) {
    let registry = match Registry::new(etcd.registry.clone()) {
        Ok(registry) => registry,
        Err(problem) => return error!("no node in etcd: {problem}"),
    };
    info!("etcd {}, base path {}", etcd.registry.endpoints.join(", "), etcd.registry.base_path);
    tokio::select! {
        () = find_address(config, state) => {}
        () = come_and_go(etcd, &registry, state, left) => {}
    }
}

/// Without sessions nobody else looks for the address. It never returns.
async fn find_address(config: &Config, state: &DaemonState) {
    if config.registration.is_none() {
        let lookup = Lookup {
            config: &config.address,
            registries: &[],
            wrapped: config.command.is_some(),
            resolver: &SystemResolver,
        };
        let unknown = |problem| state.set_address_problem(problem);
        let choice = lookup.until_found(unknown).await;
        state.set_advertised(choice.ip);
        follow(lookup, choice, || {}, |_, new| state.set_advertised(new), unknown).await;
    }
    std::future::pending().await
}

/// Registers the node whenever people are to see the application, until asked to leave.
async fn come_and_go(etcd: &EtcdConfig, registry: &Registry, state: &DaemonState, left: &Shutdown) {
    let service = etcd.node.service.as_str();
    let key = match registry.key(service, etcd.node.instance.as_str()) {
        Ok(key) => key,
        Err(problem) => return error!("no node in etcd: {problem}"),
    };
    let mut story = Story { key, state: state.clone(), logged: None };
    story.show(Some("absent"), None);
    loop {
        let address = tokio::select! {
            address = present(state) => address,
            () = left.requested() => return,
        };
        let node = node(&etcd.node, address);
        let registration = match registry.register_node_with(service, node, etcd.ttl, etcd.on_taken) {
            Ok(registration) => registration,
            Err(problem) => return error!("no node in etcd: {problem}"),
        };
        story.show(Some("registering"), None);
        let mut events = registration.events();
        tokio::select! {
            () = absent(state) => {}
            () = left.requested() => {}
            () = follow_address(etcd, state, &registration, address) => {}
            () = story.tell(&mut events) => {
                // It was refused. What would change that, an operator does, and then a restart.
                tokio::select! {
                    () = absent(state) => {}
                    () = left.requested() => {}
                }
            }
        }
        match registration.deregister(LEAVE).await {
            Ok(()) => info!("the node {} is taken out of etcd", story.key),
            Err(Error::NameTaken { .. }) => {}
            Err(problem) => warn!("the node {} stays in etcd until its lease ends: {problem}", story.key),
        }
        story.show(Some("absent"), None);
    }
}

/// Waits until people are to see the application and there is an address.
async fn present(state: &DaemonState) -> IpAddr {
    let mut conditions = state.watch_conditions();
    let mut advertised = state.watch_advertised();
    loop {
        let is_live = conditions.borrow_and_update().visibility() == Visibility::Live;
        let address = *advertised.borrow_and_update();
        if let Some(address) = address.filter(|_| is_live) {
            return address;
        }
        tokio::select! {
            _ = conditions.changed() => {}
            _ = advertised.changed() => {}
        }
    }
}

/// Waits until people are not to see the application.
async fn absent(state: &DaemonState) {
    let mut conditions = state.watch_conditions();
    // The sender lives as long as the state.
    let _ = conditions.wait_for(|conditions| conditions.visibility() != Visibility::Live).await;
}

/// The node says where the application is now. It never returns.
async fn follow_address(
    etcd: &EtcdConfig,
    state: &DaemonState,
    registration: &Registration,
    mut said: IpAddr,
) {
    let mut advertised = state.watch_advertised();
    loop {
        let _ = advertised.changed().await;
        let now = *advertised.borrow_and_update();
        if let Some(now) = now.filter(|now| *now != said) {
            said = now;
            registration.set_info(node(&etcd.node, now).info);
        }
    }
}

/// What the log and the status say of a registration.
struct Story {
    key: String,
    state: DaemonState,
    /// What was logged last, so that it is logged once.
    logged: Option<Error>,
}

impl Story {
    /// Until the registration has ended.
    async fn tell(&mut self, events: &mut Events) {
        while let Some(event) = events.next().await {
            match event {
                Event::Trouble(error) if self.logged.as_ref() == Some(&error) => {
                    debug!("the node {}: {error}", self.key);
                }
                Event::Trouble(error) => {
                    warn!("the node {}: {error}", self.key);
                    self.show(None, Some(error.to_string()));
                    self.logged = Some(error);
                }
                Event::State(state) => self.enter(&state),
                Event::Missed(missed) => debug!("{missed} events of the node were missed"),
            }
        }
    }

    fn enter(&mut self, state: &State) {
        match state {
            State::Registered => {
                info!("the node {} is in etcd", self.key);
                self.logged = None;
                self.show(Some("registered"), None);
            }
            State::Lost => {
                self.state.count_node_loss();
                self.show(Some("lost"), self.logged.as_ref().map(ToString::to_string));
            }
            State::Waiting => self.show(Some("waiting"), self.logged.as_ref().map(ToString::to_string)),
            State::Failed(error) => {
                error!("the node {} is not registered: {error}", self.key);
                self.show(Some("refused"), Some(error.to_string()));
            }
            State::Registering | State::Deregistered => {}
        }
    }

    /// Another state, or the same with another trouble.
    fn show(&self, state: Option<&'static str>, trouble: Option<String>) {
        let before = self.state.node().map_or("registering", |status| status.state);
        let status = NodeStatus { key: self.key.clone(), state: state.unwrap_or(before), trouble };
        self.state.set_node(Some(status));
    }
}
