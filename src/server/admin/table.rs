//! Renders the model of the page for people at a terminal (pure).

use std::fmt::Write as _;

use super::live::view::{ClaimView, Condition, ServiceView, Traffic, View};

/// How many events are shown.
const EVENTS: usize = 5;

/// The state of a server as a table. `json`: what `/live` answered.
///
/// # Errors
/// If that is no model of the page.
pub fn table(json: &str, has_colours: bool) -> Result<String, serde_json::Error> {
    let view: View = serde_json::from_str(json)?;
    let paint = Paint { has_colours };
    let mut text = head(&view, paint);
    services(&mut text, &view, paint);
    for claim in view.services.iter().flat_map(|service| &service.claims) {
        trouble(&mut text, claim, paint);
    }
    sessions(&mut text, &view.services);
    for one in view.certificates.iter().filter(|one| one.condition != Condition::Up) {
        let ends = one.ends.as_deref().unwrap_or("at an unknown time");
        let word = paint.condition(one.condition, "certificate");
        line(&mut text, &format!("\n{word} {}: ends {ends}", harmless(&one.names.join(" "))));
    }
    cluster(&mut text, &view);
    if !view.events.is_empty() {
        line(&mut text, "");
    }
    for event in view.events.iter().take(EVENTS) {
        let service = event.service.as_ref().map(|name| format!("{name}: ")).unwrap_or_default();
        line(&mut text, &harmless(&format!("{}  {}  {service}{}", event.at, event.level, event.text)));
    }
    Ok(text)
}

/// Colours, where the terminal has them.
#[derive(Clone, Copy)]
struct Paint {
    has_colours: bool,
}

impl Paint {
    fn condition(self, condition: Condition, text: &str) -> String {
        let colour = match condition {
            Condition::Up => 32,
            Condition::Draining | Condition::Maintenance => 36,
            Condition::Degraded | Condition::Held => 33,
            Condition::Down => 31,
        };
        if self.has_colours { format!("\x1b[{colour}m{text}\x1b[0m") } else { text.to_owned() }
    }

    fn bold(self, text: &str) -> String {
        if self.has_colours { format!("\x1b[1m{text}\x1b[0m") } else { text.to_owned() }
    }
}

fn head(view: &View, paint: Paint) -> String {
    let server = &view.server;
    let condition = if server.readiness == "ready" { Condition::Up } else { Condition::Degraded };
    let mut text = format!(
        "{}  {}  since {}  {} services, {} sessions, {} connections\n",
        paint.bold(&server.version),
        paint.condition(condition, &server.readiness),
        server.started,
        view.services_total,
        server.sessions,
        server.connections
    );
    let traffic = &view.traffic;
    let _ = writeln!(
        text,
        "{:.1} requests/s, {:.1} % errors, p50 {}, p95 {}, p99 {}",
        last(&traffic.rate),
        last(&traffic.errors) * 100.0,
        millis(last(&traffic.p50)),
        millis(last(&traffic.p95)),
        millis(last(&traffic.p99))
    );
    text
}

fn services(text: &mut String, view: &View, paint: Paint) {
    if view.services.is_empty() {
        return line(text, "\nno service is registered");
    }
    let width = view.services.iter().map(|service| harmless(&service.name).chars().count()).max();
    let width = width.unwrap_or_default().clamp(7, 40);
    let heads = format!(
        "{:width$}  {:11}  {:>9}  {:>8}  {:>7}  {:>8}  WHY",
        "SERVICE", "CONDITION", "INSTANCES", "REQ/S", "ERRORS", "P95"
    );
    line(text, &format!("\n{}", paint.bold(&heads)));
    for service in &view.services {
        let word = paint.condition(service.condition, &format!("{:11}", service.condition.word()));
        let Traffic { rate, errors, p95, .. } = &service.traffic;
        let row = format!(
            "{:width$}  {word}  {:>9}  {:>8.1}  {:>5.1} %  {:>8}  {}",
            harmless(&service.name),
            format!("{} of {}", service.usable, service.members),
            last(rate),
            last(errors) * 100.0,
            millis(last(p95)),
            harmless(&service.why)
        );
        line(text, row.trim_end());
    }
}

/// The members of a claim that are not well.
fn trouble(text: &mut String, claim: &ClaimView, paint: Paint) {
    let ill = claim.members.iter().filter(|member| member.condition != Condition::Up);
    for (number, member) in ill.enumerate() {
        if number == 0 {
            line(text, &format!("\n{}{}", harmless(&claim.domain), harmless(&claim.path)));
        }
        let word = paint.condition(member.condition, &format!("{:11}", member.condition.word()));
        let what = format!("{}  {}  {}", member.instance, member.backend, member.why);
        line(text, &format!("  {word}  {}", harmless(&what)));
    }
}

