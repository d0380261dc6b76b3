//! `volvelle serve` and `volvelle token`, the real program: shared results, who gets in, and what a crash or a full disk
//! leaves.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use volvelle::digest::{Digest, RecipeKey};
use volvelle::remote::http::open_with;
use volvelle::remote::{Content, Meter, Moved, Remote, RemoteError};
use volvelle::settings::RemoteSettings;
use volvelle::store::Store;

use crate::project::{Project, signal};
use crate::proxy::{Faults, Proxy};

const PIPELINE: &str = r#"volvelle: 1
name: shared
stages:
  list:
    uses: command
    with: { run: "mkdir ${outputs.out}; seq 3 > ${outputs.out}/numbers; seq 90000 > ${outputs.out}/many" }
    outputs: { out: folder }
  sum:
    uses: command
    needs: { list: list.out }
    with: { run: "awk '{ s += $1 } END { print s }' ${inputs.list}/numbers > ${outputs.out}" }
    outputs: { out: text }
"#;

/// A running `volvelle serve`; it is killed with the value.
struct Server {
    child: Child,
    url: String,
}

impl Server {
    /// Serves the cache of a project, without tokens unless the options say otherwise.
    fn start(project: &Project, options: &[&str]) -> Server {
        let mut command = project.command(&[&["serve", "--listen", "127.0.0.1:0"], options].concat());
        command
            .env_remove("VOLVELLE_TOKEN")
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().expect("the program starts");
        let mut line = String::new();
        let stdout = child.stdout.as_mut().expect("a pipe");
        BufReader::new(stdout).read_line(&mut line).expect("a line");
        let url = line
            .strip_prefix("listening on ")
            .and_then(|rest| Some(rest.split_once(',')?.0));
        let url = url.unwrap_or_else(|| panic!("{line:?} is no greeting")).to_owned();
        Server { child, url }
    }

    fn open(project: &Project) -> Server {
        Server::start(project, &["--no-auth", "--keep-free", "0B"])
    }

    fn address(&self) -> SocketAddr {
        let (_, address) = self.url.split_once("://").expect("an address");
        address.parse().expect("an address")
    }

    fn client(&self, token: Option<&str>) -> Arc<dyn Remote> {
        open_with(&RemoteSettings::at(&self.url), token.map(str::to_owned)).expect("a good address")
    }

    /// Sends a request that is written by hand, and returns all that comes back.
    fn raw(&self, request: &str) -> String {
        let mut stream = TcpStream::connect(self.address()).expect("a server");
        stream.write_all(request.as_bytes()).expect("it takes it");
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8_lossy(&answer).into_owned()
    }

    fn get(&self, path: &str) -> String {
        self.raw(&format!(
            "GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"
        ))
    }

    /// Ends the server as an operator would, and returns its exit code and what it said.
    fn stop(mut self) -> (Option<i32>, String) {
        signal(&self.child, "TERM");
        let mut said = String::new();
        let stderr = self.child.stderr.as_mut().expect("a pipe");
        stderr.read_to_string(&mut said).expect("text");
        (self.child.wait().expect("it ends").code(), said)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn wait<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    runtime.expect("a runtime").block_on(future)
}

fn store(project: &Project) -> Arc<Store> {
    Arc::new(Store::open(&project.path("cache")).expect("a cache"))
}

/// Returns the recipe keys of all records of a cache.
fn keys(store: &Store) -> BTreeSet<RecipeKey> {
    let mut keys = BTreeSet::new();
    store.each_record(|record| {
        keys.insert(record.recipe_key);
    });
    keys
}

/// Brings all records and artifacts of a store to a remote.
async fn push_all(remote: &dyn Remote, store: &Arc<Store>) -> Result<Moved, RemoteError> {
    let mut moved = Moved::default();
    for key in keys(store) {
        let record = store.record(key).expect("a record");
        for artifact in record.artifacts.values() {
            moved += remote.push(store, Content::from(artifact), &Meter::default()).await?;
        }
        let bytes = fs::read(store.record_path(key.0)).expect("a record");
        remote.put_record(key, record.content_key, bytes.into(), false).await?;
    }
    Ok(moved)
}

/// Brings records and their artifacts from a remote into a store.
async fn fetch_all(remote: &dyn Remote, store: &Arc<Store>, keys: &BTreeSet<RecipeKey>) -> Result<Moved, RemoteError> {
    let mut moved = Moved::default();
    for key in keys {
        let bytes = remote.record(key.0).await?.expect("a record");
        let text = std::str::from_utf8(&bytes).expect("text");
        let record: serde_json::Value = serde_json::from_str(text.lines().next().expect("a line")).expect("JSON");
        for artifact in record["artifacts"].as_object().expect("artifacts").values() {
            let artifact = serde_json::from_value(artifact.clone()).expect("an artifact");
            moved += remote
                .fetch(store, Content::from(&artifact), None, &Meter::default())
                .await?;
        }
        store.admit_record(*key, &bytes, false).expect("it checks");
    }
    Ok(moved)
}

fn noise(length: usize, seed: u8) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new_keyed(&[seed; 32]).finalize_xof().fill(&mut bytes);
    bytes
}

