//! Look-ups of names that go on across the calls that wait for them. The system's look-up cannot be stopped, and may take
//! longer than any caller waits: a name server that is slow, or that answers for IPv4 and never for IPv6, takes seconds.
//! Who begins anew each time never gets an answer, and occupies one more thread with each try.
//!
//! So there is one look-up of a name at a time, and every caller waits for that one. One that is slow does not hold up
//! callers if the name has been resolved a short time ago.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::time::sleep;

/// How long an answer is used while the next look-up is slow.
const USABLE: Duration = Duration::from_secs(60);
/// A look-up that takes longer is slow.
const SLOW: Duration = Duration::from_millis(100);
/// How many names are remembered; those that nobody asks for are dropped then.
const MAX_NAMES: usize = 1_024;

/// What a look-up has found; the kind and the text of an error.
type Outcome = Result<Vec<IpAddr>, (io::ErrorKind, String)>;

/// What is known of a name.
#[derive(Default)]
struct Name {
    /// The look-up that goes on; `None` before it has an outcome.
    running: Option<watch::Receiver<Option<Outcome>>>,
    last: Option<(Vec<IpAddr>, Instant)>,
}

static NAMES: LazyLock<Mutex<HashMap<String, Name>>> = LazyLock::new(Mutex::default);

/// The addresses of `name`, in the system's order. `begin` starts a look-up, where none goes on.
///
/// Cancel-safe: the look-up goes on, and the next call waits for it.
pub(super) async fn shared<F>(name: &str, begin: impl FnOnce(String) -> F) -> io::Result<Vec<IpAddr>>
where
    F: Future<Output = io::Result<Vec<IpAddr>>> + Send + 'static,
{
    let (mut running, last) = join(name, begin);
    let usable = last.filter(|(_, at)| at.elapsed() < USABLE).map(|(addresses, _)| addresses);
    let slow = async {
        match usable {
            Some(addresses) => {
                sleep(SLOW).await;
                addresses
            }
            None => std::future::pending().await,
        }
    };
    let outcome = tokio::select! {
        biased;
        outcome = running.wait_for(Option::is_some) => match outcome {
            Ok(outcome) => outcome.clone(),
            // The runtime of the look-up has ended.
            Err(_) => None,
        },
        addresses = slow => return Ok(addresses),
    };
    match outcome {
        Some(Ok(addresses)) => Ok(addresses),
        Some(Err((kind, text))) => Err(io::Error::new(kind, text)),
        None => Err(io::Error::other("the look-up was given up")),
    }
}

/// Joins the look-up of a name that goes on, or begins one.
fn join<F>(
    name: &str,
    begin: impl FnOnce(String) -> F,
) -> (watch::Receiver<Option<Outcome>>, Option<(Vec<IpAddr>, Instant)>)
where
    F: Future<Output = io::Result<Vec<IpAddr>>> + Send + 'static,
{
    let mut names = names();
    if names.len() >= MAX_NAMES && !names.contains_key(name) {
        names.retain(|_, known| known.running.as_ref().is_some_and(goes_on));
    }
    let known = names.entry(name.to_owned()).or_default();
    if let Some(running) = known.running.as_ref().filter(|running| goes_on(running)) {
        return (running.clone(), known.last.clone());
    }
    let (sender, running) = watch::channel(None);
    known.running = Some(running.clone());
    let (last, name) = (known.last.clone(), name.to_owned());
    let looking_up = begin(name.clone());
    tokio::spawn(async move {
        let outcome = looking_up.await.map_err(|error| (error.kind(), error.to_string()));
        if let Ok(addresses) = &outcome
            && let Some(known) = self::names().get_mut(&name)
        {
            known.last = Some((addresses.clone(), Instant::now()));
        }
        sender.send_replace(Some(outcome));
    });
    (running, last)
}

/// Whether the look-up has no outcome yet, and will have one.
fn goes_on(running: &watch::Receiver<Option<Outcome>>) -> bool {
    running.borrow().is_none() && running.has_changed().is_ok()
}

fn names() -> MutexGuard<'static, HashMap<String, Name>> {
    NAMES.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use tokio::time::timeout;

    use super::*;

    /// A look-up that takes `long`, and counts.
    fn look_up(count: &Arc<AtomicU32>, long: Duration) -> impl FnOnce(String) -> LookUp {
        let count = Arc::clone(count);
        move |_| {
            let number = count.fetch_add(1, Ordering::Relaxed) + 1;
            Box::pin(async move {
                sleep(long).await;
                Ok(vec![IpAddr::from([10, 0, 0, number as u8])])
            })
        }
    }

    type LookUp = std::pin::Pin<Box<dyn Future<Output = io::Result<Vec<IpAddr>>> + Send>>;

    #[tokio::test(start_paused = true)]
    async fn callers_that_do_not_wait_long_enough_get_the_answer_of_the_look_up_that_they_began() {
        let (count, long) = (Arc::new(AtomicU32::new(0)), Duration::from_millis(2_500));
        let mut tries = 0;
        let found = loop {
            tries += 1;
            let limit = Duration::from_secs(1);
            match timeout(limit, shared("slow.test", look_up(&count, long))).await {
                Ok(found) => break found.unwrap(),
                Err(_) => assert!(tries < 5),
            }
        };
        assert_eq!((tries, found), (3, vec![IpAddr::from([10, 0, 0, 1])]));
        // From then on a slow look-up holds nobody up, and still brings news.
        let next = || timeout(Duration::from_millis(500), shared("slow.test", look_up(&count, long)));
        assert_eq!(next().await.unwrap().unwrap(), [IpAddr::from([10, 0, 0, 1])]);
        sleep(long).await;
        assert_eq!(next().await.unwrap().unwrap(), [IpAddr::from([10, 0, 0, 2])]);
        assert_eq!(count.load(Ordering::Relaxed), 3);
    }

    #[tokio::test]
    async fn a_fast_look_up_is_made_each_time_and_a_failure_is_told() {
        let count = Arc::new(AtomicU32::new(0));
        for number in 1..=3 {
            let found = shared("fast.test", look_up(&count, Duration::ZERO)).await.unwrap();
            assert_eq!(found, [IpAddr::from([10, 0, 0, number])]);
        }
        let failed = shared("none.test", |_| async { Err(io::Error::other("no such host")) }).await;
        assert_eq!(failed.unwrap_err().to_string(), "no such host");
    }
}
