//! Archives for tests: packages, lists, and the keys that sign them.

#![allow(clippy::unwrap_used, reason = "test support: a panic is a failed test")]

use std::collections::BTreeMap;
use std::io::Write as _;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use kiln_plan::digest::Digest;
use kiln_testing::http::Answer;
use kiln_testing::{Listener, Server};
use pgp::composed::{
    ArmorOptions, CleartextSignedMessage, KeyType, SecretKeyParamsBuilder, SignedSecretKey, SubkeyParamsBuilder,
};
use pgp::crypto::hash::HashAlgorithm;
use pgp::packet::{SignatureConfig, SignatureType, Subpacket, SubpacketData};
use pgp::types::{KeyDetails as _, Password, Timestamp};
use rand::rngs::OsRng;

/// A key that signs lists by a subkey, as those of Debian do.
#[derive(Debug, Clone)]
pub struct Signer(pub(crate) SignedSecretKey);

impl Signer {
    /// Makes a key, as of so many seconds after 1970.
    pub fn new(made: u32) -> Self {
        let made = Timestamp::from_secs(made);
        let subkey = SubkeyParamsBuilder::default()
            .key_type(KeyType::Ed25519Legacy)
            .can_sign(true)
            .created_at(made)
            .build()
            .unwrap();
        let params = SecretKeyParamsBuilder::default()
            .key_type(KeyType::Ed25519Legacy)
            .can_certify(true)
            .primary_user_id("Archive <archive@example.org>".into())
            .created_at(made)
            .subkey(subkey)
            .build()
            .unwrap();
        Self(params.generate(OsRng).unwrap())
    }

    /// Returns the public key as text.
    pub fn public(&self) -> String {
        self.0.to_public_key().to_armored_string(ArmorOptions::default()).unwrap()
    }

    /// Signs a text, as of so many seconds after 1970.
    pub fn sign(&self, text: &str, made: u32) -> String {
        self.sign_by(text, made, HashAlgorithm::Sha256)
    }

    pub(crate) fn sign_by(&self, text: &str, made: u32, hash: HashAlgorithm) -> String {
        let by = &self.0.secret_subkeys[0].key;
        let mut config = SignatureConfig::from_key(OsRng, by, SignatureType::Text).unwrap();
        config.hash_alg = hash;
        config.hashed_subpackets = vec![
            Subpacket::regular(SubpacketData::SignatureCreationTime(Timestamp::from_secs(made))).unwrap(),
            Subpacket::regular(SubpacketData::IssuerFingerprint(by.fingerprint())).unwrap(),
        ];
        let message = CleartextSignedMessage::new(text, config, by, &Password::empty()).unwrap();
        message.to_armored_string(ArmorOptions::default()).unwrap()
    }
}

/// A file of a package: path, permission bits, content. A path with ` -> ` is a link, one that ends in a slash a directory.
pub type PackageFile<'f> = (&'f str, u32, &'f [u8]);

/// Returns a tar of files.
pub fn tar(files: &[PackageFile<'_>]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (path, mode, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_mode(*mode);
        header.set_size(content.len() as u64);
        header.set_mtime(1_000_000_000);
        header.set_uid(0);
        header.set_gid(0);
        if let Some((path, target)) = path.split_once(" -> ") {
            header.set_entry_type(tar::EntryType::Symlink);
            tar.append_link(&mut header, path, target).unwrap();
            continue;
        }
        if path.ends_with('/') {
            header.set_entry_type(tar::EntryType::Directory);
        }
        tar.append_data(&mut header, path, *content).unwrap();
    }
    tar.into_inner().unwrap()
}

/// Returns an archive of ar(5).
pub fn ar(members: &[(&str, &[u8])]) -> Vec<u8> {
    let mut bytes = b"!<arch>\n".to_vec();
    for (name, content) in members {
        let header = format!("{name:<16}{:<12}{:<6}{:<6}{:<8}{:<10}`\n", 0, 0, 0, 100_644, content.len());
        bytes.extend_from_slice(header.as_bytes());
        bytes.extend_from_slice(content);
        if content.len() % 2 == 1 {
            bytes.push(b'\n');
        }
    }
    bytes
}

/// Returns a package: the files about it, `control` among them, and its files.
pub fn deb(about: &[PackageFile<'_>], files: &[PackageFile<'_>]) -> Vec<u8> {
    let control = zstd::encode_all(tar(about).as_slice(), 1).unwrap();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&tar(files)).unwrap();
    ar(&[("debian-binary", b"2.0\n"), ("control.tar.zst", &control), ("data.tar.gz", &gzip.finish().unwrap())])
}

