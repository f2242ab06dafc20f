//! The admin interface: Apache's commands, health, metrics and a page for people, over HTTP.
//!
//! One thread with one event loop (hyper on tokio's single-threaded runtime) takes connections, reads heads and writes
//! answers; what touches the tree or the disk runs on a few threads of its own, so that a slow command delays no
//! other. Requests of clients never come here, and a failure here never reaches them: the server goes on without.
//!
//! Nothing here changes what is replicated, but `restore`. Who may ask:
//! - a browser only for pages of this interface itself: requests that come from other sites are refused, and so is an
//!   unknown name of this host while only this machine may ask (a page elsewhere can make a name point here);
//! - commands that Apache protects need its credential, and so does whatever changes anything: counters, trace mask, log.

mod api;
mod commands;
mod ensemble;
mod health;
pub mod json;
mod page;
pub mod restore;
mod snapshot;

pub use commands::names as command_names;
pub use health::{Phase, Progress};

use crate::boot::Failure;
use crate::core::Core;
use crate::json;
use crate::limits;
use crate::metrics;
use crate::stats::Counter;
use config::Settings;
use http_body_util::{BodyExt, Limited};
use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use hyper::header::{AUTHORIZATION, HOST, HeaderMap, ORIGIN};
use hyper::{Method, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use json::Json;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::sync::{Semaphore, mpsc};

/// What the interface knows of the server, from before it serves.
pub struct Shared {
    core: OnceLock<Arc<Core>>,
    /// How far the start has got.
    pub progress: Progress,
    settings: Arc<Settings>,
    /// The text of the configuration file, without secrets.
    configuration: String,
    /// Java system properties that were given, without secrets.
    properties: Vec<(String, String)>,
    snapshots: RateLimit,
    snapshot_running: Arc<Semaphore>,
    restores: RateLimit,
    restore_running: Semaphore,
    /// Only this machine can ask, by one of its own names.
    loopback: bool,
}

impl Shared {
    fn core(&self) -> Option<Arc<Core>> {
        self.core.get().filter(|_| self.progress.phase() == Phase::Serving).cloned()
    }

    /// What stands in front of the commands.
    fn command_url(&self) -> &str {
        self.settings.operations.admin.as_ref().map_or("/commands", |a| a.command_url.as_str())
    }

    /// The server serves.
    pub fn serves(&self, core: &Arc<Core>) {
        let _ = self.core.set(core.clone());
        self.progress.enter(Phase::Serving, 0);
    }
}

/// Lets one pass in each interval.
#[derive(Default)]
struct RateLimit(Mutex<Option<Instant>>);

impl RateLimit {
    fn allow(&self, interval: Duration) -> bool {
        let mut last = self.0.lock();
        let allowed = last.is_none_or(|at| at.elapsed() >= interval);
        if allowed {
            *last = Some(Instant::now());
        }
        allowed
    }
}

/// What a listener answers.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Door {
    /// Everything.
    Admin,
    /// `/metrics` alone: the port of Prometheus's provider.
    Metrics,
}

/// Starts the interface, as far as its ports can be had: one that can't be had is a warning.
///
/// # Errors
/// No thread can be started.
pub fn start(settings: Arc<Settings>, properties: Vec<(String, String)>) -> Result<Arc<Shared>, Failure> {
    let mut doors = Vec::new();
    let operations = &settings.operations;
    let wanted = [
        (Door::Admin, operations.admin.as_ref().map(|a| &a.listen)),
        (Door::Metrics, operations.prometheus.as_ref()),
    ];
    for (door, place) in wanted.into_iter().filter_map(|(door, place)| Some((door, place?))) {
        let (what, key) = match door {
            Door::Admin => ("the admin interface", "admin.serverPort"),
            Door::Metrics => ("the Prometheus port", "metricsProvider.httpPort"),
        };
        let listener = std::net::ToSocketAddrs::to_socket_addrs(&place.to_string())
            .and_then(|all| TcpListener::bind(&*all.collect::<Vec<_>>()))
            .and_then(|l| l.set_nonblocking(true).map(|()| l));
        match listener {
            Ok(listener) => {
                let address = listener.local_addr().map(|a| a.to_string()).unwrap_or_default();
                tracing::info!("{what} is on http://{address}");
                doors.push((door, listener));
            }
            Err(e) => tracing::warn!(
                "{what} can't be had on {place}: {e}; the server goes on without it: change {key}, or stop whoever has it"
            ),
        }
    }
    let loopback = doors.iter().all(|(door, l)| {
        *door == Door::Metrics || l.local_addr().is_ok_and(|a| a.ip().to_canonical().is_loopback())
    });
    let configuration = configuration_text(&settings);
    let shared = Arc::new(Shared {
        core: OnceLock::new(),
        progress: Progress::default(),
        settings,
        configuration,
        properties,
        snapshots: RateLimit::default(),
        snapshot_running: Arc::new(Semaphore::new(1)),
        restores: RateLimit::default(),
        restore_running: Semaphore::new(1),
        loopback,
    });
    if !doors.is_empty() {
        let shared = shared.clone();
        std::thread::Builder::new()
            .name("admin".into())
            .spawn(move || run(&shared, doors))
            .map_err(|e| Failure::System(format!("the thread admin can't be started: {e}")))?;
    }
    Ok(shared)
}

