//! Certificates of single registries, where Docker and podman keep them: `certs.d/HOST:PORT/`.
//!
//! `*.crt` vouch for the registry, beside the machine's own authorities; `NAME.cert` with `NAME.key` says who one is
//! (docs.docker.com, "Verify repository client with certificates"; containers-certs.d(5)). All of them are PEM.

use std::io::Read;
use std::path::{Path, PathBuf};

use kiln_store::open_regular;
use reqwest::{Certificate, ClientBuilder, Identity};

use crate::RegistryError;
use crate::patience::innermost;

/// Bytes of a file of certificates that are read.
const CONTENT_LIMIT: u64 = 16 << 20;

/// The certificates of a registry.
#[derive(Debug, Default)]
pub(crate) struct Certificates {
    directory: PathBuf,
    authorities: Vec<Certificate>,
    identity: Option<Identity>,
}

impl Certificates {
    /// Reads those of a registry (`ghcr.io`, `localhost:5000`) from the first of these directories that has any.
    pub(crate) fn of(registry: &str, directories: &[PathBuf]) -> Result<Self, RegistryError> {
        match directories.iter().map(|directory| directory.join(registry)).find(|directory| directory.is_dir()) {
            Some(directory) => Self::read(&directory),
            None => Ok(Self::default()),
        }
    }

    /// Returns true where a registry has none.
    pub(crate) fn is_empty(&self) -> bool {
        self.authorities.is_empty() && self.identity.is_none()
    }

    /// Returns the error about certificates with which no client can be made.
    pub(crate) fn unusable(directory: &Path, error: reqwest::Error) -> RegistryError {
        let (path, problem) = (directory.display().to_string(), innermost(error));
        RegistryError::Certificate { path, problem }
    }

    /// Returns the directory that they were found in.
    pub(crate) fn directory(&self) -> PathBuf {
        self.directory.clone()
    }

    /// Makes a client use them.
    pub(crate) fn apply(self, builder: ClientBuilder) -> ClientBuilder {
        let builder = builder.tls_certs_merge(self.authorities);
        match self.identity {
            Some(identity) => builder.identity(identity),
            None => builder,
        }
    }

    fn read(directory: &Path) -> Result<Self, RegistryError> {
        let entries = fs_err::read_dir(directory).map_err(RegistryError::Io)?;
        let mut files: Vec<PathBuf> =
            entries.map(|entry| Ok(entry?.path())).collect::<Result<_, std::io::Error>>().map_err(RegistryError::Io)?;
        files.sort();
        let mut found = Self { directory: directory.to_owned(), ..Self::default() };
        for file in &files {
            match file.extension().and_then(|extension| extension.to_str()) {
                Some("crt") => {
                    let read = Certificate::from_pem_bundle(&content(file)?).ok().filter(|read| !read.is_empty());
                    found.authorities.extend(read.ok_or_else(|| unusable(file, "it holds no certificate in PEM"))?);
                }
                Some("cert") if found.identity.is_none() => found.identity = Some(identity(file, &files)?),
                Some("key") if !files.contains(&file.with_extension("cert")) => {
                    return Err(unusable(file, "there is no certificate for it beside it: the same name with `.cert`"));
                }
                _ => {}
            }
        }
        Ok(found)
    }
}

fn identity(file: &Path, files: &[PathBuf]) -> Result<Identity, RegistryError> {
    let key = file.with_extension("key");
    if !files.contains(&key) {
        return Err(unusable(file, "there is no key for it beside it: the same name with `.key`"));
    }
    let both = [content(file)?, b"\n".to_vec(), content(&key)?].concat();
    Identity::from_pem(&both).map_err(|_| unusable(file, "it and its key are not a certificate and a key in PEM"))
}

fn content(file: &Path) -> Result<Vec<u8>, RegistryError> {
    let mut content = Vec::new();
    let file = open_regular(file).map_err(RegistryError::Io)?;
    file.take(CONTENT_LIMIT).read_to_end(&mut content).map_err(RegistryError::Io)?;
    Ok(content)
}

fn unusable(file: &Path, problem: &str) -> RegistryError {
    RegistryError::Certificate { path: file.display().to_string(), problem: problem.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A certificate that nobody checks here: `openssl req -x509 -newkey ed25519 -nodes`.
    const CERTIFICATE: &str = include_str!("testing/certificate.pem");
    const KEY: &str = include_str!("testing/key.pem");

    fn read(files: &[(&str, &str)]) -> Result<Certificates, String> {
        let directory = tempfile::tempdir().unwrap();
        let host = directory.path().join("r.example:5000");
        fs_err::create_dir(&host).unwrap();
        for (name, content) in files {
            fs_err::write(host.join(name), content).unwrap();
        }
        let places = [directory.path().join("none"), directory.path().to_owned()];
        let shown = format!("{}/", host.display());
        Certificates::of("r.example:5000", &places).map_err(|error| error.to_string().replace(&shown, ""))
    }

    #[test]
    fn authorities_and_an_identity_are_found() {
        let found = read(&[("ca.crt", CERTIFICATE), ("b.crt", CERTIFICATE), ("c.cert", CERTIFICATE), ("c.key", KEY)]);
        let found = found.unwrap();
        assert_eq!((found.authorities.len(), found.identity.is_some()), (2, true));
        assert!(read(&[("README", "x")]).unwrap().is_empty());
        assert!(Certificates::of("other.example", &[]).unwrap().is_empty());
    }

    #[test]
    fn an_unusable_file_is_named() {
        for (files, expected) in [
            (vec![("ca.crt", "x")], "`ca.crt` cannot be used: it holds no certificate in PEM"),
            (
                vec![("c.cert", CERTIFICATE)],
                "`c.cert` cannot be used: there is no key for it beside it: the same name with `.key`",
            ),
            (
                vec![("c.key", KEY)],
                "`c.key` cannot be used: there is no certificate for it beside it: the same name with `.cert`",
            ),
            (
                vec![("c.cert", CERTIFICATE), ("c.key", "x")],
                "`c.cert` cannot be used: it and its key are not a certificate and a key in PEM",
            ),
        ] {
            assert_eq!(read(&files).unwrap_err(), expected);
        }
    }
}
