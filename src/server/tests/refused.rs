//! What a server refuses: strangers, names that are none, and content that isn't what it says. Nothing of it is seen.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, Request, Response, StatusCode, header};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use tower::ServiceExt;

use super::{Place, Tested, noise};
use crate::digest::Digest;
use crate::remote::http::protocol::{CLAIM_HEADER, push_head};
use crate::server::routes::router;
use crate::server::shared::Shared;
use crate::server::{Access, Options, Scope, TokenFile};

/// The routes of a store, called without a connection.
struct Routes {
    place: Place,
    router: Router,
}

impl Routes {
    fn new(change: impl FnOnce(&mut Options)) -> Result<Routes, Box<dyn std::error::Error>> {
        let place = Place::new()?;
        let mut options = Options::new(([127, 0, 0, 1], 1).into(), Access::Open);
        options.keep_free_bytes = 0;
        change(&mut options);
        let shared = Shared::new(Arc::clone(&place.store), &options)?;
        Ok(Routes {
            place,
            router: router(Arc::new(shared)),
        })
    }

    async fn call(&self, request: Request<Body>) -> Result<Response<Body>, Box<dyn std::error::Error>> {
        Ok(self.router.clone().oneshot(request).await?)
    }

    async fn status(&self, method: &str, path: &str, body: Vec<u8>) -> Result<u16, Box<dyn std::error::Error>> {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "localhost:1");
        Ok(self.call(request.body(Body::from(body))?).await?.status().as_u16())
    }

    /// Returns how many blobs and records can be seen.
    fn seen(&self) -> (u64, u64) {
        let counted = crate::server::census::Census::default().take(&self.place.store);
        (counted.blobs, counted.records)
    }
}

#[tokio::test]
async fn only_names_are_names() -> Tested {
    let routes = Routes::new(|_| {})?;
    std::fs::write(routes.place.folder.path().join("secret"), "s")?;
    let name = Digest::of(b"x").to_string();
    let upper = name.to_uppercase();
    let encoded = format!("%{:02x}{}", name.as_bytes()[0], &name[1..]);
    for bad in [
        "..",
        ".",
        "a",
        "%2e%2e",
        "..%2f..%2fsecret",
        "/etc/passwd",
        &upper,
        &encoded,
        &name[1..],
        "\u{e9}",
    ] {
        for area in ["records", "blobs", "uploads", "claims", "contents"] {
            for method in ["GET", "HEAD", "PUT", "DELETE", "PATCH"] {
                let path = format!("/v1/{area}/{bad}");
                let Ok(status) = routes.status(method, &path, Vec::new()).await else {
                    continue; // No HTTP client can send it.
                };
                assert!(matches!(status, 400 | 404 | 405), "{method} {path}: {status}");
            }
        }
    }
    for path in [
        "/v1/blobs/../../secret",
        "/v1/../format",
        "/../secret",
        "//etc/passwd",
        "/v1/blobs/",
    ] {
        let status = routes.status("GET", path, Vec::new()).await?;
        assert!(matches!(status, 400 | 404), "{path}: {status}");
    }
    for query in [
        "size=1&size=1",
        "size=-1",
        "size=1&offset=2",
        "size=1&x=1",
        "",
        "size=99999999999999999999",
    ] {
        let path = format!("/v1/uploads/{name}?{query}");
        assert_eq!(routes.status("PUT", &path, vec![0]).await?, 400, "{query}");
    }
    Ok(())
}

