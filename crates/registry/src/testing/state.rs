//! What the registry holds, and who answers which request.

use std::collections::BTreeMap;

use kiln_testing::http::{Answer, Head};

use super::content::Repository;
use super::errors::error;
use super::route::Route;
use super::token::Token;
use super::upload::Upload;
use super::{Fault, Logged, Options, Request};

/// All that changes while the registry runs.
#[derive(Debug)]
pub(super) struct State {
    pub(super) address: String,
    pub(super) options: Options,
    pub(super) repositories: BTreeMap<String, Repository>,
    pub(super) uploads: BTreeMap<String, Upload>,
    pub(super) tokens: BTreeMap<String, Token>,
    pub(super) faults: Vec<Queued>,
    pub(super) log: Vec<Logged>,
    /// How many uploads and tokens were made, so that no two have the same name.
    issued: u64,
}

/// A fault that has not happened as often as it should.
#[derive(Debug)]
pub(super) struct Queued {
    pub(super) request: Request,
    /// Requests that pass before it happens.
    pub(super) skip: usize,
    pub(super) fault: Fault,
    /// How often it has yet to happen.
    pub(super) times: usize,
}

/// The body of a request, as much as there was.
#[derive(Debug)]
pub(super) struct Received {
    pub(super) bytes: Vec<u8>,
    /// Whether that is all of it.
    pub(super) complete: bool,
}

impl State {
    /// An empty registry.
    pub(super) fn new(address: String, options: Options) -> Self {
        Self {
            address,
            options,
            repositories: BTreeMap::new(),
            uploads: BTreeMap::new(),
            tokens: BTreeMap::new(),
            faults: Vec::new(),
            log: Vec::new(),
            issued: 0,
        }
    }

    /// The repository with this name, which exists from now on.
    pub(super) fn repository(&mut self, name: &str) -> &mut Repository {
        self.repositories.entry(name.to_owned()).or_default()
    }

    /// The repository with this name, for those who want to read from it.
    pub(super) fn existing(&mut self, name: &str) -> Result<&mut Repository, Answer> {
        let unknown = || error(404, "NAME_UNKNOWN", "nothing was ever written to this repository");
        self.repositories.get_mut(name).ok_or_else(unknown)
    }

    /// A number that was never given before.
    pub(super) fn issue(&mut self) -> u64 {
        self.issued += 1;
        self.issued
    }

    /// Takes the fault that is to happen to this request, if it is anyone's turn.
    pub(super) fn next_fault(&mut self, request: Request, permitted: bool) -> Option<Fault> {
        let at = self.faults.iter().position(|queued| queued.request == request)?;
        let queued = &mut self.faults[at];
        let strikes_anybody = matches!(request, Request::Ping | Request::Token) && queued.fault != Fault::Unauthorized;
        if !permitted && !strikes_anybody {
            return None;
        }
        if queued.skip > 0 {
            queued.skip -= 1;
            return None;
        }
        queued.times -= 1;
        let fault = queued.fault.clone();
        if queued.times == 0 {
            self.faults.remove(at);
        }
        Some(fault)
    }

    /// Does what a permitted request asks for. Of a body that was cut, it does no more than keep what arrived.
    pub(super) fn answer(&mut self, head: &Head, route: &Route, body: Received) -> Answer {
        if let Some(refusal) = self.unsupported(head, route, &body) {
            return refusal;
        }
        let answer = match route.request {
            Request::Ping => Ok(Answer::new(200).json(&serde_json::json!({}))),
            Request::Token => self.grant(head, &body.bytes),
            Request::HeadBlob | Request::GetBlob => self.get_blob(head, route),
            Request::DeleteBlob => self.delete_blob(route),
            Request::Mount => self.mount(head, route),
            Request::StartUpload => self.start_upload(head, route, body.bytes),
            Request::PatchUpload => self.patch_upload(head, route, &body),
            Request::PutUpload => self.put_upload(head, route, &body),
            Request::UploadStatus => self.upload_status(head, route),
            Request::DeleteUpload => self.delete_upload(head, route),
            Request::HeadManifest | Request::GetManifest => self.get_manifest(route),
            Request::PutManifest => self.put_manifest(head, route, body.bytes),
            Request::DeleteManifest => self.delete_manifest(route),
            Request::ListTags => self.list_tags(head, route),
            Request::Other => Err(error(404, "UNSUPPORTED", "no such path")),
        };
        answer.unwrap_or_else(|refusal| refusal)
    }

    /// The answer to a request for which this registry has no support, by its options.
    fn unsupported(&self, head: &Head, route: &Route, body: &Received) -> Option<Answer> {
        if let Some(refusal) = &route.refusal {
            return Some(refusal.clone());
        }
        let unsupported = |message| Some(error(405, "UNSUPPORTED", message));
        let (options, request) = (&self.options, route.request);
        match request {
            _ if !options.heads && head.method == "HEAD" => unsupported("this registry knows no HEAD"),
            _ if options.read_only && request.writes() => unsupported("this registry is read-only"),
            Request::DeleteBlob | Request::DeleteManifest if !options.deletes => unsupported("nothing is ever deleted"),
            _ if request.uploads() && options.largest_body.is_some_and(|most| body.bytes.len() as u64 > most) => {
                Some(error(413, "SIZE_INVALID", "the body is too large"))
            }
            _ => None,
        }
    }
}
