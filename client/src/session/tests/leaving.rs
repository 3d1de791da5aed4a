//! A client leaves: in order, in the middle of something, or without a session.

use super::live;
use super::story::{Story, intent};

#[test]
fn leaves_in_order_and_waits_at_most_half_a_second() {
    let mut story = live();
    story.session.leave(story.now);
    story.play("> CLIENT_SHUTDOWN|S1\n< SHUTDOWN_OK\n~ hangup");
    assert!(story.session.is_stopped());

    let mut closed = live();
    closed.session.leave(closed.now);
    closed.play("> CLIENT_SHUTDOWN|S1\n~ eof");
    assert!(closed.session.is_stopped());

    let mut silent = live();
    silent.session.leave(silent.now);
    silent.play("> CLIENT_SHUTDOWN|S1\n+ 499ms");
    assert!(!silent.session.is_stopped());
    silent.play("+ 1ms\n~ hangup");
    assert!(silent.session.is_stopped());
}

#[test]
fn leaves_in_the_middle_of_a_sync_behind_the_replies_that_are_due() {
    let mut story = live();
    story.want(&[]);
    story.play("> ROUTE_REMOVE|S1|r1");
    story.session.leave(story.now);
    story.play("> CLIENT_SHUTDOWN|S1\n< ROUTE_OK");
    assert!(!story.session.is_stopped());
    story.play("< SHUTDOWN_OK");
    assert!(story.session.is_stopped());
}

#[test]
fn leaving_a_session_that_is_being_registered_takes_it_back() {
    let mut story = Story::new(intent(&[]));
    story.play("~ dial\n> REGISTER|web|web-1|0|{}");
    story.session.leave(story.now);
    story.play("> CLIENT_SHUTDOWN|\n< ACK|S1\n< SHUTDOWN_OK");
    assert!(story.session.is_stopped());
}

#[test]
fn leaving_without_a_session_ends_at_once() {
    let mut disconnected = live();
    disconnected.play("~ eof");
    disconnected.session.leave(disconnected.now);
    assert!(disconnected.session.is_stopped());

    let mut connecting = Story::new(intent(&[]));
    connecting.session.tick(connecting.now);
    connecting.session.leave(connecting.now);
    assert!(connecting.session.is_stopped());

    let mut dormant = live();
    dormant.play("+ 30s\n> PING|S1\n< ERROR|session replaced");
    dormant.session.leave(dormant.now);
    assert!(dormant.session.is_stopped());
}
