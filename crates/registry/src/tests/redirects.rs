//! Servers that send the client elsewhere: no credential goes along.

use super::*;
use crate::testing::Spy;

/// Everything that would give somebody access: passwords in two forms, refresh tokens, tokens, and header fields.
const SECRETS: [&str; 8] = [
    "right",
    "dXNlcjpyaWdodA==",
    "refresh",
    "fake-token-",
    "authorization:",
    "cookie:",
    // The address of the request before may hold a token.
    "referer:",
    "www-authenticate:",
];

#[track_caller]
fn assert_no_secrets(requests: &[String], what: &str) {
    for request in requests {
        let lower = request.to_ascii_lowercase();
        let found: Vec<&&str> = SECRETS.iter().filter(|s| lower.contains(&s.to_ascii_lowercase())).collect();
        assert!(found.is_empty(), "{what}: {found:?} in\n{request}");
    }
}

fn identity() -> Auth {
    Auth::Bearer {
        user: "nobody".into(),
        password: "unused".into(),
        anonymous_pull: false,
        identity_token: Some("refresh".into()),
    }
}

/// A registry that wants credentials of this kind, and a client that has them.
fn pair(auth: &Auth, heads: bool, largest_body: Option<u64>) -> Pair {
    let entry = match auth {
        Auth::Bearer { identity_token: Some(token), .. } => serde_json::json!({ "identitytoken": token }),
        _ => serde_json::json!({ "username": "user", "password": "right" }),
    };
    Pair::with_entry(Behaviour { auth: auth.clone(), heads, largest_body, ..Behaviour::default() }, &entry)
}

/// Makes every kind of request there is; errors are of no interest.
fn use_everything(pair: &Pair, digest: Digest) {
    let mut image = image(1);
    image.blobs[0].mounts = vec![pair.repository("acme/base")];
    let _ = pair.publish("acme/train", &image);
    let repository = pair.repository("acme/base");
    let _ = pair.client.manifest(&repository.tag("latest"));
    let _ = pair.client.digest(&repository.tag("latest"));
    let _ = pair.client.tags(&repository);
    let _ = pair.client.blob(&repository, &digest, 1 << 20);
    let mut read = Vec::new();
    let _ = pair.client.blob_reader(&repository, &digest, 1000, 0).unwrap().read_to_end(&mut read);
    let mut read = Vec::new();
    let _ = pair.client.blob_reader(&repository, &digest, 1000, 10).unwrap().read_to_end(&mut read);
    let _ = pair.client.delete(&repository.tag("latest"));
    let _ = pair.client.check_credential(&pair.registry.address(), "user", "right");
}

/// Every kind of request, with every kind of credential, is redirected with every status to another port.
#[test]
fn no_credential_follows_a_redirect_to_another_origin() {
    let reached = std::sync::Mutex::new(BTreeSet::new());
    std::thread::scope(|scope| {
        for request in Request::ALL {
            let reached = &reached;
            scope.spawn(move || {
                for auth in [basic(), bearer(), identity()] {
                    for status in [301, 302, 303, 307, 308] {
                        if redirected(&auth, request, status) {
                            reached.lock().unwrap().insert(request);
                        }
                    }
                }
            });
        }
    });
    // The others are not followed: those that hold content or credentials, and those that nobody sends.
    let followed = [
        Request::HeadBlob,
        Request::GetBlob,
        Request::Mount,
        Request::StartUpload,
        Request::UploadStatus,
        Request::HeadManifest,
        Request::GetManifest,
        Request::PutManifest,
        Request::DeleteManifest,
        Request::ListTags,
        Request::Ping,
    ];
    assert_eq!(reached.into_inner().unwrap(), followed.into_iter().collect());
}

