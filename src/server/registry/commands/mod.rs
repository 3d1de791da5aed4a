//! What each command does (PROTOCOL sections 2 to 6): one file for a family, one function for a command.
//!
//! A command reads the engine and calls the methods that it offers for changes. It never waits: what takes time is an
//! [`Outcome::Wait`], and the engine answers later.

mod backend_test;
mod config;
mod drain;
mod events;
mod limited_reply;
mod maintenance;
mod route_list;
mod routes;
mod session;
mod settings;
mod statistics;

use registry_client::protocol::{Command, Refusal, Reply, Request, SessionRef};

use crate::server::registry::engine::{Engine, Outcome};
use crate::server::registry::model::{ConnId, Now};

/// Carries a command out.
pub(crate) fn carry_out(engine: &mut Engine, now: Now, conn: ConnId, command: Command) -> Outcome {
    match command {
        Command::Register(registration) => session::register(engine, now, conn, registration),
        Command::Reconnect(id) => engine.reconnect(now, conn, &id),
        Command::Request(session, request) => self::request(engine, now, conn, &session, request),
    }
}

fn request(engine: &mut Engine, now: Now, conn: ConnId, session: &SessionRef, request: Request) -> Outcome {
    let no = match engine.resolve(conn, session) {
        Ok(no) => no,
        Err(refusal) => return Err(refusal).into(),
    };
    engine.renew(now, conn, no);
    match request {
        Request::Ping => Outcome::Reply(Reply::Pong),
        Request::SessionInfo => session::session_info(engine, now, no).into(),
        Request::ClientShutdown => engine.end_session(now, conn, no),
        Request::RouteAdd(spec) => routes::route_add(engine, now, no, spec).into(),
        Request::RouteAddBulk(specs) => routes::route_add_bulk(engine, now, no, specs).into(),
        Request::RouteUpdate { route, change } => routes::route_update(engine, now, no, route, change).into(),
        Request::RouteRemove(route) => routes::route_remove(engine, now, no, route).into(),
        Request::RouteList { compressed, after } => {
            route_list::route_list(engine, no, compressed, after).into()
        }
        Request::OptionsSet { target, option } => {
            settings::options(engine, now, no, &target, option.key(), Some(option)).into()
        }
        Request::OptionsRemove { target, key } => {
            settings::options(engine, now, no, &target, key, None).into()
        }
        Request::HeadersSet { target, name, value } => {
            settings::headers(engine, now, no, &target, &name, Some(&value)).into()
        }
        Request::HeadersRemove { target, name } => {
            settings::headers(engine, now, no, &target, &name, None).into()
        }
        Request::HealthSet { route, check } => settings::health_set(engine, now, no, route, check).into(),
        Request::RateLimitSet { target, limit } => settings::limit_set(engine, now, no, target, limit).into(),
        Request::CircuitBreakerSet { target, breaker } => {
            settings::breaker_set(engine, now, no, target, breaker).into()
        }
        Request::CircuitBreakerStatus(route) => statistics::breaker_status(engine, now, no, route).into(),
        Request::StatsGet(which) => statistics::stats(engine, no, which).into(),
        Request::StatsPage { after } => statistics::stats_page(engine, no, after).into(),
        Request::CircuitBreakerReset(route) => statistics::breaker_reset(engine, no, route).into(),
        Request::ConfigValidate => engine.validate(no).into(),
        Request::ConfigApply => engine.apply(now, no, conn, None),
        Request::ConfigApplyPartial(scopes) => engine.apply(now, no, conn, Some(scopes)),
        Request::ConfigRollback => engine.discard_stage(no).map(|()| Reply::Ok).into(),
        Request::ConfigDiff => config::config_diff(engine, no).into(),
        Request::DrainStart(time) => outcome(drain::drain_start(engine, now, conn, no, time.get())),
        Request::DrainStatus => drain::drain_status(engine, now, no).into(),
        Request::DrainCancel => outcome(drain::drain_cancel(engine, now, conn, no)),
        Request::MaintEnter { target, page } => maintenance::maint_enter(engine, now, conn, no, target, page),
        Request::MaintExit(target) => maintenance::maint_exit(engine, now, conn, no, target),
        Request::MaintStatus => maintenance::maint_status(engine, no, None).into(),
        Request::MaintStatusPage { after } => maintenance::maint_status(engine, no, Some(after)).into(),
        Request::BackendTest(url) => backend_test::backend_test(engine, now, conn, no, url),
        Request::Subscribe(kind) => events::subscribe(engine, conn, no, kind).into(),
        Request::Unsubscribe(kind) => events::unsubscribe(engine, conn, no, kind).into(),
    }
}

/// What a command comes to that may be refused at once.
fn outcome(result: Result<Outcome, Refusal>) -> Outcome {
    result.unwrap_or_else(|refusal| Err(refusal).into())
}
