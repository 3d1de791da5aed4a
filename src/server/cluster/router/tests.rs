//! Stories of connections and leaders.

use super::*;

const A: ConnId = ConnId(1);
const B: ConnId = ConnId(2);

struct Story {
    router: Router,
    now: Instant,
}

impl Story {
    /// Without a leader.
    fn new() -> Self {
        Story { router: Router::default(), now: Instant::now() }
    }

    /// With one.
    fn led() -> Self {
        let mut story = Story::new();
        assert_eq!(story.say(Input::Reached), []);
        story
    }

    fn say(&mut self, input: Input) -> Vec<Effect> {
        self.router.handle(self.now, input);
        self.router.effects().collect()
    }

    fn open(&mut self, conn: ConnId) -> Vec<Effect> {
        self.say(Input::Opened(conn, peer()))
    }

    fn send(&mut self, conn: ConnId, line: &str) -> Vec<Effect> {
        self.say(Input::Lines(conn, vec![Command::parse(line)]))
    }

    fn answer(&mut self, conn: ConnId, line: &str) {
        assert_eq!(self.say(said(conn, line)), [Effect::Send(conn, parsed(line))]);
    }

    /// A connection with a command and its answer.
    fn exchange(&mut self, conn: ConnId, command: &str, reply: &str) {
        self.send(conn, command);
        self.answer(conn, reply);
    }

    /// A connection that a session is bound to.
    fn bind(&mut self, conn: ConnId, id: &str) {
        self.open(conn);
        self.send(conn, "REGISTER|shop|one|0|{}");
        self.say(Input::FromLeader(FromLeader::Bound(conn, id.parse().unwrap())));
        self.answer(conn, &format!("ACK|{id}"));
    }

    fn pass(&mut self, time: Duration) -> Vec<Effect> {
        self.now += time;
        self.say(Input::Tick)
    }
}

fn peer() -> IpAddr {
    "10.2.2.7".parse().unwrap()
}

fn parsed(line: &str) -> Box<ServerLine> {
    Box::new(ServerLine::parse(line).unwrap())
}

fn said(conn: ConnId, line: &str) -> Input {
    Input::FromLeader(FromLeader::Line(conn, parsed(line)))
}

fn told(conn: ConnId, line: &str) -> Effect {
    Effect::Tell(ToLeader::Line(conn, Command::parse(line)))
}

fn announced(conn: ConnId, id: &str) -> Effect {
    Effect::Tell(ToLeader::Announced(conn, peer(), id.parse().unwrap()))
}

fn opened(conn: ConnId) -> Effect {
    Effect::Tell(ToLeader::Opened(conn, peer()))
}

#[test]
fn lines_go_to_the_leader_and_its_lines_come_back() {
    let mut story = Story::led();
    assert_eq!(story.open(A), [opened(A)]);
    assert_eq!(story.send(A, "PING|s"), [told(A, "PING|s")]);
    story.answer(A, "PONG");
    let event: Arc<str> = "EVENT|all|{}".into();
    let said = Input::FromLeader(FromLeader::Event(A, Arc::clone(&event)));
    assert_eq!(story.say(said), [Effect::Event(A, event)]);
    assert_eq!(story.say(Input::Closed(A)), [Effect::Tell(ToLeader::Closed(A))]);
    assert_eq!(story.say(super::Input::Closed(A)), []);
}

#[test]
fn an_idle_session_is_announced_to_the_next_leader() {
    let mut story = Story::led();
    story.bind(A, "s1");
    assert_eq!(story.say(Input::Lost), []);
    assert_eq!(story.say(Input::Reached), [announced(A, "s1")]);
    assert_eq!(story.send(A, "PING|s1"), [told(A, "PING|s1")]);
}

#[test]
fn what_cannot_be_taken_over_is_closed_with_its_leader() {
    let unfinished: [&[(&str, Option<&str>)]; 8] = [
        &[("SESSION_INFO|", None)],
        &[("ROUTE_ADD||a.example.com|/|http://10.0.0.1:80|0", Some("ROUTE_OK|r1"))],
        &[("OPTIONS_SET||ALL|timeout|5s", Some("OPTIONS_OK"))],
        &[("RECONNECT|s1", Some("OK"))],
        &[("MAINT_ENTER||ALL|", Some("ACK"))],
        &[("SUBSCRIBE||all", Some("SUBSCRIBE_OK"))],
        &[
            ("ROUTE_ADD||a.example.com|/|http://10.0.0.1:80|0", Some("ROUTE_OK|r1")),
            ("CONFIG_APPLY_PARTIAL||routes", Some("OK")),
        ],
        &[
            ("ROUTE_ADD||a.example.com|/|http://10.0.0.1:80|0", Some("ROUTE_OK|r1")),
            ("CONFIG_APPLY|", Some("ERROR|store unavailable")),
        ],
    ];
    for commands in unfinished {
        let mut story = Story::led();
        story.bind(A, "s1");
        for (command, reply) in commands {
            assert!(Command::parse(command).is_ok(), "{command}");
            story.send(A, command);
            if let Some(reply) = reply {
                story.answer(A, reply);
            }
        }
        assert_eq!(story.say(Input::Lost), [Effect::Close(A)], "{commands:?}");
        assert_eq!(story.say(Input::Reached), [], "{commands:?}");
    }
}