/// Uses a registry that redirects one kind of request; whether a request arrived there. None holds a credential.
fn redirected(auth: &Auth, request: Request, status: u16) -> bool {
    let spy = Spy::start(r#"{"token":"stolen","tags":[]}"#);
    let heads = request != Request::GetManifest;
    let cut = (request == Request::PatchUpload).then_some(600_000);
    let pair = pair(auth, heads, cut);
    let digest = pair.registry.add_blob("acme/base", &content(1, 1000));
    pair.registry.add_manifest("acme/base", "latest", INDEX, br#"{"schemaVersion":2,"manifests":[]}"#);
    if request == Request::UploadStatus {
        pair.registry.fail(Request::PutUpload, Fault::DropAfter(1000), 1);
    }
    pair.registry.fail(request, Fault::Redirect(status, spy.address().into()), 1000);
    use_everything(&pair, digest);
    let seen = spy.requests();
    assert_no_secrets(&seen, &format!("{request:?} answered {status} with {auth:?}"));
    !seen.is_empty()
}

#[test]
fn a_token_service_that_sends_on_to_another_origin_is_refused() {
    for (auth, statuses) in [(bearer(), [301, 302, 303, 307, 308].as_slice()), (identity(), &[307, 308])] {
        for status in statuses {
            let spy = Spy::start(r#"{"token":"stolen"}"#);
            let pair = pair(&auth, true, None);
            pair.registry.fail(Request::Token, Fault::Redirect(*status, spy.address().into()), 1000);
            let error = pair.publish("acme/train", &image(1)).unwrap_err();
            assert!(matches!(error, RegistryError::Diverted { .. }), "{error}");
            let (registry, to) = (pair.registry.address(), spy.address().to_owned());
            let expected = format!("{registry} sends on to {to}, and credentials do not follow there");
            assert!(error.to_string().ends_with(&expected), "{error}");
            assert_eq!(spy.requests(), [""; 0]);
        }
    }
}

#[test]
fn a_token_service_may_send_on_within_its_origin() {
    for auth in [bearer(), identity()] {
        let pair = pair(&auth, true, None);
        let own = format!("http://{}", pair.registry.address());
        pair.registry.fail(Request::Token, Fault::Redirect(308, own), 1);
        assert_eq!(pair.publish("acme/train", &image(1)).unwrap(), [Moved::Sent; 4]);
    }
}

#[test]
fn a_registry_may_send_on_within_its_origin() {
    for auth in [basic(), bearer()] {
        for request in [Request::HeadBlob, Request::StartUpload, Request::PutManifest, Request::HeadManifest] {
            let pair = pair(&auth, true, None);
            let own = format!("http://{}", pair.registry.address());
            pair.registry.fail(request, Fault::Redirect(307, own), 1);
            assert_eq!(pair.publish("acme/train", &image(1)).unwrap(), [Moved::Sent; 4], "{request:?}");
        }
    }
}

#[test]
fn blobs_that_lie_on_a_storage_of_their_own_are_read_without_credentials() {
    for auth in [basic(), bearer(), identity()] {
        for status in [301, 302, 303, 307, 308] {
            let pair = pair(&auth, true, None);
            // Who sends credentials there is refused, as by storage that takes signed addresses.
            let storage = FakeRegistry::start();
            let bytes = content(3, 200_000);
            let digest = pair.registry.add_blob("a", &bytes);
            storage.add_blob("a", &bytes);
            let to = format!("http://{}", storage.address());
            pair.registry.fail(Request::GetBlob, Fault::Redirect(status, to), 1000);
            let repository = pair.repository("a");
            assert_eq!(pair.client.blob(&repository, &digest, 1 << 20).unwrap(), bytes);
            for from in [0, 1000] {
                let mut read = Vec::new();
                let mut reader = pair.client.blob_reader(&repository, &digest, bytes.len() as u64, from).unwrap();
                reader.read_to_end(&mut read).unwrap();
                assert!(read == bytes[from as usize..]);
            }
            assert_eq!(storage.log().len(), 3);
        }
    }
}

#[test]
fn uploads_elsewhere_get_content_and_no_credentials() {
    for auth in [basic(), bearer(), identity()] {
        for request in [Request::Mount, Request::StartUpload, Request::PatchUpload, Request::UploadStatus] {
            let spy = Spy::answering("201 Created\r\nContent-Length: 0\r\n\r\n");
            let cut = (request == Request::PatchUpload).then_some(600_000);
            let pair = pair(&auth, true, cut);
            if request == Request::UploadStatus {
                pair.registry.fail(Request::PutUpload, Fault::DropAfter(1000), 1);
            }
            pair.registry.set_options(|options| options.mounts = false);
            pair.registry.fail(request, Fault::Location(spy.address().into()), 1000);
            let mut image = image(1);
            image.blobs[0].mounts = vec![pair.repository("acme/base")];
            let _ = pair.publish("acme/train", &image);
            let seen = spy.requests();
            assert!(!seen.is_empty(), "{request:?}");
            assert_no_secrets(&seen, &format!("{request:?} with {auth:?}"));
        }
    }
}

#[test]
fn a_challenge_of_another_origin_is_not_answered() {
    for challenge in ["Basic realm=\"x\"", "Bearer realm=\"http://127.0.0.1:1/token\",service=\"x\""] {
        let answer = format!("401 Unauthorized\r\nWWW-Authenticate: {challenge}\r\nContent-Length: 0\r\n\r\n");
        let spy = Spy::answering(&answer);
        let pair = pair(&basic(), true, None);
        let digest = pair.registry.add_blob("a", b"content");
        pair.registry.fail(Request::GetBlob, Fault::Redirect(307, spy.address().into()), 1000);
        let error = pair.client.blob(&pair.repository("a"), &digest, 100).unwrap_err();
        assert!(matches!(error, RegistryError::Denied { .. }), "{error}");
        let seen = spy.requests();
        assert_eq!(seen.len(), 1);
        assert_no_secrets(&seen, challenge);
    }
}

#[test]
fn a_redirect_to_itself_ends() {
    let pair = Pair::open();
    let digest = pair.registry.add_blob("a", b"content");
    let own = format!("http://{}", pair.registry.address());
    pair.registry.fail(Request::GetBlob, Fault::Redirect(302, own), 1000);
    let error = pair.client.blob(&pair.repository("a"), &digest, 100).unwrap_err();
    assert!(error.to_string().ends_with("after too many other redirects"), "{error}");
}

/// Addresses are compared, and redirects followed, in one file, which has a table of cases.
#[test]
fn one_function_decides_where_credentials_go() {
    let crates = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut waiting = vec![crates];
    let mut others = Vec::new();
    while let Some(directory) = waiting.pop() {
        for entry in fs_err::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_dir() {
                if !["target", "tests", "testing"].contains(&name.as_str()) {
                    waiting.push(path);
                }
            } else if name.ends_with(".rs") && !["tests.rs", "redirect.rs"].contains(&name.as_str()) {
                let text = fs_err::read_to_string(&path).unwrap();
                for sign in [".origin()", "Policy::limited", "Policy::custom", "Policy::default"] {
                    if text.contains(sign) {
                        others.push(format!("{sign} in {}", path.display()));
                    }
                }
            }
        }
    }
    assert_eq!(others, [""; 0]);
}
