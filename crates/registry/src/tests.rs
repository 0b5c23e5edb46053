//! The client against a registry that fails as told.

use std::collections::BTreeSet;
use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

use kiln_plan::digest::Digest;
use kiln_plan::event::{Cancel, Silent, Work};
use kiln_plan::reference::Repository;

use super::testing::{Auth, FakeRegistry, Fault, Options as Behaviour, Request};
use super::*;
use crate::patience::Patience;
use kiln_oci::image::{CONFIG, Config, Descriptor, INDEX, Index, MANIFEST, Manifest, to_json};
use kiln_oci::layer::{Layer, MediaType};

mod documents;
mod redirects;
mod retries;

const IMPATIENT: Patience = Patience {
    attempts: 4,
    first_pause: Duration::from_millis(1),
    longest_pause: Duration::from_millis(4),
    longest_asked: Duration::from_millis(16),
    silence: Duration::from_millis(150),
};

/// A registry, and a client that knows a password for it.
struct Pair {
    registry: FakeRegistry,
    client: Registries,
    _directory: tempfile::TempDir,
}

fn bearer() -> Auth {
    Auth::Bearer { user: "user".into(), password: "right".into(), anonymous_pull: false, identity_token: None }
}

fn basic() -> Auth {
    Auth::Basic { user: "user".into(), password: "right".into() }
}

impl Pair {
    fn new(behaviour: Behaviour) -> Self {
        Self::with_password(behaviour, "right")
    }

    fn open() -> Self {
        Self::new(Behaviour::default())
    }

    fn with_password(behaviour: Behaviour, password: &str) -> Self {
        let auth = serde_json::json!({ "username": "user", "password": password });
        Self::with_entry(behaviour, &auth)
    }

    fn with_entry(behaviour: Behaviour, entry: &serde_json::Value) -> Self {
        let registry = FakeRegistry::with(behaviour);
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("config.json");
        let text = serde_json::json!({ "auths": { registry.address(): entry } }).to_string();
        fs_err::write(&file, text).unwrap();
        let credentials = Credentials { files: vec![file], ..Credentials::default() };
        let options = Options { credentials, patience: IMPATIENT, ..Options::default() };
        let client = Registries::new(options, &Cancel::default(), Arc::new(Silent)).unwrap();
        Self { registry, client, _directory: directory }
    }

    fn repository(&self, path: &str) -> Repository {
        format!("{}/{path}", self.registry.address()).parse().unwrap()
    }

    fn publish(&self, path: &str, image: &Publication) -> Result<Vec<Moved>, RegistryError> {
        let cancel = Cancel::default();
        let work = Work::start(&Silent, &cancel, "push", path, None);
        Ok(self.client.publish(&self.repository(path), image, &work)?.moved)
    }

    /// The requests since the last call, except for those that look for the registry's address.
    fn requests(&self) -> Vec<Request> {
        self.registry
            .log()
            .into_iter()
            .map(|logged| logged.request)
            .filter(|request| *request != Request::Ping)
            .collect()
    }
}

fn upload(bytes: &[u8]) -> Upload {
    Upload::bytes(bytes)
}

fn document(media_type: &str, bytes: Vec<u8>) -> Document {
    Document { media_type: media_type.into(), digest: Digest::of(&bytes), bytes }
}

/// Content that looks like nothing else, about a megabyte of it.
fn content(seed: u8, length: usize) -> Vec<u8> {
    (0..length).map(|at| (at as u32).wrapping_mul(2_654_435_761).to_le_bytes()[3] ^ seed).collect()
}

/// An image of three layers, the first of which all images share.
fn image(seed: u8) -> Publication {
    let layers = [content(0, 300_000), content(seed, 700_001), vec![seed]];
    let mut config = Config::scratch("linux/amd64".parse().unwrap());
    config.rootfs.diff_ids = layers.iter().map(|layer| Digest::of(layer)).collect();
    let config = to_json(&config).unwrap();
    let described: Vec<Layer> = layers
        .iter()
        .map(|layer| Layer {
            media_type: MediaType::Gzip,
            digest: Digest::of(layer),
            diff_id: Digest::of(layer),
            size: layer.len() as u64,
            urls: Vec::new(),
        })
        .collect();
    let manifest = to_json(&Manifest::new(Descriptor::of(CONFIG, &config), &described)).unwrap();
    let index = to_json(&Index::new(vec![Descriptor::of(MANIFEST, &manifest)])).unwrap();
    let mut blobs: Vec<Upload> = layers.iter().map(|layer| upload(layer)).collect();
    blobs.push(upload(&config));
    Publication {
        blobs,
        manifests: vec![document(MANIFEST, manifest)],
        index: document(INDEX, index),
        tags: vec!["0123".into(), "latest".into()],
    }
}