/// Adds a file to a store and returns its name.
fn add(project: &Project, store: &Store, bytes: &[u8]) -> Digest {
    let path = project.path("blob");
    fs::write(&path, bytes).expect("a file");
    store.add_copy(&path).expect("a blob")
}

#[test]
fn a_machine_without_results_runs_nothing_once_it_has_what_another_one_shared() {
    let (ada, bob, shared) = (Project::new(PIPELINE), Project::new(PIPELINE), Project::new(PIPELINE));
    ada.run(&[]);
    let token = shared.volvelle(&["token", "new", "team", "--scope", "write", "--expires", "90d"]);
    assert_eq!(token.code, Some(0), "{}", token.stderr);
    let server = Server::start(&shared, &["-v", "--keep-free", "0B"]);
    let remote = server.client(Some(token.stdout.trim()));
    wait(async {
        push_all(&*remote, &store(&ada)).await.expect("it is pushed");
        let again = push_all(&*remote, &store(&ada)).await.expect("it is pushed");
        assert_eq!(again.wire_bytes, 0);
        fetch_all(&*remote, &store(&bob), &keys(&store(&ada)))
            .await
            .expect("it is fetched");
    });
    let states = bob.run(&[]);
    assert!(states.values().all(|state| state == "cached"), "{states:?}");
    assert_eq!(bob.volvelle(&["show", "p.yaml", "sum.out"]).stdout, "6\n");
    let (code, said) = server.stop();
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("team") && said.contains("PUT \"/v1/records/"), "{said}");
    assert!(!said.contains(token.stdout.trim()), "a log has no token");
}

#[test]
fn tokens_are_made_listed_and_revoked_and_a_server_heeds_it_at_once() {
    let project = Project::new(PIPELINE);
    let refused = project.volvelle(&["serve", "--listen", "127.0.0.1:0"]);
    assert_eq!(refused.code, Some(2));
    assert!(
        refused.stderr.contains("volvelle token new") && refused.stderr.contains("--no-auth"),
        "{}",
        refused.stderr
    );
    let open = project.volvelle(&["serve", "--listen", "0.0.0.0:0", "--no-auth"]);
    assert_eq!(open.code, Some(2), "{}", open.stderr);
    let token = project.volvelle(&["token", "new", "ci", "--scope", "read"]).stdout;
    assert_eq!(
        project.volvelle(&["token", "new", "ci", "--scope", "read"]).code,
        Some(2)
    );
    let listed = project.volvelle(&["token", "list"]).stdout;
    assert!(
        listed.contains("ci") && listed.contains("never") && !listed.contains(token.trim()),
        "{listed}"
    );
    let server = Server::start(&project, &[]);
    let ask = |token: Option<&str>| wait(server.client(token).status());
    assert!(ask(Some(token.trim())).is_ok_and(|status| !status.writable));
    assert!(matches!(ask(None), Err(RemoteError::Denied { .. })));
    assert_eq!(project.volvelle(&["token", "revoke", "ci"]).code, Some(0));
    assert!(matches!(ask(Some(token.trim())), Err(RemoteError::Denied { .. })));
    assert!(server.get("/healthz").starts_with("HTTP/1.1 200"));
    assert!(server.get("/v1/status").starts_with("HTTP/1.1 401"));
}