/// An archive that is served.
pub struct Archive {
    listener: Server,
    files: Arc<Mutex<BTreeMap<String, Vec<u8>>>>,
    log: Arc<Mutex<Vec<String>>>,
    signer: Signer,
    packages: BTreeMap<String, Vec<String>>,
}

impl Archive {
    /// Begins to serve an archive without suites.
    pub fn start() -> Self {
        let files: Arc<Mutex<BTreeMap<String, Vec<u8>>>> = Arc::default();
        let log: Arc<Mutex<Vec<String>>> = Arc::default();
        let (served, seen) = (Arc::clone(&files), Arc::clone(&log));
        let listener = Listener::bind().serve(move |mut stream, head, _| {
            let path = head.path().trim_start_matches('/').to_owned();
            seen.lock().unwrap().push(path.clone());
            let answer = match served.lock().unwrap().get(&path) {
                Some(bytes) => Answer::new(200).body("application/octet-stream", bytes.clone()),
                None => Answer::new(404),
            };
            answer.write_head(&mut stream, false)?;
            stream.write_all(&answer.body)?;
            Ok(head.keep_alive)
        });
        Self { listener, files, log, signer: Signer::new(1_000_000_000), packages: BTreeMap::new() }
    }

    /// Returns the address, without a slash at the end.
    pub fn uri(&self) -> String {
        format!("http://{}", self.listener.address())
    }

    /// Returns the public key of the archive.
    pub fn key(&self) -> String {
        self.signer.public()
    }

    /// Adds a package to a suite: its fields but for the name, files about it besides `control`, and its files.
    pub fn package(
        &mut self,
        suite: &str,
        name: &str,
        fields: &str,
        about: &[PackageFile<'_>],
        files: &[PackageFile<'_>],
    ) {
        let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
        let control = format!("Package: {name}\nArchitecture: {architecture}\n{fields}Description: {name}\n");
        let all: Vec<PackageFile<'_>> =
            [("./control", 0o644, control.as_bytes())].iter().chain(about).copied().collect();
        let bytes = deb(&all, files);
        let (size, sum) = (bytes.len(), Digest::of(&bytes).hex());
        let path = format!("pool/main/{name}_{}.deb", &sum[..8]);
        let packages = self.packages.entry(suite.to_owned()).or_default();
        packages.retain(|other| !other.starts_with(&format!("Package: {name}\n")));
        packages.push(format!("{control}Filename: {path}\nSize: {size}\nSHA256: {sum}\n"));
        self.put(&path, bytes);
    }

    /// Signs the lists of a suite: as of so many seconds after 1970, with further fields.
    pub fn sign(&self, suite: &str, date: u64, fields: &str) {
        let list = self.packages.get(suite).map(|packages| packages.join("\n")).unwrap_or_default();
        let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
        let path = format!("main/binary-{architecture}/Packages");
        let (size, sum) = (list.len(), Digest::of(list.as_bytes()).hex());
        let date = httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(date)).replace("GMT", "UTC");
        let text = format!(
            "Origin: Test\nSuite: {suite}\nCodename: {suite}\nDate: {date}\n{fields}SHA256:\n {sum} {size} {path}\n"
        );
        self.put(&format!("dists/{suite}/{path}"), list.into_bytes());
        self.put(&format!("dists/{suite}/InRelease"), self.signer.sign(&text, 1_700_000_000).into_bytes());
    }

    /// Replaces the content of a path.
    pub fn put(&self, path: &str, content: Vec<u8>) {
        self.files.lock().unwrap().insert(path.to_owned(), content);
    }

    /// Removes the paths that begin with something, and returns their contents.
    pub fn remove(&self, start: &str) -> Vec<(String, Vec<u8>)> {
        let mut files = self.files.lock().unwrap();
        let paths: Vec<String> = files.keys().filter(|path| path.starts_with(start)).cloned().collect();
        paths.into_iter().filter_map(|path| files.remove_entry(&path)).collect()
    }

    /// Returns the paths that were asked for since this was called last.
    pub fn log(&self) -> Vec<String> {
        std::mem::take(&mut self.log.lock().unwrap())
    }
}

/// Returns the seconds since 1970.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}