/// The configuration file as it stands, secrets hidden.
fn configuration_text(settings: &Settings) -> String {
    let config::Invocation::File(path) = &settings.invocation else { return String::new() };
    let text = std::fs::read(path).map(|b| String::from_utf8_lossy(&b).into_owned()).unwrap_or_default();
    let shown = |line: &str| match line.split_once(['=', ':']) {
        Some((key, value)) if config::keys::shown(key.trim(), value) == "***" => format!("{key}=***\n"),
        _ => format!("{line}\n"),
    };
    text.lines().map(shown).collect()
}

fn run(shared: &Arc<Shared>, doors: Vec<(Door, TcpListener)>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .max_blocking_threads(limits::ADMIN_WORKERS)
        .thread_name("admin-work")
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(e) => return tracing::warn!("there is no admin interface: {e}"),
    };
    runtime.block_on(async {
        let mut tasks = Vec::new();
        for (door, listener) in doors {
            match tokio::net::TcpListener::from_std(listener) {
                Ok(listener) => tasks.push(tokio::spawn(accept(shared.clone(), door, listener))),
                Err(e) => tracing::warn!("a port of the admin interface can't be watched: {e}"),
            }
        }
        for task in tasks {
            let _ = task.await;
        }
    });
}

/// A connection that is open.
struct Place {
    /// Answers that are being made or sent in pieces: for these it keeps its place.
    at_work: Arc<()>,
    task: tokio::task::AbortHandle,
}

impl Place {
    /// Nobody but the task that serves it, and this, knows of it.
    fn is_idle(&self) -> bool {
        Arc::strong_count(&self.at_work) <= 2
    }
}

/// Makes room for one more: where all places are taken, by the end of the connection that came first and waits for its client.
/// So a crowd that says nothing does not keep out whoever asks whether the server lives. False: all are at work.
fn make_room(places: &mut VecDeque<Place>) -> bool {
    places.retain(|place| !place.task.is_finished());
    if places.len() < limits::ADMIN_CONNECTIONS {
        return true;
    }
    let idle = places.iter().position(Place::is_idle).and_then(|at| places.remove(at));
    idle.map(|place| place.task.abort()).is_some()
}

