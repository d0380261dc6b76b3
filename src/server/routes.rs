//! Which path is what, and what holds for all: who may ask, which names are names, and that each answer is counted.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, HttpBody};
use axum::extract::{FromRequestParts, MatchedPath, Path, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, head, post, put};
use bytes::Bytes;
use futures::StreamExt;
use serde::Serialize;
use serde_json::json;

use super::refusal::Refusal;
use super::shared::Shared;
use super::tokens::{Caller, Scope};
use super::{batch, blobs, claims, records, uploads};
use crate::digest::Digest;
use crate::remote::http::protocol::{PROTOCOL, PROTOCOL_HEADER};

/// No path of ours is longer.
const MOST_PATH_BYTES: usize = 200;

/// What is read of a refused body before the answer, so that a client that is still writing gets to see it.
const MOST_DRAINED_BYTES: usize = 1 << 20;

/// Returns all routes.
pub(super) fn router(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/healthz", get(health))
        .route("/metrics", get(metrics))
        .route("/v1/status", get(status))
        .route("/v1/records/{key}", get(records::get).put(records::put))
        .route("/v1/blobs/{digest}", get(blobs::get))
        .route("/v1/blobs/{digest}/check", post(blobs::check))
        .route("/v1/contents/{digest}", head(blobs::has_content))
        .route("/v1/missing", post(blobs::missing))
        .route("/v1/uploads/{digest}", head(uploads::offset).put(uploads::put))
        .route("/v1/batch/get", post(batch::get))
        .route("/v1/batch/put", post(batch::put))
        .route(
            "/v1/claims/{key}",
            put(claims::put).patch(claims::renew).delete(claims::release),
        )
        .fallback(async || Refusal::absent())
        .method_not_allowed_fallback(async || Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "not with this method"))
        .layer(from_fn_with_state(Arc::clone(&shared), guard))
        .with_state(shared)
}

/// A digest or key in a path: 64 lower-case hexadecimal digits, and nothing else.
pub(super) struct Name(pub Digest);

impl<S: Send + Sync> FromRequestParts<S> for Name {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Name, Refusal> {
        let bad = || Refusal::bad("a name here is 64 lower-case hexadecimal digits");
        let Path(name) = Path::<String>::from_request_parts(parts, state)
            .await
            .map_err(|_| bad())?;
        name.parse().map(Name).map_err(|_| bad())
    }
}

/// Returns the values of a query, which may have these names only, each once.
pub(super) fn query<'a, const N: usize>(uri: &'a Uri, names: [&str; N]) -> Result<[Option<&'a str>; N], Refusal> {
    let mut values = [None; N];
    for part in uri
        .query()
        .unwrap_or_default()
        .split('&')
        .filter(|part| !part.is_empty())
    {
        let (name, value) = part.split_once('=').unwrap_or((part, ""));
        let place = names.iter().position(|known| *known == name);
        match place.map(|place| values[place].replace(value)) {
            Some(None) => {}
            _ => return Err(Refusal::bad("this query is not understood")),
        }
    }
    Ok(values)
}

