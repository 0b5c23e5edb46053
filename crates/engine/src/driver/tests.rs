//! The driver against made-up steps that count how often they are performed.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use kiln_plan::digest::Digest;
use kiln_plan::event::{Cancel, Event, Reporter};
use kiln_plan::step::StepKey;
use kiln_store::Store;
use serde::Serialize;

use super::{Alone, Driver, Origin, Remote};
use crate::context::Context;
use crate::error::{BuildError, Result};
use crate::graph::Graph;
use crate::node::Node;
use crate::product::{Blob, Product, ProductKind as _, Wheel};
use crate::step::{Cost, Keep, Kind, Level, Read, Repeat, Step, Subject};
use crate::workshop::{Surroundings, Workshop};

/// How a made-up step behaves.
#[derive(Default)]
struct Play {
    performed: AtomicUsize,
    /// Its content, where it is not its name.
    content: Mutex<Option<String>>,
    fails: bool,
    cancels: Option<Cancel>,
    recorded: bool,
    never_kept: bool,
    /// Waits until this many steps run at once.
    together: Option<Arc<std::sync::Barrier>>,
}

impl Play {
    fn performed(&self) -> usize {
        self.performed.load(Ordering::SeqCst)
    }
}

/// A made-up step: it stores its content as a blob.
#[derive(Serialize)]
struct Made {
    name: String,
    reads: Vec<Node<Wheel>>,
    #[serde(skip)]
    level: Level,
    #[serde(skip)]
    play: Arc<Play>,
}

impl Step for Made {
    type Product = Wheel;
    const KIND: Kind = Kind { name: "made up", version: 1 };

    fn subject(&self) -> Subject {
        Subject::Wheel(self.name.clone())
    }

    fn reads(&self) -> Vec<Read> {
        self.reads.iter().map(|node| node.at(self.level)).collect()
    }

    fn cost(&self) -> Cost {
        Cost::Cpu(1)
    }

    fn keep(&self) -> Keep {
        if self.play.never_kept { Keep::Never } else { Keep::Shared }
    }

    fn repeatable(&self) -> Repeat {
        if self.play.recorded { Repeat::Recorded } else { Repeat::SameBytes }
    }

    fn perform(&self, context: &Context<'_>) -> Result<Wheel> {
        self.play.performed.fetch_add(1, Ordering::SeqCst);
        if let Some(barrier) = &self.play.together {
            barrier.wait();
        }
        if let Some(cancel) = &self.play.cancels {
            cancel.cancel();
            context.cancel().check()?;
        }
        if self.play.fails {
            return Err(BuildError::LockOutdated(format!("{} cannot be made", self.name)));
        }
        for node in &self.reads {
            if self.level == Level::Here {
                assert!(context.workshop.holds(&context.get(*node).digest), "{} reads what is not here", self.name);
            }
        }
        let content = self.play.content.lock().unwrap().clone().unwrap_or_else(|| self.name.clone());
        let digest = context.workshop.store.add(content.as_bytes())?;
        Ok(Wheel { file: self.name.clone(), digest, size: Some(content.len() as u64), kept: None })
    }
}

/// A cache that holds records and bytes.
#[derive(Default)]
struct Cache {
    records: Mutex<BTreeMap<StepKey, Product>>,
    bytes: Mutex<BTreeMap<Digest, Vec<u8>>>,
    promised: Mutex<Vec<Digest>>,
    asked: Mutex<Vec<usize>>,
    store: Mutex<Option<std::path::PathBuf>>,
    policy: &'static str,
}

impl Remote for Cache {
    fn policy(&self) -> Option<String> {
        Some(self.policy.to_owned())
    }

    fn ask(&self, keys: &[StepKey]) -> Result<Vec<Option<Product>>> {
        self.asked.lock().unwrap().push(keys.len());
        Ok(keys.iter().map(|key| self.records.lock().unwrap().get(key).cloned()).collect())
    }