async fn accept(shared: Arc<Shared>, door: Door, listener: tokio::net::TcpListener) {
    let mut places = VecDeque::new();
    let idle_ms = shared.settings.operations.admin.as_ref().map_or(30_000, |a| a.idle_timeout_ms);
    loop {
        let (stream, from) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(e) => {
                tracing::debug!("the admin interface could not accept a connection: {e}");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        if !make_room(&mut places) {
            // It should not wait for what may not come.
            continue;
        }
        let shared = shared.clone();
        let at_work = Arc::new(());
        let working = at_work.clone();
        let task = tokio::spawn(async move {
            let service =
                hyper::service::service_fn(|request| handle(shared.clone(), door, from, request, &working));
            let connection = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(Duration::from_millis(u64::from(idle_ms)))
                .max_buf_size(limits::ADMIN_HEAD_BYTES)
                .max_headers(limits::ADMIN_HEADERS)
                // Who has asked and says no more, as `nc` does, still hears the answer.
                .half_close(true)
                .serve_connection(TokioIo::new(stream), service);
            // What goes wrong on one connection is its client's affair.
            let _ = tokio::time::timeout(limits::ADMIN_CONNECTION_TIME, connection).await;
        });
        places.push_back(Place { at_work, task: task.abort_handle() });
    }
}

async fn handle(
    shared: Arc<Shared>,
    door: Door,
    from: SocketAddr,
    request: hyper::Request<Incoming>,
    working: &Arc<()>,
) -> Result<Response<AnswerBody>, Infallible> {
    let (head, body) = request.into_parts();
    let answer = match refuse(&shared, door, &head) {
        Some(refusal) => refusal,
        None if door == Door::Admin && restore::is_asked(&shared, &head) => {
            let asked = restore::Asked {
                query: parse_query(head.uri.query().unwrap_or_default()),
                authorization: authorization(&head.headers).map(str::to_owned),
                from: from.ip(),
            };
            let _at_work = working.clone();
            restore::answer(shared.clone(), asked, body).await
        }
        None => {
            // No other command takes a body; one that comes is read, so that the connection can go on, up to a bound.
            let read = Limited::new(body, limits::ADMIN_BODY_BYTES).collect();
            match tokio::time::timeout(limits::ADMIN_BODY_TIME, read).await {
                Err(_) => Answer::text(408, "the body takes too long\n"),
                Ok(Err(_)) => Answer::text(413, "the body is too large, or broken\n"),
                Ok(Ok(_)) => {
                    let _at_work = working.clone();
                    let worker = shared.clone();
                    tokio::task::spawn_blocking(move || route(&worker, door, from, &head))
                        .await
                        .unwrap_or_else(|_| Answer::text(500, "the command failed\n"))
                }
            }
        }
    };
    if let Some(core) = shared.core.get() {
        core.stats.add(Counter::Admin, 1);
    }
    Ok(answer.into_response(working))
}

/// Why a request is not looked at any further.
fn refuse(shared: &Shared, door: Door, head: &hyper::http::request::Parts) -> Option<Answer> {
    if !matches!(head.method, Method::GET | Method::HEAD | Method::POST) {
        return Some(Answer::text(405, "GET, HEAD or POST\n"));
    }
    let header = |name: &str| head.headers.get(name).map(|v| v.to_str().unwrap_or("?"));
    // One name, in the request's line or in `Host`: who sends two wants them to be read differently.
    let mut hosts = head.headers.get_all(HOST).iter().map(|v| v.to_str().unwrap_or("?"));
    let host = hosts.next();
    let asked = head.uri.authority().map(|a| a.as_str());
    if hosts.next().is_some() || asked.is_some_and(|asked| Some(asked) != host) {
        return Some(Answer::text(400, "one Host, the same in the request's line if it stands there\n"));
    }
    if door == Door::Admin && shared.loopback && !host.is_none_or(is_own_name) {
        return Some(Answer::text(
            403,
            "this interface is of this machine alone, and that is no name of it\n",
        ));
    }
    // Browsers say where a request comes from, once; a link that somebody follows to the page is all right.
    if ["sec-fetch-site", "origin"].iter().any(|name| head.headers.get_all(*name).iter().count() > 1) {
        return Some(Answer::text(400, "a header that says where a request comes from stands there twice\n"));
    }
    let site = header("sec-fetch-site").unwrap_or("none");
    let follows = head.method == Method::GET
        && head.uri.path() == "/"
        && header("sec-fetch-mode") == Some("navigate")
        && header("sec-fetch-dest") == Some("document");
    if !matches!(site, "none" | "same-origin") && !follows {
        return Some(Answer::text(403, "requests from other sites are refused\n"));
    }
    let same = |origin: &str| origin.split_once("://").is_some_and(|(_, rest)| Some(rest) == host);
    if head.headers.contains_key(ORIGIN) && !header("origin").is_some_and(same) {
        return Some(Answer::text(403, "requests from other sites are refused\n"));
    }
    None
}

/// Whether a `Host` header names this machine from within.
fn is_own_name(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((name, port)) if port.is_empty() || port.starts_with(':') => name,
            _ => return false,
        },
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    };
    if let Ok(ip) = name.parse::<IpAddr>() {
        return ip.to_canonical().is_loopback();
    }
    static OWN: OnceLock<String> = OnceLock::new();
    let own = OWN.get_or_init(|| {
        std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_ascii_lowercase()
    });
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    name == "localhost" || name.ends_with(".localhost") || (!own.is_empty() && name == *own)
}

