use super::*;

const HOUR: Duration = Duration::from_secs(60 * 60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Both clocks, and a plan.
struct World {
    plan: Plan,
    now: Now,
}

impl World {
    fn new(hosts: &[&str]) -> World {
        let wall = SystemTime::UNIX_EPOCH + 20_000 * DAY;
        let mut world = World { plan: Plan::default(), now: Now { steady: Instant::now(), wall } };
        world.plan.want(hosts.iter().map(|host| (*host).to_owned()));
        world
    }

    fn pass(&mut self, time: Duration) {
        self.now.steady += time;
        self.now.wall += time;
    }

    fn next(&mut self) -> Step {
        self.plan.next(self.now)
    }

    /// The order that there must be.
    fn order(&mut self) -> Order {
        match self.next() {
            Step::Order(order) => order,
            Step::Wait(wait) => panic!("it waits {wait:?}"),
        }
    }

    /// The host of the order that there must be.
    fn ordered(&mut self) -> String {
        self.order().host
    }

    fn waits(&mut self) -> bool {
        matches!(self.next(), Step::Wait(_))
    }

    fn valid_for(&self, life: Duration) -> Validity {
        Validity { begins: self.now.wall, ends: self.now.wall + life }
    }

    fn succeed(&mut self) {
        self.plan.finished(Ok(self.valid_for(90 * DAY)), self.now);
    }

    fn fail(&mut self, scope: Scope, retry_after: Option<Duration>) {
        let failure = Failure { scope, reason: "no".to_owned(), retry_after };
        self.plan.finished(Err(failure), self.now);
    }
}

#[test]
fn there_is_one_order_at_a_time_and_each_host_gets_its_turn() {
    let mut world = World::new(&["b.example.com", "a.example.com"]);
    assert_eq!(world.ordered(), "a.example.com");
    assert!(world.waits(), "one is in progress");
    world.pass(DAY);
    assert!(world.waits(), "one is in progress, however long it takes");
    world.succeed();
    assert_eq!(world.ordered(), "b.example.com");
    world.succeed();
    assert!(world.waits());
}

#[test]
fn a_certificate_is_renewed_after_two_thirds_of_its_life() {
    let mut world = World::new(&["a.example.com"]);
    world.ordered();
    world.succeed();
    world.pass(60 * DAY - HOUR);
    assert!(world.waits());
    world.pass(HOUR);
    assert_eq!(world.ordered(), "a.example.com");
}

#[test]
fn a_clock_that_jumps_is_noticed_within_a_minute_and_ends_no_pause() {
    let mut world = World::new(&["a.example.com", "b.example.com"]);
    world.ordered();
    world.succeed();
    world.ordered();
    world.fail(Scope::Host, None);
    let Step::Wait(wait) = world.next() else { panic!("nothing is due") };
    assert!(wait <= Duration::from_secs(60), "{wait:?}");
    world.now.wall += 70 * DAY;
    assert_eq!(world.ordered(), "a.example.com", "it is due; b has its pause still");
    world.succeed();
    assert!(world.waits());
    world.now.wall -= 200 * DAY;
    assert!(world.waits(), "a certificate of the future is not ordered again");
    world.pass(SHORT_PAUSE);
    assert_eq!(world.ordered(), "b.example.com", "a pause does not grow with the jump");
}

#[test]
fn who_has_no_certificate_goes_before_a_renewal() {
    let mut world = World::new(&["a.example.com"]);
    world.ordered();
    world.succeed();
    world.pass(61 * DAY);
    world.plan.want(["a.example.com", "z.example.com"].map(str::to_owned));
    assert_eq!(world.ordered(), "z.example.com");
}

#[test]
fn a_failing_host_pauses_ever_longer_with_the_other_challenge_and_holds_nobody_up() {
    let mut world = World::new(&["a.example.com", "b.example.com"]);
    assert_eq!(world.order().challenge, Challenge::Http01);
    world.fail(Scope::Host, None);
    assert_eq!(world.ordered(), "b.example.com");
    world.succeed();
    world.pass(SHORT_PAUSE);
    assert_eq!(world.order().challenge, Challenge::TlsAlpn01);
    world.fail(Scope::Host, None);
    let mut pause = FIRST_PAUSE;
    for round in 0..10 {
        world.pass(pause - Duration::from_secs(1));
        assert!(world.waits(), "round {round}");
        world.pass(Duration::from_secs(1));
        let expected = if round % 2 == 0 { Challenge::Http01 } else { Challenge::TlsAlpn01 };
        assert_eq!(world.order().challenge, expected, "round {round}");
        world.fail(Scope::Host, None);
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
    assert_eq!(pause, LONGEST_PAUSE);
}

#[test]
fn an_authority_in_trouble_is_left_alone_by_all_hosts_and_blames_none() {
    let mut world = World::new(&["a.example.com", "b.example.com"]);
    world.ordered();
    world.fail(Scope::Authority, None);
    assert!(world.waits());
    world.pass(FIRST_REST);
    assert_eq!(world.ordered(), "a.example.com");
    world.fail(Scope::Authority, None);
    world.pass(FIRST_REST);
    assert!(world.waits(), "the second rest is twice as long");
    world.pass(FIRST_REST);
    assert_eq!(world.order().challenge, Challenge::Http01);
    world.succeed();
    assert_eq!(world.ordered(), "b.example.com");
    world.fail(Scope::Authority, None);
    world.pass(FIRST_REST);
    assert_eq!(world.ordered(), "b.example.com", "after a success the rests begin anew");
}

#[test]
fn retry_after_is_kept_for_either_kind_of_failure_up_to_a_week() {
    for scope in [Scope::Host, Scope::Authority] {
        let mut world = World::new(&["a.example.com"]);
        world.ordered();
        world.fail(scope, Some(30 * HOUR));
        world.pass(30 * HOUR - Duration::from_secs(1));
        assert!(world.waits(), "{scope:?}");
        world.pass(Duration::from_secs(1));
        world.ordered();
        world.fail(scope, Some(Duration::MAX));
        world.pass(LONGEST_ASKED);
        world.ordered();
    }
}

#[test]
fn two_hundred_hosts_stay_within_the_weekly_budget_of_their_domain() {
    let hosts: Vec<String> = (0..200).map(|n| format!("h{n:03}.example.com")).collect();
    let mut world = World::new(&[]);
    world.plan.want(hosts.into_iter().chain(["a.example.org".to_owned()]));
    for week in 0..4 {
        let mut orders = 0;
        while let Step::Order(order) = world.next() {
            world.succeed();
            orders += usize::from(order.host != "a.example.org");
        }
        assert_eq!(orders, WEEKLY_BUDGET, "week {week}");
        world.pass(WEEK - Duration::from_secs(1));
        assert!(world.waits());
        world.pass(Duration::from_secs(1));
    }
    assert_eq!(world.plan.report().iter().filter(|host| host.validity.is_some()).count(), 201);
}

#[test]
fn the_budget_and_the_certificates_survive_a_restart_and_renewals_are_free() {
    let mut world = World::new(&[]);
    let old = Validity { begins: world.now.wall - DAY, ends: world.now.wall + DAY / 4 };
    let hosts: Vec<String> = (0..60).map(|n| format!("h{n:02}.example.com")).collect();
    hosts.iter().take(WEEKLY_BUDGET).for_each(|host| world.plan.restore(host, old));
    world.plan.want(hosts);
    for _ in 0..WEEKLY_BUDGET {
        world.ordered();
        world.succeed();
    }
    assert!(world.waits(), "the ten others wait for the next week");
    world.pass(6 * DAY);
    world.ordered();
}

#[test]
fn who_is_not_wanted_is_not_ordered_and_a_return_does_not_end_the_pause() {
    let mut world = World::new(&["a.example.com"]);
    world.ordered();
    world.fail(Scope::Host, None);
    world.plan.want([]);
    world.pass(Duration::from_secs(1));
    assert!(world.waits());
    world.plan.want(["a.example.com".to_owned()]);
    assert!(world.waits());
    world.pass(SHORT_PAUSE);
    world.ordered();
    world.succeed();
    world.plan.want([]);
    world.pass(80 * DAY);
    assert!(world.waits(), "what nobody wants is not renewed");
}

#[test]
fn an_authority_whose_certificates_are_due_at_once_is_not_asked_without_end() {
    let mut world = World::new(&["a.example.com"]);
    world.ordered();
    world.plan.finished(Ok(world.valid_for(Duration::ZERO)), world.now);
    assert!(world.waits());
    world.pass(FIRST_PAUSE);
    world.ordered();
}

#[test]
fn the_budget_is_counted_by_the_last_two_labels() {
    let shown: Vec<_> = ["a.b.example.com", "example.com", "com", "b.example.co.uk"].map(budget_of).into();
    assert_eq!(shown, ["example.com", "example.com", "com", "co.uk"]);
}