    fn promise(&self, product: &Product) {
        self.promised.lock().unwrap().extend(product.blobs().iter().map(|blob| blob.digest));
    }

    fn has(&self, blob: &Blob) -> bool {
        self.promised.lock().unwrap().contains(&blob.digest)
    }

    fn bring(&self, blob: &Blob) -> Result<bool> {
        let Some(bytes) = self.bytes.lock().unwrap().get(&blob.digest).cloned() else { return Ok(false) };
        let root = self.store.lock().unwrap().clone().unwrap();
        Store::open(&root)?.add(&bytes)?;
        Ok(true)
    }
}

/// Events that were reported.
#[derive(Default)]
struct Seen(Mutex<Vec<String>>);

impl Reporter for Seen {
    fn event(&self, event: Event) {
        let line = match &event {
            Event::Settled { step, origin } => format!("{origin:?} {} {}", step.subject, step.key.is_some()),
            Event::Performed { step, bytes, .. } => format!("Performed {} {bytes} bytes", step.subject),
            other => format!("{other:?}"),
        };
        self.0.lock().unwrap().push(line);
    }

    fn follows_steps(&self) -> bool {
        true
    }
}

impl Seen {
    fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

struct Place {
    directory: tempfile::TempDir,
    store: Store,
    seen: Arc<Seen>,
}

impl Place {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&directory.path().join("store")).unwrap();
        Self { directory, store, seen: Arc::default() }
    }

    fn root(&self) -> std::path::PathBuf {
        self.directory.path().join("store")
    }

    fn workshop(&self, cancel: Cancel) -> Workshop<'_> {
        let surroundings = Surroundings { jobs: 4, ..Surroundings::bare() };
        Workshop::new(&self.store, Arc::<Seen>::clone(&self.seen), cancel, surroundings)
    }

    fn cache(&self) -> Cache {
        Cache { store: Mutex::new(Some(self.root())), policy: "cache", ..Cache::default() }
    }

    /// Drives a graph to one node; its product.
    fn drive(&self, graph: &Graph, node: Node<Wheel>, remote: &dyn Remote) -> Result<Wheel> {
        let workshop = self.workshop(Cancel::default());
        Driver::new(graph, &workshop, remote).get(node, Level::Here)
    }
}

/// A graph of made-up steps.
#[derive(Default)]
struct Plays {
    graph: Graph,
    plays: BTreeMap<String, Arc<Play>>,
}

impl Plays {
    fn add(&mut self, name: &str, reads: &[Node<Wheel>]) -> Node<Wheel> {
        self.add_play(name, reads, Play::default())
    }

    fn add_play(&mut self, name: &str, reads: &[Node<Wheel>], play: Play) -> Node<Wheel> {
        self.add_at(name, reads, Level::Here, play)
    }

    fn add_at(&mut self, name: &str, reads: &[Node<Wheel>], level: Level, play: Play) -> Node<Wheel> {
        let play = Arc::new(play);
        self.plays.insert(name.to_owned(), Arc::clone(&play));
        self.graph.add(Made { name: name.to_owned(), reads: reads.to_vec(), level, play }).unwrap()
    }

    fn performed(&self) -> Vec<(&str, usize)> {
        self.plays.iter().map(|(name, play)| (name.as_str(), play.performed())).collect()
    }
}

/// `a` is read by `b`, which is read by `c`.
fn chain() -> (Plays, Node<Wheel>) {
    let mut plays = Plays::default();
    let a = plays.add("a", &[]);
    let b = plays.add("b", &[a]);
    let c = plays.add("c", &[b]);
    (plays, c)
}

#[test]
fn every_step_is_performed_once_after_those_that_it_reads_and_is_recalled_afterwards() {
    let place = Place::new();
    let (plays, c) = chain();
    let product = place.drive(&plays.graph, c, &Alone).unwrap();
    assert_eq!(place.store.read(&product.digest).unwrap(), b"c");
    assert_eq!(plays.performed(), [("a", 1), ("b", 1), ("c", 1)]);
    let (again, c) = chain();
    assert_eq!(place.drive(&again.graph, c, &Alone).unwrap(), product);
    assert_eq!(again.performed(), [("a", 0), ("b", 0), ("c", 0)]);
}

