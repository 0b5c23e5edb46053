//! Requests of commands, and their answers.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use http_body_util::{Either, Full};
use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use hyper::header::{HOST, HeaderMap, HeaderName, HeaderValue, PROXY_AUTHORIZATION};
use hyper::http::uri::{PathAndQuery, Uri};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode, Version};
use hyper_util::rt::TokioIo;
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::Rules;
use crate::connect::Failed;
use crate::material::{Material, Materials};

/// Headers of one connection (RFC 9110, section 7.6.1).
const OF_CONNECTION: [&str; 7] =
    ["connection", "keep-alive", "proxy-authorization", "proxy-connection", "te", "trailer", "upgrade"];
/// Bytes that a tunnel moves at once.
const BUFFER: usize = 64 << 10;

pub(crate) struct Service {
    pub(crate) rules: Rules,
    pub(crate) materials: Arc<Materials>,
}

type Answer = Response<Either<Recorded, Full<Bytes>>>;

pub(crate) async fn serve(listener: TcpListener, service: Arc<Service>) {
    loop {
        // The listener is gone with the sandbox, or this process has too many files open: then later ones may be accepted.
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            continue;
        };
        let service = Arc::clone(&service);
        tokio::spawn(async move {
            let answer = service_fn(move |request| {
                let service = Arc::clone(&service);
                async move { Ok::<_, Infallible>(service.answer(request).await) }
            });
            let mut http = hyper::server::conn::http1::Builder::new();
            http.half_close(true);
            // A connection that breaks is the command's business.
            let _ =
                http.preserve_header_case(true).serve_connection(TokioIo::new(stream), answer).with_upgrades().await;
        });
    }
}

impl Service {
    async fn answer(&self, request: Request<Incoming>) -> Answer {
        let uri = request.uri().clone();
        if request.method() == Method::CONNECT {
            let Some((host, port)) = uri.host().zip(uri.port_u16()) else {
                return say(StatusCode::BAD_REQUEST, "CONNECT needs HOST:PORT");
            };
            return self.tunnel(request, host, port).await;
        }
        match (uri.scheme_str(), uri.host()) {
            (Some("http"), Some(host)) => self.forward(request, host, uri.port_u16().unwrap_or(80)).await,
            (Some(scheme), Some(_)) => {
                say(StatusCode::NOT_IMPLEMENTED, &format!("this proxy tunnels {scheme}: ask with CONNECT"))
            }
            _ => say(StatusCode::BAD_REQUEST, "this is a proxy: ask for whole addresses"),
        }
    }

    fn failed(&self, host: &str, port: u16, failed: Failed) -> Answer {
        let place = format!("{host}:{port}");
        match failed {
            Failed::Refused => {
                self.materials.note(Material::Refused { host: place.clone() });
                let hint = format!(
                    "{place} is the building machine or on its link, and is refused: to allow it, write `network = {{ allow = [\"{place}\"] }}`"
                );
                say(StatusCode::FORBIDDEN, &hint)
            }
            Failed::Unreachable(error) => {
                self.materials.note(Material::Unreachable { host: place.clone(), problem: error.to_string() });
                say(StatusCode::BAD_GATEWAY, &format!("{place}: {error}"))
            }
        }
    }

    async fn tunnel(&self, request: Request<Incoming>, host: &str, port: u16) -> Answer {
        let connection = match self.rules.connect(host, port, true).await {
            Ok(connection) => connection,
            Err(failed) => return self.failed(host, port, failed),
        };
        let traffic = self.materials.connected(&format!("{host}:{port}"));
        tokio::spawn(async move {
            if let Ok(upgraded) = hyper::upgrade::on(request).await {
                let (near_read, near_write) = tokio::io::split(TokioIo::new(upgraded));
                let (far_read, far_write) = connection.stream.into_split();
                let sent = pass(near_read, far_write, &traffic.sent);
                let received = pass(far_read, near_write, &traffic.received);
                tokio::join!(sent, received);
            }
        });
        Response::new(Either::Right(Full::default()))
    }