/// The sessions that are lost, drained or in maintenance.
fn sessions(text: &mut String, services: &[ServiceView]) {
    let mut is_first = true;
    for session in services.iter().flat_map(|service| &service.sessions) {
        let mut what = Vec::new();
        what.extend(session.grace_ends.iter().map(|end| format!("lost, its routes go at {end}")));
        what.extend(session.drain.iter().map(|drain| {
            format!(
                "drained until {}, {} in flight, {} upgraded",
                drain.ends, drain.in_flight, drain.upgraded
            )
        }));
        what.extend(
            session
                .maintenance
                .iter()
                .map(|entered| format!("in maintenance since {}, {} routes", entered.since, entered.routes)),
        );
        if what.is_empty() {
            continue;
        }
        if std::mem::take(&mut is_first) {
            line(text, "");
        }
        let who = format!("session {} {} from {}", session.session, session.instance, session.peer);
        line(text, &harmless(&format!("{who}: {}", what.join(", "))));
    }
}

fn cluster(text: &mut String, view: &View) {
    let Some(cluster) = &view.cluster else { return };
    let leader = cluster.leader.as_deref().unwrap_or("nobody");
    let replicas = cluster.replicas.join(" ");
    let trouble = cluster.trouble.as_ref().map(|why| format!("; trouble: {why}")).unwrap_or_default();
    let what = format!(
        "replica {} is {} since {}; {leader} leads; present: {replicas}; {} revisions behind{trouble}",
        cluster.replica, cluster.role, cluster.since, cluster.behind
    );
    line(text, &format!("\n{}", harmless(&what)));
}

fn line(text: &mut String, what: &str) {
    text.push_str(what);
    text.push('\n');
}

fn last(values: &[f32]) -> f32 {
    values.last().copied().unwrap_or_default()
}

fn millis(value: f32) -> String {
    match value {
        0.0 => "-".to_owned(),
        value if value >= 10_000.0 => format!("{:.1} s", value / 1000.0),
        value => format!("{value:.0} ms"),
    }
}

/// A text that others chose, without what a terminal would obey or what turns text around.
fn harmless(text: &str) -> String {
    let obeyed = |c: char| {
        c.is_control()
            || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}' | '\u{61c}')
    };
    text.chars().map(|c| if obeyed(c) { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::admin::live::view::{MemberView, SessionView};

    fn view() -> View {
        let member = MemberView {
            instance: "shop-1".to_owned(),
            backend: "http://10.2.2.7:80/".to_owned(),
            condition: Condition::Down,
            why: "out: check answered 404".to_owned(),
            ..MemberView::default()
        };
        let claim = ClaimView {
            domain: "shop.example".to_owned(),
            path: "/".to_owned(),
            members: vec![member],
            members_total: 1,
            ..ClaimView::default()
        };
        let session = SessionView {
            session: 7,
            instance: "shop-1".to_owned(),
            peer: "10.2.2.7".to_owned(),
            grace_ends: Some("2026-12-01T04:00:00Z".to_owned()),
            ..SessionView::default()
        };
        let shop = ServiceView {
            name: "shop\u{1b}[2J\u{202e}".to_owned(),
            condition: Condition::Down,
            why: "all 1 out".to_owned(),
            members: 1,
            claims: vec![claim],
            sessions: vec![session],
            traffic: Traffic { rate: vec![1.0, 12.5], p95: vec![56.0], ..Traffic::default() },
            ..ServiceView::default()
        };
        View { services: vec![shop], services_total: 1, ..View::default() }
    }

    #[test]
    fn it_says_what_is_out_and_why_and_obeys_no_name() {
        let text = table(&serde_json::to_string(&view()).unwrap(), false).unwrap();
        for part in [
            "down            0 of 1      12.5    0.0 %     56 ms  all 1 out",
            "  down         shop-1  http://10.2.2.7:80/  out: check answered 404",
            "session 7 shop-1 from 10.2.2.7: lost, its routes go at 2026-12-01T04:00:00Z",
        ] {
            assert!(text.contains(part), "{part}\n{text}");
        }
        assert!(!text.contains('\u{1b}') && !text.contains('\u{202e}'), "{text}");
        let coloured = table(&serde_json::to_string(&view()).unwrap(), true).unwrap();
        assert!(coloured.contains("\u{1b}[31mdown") && !coloured.contains("\u{1b}[2J"), "{coloured}");
    }
}