#[test]
fn an_image_is_pushed_and_pushing_it_again_moves_nothing() {
    for auth in [Auth::None, basic(), bearer()] {
        let pair = Pair::new(Behaviour { auth, ..Behaviour::default() });
        let image = image(1);
        assert_eq!(pair.publish("acme/train", &image).unwrap(), [Moved::Sent; 4]);
        assert_eq!(pair.registry.check(), Ok(()));
        assert_eq!(pair.registry.tags("acme/train"), ["0123", "latest"]);
        pair.requests();
        assert_eq!(pair.publish("acme/train", &image).unwrap(), [Moved::There; 4]);
        let asked: BTreeSet<Request> = pair.requests().into_iter().collect();
        let allowed = BTreeSet::from([Request::HeadBlob, Request::HeadManifest, Request::Token]);
        assert!(asked.is_subset(&allowed), "{asked:?}");
    }
}

#[test]
fn a_blob_that_is_elsewhere_on_the_registry_is_mounted() {
    for auth in [Auth::None, bearer()] {
        let pair = Pair::new(Behaviour { auth, ..Behaviour::default() });
        let mut image = image(1);
        pair.publish("acme/base", &image).unwrap();
        let before = pair.registry.received();
        for blob in &mut image.blobs {
            blob.mounts = vec![pair.repository("acme/base")];
        }
        assert_eq!(pair.publish("acme/train", &image).unwrap(), [Moved::Mounted; 4]);
        assert_eq!(pair.registry.received(), before);
        assert_eq!(pair.registry.check(), Ok(()));
    }
}

#[test]
fn where_mounting_is_not_supported_or_the_source_lacks_it_the_blob_is_sent() {
    for (mounts, source) in [(false, "acme/base"), (true, "acme/empty")] {
        let pair = Pair::new(Behaviour { mounts, ..Behaviour::default() });
        let mut image = image(1);
        pair.publish("acme/base", &image).unwrap();
        for blob in &mut image.blobs {
            blob.mounts = vec![pair.repository(source)];
        }
        assert_eq!(pair.publish("acme/train", &image).unwrap(), [Moved::Sent; 4]);
        assert_eq!(pair.registry.check(), Ok(()));
    }
}

#[test]
fn a_blob_that_can_only_be_mounted_and_is_nowhere_is_missing_and_no_tag_moves() {
    let pair = Pair::open();
    let mut image = image(1);
    image.blobs[1].open = None;
    image.blobs[1].mounts = vec![pair.repository("acme/empty")];
    assert_eq!(pair.publish("acme/train", &image).unwrap()[1], Moved::Missing);
    assert_eq!(pair.registry.tags("acme/train"), [""; 0]);
}

#[test]
fn an_upload_goes_on_where_the_connection_broke() {
    for absolute_location in [true, false] {
        let pair = Pair::new(Behaviour { absolute_location, ..Behaviour::default() });
        let bytes = content(7, 3_000_000);
        let image = Publication {
            blobs: vec![upload(&bytes)],
            manifests: vec![],
            index: document(INDEX, vec![]),
            tags: vec![],
        };
        pair.registry.fail(Request::PutUpload, Fault::DropAfter(2_000_000), 1);
        pair.registry.fail(Request::PatchUpload, Fault::DropAfter(500_000), 1);
        assert_eq!(pair.publish("a", &image).unwrap(), [Moved::Sent]);
        assert_eq!(pair.registry.pending_faults(), 0);
        assert_eq!(pair.registry.blob("a", &Digest::of(&bytes)), Some(bytes));
        // What arrived was not sent again, but for what was on its way.
        assert!(pair.registry.received() < 3_100_000, "{}", pair.registry.received());
    }
}

