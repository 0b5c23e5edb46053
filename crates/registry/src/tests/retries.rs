//! Requests that are repeated: what is said of them, and how long it takes.

use std::sync::Mutex;

use kiln_plan::event::{Event, Reporter};

use super::*;

/// Retries that were reported.
#[derive(Debug, Default)]
struct Seen(Mutex<Vec<Retry>>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Retry {
    subject: String,
    host: String,
    numbers: (u32, u32),
    cause: String,
    pause: Duration,
}

impl Reporter for Seen {
    fn event(&self, event: Event) {
        if let Event::Retry { subject, host, attempt, of, cause, pause } = event {
            self.0.lock().unwrap().push(Retry { subject, host, numbers: (attempt, of), cause, pause });
        }
    }
}

/// A registry, a client with this patience, and what the client reports.
fn watched(patience: Patience) -> (FakeRegistry, Registries, Arc<Seen>) {
    let (registry, seen) = (FakeRegistry::start(), Arc::new(Seen::default()));
    let options = Options { patience, ..Options::default() };
    let client = Registries::new(options, &Cancel::default(), Arc::<Seen>::clone(&seen)).unwrap();
    (registry, client, seen)
}

fn push(registry: &FakeRegistry, client: &Registries, blob: &Upload) -> Result<Vec<Moved>, RegistryError> {
    let cancel = Cancel::default();
    let work = Work::start(&Silent, &cancel, "push", "a", None);
    let to = format!("{}/acme/train", registry.address()).parse().unwrap();
    client.push_blobs(&to, std::slice::from_ref(blob), &work)
}

#[test]
fn every_retry_is_reported_and_the_last_error_names_the_blob_the_address_and_the_attempts() {
    let (registry, client, seen) = watched(IMPATIENT);
    registry.fail(Request::StartUpload, Fault::Status(503, None), 99);
    let blob = Upload::bytes(content(1, 1000));
    let error = push(&registry, &client, &blob).unwrap_err();
    let (address, digest) = (registry.address(), blob.digest);
    let cause = "answered 503 Service Unavailable: this registry was told to fail";
    let problem = format!("pushing {digest} to {address}/acme/train: {address} {cause}");
    let request = format!("4 attempts: POST http://{address}/v2/acme/train/blobs/uploads/");
    assert_eq!(error.to_string(), format!("{problem} ({request})"));
    let seen = seen.0.lock().unwrap();
    assert_eq!(seen.iter().map(|retry| retry.numbers).collect::<Vec<_>>(), [(2, 4), (3, 4), (4, 4)]);
    for retry in seen.iter() {
        assert_eq!(retry.subject, format!("pushing {digest} to {address}/acme/train"));
        assert_eq!((retry.host.as_str(), retry.cause.as_str()), (address.as_str(), cause));
        assert!((IMPATIENT.first_pause..=IMPATIENT.longest_pause).contains(&retry.pause), "{retry:?}");
    }
}

#[test]
fn pauses_that_a_server_asks_for_are_bounded_each_and_together() {
    let longest_asked = IMPATIENT.longest_pause * 2;
    let (registry, client, seen) = watched(Patience { attempts: 100, longest_asked, ..IMPATIENT });
    registry.fail(Request::StartUpload, Fault::Status(429, Some(3600)), 99);
    let error = push(&registry, &client, &Upload::bytes(content(1, 1000))).unwrap_err();
    assert!(error.to_string().contains(" (3 attempts: "), "{error}");
    let pauses: Vec<Duration> = seen.0.lock().unwrap().iter().map(|retry| retry.pause).collect();
    assert_eq!(pauses, [IMPATIENT.longest_pause; 2]);
}

#[test]
fn a_server_that_was_never_heard_is_asked_less_often() {
    let (registry, client, seen) = watched(IMPATIENT);
    let address = registry.address();
    drop(registry);
    let error = client.manifest(&format!("{address}/a:t").parse().unwrap()).unwrap_err();
    assert!(error.to_string().contains("(3 attempts: GET http"), "{error}");
    assert_eq!(seen.0.lock().unwrap().iter().map(|retry| retry.numbers).collect::<Vec<_>>(), [(2, 3), (3, 3)]);
}

#[test]
fn what_succeeds_at_once_reports_nothing() {
    let (registry, client, seen) = watched(IMPATIENT);
    push(&registry, &client, &Upload::bytes(content(1, 1000))).unwrap();
    assert_eq!(*seen.0.lock().unwrap(), []);
}
