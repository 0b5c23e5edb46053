//! What the registry promises to those who test with it, with a client of a few lines.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kiln_plan::digest::Digest;
use serde_json::{Value, json};

use super::{Auth, FakeRegistry, Fault, Logged, Options, Request};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

struct Reply {
    status: u16,
    fields: HashMap<String, String>,
    body: Vec<u8>,
}

impl Reply {
    fn field(&self, name: &str) -> &str {
        self.fields.get(name).map_or("", String::as_str)
    }

    fn location(&self) -> String {
        let location = self.field("location");
        location
            .strip_prefix("http://")
            .and_then(|rest| rest.find('/').map(|at| &rest[at..]))
            .unwrap_or(location)
            .into()
    }

    fn code(&self) -> String {
        let document: Value = serde_json::from_slice(&self.body).unwrap_or_default();
        document["errors"][0]["code"].as_str().unwrap_or_default().to_owned()
    }
}

/// Sends a request on a connection of its own; none where it ends before a whole answer.
fn send(registry: &FakeRegistry, method: &str, path: &str, fields: &[(&str, &str)], body: &[u8]) -> Option<Reply> {
    let mut stream = TcpStream::connect(registry.address()).unwrap();
    let mut head = format!("{method} {path} HTTP/1.1\r\nHost: {}\r\n", registry.address());
    for (name, value) in fields {
        head += &format!("{name}: {value}\r\n");
    }
    if !fields.iter().any(|(name, _)| *name == "Transfer-Encoding") {
        head += &format!("Content-Length: {}\r\n", body.len());
    }
    stream.write_all(format!("{head}\r\n").as_bytes()).unwrap();
    // The registry may have closed already.
    let _ = stream.write_all(body);
    reply(&mut BufReader::new(stream), method)
}

fn reply(input: &mut impl BufRead, method: &str) -> Option<Reply> {
    let mut line = String::new();
    input.read_line(&mut line).ok()?;
    let status = line.strip_prefix("HTTP/1.1 ")?.split(' ').next()?.parse().ok()?;
    let mut fields = HashMap::new();
    loop {
        line.clear();
        input.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(": ") else { break };
        fields.insert(name.to_ascii_lowercase(), value.to_owned());
    }
    let mut reply = Reply { status, fields, body: Vec::new() };
    let length = reply.field("content-length").parse().unwrap_or(0);
    if method != "HEAD" {
        reply.body.resize(length, 0);
        input.read_exact(&mut reply.body).ok()?;
    }
    Some(reply)
}

fn request(registry: &FakeRegistry, method: &str, path: &str, body: &[u8]) -> Reply {
    send(registry, method, path, &[], body).expect("an answer")
}

fn get(registry: &FakeRegistry, path: &str) -> Reply {
    request(registry, "GET", path, b"")
}

fn start(registry: &FakeRegistry, repository: &str) -> String {
    let reply = request(registry, "POST", &format!("/v2/{repository}/blobs/uploads/"), b"");
    assert_eq!((reply.status, reply.field("range")), (202, "0-0"));
    reply.location()
}

/// An image of two blobs with a tag, and the digest of its layer.
fn image(registry: &FakeRegistry, repository: &str) -> (Vec<u8>, Digest) {
    let (config, layer) = (registry.add_blob(repository, b"{}"), registry.add_blob(repository, b"layer"));
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": { "mediaType": "application/vnd.oci.image.config.v1+json", "digest": config, "size": 2 },
        "layers": [{ "mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": layer, "size": 5 }],
    });
    (manifest.to_string().into_bytes(), layer)
}

fn put(registry: &FakeRegistry, path: &str, media_type: &str, body: &[u8]) -> Reply {
    send(registry, "PUT", path, &[("Content-Type", media_type)], body).expect("an answer")
}

fn bearer(anonymous_pull: bool) -> FakeRegistry {
    let (user, password) = ("potter".to_owned(), "wheel".to_owned());
    let auth = Auth::Bearer { user, password, anonymous_pull, identity_token: Some("glaze".to_owned()) };
    FakeRegistry::with(Options { auth, ..Options::default() })
}

fn token(registry: &FakeRegistry, scope: &str, fields: &[(&str, &str)]) -> String {
    let reply = send(registry, "GET", &format!("/token?service=fake&{scope}"), fields, b"").unwrap();
    assert_eq!(reply.status, 200);
    let answer: Value = serde_json::from_slice(&reply.body).unwrap();
    assert_eq!(answer["token"], answer["access_token"]);
    format!("Bearer {}", answer["token"].as_str().unwrap())
}