#[test]
fn each_step_is_reported_with_its_outcome() {
    let place = Place::new();
    let (plays, c) = chain();
    place.drive(&plays.graph, c, &Alone).unwrap();
    assert_eq!(place.seen.take(), ["Performed a 1 bytes", "Performed b 1 bytes", "Performed c 1 bytes"]);
    let (again, c) = chain();
    place.drive(&again.graph, c, &Alone).unwrap();
    assert_eq!(place.seen.take(), ["Local a true", "Local b true", "Local c true"]);
    // On another machine, a cache that recorded the first step.
    let other = Place::new();
    let (plays, c) = chain();
    let workshop = place.workshop(Cancel::default());
    let driver = Driver::new(&plays.graph, &workshop, &Alone);
    driver.settle([c.id()]).unwrap();
    let first = plays.graph.ids().next().unwrap();
    let (key, (product, _)) = (driver.key(first).unwrap(), driver.product(first).unwrap());
    let cache = other.cache();
    cache.records.lock().unwrap().insert(key, product.clone());
    cache.bytes.lock().unwrap().insert(product.blobs()[0].digest, b"a".to_vec());
    other.drive(&plays.graph, c, &cache).unwrap();
    assert_eq!(other.seen.take(), ["Remote a true", "Performed b 1 bytes", "Performed c 1 bytes"]);
}

#[test]
fn equal_steps_are_one_node_and_equal_keys_are_performed_once() {
    let place = Place::new();
    let mut plays = Plays::default();
    let (a, other) = (plays.add("a", &[]), plays.add("other", &[]));
    let again = Made { name: "a".into(), reads: Vec::new(), level: Level::Here, play: Arc::default() };
    assert_eq!(plays.graph.add(again).unwrap().id(), a.id());
    *plays.plays["other"].content.lock().unwrap() = Some("a".into());
    // Two nodes whose reads turn out to be the same product have one key.
    let play = Arc::new(Play::default());
    let mut twin = |read| {
        let (name, play) = ("x".to_owned(), Arc::clone(&play));
        plays.graph.add(Made { name, reads: vec![read], level: Level::Here, play }).unwrap()
    };
    let (one, two) = (twin(a), twin(other));
    assert_ne!(one.id(), two.id());
    let both = plays.add("both", &[one, two]);
    place.drive(&plays.graph, both, &Alone).unwrap();
    assert_eq!(play.performed(), 1);
    assert_eq!(plays.performed(), [("a", 1), ("both", 1), ("other", 1)]);
}

#[test]
fn a_step_with_the_key_of_one_that_the_cache_knows_is_not_taken_for_one_made_here() {
    let (place, other) = (Place::new(), Place::new());
    let graph = || {
        let mut plays = Plays::default();
        let (a, b) = (plays.add("a", &[]), plays.add("b", &[]));
        *plays.plays["b"].content.lock().unwrap() = Some("a".into());
        let mut twin = |read| {
            let (name, play) = ("x".to_owned(), Arc::default());
            plays.graph.add(Made { name, reads: vec![read], level: Level::Here, play }).unwrap()
        };
        let (one, two) = (twin(a), twin(b));
        let both = plays.add("both", &[one, two]);
        (plays, one, two, both)
    };
    let (plays, .., both) = graph();
    place.drive(&plays.graph, both, &Alone).unwrap();
    let cache = publish(&place, &plays, both);
    let cache = Cache { store: Mutex::new(Some(other.root())), ..cache };
    let (again, one, two, both) = graph();
    let workshop = other.workshop(Cancel::default());
    let driver = Driver::new(&again.graph, &workshop, &cache);
    driver.settle([both.id()]).unwrap();
    for node in [one, two] {
        assert_eq!(driver.product(node.id()).unwrap().1, Origin::Remote);
    }
}