#[tokio::test]
async fn strangers_stay_out_and_readers_write_nothing() -> Tested {
    let folder = tempfile::tempdir()?;
    let file = TokenFile::at(folder.path().join("tokens"));
    let reader = file.add("reader", Scope::Read, None)?;
    let writer = file.add("writer", Scope::Write, None)?;
    let late = file.add("late", Scope::Write, Some(Duration::ZERO))?;
    let routes = Routes::new(|options| options.access = Access::Tokens(file.clone()))?;
    let digest = Digest::of(b"hello");
    let call = async |method: &str, path: &str, token: Option<&str>| {
        let mut request = Request::builder().method(method).uri(path);
        if let Some(token) = token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        let response = routes.call(request.body(Body::from("hello"))?).await?;
        let challenge = response.headers().contains_key(header::WWW_AUTHENTICATE);
        Ok::<_, Box<dyn std::error::Error>>((response.status().as_u16(), challenge))
    };
    let (get, put) = (format!("/v1/blobs/{digest}"), format!("/v1/uploads/{digest}?size=5"));
    for stranger in [None, Some(""), Some("x"), Some(late.as_str()), Some(&writer[1..])] {
        for (method, path) in [
            ("GET", get.as_str()),
            ("PUT", &put),
            ("GET", "/metrics"),
            ("GET", "/v1/status"),
        ] {
            assert_eq!(call(method, path, stranger).await?, (401, true), "{method} {path}");
        }
    }
    assert_eq!(call("GET", "/healthz", None).await?.0, 200);
    let writes = [
        ("PUT", put.clone()),
        ("PUT", format!("/v1/records/{digest}")),
        ("POST", "/v1/batch/put".to_owned()),
        ("PUT", format!("/v1/claims/{digest}")),
        ("PATCH", format!("/v1/claims/{digest}")),
        ("DELETE", format!("/v1/claims/{digest}")),
        ("POST", "/v1/missing/".to_owned()),
    ];
    for (method, path) in &writes {
        assert_eq!(call(method, path, Some(&reader)).await?, (403, true), "{method} {path}");
    }
    assert_eq!(call("GET", &get, Some(&reader)).await?.0, 404);
    assert_eq!(call("PUT", &put, Some(&writer)).await?.0, 201);
    assert_eq!(call("GET", &get, Some(&reader)).await?.0, 200);
    file.revoke("reader")?;
    assert_eq!(call("GET", &get, Some(&reader)).await?.0, 401);
    Ok(())
}

#[tokio::test]
async fn without_tokens_only_programs_of_this_machine_are_served() -> Tested {
    let routes = Routes::new(|_| {})?;
    let call = async |headers: &[(&str, &str)]| {
        let mut request = Request::builder().uri("/healthz");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = routes.call(request.body(Body::empty())?).await?;
        Ok::<_, Box<dyn std::error::Error>>(response.status().as_u16())
    };
    for host in ["localhost", "127.0.0.1:7878", "[::1]:1"] {
        assert_eq!(call(&[("host", host)]).await?, 200, "{host}");
    }
    for host in [
        "evil.example",
        "localhost.evil.example:7878",
        "127.0.0.1.evil.example",
        "",
        "10.0.0.1",
    ] {
        assert_eq!(call(&[("host", host)]).await?, 403, "{host}");
    }
    assert_eq!(
        call(&[("host", "localhost"), ("origin", "https://evil.example")]).await?,
        403
    );
    assert_eq!(
        call(&[("host", "localhost"), ("sec-fetch-site", "cross-site")]).await?,
        403
    );
    assert_eq!(call(&[]).await?, 403);
    Ok(())
}

#[tokio::test]
async fn content_that_is_not_what_it_says_is_not_let_in() -> Tested {
    let routes = Routes::new(|options| options.max_blob_bytes = 1 << 20)?;
    let digest = Digest::of(b"hello");
    let upload = |query: &str| format!("/v1/uploads/{digest}?{query}");
    assert_eq!(routes.status("PUT", &upload("size=5"), b"hullo".to_vec()).await?, 422);
    assert_eq!(routes.status("PUT", &upload("size=4"), b"hell".to_vec()).await?, 422);
    assert_eq!(
        routes.status("PUT", &upload("size=5"), b"hel".to_vec()).await?,
        202,
        "more is to come"
    );
    assert_eq!(
        routes.status("PUT", &upload("size=5&offset=4"), b"o".to_vec()).await?,
        409,
        "a hole"
    );
    assert_eq!(
        routes
            .status("PUT", &upload("size=5&offset=3"), b"lo!".to_vec())
            .await?,
        413
    );
    assert_eq!(routes.status("PUT", &upload("size=1048577"), Vec::new()).await?, 413);
    let batch = |digest: Digest, bytes: &[u8], length: u64| {
        let mut batch = bytes::BytesMut::new();
        push_head(&mut batch, digest, length);
        batch.extend_from_slice(bytes);
        batch.to_vec()
    };
    let put = "/v1/batch/put";
    assert_eq!(routes.status("POST", put, batch(digest, b"hullo", 5)).await?, 422);
    assert_eq!(routes.status("POST", put, batch(digest, b"hello", 6)).await?, 400);
    assert_eq!(routes.status("POST", put, batch(digest, b"hello", 1 << 40)).await?, 413);
    assert_eq!(routes.status("POST", put, batch(digest, b"", u64::MAX)).await?, 400);
    assert_eq!(routes.status("POST", put, b"garbage".to_vec()).await?, 400);
    assert_eq!(routes.status("POST", "/v1/missing", b"{}".to_vec()).await?, 400);
    let long = vec![b' '; 2 << 20];
    assert_eq!(routes.status("POST", "/v1/missing", long).await?, 413);
    assert_eq!(routes.seen(), (0, 0));
    assert_eq!(
        routes.status("PUT", &upload("size=5"), b"hello".to_vec()).await?,
        201,
        "after all that"
    );
    assert_eq!(routes.seen(), (1, 0));
    Ok(())
}

