//! Why a member or a claim is as it is, in words for people (pure).

use std::sync::atomic::Ordering;
use std::time::Instant;

use crate::server::registry::{MemberOverview, MemberState};
use crate::server::routing::{Claim, Member};

use super::view::Condition;

/// How a member is, and why. `known`: what the registry says of it, if there is something to say.
pub(super) fn of_member(
    member: &Member,
    known: Option<&MemberOverview>,
    now: Instant,
) -> (Condition, String) {
    if let Some(maintenance) = member.terms.extras.maintenance() {
        let page = match &maintenance.page {
            Some(page) => format!("people see {}", page.backend),
            None => "people see the proxy's page".to_owned(),
        };
        return (Condition::Maintenance, format!("maintenance: {page}"));
    }
    if let Some(out) = known.and_then(out_for_the_registry) {
        return (Condition::Down, out);
    }
    if let Some(drain) = &member.terms.drain {
        return (Condition::Draining, draining(member, drain.weight(now)));
    }
    if member.load.is_unreachable() {
        return (Condition::Down, "out: it cannot be connected to".to_owned());
    }
    if member.load.is_ejected(now) {
        return (Condition::Down, "out for a while: requests to it failed one after another".to_owned());
    }
    if !member.may_pass(now) {
        return (Condition::Down, "out: its circuit breaker is open".to_owned());
    }
    if !member.usable {
        return (Condition::Down, "out".to_owned());
    }
    known.map_or((Condition::Up, "in".to_owned()), in_with_a_remark)
}

/// Why the registry keeps a member out, if it does.
fn out_for_the_registry(known: &MemberOverview) -> Option<String> {
    let error = known.error.as_deref();
    let check = |else_: &str| match error {
        Some(error) => format!("out: check {error}"),
        None => format!("out: {else_}"),
    };
    match known.state {
        MemberState::Failed => Some(check("its check fails")),
        MemberState::Joining if known.failures > 0 => Some(check("it has not answered yet")),
        MemberState::Joining => Some("out: it joined, and its first check is under way".to_owned()),
        MemberState::Dormant => Some(match error {
            Some(error) => format!("out: its session is lost, and check {error}"),
            None => "out: it waits for its session".to_owned(),
        }),
        MemberState::Suspended => {
            Some("out: another session came to its address while its own was lost".to_owned())
        }
        MemberState::Provisional | MemberState::Usable => None,
    }
}

fn in_with_a_remark(known: &MemberOverview) -> (Condition, String) {
    let error = known.error.as_deref().unwrap_or("failed");
    match known {
        MemberOverview { failures: 1.., .. } => {
            (Condition::Degraded, format!("in: check {error} ({} in a row)", known.failures))
        }
        MemberOverview { is_lost: true, .. } => {
            (Condition::Degraded, "in: its session is lost, and it answers".to_owned())
        }
        MemberOverview { state: MemberState::Provisional, .. } => {
            (Condition::Up, "in: nobody else serves, and it has not answered yet".to_owned())
        }
        _ => (Condition::Up, "in".to_owned()),
    }
}

fn draining(member: &Member, weight: f64) -> String {
    let in_flight = member.load.in_flight.load(Ordering::Relaxed);
    let upgraded = match member.load.upgraded.load(Ordering::Relaxed) {
        0 => String::new(),
        upgraded => format!(" and {upgraded} upgraded"),
    };
    if weight > 0.0 {
        return format!("draining: {in_flight} in flight{upgraded}, {:.0}% of its share", weight * 100.0);
    }
    match (in_flight, upgraded.is_empty()) {
        (0, true) => "drained".to_owned(),
        _ => format!("drained but for {in_flight} in flight{upgraded}"),
    }
}

/// How a claim is whose members are as given, and why.
pub(super) fn of_claim(claim: &Claim, members: &[Condition], now: Instant) -> (Condition, String) {
    let count = |condition| members.iter().filter(|member| **member == condition).count();
    let down = count(Condition::Down);
    let serving = members.len() - down - count(Condition::Maintenance);
    if serving == 0 {
        return unserved(claim, down, now);
    }
    let all = members.len();
    let worst = members.iter().copied().max().unwrap_or_default();
    match worst {
        Condition::Down => (Condition::Degraded, format!("{down} of {all} out")),
        Condition::Draining => (Condition::Draining, format!("{} of {all} draining", count(worst))),
        Condition::Maintenance => (Condition::Degraded, format!("{} of {all} in maintenance", count(worst))),
        Condition::Degraded => (Condition::Degraded, format!("{} of {all} with trouble", count(worst))),
        Condition::Up | Condition::Held => (Condition::Up, String::new()),
    }
}

fn unserved(claim: &Claim, down: usize, now: Instant) -> (Condition, String) {
    if claim.maintenance().is_some() {
        return (Condition::Maintenance, "maintenance".to_owned());
    }
    let what = match down {
        0 => "no instance is left".to_owned(),
        down => format!("all {down} out"),
    };
    match (claim.hold.deadline(now), claim.hold.waiting()) {
        (Some(end), waiting) => {
            let left = end.saturating_duration_since(now).as_secs();
            (Condition::Held, format!("held: {what}, {waiting} wait, for {left} s more"))
        }
        (None, 0) => (Condition::Down, what),
        (None, waiting) => (Condition::Held, format!("held: {what}, {waiting} wait")),
    }
}