#[test]
fn an_equal_product_ends_a_rebuild() {
    let place = Place::new();
    let product = |name: &str, content: Option<&str>| {
        let mut plays = Plays::default();
        let a = plays.add(name, &[]);
        *plays.plays[name].content.lock().unwrap() = content.map(str::to_owned);
        let b = plays.add("b", &[a]);
        (place.drive(&plays.graph, b, &Alone).unwrap(), plays.plays["b"].performed())
    };
    let (first, performed) = product("a", None);
    assert_eq!(performed, 1);
    assert_eq!(product("another step with the same bytes", Some("a")), (first, 0));
}

#[test]
fn records_of_a_cache_are_asked_for_in_rounds_and_nothing_is_performed() {
    let place = Place::new();
    let (plays, c) = chain();
    let product = place.drive(&plays.graph, c, &Alone).unwrap();
    let cache = publish(&place, &plays, c);
    let other = Place::new();
    let cache = Cache { store: Mutex::new(Some(other.root())), ..cache };
    let (again, c) = chain();
    assert_eq!(other.drive(&again.graph, c, &cache).unwrap(), product);
    assert_eq!(again.performed(), [("a", 0), ("b", 0), ("c", 0)]);
    assert_eq!(*cache.asked.lock().unwrap(), [1, 1, 1]);
    // It is known without the cache afterwards, as something that the cache said.
    let workshop = other.workshop(Cancel::default());
    let (graph, c) = chain();
    let driver = Driver::new(&graph.graph, &workshop, &cache);
    driver.settle([c.id()]).unwrap();
    assert_eq!(driver.product(c.id()).unwrap().1, Origin::Remote);
    assert_eq!(cache.asked.lock().unwrap().len(), 3);
}

/// A cache with the records and bytes of all nodes that one reads.
fn publish(place: &Place, plays: &Plays, node: Node<Wheel>) -> Cache {
    let cache = place.cache();
    let workshop = place.workshop(Cancel::default());
    let driver = Driver::new(&plays.graph, &workshop, &Alone);
    driver.settle([node.id()]).unwrap();
    for id in plays.graph.with_reads([node.id()]) {
        let (product, _) = driver.product(id).unwrap();
        for blob in product.blobs() {
            cache.bytes.lock().unwrap().insert(blob.digest, place.store.read(&blob.digest).unwrap());
        }
        cache.records.lock().unwrap().insert(driver.key(id).unwrap(), product);
    }
    cache
}

#[test]
fn what_a_cache_said_is_not_seen_under_another_policy_and_never_becomes_a_local_record() {
    let place = Place::new();
    let (plays, c) = chain();
    place.drive(&plays.graph, c, &Alone).unwrap();
    let cache = publish(&place, &plays, c);
    let other = Place::new();
    let cache = Cache { store: Mutex::new(Some(other.root())), ..cache };
    let (again, c) = chain();
    other.drive(&again.graph, c, &cache).unwrap();
    let (graph, c) = chain();
    let elsewhere = Cache { policy: "the same cache with other keys", ..other.cache() };
    other.drive(&graph.graph, c, &elsewhere).unwrap();
    assert_eq!(graph.performed(), [("a", 1), ("b", 1), ("c", 1)]);
}

#[test]
fn bytes_that_a_cache_promised_and_lost_are_made_and_nothing_else() {
    let place = Place::new();
    let (plays, c) = chain();
    let product = place.drive(&plays.graph, c, &Alone).unwrap();
    let cache = publish(&place, &plays, c);
    cache.bytes.lock().unwrap().remove(&product.digest);
    let other = Place::new();
    let cache = Cache { store: Mutex::new(Some(other.root())), ..cache };
    let (again, c) = chain();
    assert_eq!(other.drive(&again.graph, c, &cache).unwrap(), product);
    // The bytes of `b`, which `c` reads, come from the cache.
    assert_eq!(again.performed(), [("a", 0), ("b", 0), ("c", 1)]);
}