#[tokio::test]
async fn a_record_that_does_not_check_is_not_let_in() -> Tested {
    let (routes, other) = (Routes::new(|_| {})?, Place::new()?);
    let record = other.put("n", &[("a", b"hello".to_vec())])?;
    let bytes = other.bytes(&record)?.to_vec();
    let own = format!("/v1/records/{}", record.recipe_key);
    let foreign = format!("/v1/records/{}", Digest::of(b"another"));
    let content = format!("/v1/records/{}", record.content_key);
    assert_eq!(
        routes.status("PUT", &own, bytes.clone()).await?,
        409,
        "its blobs are not there"
    );
    other.put("n", &[("a", b"hello".to_vec())])?;
    let blobs = other
        .store
        .blobs_of(record.artifacts["out"].digest, record.artifacts["out"].manifest)?;
    let manifest = record.artifacts["out"].manifest.ok_or("a folder")?;
    for digest in blobs.iter().map(|(digest, _)| *digest).chain([manifest]) {
        routes
            .place
            .store
            .admit_bytes(&[(digest, other.store.read_blob(digest)?)])?;
    }
    for (path, why) in [(&foreign, "of another key"), (&content, "under its content key")] {
        assert_eq!(routes.status("PUT", path, bytes.clone()).await?, 422, "{why}");
    }
    let mut flipped = bytes.clone();
    flipped[10] ^= 1;
    assert_eq!(routes.status("PUT", &own, flipped).await?, 422);
    assert_eq!(
        routes.status("PUT", &own, bytes[..bytes.len() - 1].to_vec()).await?,
        422
    );
    // Keys, preimages and artifacts that don't belong together, in a file that checks itself.
    let liar = Place::new()?;
    let mut changes: Vec<(&str, crate::store::Record)> = vec![("recipe", record.clone()); 4];
    changes[0].1.recipe["x"] = serde_json::json!(0.2);
    changes[1].1.content["name"] = serde_json::json!("m");
    changes[2].1.artifacts.get_mut("out").ok_or("an output")?.size_bytes += 1;
    changes[3].1.artifacts.get_mut("out").ok_or("an output")?.digest = Digest::of(b"another tree");
    for (idx, (_, changed)) in changes.iter().enumerate() {
        liar.store.put_record(changed)?;
        let bytes = std::fs::read(liar.store.record_path(changed.recipe_key.0))?;
        assert_eq!(routes.status("PUT", &own, bytes).await?, 422, "lie {idx}");
    }
    assert_eq!(routes.seen().1, 0);
    assert_eq!(routes.status("PUT", &own, bytes.clone()).await?, 201);
    assert_eq!(routes.status("GET", &content, Vec::new()).await?, 200);
    Ok(())
}

#[tokio::test]
async fn a_body_that_drips_is_given_up_and_leaves_nothing() -> Tested {
    let routes = Routes::new(|options| options.patience = Duration::from_millis(60))?;
    let digest = Digest::of(b"hello");
    let drips = futures::stream::unfold((), |()| async {
        tokio::time::sleep(Duration::from_millis(20)).await;
        Some((Ok::<_, std::io::Error>("h"), ()))
    });
    let request = Request::put(format!("/v1/uploads/{digest}?size=100000")).header("host", "localhost");
    let response = routes.call(request.body(Body::from_stream(drips))?).await?;
    assert_eq!(response.status(), StatusCode::REQUEST_TIMEOUT);
    assert_eq!(routes.seen(), (0, 0));
    Ok(())
}

#[tokio::test]
async fn the_disk_is_not_filled() -> Tested {
    let routes = Routes::new(|options| options.keep_free_bytes = 1 << 60)?;
    let digest = Digest::of(b"hello");
    let path = format!("/v1/uploads/{digest}?size=5");
    assert_eq!(routes.status("PUT", &path, b"hello".to_vec()).await?, 507);
    assert_eq!(routes.status("POST", "/v1/batch/put", Vec::new()).await?, 507);
    assert_eq!(
        routes
            .status("PUT", &format!("/v1/records/{digest}"), Vec::new())
            .await?,
        507
    );
    Ok(())
}