fn route(shared: &Arc<Shared>, door: Door, from: SocketAddr, head: &hyper::http::request::Parts) -> Answer {
    let path = head.uri.path();
    let post = head.method == Method::POST;
    if path == "/metrics" && !post {
        return metrics_page(shared);
    }
    if door == Door::Metrics {
        return Answer::text(404, "there is only /metrics here\n");
    }
    let query = parse_query(head.uri.query().unwrap_or_default());
    let url = shared.command_url();
    match path {
        "/livez" if !post => live(shared),
        "/readyz" if !post => ready(shared),
        "/" if !post => page::answer(),
        "/api/live" | "/api/children" | "/api/node" if !post => {
            api::answer(shared, path, &query, authorization(&head.headers), from.ip())
        }
        _ => match path.strip_prefix(url) {
            Some("" | "/") if !post => Answer::html(200, commands::index(url)),
            Some(name) if name.starts_with('/') && !name[1..].contains('/') => {
                let request = commands::Request {
                    name: &name[1..],
                    post,
                    query: &query,
                    authorization: authorization(&head.headers),
                    from: from.ip(),
                };
                commands::run(shared, &request)
            }
            _ => Answer::text(404, "there is nothing here; see /, /commands, /metrics, /livez, /readyz\n"),
        },
    }
}

fn authorization(headers: &HeaderMap) -> Option<&str> {
    headers.get(AUTHORIZATION).and_then(|v| v.to_str().ok())
}

fn metrics_page(shared: &Shared) -> Answer {
    let text = match shared.core() {
        Some(core) => metrics::prometheus(&core),
        None => {
            "# HELP falconer_ready 1 when the server serves\n# TYPE falconer_ready gauge\nfalconer_ready 0\n"
                .into()
        }
    };
    Answer::new(200, "text/plain; version=0.0.4; charset=utf-8", text.into_bytes())
}

/// Alive: its threads come round. A start that takes long is alive too.
fn live(shared: &Shared) -> Answer {
    let late = shared.core().and_then(|core| core.stuck());
    match late {
        None => Answer::json(200, &json!({ "live": true, "phase": shared.progress.report() })),
        Some(why) => Answer::json(503, &json!({ "live": false, "reason": why })),
    }
}

/// Ready: requests are answered.
fn ready(shared: &Shared) -> Answer {
    let mut report = shared.progress.report();
    // Several servers of one machine are told apart by it.
    let listen = shared.settings.client.listen.as_ref().map(|l| u32::from(l.port));
    let bound = shared.core().and_then(|core| core.client_port()).map(u32::from);
    report.put("client_port", bound.or(listen));
    if let Some(core) = shared.core() {
        report.put("zxid", core.tree.applied().to_string());
        report.put("state", crate::fourletter::mode(&core));
        if let Some(why) = core.unready() {
            report.put("ready", false);
            report.put("reason", why);
        }
        if core.is_log_full() {
            report.put("warning", "writes are refused: the log's disk is full");
        }
        if let Some(why) = core.stuck() {
            report.put("ready", false);
            report.put("reason", why);
        }
    }
    let status = if report.get("ready") == Some(&Json::Bool(true)) { 200 } else { 503 };
    Answer::json(status, &report)
}

/// The arguments behind the `?`.
pub fn parse_query(text: &str) -> commands::Query {
    let pair = |part: &str| {
        let (key, value) = part.split_once('=').unwrap_or((part, ""));
        (percent_decoded(key), percent_decoded(value))
    };
    text.split('&').filter(|p| !p.is_empty()).take(limits::ADMIN_ARGUMENTS).map(pair).collect()
}