#[test]
fn a_recorded_step_that_gives_something_else_makes_its_readers_be_settled_again() {
    let place = Place::new();
    let graph = |content: &str| {
        let mut plays = Plays::default();
        let a = plays.add_play("a", &[], Play { recorded: true, ..Play::default() });
        *plays.plays["a"].content.lock().unwrap() = Some(content.to_owned());
        let b = plays.add("b", &[a]);
        (plays, a, b)
    };
    let (plays, a, b) = graph("first");
    place.drive(&plays.graph, b, &Alone).unwrap();
    let first = place.drive(&plays.graph, a, &Alone).unwrap();
    fs_err::remove_file(place.root().join("blobs/sha256").join(first.digest.hex())).unwrap();
    let (plays, a, b) = graph("second");
    let workshop = place.workshop(Cancel::default());
    let driver = Driver::new(&plays.graph, &workshop, &Alone);
    driver.want(&[(a.id(), Level::Here), (b.id(), Level::Here)]).unwrap();
    assert_eq!(driver.known(a).unwrap().digest, Digest::of(b"second"));
    assert_eq!(plays.performed(), [("a", 1), ("b", 1)]);
}

#[test]
fn two_drivers_perform_a_step_once_and_the_other_says_that_it_waits() {
    let place = Place::new();
    let barrier = Arc::new(std::sync::Barrier::new(2));
    let mut slow = Plays::default();
    let a = slow.add_play("a", &[], Play { together: Some(Arc::clone(&barrier)), ..Play::default() });
    let mut other = Plays::default();
    let b = other.add("a", &[]);
    std::thread::scope(|scope| {
        let first = scope.spawn(|| place.drive(&slow.graph, a, &Alone).unwrap());
        while slow.plays["a"].performed() == 0 {
            std::thread::yield_now();
        }
        let second = scope.spawn(|| place.drive(&other.graph, b, &Alone).unwrap());
        while !place.seen.0.lock().unwrap().iter().any(|event| event.contains("Waiting")) {
            std::thread::yield_now();
        }
        barrier.wait();
        assert_eq!(first.join().unwrap(), second.join().unwrap());
    });
    assert_eq!((slow.plays["a"].performed(), other.plays["a"].performed()), (1, 0));
    assert_eq!(fs_err::read_dir(place.root().join("locks")).unwrap().count(), 2, "the lock of the step is gone");
}

#[test]
fn after_a_failure_nothing_new_begins_unless_one_keeps_going() {
    for keep_going in [false, true] {
        let place = Place::new();
        let mut plays = Plays::default();
        let bad = plays.add_play("bad", &[], Play { fails: true, ..Play::default() });
        let after = plays.add("after", &[bad]);
        // A chain that has nothing to do with it, longer than what runs at once.
        let mut good = plays.add("good 0", &[]);
        for at in 1..20 {
            good = plays.add(&format!("good {at}"), &[good]);
        }
        let workshop = place.workshop(Cancel::default());
        let driver = Driver::new(&plays.graph, &workshop, &Alone).keep_going(keep_going);
        let error = driver.want(&[(after.id(), Level::Here), (good.id(), Level::Here)]).unwrap_err();
        assert!(error.to_string().ends_with("bad cannot be made"), "{error}");
        assert_eq!(plays.plays["after"].performed(), 0);
        assert_eq!(plays.plays["good 19"].performed(), usize::from(keep_going));
    }
}

#[test]
fn several_failures_are_all_said() {
    let place = Place::new();
    let mut plays = Plays::default();
    let barrier = Arc::new(std::sync::Barrier::new(2));
    let play = || Play { fails: true, together: Some(Arc::clone(&barrier)), ..Play::default() };
    let (a, b) = (plays.add_play("a", &[], play()), plays.add_play("b", &[], play()));
    let both = plays.add("both", &[a, b]);
    let error = place.drive(&plays.graph, both, &Alone).unwrap_err().to_string();
    assert!(
        error.contains("2 steps failed") && error.contains("a cannot be made") && error.contains("b cannot be made"),
        "{error}"
    );
}