#[test]
fn an_upload_in_two_patches_becomes_a_blob() {
    let registry = FakeRegistry::start();
    let first = start(&registry, "team/app");
    let reply = send(&registry, "PATCH", &first, &[("Content-Range", "0-4")], b"hello").unwrap();
    assert_eq!((reply.status, reply.field("range")), (202, "0-4"));
    let second = reply.location();
    assert_eq!(request(&registry, "PATCH", &first, b" world").code(), "BLOB_UPLOAD_INVALID");
    let gap = send(&registry, "PATCH", &second, &[("Content-Range", "9-14")], b" world").unwrap();
    assert_eq!((gap.status, gap.code().as_str()), (416, "RANGE_INVALID"));
    let chunked = [("Transfer-Encoding", "chunked"), ("Expect", "100-continue")];
    let mut stream = BufReader::new(TcpStream::connect(registry.address()).unwrap());
    let head = chunked.map(|(name, value)| format!("{name}: {value}\r\n")).concat();
    write!(stream.get_mut(), "PATCH {second} HTTP/1.1\r\n{head}\r\n").unwrap();
    assert_eq!(reply_status(&mut stream), 100);
    stream.get_mut().write_all(b"2;x=y\r\n w\r\n4\r\norld\r\n0\r\n\r\n").unwrap();
    let last = reply_of(&mut stream);
    assert_eq!((last.status, last.field("range")), (202, "0-10"));

    let digest = Digest::of(b"hello world");
    let reply = request(&registry, "PUT", &format!("{}&digest={digest}", last.location()), b"");
    assert_eq!((reply.status, reply.field("docker-content-digest")), (201, digest.to_string().as_str()));
    assert_eq!(reply.location(), format!("/v2/team/app/blobs/{digest}"));
    assert_eq!(registry.blob("team/app", &digest).unwrap(), b"hello world");
    assert_eq!(get(&registry, &last.location()).code(), "BLOB_UPLOAD_UNKNOWN");
    // What was refused was received all the same.
    assert_eq!(registry.received(), 5 + 6 + 6 + 6);
}

fn reply_of(stream: &mut BufReader<TcpStream>) -> Reply {
    reply(stream, "GET").unwrap()
}

fn reply_status(stream: &mut BufReader<TcpStream>) -> u16 {
    reply_of(stream).status
}

#[test]
fn a_whole_blob_can_come_with_the_post_or_with_the_put() {
    let registry = FakeRegistry::start();
    let digest = Digest::of(b"whole");
    let reply = request(&registry, "POST", &format!("/v2/a/blobs/uploads/?digest={digest}"), b"whole");
    assert_eq!(reply.status, 201);
    let escaped = digest.to_string().replace(':', "%3A");
    let reply = request(&registry, "PUT", &format!("{}&digest={escaped}", start(&registry, "b")), b"whole");
    assert_eq!(reply.status, 201);
    assert!(registry.has_blob("a", &digest) && registry.has_blob("b", &digest));
}

#[test]
fn content_with_another_digest_is_refused_and_forgotten() {
    let registry = FakeRegistry::start();
    let location = start(&registry, "a");
    let digest = Digest::of(b"expected");
    let reply = request(&registry, "PUT", &format!("{location}&digest={digest}"), b"actual");
    assert_eq!((reply.status, reply.code().as_str()), (400, "DIGEST_INVALID"));
    assert_eq!(get(&registry, &location).status, 404);
    assert!(!registry.has_blob("a", &digest));
}

#[test]
fn a_blob_is_mounted_or_else_an_upload_begins() {
    let registry = FakeRegistry::start();
    let digest = registry.add_blob("base", b"layer");
    let path = format!("/v2/app/blobs/uploads/?mount={digest}&from=base");
    assert_eq!(request(&registry, "POST", &path, b"").status, 201);
    assert!(registry.has_blob("app", &digest));
    let elsewhere = request(&registry, "POST", &path.replace("=base", "=nothing"), b"");
    assert_eq!((elsewhere.status, elsewhere.location().contains("/uploads/")), (202, true));
    registry.set_options(|options| options.mounts = false);
    assert_eq!(request(&registry, "POST", &path, b"").status, 202);
}