    async fn forward(&self, mut request: Request<Incoming>, host: &str, port: u16) -> Answer {
        let connection = match self.rules.connect(host, port, false).await {
            Ok(connection) => connection,
            Err(failed) => return self.failed(host, port, failed),
        };
        let (method, url) = (request.method().to_string(), without_user(request.uri()));
        clean(request.headers_mut());
        // An older client gets what this proxy gets.
        *request.version_mut() = Version::HTTP_11;
        match connection.proxy {
            Some(credentials) => {
                credentials.and_then(|value| request.headers_mut().insert(PROXY_AUTHORIZATION, value));
            }
            None => {
                if let Ok(host) = HeaderValue::from_str(&authority(request.uri())) {
                    request.headers_mut().entry(HOST).or_insert(host);
                }
                let path = request.uri().path_and_query().cloned();
                *request.uri_mut() = Uri::from(path.unwrap_or(PathAndQuery::from_static("/")));
            }
        }
        match send(connection.stream, request).await {
            Ok(response) => {
                let record =
                    Record { method, url, status: response.status().as_u16(), materials: Arc::clone(&self.materials) };
                let (mut parts, body) = response.into_parts();
                clean(&mut parts.headers);
                Response::from_parts(
                    parts,
                    Either::Left(Recorded { body, hash: Sha256::new(), bytes: 0, ended: false, record }),
                )
            }
            Err(error) => self.failed(host, port, Failed::Unreachable(std::io::Error::other(error))),
        }
    }
}

async fn send(stream: TcpStream, request: Request<Incoming>) -> hyper::Result<Response<Incoming>> {
    let mut http = hyper::client::conn::http1::Builder::new();
    let (mut sender, connection) = http.preserve_header_case(true).handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    sender.send_request(request).await
}

/// Removes the headers of one connection, also those that `Connection` names.
fn clean(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all("connection")
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    named.iter().for_each(|name| drop(headers.remove(name)));
    OF_CONNECTION.iter().for_each(|name| drop(headers.remove(*name)));
}

fn authority(uri: &Uri) -> String {
    let text = uri.authority().map(ToString::to_string).unwrap_or_default();
    text.rsplit_once('@').map_or(text.clone(), |(_, host)| host.to_owned())
}

fn without_user(uri: &Uri) -> String {
    let path = uri.path_and_query().map_or("/", PathAndQuery::as_str);
    format!("{}://{}{path}", uri.scheme_str().unwrap_or("http"), authority(uri))
}

fn say(status: StatusCode, text: &str) -> Answer {
    let mut answer = Response::new(Either::Right(Full::from(format!("kiln: {text}\n"))));
    *answer.status_mut() = status;
    answer
}

/// Moves bytes in one direction until its end.
async fn pass(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, count: &AtomicU64) {
    let mut buffer = vec![0; BUFFER];
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        count.fetch_add(read as u64, Ordering::Relaxed);
        if to.write_all(&buffer[..read]).await.is_err() {
            break;
        }
    }
    // The other side may be gone already.
    let _ = to.shutdown().await;
}

/// The head of an answer.
struct Record {
    method: String,
    url: String,
    status: u16,
    materials: Arc<Materials>,
}

/// The content of an answer, which is recorded when it ends.
pub(crate) struct Recorded {
    body: Incoming,
    hash: Sha256,
    bytes: u64,
    ended: bool,
    record: Record,
}

impl Body for Recorded {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<hyper::Result<Frame<Bytes>>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        match &frame {
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    self.hash.update(data);
                    self.bytes += data.len() as u64;
                }
            }
            Some(Err(_)) => {}
            None => self.ended = true,
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Recorded {
    fn drop(&mut self) {
        let Record { method, url, status, materials } = &self.record;
        // Content of a known length is not asked for its end.
        let is_whole = self.ended || self.body.is_end_stream();
        let digest = std::mem::take(&mut self.hash).finalize();
        let digits = || digest.iter().map(|byte| format!("{byte:02x}")).collect();
        materials.note(Material::Http {
            method: method.clone(),
            url: url.clone(),
            status: *status,
            bytes: self.bytes,
            sha256: is_whole.then(digits),
        });
    }
}
