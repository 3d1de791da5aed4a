//! ROUTE_ADD, ROUTE_ADD_BULK, ROUTE_UPDATE and ROUTE_REMOVE (PROTOCOL section 3).

use registry_client::protocol::{Refusal, Reply, RouteChange, RouteId, RouteSpec};

use crate::server::registry::engine::Engine;
use crate::server::registry::model::{Now, SessionNo};
use crate::server::registry::session::cost;

pub(super) fn route_add(
    engine: &mut Engine,
    now: Now,
    no: SessionNo,
    spec: RouteSpec,
) -> Result<Reply, Refusal> {
    let ids = add_routes(engine, now, no, vec![spec])?;
    ids.first().map(|id| Reply::RouteAdded(*id)).ok_or(Refusal::InvalidFormat)
}

pub(super) fn route_add_bulk(
    engine: &mut Engine,
    now: Now,
    no: SessionNo,
    specs: Vec<RouteSpec>,
) -> Result<Reply, Refusal> {
    add_routes(engine, now, no, specs).map(Reply::RoutesAdded)
}

/// Stages all routes or none.
fn add_routes(
    engine: &mut Engine,
    now: Now,
    no: SessionNo,
    specs: Vec<RouteSpec>,
) -> Result<Vec<RouteId>, Refusal> {
    let limits = engine.config().limits;
    for spec in &specs {
        engine.check_backend(no, &spec.backend)?;
        check_domains(spec, limits.domains)?;
        engine.check_policy(no, spec)?;
    }
    let bytes = specs.iter().map(cost).sum();
    engine.staging(now, no, bytes, |session| {
        if session.routes() + specs.len() > limits.routes {
            return Err(Refusal::Other("too many routes".to_owned()));
        }
        let none_left = || Refusal::Other("this session has no route ids left".to_owned());
        let ids = session.ids.give(specs.len()).ok_or_else(none_left)?;
        for (id, spec) in ids.iter().zip(specs) {
            session.stage.put(*id, spec, false);
        }
        Ok(ids)
    })
}

pub(super) fn route_update(
    engine: &mut Engine,
    now: Now,
    no: SessionNo,
    id: RouteId,
    change: RouteChange,
) -> Result<Reply, Refusal> {
    if let RouteChange::Backend(backend) = &change {
        engine.check_backend(no, backend)?;
    }
    let most_domains = engine.config().limits.domains;
    let session = engine.session(no)?;
    let mut spec = session.spec(id).ok_or(Refusal::RouteNotFound)?.clone();
    match change {
        RouteChange::Backend(backend) => spec.backend = backend,
        RouteChange::Priority(priority) => spec.priority = priority,
        RouteChange::Domains(domains) => spec.domains = domains,
        RouteChange::Path(path) => spec.path = path,
    }
    check_domains(&spec, most_domains)?;
    engine.check_policy(no, &spec)?;
    engine.staging(now, no, cost(&spec), |session| {
        let is_applied = session.applied.contains_key(&id);
        session.stage.put(id, spec, is_applied);
        Ok(Reply::RouteOk)
    })
}

pub(super) fn route_remove(
    engine: &mut Engine,
    now: Now,
    no: SessionNo,
    id: RouteId,
) -> Result<Reply, Refusal> {
    engine.staging(now, no, 0, |session| {
        session.spec(id).ok_or(Refusal::RouteNotFound)?;
        let is_applied = session.applied.contains_key(&id);
        session.stage.remove(id, is_applied);
        Ok(Reply::RouteOk)
    })
}

fn check_domains(spec: &RouteSpec, most: usize) -> Result<(), Refusal> {
    if spec.domains.as_slice().len() > most {
        return Err(Refusal::Other("too many domains".to_owned()));
    }
    Ok(())
}