#[tokio::test]
async fn parts_and_encodings_of_a_blob_are_those_that_were_asked_for() -> Tested {
    let routes = Routes::new(|_| {})?;
    let (text, random) = (b"line\n".repeat(100_000), noise(400_000, 3));
    for bytes in [&text, &random] {
        routes.place.store.admit_bytes(&[(Digest::of(bytes), bytes)])?;
    }
    let get = async |bytes: &[u8], name: &str, value: &str| {
        let request = Request::get(format!("/v1/blobs/{}", Digest::of(bytes))).header("host", "localhost");
        let response = routes.call(request.header(name, value).body(Body::empty())?).await?;
        let (status, headers): (u16, HeaderMap) = (response.status().as_u16(), response.headers().clone());
        let body = axum::body::to_bytes(response.into_body(), 1 << 20).await?;
        Ok::<_, Box<dyn std::error::Error>>((status, headers, body))
    };
    for (asked, part) in [
        ("bytes=0-", 0..400_000),
        ("bytes=300000-300009", 300_000..300_010),
        ("bytes=-7", 399_993..400_000),
    ] {
        let (status, headers, body) = get(&random, "range", asked).await?;
        assert_eq!((status, &body[..]), (206, &random[part.clone()]), "{asked}");
        let says = format!("bytes {}-{}/400000", part.start, part.end - 1);
        assert_eq!(headers[header::CONTENT_RANGE], says.as_str());
    }
    assert_eq!(get(&random, "range", "bytes=400000-").await?.0, 416);
    let (status, headers, body) = get(&text, "accept-encoding", "gzip, zstd").await?;
    assert_eq!((status, &headers[header::CONTENT_ENCODING]), (200, &"zstd".parse()?));
    assert_eq!(zstd::decode_all(&body[..])?, text);
    let (_, headers, body) = get(&random, "accept-encoding", "zstd").await?;
    assert!(!headers.contains_key(header::CONTENT_ENCODING), "noise gets no shorter");
    assert_eq!(&body[..], &random[..]);
    let etag = format!("\"{}\"", Digest::of(&random));
    assert_eq!(get(&random, "if-none-match", &etag).await?.0, 304);
    Ok(())
}

/// Parts of paths that are nearly good.
fn part() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("v1".to_owned()),
        prop::sample::select(vec![
            "records", "blobs", "uploads", "claims", "missing", "batch", "get", "put", "status"
        ])
        .prop_map(str::to_owned),
        "[0-9a-f]{64}",
        "[0-9a-fA-F]{62,66}",
        "[!-~]{0,20}".prop_map(|text| text.replace(['#', '?', '"', '<', '>', '\\', '^', '`', '{', '|', '}'], "")),
    ]
}

#[test]
fn no_request_makes_it_fall_over() -> Tested {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let routes = Routes::new(|_| {})?;
    let methods = vec!["GET", "HEAD", "PUT", "POST", "PATCH", "DELETE", "OPTIONS", "X"];
    let requests = (
        prop::sample::select(methods),
        prop::collection::vec(part(), 0..5),
        "[a-z=&0-9%]{0,30}",
        "(bytes=)?[0-9,-]{0,12}",
        "[ -~]{0,40}",
        prop::collection::vec(any::<u8>(), 0..200),
    );
    let mut runner = TestRunner::new(ProptestConfig::with_cases(1000));
    runner.run(&requests, |(method, parts, query, range, claim, body)| {
        let uri = format!("/{}?{query}", parts.join("/"));
        let request = Request::builder().method(method).uri(&uri).header("host", "localhost");
        let request = request
            .header("range", range)
            .header(CLAIM_HEADER, claim)
            .header("if-none-match", "*");
        // What isn't a request at all is refused before it gets here.
        let Ok(request) = request.body(Body::from(body)) else {
            return Ok(());
        };
        let answer = runtime
            .block_on(routes.call(request))
            .map_err(|error| TestCaseError::fail(error.to_string()))?;
        prop_assert!(
            !answer.status().is_server_error(),
            "{method} {uri}: {}",
            answer.status()
        );
        Ok(())
    })?;
    assert_eq!(routes.seen(), (0, 0));
    Ok(())
}