fn percent_decoded(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = |i: usize| bytes.get(i).and_then(|b| (*b as char).to_digit(16));
        match (bytes[at], hex(at + 1), hex(at + 2)) {
            (b'%', Some(high), Some(low)) => {
                out.push((high * 16 + low) as u8);
                at += 3;
                continue;
            }
            (b'+', ..) => out.push(b' '),
            (b, ..) => out.push(b),
        }
        at += 1;
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// What goes back.
pub struct Answer {
    status: u16,
    kind: &'static str,
    body: AnswerBody,
    /// Besides those that every answer has.
    pub headers: Vec<(&'static str, String)>,
}

/// The body of an answer, whole or in pieces.
pub enum AnswerBody {
    /// All of it, until it is taken.
    Whole(Option<Bytes>),
    /// As it comes; so many bytes in all. Until it has been sent the connection keeps its place.
    Pieces(mpsc::Receiver<Vec<u8>>, u64, Option<Arc<()>>),
}

impl Answer {
    fn new(status: u16, kind: &'static str, body: Vec<u8>) -> Answer {
        Answer { status, kind, body: AnswerBody::Whole(Some(body.into())), headers: Vec::new() }
    }

    /// JSON for programs.
    fn compact(status: u16, json: &Json) -> Answer {
        Answer::new(status, "application/json", json.compact().into_bytes())
    }

    /// JSON, indented.
    pub fn json(status: u16, json: &Json) -> Answer {
        Answer::new(status, "application/json", json.pretty().into_bytes())
    }

    fn html(status: u16, text: String) -> Answer {
        Answer::new(status, "text/html;charset=utf-8", text.into_bytes())
    }

    fn text(status: u16, text: &str) -> Answer {
        Answer::new(status, "text/plain;charset=utf-8", text.as_bytes().to_vec())
    }

    /// A body of `size` bytes that comes in pieces.
    pub fn stream(kind: &'static str, size: u64) -> (Answer, mpsc::Sender<Vec<u8>>) {
        let (sender, receiver) = mpsc::channel(limits::ADMIN_PIECES);
        (
            Answer { status: 200, kind, body: AnswerBody::Pieces(receiver, size, None), headers: Vec::new() },
            sender,
        )
    }

    fn into_response(mut self, working: &Arc<()>) -> Response<AnswerBody> {
        if let AnswerBody::Pieces(_, _, at_work) = &mut self.body {
            *at_work = Some(working.clone());
        }
        let mut response = Response::builder()
            .status(StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR))
            .header("content-type", self.kind)
            .header("cache-control", "no-store")
            .header("x-content-type-options", "nosniff")
            .header("x-frame-options", "DENY")
            .header("referrer-policy", "no-referrer")
            .header("cross-origin-resource-policy", "same-origin");
        if !self.headers.iter().any(|(name, _)| *name == "content-security-policy") {
            response =
                response.header("content-security-policy", "default-src 'none'; frame-ancestors 'none'");
        }
        for (name, value) in self.headers {
            response = response.header(name, value);
        }
        response.body(self.body).expect("the names and values of headers are this module's own")
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.get_mut() {
            AnswerBody::Whole(bytes) => Poll::Ready(bytes.take().map(|b| Ok(Frame::data(b)))),
            AnswerBody::Pieces(receiver, ..) => {
                receiver.poll_recv(cx).map(|piece| piece.map(|p| Ok(Frame::data(p.into()))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, AnswerBody::Whole(None))
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(match self {
            AnswerBody::Whole(bytes) => bytes.as_ref().map_or(0, |b| b.len() as u64),
            AnswerBody::Pieces(_, size, _) => *size,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_this_machine_are_told_from_others() {
        for own in [
            "localhost",
            "LOCALHOST:8080",
            "127.0.0.1:8080",
            "127.9.9.9",
            "[::1]:80",
            "::1:80",
            "a.localhost",
        ] {
            assert!(is_own_name(own) || own == "::1:80", "{own}");
        }
        for other in [
            "evil.example",
            "evil.example:8080",
            "10.0.0.1",
            "[::2]",
            "localhost.evil.example",
            "",
            "127.0.0.1.evil.example",
            "[::1].evil.example",
            "[::1",
        ] {
            assert!(!is_own_name(other), "{other}");
        }
    }

    #[test]
    fn arguments_are_decoded_once() {
        let q = parse_query("path=%2Fa%20b+c&x&y=%zz&%61=%2525");
        let pair = |k: &str, v: &str| (k.to_owned(), v.to_owned());
        assert_eq!(q, [pair("path", "/a b c"), pair("x", ""), pair("y", "%zz"), pair("a", "%25")]);
        assert_eq!(parse_query(&"a&".repeat(1000)).len(), limits::ADMIN_ARGUMENTS);
    }

    #[test]
    fn one_passes_in_each_interval() {
        let limit = RateLimit::default();
        assert!(limit.allow(Duration::from_secs(60)));
        assert!(!limit.allow(Duration::from_secs(60)));
        assert!(limit.allow(Duration::ZERO));
    }
}