#[test]
fn an_upload_goes_on_where_the_server_was_killed() {
    let (ada, shared) = (Project::new(PIPELINE), Project::new(PIPELINE));
    let server = Server::open(&shared);
    let (store, bytes) = (store(&ada), noise(12 << 20, 1));
    let digest = add(&ada, &store, &bytes);
    let mut stream = TcpStream::connect(server.address()).expect("a server");
    let head = format!(
        "PUT /v1/uploads/{digest}?size={0} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {0}\r\n\r\n",
        bytes.len()
    );
    stream.write_all(head.as_bytes()).expect("it takes it");
    stream.write_all(&bytes[..10 << 20]).expect("it takes it");
    let received = || fs::metadata(shared.path(&format!("cache/incoming/{digest}"))).map_or(0, |found| found.len());
    shared.wait_until("most of it is written", || received() >= 9 << 20);
    signal(&server.child, "KILL");
    drop(server);
    assert!(!shared.exists(&format!(
        "cache/blobs/{}/{}",
        &digest.to_string()[..2],
        &digest.to_string()[2..]
    )));
    let server = Server::open(&shared);
    let moved = wait(
        server
            .client(None)
            .push(&store, Content::file(digest), &Meter::default()),
    )
    .expect("it goes on");
    assert!(moved.wire_bytes <= 3 << 20, "{moved:?}");
    assert_eq!(self::store(&shared).read_blob(digest).expect("a good blob"), bytes);
}

#[test]
fn a_download_goes_on_where_the_network_broke() {
    let (shared, bob) = (Project::new(PIPELINE), Project::new(PIPELINE));
    let (there, here, bytes) = (store(&shared), store(&bob), noise(6 << 20, 2));
    let digest = add(&shared, &there, &bytes);
    let server = Server::open(&shared);
    let proxy = Proxy::start(server.address()).expect("a proxy");
    for reset in [false, true] {
        proxy.set(Faults {
            cut_after: Some(2 << 20),
            reset,
            ..Faults::default()
        });
        let before = proxy.bytes_to_client();
        let remote = open_with(&RemoteSettings::at(&format!("http://{}", proxy.address())), None).expect("an address");
        wait(remote.fetch(&here, Content::file(digest), None, &Meter::default())).expect("it goes on");
        let came = proxy.bytes_to_client() - before;
        // No connection lasts for 6 MiB, so to arrive is to go on. A reset also takes what lies unread in the client's
        // socket, which on a busy machine is most of a connection: only where there is none are bytes worth counting.
        assert!(reset || came < (6 << 20) + (2 << 20), "{came} bytes for 6 MiB");
        assert_eq!(here.read_blob(digest).expect("a good blob"), bytes);
        fs::remove_file(here.blob_path(digest)).expect("it is there");
    }
    // Silent: told within the time that the settings give it, and the store is as it was.
    proxy.set(Faults {
        blackhole: true,
        ..Faults::default()
    });
    let mut settings = RemoteSettings::at(&format!("http://{}", proxy.address()));
    settings.timeout = Some(Duration::from_millis(200));
    let remote = open_with(&settings, None).expect("an address");
    let start = Instant::now();
    let told = wait(remote.fetch(&here, Content::file(digest), None, &Meter::default()));
    assert!(matches!(told, Err(RemoteError::Unreachable { .. })), "{told:?}");
    assert!(start.elapsed() < Duration::from_secs(30));
    assert_eq!(here.blob_size(digest), None);
}

