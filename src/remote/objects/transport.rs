//! How requests go out: one HTTP client that notices a dead connection soon, however large the request is.
//!
//! object_store's own limit on time covers a whole request with its body, so one that lets a large pack through a slow
//! link lets a dead server hold everything up. Here the kernel gives up a connection on which nothing is acknowledged, an
//! answer may take what its request needs at the slowest rate that is worth having. How long a body may pause is for
//! `requests` to say.

use std::time::Duration;

use async_trait::async_trait;
use object_store::ClientOptions;
use object_store::client::{
    ClientConfigKey, HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpService,
};

use super::requests::Limits;
use crate::remote::tls;

/// Makes the client for object_store.
#[derive(Debug)]
pub(super) struct Connector(pub(super) Limits);

impl HttpConnector for Connector {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        tls::install();
        let limits = self.0;
        let allow_http = options
            .get_config_value(&ClientConfigKey::AllowHttp)
            .is_some_and(|value| value == "true");
        let client = reqwest::Client::builder()
            .user_agent(concat!("volvelle/", env!("CARGO_PKG_VERSION")))
            .https_only(!allow_http)
            .connect_timeout(limits.connect())
            .tcp_user_timeout(limits.silence())
            .tcp_keepalive(Duration::from_secs(15))
            .pool_idle_timeout(Duration::from_secs(30))
            // A signature is made for one host, and a secret is not for whoever an answer points at.
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .map_err(|source| object_store::Error::Generic {
                store: "HTTP",
                source: Box::new(source),
            })?;
        Ok(HttpClient::new(Client { client, limits }))
    }
}

#[derive(Debug)]
struct Client {
    client: reqwest::Client,
    limits: Limits,
}

#[async_trait]
impl HttpService for Client {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let limit = self.limits.of(request.body().content_length() as u64);
        match tokio::time::timeout(limit, self.client.call(request)).await {
            Ok(answer) => answer,
            Err(elapsed) => Err(HttpError::new(HttpErrorKind::Timeout, elapsed)),
        }
    }
}