/// Returns an answer in JSON.
pub(super) fn json_answer(status: StatusCode, value: &impl Serialize) -> Response {
    match serde_json::to_vec(value) {
        Ok(text) => (status, [(header::CONTENT_TYPE, "application/json")], text).into_response(),
        Err(error) => {
            tracing::warn!(%error, "an answer has no JSON");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

/// Calls what may wait for the disk, away from the threads that serve connections.
pub(super) async fn blocking<T: Send + 'static>(
    call: impl FnOnce() -> Result<T, Refusal> + Send + 'static,
) -> Result<T, Refusal> {
    match tokio::task::spawn_blocking(call).await {
        Ok(result) => result,
        Err(error) => {
            tracing::warn!(%error, "a request failed inside");
            Err(Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "the server failed"))
        }
    }
}

async fn health() -> Response {
    json_answer(StatusCode::OK, &json!({"status": "ok", "protocol": PROTOCOL}))
}

async fn metrics(State(shared): State<Arc<Shared>>) -> Response {
    let text = shared.metrics.text(shared.census.last(&shared.store).as_ref());
    (
        [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")],
        text,
    )
        .into_response()
}

async fn status(
    State(shared): State<Arc<Shared>>,
    caller: Option<axum::Extension<Caller>>,
) -> Result<Response, Refusal> {
    let counted = match shared.census.last(&shared.store) {
        Some(counted) => counted,
        None => {
            let (census, store) = (Arc::clone(&shared.census), Arc::clone(&shared.store));
            blocking(move || Ok(census.take(&store))).await?
        }
    };
    let may_write = caller.is_none_or(|caller| caller.scope == Scope::Write);
    Ok(json_answer(
        StatusCode::OK,
        &json!({
            "protocol": PROTOCOL,
            "version": env!("CARGO_PKG_VERSION"),
            "records": counted.records,
            "blobs": counted.blobs,
            "stored_bytes": counted.bytes,
            "free_bytes": counted.free_bytes,
            "claims": true,
            "writable": may_write && is_writable(&shared),
        }),
    ))
}

fn is_writable(shared: &Shared) -> bool {
    rustix::fs::access(shared.store.root(), rustix::fs::Access::WRITE_OK).is_ok()
}

/// Stands before every route.
async fn guard(State(shared): State<Arc<Shared>>, mut request: Request, next: Next) -> Response {
    let start = Instant::now();
    let method = method_label(request.method());
    let matched = request.extensions().get::<MatchedPath>();
    let route = matched.map_or_else(|| "other".to_owned(), |path| path.as_str().to_owned());
    let path = request.uri().path().to_owned();
    shared.metrics.in_flight.fetch_add(1, Ordering::Relaxed);
    let mut answering = Answering {
        shared: Arc::clone(&shared),
        route,
        method,
        status: 0,
        start,
    };
    let admitted = admit(&shared, request.method(), request.uri(), request.headers());
    let (response, caller) = match admitted {
        Ok(caller) => {
            let name = caller.as_ref().map(|caller| Arc::clone(&caller.name));
            if let Some(caller) = caller {
                request.extensions_mut().insert(caller);
            }
            (next.run(request).await, name)
        }
        Err(refusal) => {
            drain(request.into_body()).await;
            (refusal.into_response(), None)
        }
    };
    answering.status = response.status().as_u16();
    let (status, millis) = (answering.status, start.elapsed().as_secs_f64() * 1000.0);
    // Quoted: a path may hold anything. It never holds a token.
    tracing::info!(
        caller = caller.as_deref().unwrap_or("-"),
        "{method} {path:?} {status} {millis:.1} ms"
    );
    finish(response, answering)
}

fn finish(response: Response, answering: Answering) -> Response {
    let mut response = response.map(|inner| {
        Body::new(Watched {
            inner,
            _answering: answering,
        })
    });
    let headers = response.headers_mut();
    headers.insert(HeaderName::from_static(PROTOCOL_HEADER), HeaderValue::from(PROTOCOL));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers
        .entry(header::CACHE_CONTROL)
        .or_insert(HeaderValue::from_static("no-store"));
    response
}

/// Decides whether a request may be looked at, and returns who made it where that is known.
fn admit(shared: &Shared, method: &Method, uri: &Uri, headers: &HeaderMap) -> Result<Option<Caller>, Refusal> {
    let path = uri.path();
    if path.len() > MOST_PATH_BYTES || path.contains('%') || path.split('/').skip(1).any(|part| part == "..") {
        return Err(Refusal::bad("there are no such names here"));
    }
    let is_health = path == "/healthz";
    let Some(tokens) = &shared.tokens else {
        check_local(uri, headers)?;
        return Ok(None);
    };
    if is_health {
        return Ok(None);
    }
    let token = bearer(headers).ok_or_else(|| Refusal::unknown_caller("a bearer token is needed"))?;
    let caller = tokens
        .caller(token)
        .ok_or_else(|| Refusal::unknown_caller("this token is not known, or its time is over"))?;
    if needed(method, path) > caller.scope {
        return Err(Refusal::read_only_token());
    }
    Ok(Some(caller))
}

/// Everything that isn't known to read needs the right to write.
fn needed(method: &Method, path: &str) -> Scope {
    let reads = matches!(*method, Method::GET | Method::HEAD)
        || (method == Method::POST && matches!(path, "/v1/missing" | "/v1/batch/get"));
    if reads { Scope::Read } else { Scope::Write }
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// Lets programs of this machine in, and keeps web pages out that its browser shows: by the name that they know us by
/// (a page can point its own name at 127.0.0.1), and by what browsers say of the page that asks.
fn check_local(uri: &Uri, headers: &HeaderMap) -> Result<(), Refusal> {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    let host = host.or(uri.host()).unwrap_or_default();
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let is_local = matches!(name, "localhost" | "127.0.0.1" | "[::1]");
    let from_page = headers.contains_key(header::ORIGIN) || headers.contains_key("sec-fetch-site");
    if is_local && !from_page {
        return Ok(());
    }
    Err(Refusal::new(
        StatusCode::FORBIDDEN,
        "without tokens only programs of this machine are served, by the names localhost and 127.0.0.1",
    ))
}

async fn drain(body: Body) {
    let mut stream = body.into_data_stream();
    let drained = async {
        let mut read = 0;
        while let Some(Ok(piece)) = stream.next().await {
            read += piece.len();
            if read > MOST_DRAINED_BYTES {
                break;
            }
        }
    };
    // Whoever is slower than that doesn't get to see the answer.
    let _ = tokio::time::timeout(Duration::from_secs(1), drained).await;
}

fn method_label(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        _ => "OTHER",
    }
}

/// A request that is being answered; it is counted once the last byte was handed over, or the client went away.
struct Answering {
    shared: Arc<Shared>,
    route: String,
    method: &'static str,
    status: u16,
    start: Instant,
}

impl Drop for Answering {
    fn drop(&mut self) {
        let metrics = &self.shared.metrics;
        metrics.in_flight.fetch_sub(1, Ordering::Relaxed);
        // A client that went away before there was an answer.
        let status = if self.status == 0 { 499 } else { self.status };
        metrics.answered(&self.route, self.method, status, self.start.elapsed());
    }
}

/// A body that keeps something until it was sent.
struct Watched {
    inner: Body,
    _answering: Answering,
}

impl HttpBody for Watched {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<http_body::Frame<Bytes>, axum::Error>>> {
        std::pin::Pin::new(&mut self.inner).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.inner.size_hint()
    }
}