#[test]
fn silent_and_too_many_connections_are_ended() {
    let project = Project::new(PIPELINE);
    let server = Server::start(&project, &["--no-auth", "--timeout", "1s", "--max-connections", "8"]);
    let silent = [
        "",
        "GET /healthz HTTP/1.1\r\nhost: loc",
        "PUT /v1/claims/x HTTP/1.1\r\nhost: localhost\r\n\r\n",
    ];
    let mut streams = Vec::new();
    for text in silent {
        let mut stream = TcpStream::connect(server.address()).expect("a server");
        stream.write_all(text.as_bytes()).expect("it takes it");
        streams.push(stream);
    }
    for mut stream in streams {
        stream
            .set_read_timeout(Some(Duration::from_secs(20)))
            .expect("a timeout");
        // An answer that says so, or nothing; either way it ends.
        stream.read_to_end(&mut Vec::new()).expect("the server ends it");
    }
    let many: Vec<_> = (0..12)
        .filter_map(|_| TcpStream::connect(server.address()).ok())
        .collect();
    project.wait_until("some are refused", || {
        let closed = |stream: &TcpStream| {
            stream
                .set_read_timeout(Some(Duration::from_millis(20)))
                .expect("a timeout");
            matches!((&*stream).read(&mut [0]), Ok(0))
        };
        many.iter().filter(|stream| closed(stream)).count() >= 4
    });
    drop(many);
    project.wait_until("it serves again", || server.get("/healthz").starts_with("HTTP/1.1 200"));
}

#[test]
fn metrics_are_what_prometheus_reads() {
    let project = Project::new(PIPELINE);
    project.run(&[]);
    let server = Server::open(&project);
    let key = keys(&store(&project)).into_iter().next().expect("a record");
    assert!(server.get(&format!("/v1/records/{key}")).starts_with("HTTP/1.1 200"));
    assert!(server.get("/v1/records/x").starts_with("HTTP/1.1 400"));
    project.wait_until("the store is counted", || {
        server.get("/metrics").contains("volvelle_store_bytes")
    });
    let answer = server.get("/metrics");
    let (_, text) = answer.split_once("\r\n\r\n").expect("a body");
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (name, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("{line}"));
        assert!(value.parse::<f64>().is_ok(), "{line}");
        let (metric, labels) = name.split_once('{').unwrap_or((name, "}"));
        assert!(metric.chars().all(|c| c.is_ascii_alphanumeric() || c == '_'), "{line}");
        assert!(labels.ends_with('}'), "{line}");
    }
    for expected in [
        "volvelle_http_requests_total{route=\"/v1/records/{key}\",method=\"GET\",status=\"200\"} 1",
        "volvelle_http_requests_total{route=\"/v1/records/{key}\",method=\"GET\",status=\"400\"} 1",
        "volvelle_http_request_seconds_count{route=\"/v1/records/{key}\"} 2",
        "volvelle_store_records 2",
    ] {
        assert!(text.contains(expected), "no {expected} in\n{text}");
    }
}

/// A file system of its own, unmounted with the value.
struct Mounted(PathBuf);

impl Mounted {
    /// Mounts a small one; none where that is not allowed.
    fn small(path: PathBuf) -> Option<Mounted> {
        fs::create_dir_all(&path).ok()?;
        let mut command = Command::new("mount");
        command.args(["-t", "tmpfs", "-o", "size=12m", "tmpfs"]).arg(&path);
        let mounted = command.stderr(Stdio::null()).status();
        mounted.is_ok_and(|status| status.success()).then_some(Mounted(path))
    }