#[test]
fn requests_that_are_too_long_are_cut() {
    let behaviour = Behaviour { largest_body: Some(5 << 20), min_chunk: Some(1 << 20), ..Behaviour::default() };
    let pair = Pair::new(behaviour);
    let bytes = content(7, 11 << 20);
    let image =
        Publication { blobs: vec![upload(&bytes)], manifests: vec![], index: document(INDEX, vec![]), tags: vec![] };
    assert_eq!(pair.publish("a", &image).unwrap(), [Moved::Sent]);
    assert_eq!(pair.registry.blob("a", &Digest::of(&bytes)), Some(bytes));
    let patches = pair.requests().into_iter().filter(|request| *request == Request::PatchUpload).count();
    assert_eq!(patches, 3);
}

#[test]
fn content_that_is_not_what_its_digest_says_is_not_pushed() {
    for (there, expected) in [(&b"content"[..], &b"other content"[..]), (b"cont", b"content"), (b"cOntent", b"content")]
    {
        let pair = Pair::open();
        let wrong = Upload { digest: Digest::of(expected), size: expected.len() as u64, ..upload(there) };
        let image = Publication { blobs: vec![wrong], manifests: vec![], index: document(INDEX, vec![]), tags: vec![] };
        let error = pair.publish("a", &image).unwrap_err();
        assert!(matches!(error, RegistryError::Damaged { .. }), "{error}");
    }
}

#[test]
fn a_file_that_cannot_be_read_ends_the_push_at_once() {
    let pair = Pair::open();
    let mut broken = upload(b"content");
    broken.open = Some(Arc::new(|_| Err(std::io::Error::other("the disk is gone"))));
    let image = Publication { blobs: vec![broken], manifests: vec![], index: document(INDEX, vec![]), tags: vec![] };
    assert_eq!(pair.publish("a", &image).unwrap_err().to_string(), "the disk is gone");
}

#[test]
fn a_wrong_password_is_one_clear_message() {
    for auth in [basic(), bearer()] {
        let pair = Pair::with_password(Behaviour { auth, ..Behaviour::default() }, "wrong");
        let error = pair.publish("acme/train", &image(1)).unwrap_err();
        let address = pair.registry.address();
        let message = format!("pushing to {address}/acme/train: {address} does not accept the credentials");
        assert!(error.to_string().starts_with(&message), "{error}");
        assert!(!error.to_string().contains("wrong"), "{error}");
        assert!(error.is_denied());
    }
}