#[test]
fn stopping_ends_everything_at_once_and_leaves_no_record() {
    let place = Place::new();
    let cancel = Cancel::default();
    let mut plays = Plays::default();
    let a = plays.add_play("a", &[], Play { cancels: Some(cancel.clone()), ..Play::default() });
    let b = plays.add("b", &[a]);
    let workshop = place.workshop(cancel);
    let driver = Driver::new(&plays.graph, &workshop, &Alone);
    assert!(matches!(driver.get(b, Level::Here), Err(BuildError::Interrupted)));
    assert_eq!(plays.performed(), [("a", 1), ("b", 0)]);
    drop(driver);
    let (again, c) = chain();
    place.drive(&again.graph, c, &Alone).unwrap();
    assert_eq!(again.performed(), [("a", 1), ("b", 1), ("c", 1)]);
}

#[test]
fn waiting_for_another_process_ends_when_the_user_stops() {
    let place = Place::new();
    let mut plays = Plays::default();
    let a = plays.add("a", &[]);
    let cancel = Cancel::default();
    let workshop = place.workshop(cancel.clone());
    let driver = Driver::new(&plays.graph, &workshop, &Alone);
    driver.settle([a.id()]).unwrap();
    let _lock = place.store.try_lock(&format!("step-{}", driver.key(a.id()).unwrap())).unwrap().unwrap();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| driver.get(a, Level::Here));
        while !place.seen.0.lock().unwrap().iter().any(|event| event.contains("Waiting")) {
            std::thread::yield_now();
        }
        cancel.cancel();
        assert!(matches!(waiting.join().unwrap(), Err(BuildError::Interrupted)));
    });
    assert_eq!(plays.plays["a"].performed(), 0);
}

#[test]
fn what_is_never_kept_is_performed_each_time() {
    let place = Place::new();
    for _ in 0..2 {
        let mut plays = Plays::default();
        let a = plays.add_play("a", &[], Play { never_kept: true, ..Play::default() });
        place.drive(&plays.graph, a, &Alone).unwrap();
        assert_eq!(plays.plays["a"].performed(), 1);
    }
}

#[test]
fn bytes_that_nobody_reads_are_not_needed() {
    let place = Place::new();
    let graph = || {
        let mut plays = Plays::default();
        let a = plays.add("a", &[]);
        let b = plays.add_at("b", &[a], Level::Known, Play::default());
        (plays, b)
    };
    let (plays, b) = graph();
    place.drive(&plays.graph, b, &Alone).unwrap();
    fs_err::remove_file(place.root().join("blobs/sha256").join(Digest::of(b"a").hex())).unwrap();
    let (plays, b) = graph();
    place.drive(&plays.graph, b, &Alone).unwrap();
    assert_eq!(plays.performed(), [("a", 0), ("b", 0)]);
}

#[test]
fn a_key_is_of_kind_fields_and_products() {
    let digest = |text: &[u8]| Digest::of(text);
    let kind = Kind { name: "example", version: 1 };
    let key = |kind, fields: &[u8], inputs: &[Digest]| crate::step::key(kind, fields, inputs.iter().copied());
    let one = key(kind, b"{}", &[digest(b"a")]);
    assert_eq!(one, key(kind, b"{}", &[digest(b"a")]));
    for other in [
        key(Kind { version: 2, ..kind }, b"{}", &[digest(b"a")]),
        key(Kind { name: "another", ..kind }, b"{}", &[digest(b"a")]),
        key(kind, b"[]", &[digest(b"a")]),
        key(kind, b"{}", &[digest(b"b")]),
        key(kind, b"{}", &[digest(b"a"), digest(b"a")]),
        key(kind, b"{}", &[]),
    ] {
        assert_ne!(one, other);
    }
    let wheel = Wheel { file: "a".into(), digest: digest(b"a"), size: None, kept: None };
    assert_eq!(wheel.wrap().digest(), digest(b"a"));
}