#[test]
fn what_is_finished_is_kept() {
    let finished: [&[(&str, &str)]; 5] = [
        &[("ROUTE_ADD||a.example.com|/|http://10.0.0.1:80|0", "ROUTE_OK|r1"), ("CONFIG_APPLY|", "OK")],
        &[("ROUTE_ADD||a.example.com|/|http://10.0.0.1:80|0", "ROUTE_OK|r1"), ("CONFIG_ROLLBACK|", "OK")],
        &[("ROUTE_ADD||a.example.com|/|http://10.0.0.1:80|0", "ERROR|invalid format")],
        &[("SUBSCRIBE||all", "SUBSCRIBE_OK"), ("UNSUBSCRIBE||all", "UNSUBSCRIBE_OK")],
        &[("RECONNECT|s1", "OK"), ("CONFIG_ROLLBACK|", "OK")],
    ];
    for commands in finished {
        let mut story = Story::led();
        story.bind(A, "s1");
        commands.iter().for_each(|(command, reply)| story.exchange(A, command, reply));
        assert_eq!(story.say(Input::Lost), [], "{commands:?}");
        assert_eq!(story.say(Input::Reached), [announced(A, "s1")], "{commands:?}");
    }
    let mut story = Story::led();
    story.bind(A, "s1");
    story.exchange(A, "MAINT_ENTER||ALL|", "ACK");
    story.answer(A, "MAINT_OK|ALL");
    assert_eq!(story.say(Input::Lost), [], "the verdict has come");
}

#[test]
fn what_a_script_stages_for_a_session_closes_the_sessions_connection_too() {
    let mut story = Story::led();
    story.bind(A, "s1");
    story.open(B);
    story.exchange(B, "ROUTE_ADD|s1|a.example.com|/|http://10.0.0.1:80|0", "ROUTE_OK|r1");
    story.say(Input::Closed(B));
    assert_eq!(story.say(Input::Lost), [Effect::Close(A)]);

    let mut story = Story::led();
    story.bind(A, "s1");
    story.open(B);
    story.exchange(B, "ROUTE_ADD|s1|a.example.com|/|http://10.0.0.1:80|0", "ROUTE_OK|r1");
    story.exchange(B, "CONFIG_APPLY|s1", "OK");
    assert_eq!(story.say(Input::Lost), []);
}

#[test]
fn a_session_that_was_bound_elsewhere_since_is_not_announced() {
    let mut story = Story::led();
    story.bind(A, "s1");
    assert_eq!(story.say(Input::FromLeader(FromLeader::Unbound(A))), [Effect::Unbound(A)]);
    story.say(Input::Lost);
    assert_eq!(story.say(Input::Reached), [opened(A)]);
}

#[test]
fn what_comes_without_a_leader_waits_for_one() {
    let mut story = Story::new();
    assert_eq!(story.open(A), []);
    assert_eq!(story.send(A, "REGISTER|shop|one|0|{}"), []);
    assert_eq!(story.pass(LEADERLESS_WAIT - Duration::from_millis(1)), []);
    assert_eq!(story.say(Input::Reached), [opened(A), told(A, "REGISTER|shop|one|0|{}")]);
    assert_eq!(story.router.next_deadline(), None);
    assert_eq!(story.pass(LEADERLESS_WAIT), []);
}

#[test]
fn a_new_connection_without_a_leader_ends_without_a_line() {
    for line in [None, Some("REGISTER|shop|one|0|{}"), Some("RECONNECT|s1"), Some("PING|s1")] {
        let mut story = Story::new();
        story.open(A);
        line.map(|line| story.send(A, line));
        assert_eq!(story.pass(LEADERLESS_WAIT), [Effect::Close(A)], "{line:?}");
        assert_eq!(story.router.len(), 0);
    }
}

#[test]
fn a_command_of_a_kept_session_is_refused_in_time_and_the_session_kept() {
    let mut story = Story::led();
    story.bind(A, "s1");
    story.say(Input::Lost);
    story.pass(Duration::from_secs(60));
    story.say(Input::Lines(A, vec![Command::parse("CONFIG_APPLY|"), Err(Refusal::LineTooLong)]));
    let refused = |line| Effect::Send(A, parsed(line));
    assert_eq!(
        story.pass(LEADERLESS_WAIT),
        [refused("ERROR|store unavailable"), refused("ERROR|line too long")]
    );
    assert_eq!(story.say(Input::Reached), [announced(A, "s1")], "what was refused is not told later");
    story.say(Input::Lost);
    story.send(A, "RECONNECT|s1");
    assert_eq!(story.pass(LEADERLESS_WAIT), [Effect::Close(A)], "a RECONNECT gets no line");
}

#[test]
fn the_leader_closes_a_connection() {
    let mut story = Story::led();
    story.bind(A, "s1");
    let closed = story.say(Input::FromLeader(FromLeader::Close(A)));
    assert_eq!(closed, [Effect::Close(A), Effect::Tell(ToLeader::Closed(A))]);
    assert_eq!(story.say(said(A, "OK")), [], "and says something later");
}

#[test]
fn a_stop_says_so_to_our_own_clients() {
    let mut story = Story::led();
    story.open(A);
    let shut = |conn| [Effect::Send(conn, parsed("SHUTDOWN")), Effect::Close(conn)];
    let [line, close] = shut(A);
    assert_eq!(story.say(Input::Stop), [line, close, Effect::Tell(ToLeader::Closed(A))]);
    let [line, close] = shut(B);
    assert_eq!(story.open(B), [line, close, Effect::Tell(ToLeader::Closed(B))]);
}

#[test]
fn a_link_that_is_made_anew_is_one_that_was_lost() {
    let mut story = Story::led();
    story.bind(A, "s1");
    story.open(B);
    story.send(B, "PING|s1");
    assert_eq!(story.say(Input::Reached), [Effect::Close(B), announced(A, "s1")]);
}