#[test]
fn who_says_nothing_may_read_where_that_is_allowed_and_is_told_to_log_in_where_not() {
    let mut auth = bearer();
    if let Auth::Bearer { anonymous_pull, .. } = &mut auth {
        *anonymous_pull = true;
    }
    let pair = Pair::with_entry(Behaviour { auth, ..Behaviour::default() }, &serde_json::json!({}));
    pair.registry.add_manifest("a", "latest", INDEX, br#"{"schemaVersion":2,"manifests":[]}"#);
    let read = pair.client.manifest(&pair.repository("a").tag("latest")).unwrap();
    assert_eq!(read.media_type, INDEX);
    let error = pair.publish("a", &image(1)).unwrap_err();
    assert_eq!(error.hint(), Some(format!("run `kiln login {}`", pair.registry.address())));
}

#[test]
fn an_identity_token_gives_access() {
    let auth = Auth::Bearer {
        user: "nobody".into(),
        password: "unused".into(),
        anonymous_pull: false,
        identity_token: Some("refresh".into()),
    };
    let entry = serde_json::json!({ "identitytoken": "refresh" });
    let pair = Pair::with_entry(Behaviour { auth, ..Behaviour::default() }, &entry);
    assert_eq!(pair.publish("acme/train", &image(1)).unwrap(), [Moved::Sent; 4]);
}

#[test]
fn a_registry_that_cannot_be_written_says_so() {
    let pair = Pair::new(Behaviour { read_only: true, ..Behaviour::default() });
    let error = pair.publish("a", &image(1)).unwrap_err();
    assert!(error.is_denied(), "{error}");
    assert!(error.to_string().contains("405"), "{error}");
}

#[test]
fn a_blob_is_read_on_after_its_connection_broke() {
    for ranges in [true, false] {
        let pair = Pair::new(Behaviour { ranges, ..Behaviour::default() });
        let bytes = content(3, 2_000_000);
        let digest = pair.registry.add_blob("a", &bytes);
        pair.registry.fail(Request::GetBlob, Fault::DropAfter(900_001), 2);
        pair.registry.fail(Request::GetBlob, Fault::Truncated(1_950_000), 1);
        let mut read = Vec::new();
        let mut reader = pair.client.blob_reader(&pair.repository("a"), &digest, bytes.len() as u64, 0).unwrap();
        reader.read_to_end(&mut read).unwrap();
        assert!(read == bytes);
        let mut end = Vec::new();
        let mut reader =
            pair.client.blob_reader(&pair.repository("a"), &digest, bytes.len() as u64, 1_999_990).unwrap();
        reader.read_to_end(&mut end).unwrap();
        assert_eq!(end, bytes[1_999_990..]);
    }
}

#[test]
fn a_blob_that_is_not_what_its_digest_says_is_never_read_to_its_end() {
    let bytes = content(3, 200_000);
    let pair = Pair::open();
    let digest = pair.registry.add_blob("a", &bytes);
    pair.registry.fail(Request::GetBlob, Fault::OtherContent, 1);
    let mut reader = pair.client.blob_reader(&pair.repository("a"), &digest, bytes.len() as u64, 0).unwrap();
    let mut read = Vec::new();
    let error = reader.read_to_end(&mut read).unwrap_err();
    assert!(read.len() < bytes.len(), "{error}");
    assert!(error.to_string().contains("gave other content than sha256:"), "{error}");
}

#[test]
fn a_blob_is_read_to_its_size_and_no_further() {
    let bytes = content(3, 200_000);
    let pair = Pair::open();
    let digest = pair.registry.add_blob("a", &bytes);
    pair.registry.fail(Request::GetBlob, Fault::Endless, 1);
    let mut reader = pair.client.blob_reader(&pair.repository("a"), &digest, bytes.len() as u64, 0).unwrap();
    let mut read = Vec::new();
    reader.read_to_end(&mut read).unwrap();
    assert!(read == bytes);
}

#[test]
fn answers_are_bounded() {
    let pair = Pair::open();
    pair.registry.add_manifest("a", "latest", INDEX, br#"{"schemaVersion":2,"manifests":[]}"#);
    pair.registry.fail(Request::GetManifest, Fault::Endless, 1);
    let error = pair.client.manifest(&pair.repository("a").tag("latest")).unwrap_err();
    assert!(matches!(error, RegistryError::TooLong { .. }), "{error}");
    let digest = pair.registry.add_blob("a", &content(1, 2000));
    let error = pair.client.blob(&pair.repository("a"), &digest, 1000).unwrap_err();
    assert!(matches!(error, RegistryError::TooLong { .. }), "{error}");
}

#[test]
fn all_pages_of_tags_are_read_and_an_unknown_repository_has_none() {
    let pair = Pair::new(Behaviour { page: 2, ..Behaviour::default() });
    for tag in ["a", "b", "c", "d", "e"] {
        pair.registry.add_manifest("x", tag, INDEX, br#"{"schemaVersion":2,"manifests":[]}"#);
    }
    assert_eq!(pair.client.tags(&pair.repository("x")).unwrap(), ["a", "b", "c", "d", "e"]);
    assert_eq!(pair.client.tags(&pair.repository("y")).unwrap(), [""; 0]);
}

#[test]
fn a_manifest_is_removed_by_its_digest() {
    let pair = Pair::open();
    let digest = pair.registry.add_manifest("x", "t", INDEX, br#"{"schemaVersion":2,"manifests":[]}"#);
    pair.client.delete(&pair.repository("x").digest(digest)).unwrap();
    assert_eq!(pair.registry.tags("x"), [""; 0]);
    pair.client.delete(&pair.repository("x").digest(digest)).unwrap();
}

#[test]
fn what_the_user_stops_stops_soon() {
    let registry = FakeRegistry::start();
    registry.fail(Request::HeadBlob, Fault::Slow(Duration::from_secs(30)), 1);
    let cancel = Cancel::default();
    let client = Registries::new(Options::default(), &cancel, Arc::new(Silent)).unwrap();
    let work = Work::start(&Silent, &cancel, "push", "a", None);
    let to = format!("{}/a", registry.address()).parse().unwrap();
    let since = std::time::Instant::now();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // The registry has the request, and is slow from then on.
            while registry.pending_faults() > 0 && since.elapsed() < Duration::from_secs(20) {
                std::thread::yield_now();
            }
            cancel.cancel();
        });
        let error = client.publish(&to, &image(1), &work).unwrap_err();
        assert!(matches!(error, RegistryError::Interrupted), "{error}");
    });
    assert!(since.elapsed() < Duration::from_secs(15));
}