#[test]
fn a_blob_is_read_whole_or_from_a_byte_on() {
    let registry = FakeRegistry::start();
    let digest = registry.add_blob("a", b"0123456789");
    let path = format!("/v2/a/blobs/{digest}");
    let head = request(&registry, "HEAD", &path, b"");
    assert_eq!((head.status, head.field("content-length"), head.body.len()), (200, "10", 0));
    let from = |range: &str| send(&registry, "GET", &path, &[("Range", range)], b"").unwrap();
    let rest = from("bytes=7-");
    assert_eq!((rest.status, rest.field("content-range"), rest.body.as_slice()), (206, "bytes 7-9/10", &b"789"[..]));
    assert_eq!(from("bytes=2-3").body, b"23");
    assert_eq!((from("bytes=10-").status, from("bytes=10-").field("content-range")), (416, "bytes */10"));
    registry.set_options(|options| options.ranges = false);
    assert_eq!((from("bytes=7-").status, from("bytes=7-").body.len()), (200, 10));
    assert_eq!(get(&registry, &path.replace("/a/", "/b/")).code(), "NAME_UNKNOWN");
    assert_eq!(get(&registry, &format!("/v2/a/blobs/{}", Digest::of(b"other"))).code(), "BLOB_UNKNOWN");
}

#[test]
fn a_manifest_needs_what_it_refers_to() {
    let registry = FakeRegistry::start();
    let (manifest, layer) = image(&registry, "app");
    registry.remove_blob("app", &layer);
    let reply = put(&registry, "/v2/app/manifests/v1", MANIFEST, &manifest);
    assert_eq!((reply.status, reply.code().as_str()), (400, "MANIFEST_BLOB_UNKNOWN"));
    registry.add_blob("app", b"layer");
    let reply = put(&registry, "/v2/app/manifests/v1", MANIFEST, &manifest);
    let digest = Digest::of(&manifest);
    assert_eq!((reply.status, reply.field("docker-content-digest")), (201, digest.to_string().as_str()));
    assert_eq!(registry.tags("app"), ["v1"]);

    let read = get(&registry, "/v2/app/manifests/v1");
    assert_eq!((read.field("content-type"), &read.body), (MANIFEST, &manifest));
    let another = format!("/v2/app/manifests/{}", Digest::of(b"another"));
    assert_eq!(put(&registry, &another, MANIFEST, &manifest).code(), "DIGEST_INVALID");
    assert_eq!(get(&registry, &another).code(), "MANIFEST_UNKNOWN");
    assert_eq!(put(&registry, "/v2/app/manifests/v1", INDEX, &manifest).code(), "MANIFEST_INVALID");
    assert_eq!(put(&registry, "/v2/app/manifests/v1", MANIFEST, b"{").code(), "MANIFEST_INVALID");

    assert_eq!(request(&registry, "DELETE", "/v2/app/manifests/v1", b"").status, 405);
    assert_eq!(request(&registry, "DELETE", &format!("/v2/app/manifests/{digest}"), b"").status, 202);
    assert!(registry.tags("app").is_empty());
}

#[test]
fn an_index_needs_its_manifests() {
    let registry = FakeRegistry::start();
    let (manifest, layer) = image(&registry, "app");
    let child = json!({ "mediaType": MANIFEST, "digest": Digest::of(&manifest), "size": manifest.len() });
    let index = json!({ "schemaVersion": 2, "manifests": [child] }).to_string().into_bytes();
    assert_eq!(put(&registry, "/v2/app/manifests/v1", INDEX, &index).code(), "MANIFEST_BLOB_UNKNOWN");
    registry.add_manifest("app", &Digest::of(&manifest).to_string(), MANIFEST, &manifest);
    assert_eq!(put(&registry, "/v2/app/manifests/v1", INDEX, &index).status, 201);
    registry.check().unwrap();

    registry.remove_blob("app", &layer);
    assert_eq!(registry.check().unwrap_err(), format!("app:v1: layer {layer} is missing"));
}

#[test]
fn check_finds_a_manifest_under_a_false_digest() {
    let registry = FakeRegistry::start();
    let (manifest, _) = image(&registry, "app");
    let claimed = Digest::of(b"another");
    let actual = registry.add_manifest("app", &claimed.to_string(), MANIFEST, &manifest);
    registry.check().unwrap();
    let child = json!({ "digest": claimed, "size": manifest.len() });
    let index = json!({ "schemaVersion": 2, "manifests": [child] }).to_string();
    registry.add_manifest("app", "v1", INDEX, index.as_bytes());
    assert_eq!(registry.check().unwrap_err(), format!("app:v1: manifest {claimed} has the digest {actual}"));
}