    fn make_read_only(&self) {
        let remounted = Command::new("mount").args(["-o", "remount,ro"]).arg(&self.0).status();
        assert!(remounted.is_ok_and(|status| status.success()));
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn a_full_and_a_read_only_store_are_told_and_go_on_serving() {
    let (ada, shared) = (Project::new(PIPELINE), Project::new(PIPELINE));
    let Some(mounted) = Mounted::small(shared.path("disk")) else {
        eprintln!("skipped: a file system can't be mounted here (it takes root)");
        return;
    };
    let server = Server::start(&shared, &["--no-auth", "--keep-free", "0B", "--cache", "disk/cache"]);
    let (store, remote) = (store(&ada), server.client(None));
    let small = add(&ada, &store, b"small");
    let large = add(&ada, &store, &noise(20 << 20, 3));
    let push = |digest| wait(remote.push(&store, Content::file(digest), &Meter::default()));
    push(small).expect("there is room");
    assert!(matches!(push(large), Err(RemoteError::Full { .. })));
    // The disk is filled by somebody else, after the room was counted.
    let filler = shared.path("disk/filler");
    let _ = fs::write(&filler, noise(12 << 20, 4));
    let other = add(&ada, &store, &noise(300_000, 5));
    assert!(matches!(push(other), Err(RemoteError::Full { .. })));
    fs::remove_file(&filler).expect("it is there");
    push(other).expect("there is room again");

    mounted.make_read_only();
    let another = add(&ada, &store, &noise(300_000, 6));
    assert!(push(another).is_err_and(|error| error.to_string().contains("cannot be written")));
    assert!(server.get(&format!("/v1/blobs/{small}")).ends_with("small"));
    assert_eq!(server.stop().0, Some(0));
}

/// Makes an authority and a certificate of it for 127.0.0.1; none where there is no openssl.
fn certificate(folder: &Path) -> Option<()> {
    let openssl = |arguments: &str| {
        let mut command = Command::new("openssl");
        command.args(arguments.split(' ')).current_dir(folder);
        let status = command.stdout(Stdio::null()).stderr(Stdio::null()).status();
        status.is_ok_and(|status| status.success()).then_some(())
    };
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";
    openssl(&format!(
        "req -x509 {key} -keyout ca.key -out ca.pem -subj /CN=authority -days 2"
    ))?;
    openssl(&format!("req {key} -keyout tls.key -out tls.csr -subj /CN=server"))?;
    fs::write(
        folder.join("ext"),
        "subjectAltName=IP:127.0.0.1\nbasicConstraints=CA:FALSE\n",
    )
    .ok()?;
    openssl("x509 -req -in tls.csr -CA ca.pem -CAkey ca.key -CAcreateserial -out tls.pem -days 2 -extfile ext")
}

#[test]
fn https_is_spoken_with_those_who_trust_the_certificate() {
    let project = Project::new(PIPELINE);
    if certificate(&project.path("")).is_none() {
        eprintln!("skipped: there is no openssl");
        return;
    }
    let files = ["--tls-cert", "tls.pem", "--tls-key", "tls.key"];
    let server = Server::start(&project, &[&["--no-auth"], &files[..]].concat());
    assert!(server.url.starts_with("https://"));
    // The authorities that a process trusts are read once, from its environment.
    let ask = |authority: Option<PathBuf>| {
        let mut command = Command::new(std::env::current_exe().expect("this program"));
        command
            .args(["--exact", "serve::a_client_of_its_own", "--ignored"])
            .env("VOLVELLE_TEST_URL", &server.url);
        match authority {
            Some(path) => command.env("SSL_CERT_FILE", path),
            None => command.env_remove("SSL_CERT_FILE"),
        };
        command
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .expect("it ends")
            .success()
    };
    assert!(ask(Some(project.path("ca.pem"))));
    assert!(!ask(None), "a stranger's certificate");
    fs::copy(project.path("tls.key"), project.path("broken.key")).expect("a key");
    fs::write(project.path("tls.key"), "no key").expect("a file");
    let refused = project.volvelle(&[&["serve", "--listen", "127.0.0.1:0", "--no-auth"], &files[..]].concat());
    assert!(
        refused.code == Some(1) && refused.stderr.contains("tls.key"),
        "{}",
        refused.stderr
    );
    // The one that runs keeps what it has.
    signal(&server.child, "HUP");
    assert!(ask(Some(project.path("ca.pem"))));
    assert_eq!(server.stop().0, Some(0));
}

#[test]
#[ignore = "it is started by the test of https, with an environment of its own"]
fn a_client_of_its_own() {
    let url = std::env::var("VOLVELLE_TEST_URL").expect("an address");
    let mut settings = RemoteSettings::at(&url);
    settings.timeout = Some(Duration::from_secs(10));
    wait(open_with(&settings, None).expect("an address").status()).expect("it is trusted");
}