/// Every kind of request that a push makes fails in every way, once and for good, at its first and at a later time.
/// Whatever happens: a push ends complete or with an error, and everything that a tag points at is there and right.
#[test]
fn whatever_fails_no_tag_ever_points_at_something_that_is_not_complete() {
    let kinds = [
        Request::Ping,
        Request::Token,
        Request::HeadBlob,
        Request::Mount,
        Request::StartUpload,
        Request::PatchUpload,
        Request::PutUpload,
        Request::UploadStatus,
        Request::HeadManifest,
        Request::GetManifest,
        Request::PutManifest,
    ];
    let faults = [
        Fault::Drop,
        Fault::DropAfter(1000),
        Fault::DropAnswer,
        Fault::Status(429, Some(0)),
        Fault::Status(500, None),
        Fault::Status(503, Some(1)),
        Fault::Slow(Duration::from_millis(200)),
        Fault::Truncated(10),
        Fault::OtherContent,
        Fault::OtherDigest,
        Fault::Garbage,
        Fault::Unauthorized,
    ];
    let auths = [Auth::None, basic(), bearer()];
    let cases: Vec<_> = kinds
        .iter()
        .flat_map(|kind| faults.iter().map(move |fault| (*kind, fault.clone())))
        .flat_map(|(kind, fault)| [(0, 1), (1, 1), (0, 40)].map(|(skip, times)| (kind, fault.clone(), skip, times)))
        .enumerate()
        .map(|(at, case)| (auths[at % 3].clone(), case))
        .collect();
    assert!(cases.len() > 200);
    let next = std::sync::atomic::AtomicUsize::new(0);
    let injected = std::sync::atomic::AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                while let Some((auth, case)) = cases.get(next.fetch_add(1, std::sync::atomic::Ordering::Relaxed)) {
                    let happened = fail_once(auth.clone(), case.clone());
                    injected.fetch_add(usize::from(happened), std::sync::atomic::Ordering::Relaxed);
                }
            });
        }
    });
    // Some faults cannot happen, such as a token that fails where none is asked for.
    let injected = injected.into_inner();
    assert!(injected >= 200, "{injected} of {} faults happened", cases.len());
}

/// Pushes a second image over a first with one fault on the way; whether the fault happened.
fn fail_once(auth: Auth, (kind, fault, skip, times): (Request, Fault, usize, usize)) -> bool {
    let what = format!("{kind:?} {fault:?} after {skip}, {times} times, {auth:?}");
    // Uploads are only patched and asked about where requests are cut or break.
    let largest_body = matches!(kind, Request::PatchUpload).then_some(600_000);
    let heads = !matches!(kind, Request::GetManifest);
    let pair = Pair::new(Behaviour { auth, largest_body, heads, ..Behaviour::default() });
    let (first, mut second) = (image(1), image(2));
    pair.publish("acme/base", &first).expect(&what);
    pair.publish("acme/train", &first).expect(&what);
    second.blobs[0].mounts = vec![pair.repository("acme/base")];
    let to = if matches!(kind, Request::Mount) { "acme/other" } else { "acme/train" };
    if matches!(kind, Request::UploadStatus) {
        pair.registry.fail(Request::PutUpload, Fault::DropAfter(100_000), 1);
    }
    // A new client has no tokens and knows no addresses.
    let fresh = Registries::new(pair.client.inner.options.clone(), &Cancel::default(), Arc::new(Silent)).unwrap();
    pair.registry.fail_after(kind, skip, fault, times);
    let before = pair.registry.pending_faults();
    let cancel = Cancel::default();
    let work = Work::start(&Silent, &cancel, "push", to, None);
    let pushed = fresh.publish(&pair.repository(to), &second, &work);
    let happened = pair.registry.pending_faults() < before;
    pair.registry.forgive();
    pair.registry.check().unwrap_or_else(|problem| panic!("{what}: {problem}"));
    let tagged = pair.registry.manifest(to, "latest").map(|(_, bytes)| Digest::of(&bytes));
    let digest = |image: &Publication| Some(image.index.digest);
    match pushed {
        Ok(_) => assert_eq!(tagged, digest(&second), "{what}"),
        Err(error) => {
            assert!(times > 1 || matches!(error, RegistryError::Denied { .. }), "{what}: {error}");
            assert!(error.to_string().contains(&pair.registry.address()), "{what}: {error}");
            assert!(tagged.is_none() || tagged == digest(&first) || tagged == digest(&second), "{what}");
        }
    }
    happened
}