#[test]
fn tags_come_in_pages() {
    let registry = FakeRegistry::with(Options { page: 2, ..Options::default() });
    for tag in ["c", "a", "b"] {
        registry.add_manifest("app", tag, MANIFEST, b"{}");
    }
    let page = get(&registry, "/v2/app/tags/list?n=10");
    assert_eq!(page.body, br#"{"name":"app","tags":["a","b"]}"#);
    assert_eq!(page.field("link"), "</v2/app/tags/list?last=b&n=2>; rel=\"next\"");
    let page = get(&registry, "/v2/app/tags/list?last=b&n=2");
    assert_eq!((page.body.as_slice(), page.field("link")), (&br#"{"name":"app","tags":["c"]}"#[..], ""));
}

#[test]
fn basic_credentials_are_needed_for_everything() {
    let auth = Auth::Basic { user: "potter".to_owned(), password: "wheel".to_owned() };
    let registry = FakeRegistry::with(Options { auth, ..Options::default() });
    let reply = get(&registry, "/v2/");
    assert_eq!((reply.status, reply.field("www-authenticate")), (401, "Basic realm=\"fake\""));
    let given = [("Authorization", "Basic cG90dGVyOndoZWVs")];
    assert_eq!(send(&registry, "GET", "/v2/", &given, b"").unwrap().status, 200);
    registry.fail(Request::Ping, Fault::Unauthorized, 1);
    assert_eq!(get(&registry, "/v2/").status, 401);
    assert_eq!(send(&registry, "GET", "/v2/", &given, b"").unwrap().status, 401);
    assert_eq!(send(&registry, "GET", "/v2/", &given, b"").unwrap().status, 200);
}

#[test]
fn tokens_grant_what_they_were_asked_for() {
    let registry = bearer(false);
    let realm = format!("Bearer realm=\"http://{}/token\",service=\"fake\"", registry.address());
    assert_eq!(get(&registry, "/v2/").field("www-authenticate"), realm);
    let path = format!("/v2/app/blobs/uploads/?mount={}&from=base", registry.add_blob("base", b"layer"));
    let challenge = request(&registry, "POST", &path, b"");
    let scope = ",scope=\"repository:app:pull,push repository:base:pull\"";
    assert_eq!((challenge.status, challenge.field("www-authenticate")), (401, format!("{realm}{scope}").as_str()));
    let denied = get(&registry, "/token?service=fake&scope=repository:app:pull");
    assert_eq!((denied.status, denied.code().as_str()), (401, "UNAUTHORIZED"));

    let basic = [("Authorization", "Basic cG90dGVyOndoZWVs")];
    let with = |scope: &str, method: &str, path: &str| {
        let token = token(&registry, scope, &basic);
        send(&registry, method, path, &[("Authorization", &token)], b"").unwrap()
    };
    assert_eq!(with("", "GET", "/v2/").status, 200);
    assert_eq!(with("scope=repository:app:pull", "POST", &path).status, 401);
    assert_eq!(with("scope=repository:app:pull,push", "POST", &path).status, 202);
    assert_eq!(with("scope=repository:app:*", "POST", &path).status, 202);
    assert_eq!(with("scope=repository:app:push+repository:base:pull", "POST", &path).status, 201);
    assert_eq!(with("scope=repository:app:push&scope=repository%3Abase%3Apull", "POST", &path).status, 201);
}

#[test]
fn tokens_can_be_had_without_credentials_or_for_an_identity_token() {
    let registry = bearer(true);
    let layer = registry.add_blob("app", b"layer");
    let token = token(&registry, "scope=repository:app:pull,push", &[]);
    let given = [("Authorization", token.as_str())];
    let with = |method, path: &str| send(&registry, method, path, &given, b"").unwrap().status;
    assert_eq!(with("GET", &format!("/v2/app/blobs/{layer}")), 200);
    assert_eq!(with("POST", "/v2/app/blobs/uploads/"), 401);

    let form = "grant_type=refresh_token&service=fake&scope=repository%3Aapp%3Apush&refresh_token=";
    assert_eq!(request(&registry, "POST", "/token", format!("{form}slip").as_bytes()).status, 401);
    assert_eq!(request(&registry, "POST", "/token", format!("{form}glaze").as_bytes()).status, 200);
}

#[test]
fn tokens_expire() {
    let registry = bearer(true);
    registry.set_options(|options| options.token_seconds = 0);
    let token = token(&registry, "", &[]);
    assert_eq!(send(&registry, "GET", "/v2/", &[("Authorization", &token)], b"").unwrap().status, 401);
}

#[test]
fn what_arrived_before_a_cut_is_kept() {
    let registry = FakeRegistry::start();
    let location = start(&registry, "app");
    registry.fail(Request::PatchUpload, Fault::DropAfter(3), 1);
    assert!(send(&registry, "PATCH", &location, &[], b"layers").is_none());
    assert_eq!(registry.received(), 3);
    let status = get(&registry, &location);
    assert_eq!((status.status, status.field("range")), (204, "0-2"));
    assert_eq!(request(&registry, "PATCH", &location, b"ers").status, 400);
    registry.fail(Request::PutUpload, Fault::DropAfter(1), 1);
    let digest = Digest::of(b"layers");
    assert!(send(&registry, "PUT", &format!("{}&digest={digest}", status.location()), &[], b"ers").is_none());
    let status = get(&registry, &location);
    assert_eq!(status.field("range"), "0-3");
    assert_eq!(request(&registry, "PUT", &format!("{}&digest={digest}", status.location()), b"rs").status, 201);
    assert!(registry.has_blob("app", &digest));
}

#[test]
fn a_client_that_goes_away_leaves_what_it_sent() {
    let registry = FakeRegistry::start();
    let location = start(&registry, "app");
    let mut stream = TcpStream::connect(registry.address()).unwrap();
    write!(stream, "PATCH {location} HTTP/1.1\r\nContent-Length: 10\r\n\r\nhalf").unwrap();
    drop(stream);
    let deadline = Instant::now() + Duration::from_secs(20);
    while registry.log().iter().all(|logged| logged.request != Request::PatchUpload) && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(get(&registry, &location).field("range"), "0-3");
}

#[test]
fn an_answer_can_be_lost_after_the_deed() {
    let registry = FakeRegistry::start();
    let location = start(&registry, "app");
    let digest = Digest::of(b"layer");
    registry.fail(Request::PutUpload, Fault::DropAnswer, 1);
    assert!(send(&registry, "PUT", &format!("{location}&digest={digest}"), &[], b"layer").is_none());
    assert!(registry.has_blob("app", &digest));
}

#[test]
fn faults_happen_in_turn_and_are_logged() {
    let registry = FakeRegistry::start();
    let digest = registry.add_blob("app", b"layer");
    let path = format!("/v2/app/blobs/{digest}");
    registry.fail_after(Request::GetBlob, 1, Fault::Status(429, Some(7)), 1);
    registry.fail(Request::GetBlob, Fault::Drop, 1);
    registry.fail(Request::Ping, Fault::Drop, usize::MAX);
    registry.fail(Request::GetBlob, Fault::OtherContent, 0);
    assert_eq!(get(&registry, &path).status, 200);
    let limited = get(&registry, &path);
    assert_eq!((limited.status, limited.field("retry-after")), (429, "7"));
    assert!(send(&registry, "GET", &path, &[], b"").is_none());
    assert_eq!(registry.pending_faults(), usize::MAX);
    registry.forgive();
    assert_eq!(registry.pending_faults(), 0);
    let logged = |status| Logged { request: Request::GetBlob, method: "GET".to_owned(), path: path.clone(), status };
    assert_eq!(registry.log(), [logged(200), logged(429), logged(0)]);
    assert!(registry.log().is_empty());
}

#[test]
fn bodies_are_cut_changed_and_endless() {
    let registry = FakeRegistry::start();
    let digest = registry.add_blob("app", b"layer");
    let path = format!("/v2/app/blobs/{digest}");
    let with = |fault| {
        registry.fail(Request::GetBlob, fault, 1);
        send(&registry, "GET", &path, &[], b"")
    };
    assert_eq!(with(Fault::Truncated(2)).unwrap().body, b"la");
    assert!(with(Fault::DropAfter(2)).is_none());
    let other = with(Fault::OtherContent).unwrap().body;
    assert!(other.len() == 5 && other != b"layer");
    assert_ne!(with(Fault::OtherDigest).unwrap().field("docker-content-digest"), digest.to_string());
    assert!(with(Fault::Garbage).is_none());
    assert_eq!(with(Fault::Slow(Duration::from_millis(1))).unwrap().body, b"layer");
    assert_eq!(with(Fault::Endless).unwrap().field("transfer-encoding"), "chunked");
    assert_eq!(get(&registry, &path).body, b"layer");
}

#[test]
fn an_endless_body_begins_with_the_content() {
    let registry = FakeRegistry::start();
    let digest = registry.add_blob("app", b"layer");
    registry.fail(Request::GetBlob, Fault::Endless, 1);
    let mut stream = TcpStream::connect(registry.address()).unwrap();
    write!(stream, "GET /v2/app/blobs/{digest} HTTP/1.1\r\n\r\n").unwrap();
    let mut answer = vec![0; 1 << 20];
    stream.read_exact(&mut answer).unwrap();
    let text = String::from_utf8_lossy(&answer);
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    assert!(!head.contains("Content-Length") && body.starts_with("5\r\nlayer\r\n10000\r\n\0\0"));
}

#[test]
fn a_fault_waits_for_a_request_with_credentials() {
    let registry = bearer(true);
    let digest = registry.add_blob("app", b"layer");
    let path = format!("/v2/app/blobs/{digest}");
    registry.fail(Request::GetBlob, Fault::Status(500, None), 1);
    assert_eq!(get(&registry, &path).status, 401);
    let token = token(&registry, "scope=repository:app:pull", &[]);
    let again = || send(&registry, "GET", &path, &[("Authorization", &token)], b"").unwrap().status;
    assert_eq!((again(), again()), (500, 200));
}

#[test]
fn what_is_not_supported_is_405_or_413() {
    let registry = FakeRegistry::start();
    let (manifest, layer) = image(&registry, "app");
    registry.set_options(|options| {
        (options.heads, options.deletes, options.largest_body) = (false, false, Some(4));
        (options.min_chunk, options.absolute_location) = (Some(9), false);
    });
    let blob = format!("/v2/app/blobs/{layer}");
    assert_eq!(request(&registry, "HEAD", &blob, b"").status, 405);
    assert_eq!(request(&registry, "DELETE", &blob, b"").status, 405);
    let begun = request(&registry, "POST", "/v2/app/blobs/uploads/", b"");
    assert_eq!(begun.field("oci-chunk-min-length"), "9");
    let location = begun.field("location");
    assert!(location.starts_with("/v2/app/"));
    assert_eq!(request(&registry, "PATCH", location, b"12345").status, 413);
    assert_eq!(request(&registry, "PATCH", location, b"1234").status, 202);
    registry.set_options(|options| options.read_only = true);
    let reply = put(&registry, "/v2/app/manifests/v1", MANIFEST, &manifest);
    assert_eq!((reply.status, reply.code().as_str()), (405, "UNSUPPORTED"));
    assert_eq!(get(&registry, &blob).status, 200);
    assert_eq!(get(&registry, "/v2/_catalog").status, 404);
    assert_eq!(get(&registry, "/v2/App/tags/list").code(), "NAME_INVALID");
}

#[test]
fn a_connection_takes_many_requests() {
    let registry = FakeRegistry::start();
    let digest = registry.add_blob("app", b"layer");
    let mut stream = BufReader::new(TcpStream::connect(registry.address()).unwrap());
    for _ in 0..3 {
        write!(stream.get_mut(), "HEAD /v2/app/blobs/{digest} HTTP/1.1\r\n\r\n").unwrap();
        assert_eq!(reply(&mut stream, "HEAD").unwrap().status, 200);
        write!(stream.get_mut(), "GET /v2/app/blobs/{digest} HTTP/1.1\r\n\r\n").unwrap();
        assert_eq!(reply_of(&mut stream).body, b"layer");
    }
    assert_eq!(registry.sent(), 15);
}

#[test]
fn a_registry_that_is_dropped_stops_listening() {
    let registry = FakeRegistry::start();
    let shared = Arc::downgrade(&registry.shared);
    drop(registry);
    let deadline = Instant::now() + Duration::from_secs(20);
    while shared.strong_count() > 0 && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(5));
    }
    // The thread that had the listener has ended. The port itself may by now be another test's.
    assert_eq!(shared.strong_count(), 0);
}
